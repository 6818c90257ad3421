"""The terminal view of a sweep: how many points run, and where the headline is best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.report.page import show, table
from costmodel.report.text import metric, setting, short_paths, span


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
    rows = table("scenario", ">points", ">run", "metric", ">best", ">80 % interval", "at", ">worst")
    for name, summary in summaries.items():
        best, worst, headline = summary["best"], summary["worst"], summary["headline"]
        rows.add(
            name, f"{summary['points']:,}", f"{summary['fit']:,}", headline,
            metric(headline, best and best["value"]), span(headline, best["low"], best["high"]) if best else "-",
            _place(best["at"], names, dimensions) if best and best["value"] != worst["value"] else "-",
            metric(headline, worst and worst["value"]),
        )  # fmt: skip
    show(rows)
    for name, summary in summaries.items():
        for reason, points in summary["infeasible"].items():
            missed = reason.removeprefix("not ")  # as a constraint's reason begins
            told = f"cannot run: {reason}" if missed == reason else f"do not meet {missed}"
            show(f"{name}: {points:,} of {summary['points']:,} points {told}", "yellow")
    for name, reason in document["left_out"].items():
        show(f"{name}: left out: {reason}", "dim")
    for note in dict.fromkeys(note for one in document["scenarios"].values() for note in one["notes"]):
        show(f"note: {note}")
    if all(axis["dimension"] is not None for axis in document["axes"]):
        show(f"next: costmodel report {output}", "dim")


def _place(at: Mapping[str, Any], names: Mapping[str, str], dimensions: Mapping[str, str | None]) -> str:
    shown = {
        path: str(value) if (dimension := dimensions[path]) is None else setting(value, dimension)
        for path, value in at.items()
    }
    return ", ".join(f"{names[path]} {value}" for path, value in shown.items())


def _ends(values: list[float], dimension: str) -> str:
    low, high = setting(min(values), dimension), setting(max(values), dimension)
    return low if low == high else f"{low} .. {high}"
