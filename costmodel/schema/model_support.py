"""Which config.json files are read, by family, tower and class of the weights. Which are refused, and why.

Also what stands between the catalogue's models and devices: formats of products that a device has no unit for, and
models that are known by name alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.records import Record
from costmodel.schema import catalogue
from costmodel.schema.catalogue import Question
from costmodel.schema.files import list_names, load_document, read_models
from costmodel.schema.hugging_face.tables import encoders, families, table
from costmodel.schema.inputs import Answers, recorded
from costmodel.schema.references import Library
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import parameter_count
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


# ---- The architectures of all models at once, from the compiled catalogue: their files are read when any has changed.


class ListedModel(Record):
    """A model of the search path. weights: the format that it is published in where that is narrow, null: 16 bits."""

    architecture: Architecture
    parameters: float
    weights: str | None


def listed_models(search_path: Sequence[str | Path] = ()) -> dict[str, ListedModel]:
    """Return every model on the search path that can be read, by its name, the largest first."""
    question = Question("listed models", (), Library(search_path).roots)
    recalled = catalogue.recall(question)
    if recalled is not None:
        known: dict[str, ListedModel] = recalled.answer
        return known
    from costmodel.schema.files import read_models  # every kind of file loads with it

    rests_on: Answers = {}
    with recorded(rests_on):
        models, _ = read_models(search_path)
    listed = {
        name: ListedModel(
            each.architecture,
            float(parameter_count(each.architecture).total),
            (each.document["quantization"] or {}).get("weights"),
        )
        for name, each in models.items()
    }
    listed = dict(sorted(listed.items(), key=lambda item: -item[1].parameters))
    catalogue.keep(question, rests_on, listed)
    return listed
