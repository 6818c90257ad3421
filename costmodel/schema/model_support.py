"""Which config.json files are read, by family, tower and class of the weights. Which are refused, and why.

Also what stands between the catalogue's models and devices: formats of products that a device has no unit for, and
models that are known by name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.schema.files import list_names, load_document, read_models
from costmodel.schema.hugging_face.tables import encoders, families, table
from costmodel.workload.dtypes import math_unit


def support() -> dict[str, Any]:
    """Return what is read and what is not, by name, with the counts."""
    names = table("names")
    others = {**names["aliases"], **names["text_families"]}
    read = {name: sorted(other for other, family in others.items() if family == name) for name in sorted(families())}
    return {
        "families": read,
        "encoders": sorted(encoders()),
        "architectures": dict(sorted(names["architectures"].items())),
        "refused": dict(sorted(names["refused"].items())),
        "models": _formats_of_models(),
        "awaited": dict(sorted(names["awaited"].items())),
        "counts": {"families": len(read), "encoders": len(encoders()), "refused": len(names["refused"])},
    }


def _formats_of_models() -> dict[str, dict[str, Any]]:
    """Return, by model with a format of its own, the formats of weights and products, and devices without a unit.

    On those an engine expands what it multiplies, or the scenario's `fallback` counts.
    """
    units = {name: set(load_document("devices", name)["math"]) for name in list_names("devices")}
    formats = {name: model.document.get("quantization") for name, model in read_models()[0].items()}
    return {name: _formats(each, units) for name, each in sorted(formats.items()) if each}


def _formats(quantization: Mapping[str, Any], units: Mapping[str, set[str]]) -> dict[str, Any]:
    """Return the formats of a checkpoint and, by format of its products, the devices without a unit for it."""
    parts = [quantization, *quantization["parts"].values()]
    weights, products = (sorted({part[key] for part in parts} - {"bf16"}) for key in ("weights", "linear"))
    lacking = {dtype: sorted(name for name, own in units.items() if math_unit(dtype) not in own) for dtype in products}
    return {"weights": weights, "products": products, "devices_without": lacking}
