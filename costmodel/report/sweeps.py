"""The terminal view of a sweep: how many points run, and where the headline is best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.report.page import show, table
from costmodel.report.text import metric, setting, short_paths, span
from costmodel.result import kind_of

MOST_REASONS = 4  # of one kind that people read; --json and the table have them all


def show_sweep(document: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]], output: str) -> None:
    """Print the axes, a line for each scenario, what cannot run and why, and what comes next.

    document: what was asked, as `study.json` holds it; output: its folder, as a shell reads it.
    """
    show(f"{document['workload']}: {document['points']:,} points", "bold")
    dimensions = {axis["path"]: axis["dimension"] for axis in document["axes"]}
    for axis in document["axes"]:
        values = axis["values"]
        several = f"{len(values):,} values, " if len(values) > 1 else ""
        ends = ", ".join(map(str, values)) if axis["dimension"] is None else _ends(values, axis["dimension"])
        show(f"{axis['path']}: {several}{ends}")
    names = short_paths(list(dimensions))
    rows = table("scenario", "?>points", ">run", "metric", ">best", ">80 % interval", ">worst")
    places = table("scenario", "axis", ">best at")
    for name, summary in summaries.items():
        best, worst, headline = summary["best"], summary["worst"], summary["headline"]
        rows.add(
            name, f"{summary['points']:,}", f"{summary['fit']:,}", headline,
            metric(headline, best and best["value"]), span(headline, best["low"], best["high"]) if best else "-",
            metric(headline, worst and worst["value"]),
        )  # fmt: skip
        if best and (summary["fit"] == 1 or best["value"] != worst["value"]):
            for path, value in best["at"].items():
                places.add(name, names[path], _value(value, dimensions[path]))
    show(rows)
    if places.rows:
        show()
        show(places)
    for name, summary in summaries.items():
        _show_reasons(name, summary)
    for name, reason in document["left_out"].items():
        show(f"{name}: left out: {reason}", "dim")
    for note in dict.fromkeys(note for one in document["scenarios"].values() for note in one["notes"]):
        show(f"note: {note}")
    if all(axis["dimension"] is not None for axis in document["axes"]):
        show(f"next: costmodel report {output}", "dim")


def _show_reasons(name: str, summary: Mapping[str, Any]) -> None:
    """Print why points cannot run, the most frequent reasons of each kind first, and how many the others are."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for reason, points in summary["infeasible"].items():
        kinds.setdefault(kind_of(reason), []).append((points, reason))
    for kind, found in kinds.items():
        found.sort(key=lambda each: (-each[0], each[1]))
        rest = found[MOST_REASONS:]
        lines = [*found[:MOST_REASONS], *([(sum(points for points, _ in rest), kind)] if rest else [])]
        for at, (points, reason) in enumerate(lines):
            missed = reason.removeprefix("not ")  # as a constraint's reason begins
            told = f"cannot run: {reason}" if missed == reason else f"do not meet {missed}"
            more = f", for {len(rest):,} more reasons that the table holds" if at == MOST_REASONS else ""
            show(f"{name}: {points:,} of {summary['points']:,} points {told}{more}", "yellow")


def _value(value: Any, dimension: str | None) -> str:
    return str(value) if dimension is None else setting(value, dimension)


def _ends(values: list[float], dimension: str) -> str:
    low, high = setting(min(values), dimension), setting(max(values), dimension)
    return low if low == high else f"{low} .. {high}"
