"""The resolved document: nested dicts in SI, by the paths that `--set`, sweeps and sensitivities use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.errors import InputError
from costmodel.quantities import Quantity
from costmodel.schema.device import DeviceFile
from costmodel.schema.framework import FrameworkFile, PrecisionFile
from costmodel.schema.installation import Installation
from costmodel.schema.model import ModelFile
from costmodel.schema.overrides import OverrideTarget
from costmodel.schema.references import suggest
from costmodel.schema.workload import PlanFile
from costmodel.workload.scenario import Scenario

_PROVENANCE = {"sources", "aliases", "calibration"}


def model_document(file: ModelFile) -> dict[str, Any]:
    """Return the document of a model, with what its heads and FFNs have by default filled in."""
    document = file.model_dump(exclude=_PROVENANCE)
    for entry in document["layers"]:
        for layer in entry.get("layers", [entry]):
            _fill(layer, document["hidden"])
    return document


def _fill(layer: dict[str, Any], hidden: Quantity) -> None:
    """Write what a layer's null stands for into its document."""
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
    document = plan.model_dump(exclude={"cluster", "framework", "precision"})
    if "recompute" in document:
        document["recompute"] = sorted(document["recompute"])
    chosen = {"compute": plan.precision.compute, "fallback": plan.precision.fallback}
    built = scenario.cluster
    return document | {
        "cluster": {"name": built.name, "count": built.count},
        "precision": chosen | formats.model_dump(exclude={"name", "sources"}),
        "framework": framework.model_dump(exclude=_PROVENANCE),
        "hardware": {
            "device": device_document(hardware, scenario),
            "node": hardware.node_part.file.model_dump(exclude=_PROVENANCE) | {"count": built.node.count},
            "network": _network(scenario),
        },
    }


def device_document(hardware: Installation, scenario: Scenario) -> dict[str, Any]:
    """Return the document of a device; its peaks are those at the processors and the clock it ends up with."""
    file: DeviceFile = hardware.device_part.file
    document = file.model_dump(exclude=_PROVENANCE)
    changed = hardware.device_part.tree is not hardware.device_part.original
    for name, unit in document["math"].items() if changed else ():
        unit["peak"] = scenario.cluster.device.peak(name)
    return document


def _network(scenario: Scenario) -> dict[str, Any] | None:
    fabric = scenario.cluster.network
    if fabric is None:
        return None
    return {
        "topology": fabric.topology, "planes": fabric.planes, "radix": fabric.radix, "bandwidth": fabric.bandwidth,
        "latency": {"same_leaf": fabric.latency_same_leaf, "cross_leaf": fabric.latency_cross_leaf},
        "routing": fabric.routing, "groups": fabric.groups, "oversubscription": fabric.oversubscription,
        "pxn": fabric.pxn, "failed": list(fabric.failed),
        "price": {
            "switch": fabric.price.switch, "link": fabric.price.link, "endpoint_link": fabric.price.endpoint_link
        },
    }  # fmt: skip


def find(document: Mapping[str, Any], place: OverrideTarget, scenario: str, path: str) -> Any:
    """Return the value at a place; raise InputError that names what is there instead."""
    return entry(document, _route(place, scenario), path)


def entry(document: Mapping[str, Any], route: Sequence[str], path: str) -> Any:
    """Return the value that a route leads to; raise InputError, at `path`, that names what is there instead."""
    current: Any = document
    for part in route:
        known = _keys(current)
        if part not in known:
            raise InputError.single(f"nothing here is named {part!r}", hint=suggest(part, list(known)), field=path)
        current = known[part]
    return current


def _route(place: OverrideTarget, scenario: str) -> Sequence[str]:
    """Return where the document holds what a place of the files says."""
    own = ("scenarios", scenario)
    match place.document, place.path:
        case "workload", _:
            return ("model",)
        case "model", path:
            return ("model", *path)
        case "scenario", path:
            return (*own, *path)
        case "node", ("device",):
            return (*own, "hardware", "device")
        case ("node" | "device") as target, path:
            return (*own, "hardware", target, *path)
        case "cluster", ("node" | "network", *_) as path:
            return (*own, "hardware", *path)
        case target, path:
            return (*own, target, *path)


def _keys(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping or list by the words that address them."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return {}
    by_index = {str(at): item for at, item in enumerate(value)}
    return by_index | {item["name"]: item for item in value if isinstance(item, Mapping) and "name" in item}
