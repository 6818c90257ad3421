"""What runs on a machine: what fits, how many users, how fast, as a simulation of the same has it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import costmodel
from costmodel.analytic.serving.engine_state import admission
from costmodel.errors import InputError
from costmodel.planning.machine import Machine, Row, what_runs
from costmodel.planning.request import PlanRequest
from costmodel.records import replace
from costmodel.schema.model_support import listed_models
from costmodel.schema.references import Library

NODE = "nodes/rtx-4090-x1"
LLAMA = ("llama-3-8b",)
SOME = ("qwen3-32b", "gpt-oss-20b", "llama-3-8b", "mistral-7b", "gpt2")


def planned(cluster: str = NODE, path: tuple[str, ...] = (), of: tuple[str, ...] = SOME, **asked: float) -> Machine:
    models = {name: model for name, model in listed_models().items() if name in of}
    return what_runs(PlanRequest(clusters=(cluster,), search_path=path, **asked), models=models)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return planned()


def fitting(machine: Machine) -> dict[tuple[str, str], Row]:
    return {(row.model, row.format): row for row in machine.rows if row.fits}


def test_models_stand_by_size_in_the_order_of_formats_and_what_does_not_fit_comes_last(machine: Machine) -> None:
    rows = fitting(machine)
    assert list(rows) == [(row.model, row.format) for row in machine.rows[: len(rows)]]
    assert [form for model, form in rows if model == "llama-3-8b"] == ["bf16", "fp8", "int8", "int4", "gguf"]
    assert [form for model, form in rows if model == "qwen3-32b"] == ["int4", "gguf"]
    assert ("gpt-oss-20b", "released") in rows
    assert ("llama-3-8b", "released") not in {(row.model, row.format) for row in machine.rows}
    assert next(row for row in machine.rows if row.model == "qwen3-32b" and not row.fits).memory > machine.capacity
    assert dict(machine.left_out) == {"gpt2": "has 1,024 positions only: lower --isl or --osl"}


@pytest.mark.parametrize(
    "which", [("llama-3-8b", "bf16"), ("qwen3-32b", "int4"), ("mistral-7b", "gguf"), ("gpt-oss-20b", "released")]
)
def test_one_user_and_the_most_are_as_simulated(machine: Machine, which: tuple[str, str]) -> None:
    row = fitting(machine)[which]
    command = row.command.split()
    sets = dict(each.split("=") for flag, each in pairwise(command) if flag == "--set")
    batch = "scenarios.decode.batch_per_device"
    alone = costmodel.load(row.model, sets, cluster=NODE, phases=["decode"]).points()["decode"]
    assert alone.metrics["tokens_per_second_per_user"] == pytest.approx(row.tokens_per_second_per_user)
    assert alone.intervals["tokens_per_second_per_user"] == pytest.approx(row.interval)
    assert sum(alone.memory.values()) == pytest.approx(row.memory)
    full = costmodel.load(row.model, {**sets, batch: row.most_users}, cluster=NODE, phases=["decode"])
    most = full.points()["decode"]
    assert most.reason is None
    assert most.metrics["tokens_per_second_per_device"] == pytest.approx(row.tokens_per_second)


def test_an_engine_admits_the_users(machine: Machine) -> None:
    which = ("mistral-7b", "int8")
    row = fitting(machine)[which]
    library = Library(())
    tree = library.read(library.find_workload("what_runs"), "workload")
    tree = tree.with_entries(model=replace(tree.child("model"), value=f"models/{row.model}"))
    users = {f"scenarios.{row.format}.concurrency": row.most_users}
    loaded = costmodel.load(tree, users, cluster=NODE, scenarios=[row.format])
    scenario = loaded.scenario(row.format)
    assert admission(scenario, scenario.plan).most >= row.most_users


def test_the_longest_context_is_that_of_one_user_who_fills_the_cache(machine: Machine) -> None:
    """Llama 3 8B has 128 KiB of cache a token in 16 bits, the same in 8: FP8 halves it. Blocks are of 16 tokens."""
    rows = fitting(machine)
    exact = rows["llama-3-8b", "bf16"]
    most = planned(of=LLAMA, isl=exact.longest_context - 1, osl=1)
    assert fitting(most)["llama-3-8b", "bf16"].most_users == 1
    assert ("llama-3-8b", "bf16") not in fitting(planned(of=LLAMA, isl=exact.longest_context + 15, osl=1))
    assert exact.most_users == exact.longest_context // 2048
    left = [rows["llama-3-8b", form].longest_context for form in ("int8", "fp8")]
    assert left[1] == pytest.approx(2 * left[0], abs=200)


def test_more_memory_never_loses_a_model_nor_a_user(machine: Machine, tmp_path: Path) -> None:
    for folder in ("devices", "nodes"):
        (tmp_path / "hardware" / folder).mkdir(parents=True)
    (tmp_path / "hardware/devices/larger.yaml").write_text(
        "schema: costmodel/device@1\nextends: devices/rtx-4090\nname: larger\nmemory:\n"
        "  - {name: smem, capacity: 100 KiB, per: processor, bandwidth: 322.56 GB/s}\n"
        "  - {name: l2, capacity: 72 MiB, bandwidth: null}\n"
        "  - {name: hbm, capacity: 32 GiB, bandwidth: 1008 GB/s, driver: 480 MiB}\n"
    )
    (tmp_path / "hardware/nodes/larger.yaml").write_text(
        "schema: costmodel/node@1\nextends: nodes/rtx-4090-x1\nname: larger\ndevice: devices/larger\n"
    )
    more = fitting(planned("nodes/larger", (str(tmp_path),), ("qwen3-32b", "gpt-oss-20b", "llama-3-8b")))
    less = {which: row for which, row in fitting(machine).items() if which[0] != "mistral-7b"}
    for which, row in less.items():
        assert more[which].most_users >= row.most_users
        assert more[which].longest_context >= row.longest_context
    assert len(more) > len(less)


def test_a_machine_of_several_devices_splits_what_one_does_not_hold(machine: Machine) -> None:
    rows = fitting(planned("nodes/rtx-4090-x8", of=("qwen3-32b", "llama-3-8b")))
    assert rows["llama-3-8b", "bf16"].devices == 1
    assert rows["llama-3-8b", "bf16"].most_users == 8 * fitting(machine)["llama-3-8b", "bf16"].most_users
    assert rows["qwen3-32b", "bf16"].devices == 4
    one, eight = (fitted["llama-3-8b", "int4"].tokens_per_second for fitted in (fitting(machine), rows))
    assert eight == pytest.approx(8 * one)


def test_a_request_for_more_than_one_machine_is_refused() -> None:
    with pytest.raises(InputError, match="one machine is looked at"):
        what_runs(PlanRequest(clusters=(NODE, "nodes/a100-x1")))
    with pytest.raises(InputError, match="--rate: asks for a plan of one model"):
        what_runs(PlanRequest(clusters=(NODE,), rate=3.0))
