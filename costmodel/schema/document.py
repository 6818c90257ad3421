"""The resolved document: nested dicts in SI, by the paths of `--set`, sweeps and sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.quantities import Quantity
from costmodel.records import asdict
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile
from costmodel.schema.framework import FrameworkFile, PrecisionFile
from costmodel.schema.installation import Installation
from costmodel.schema.model import ModelFile
from costmodel.schema.overrides import DocumentName, OverrideTarget, entry
from costmodel.schema.strict import NumberType, Strict, number_at
from costmodel.schema.workload import PHASES, PlanFile, WorkloadFile
from costmodel.workload.scenario import Scenario

_FILES: dict[DocumentName, type[Strict]] = {
    "workload": WorkloadFile, "model": ModelFile, "cluster": ClusterFile, "node": NodeFile, "device": DeviceFile,
    "framework": FrameworkFile,
}  # fmt: skip
_PROVENANCE = {"sources", "aliases", "announced", "calibration", "plausible"}


def model_document(file: ModelFile) -> dict[str, Any]:
    """Return the document of a model, with the defaults of its heads and FFNs filled in."""
    document = file.model_dump(exclude=_PROVENANCE)
    for group in document["layers"]:
        for layer in group.get("layers", [group]):
            _fill_defaults(layer, document["hidden"])
    return document


def _fill_defaults(layer: dict[str, Any], hidden: Quantity) -> None:
    """Replace the nulls of a layer's document by the values that they mean."""
    mixer, ffn = layer["mixer"], layer["ffn"]
    if mixer["type"] == "attention":
        defaults = {"kv_heads": mixer["q_heads"], "head_dim": hidden / mixer["q_heads"], "output_bias": mixer["bias"]}
        mixer.update({key: value for key, value in defaults.items() if mixer[key] is None})
        mixer["v_head_dim"] = mixer["head_dim"] if mixer["v_head_dim"] is None else mixer["v_head_dim"]
    if ffn["type"] == "mlp" and ffn["intermediate"] is None:
        ffn["intermediate"] = 4 * hidden


def scenario_document(
    plan: PlanFile, scenario: Scenario, hardware: Installation, formats: PrecisionFile, framework: FrameworkFile
) -> dict[str, Any]:
    """Return the document of a scenario, its hardware included."""
    document = plan.model_dump(by_alias=True, exclude={"cluster", "framework", "precision"})
    if "recompute" in document:
        document["recompute"] = sorted(document["recompute"])
    chosen = {"compute": plan.precision.compute, "fallback": plan.precision.fallback}
    cluster = scenario.cluster
    return document | {
        "cluster": {"name": cluster.name, "count": cluster.count},
        "precision": chosen | formats.model_dump(exclude={"name", "sources"}),
        "framework": framework.model_dump(by_alias=True, exclude=_PROVENANCE),
        "hardware": {
            "device": device_document(hardware, scenario),
            "node": hardware.node_part.file.model_dump(exclude=_PROVENANCE) | {"count": cluster.node.count},
            "network": _network(scenario),
        },
    }


def device_document(hardware: Installation, scenario: Scenario) -> dict[str, Any]:
    """Return the document of a device. With overrides, its peaks are those at the final processors and clock."""
    file: DeviceFile = hardware.device_part.file
    document = file.model_dump(exclude=_PROVENANCE)
    is_overridden = hardware.device_part.tree is not hardware.device_part.original
    for name, math_unit in document["math"].items() if is_overridden else ():
        math_unit["peak"] = scenario.cluster.device.peak(name)
    return document


def _network(scenario: Scenario) -> dict[str, Any] | None:
    network = scenario.cluster.network
    if network is None:
        return None
    document = asdict(network)
    return document | {"latency": {name: document.pop(f"latency_{name}") for name in ("same_leaf", "cross_leaf")}}


def number_type(target: OverrideTarget, phase: str) -> NumberType | None:
    """Return the type of the number at a target, null for what is none. phase: of the scenario, where it is in one."""
    return number_at(PHASES[phase] if target.document == "scenario" else _FILES[target.document], target.path)


def find(document: Mapping[str, Any], target: OverrideTarget, scenario: str, path: str) -> Any:
    """Return the value at a target. Raises InputError, at `path`, that names the fields that exist."""
    return entry(document, _route(target, scenario), path)


def _route(target: OverrideTarget, scenario: str) -> Sequence[str]:
    """Return the path in the resolved document of what an override targets in the files."""
    base = ("scenarios", scenario)
    match target.document, target.path:
        case "workload", _:
            return ("model",)
        case "model", path:
            return ("model", *path)
        case "scenario", path:
            return (*base, *path)
        case "node", ("device",):
            return (*base, "hardware", "device")
        case ("node" | "device") as name, path:
            return (*base, "hardware", name, *path)
        case "cluster", ("node" | "network", *_) as path:
            return (*base, "hardware", *path)
        case name, path:
            return (*base, name, *path)
