"""A plan as a file: JSON, a table in CSV or Markdown, or one page with the front of its deployments."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import InputError, Location
from costmodel.measurements.importing.compressed import read_bytes
from costmodel.planning.deployments import HOLDS
from costmodel.planning.launch.layouts import layout_words
from costmodel.records import ValueRecord
from costmodel.report.page import Number, Table, printing, show, table
from costmodel.report.text import NONE, count, quantity
from costmodel.report.web.markup import Section, html_table, items, page, text

SUFFIXES = {".json": "json", ".csv": "csv", ".md": "md", ".html": "html"}
_HOUR, _MILLION = 3600.0, 1e6
_REASONS = 3  # of a plan in which nothing fits
_COSTS = ("input", "cached", "output", "all")
_TIMES = ("ttft_p99", "tpot_p99", "ttft", "tpot")
_SHOWN = {
    "ttft_p99": "TTFT p99", "tpot_p99": "TPOT p99", "ttft": "TTFT mean", "tpot": "TPOT mean", "days": "days",
    "dollars": "$", "mfu": "MFU", "goodput": "goodput",
}  # fmt: skip


def form_of(path: Path) -> str:
    """Return the form that a file's name asks for. Raises InputError on another suffix, or without its folder."""
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise InputError.single(
            f"{path.name} says no format", hint=f"end it with one of {', '.join(SUFFIXES)}", field="--output"
        )
    if not path.absolute().parent.is_dir():
        raise InputError.single(f"there is no folder {path.parent}", hint="make it first", field="--output")
    return form


def write_plan(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document of `plan --json` as the file's suffix says."""
    form = form_of(path)
    if form == "html":
        path.write_bytes(page("Plan", asked(document), sections_of(document), document))
    elif form == "json":
        path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", "utf-8")
    else:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), printing(form):
            show(plan_table(document["plans"]))
        path.write_text(printed.getvalue(), "utf-8")


def read_plan(path: Path) -> dict[str, Any] | None:
    """Return a document of `plan --json`, null where the file is another one. Raises InputError on one of nothing."""
    try:
        document = json.loads(read_bytes(path, str(path))) if path.exists() else None
    except (ValueError, RecursionError):
        return None
    if not (isinstance(document, dict) and isinstance(document.get("plans"), list) and "request" in document):
        return None
    if not document["plans"]:
        why = "; ".join(map(str, document.get("left_out", [])[:_REASONS]))
        raise InputError.single("is a plan in which nothing fits", hint=why, location=Location(str(path)))
    try:
        compared(document, document)
        page("Plan", asked(document), sections_of(document), document)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
        hint = "write it again with `costmodel plan MODEL --json > FILE`"
        raise InputError.single(
            "is no plan as `plan --json` prints it", hint=hint, location=Location(str(path))
        ) from None
    return document


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any, float | None]]:
    """Return what the best deployments of two plans are: name, value of each, and second / first of numbers."""
    sides = [_facts(document["plans"][0]) for document in (first, second)]
    rows = []
    for name in sides[0]:
        one, other = (side[name] for side in sides)
        numbers = all(isinstance(each, float | int) and not isinstance(each, bool) for each in (one, other))
        if one is not None or other is not None:
            rows.append((name, one, other, other / one if numbers and one else None))
    return rows


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics, costs = entry["metrics"], entry.get("cost_per_million") or {}
    return {
        "cluster": " + ".join(dict.fromkeys(pool["cluster"] for pool in _pools(entry))), "devices": entry["devices"],
        "replicas": " + ".join(map(str, map(_replicas, _pools(entry)))), "engine": str(entry["framework"]),
        "precision": str(entry["precision"]), "layout": _layouts(_pools(entry)),
        **{_SHOWN[name]: metrics.get(name) for name in _SHOWN}, "$/h": entry["cost_rate"],
        **{f"$/M {name}": costs.get(name) for name in _COSTS}, "J/M tokens": entry.get("energy_per_million"),
        "holds": HOLDS[entry["holds"]], "probability": entry.get("probability"), "binds": str(entry["binds"]),
    }  # fmt: skip


def comparison_table(rows: Sequence[tuple[str, Any, Any, float | None]]) -> Table:
    """Return a row for each fact of two plans, with the change of the second from the first."""
    content = table("of the best deployment", ">first", ">second", ">change")
    for name, one, other, ratio in rows:
        change = f"{100.0 * (ratio - 1.0):+.3g}%" if ratio is not None else "" if one == other else "other"
        content.add(name, _text_of(name, one), _text_of(name, other), "" if ratio == 1.0 else change)
    return content


def _text_of(name: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return NONE if value is None else value
    return _time(value) if name.startswith(("TTFT", "TPOT")) else Number(count(value), value)


def _pools(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry[role] for role in ("prefill", "decode") if entry.get(role)] or [entry]


def _layouts(pools: Sequence[Mapping[str, Any]]) -> str:
    return " + ".join(layout_words(pool["parallel"], "one device") for pool in pools)


def _replicas(pool: Mapping[str, Any]) -> int:
    return int(pool["instances"] if "instances" in pool else pool["replicas"])


def plan_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each deployment: what it is, its times, rent and costs of a million tokens."""
    rows = table(
        ">row", "cluster", ">devices", ">replicas", "engine", "precision", "layout",
        *(f">{_SHOWN[name]}" for name in _TIMES), ">$/h", *(f">$/M {name}" for name in _COSTS), "holds", "binds",
    )  # fmt: skip
    for row, entry in enumerate(plans, 1):
        pools, costs = _pools(entry), entry.get("cost_per_million") or {}
        rows.add(
            str(row), " + ".join(dict.fromkeys(pool["cluster"] for pool in pools)), str(entry["devices"]),
            " + ".join(str(_replicas(pool)) for pool in pools), str(entry["framework"]), str(entry["precision"]),
            _layouts(pools), *(_time(entry["metrics"].get(name)) for name in _TIMES),
            _dollars(entry["cost_rate"]), *(_dollars(costs.get(name)) for name in _COSTS),
            HOLDS[entry["holds"]], str(entry["binds"]),
        )  # fmt: skip
    return rows


def _dollars(value: float | None) -> str:
    return NONE if value is None else Number(count(value), float(f"{value:.12g}"), "")


def _time(value: float | None) -> str:
    return NONE if value is None else Number(quantity(value, "time"), value, "s")


def marks(plans: Sequence[Mapping[str, Any]]) -> tuple[list[Mark], list[Mark]]:
    """Return the points of both plots: tokens/s a device over tokens/s a user; $/M output tokens over TTFT.

    Their labels are rows of the table.
    """
    throughput, cost = [], []
    for row, entry in enumerate(plans, 1):
        metrics, output = entry["metrics"], (entry.get("cost_per_million") or {}).get("output")
        label = str(row)
        if metrics.get("tpot") and output and entry["cost_rate"]:
            rate = entry["cost_rate"] / _HOUR / output * _MILLION / entry["devices"]
            throughput.append(Mark(1.0 / metrics["tpot"], rate, label))
        if metrics.get("ttft") and output:
            cost.append(Mark(metrics["ttft"], output, label))
    return throughput, cost


def _text(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return count(value) if isinstance(value, float) else str(value)


def sections_of(document: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a page: deployments, what each gains and costs, what was not chosen."""
    plans = document["plans"]
    throughput, cost = marks(plans)
    best = front(throughput, lower_x=False, lower_y=False)
    cheapest = front(cost, lower_x=True, lower_y=True)
    sections = [
        Section("Deployments", [html_table("The best of each cluster, the cheapest first", plan_table(plans))]),
        Section(
            "Throughput and interactivity",
            [scatter(throughput, best, "tokens/s of a user", "output tokens/s of a device")],
        ),
        Section(
            "Cost and latency", [scatter(cost, cheapest, "mean time to first token, s", "$ a million output tokens")]
        ),
        Section("Not chosen", [items(map(str, document.get("left_out", [])))]),
    ]
    return [section for section, drawn in zip(sections, (True, throughput, cost, True), strict=True) if drawn]


def asked(document: Mapping[str, Any]) -> str:
    """Return what a plan was asked for, as a sentence."""
    request = ", ".join(f"{name} {_text(value)}" for name, value in document["request"].items())
    return f"Asked for: {request}."


# ---- A scatter plot as SVG inside a page: points with their labels, and the front of those that nothing beats --------

WIDTH, HEIGHT, MARGIN = 640.0, 360.0, 60.0


class Mark(ValueRecord):
    """A point. label: what it is."""

    x: float
    y: float
    label: str


def front(marks: Sequence[Mark], *, lower_x: bool, lower_y: bool) -> list[Mark]:
    """Return the points that no other one beats in both, by x. lower_x, lower_y: whether less is better."""
    signs = (1.0 if lower_x else -1.0, 1.0 if lower_y else -1.0)
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (signs[0] * mark.x, signs[1] * mark.y)):
        if not kept or signs[1] * mark.y < signs[1] * kept[-1].y:
            kept.append(mark)
    return sorted(kept, key=lambda mark: mark.x)


def scatter(marks: Sequence[Mark], best: Sequence[Mark], x: str, y: str) -> str:
    """Return the plot. best: the front, which a line joins; x, y: what the axes are."""
    if not marks:
        return ""
    across, up = 1.1 * max(mark.x for mark in marks), 1.1 * max(mark.y for mark in marks)

    def at(mark: Mark) -> tuple[float, float]:
        return (
            MARGIN + mark.x / across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - mark.y / up * (HEIGHT - 2 * MARGIN),
        )  # fmt: skip

    line = " ".join("{:.1f},{:.1f}".format(*at(mark)) for mark in best)
    dots = "".join(
        f'<circle cx="{at(mark)[0]:.1f}" cy="{at(mark)[1]:.1f}" r="5"><title>{text(mark.label)}</title></circle>'
        f'<text x="{at(mark)[0] + 8:.1f}" y="{at(mark)[1] - 6:.1f}" font-size="11">{text(mark.label)}</text>'
        for mark in marks
    )
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{text(y)} over {text(x)}" '
        f'fill="currentColor">'
        f'<path d="M{MARGIN:.0f} {MARGIN:.0f}V{bottom:.0f}H{right:.0f}" fill="none" stroke="currentColor"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-dasharray="4"/>{dots}'
        f'<text x="{right:.0f}" y="{HEIGHT - 20:.0f}" text-anchor="end" font-size="13">{text(x)} '
        f"(to {text(count(across))})</text>"
        f'<text x="{MARGIN:.0f}" y="30" font-size="13">{text(y)} (to {text(count(up))})</text></svg>'
    )
