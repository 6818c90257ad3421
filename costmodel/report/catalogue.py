"""Hardware and models for people: every value in its unit, with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from costmodel.report.page import show, table
from costmodel.report.text import quantity
from costmodel.units import render

# Keys whose values carry a unit, wherever they stand in a hardware file.
DIMENSIONS = {
    "peak": "flop_rate",
    "capacity": "size",
    "memory": "size",
    "reserve": "size",
    "bandwidth": "bandwidth",
    "latency": "time",
    "same_leaf": "time",
    "cross_leaf": "time",
    "launch": "time",
    "tensor_reference": "frequency",
    "max": "frequency",
    "tdp": "power",
    "idle": "power",
    "purchase": "money",
    "price": "money",
    "switch": "money",
    "link": "money",
    "endpoint_link": "money",
}
DIGITS = 6


def show_document(document: Mapping[str, Any]) -> None:
    """Print a hardware file: its values, then what each source is for."""
    show(str(document["name"]), "bold")
    rows = table("field", ">value")
    for field, value in _values(document, ""):
        rows.add(field, value)
    show(rows)
    _show_sources(document)


def show_model(facts: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Print a model: what can be counted, its layers, its sources."""
    show(str(facts["name"]), "bold")
    rows = table("count", ">value")
    for name in ("parameters", "active_parameters", "active_parameters_with_embedding", "mtp_parameters"):
        rows.add(name.replace("_", " "), f"{facts[name]:,.0f}")
    rows.add("KV cache a token, BF16", quantity(facts["kv_cache_bytes_per_token"], "size", DIGITS))
    rows.add("training FLOP a token at 4,096", quantity(facts["training_flop_per_token"], "flop", DIGITS))
    show(rows)
    for layer in document["layers"]:
        parts = (f"{part}: {_flat(layer[part])}" for part in ("mixer", "ffn"))
        show(f"{layer['repeat']} layers, {', '.join(parts)}")
    _show_sources(document)


def _values(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted field, text) of every leaf but the sources."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in ("sources", "name") or (field and key != "name"):
                yield from _values(inner, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for position, inner in enumerate(value):
            yield from _values(inner, f"{field}.{inner.get('name', position)}")
    else:
        yield field, _leaf(field, value)


def _leaf(field: str, value: Any) -> str:
    """Return a leaf in its unit; what has no source is said to be unknown."""
    if value is None:
        return "unknown"
    *parents, key = field.split(".")
    key = "peak" if parents[-1:] == ["peak"] else key  # a host's peaks stand under their format
    if key == "rental":  # a round figure an hour is none a second
        return render(value, "money_rate")
    if key in DIMENSIONS and isinstance(value, float | int):
        return quantity(float(value), DIMENSIONS[key], DIGITS)
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _flat(part: Mapping[str, Any]) -> str:
    """Return a mixer or FFN in one line; values at null are left out."""
    plain = {key: value for key, value in part.items() if value is not None and not isinstance(value, list | Mapping)}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain.items()
    )


def _show_sources(document: Mapping[str, Any]) -> None:
    """Print what each source is for."""
    for source in document.get("sources") or ():
        note = f" ({source['note']})" if source.get("note") else ""
        show(f"{', '.join(source['fields'])}: {source['cite']}{note}", "dim")
