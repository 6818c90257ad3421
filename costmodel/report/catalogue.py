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
    for line in _layer_lines(document["layers"]):
        show(line)
    _show_sources(document)


def _layer_lines(layers: list[Mapping[str, Any]], indent: str = "") -> Iterator[str]:
    """Yield a line for every run of layers; the layers of a group stand below it."""
    for layer in layers:
        if "layers" in layer:
            yield f"{indent}{layer['repeat']} times"
            yield from _layer_lines(layer["layers"], f"{indent}  ")
            continue
        parts = [f"{part}: {_flat(layer[part])}" for part in ("mixer", "ffn")]
        number = layer["repeat"]
        yield f"{indent}{number} layer{'' if number == 1 else 's'}, {_block(layer)}, {', '.join(parts)}"


def _block(layer: Mapping[str, Any]) -> str:
    """Return how a layer's halves and norms stand, in a few words."""
    place = "" if layer["norm_position"] == "before" else f" {layer['norm_position']}"
    shared = " (one norm)" if layer["shared_norm"] else ""
    parallel = f", parallel{shared}" if layer["block"] == "parallel" else ""
    return f"norm {layer['norm']}{place}{parallel}"


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
    """Return a mixer or FFN in one line; values at null or false are left out."""
    plain = {
        key: value
        for key, value in part.items()
        if value is not None and value is not False and not isinstance(value, list | Mapping)
    }
    windows = [group["pattern"]["window"] for group in part.get("head_groups", ()) if group["pattern"]["window"]]
    if windows:
        plain["window"] = " and ".join(f"{window:g}" for window in windows)
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain.items()
    )


def _show_sources(document: Mapping[str, Any]) -> None:
    """Print what each source is for."""
    for source in document.get("sources") or ():
        note = f" ({source['note']})" if source.get("note") else ""
        show(f"{', '.join(source['fields'])}: {source['cite']}{note}", "dim")
