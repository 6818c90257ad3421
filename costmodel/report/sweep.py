"""The terminal view of a sweep: how many points are feasible, and where the headline metric is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.report.answer import telling
from costmodel.report.page import is_verbose, show, show_hint, table
from costmodel.report.text import NONE, interval, metric, readable, setting, short_paths
from costmodel.result import OVERLOADED, reason_kind
from costmodel.study.prices import Quoted, unlike

MOST_REASONS = 4  # of one kind that are shown; --json and the table have them all


def show_sweep(document: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]], output: str) -> None:
    """Print the axes, one line per scenario, which points cannot run and why, and the next step.

    document: what `study.json` contains.
    output: the sweep's folder as a shell reads it.
    """
    for name, summary in summaries.items():
        show(_answer(name, summary, document), "bold" if summary["best"] else "yellow")
    show(f"{document['workload']}: {document['points']:,} points")
    for axis in document["axes"]:
        values = axis["values"]
        number = f"{len(values):,} values, " if len(values) > 1 else ""
        listed = ", ".join(map(str, values)) if axis["dimension"] is None else _range(values, axis["dimension"])
        show(f"{axis['path']}: {number}{listed}")
    if is_verbose():
        _show_summaries(document, summaries)
    for name, summary in summaries.items():
        _show_reasons(name, summary, document.get("constraints", ()))
    for name, reason in document["left_out"].items():
        show(f"{name}: skipped: {reason}", "dim")
    notes = dict.fromkeys(note for scenario in document["scenarios"].values() for note in scenario["notes"])
    for note in telling(notes):
        show(f"note: {note}")
    if is_verbose():
        show_rents([Quoted(**one) for one in document.get("prices", ())])
    show_hint()
    if all(axis["dimension"] is not None for axis in document["axes"]):
        show(f"next: costmodel report {output}", "dim")


def _show_summaries(document: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]]) -> None:
    dimensions = {axis["path"]: axis["dimension"] for axis in document["axes"]}
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
        if _differs(summary):
            for path, value in best["at"].items():
                positions.add(name, names[path], _value(value, dimensions[path]))
    show(rows)
    if positions.rows:
        show()
        show(positions)


def _answer(name: str, summary: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    best, worst, headline = summary["best"], summary["worst"], summary["headline"]
    points = f"{summary['fit']:,} of {summary['points']:,} points run"
    if not best:
        return f"{name}: {points}"
    dimensions = {axis["path"]: axis["dimension"] for axis in document["axes"]}
    names = short_paths(list(dimensions))
    at = ", ".join(f"{names[path]} {_value(value, dimensions[path])}" for path, value in best["at"].items())
    span = interval(headline, best["low"], best["high"], digits=3)
    where = f", {at}" if _differs(summary) else ", at every point"
    return (
        f"{name}: {readable(headline)} {metric(headline, best['value'])} ({span}) at best{where}; "
        f"{metric(headline, worst['value'])} at worst; {points}"
    )


def _differs(summary: Mapping[str, Any]) -> bool:
    best, worst = summary["best"], summary["worst"]
    return bool(best) and (summary["fit"] == 1 or best["value"] != worst["value"])


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
            why = f"are {reason}" if reason == OVERLOADED else f"cannot run: {reason}"
            why = f"do not meet {missed[reason]}" if reason in missed else why
            show(f"{name}: {points:,} of {summary['points']:,} points {why}{more}", "yellow")


def _value(value: Any, dimension: str | None) -> str:
    return str(value) if dimension is None else setting(value, dimension)


def _range(values: list[float], dimension: str) -> str:
    low, high = setting(min(values), dimension), setting(max(values), dimension)
    return low if low == high else f"{low} .. {high}"
