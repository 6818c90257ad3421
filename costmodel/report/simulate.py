"""The terminal view of `simulate`: predictions, their certainty, what limits them, and next steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from costmodel.errors import CostModelError
from costmodel.records import asdict
from costmodel.report.answer import (
    LEAST,
    answer_line,
    basis_line,
    devices,
    drawn_line,
    facts_line,
    is_even,
    load_phrase,
    routing_line,
    show_notes,
)
from costmodel.report.page import Table, is_verbose, show, show_hint, table
from costmodel.report.text import NONE, count, gib, interval, memory_use, metric, quantity, readable, share, shown_basis
from costmodel.result import Point, shown_line
from costmodel.study.prices import quotes, unlike
from costmodel.units import parse
from costmodel.workload.plans import ExpertBound, Serving

if TYPE_CHECKING:
    from costmodel.api import Workload

SHOWN_OPERATORS = 3  # in the overview
SHOWN_ANCHORS = 6  # measured values
SAME = 0.005  # of a factor that rounds to one
LISTED_OPERATORS = 14  # of all that is known
SHORT_LIST = 5  # of one scenario
TIMES_OF_REQUESTS = {
    "ttft": "time to first token", "tpot": "time per output token", "itl": "gap between tokens", "e2e": "whole request",
}  # fmt: skip
BASES = {
    "measured": "near a measured shape",
    "fitted": "between measured shapes",
    "transferred": "by the fit of another device, kernel or changed hardware",
    "extrapolated": "beyond the measured sizes",
    "roofline": "nothing like it was measured",
    "anchored": "by the fit of another device, moved by rows of this one",
}
LOWER_BOUND = " (a lower bound on time; the interval shows how much slower measured kernels were)"


def show_simulation(
    arguments: str, workload: Workload, points: Mapping[str, Point], *, detailed: bool, engine: str = "analytic",
    base: Workload | None = None,
) -> None:  # fmt: skip
    """Print the scenarios, one screen for all of them, or each in detail.

    arguments: the command's arguments that name the workload again, for the next steps. base: the workload that the
    scenarios are compared with; null: scenarios on several clusters are compared with the first.
    """
    for name, point in points.items():
        show(answer_line(name, point), "bold" if point.fits else "red")
    if engine == "analytic":
        for line in _ratios(workload, points, base):
            show(line, "bold")
    if is_verbose():
        _show_all(workload, points, detailed=detailed, engine=engine)
    elif detailed:
        for name, point in points.items():
            _show_short(workload, name, point)
    else:
        _show_where(points)
        show_notes(points)
    show_hint(f"{'event simulation; ' * (engine == 'event')}( .. ): 80 % interval")
    for line in _next_steps(arguments, workload, points, detailed=detailed):
        show(line, "dim")


def _ratios(workload: Workload, points: Mapping[str, Point], base: Workload | None) -> Iterator[str]:
    """Yield for each scenario its headline over that of the base, or over that on the first cluster."""
    first: dict[str, str] = {}
    starts = {name: name if base else first.setdefault(name.partition("@")[0], name) for name in points}
    pairs = [(name, start) for name, start in starts.items() if points[name].fits and (base or start != name)]
    if not pairs:
        return
    from costmodel.study.what_if import ratio_of  # loads what other answers do without

    for name, start in pairs:
        try:
            ratio, ends = ratio_of(base or workload, start, workload, name)
        except CostModelError:
            continue  # the other side cannot run, as its line says
        headline = points[name].headline
        value = metric(headline, (points[name].metrics[headline] or 0.0) / ratio)
        span = "" if ends is None else f" ({ends[0]:.3g} .. {ends[1]:.3g})"
        yield f"{name}: {ratio:.3g} times{span} the {value} {'without the factors' if base else f'of {start}'}"


def _show_all(workload: Workload, points: Mapping[str, Point], *, detailed: bool, engine: str) -> None:
    facts = workload.model()
    show(_title(workload) + (", event simulation" if engine == "event" else ""), "bold")
    show(
        f"{facts['name']}: "
        f"{count(facts['parameters'])} parameters, {count(facts['active_parameters'])} active, "
        f"{quantity(facts['kv_cache_bytes_per_token'], 'size')} KV cache per token, "
        f"{quantity(facts['training_flop_per_token'], 'flop')} per training token"
    )
    if detailed:
        for name, point in points.items():
            drawn = drawn_line(workload, name, point) if engine == "analytic" else None
            replicas, slo = _replica_line(workload, name, point), _slo_line(workload, name, point)
            _show_detail(name, point, (replicas, slo, drawn, _energy_line(workload, name, point)))
    else:
        _show_overview(points)


def _show_short(workload: Workload, name: str, point: Point) -> None:
    """Print what is asked next of one scenario: other metrics, where its time goes, its memory, what may move it."""
    if point.fits:
        show(f"  {facts_line(point)}")
        _show_tails(point)
        _show_classes(point)
        _show_operators(point, SHORT_LIST)
        anchor = None if point.anchor is None else _anchor_line(point.anchor)
        _show_lines([_slo_line(workload, name, point), drawn_line(workload, name, point, LEAST), anchor])
    if point.memory is not None:
        show(f"memory: {_ledger_line(point)}")
    if basis := basis_line(point):
        show(f"time from kernels: {basis}")
    show_notes({name: point})


def _show_where(points: Mapping[str, Point]) -> None:
    for name, point in points.items():
        if point.fits:
            show(f"  {name} on {devices(point)}: {_largest_times(point)}")
            if tails := _tails(point.percentiles or {}):
                show(f"  {name}: {tails}")
        elif point.memory is not None:
            show(f"  {name}: {_ledger_line(point)}")


def _title(workload: Workload) -> str:
    cluster = workload.asked()["cluster"]
    on = ", ".join(cluster) if isinstance(cluster, list) else cluster
    return f"{workload.name} on {on}" if on else workload.resolved.title or workload.name


def _show_overview(points: Mapping[str, Point]) -> None:
    rows = table("scenario", "?cluster", ">predicted", ">80 % interval", "?>tokens/s/device", "bound", ">memory")
    for name, point in points.items():
        rows.add(
            name, f"{point.cluster}, {devices(point)}", metric(point.headline, point.metrics[point.headline]),
            interval_of(point.intervals, point.headline),
            metric("tokens_per_second", point.metrics.get("tokens_per_second_per_device")), point.bound, _memory(point),
        )  # fmt: skip
    show(rows)
    _show_bases(points)
    show("Where the time goes" if any(point.fits for point in points.values()) else "Why no scenario can run", "bold")
    for name, point in points.items():
        if point.fits:
            load = "" if point.routing is None or is_even(point.routing) else f"; {load_phrase(point.routing)}"
            show(f"  {name}: {_largest_parts(point)}{load}")
        else:
            show(f"  {name}: cannot run: {point.reason}", "red")
            if point.memory is not None:
                show(f"    {_ledger_line(point)}")
    _show_prices(points)
    for name, point in points.items():
        if point.verdict is not None:
            show("; ".join(filter(None, (f"  {name}: {point.verdict}", _tails(point.percentiles or {})))))
    show_notes(points)


def _show_prices(points: Mapping[str, Point]) -> None:
    offers = {name: point.offer for name, point in points.items() if point.fits and point.offer is not None}
    rents = quotes(offers.values(), "rental")
    if not rents:
        return
    known = {name: points[name].metrics.get("cost_rate") for name in offers}
    systems = ", ".join(f"{name} {metric('cost_rate', rate)}" for name, rate in known.items() if rate is not None)
    show(f"Rent: {systems}; {'; '.join(map(str, rents))}")
    for line in unlike(rents):
        show(f"note: {line}")


def _show_quotes(point: Point) -> None:
    if point.offer is None:
        return
    for of, name in (("rental", "cost_rate"), ("purchase", "capital_cost")):
        for one in quotes([point.offer], of) if point.metrics.get(name) is not None else ():
            show(f"{of} price: {one}")


def _tails(percentiles: Mapping[str, Mapping[str, float]]) -> str:
    parts = []
    for name, each in percentiles.items():
        values = " / ".join(quantity(value, "time") for value in each.values())
        parts += [f"{TIMES_OF_REQUESTS.get(name, name)} {'/'.join(each)} {values}"] if each else []
    return ", ".join(parts)


def _show_bases(points: Mapping[str, Point]) -> None:
    """Print the share of the time by basis. Scenarios with the same shares are on one line.

    A closed formula besides other scenarios is left out: its interval says that it is exact.
    """
    bases: dict[str, list[str]] = {}
    formulas_only = all(point.phase == ExpertBound.phase for point in points.values())
    for name, point in points.items():
        if point.fits and (formulas_only or point.phase != ExpertBound.phase):
            bases.setdefault(_basis(point), []).append(name)
    if bases:
        show("Where the times come from (share of time by basis)", "bold")
    for basis, names in bases.items():
        whose = f"{', '.join(names)}: " if len(bases) > 1 else ""
        show(f"  {whose}{basis}{LOWER_BOUND if list(bases) == ['roofline'] else ''}")


def _show_detail(name: str, point: Point, more: Sequence[str | None]) -> None:
    """Print one scenario with its metrics, operators, schedule and memory. more: lines on its load and its limits."""
    verdict = "" if point.verdict in (None, "stable") else f", {point.verdict}"
    show(f"\n{name}: {point.phase} on {devices(point)} of {point.cluster}{verdict}", "bold")
    if point.fits:
        show(metrics_table(point.metrics, point.intervals, readable))
        for key, reason in point.reasons.items():
            show(f"{readable(key)} not available: {reason}")
        _show_quotes(point)
        _show_tails(point)
        _show_classes(point)
        _show_tokens(point)
        _show_operators(point)
        if point.routing is not None:
            show(routing_line(point.routing))
        _show_lines(more)
        if point.schedule is not None:
            parts = ", ".join(f"{readable(key)} {quantity(value, 'time')}" for key, value in point.schedule.items())
            show(f"schedule (average over pipeline ranks): {parts}")
        if point.goodput is not None:
            show(_goodput_line(point.goodput))
        if point.anchor is not None:
            show(_anchor_line(point.anchor))
    else:
        show(f"cannot run: {point.reason}", "red")
    if point.memory is not None:
        show(f"memory of the most-loaded device: {_ledger_line(point)}")
    basis = _basis(point)
    show(f"bound: {point.bound}; basis: {basis}{LOWER_BOUND if basis == 'roofline' else ''}")
    met = [name for name, value in point.basis().items() if value > 0 and point.anchor is None]
    if met:
        show(f"basis of a time: {'; '.join(f'{shown_basis(name)}, {BASES[name]}' for name in met)}", "dim")
    show_notes({name: point})


def _show_tails(point: Point) -> None:
    known = {name: each for name, each in (point.percentiles or {}).items() if each}
    if not known:
        return
    keys = list(dict.fromkeys(key for each in known.values() for key in each))
    rows = table("time", *(f">{key}" for key in keys))
    for name, each in known.items():
        rows.add(TIMES_OF_REQUESTS.get(name, name), *(quantity(each[key], "time") for key in keys))
    show(rows)


def _show_tokens(point: Point) -> None:
    """Print what each kind of a server's tokens takes, and what it takes between requests."""
    bill = point.details.get("tokens")
    if bill is None:
        return
    names = {"rent_per_million": "rent a million", "electricity_per_million": "electricity a million"}
    rows = table("tokens", ">a second", ">energy of one", *(f"?>{name}" for name in names.values()))
    for kind in ("input", "cached", "output"):
        each = bill[kind]
        if each["tokens_per_second"]:
            money = (quantity(each[name], "money") for name in names)
            rows.add(kind, count(each["tokens_per_second"]), quantity(each["energy"], "energy"), *money)
    show(rows)
    idle = bill["idle"]
    if idle["share"] > 0.0:
        rent, electricity = (quantity(idle[name], "money_rate") for name in ("cost_rate", "electricity_rate"))
        show(
            f"idle {share(idle['share'])} of the time: {quantity(idle['power'], 'power')}, rent {rent}, "
            f"electricity {electricity}"
        )


def _show_classes(point: Point) -> None:
    """Print the times of each class of requests, and of each kind of engines, and how many keep to their objective."""
    listed = enumerate(point.details.get("kinds", ()), 1)
    kinds = {f"{number}: {each['count']:g} x {each['cluster']}": each for number, each in listed}
    for word, parts in (("class", point.details.get("classes", {})), ("engines", kinds)):
        if parts:
            _show_parts(word, parts)


def _show_parts(word: str, parts: Mapping[str, Any]) -> None:
    keys = ("ttft", "tpot", "latency", "attainment", "goodput")
    rows = table(word, ">share", *(f">{readable(key)}" for key in keys))
    for name, each in parts.items():
        within = NONE if each["attainment"] is None else share(each["attainment"])
        times = (metric(key, each[key]) for key in keys[:3])
        rows.add(name, share(each["share"]), *times, within, metric("goodput", each["goodput"]))
    show(rows)


def _show_lines(lines: Iterable[str | None]) -> None:
    for line in filter(None, lines):
        show(line)


def _replica_line(workload: Workload, name: str, point: Point) -> str | None:
    """Return that a server's requests are counted for one data-parallel replica of several, and those of all."""
    scenario = workload.scenario(name)
    own = point.metrics.get("concurrency")
    if not isinstance(scenario.plan, Serving) or scenario.parallel.dp == 1 or own is None:
        return None
    replicas = float(scenario.parallel.dp)
    return (
        f"concurrency and max concurrency are of one data-parallel replica; the {replicas:g} of an engine have "
        f"{metric('concurrency', replicas * own)} requests in flight"
    )


def _slo_line(workload: Workload, name: str, point: Point) -> str | None:
    """Return for each limit of a serving scenario the highest percentile that keeps it, nothing without limits."""
    plan = workload.scenario(name).plan
    if not isinstance(plan, Serving) or plan.slo is None or not point.percentiles:
        return None
    parts = []
    for metric_name, limit in asdict(plan.slo).items():
        known = point.percentiles.get(metric_name)
        if limit is None or not known:
            continue
        kept = [key for key, value in known.items() if value <= limit]
        said = f"met up to {kept[-1]} ({quantity(known[kept[-1]], 'time')})" if kept else "not met by the median"
        parts.append(f"{TIMES_OF_REQUESTS.get(metric_name, metric_name)} of {quantity(limit, 'time')}: {said}")
    return f"slo: {'; '.join(parts)}" if parts else None


def _energy_line(workload: Workload, name: str, point: Point) -> str | None:
    """Return that an energy rests on the limit of the board, where nothing is known of what its kernels draw."""
    device = workload.scenario(name).cluster.device
    if point.metrics.get("energy_per_token") is None or device.power.states_work:
        return None
    return f"energy: what kernels of {device.name} draw is not known; its power stands at the limit, an upper bound"


def _anchor_line(anchor: Mapping[str, Any]) -> str:
    """Return which measured values a prediction rests on, how far each lies from its own, and what they make of it."""
    named = zip(anchor["rests_on"], anchor["ratios"], strict=True)
    shown = [
        f"{name} took {ratio:.3g} times as long as predicted" for name, ratio in itertools.islice(named, SHOWN_ANCHORS)
    ]
    more = anchor["steps"] - len(shown)
    rests_on = "; ".join([*shown, *([f"{more} more"] if more > 0 else [])])
    first = anchor.get("first_token_factor", 1.0)
    last = f", and first tokens {first:.3g} times as long besides" if abs(first - 1.0) > SAME else ""
    return f"anchor: {rests_on}; this run is taken to be {anchor['factor']:.3g} times as long{last}"


def _goodput_line(goodput: Mapping[str, float]) -> str:
    shares = {name: f"{value:.2%}" for name, value in goodput.items() if name != "failures_per_day"}
    return (
        f"goodput of a long run: {shares['goodput']}; checkpointing {shares['writing']}, lost work {shares['lost']}, "
        f"restarts {shares['restarting']}; {goodput['failures_per_day']:.3g} failures per day"
    )


def _show_operators(point: Point, most: int = LISTED_OPERATORS) -> None:
    whole = point.whole or 1.0
    shown, others = point.breakdown[:most], point.breakdown[most:]
    rest, bubble = sum(entry.time for entry in others), point.metrics.get("bubble_time") or 0.0
    longest = max(*(entry.time for entry in shown), rest, bubble, 0.0) or 1.0
    rows = table("operator", ">time", ">share", "|", "?>hidden", "bound", "basis")
    for entry in shown:
        rows.add(
            shown_line(entry.name), quantity(entry.time, "time"), share(entry.time / whole), entry.time / longest,
            quantity(entry.hidden, "time") if entry.hidden else "", entry.bound, shown_basis(entry.basis),
        )  # fmt: skip
    for name, time in ((f"{len(others)} others", rest), ("bubble", bubble)):
        if time:
            rows.add(name, quantity(time, "time"), share(time / whole), time / longest, "", "", "")
    show(rows if any(entry.hidden for entry in shown) else rows.without(4))


def metrics_table(
    metrics: Mapping[str, float | None], intervals: Mapping[str, Sequence[float] | None], name_of: Callable[[str], str]
) -> Table:
    """Return one row per metric. name_of: turns a key into a name."""
    rows = table("metric", ">predicted", ">80 % interval")
    for key, value in metrics.items():
        rows.add(name_of(key), metric(key, value), interval_of(intervals, key))
    return rows


def interval_of(intervals: Mapping[str, Sequence[float] | None], name: str) -> str:
    """Return the interval of a metric, `-` for none."""
    ends = intervals.get(name)
    return NONE if ends is None or len(ends) != 2 else interval(name, ends[0], ends[1])


def _basis(point: Point) -> str:
    shares = sorted(((value, name) for name, value in point.basis().items() if value > 0), reverse=True)
    words = ((value, shown_basis(name)) for value, name in shares)
    return ", ".join(word if value > 0.995 else f"{word} {value:.0%}" for value, word in words) or NONE


def _memory(point: Point) -> str:
    return NONE if point.memory is None else memory_use(point.on_device, point.capacity)


def _ledger_line(point: Point) -> str:
    parts = sorted(((value, name) for name, value in (point.memory or {}).items() if value), reverse=True)
    listed = ", ".join(f"{readable(name)} {gib(value)}" for value, name in parts)
    hosted = f"; {gib(point.on_host)} in host memory per device" if point.on_host else ""
    return f"{_memory(point)}: {listed}{hosted}"


def _largest_times(point: Point) -> str:
    times = [(entry.time, shown_line(entry.name)) for entry in point.breakdown]
    times.append((point.metrics.get("bubble_time") or 0.0, "bubble"))
    longest = sorted(times, key=lambda pair: -pair[0])[:SHOWN_OPERATORS]
    return ", ".join(f"{name} {share(time / (point.whole or 1.0))}" for time, name in longest)


def _largest_parts(point: Point) -> str:
    whole = point.whole or 1.0
    parts = [
        f"{shown_line(entry.name)} {share(entry.time / whole)} ({entry.bound})"
        for entry in point.breakdown[:SHOWN_OPERATORS]
    ]
    for name, key in (("bubble", "bubble_time"), ("exposed communication", "exposed_communication_time")):
        if time := point.metrics.get(key):
            parts.append(f"{name} {share(time / whole)}")
    return ", ".join(parts)


def _next_steps(
    arguments: str, workload: Workload, points: Mapping[str, Point], *, detailed: bool
) -> Iterator[str]:  # fmt: skip
    for name, point in points.items():
        if not point.fits and point.memory and point.on_device > point.capacity:
            from costmodel.study.room import with_room  # loads when it is used

            room = with_room(arguments, workload, name, point)
            size = f"{math.ceil(point.on_device / parse('1 GiB', 'size'))} GiB"
            where, again = room or (
                f"if a device had {size}", f'{arguments} --set hardware.memory.hbm.capacity="{size}"'
            )  # fmt: skip
            yield f"next: {name} {where}:"
            yield f"      costmodel simulate {again} --scenario {name}"
            break
    for name, point in points.items():
        if point.fits and "kinds" not in point.details:
            operator = next((entry for entry in point.breakdown if entry.count), point.breakdown[0])  # no mere waiting
            yield f'next: costmodel explain {arguments} --scenario {name} --op "{operator.name}"'
            if not detailed:
                yield f"      costmodel simulate {arguments} --scenario {name}"
            break
