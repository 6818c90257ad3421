"""Hardware for people: every value in its unit, with its source."""

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
    show_sources(document)


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


def show_sources(document: Mapping[str, Any]) -> None:
    """Print what each source is for."""
    for source in document.get("sources") or ():
        note = f" ({source['note']})" if source.get("note") else ""
        show(f"{', '.join(source['fields'])}: {source['cite']}{note}", "dim")
