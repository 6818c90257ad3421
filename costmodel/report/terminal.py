"""The terminal view of `simulate`: what was asked, how sure, what limits it, what next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from costmodel.report.expert_load import is_even, routing_line
from costmodel.report.page import show, table
from costmodel.report.text import count, gib, metric, quantity, share, span, used_of
from costmodel.result import Point
from costmodel.units import parse

if TYPE_CHECKING:
    from costmodel.api import Workload

SHOWN_OPERATORS = 3  # in the overview
LISTED_OPERATORS = 14  # in the detailed view
ROOFLINE_ONLY = " (a lower bound; the interval is how far above it kernels were measured)"


def show_simulation(
    argument: str, workload: Workload, points: Mapping[str, Point], *, detailed: bool, engine: str = "analytic"
) -> None:
    """Print the scenarios: one screen for all of them, or each in detail. engine: what they were computed by."""
    facts = workload.model()
    show(_title(workload) + (", simulated event by event" if engine == "event" else ""), "bold")
    show(
        f"{facts['name']}: "
        f"{count(facts['parameters'])} parameters, {count(facts['active_parameters'])} active, "
        f"{quantity(facts['kv_cache_bytes_per_token'], 'size')} of KV cache a token, "
        f"{quantity(facts['training_flop_per_token'], 'flop')} a trained token"
    )
    if detailed:
        for name, point in points.items():
            _show_detail(name, point)
    else:
        _show_overview(points)
    for line in _next_steps(argument, points, detailed=detailed):
        show(line, "dim")


def _title(workload: Workload) -> str:
    """Return what is simulated: a workload's own title says nothing of a cluster that stands in."""
    cluster = workload.asked()["cluster"]
    return f"{workload.name} on {cluster}" if cluster else workload.resolved.title or workload.name


def _show_overview(points: Mapping[str, Point]) -> None:
    """Print a table with a row for each scenario, and a line for each on where its time goes."""
    rows = table("scenario", "?cluster", ">predicted", ">80 % interval", "?>tokens/s/device", "limit", ">memory")
    for name, point in points.items():
        rate = point.metrics.get("tokens_per_second_per_device")
        rows.add(
            name,
            f"{point.cluster}, {_devices(point)}",
            metric(point.headline, point.metrics[point.headline]),
            _interval(point),
            metric("tokens_per_second", rate),
            point.bound,
            _memory(point),
        )
    show(rows)
    _show_bases(points)
    show("Where the time goes" if any(point.fits for point in points.values()) else "Why nothing runs", "bold")
    for name, point in points.items():
        line = _limits(point) if point.fits else f"does not run: {point.reason}"
        show(f"  {name}: {line}", "" if point.fits else "red")
        if point.fits and point.routing is not None and not is_even(point.routing):
            show(f"    {routing_line(point.routing)}")
        if not point.fits and point.memory is not None:
            show(f"    {_ledger_line(point)}")
    for note in dict.fromkeys(note for point in points.values() for note in point.notes):
        show(f"note: {note}")


def _show_bases(points: Mapping[str, Point]) -> None:
    """Print what the times rest on: scenarios that rest on the same share a line."""
    bases: dict[str, list[str]] = {}
    for name, point in points.items():
        if point.fits:
            bases.setdefault(_basis(point), []).append(name)
    note = ROOFLINE_ONLY if list(bases) == ["roofline"] else ""
    if len(bases) == 1:
        show(f"basis of the times: {next(iter(bases))}{note}")
    elif bases:
        show("basis of the times", "bold")
        for basis, names in bases.items():
            show(f"  {', '.join(names)}: {basis}")


def _show_detail(name: str, point: Point) -> None:
    """Print one scenario with its metrics, operators, schedule and ledger."""
    show(f"\n{name}: {point.phase} on {_devices(point)} of {point.cluster}", "bold")
    if point.fits:
        rows = table("metric", ">predicted", ">80 % interval")
        for key, value in point.metrics.items():
            rows.add(key.replace("_", " "), metric(key, value), _interval(point, key))
        show(rows)
        for key, reason in point.reasons.items():
            show(f"no {key.replace('_', ' ')}: {reason}")
        _show_operators(point)
        if point.routing is not None:
            show(routing_line(point.routing))
        if point.schedule is not None:
            parts = ", ".join(
                f"{key.replace('_', ' ')} {quantity(value, 'time')}" for key, value in point.schedule.items()
            )
            show(f"schedule, mean over pipeline ranks: {parts}")
        if point.goodput is not None:
            show(_goodput_line(point.goodput))
    else:
        show(f"does not run: {point.reason}", "red")
    if point.memory is not None:
        show(f"memory of the fullest device: {_ledger_line(point)}")
    basis = _basis(point)
    show(f"limit: {point.bound}; basis: {basis}{ROOFLINE_ONLY if basis == 'roofline' else ''}")
    for note in point.notes:
        show(f"note: {note}")


def _goodput_line(goodput: Mapping[str, float]) -> str:
    """Return where the time of a long run goes."""
    shares = {name: f"{value:.2%}" for name, value in goodput.items() if name != "failures_per_day"}
    return (
        f"goodput of a long run: {shares['goodput']}; checkpoints {shares['writing']}, lost work {shares['lost']}, "
        f"restarts {shares['restarting']}; {goodput['failures_per_day']:.3g} failures a day"
    )


def _show_operators(point: Point) -> None:
    """Print the longest operators, what is hidden of them, and the rest as one line."""
    headline = point.metrics[point.headline] or 1.0
    shown = point.breakdown[:LISTED_OPERATORS]
    rest = sum(entry.time for entry in point.breakdown[LISTED_OPERATORS:])
    bubble = point.metrics.get("bubble_time")
    longest = max(*(entry.time for entry in shown), rest, bubble or 0.0, 0.0) or 1.0
    rows = table("operator", ">time", ">share", "|", ">hidden", "limit", "basis")
    for entry in shown:
        hidden = quantity(entry.hidden, "time") if entry.hidden else ""
        rows.add(
            entry.name,
            quantity(entry.time, "time"),
            share(entry.time / headline),
            entry.time / longest,
            hidden,
            entry.bound,
            entry.basis,
        )
    if rest:
        count = len(point.breakdown) - LISTED_OPERATORS
        rows.add(f"{count} more", quantity(rest, "time"), share(rest / headline), rest / longest, "", "", "")
    if bubble:
        rows.add("bubble", quantity(bubble, "time"), share(bubble / headline), bubble / longest, "", "", "")
    show(rows)


def _devices(point: Point) -> str:
    """Return how many devices a scenario takes."""
    return "1 device" if point.devices == 1 else f"{point.devices:,} devices"


def _interval(point: Point, name: str | None = None) -> str:
    """Return an interval as text; one that holds a single value says so."""
    name = name or point.headline
    pair = point.intervals[name]
    if pair is None:
        return "-"
    return span(name, *pair)


def _basis(point: Point) -> str:
    """Return the bases that the time rests on, the largest share first."""
    shares = sorted(((value, name) for name, value in point.basis().items() if value > 0), reverse=True)
    return ", ".join(name if value > 0.995 else f"{name} {value:.0%}" for value, name in shares) or "-"


def _memory(point: Point) -> str:
    """Return used of available memory."""
    if point.memory is None:
        return "-"
    return used_of(point.on_device, point.capacity)


def _ledger_line(point: Point) -> str:
    """Return the parts of the ledger, the largest first, and what they are held against."""
    parts = sorted(((value, name) for name, value in (point.memory or {}).items() if value), reverse=True)
    listed = ", ".join(f"{name.replace('_', ' ')} {gib(value)}" for value, name in parts)
    hosted = f"; {gib(point.on_host)} a device on its host" if point.on_host else ""
    return f"{_memory(point)}: {listed}{hosted}"


def _limits(point: Point) -> str:
    """Return the largest parts of the headline."""
    headline = point.metrics[point.headline] or 1.0
    parts = [
        f"{entry.name} {share(entry.time / headline)} ({entry.bound})" for entry in point.breakdown[:SHOWN_OPERATORS]
    ]
    bubble, exposed = point.metrics.get("bubble_time"), point.metrics.get("exposed_communication_time")
    if bubble:
        parts.append(f"bubble {share(bubble / headline)}")
    if exposed:
        parts.append(f"exposed communication {share(exposed / headline)}")
    return ", ".join(parts)


def _next_steps(argument: str, points: Mapping[str, Point], *, detailed: bool) -> Iterator[str]:
    """Yield commands that lead on from here."""
    tight = ((name, point) for name, point in points.items() if point.memory and not point.fits)
    for name, point in tight:
        needed = point.on_device
        if needed > point.capacity:
            wanted = f"{math.ceil(needed / parse('1 GiB', 'size'))} GiB"
            yield f"next: what {name} would do with {wanted} a device:"
            yield f'      costmodel simulate {argument} --scenario {name} --set hardware.memory.hbm.capacity="{wanted}"'
            break
    for name, point in points.items():
        if point.fits:
            run = next((entry for entry in point.breakdown if entry.count), point.breakdown[0])  # not what only waits
            yield f'next: costmodel explain {argument} --scenario {name} --op "{run.name}"'
            if not detailed:
                yield f"      costmodel simulate {argument} --scenario {name}"
            break
