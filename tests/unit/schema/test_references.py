"""References: where files are found, what extends what, and what is said when nothing is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import FILES, problems_of, write

from costmodel.errors import did_you_mean
from costmodel.schema.files import list_names, load_cluster, load_device, load_model, load_node
from costmodel.schema.references import Library
from costmodel.schema.resolve import resolve


def test_a_document_extends_another_by_mappings_and_named_lists(world: Path) -> None:
    write(
        world,
        "hardware/devices/big.yaml",
        """
schema: costmodel/device@1
extends: devices/chip
name: big
memory: [{name: hbm, capacity: 20 GiB}]
clock: {max: 3 GHz}
""",
    )
    device = load_device("big", [world])
    assert [level.name for level in device.memory] == ["smem", "hbm"]
    assert device.device_memory.capacity == 20 * 2**30
    assert device.device_memory.bandwidth == 1e12
    assert (device.clock, device.clock_max) == (1e9, 3e9)


def test_a_cycle_of_extends_is_named(world: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        write(world, f"hardware/devices/{name}.yaml", f"schema: costmodel/device@1\nextends: devices/{base}\n")
    (problem,) = problems_of(lambda: load_device("a", [world]))
    assert "circular `extends`: a -> b -> c -> a" in problem.message
    assert str(problem.location) == "hardware/devices/c.yaml:2:10"


def test_a_file_that_extends_itself_is_a_cycle(world: Path) -> None:
    write(world, "hardware/devices/a.yaml", "schema: costmodel/device@1\nextends: devices/a\n")
    (problem,) = problems_of(lambda: load_device("a", [world]))
    assert "a -> a" in problem.message


def test_a_missing_file_lists_near_names(world: Path) -> None:
    (problem,) = problems_of(lambda: load_device("chipp", [world]))
    assert problem.message == "devices/chipp not found"
    assert "did you mean `chip`" in problem.hint


@pytest.mark.parametrize("name", ["../secrets", "/no/such/file", "a//b", ""])
def test_a_name_cannot_leave_the_search_path(world: Path, name: str) -> None:
    (problem,) = problems_of(lambda: load_device(name, [world]))
    assert "not found" in problem.message


def test_a_file_of_another_kind_is_refused(world: Path) -> None:
    write(world, "hardware/devices/odd.yaml", FILES["hardware/nodes/box.yaml"])
    (problem,) = problems_of(lambda: load_device("odd", [world]))
    assert "this is a node file; a device file is expected here" in problem.message


def test_the_first_root_of_the_search_path_wins(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = FILES["hardware/devices/chip.yaml"].replace("processors: 10", "processors: 20")
    write(world, "other/hardware/devices/chip.yaml", changed)
    assert load_device("chip", [world / "other", world]).processors == 20
    monkeypatch.setenv("COSTMODEL_PATH", str(world / "other"))
    assert load_device("devices/chip").processors == 20
    assert load_device("chip", [world]).processors == 10


def test_a_path_with_a_dot_is_relative_to_the_referring_file(world: Path) -> None:
    write(world, "mine/box.yaml", FILES["hardware/nodes/box.yaml"].replace("devices/chip", "./chip.yaml"))
    write(world, "mine/chip.yaml", FILES["hardware/devices/chip.yaml"].replace("name: chip", "name: mine"))
    assert load_node("mine/box.yaml", [world]).device.name == "mine"


@pytest.mark.parametrize("argument", ["small", "small.yaml", "workloads/small.yaml", "workloads/small"])
def test_a_workload_name_works_in_any_folder(
    world: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert list(resolve(argument, search_path=[world]).scenarios) == ["train", "decode"]


def test_an_unknown_workload_lists_near_names(world: Path) -> None:
    (problem,) = problems_of(lambda: resolve("smal", search_path=[world]))
    assert "did you mean `small`" in problem.hint


def test_a_part_of_a_name_finds_the_names_that_have_it() -> None:
    nodes = ["nodes/hgx-h20", "nodes/hgx-h200", "nodes/rtx-4090-x8"]
    assert did_you_mean("h20", nodes) == "did you mean `nodes/hgx-h20`?"
    assert did_you_mean("flux", ["flux.1-dev", "sdxl"]) == "did you mean `flux.1-dev`?"
    assert did_you_mean("gaudi", nodes) == ""
    assert did_you_mean("gpt-3", ["mpt-3b", "gpt3-175b"]) == "did you mean `gpt3-175b`?"


def test_a_workload_extends_another(world: Path) -> None:
    write(world, "more.yaml", "schema: costmodel/workload@1\nextends: small\nscenarios: {train: {global_batch: 32}}\n")
    assert resolve("more.yaml", search_path=[world]).document["scenarios"]["train"]["global_batch"] == 32


def test_names_of_a_kind_are_listed(world: Path) -> None:
    assert {"box", "lone"} <= set(list_names("nodes", [world]))
    assert "small" in list_names("workloads", [world])
    assert Library([world]).names("devices") == list_names("devices", [world])


def test_a_node_in_place_of_a_cluster_means_as_many_as_needed(world: Path) -> None:
    assert load_cluster("nodes/box", [world], devices=9.0).count == 3
    assert load_cluster("pair", [world]).devices == 8


def test_a_model_is_loaded_by_name(world: Path) -> None:
    assert load_model("models/tiny", [world]).depth == 2
