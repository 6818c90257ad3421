"""Levers: every proposal of the paper is answered, and what a switch saves is what a hand calculation says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import CLUSTER, MACHINE

import costmodel
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.operator_time import fence_time, operator_time
from costmodel.errors import InputError
from costmodel.report.levers import levers_markdown
from costmodel.schema.lever import LeverFile, SwitchFile, load_levers
from costmodel.study.levers import LeverEffect, alone, cumulative, switches
from costmodel.workload.operators import ExpertAllToAll, Group

FILE = load_levers("insights_deepseek_v3")
PAGE = Path(__file__).parents[3] / "docs" / "recommendations.md"


def test_all_54_are_answered_with_a_switch_a_path_or_a_reason() -> None:
    assert len(FILE.levers) == 54
    assert sum(lever.kind == "recommendation" for lever in FILE.levers) == 30
    assert [lever.term for lever in FILE.levers if not (lever.switches or lever.why)] == []


def test_the_page_is_the_one_that_the_file_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == levers_markdown(FILE)


def effects(names: list[str], scenario: str = "decode") -> dict[str, LeverEffect]:
    loaded = costmodel.load("deepseek_v3", scenarios=[scenario])
    return {one.name: one for one in alone(loaded, FILE, names)}


def test_a_factor_saves_no_more_than_its_share_and_the_co_processor_frees_20_of_132() -> None:
    found = effects(["stacked-memory", "co-processor"], "training")
    memory, processors = found["stacked-memory"], found["co-processor"]
    assert memory.ceiling == 0.5
    assert memory.saving is not None
    assert 0 < memory.saving <= 0.5
    assert processors.ceiling == pytest.approx(20 / 132)


def test_a_saving_is_one_less_after_over_before_and_lies_in_its_interval() -> None:
    one = effects(["multi-port"])["multi-port"]
    assert one.before is not None
    assert one.after is not None
    assert one.interval is not None
    assert one.saving == pytest.approx(1 - one.after / one.before)
    assert one.interval[0] <= one.saving <= one.interval[1]


def test_a_chain_ends_where_all_its_changes_together_do() -> None:
    loaded = costmodel.load("deepseek_v3", scenarios=["decode"])
    first, second = cumulative(loaded, FILE, ["stacked-memory", "multi-port"])
    assert second.before == first.after or first.before == second.after  # in the order of the file
    last = max((first, second), key=lambda one: one.saving is not None and FILE_ORDER.index(one.name))
    both = {"hardware.memory.hbm.bandwidth": "6.7 TB/s", "hardware.node.nic.bandwidth": "100 GB/s"}
    together = costmodel.load("deepseek_v3", set=both, scenarios=["decode"]).points()["decode"].metrics["tpot"]
    assert last.after == pytest.approx(together)


FILE_ORDER = [switch.name for switch, _, _ in switches(FILE)]


def test_what_a_workload_does_not_have_does_not_apply() -> None:
    loaded = costmodel.load("llama3_8b_rtx4090", scenarios=["chat"])
    found = {one.name: one for one in alone(loaded, FILE, ["wafer", "mtp", "stacked-memory"])}
    assert found["wafer"].reason is not None
    assert "nvlink" in found["wafer"].reason
    assert found["mtp"].reason is not None
    assert "no MTP module" in found["mtp"].reason
    assert found["stacked-memory"].reason is None


def test_a_saving_beyond_its_ceiling_is_said_to_be_one() -> None:
    effect = LeverEffect("a", "b", "1", "s", "tpot", (), before=2.0, after=1.0, saving=0.5, ceiling=0.4)
    assert not effect.holds
    assert replace(effect, ceiling=0.5).holds


def test_an_unknown_lever_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="multi-port"):
        switches(FILE, ["multiport"])


def test_a_lever_needs_an_answer_and_a_switch_a_change() -> None:
    with pytest.raises(ValueError, match="switch, a path or a reason"):
        LeverFile(term="a", section="1", kind="mechanism")
    with pytest.raises(ValueError, match="changes nothing"):
        SwitchFile(name="a")


def exchange(**changes: object) -> ExpertAllToAll:
    plain = ExpertAllToAll(
        "dispatch", tokens=100.0, token_bytes=1000.0, top_k=2, experts=16.0, expert_groups=1.0, group_top_k=1,
        group=Group(16.0), mode="normal", expert_load=1.0, family="moe_dispatch",
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_fence_is_a_round_trip_and_a_checksum_a_share_of_the_exchange() -> None:
    latency = fence_time(exchange(fences=1.0), CLUSTER) / 2
    assert latency == CLUSTER.network.latency_same_leaf  # type: ignore[union-attr]

    def seconds(**changes: object) -> float:
        return float(operator_time(exchange(**changes), MACHINE, CLUSTER, FamilyFit()).seconds)

    assert seconds(fences=3.0) == pytest.approx(seconds() + 3 * 2 * latency)
    assert seconds(codec=0.1) == pytest.approx(1.1 * seconds())
    assert fence_time(exchange(fences=1.0, group=Group(1.0)), CLUSTER) == 0
