"""The terminal views of a search and of a sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.report.number import Number
from costmodel.report.page import show, table
from costmodel.report.text import NONE, count, gib, metric, setting, short_paths, span
from costmodel.result import PHASES
from costmodel.schema import ResolvedWorkload
from costmodel.schema.quantity import Measure
from costmodel.study.goals import Candidate, SearchResult
from costmodel.study.sensitivity import Sensitivity

MOST_NUMBERS = 4  # of devices that are listed
MOST_ROWS = 20  # of a ranking that people read; --json has them all


def show_found(found: SearchResult) -> None:
    """Print how many layouts were looked at, the best ones, and the front of rate against rate a user."""
    show(
        f"{found.scenario}: looked at {found.looked_at:,} layouts on {_numbers(found.devices)} devices; "
        f"the degrees of {found.feasible:,} divide; "
        f"{found.scheduled:,} were evaluated, no other can be among the best",
        "bold",
    )
    if found.stages is not None:
        show(f"stages: {found.stages}")
    if not found.best:
        show(_why_none(found), "yellow")
        return
    show(_candidates(found.best, found.axes))
    if any(one.tied for one in found.best):
        show("~ the 80 % intervals of the objective of this layout and of a neighbour overlap: which is better is open")
    if found.front:
        show("")
        show("Pareto front of throughput against the rate of a user", "bold")
        show(_candidates(found.front, found.axes, of_rates=True))


def _numbers(devices: Sequence[int]) -> str:
    """Return numbers of devices as a list, the ends of one that is long."""
    if len(devices) > MOST_NUMBERS:
        return f"{devices[0]:,} to {devices[-1]:,}"
    return " or ".join(f"{number:,}" for number in devices)


def _why_none(found: SearchResult) -> str:
    """Return why a search found nothing."""
    if not found.looked_at:
        return "no layout of as many devices has what is set: a degree does not divide them, the heads or the experts"
    if not found.feasible:
        return "the degrees of none divide"
    if found.least is not None:
        return (
            f"none fits in memory: a device would have to hold {gib(found.least)} GiB at least; "
            "name more --devices, or narrow `precision`"
        )
    return "none fits and meets the constraints"


def _candidates(rows: Sequence[Candidate], axes: Mapping[str, str], *, of_rates: bool = False) -> Any:
    """Return layouts as a table: what differs among them, their times and rates.

    axes: path -> dimension; of_rates: it is about the rates, so that where there is no room for all the time is left
    out, not the rate of a user.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.at))
    short = {name: name.rpartition(".")[2] for name in names}
    twice = [name for name in names if list(short.values()).count(short[name]) > 1]
    short |= short_paths(twice)
    known = next(iter(name for name in PHASES.values() if name[0] in rows[0].metrics))[0]
    rates = [name for name in ("tokens_per_second_per_device", "tokens_per_second_per_user", "mfu")
             if rows[0].metrics.get(name) is not None]  # fmt: skip
    spare = {"tokens_per_second_per_user": "" if of_rates else "??", "mfu": "?"}
    made = table(
        "", ">devices", *(f">{short[name]}" for name in names),
        *((f"?>{known}", "??>80 % interval") if of_rates else (f">{known}", ">80 % interval")),
        *(f"{spare.get(name, '')}>{name.replace('tokens_per_second_per_', 'tokens/s/')}" for name in rates),
    )  # fmt: skip
    for row in rows:
        made.add(
            "~" if row.tied else "", f"{row.devices:,}", *(_at(row.at.get(name), axes.get(name)) for name in names),
            metric(known, row.metrics[known]), "-" if row.interval is None else span(known, *row.interval),
            *(metric(name, row.metrics[name]) for name in rates),
        )  # fmt: skip
    return made


def _at(value: Any, dimension: str | None) -> str:
    """Return a value of a layout or of an axis."""
    if value is None:
        return "-"
    return str(value) if dimension in (None, "count") else setting(float(value), dimension)


def show_sensitivities(resolved: ResolvedWorkload, name: str, found: Mapping[str, Sequence[Sensitivity]]) -> None:
    """Print the parameters of each scenario that move a metric, the strongest first."""
    for scenario, rows in found.items():
        show(f"{scenario}: elasticity of {name}", "bold")
        if not rows:
            show("no number of the hardware moves it", "yellow")
            continue
        made = table(
            "",
            "parameter",
            ">value",
            ">elasticity",
            "|",
            "?>1 % up",
            "?>1 % down",
            ">10 % better",
            "?>saves $/T tokens",
        )
        strongest = max(abs(row.elasticity) for row in rows) or 1.0
        for row in rows[:MOST_ROWS]:
            number = resolved.number(f"scenarios.{scenario}.{row.path}")
            dimension = number.dimension if isinstance(number, Measure) else "count"
            made.add(
                "~" if row.tied else "", row.path, setting(row.value, dimension), _slope(row.elasticity),
                abs(row.elasticity) / strongest, _slope(row.up), _slope(row.down), metric(name, row.better),
                "-" if row.saved is None else count(row.saved),
            )  # fmt: skip
        show(made)
        if len(rows) > MOST_ROWS:
            show(f"{len(rows) - MOST_ROWS} weaker ones are not shown; --json has them", "dim")
        if any(row.tied for row in rows[:MOST_ROWS]):
            show("~ the order of this parameter and of a neighbour depends on the direction of the step")


def _slope(value: float | None) -> str:
    return NONE if value is None else Number(f"{value:+.3f}", value)
