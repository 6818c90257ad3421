"""Levers: every proposal of the paper is answered, and what a switch saves is what a hand calculation says."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from builders import CLUSTER, MACHINE

import costmodel
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.operator_time import fence_time, operator_time
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.what_if import LeverFile, SwitchFile, load_levers
from costmodel.study.levers import hypothetical, levers_of, switches, worths_of
from costmodel.study.what_if import Worth
from costmodel.workload.operators import ExpertAllToAll, Group

FILE = load_levers("insights_deepseek_v3")


def test_all_54_are_answered_with_a_switch_a_path_or_a_reason() -> None:
    assert len(FILE.levers) == 54
    assert sum(lever.kind == "recommendation" for lever in FILE.levers) == 30
    assert [lever.term for lever in FILE.levers if not (lever.switches or lever.why)] == []


def worths(names: list[str], workload: str = "deepseek_v3", scenario: str = "decode") -> dict[str | None, Worth]:
    loaded = costmodel.load(workload, scenarios=[scenario])
    return {one.name: one for one in worths_of(loaded, scenario, FILE, names)}


def test_a_switch_saves_one_less_after_over_before_within_interval_and_ceiling() -> None:
    one = worths(["multi-port"])["multi-port"]
    assert one.after is not None
    assert one.ratio is not None
    assert one.saved == pytest.approx(1 - one.after / one.before)
    assert one.ratio[0] <= one.after / one.before <= one.ratio[1]
    assert one.keeps_to_its_ceiling
    assert one.section == "5.1"


def test_progress_is_the_share_of_switches_that_are_done() -> None:
    shares: list[float] = []
    worths_of(costmodel.load("deepseek_v3"), "decode", FILE, ["stacked-memory", "multi-port"], shares.append)
    assert shares == [0.0, 0.5]


def test_a_chain_ends_where_all_its_changes_together_do() -> None:
    found = worths(["stacked-memory", "multi-port"])
    both = {"hardware.memory.hbm.bandwidth": "6.7 TB/s", "hardware.node.nic.bandwidth": "100 GB/s"}
    together = costmodel.load("deepseek_v3", set=both, scenarios=["decode"]).points()["decode"].metrics["tpot"]
    assert found["stacked-memory"].together == pytest.approx(together)  # the later one in the file


def test_a_switch_with_a_side_of_its_own_changes_both_and_joins_no_chain() -> None:
    one = worths(["no-completion"])["no-completion"]
    fenced = {"scenarios.decode.communication.fences": 1}
    base = costmodel.load("deepseek_v3", set=fenced, scenarios=["decode"]).points()["decode"].metrics["tpot"]
    assert one.before == pytest.approx(base)
    assert one.after == pytest.approx(costmodel.load("deepseek_v3").points(["decode"])["decode"].metrics["tpot"])
    assert one.together is None
    assert one.base == "without"  # the workload has no fences
    assert one.against == {"scenario.communication.fences": "1"}


def test_a_saving_is_one_of_the_scenario_only_where_it_has_what_is_replaced() -> None:
    names = ["fp8-inference", "fp8-kv", "cpu-scale-up", "whole-nvlink", "no-hop"]

    def found(precision: str) -> dict[str | None, Worth]:
        changes = {"scenarios.decode.precision": precision}
        loaded = costmodel.load("mixtral_8x7b_h100", set=changes, scenarios=["decode"])
        return {one.name: one for one in worths_of(loaded, "decode", FILE, names)}

    wide, narrow = found("bf16"), found("fp8-inference")
    assert wide["fp8-inference"].base == "scenario"
    assert wide["fp8-inference"].together == wide["fp8-inference"].after == narrow["fp8-inference"].after
    assert (wide["fp8-kv"].together or 0.0) < (wide["fp8-inference"].together or 0.0)
    assert narrow["fp8-inference"].base == "without"
    assert narrow["fp8-inference"].before == wide["fp8-inference"].before
    assert narrow["cpu-scale-up"].base == "another"
    assert narrow["whole-nvlink"].refused == "the scenario has it already"
    assert narrow["no-hop"].refused == "the scenario stays inside a node"


def test_who_gathers_has_no_all_to_all_to_improve() -> None:
    """Stating something of an all-to-all implies one: that would be another exchange, not the same one improved."""
    changes = {"scenarios.decode_experts.framework": "frameworks/vllm"}
    loaded = costmodel.load("mixtral_8x7b_h100", set=changes, scenarios=["decode_experts"])
    assert loaded.scenario("decode_experts").communication.exchange == "gather"
    found = worths_of(loaded, "decode_experts", FILE, ["fp8-combine", "no-completion"])
    assert [str(one.refused)[:39] for one in found] == ["its experts exchange tokens by gathers:"] * 2


def test_what_neither_the_model_nor_the_hardware_has_is_told_in_the_words_of_the_scenario() -> None:
    file = levers_of("levers")
    dense = costmodel.load("llama-3-8b", cluster="hgx-h200", phases=["decode"])
    refused = {one.term: one.refused for one in worths_of(dense, "decode", file)}
    assert refused["combine in FP8"] == "the model has no experts that exchange tokens"
    assert refused["fabric latency halved"] == "the scenario has no hardware.network.latency.same_leaf"
    eager = costmodel.load("deepseek-v3", cluster="dgx-h100", phases=["decode"])
    for one in worths_of(eager, "decode", file):
        assert "scenarios." not in (one.refused or "")
        assert one.term not in (one.refused or "")


def test_what_a_workload_does_not_have_does_not_apply() -> None:
    found = worths(["wafer", "mtp", "stacked-memory"], "llama3_8b_rtx4090", "chat")
    assert "nvlink" in str(found["wafer"].refused)
    assert "no MTP module" in str(found["mtp"].refused)
    assert found["stacked-memory"].refused is None


def test_a_saving_beyond_its_ceiling_is_said_to_be_one() -> None:
    worth = Worth("a", "s", "tpot", {}, before=2.0, after=1.0, ceiling=0.4)
    assert not worth.keeps_to_its_ceiling
    assert replace(worth, ceiling=0.5).keeps_to_its_ceiling
    assert replace(worth, with_waves=0.5).keeps_to_its_ceiling
    for unbounded in (replace(worth, ceiling=None), replace(worth, after=None)):  # a server; what cannot be had
        assert unbounded.keeps_to_its_ceiling


def test_a_list_of_changes_without_names_is_one_of_levers() -> None:
    plain = levers_of("levers")
    assert [switch.name for switch, _ in switches(plain)][:1] == ["device memory twice as fast"]


def test_a_name_that_occurs_twice_is_one_lever_with_a_switch_for_each_scenario(tmp_path: Path) -> None:
    listed = levers_of("what_ifs/insights_deepseek_v3")
    name = "InfiniBand's latency in place of RoCE's"
    assert [switch.scenarios for switch, _ in switches(listed, [name])] == [["training"], ["prefill", "decode"]]
    workload = costmodel.load("deepseek_v3", scenarios=["prefill", "decode_4k"])
    for scenario in workload.scenarios:  # one switch a scenario, by its name or by its phase
        (one,) = worths_of(workload, scenario, listed, [name])
        assert one.against == {"hardware.node.nic.latency": "3.6 us"}
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema: costmodel/what_if@1\ntitle: mine\nworkload: deepseek_v3\nscenario: prefill\nmetric: ttft\n"
        "alternatives:\n  - {term: faster, set: {hardware.memory.hbm.bandwidth: 4 TB/s}}\n"
        "  - {term: faster, set: {hardware.memory.hbm.bandwidth: 5 TB/s}}\n"
    )
    both = worths_of(workload, "prefill", levers_of(str(path)))
    assert [one.name for one in both] == ["faster", "faster"]
    assert (both[0].saved or 1.0) < (both[1].saved or 0.0)


def test_what_a_lever_states_beyond_all_hardware_is_said_once_of_ones_own_and_not_of_listed_ones(
    tmp_path: Path,
) -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["prefill", "decode_4k"])
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema: costmodel/lever@1\ntitle: mine\ncite: mine\nlevers:\n  - {term: links, section: '1', kind: "
        "recommendation, switches: [{name: quick, set: {hardware.links.nvlink.latency: 1 ns}}]}\n"
    )
    for source, names, said in ((str(path), ["quick"], 1), ("insights_deepseek_v3", ["no-hop"], 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with hypothetical(workload, source):
                found = [worths_of(workload, name, levers_of(source), names) for name in workload.scenarios]
        assert [row.refused for rows in found for row in rows] == [None, None]
        assert ["links.nvlink.latency: 1 ns is implausible" in str(one.message) for one in caught] == [True] * said


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


def test_the_paper_s_scale_up_domain_is_one_switch() -> None:
    by_hand = {"hardware.node.count": 64, "hardware.links.nvlink.bandwidth": "900 GB/s"}
    for scenario in ("decode", "training"):
        one = worths(["scale-up-64"], scenario=scenario)["scale-up-64"]
        changed = costmodel.load("deepseek_v3", set=by_hand, scenarios=[scenario]).points()[scenario]
        assert one.after == pytest.approx(changed.metrics[changed.headline])
    found = worths(["scale-up-64", "scale-up-group"])
    assert (found["scale-up-group"].saved or 0.0) > (found["scale-up-64"].saved or 0.0) > 0.0


BETTER = ("scale-up-900", "scale-up-64", "whole-nvlink", "half-latency", "no-hop", "multi-port", "optics",
          "stacked-memory", "fp32-and-native", "wafer")  # fmt: skip


@pytest.mark.parametrize("scenario", ["training", "decode"])
def test_a_better_part_is_never_slower_and_its_difference_is_surer_than_either_side(scenario: str) -> None:
    found = worths(list(BETTER), scenario=scenario)
    whole = costmodel.load("deepseek_v3", scenarios=[scenario]).evaluate(scenario).point()
    low, high = whole.intervals[whole.headline] or (0.0, 0.0)
    for name in BETTER:
        one = found[name]
        assert one.after is not None
        assert one.saved is not None
        assert one.saved >= -1e-12, name
        assert one.difference is not None
        assert one.difference[0] <= one.before - one.after <= one.difference[1]
        assert one.difference[1] - one.difference[0] < high - low, name
        assert one.keeps_to_its_ceiling
    assert (found["optics"].saved or 0.0) >= (found["multi-port"].saved or 0.0)


def test_a_change_that_touches_no_kernel_has_a_difference_of_its_messages_alone() -> None:
    """An end of a family's spread moves both sides equally where the change leaves the family as it is."""
    one = worths(["no-hop"])["no-hop"]
    assert one.difference is not None
    assert one.after is not None
    width = (one.difference[1] - one.difference[0]) / (one.before - one.after)
    assert width < 0.1  # of the latencies' fits; kernels of the side by itself are known to 15 %


def test_what_a_change_may_cost_is_the_rent_at_which_tokens_cost_as_much_as_before() -> None:
    one = worths(["stacked-memory"])["stacked-memory"]
    assert one.rent == pytest.approx(2 / 3600)  # 2 $/h, hardware/devices/h800-sxm.yaml
    assert one.worth is not None

    def cost(changes: dict[str, object]) -> float:
        value = costmodel.load("deepseek_v3", set=changes, scenarios=["decode"]).points()["decode"].metrics
        return float(value["cost_per_million_tokens"] or 0.0)

    dearer = {
        "hardware.memory.hbm.bandwidth": "6.7 TB/s",
        "hardware.price.rental": f"{(2 / 3600 + one.worth) * 3600} $/h",
    }
    assert cost(dearer) == pytest.approx(cost({}))
    unpriced = costmodel.load("deepseek_v3", set={"hardware.price.rental": None}, scenarios=["decode"])
    assert [row.worth for row in worths_of(unpriced, "decode", FILE, ["stacked-memory"])] == [None]
