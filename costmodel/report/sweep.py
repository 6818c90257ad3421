"""The terminal view of a sweep: how many points are feasible, and where the headline metric is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.report.page import show, table
from costmodel.report.text import NONE, interval, metric, setting, short_paths
from costmodel.result import OVERLOADED, reason_kind
from costmodel.study.prices import Quoted, unlike

MOST_REASONS = 4  # of one kind that are shown; --json and the table have them all


def show_sweep(document: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]], output: str) -> None:
    """Print the axes, one line per scenario, which points cannot run and why, and the next step.

    document: what `study.json` contains.
    output: the sweep's folder as a shell reads it.
    """
    show(f"{document['workload']}: {document['points']:,} points", "bold")
    dimensions = {axis["path"]: axis["dimension"] for axis in document["axes"]}
    for axis in document["axes"]:
        values = axis["values"]
        number = f"{len(values):,} values, " if len(values) > 1 else ""
        listed = ", ".join(map(str, values)) if axis["dimension"] is None else _range(values, axis["dimension"])
        show(f"{axis['path']}: {number}{listed}")
    rows = table("scenario", "?>points", ">feasible", "metric", ">best", ">80 % interval", ">worst")
    positions = table("scenario", "axis", ">best value")
    names = short_paths(list(dimensions))
    for name, summary in summaries.items():
        best, worst, headline = summary["best"], summary["worst"], summary["headline"]
        rows.add(
            name, f"{summary['points']:,}", f"{summary['fit']:,}", headline,
            metric(headline, best and best["value"]),
            interval(headline, best["low"], best["high"]) if best else NONE,
            metric(headline, worst and worst["value"]),
        )  # fmt: skip
        if best and (summary["fit"] == 1 or best["value"] != worst["value"]):
            for path, value in best["at"].items():
                positions.add(name, names[path], _value(value, dimensions[path]))
    show(rows)
    if positions.rows:
        show()
        show(positions)
    for name, summary in summaries.items():
        _show_reasons(name, summary, document.get("constraints", ()))
    for name, reason in document["left_out"].items():
        show(f"{name}: skipped: {reason}", "dim")
    for note in dict.fromkeys(note for scenario in document["scenarios"].values() for note in scenario["notes"]):
        show(f"note: {note}")
    show_rents([Quoted(**one) for one in document.get("prices", ())])
    if all(axis["dimension"] is not None for axis in document["axes"]):
        show(f"next: costmodel report {output}", "dim")


def show_rents(rents: Sequence[Quoted]) -> None:
    """Print the rents that costs rest on, and whether these compare."""
    for one in rents:
        show(f"rental price: {one}")
    for line in unlike(rents):
        show(f"note: {line}", "yellow")


def _show_reasons(name: str, summary: Mapping[str, Any], constraints: list[str]) -> None:
    """Print why points cannot run, the most frequent reasons of each kind first, and the number of other reasons."""
    missed = {f"not {constraint}": constraint for constraint in constraints}  # reason in the table -> constraint
    kinds: dict[str, list[tuple[int, str]]] = {}
    for reason, points in summary["infeasible"].items():
        kind = reason if reason in missed else reason_kind(reason)
        kinds.setdefault(kind, []).append((points, reason))
    for kind, reasons in kinds.items():
        reasons.sort(key=lambda pair: (-pair[0], pair[1]))
        others = reasons[MOST_REASONS:]
        lines = [(points, reason, "") for points, reason in reasons[:MOST_REASONS]]
        if others:
            more = f"; {len(others):,} more reasons (see the table)"
            lines.append((sum(points for points, _ in others), kind, more))
        for points, reason, more in lines:
            why = f"do not meet {missed[reason]}" if reason in missed else _refusal(reason)
            show(f"{name}: {points:,} of {summary['points']:,} points {why}{more}", "yellow")


def _refusal(reason: str) -> str:
    return f"are {reason}" if reason == OVERLOADED else f"cannot run: {reason}"


def _value(value: Any, dimension: str | None) -> str:
    return str(value) if dimension is None else setting(value, dimension)


def _range(values: list[float], dimension: str) -> str:
    low, high = setting(min(values), dimension), setting(max(values), dimension)
    return low if low == high else f"{low} .. {high}"
