"""Second names of keys: accepted in files and by `--set`, the same as the first name, never both at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from small_world import edit, problems_of, write

import costmodel
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile
from costmodel.schema.export import json_schema
from costmodel.schema.files import load_device, validate
from costmodel.schema.model import ModelFile, MoeFile
from costmodel.schema.resolve import resolve
from costmodel.schema.strict import Strict
from costmodel.schema.tree import ALIASES
from costmodel.schema.workload import (
    CommunicationFile,
    DiffusionFile,
    OptimizerFile,
    ParallelFile,
    RoutingFile,
    SimulationFile,
    TrainingFile,
)

SMALL = "workloads/small.yaml"
CHIP = "hardware/devices/chip.yaml"
VIDEO = {"phase": "diffusion", "cluster": "nodes/h100-x1", "steps": 50}
OWNERS: dict[str, type[Strict]] = {
    "parallel": ParallelFile, "communication": CommunicationFile, "optimizer": OptimizerFile, "routing": RoutingFile,
    "simulation": SimulationFile, "ffn": MoeFile, "device": DeviceFile,
}  # fmt: skip


@pytest.mark.parametrize(("mapping", "alias"), list(ALIASES))
def test_an_alias_names_one_key_of_its_mapping_and_is_no_key_of_any(mapping: str, alias: str) -> None:
    assert ALIASES[mapping, alias] in OWNERS[mapping].model_fields
    every = (*OWNERS.values(), TrainingFile, ModelFile, NodeFile, ClusterFile)
    assert all(alias not in model.model_fields for model in every)


def test_aliases_are_read_as_the_keys_that_they_name(world: Path) -> None:
    plain = resolve("small", search_path=[world], scenarios=["train"])
    edit(world, SMALL, "{tp: 2, dp: 4}", "{tensor_parallel: 2, data_parallel: 4}")
    edit(world, SMALL, "global_batch: 16", "global_batch: 16\n    simulation: {deadlock_timeout: 3 s}")
    aliased = resolve("small", search_path=[world], scenarios=["train"])
    parallel, simulation = aliased.scenarios["train"].parallel, aliased.scenarios["train"].simulation
    assert (parallel.tp, parallel.dp, simulation.patience) == (2.0, 4.0, 3.0)
    path = "scenarios.train.parallel"
    assert aliased.value(path) == plain.value(path)
    assert str(aliased.origin(f"{path}.tp")) == str(aliased.origin(f"{path}.tensor_parallel"))
    assert str(aliased.origin(f"{path}.tp")).startswith(f"{SMALL}:")


def test_both_names_of_a_key_are_an_error_at_the_alias(world: Path) -> None:
    edit(world, SMALL, "{tp: 2, dp: 4}", "{tp: 2, dp: 4, tensor_parallel: 2}")
    (problem,) = validate(world / SMALL, [world])
    assert problem.message == "`tensor_parallel` and `tp` are two names of one key"
    assert problem.hint == "keep one"
    assert str(problem.location).startswith(f"{SMALL}:")


def test_an_alias_of_a_device_replaces_the_key_that_it_inherits(world: Path) -> None:
    write(world, "hardware/devices/big.yaml", "schema: costmodel/device@1\nextends: devices/chip\nname: big\nsms: 20\n")
    assert load_device("big", [world]).processors == 20.0


@pytest.mark.parametrize(
    "changes",
    [
        {"scenarios.train.parallel.tensor_parallel": "4", "scenarios.train.parallel.dp": "2"},
        {"scenarios.train.parallel": "{tensor_parallel: 4, data_parallel: 2}"},
        {"scenarios.train.parallel": {"tensor_parallel": 4, "dp": 2}},
    ],
)
def test_an_override_may_use_an_alias(world: Path, changes: dict[str, object]) -> None:
    workload = resolve("small", search_path=[world], scenarios=["train"], overrides=changes)
    parallel = workload.scenarios["train"].parallel
    assert (parallel.tp, parallel.dp) == (4.0, 2.0)
    assert workload.value("scenarios.train.parallel.tensor_parallel") == 4.0


def test_an_override_of_a_device_may_use_its_alias(world: Path) -> None:
    workload = resolve("small", search_path=[world], scenarios=["train"], overrides={"hardware.sms": "20"})
    assert workload.scenarios["train"].cluster.device.processors == 20.0


def test_an_invalid_value_under_an_alias_is_reported_where_it_is(world: Path) -> None:
    edit(world, SMALL, "{tp: 2, dp: 4}", "{tensor_parallel: two, dp: 4}")
    (problem,) = validate(world / SMALL, [world])
    assert problem.field == "scenarios.train.parallel.tp"
    assert "must be a whole number, not 'two'" in problem.message
    line = (world / SMALL).read_text().splitlines()[(problem.location.line if problem.location else 0) - 1]
    assert "tensor_parallel: two" in line


def test_names_that_users_choose_are_no_aliases(world: Path) -> None:
    edit(world, CHIP, "  fast:", "  sms:")
    edit(world, "hardware/nodes/box.yaml", "intra: fast", "intra: sms")
    assert "sms" in load_device("chip", [world]).links


def test_an_alias_outside_its_mapping_is_an_unknown_key(world: Path) -> None:
    edit(world, SMALL, "sequence: 128", "sequence: 128\n    tensor_parallel: 2")
    (problem,) = problems_of(lambda: resolve("small", search_path=[world], scenarios=["train"]))
    assert (problem.field, problem.message) == ("scenarios.train.tensor_parallel", "unknown key")


def test_the_json_schema_accepts_aliases_where_they_are_accepted() -> None:
    workload, device = json_schema("workload"), json_schema("device")
    keys = {name: definition.get("properties", {}) for name, definition in workload["$defs"].items()}
    assert {"tp", "tensor_parallel", "virtual", "virtual_stages"} <= keys["ParallelFile"].keys()
    assert {"shard_group", "hybrid_shard_size"} <= keys["OptimizerFile"].keys()
    assert "sms" in keys["CommunicationFile"]
    assert device["properties"]["sms"] == device["properties"]["processors"]
    assert "topk_group" in json_schema("model")["$defs"]["MoeFile"]["properties"]
    assert "sms" not in json_schema("node")["properties"]


@pytest.mark.parametrize(
    ("resolution", "sides"), [("1280x704", (1280, 704)), ("640", (640, 640)), ("832*480", (832, 480))]
)
def test_a_resolution_is_width_by_height(resolution: str, sides: tuple[int, int]) -> None:
    file = DiffusionFile.model_validate(VIDEO | {"resolution": resolution})
    assert (file.width, file.height) == sides


@pytest.mark.parametrize("wrong", [{"resolution": "720p"}, {"resolution": "1x2x3"}, {"resolution": 512, "width": 512}])
def test_a_resolution_that_is_no_size_or_is_stated_twice_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="resolution"):
        DiffusionFile.model_validate(VIDEO | wrong)


def test_a_resolution_that_is_set_replaces_the_sides_of_the_file() -> None:
    flux = costmodel.load("flux.1-dev", cluster="nodes/dgx-h100", set={"scenarios.diffusion.resolution": "1280x720"})
    plan = flux.scenario("diffusion").plan
    assert (plan.width, plan.height) == (1280.0, 720.0)  # type: ignore[union-attr]
