"""A plan of a training run as text: the answer first, then each cluster's best and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.planning.goodput import DAY, HOUR, TrainingRun
from costmodel.planning.training import TrainingPlans
from costmodel.report.page import Table, show, table
from costmodel.report.plan import SURE
from costmodel.report.text import NONE, count, gib, percent, quantity, whole
from costmodel.study.goals import shares_of_step

_MILLION = 1e6
_LEAST = 0.01  # of a step, a share that is shown


def show_training(plans: TrainingPlans) -> None:
    """Print the cheapest run in one line, a table of all, why not fewer devices, and what is assumed."""
    if not plans.runs:
        show("nothing fits in memory", "yellow")
    else:
        best = plans.runs[0]
        said = headline(best)
        late = f"nothing ends in time; the nearest is {said}"
        show(f"{said}{_chance(best, plans)}" if plans.holds else late, "bold")
        show(_table(plans))
        if best.roomier is not None:
            show(_beside(best, best.roomier))
        if best.fewer is not None:
            show(f"why not fewer: {best.fewer}")
        interval, hours = best.interval, best.devices * best.seconds / HOUR
        if interval is not None:
            chance = best.probability(plans.limit)
            in_time = "" if chance is None else f"; in time with a probability of {percent(chance, 0)}"
            show(f"80 % interval {_span(interval[0])} .. {_span(interval[1])}{in_time}")
        good = best.goodput
        where = "" if good.writes == "stated" else " to host memory"
        every = f"a checkpoint{where} every {_span(good.interval)}, each {_span(good.write)}"
        every = every if good.interval else "checkpoints as if they took no time"
        show(
            f"goodput {percent(good.share)}: a failure every {_span(good.between)}, {every} ({good.writes}); "
            f"{count(hours)} device-hours"
        )
        for note in best.notes:
            show(f"note: {note}")
    for reason in plans.left_out:
        show(f"left out: {reason}")
    if plans.runs:
        show(f"next: {plans.runs[0].command}", "dim")


def _span(seconds: float) -> str:
    units = {"days": DAY, "h": HOUR, "min": 60.0, "s": 0.0}
    name = next(name for name, unit in units.items() if seconds >= unit)
    return f"{count(seconds / (units[name] or 1.0), 3)} {name}"


def _chance(run: TrainingRun, plans: TrainingPlans) -> str:
    """Return that a run may end late, where that is not unlikely, and what would make it less so."""
    chance, sized = run.probability(plans.limit), plans.request.confidence
    if chance is None or (chance >= SURE and sized is None):
        return ""
    more = " (--confidence 90% sizes for more)" if sized is None else f" (sized for {percent(sized, 0)})"
    return f"; in time with a probability of {percent(chance, 0)}{more}"


def _beside(run: TrainingRun, other: TrainingRun) -> str:
    left = 1.0 - run.memory / run.point.capacity
    slower = percent(other.seconds / run.seconds - 1.0, 0)
    return (
        f"{percent(left)} of memory is left; with a tenth: {layout(other)}: {gib(other.memory, 0)} GiB, "
        f"{_span(other.seconds)}, {slower} slower"
    )


def headline(run: TrainingRun) -> str:
    """Return a run in one line."""
    device = run.scenario.cluster.device.name.removesuffix("-sxm").replace("-", " ").upper()
    dollars = [] if run.dollars is None else [_money(run.dollars)]
    mfu = run.point.metrics.get("mfu")
    parts = [
        _span(run.seconds), *dollars, *([] if mfu is None else [f"MFU {mfu:.0%}"]),
        f"{gib(run.memory, 0)} of {gib(run.point.capacity, 0)} GiB",
    ]  # fmt: skip
    precision = run.scenario.precision.linear.upper()
    return f"{run.devices:,} {device}: {', '.join(parts)}; {precision}, {layout(run)}; {_limited(run)}"


def _limited(run: TrainingRun) -> str:
    """Return what limits the step, and which share of it: of a step with several parts what limits most of it."""
    if "bubble_time" not in run.point.metrics:
        return f"limited by {run.point.bound}"
    shares = [f"{name} {percent(share, 0)}" for name, share in shares_of_step(run.point).items() if share >= _LEAST]
    return f"limited by {', '.join(shares)} of the step"


def layout(run: TrainingRun) -> str:
    """Return a layout in words: its degrees above one, micro-batch and recomputation."""
    own, rollout = run.layout, run.rollout
    micro, recompute = own.get("micro_batch"), own.get("recompute")
    parts = [_degrees(own)]
    parts += [] if micro is None else [f"micro-batch {micro:g}"]
    parts += [] if recompute is None else [f"{'no' if recompute == 'none' else recompute} recomputation"]
    if rollout is not None:
        many = rollout.get("replicas.count", 1)
        parts.append(f"rollout by {many:g} {'engine' if many == 1 else 'engines'}, each {_degrees(rollout)}")
    return ", ".join(parts)


def _degrees(own: Mapping[str, Any]) -> str:
    names = {"tp": "TP", "cp": "CP", "pp": "PP", "virtual": "VP", "dp": "DP", "ep": "EP"}
    values = {short: own.get(f"parallel.{short}", 1) for short in names}
    return " x ".join(f"{names[short]} {value:g}" for short, value in values.items() if value > 1) or "one device"


def _money(dollars: float) -> str:
    return f"{dollars / _MILLION:,.3g} M$" if dollars >= _MILLION else f"{count(dollars)} $"


def _table(plans: TrainingPlans) -> Table:
    content = table("cluster", ">devices", "??precision", ">time", ">cost", "???>energy", ">MFU", "?>GiB", "layout")
    for run in plans.runs:
        mfu = run.point.metrics.get("mfu")
        content.add(
            run.cluster.partition("/")[2] or run.cluster, whole(run.devices),
            run.scenario.precision.linear.upper(), _span(run.seconds),
            NONE if run.dollars is None else _money(run.dollars), quantity(run.joules, "energy", 3),
            NONE if mfu is None else percent(mfu, 0), gib(run.memory, 0), layout(run).partition(",")[0],
        )  # fmt: skip
    return content
