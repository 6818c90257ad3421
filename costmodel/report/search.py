"""The terminal view of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from costmodel.report.answer import telling
from costmodel.report.page import Table, is_verbose, show, show_hint, table
from costmodel.report.sweep import show_rents
from costmodel.report.text import NONE, gib, interval, metric, readable, setting, short_paths
from costmodel.result import headline_of
from costmodel.schema.overrides import ON
from costmodel.schema.results import FoundScenario
from costmodel.study.goals import SENSES, Candidate, Reached, SearchResult, ranked
from costmodel.study.layouts import REPLICAS
from costmodel.study.search_servers import PERCENTILE

_MOST_COUNTS = 4  # numbers of devices that are listed one by one
_RATES = "tokens_per_second_per_device", "tokens_per_second_per_user", "mfu"
_COSTS = {"cost_per_million_tokens": "per million tokens", "cost_per_trillion_tokens": "per trillion tokens"}
_ENDS = {"maximise": "the most", "minimise": "the least"}
_FEW = 5  # layouts in the short form
_METRIC_OF = {"e2e": "latency", "itl": "tpot"}  # percentile -> the metric whose it is


def show_search(result: SearchResult, first: str, scenario: str) -> None:
    """Print how many layouts were considered, the best ones, and the Pareto front of the two token rates.

    first: the arguments that name the workload in the best layout.
    scenario: its name there.
    """
    counts = [f"{count:,}" for count in result.devices]
    listed = f"{counts[0]} to {counts[-1]}" if len(counts) > _MOST_COUNTS else " or ".join(counts)
    looked = considered(result, f" on {listed} devices")
    if result.best:
        show(_answer(result), "bold")
        if result.reached is not None:
            show(_end(result, result.reached))
        show(looked)
    else:
        show(f"{result.scenario}: {looked}", "bold")
    if result.stages is not None:
        show(f"stages: {result.stages}")
    if not result.best:
        show(_why_none(result), "yellow")
        for note in result.all_notes:
            show(f"note: {note}")
        return
    if "schedule" in result.best[0].at:
        show(
            "as the scenario states, unless axes of a study name it: gradient format, overlap, `parallel.context`, "
            "`parallel.expert_tensor` (experts are whole where none is stated)"
        )
    _show_layouts(result)
    if is_verbose():
        show_rents(result.rents)
    for note in telling(result.all_notes):
        show(f"note: {note}")
    show_hint()
    is_server = result.best[0].percentiles is not None  # whose figures above are those of the closed form
    show(f"next: costmodel simulate {first} --scenario {scenario}{' --engine analytic' * is_server}", "dim")
    if is_server:
        show(f"      costmodel simulate {first} --scenario {scenario} --engine event   # request by request", "dim")


def _show_layouts(result: SearchResult) -> None:
    best = result.best if is_verbose() else result.best[:_FEW]
    show(_layouts(best, result))
    if any(layout.tied for layout in best):
        show("~ the 80 % intervals of this row and of a row next to it overlap: either may be better")
    if result.front:
        show_front(result, "Pareto front: tokens/s per device against tokens/s per user")


def show_front(result: SearchResult, heading: str) -> None:
    """Print a Pareto front as a table, in the short form as one line of the rates of a few of its layouts."""
    if is_verbose():
        show("")
        show(heading, "bold")
        show(_layouts(result.front, result, front=True))
        return
    rates = (" / ".join(metric(name, each.metrics[name]) for name in _RATES[:2]) for each in _spread(result.front))
    show(f"{heading}: {', '.join(rates)}")


def _answer(result: SearchResult) -> str:
    best = result.best[0]
    headline = headline_of(best.metrics)
    layout = "".join(
        f", {name.rpartition('.')[2]} {_value(value, result.axes.get(name))}"
        for name, value in best.at.items() if value not in (1, None)
    )  # fmt: skip
    span = "" if best.interval is None else f" ({interval(headline, *best.interval, digits=3)})"
    known = [name for name in _COSTS if best.metrics.get(name) is not None]
    costs = (f"{metric(name, best.metrics[name])} {_COSTS[name]}" for name in known)
    count = f"{best.devices:,} device{'s' * (best.devices > 1)}"
    text = f"{count}{layout}: {metric(headline, best.metrics[headline])} {readable(headline)}{span}"
    return f"{result.scenario}: {', '.join((text, *costs))}"


def _end(result: SearchResult, reached: Reached) -> str:
    """Return how far the number goes that was looked for, and what is beyond."""
    dimension = result.axes.get(reached.path)
    name = f"{result.objective} {_value(reached.value, dimension)} is {_ENDS[result.sense]}"
    if reached.beyond is None or reached.failed is None:
        return f"{name} that there can be"
    failed = reached.failed if isinstance(reached.failed, str) else _why_none(reached.failed)
    return f"{name}: at {_value(reached.beyond, dimension)}, {failed}"


def _spread(front: Sequence[Candidate]) -> Sequence[Candidate]:
    if len(front) <= _FEW:
        return front
    return [front[round(i * (len(front) - 1) / (_FEW - 1))] for i in range(_FEW)]


def show_clusters(results: Sequence[SearchResult]) -> None:
    """Print, of each scenario that was searched on several clusters, its best layout on each, the best first."""
    for name in dict.fromkeys(result.scenario.partition(ON)[0] for result in results):
        runs = [one for one in results if one.best and one.scenario.partition(ON)[0] == name]
        if len(runs) < 2 or len({one.objective for one in runs}) > 1:
            continue
        runs.sort(key=lambda one: SENSES[one.sense] * one.best[0].objective)
        values = ranked([one.best[0] for one in runs])
        listed = ", ".join(
            f"{one.scenario.partition(ON)[2]} {_objective(one, best.objective)} on {best.devices:,} "
            f"device{'s' * (best.devices > 1)}{' ~' * best.tied}"
            for one, best in zip(runs, values, strict=True)
        )
        show(f"{name}: {runs[0].sense} {runs[0].objective}, the best cluster first: {listed}", "bold")
        if any(best.tied for best in values):
            show("~ 80 % intervals overlap: the model cannot tell which is better")


def _objective(result: SearchResult, value: float) -> str:
    """Return a value of the objective, of a metric or of the number whose end was looked for."""
    if result.reached is None:
        return metric(result.objective, value)
    return _value(value, result.axes[result.reached.path])


def considered(result: SearchResult | FoundScenario, where: str = "") -> str:
    """Return how many layouts were considered, are valid, and were evaluated."""
    ruled_out = " (bounds rule out the rest)" if result.scheduled < result.feasible else ""
    return (
        f"considered {result.looked_at:,} layouts{where}; {result.feasible:,} divide evenly; "
        f"{result.scheduled:,} evaluated in full{ruled_out}"
    )


def _why_none(result: SearchResult) -> str:
    if result.why is not None:
        return result.why
    if not result.looked_at:
        return (
            "no layout on this many devices matches your --set: "
            "a degree does not divide the devices, the heads or the experts"
        )
    if not result.feasible:
        return "no layout divides evenly"
    if result.least is not None:
        return (
            f"none fits in memory: the smallest layout needs {gib(result.least.memory)} GiB per device, which has "
            f"{gib(result.least.capacity)} GiB; allow more --devices or use a narrower `precision`"
        )
    return "no layout both fits and meets the constraints"


def _layouts(rows: Sequence[Candidate], result: SearchResult, *, front: bool = False) -> Table:
    """Return layouts as a table: what differs among them, their times, rates and cost, and all that the goal reads.

    front: keep the rate per user on a narrow terminal and drop the time instead.
    """
    axes, known = result.axes, rows[0].metrics
    names = list(dict.fromkeys(name for row in rows for name in row.at))
    short = {name: name.rpartition(".")[2] for name in names} | {REPLICAS: "replicas"}
    short |= {name: "batch" for name, words in short.items() if words == "batch_per_device"}
    short |= short_paths([name for name in names if list(short.values()).count(short[name]) > 1])
    headline = headline_of(known)
    named = [name for name in result.names if name != headline]
    listed = [name for name in dict.fromkeys((*_RATES, *_COSTS, *named)) if known.get(name) is not None]
    percentiles = [row.percentiles or {} for row in rows]
    tails = [name for name in percentiles[0] if all(PERCENTILE in each.get(name, {}) for each in percentiles)]
    droppable = dict.fromkeys(("mfu", *_COSTS), "??") | {"tokens_per_second_per_user": "" if front else "???"}
    droppable |= dict.fromkeys(named, "")
    layouts = table(
        "", ">devices", *(f">{short[name]}" for name in names),
        *((f"?>{headline}", "??>80 % interval") if front else (f">{headline}", "?>80 % interval")),
        *(f">{PERCENTILE} {name}" for name in tails),
        *(f"{droppable.get(name, '')}>{_heading(name)}" for name in listed),
    )  # fmt: skip
    for row in rows:
        layouts.add(
            "~" if row.tied else "", f"{row.devices:,}", *(_value(row.at.get(name), axes.get(name)) for name in names),
            metric(headline, row.metrics[headline]),
            NONE if row.interval is None else interval(headline, *row.interval),
            *(metric(_METRIC_OF.get(name, name), (row.percentiles or {})[name][PERCENTILE]) for name in tails),
            *(metric(name, row.metrics[name]) for name in listed),
        )  # fmt: skip
    return layouts


def _heading(name: str) -> str:
    name = name.replace("tokens_per_second_per_", "tokens/s/")
    return name.replace("cost_per_million_", "cost/M ").replace("cost_per_trillion_", "cost/T ")


def _value(value: Any, dimension: str | None) -> str:
    if value is None:
        return NONE
    return str(value) if dimension in (None, "count") else setting(float(value), dimension)
