"""Plans on a page: their form, and what is asked by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from costmodel.app.state import LONGEST
from costmodel.errors import InputError
from costmodel.planning import request as read
from costmodel.planning.request import PlanRequest
from costmodel.schema.references import Library

# Group -> name, label, unit and an example of each field.
FIELDS = {
    "Load": (
        ("rate", "arrivals", "requests", "20/s"), ("users", "or users", "in flight", "64"),
        ("isl", "prompt", "tokens", "2000"), ("osl", "answer", "tokens", "500"),
    ),
    "Limits": (
        ("ttft", "first token", "at a percentile", "1s@p99"), ("tpot", "each token", "at a percentile", "50ms@p99"),
        ("budget", "budget", "of the rent", "300 $/h"), ("confidence", "confidence", "that they hold", "90%"),
    ),
}  # fmt: skip
_READ: Mapping[str, Callable[[str, str], Any]] = {
    "rate": lambda text, field: read.read_quantity(text, "rate", field),
    "users": lambda text, field: int(read.read_count(text, field)),
    "isl": read.read_count, "osl": read.read_count, "ttft": read.read_limit, "tpot": read.read_limit,
    "budget": lambda text, field: read.read_quantity(text, "money_rate", field), "confidence": read.read_share,
}  # fmt: skip


def asked(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the texts of the form by name, `cluster` as a list. Raises InputError on an unknown or long one."""
    texts: dict[str, Any] = {"cluster": []}
    for key, text in pairs:
        if key not in ("model", "cluster", *_READ) or len(text) > LONGEST:
            raise InputError.single(f"no field is named {key!r}, or it is too long", hint="open the page anew")
        if key == "cluster":
            texts[key] += [text.strip()] if text.strip() else []
        else:
            texts[key] = text.strip()
    return texts


def plan_request(pairs: Sequence[tuple[str, str]], search_path: tuple[str, ...]) -> PlanRequest:
    """Return what a form asks for. Raises InputError at the field that is wrong."""
    texts, library = asked(pairs), Library(search_path)
    model, clusters = texts.get("model") or None, tuple(dict.fromkeys(texts["cluster"]))
    if model is not None and model not in library.names("models"):
        raise InputError.single(f"no model is named {model!r}", hint="choose one", field="model")
    known = {f"{kind}/{name}" for kind in ("nodes", "clusters") for name in library.names(kind)}
    if not clusters or not known.issuperset(clusters) or (model is None and len(clusters) > 1):
        raise InputError.single("needs a cluster, one alone without a model", hint="choose one", field="cluster")
    values = {name: reads(texts[name], name) for name, reads in _READ.items() if texts.get(name)}
    if model is not None and ("rate" in values) == ("users" in values):
        raise InputError.single("needs either arrivals or users", hint="write 20/s", field="rate")
    missing = next((name for name in ("isl", "osl") if name not in values), None)
    if model is not None and missing is not None:
        raise InputError.single("needs a length", hint="write 1000", field=missing)
    return PlanRequest(model=model, clusters=clusters, search_path=search_path, **values)
