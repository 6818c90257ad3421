"""The analytic engine over a grid: blocks in, metrics, masks and intervals out. And one point in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.analytic.anchors import POWERS
from costmodel.analytic.blocks import Block, blocks, single
from costmodel.analytic.breakdown import summing_to
from costmodel.analytic.capital import missing, price_facts
from costmodel.analytic.evaluation import Evaluation, evaluate, ledger_of
from costmodel.analytic.expert_load import routing_facts, routing_grid
from costmodel.analytic.intervals import RATES, TIMES, intervals, run_scatter
from costmodel.analytic.out_of_memory import largest_layout, too_much_for_a_device, too_much_for_the_host
from costmodel.analytic.remedies import Priced, described, priced
from costmodel.cost.calibration import Calibration
from costmodel.errors import InfeasibleError, InputError, Problem
from costmodel.hardware import Device
from costmodel.quantities import Array, Indices, Mask, Quantity
from costmodel.records import Record, asdict
from costmodel.result import (
    BAD_LAYOUT,
    FITS,
    NO_HOST_MEMORY,
    NO_MEMORY,
    NO_PATH,
    OVERLOADED,
    PHASES,
    Entry,
    Interval,
    Metrics,
    Point,
    Result,
    empty_grid,
)
from costmodel.units import render
from costmodel.workload.memory import Ledger, fits_in_host
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout, rules

FIRST_TOKENS = "first tokens, as measured"  # line of what these take longer than the engine has it
KEPT = 4  # blocks of a grid whose evaluations are kept for its intervals
Engine: TypeAlias = "Callable[[Scenario, Calibration], Evaluation]"


class _Attempt(Record):
    """A single scenario tried. reason: index into `REASONS`; explanation: of a reason other than `FITS`, in full."""

    ledger: Ledger | None
    evaluation: Evaluation | None
    reason: int
    explanation: str | None


def _attempt(scenario: Scenario, calibration: Calibration, engine: Engine) -> _Attempt:
    """Return the evaluation of a single scenario, or why there is none. Raises InputError on a broken rule."""
    broken = [rule for rule in rules(scenario) if not rule.holds]
    if broken:
        prefix = f"scenarios.{scenario.name}"
        raise InputError([Problem(None, f"{prefix}.{rule.field}", rule.message, rule.hint) for rule in broken])
    evaluation: Evaluation | None = None
    unreachable: str | None = None
    try:
        evaluation = engine(scenario, calibration)
        ledger = evaluation.ledger
    except InfeasibleError as error:
        unreachable, ledger = str(error), ledger_of(scenario)
    if ledger is not None and not ledger.total <= ledger.room(scenario.cluster):
        return _Attempt(ledger, None, NO_MEMORY, _too_much(scenario, ledger, calibration))
    if ledger is not None and not fits_in_host(ledger, scenario.cluster.node, largest_layout(scenario)):
        return _Attempt(ledger, None, NO_HOST_MEMORY, too_much_for_the_host(scenario, ledger))
    return _Attempt(ledger, evaluation, FITS if unreachable is None else NO_PATH, unreachable)


def fitting_changes(scenario: Scenario, calibration: Calibration) -> list[Priced]:
    """Return the changes with which a training step fits into memory, the fastest first."""
    return priced(scenario, ledger_of, partial(_step_time, calibration))


def _step_time(calibration: Calibration, scenario: Scenario) -> Quantity:
    return evaluate(scenario, calibration).metrics(None)["step_time"] or 0.0


def _too_much(scenario: Scenario, ledger: Ledger, calibration: Calibration) -> str:
    """Return why a scenario does not fit into a device's memory, and what would make a training step fit."""
    text = too_much_for_a_device(scenario, ledger)
    try:
        changes = fitting_changes(scenario, calibration)
        known = described(scenario, changes, _step_time(calibration, scenario)) if changes else ""
        return f"{text}. Fits with {known}" if known else text
    except InfeasibleError:  # its devices cannot reach each other
        return text


def evaluate_single(scenario: Scenario, calibration: Calibration, engine: Engine = evaluate) -> Result:
    """Return a scenario without axes. Raises InputError where a degree does not divide."""
    attempt = _attempt(scenario, calibration, engine)
    return Result(
        scenario.name,
        dict(_point_metrics(scenario, attempt)),
        attempt.reason == FITS,
        attempt.reason,
        None,
        partial(_point, scenario, calibration, attempt),
        partial(routing_facts, scenario),
    )


def evaluate_point(scenario: Scenario, calibration: Calibration, engine: Engine = evaluate) -> Point:
    """Return a single scenario in full. Raises InputError where a degree does not divide."""
    return _point(scenario, calibration, _attempt(scenario, calibration, engine))


def _point_metrics(scenario: Scenario, attempt: _Attempt) -> dict[str, float | None]:
    """Return the metrics as floats, null where the scenario cannot run, or where a queue has no end."""
    if attempt.evaluation is None:
        return dict.fromkeys(PHASES[scenario.result_kind][1])
    metrics = attempt.evaluation.metrics(None)
    return {name: None if value is None or np.isinf(value) else float(value) for name, value in metrics.items()}


def _ends(pair: Interval) -> tuple[float, float] | None:
    """Return an interval of a single point. Null where it has no end, as where slower kernels overload a queue."""
    if pair is None or not np.isfinite(pair[1]):
        return None
    return float(pair[0]), float(pair[1])


def _point(scenario: Scenario, calibration: Calibration, attempt: _Attempt, index: tuple[int, ...] = ()) -> Point:
    """Return a single scenario's document, its numbers null where it cannot run. Raises IndexError on an index."""
    if index:
        raise IndexError(f"{len(index)} indices for 0 axes")
    metrics, evaluation, ledger = _point_metrics(scenario, attempt), attempt.evaluation, attempt.ledger
    spans: dict[str, tuple[float, float] | None] = dict.fromkeys(metrics)
    parts = None
    if evaluation is not None:
        bounds = _spans(evaluation, calibration, scenario, dict(metrics), 0)
        spans = {name: _ends(pair) for name, pair in bounds.items()}
        parts = evaluation.schedule()
    facts = routing_facts(scenario)
    timed = [] if evaluation is None else evaluation.operators()
    notes = calibration.told(each.operator for each in timed)
    parts_of = scenario.plan.parts[::-1] if isinstance(scenario.plan, Pools) else (scenario, *scenario.unlike)
    return Point(
        phase=scenario.plan.phase,
        cluster=" + ".join(dict.fromkeys(part.cluster.name for part in parts_of)),
        devices=int(scenario.devices),
        headline=PHASES[scenario.result_kind][0],
        metrics=metrics,
        intervals=spans,
        breakdown=[] if evaluation is None else _breakdown(evaluation, metrics),
        memory=None if ledger is None else {name: float(size) for name, size in ledger.on_device.items()},
        capacity=float((ledger or Ledger()).room(scenario.cluster)),
        schedule=None if parts is None else {name: float(value) for name, value in parts.items()},
        reason=attempt.explanation,
        notes=(*scenario.notes, *(() if evaluation is None else _notes(scenario, evaluation, metrics)), *notes),
        reasons=_reasons(scenario, metrics, attempt.explanation),
        offer=_offer(scenario.cluster.device),
        routing=None if facts is None else {name: float(value) for name, value in facts.items()},
        host_memory=_host_memory(ledger),
        details={} if evaluation is None else evaluation.details(),
        verdict=None if evaluation is None else evaluation.verdict(),
        percentiles=None if evaluation is None else _percentiles(evaluation, metrics),
        anchor=None if evaluation is None or evaluation.anchored is None else evaluation.anchored.document(),
    )


def _notes(scenario: Scenario, evaluation: Evaluation, metrics: Mapping[str, float | None]) -> tuple[str, ...]:
    """Return the notes of an evaluation, which limits are not near it, and which measured runs are off."""
    known, own = evaluation.anchored, (*evaluation.notes(), *notes_of_slo(scenario, metrics))
    return own if known is None else tuple(dict.fromkeys((*own, *known.notes)))


def _shift(evaluation: Evaluation, metrics: Mapping[str, float | None]) -> float:
    """Return what a server's first token takes longer than its engine has it, by measured ones [s]."""
    known, first = evaluation.anchored, metrics.get("ttft")
    return 0.0 if known is None or first is None else float(first * (1.0 - 1.0 / known.first))


def _breakdown(evaluation: Evaluation, metrics: Mapping[str, float | None]) -> list[Entry]:
    entries, shift = evaluation.breakdown(), _shift(evaluation, metrics)
    return summing_to(sum(entry.time for entry in entries) + shift, entries, FIRST_TOKENS) if shift else entries


def _percentiles(
    evaluation: Evaluation, metrics: Mapping[str, float | None]
) -> Mapping[str, Mapping[str, float]] | None:
    """Return the quantiles of a request's times, first tokens longer as measured ones are."""
    known, shift, anchored = evaluation.percentiles(), _shift(evaluation, metrics), evaluation.anchored
    if not known or not shift or anchored is None:
        return known
    first = float(anchored.first)
    return {
        **known,
        "ttft": {name: value * first for name, value in known["ttft"].items()},
        "e2e": {name: value + shift for name, value in known["e2e"].items()},
    }


def _spans(
    evaluation: Evaluation, calibration: Calibration, scenario: Scenario, metrics: Metrics, dimensions: int
) -> dict[str, Interval]:
    """Return the intervals of metrics. Of an anchored run, what measured ones say of its times and rates."""
    own = getattr(evaluation, "scatter", None)  # of a plan of several parts
    runs = run_scatter(scenario, calibration) if own is None else own(run_scatter)
    with np.errstate(divide="ignore"):  # of parts that take no time
        spans = intervals(metrics, evaluation.families(), dimensions, evaluation.metrics, runs)
    known = evaluation.anchored
    if known is None:
        return spans
    moved = POWERS if scenario.plan.phase == "training" else TIMES | RATES
    return spans | {
        name: known.interval(name, value, spans[name])
        for name, value in metrics.items()
        if name in moved and value is not None
    }


_UNKNOWN_ENGINE = {
    **dict.fromkeys(("kv_blocks", "kv_use"), "framework has no `engine`, and `memory` states nothing"),
    **dict.fromkeys(("ttft", "latency"), OVERLOADED),
    **dict.fromkeys(("tpot", "tokens_per_second_per_user"), "no request has a token after its first"),
    "highest_stable_rate": "needs a `rate`; none where requests share prefixes, of conversations or of two pools",
}


def _offer(device: Device) -> dict[str, Any]:
    """Return what a single point's device offers, as the documented JSON object."""
    levels = [(each, None if each.bandwidth is None else float(each.bandwidth)) for each in device.memory]
    return {
        "device": device.name, "processors": float(device.processors),
        "peaks": {dtype: float(device.peak(dtype)) for dtype in device.math},
        "memory": [{"name": one.name, "capacity": float(one.capacity), "bandwidth": rate} for one, rate in levels],
        "price": price_facts(device),
    }  # fmt: skip


def _reasons(scenario: Scenario, metrics: Mapping[str, float | None], infeasible: str | None) -> dict[str, str]:
    """Return metric -> why it is null: the scenario cannot run, or a price or power limit is missing."""
    unknown = [name for name, value in metrics.items() if value is None or not np.isfinite(value)]
    why = {} if infeasible else {**missing(scenario), **_UNKNOWN_ENGINE}
    return {name: infeasible or why.get(name, "not defined here") for name in unknown}


def _host_memory(ledger: Ledger | None) -> dict[str, float] | None:
    if ledger is None or not ledger.on_host:
        return None
    return {"tensors": float(ledger.host), "kv_cache": float(ledger.host_cache)}


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that are masked afterwards
def evaluate_grid(scenario: Scenario, calibration: Calibration, shape: tuple[int, ...]) -> Result:
    """Return a scenario whose values vary over a grid of that shape, one axis for each dimension of its arrays."""
    headline, names = PHASES[scenario.result_kind]
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    reason = np.where(layout, FITS, BAD_LAYOUT).astype(np.int8)
    metrics: dict[str, Array] = {name: empty_grid(shape) for name in names}
    absent: set[str] = set()  # metrics that need a missing price or power limit
    kept: list[_Evaluated] = []
    for number, (block, points) in enumerate(_feasible_blocks(scenario, shape, layout)):
        try:
            evaluation = evaluate(block.scenario, calibration)
        except InfeasibleError:
            reason[points] = np.where(reason[points] == FITS, NO_PATH, reason[points])
            continue
        values = evaluation.metrics(None)
        codes = _reason(evaluation, block.scenario, values[headline])
        reason[points] = np.where(reason[points] == FITS, codes, reason[points])
        for name, value in values.items():
            if value is None:
                absent.add(name)
            else:
                metrics[name][points] = value
        kept = [*kept, _Evaluated(block.scenario, points, evaluation)] if number < KEPT else []
    fits = reason == FITS
    for grid in metrics.values():
        grid[~fits] = np.nan
    return Result(
        scenario.name,
        {name: None if name in absent else grid for name, grid in metrics.items()},
        fits,
        reason,
        partial(_grid_intervals, kept, scenario, calibration, fits),
        partial(grid_point, evaluate_point, scenario, calibration, shape),
        partial(routing_grid, scenario, shape, layout),
    )


class _Evaluated(Record):
    """A block of a grid, the index of its points, and its evaluation."""

    scenario: Scenario
    points: tuple[Indices, ...]
    evaluation: Evaluation


def _evaluated(scenario: Scenario, calibration: Calibration, fits: npt.NDArray[np.bool_]) -> Iterator[_Evaluated]:
    """Yield the blocks of a grid with any point that fits, evaluated."""
    for block, points in _feasible_blocks(scenario, fits.shape, fits):
        yield _Evaluated(block.scenario, points, evaluate(block.scenario, calibration))


def _feasible_blocks(
    scenario: Scenario, shape: tuple[int, ...], feasible: Mask
) -> Iterator[tuple[Block, tuple[Indices, ...]]]:
    """Yield the blocks of a grid with any feasible point, each with the index of its points."""
    for block in blocks(scenario, shape):
        points = np.ix_(*block.index)
        if np.asarray(feasible)[points].any():
            yield block, points


def _reason(evaluation: Evaluation, scenario: Scenario, headline: Quantity | None) -> Quantity:
    """Return the reason code of each point as far as memory and the network decide it."""
    reachable = ~np.isnan(np.asarray(headline, dtype=np.float64))
    if evaluation.ledger is None:
        return np.where(reachable, float(FITS), float(NO_PATH))
    fits: Mask = evaluation.ledger.total <= evaluation.ledger.room(scenario.cluster)
    hosted = fits_in_host(evaluation.ledger, scenario.cluster.node, largest_layout(scenario))
    runs = np.where(hosted, np.where(reachable, float(FITS), float(NO_PATH)), float(NO_HOST_MEMORY))
    return np.where(fits, runs, float(NO_MEMORY))


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _grid_intervals(
    kept: Sequence[_Evaluated], scenario: Scenario, calibration: Calibration, fits: npt.NDArray[np.bool_],
    names: Collection[str],
) -> dict[str, Interval]:  # fmt: skip
    """Return the intervals of some metrics over the grid. kept: the blocks with all points that fit, if held."""
    shape = fits.shape
    lows, highs = ({name: empty_grid(shape) for name in names} for _ in range(2))
    absent: set[str] = set()
    for block in kept or _evaluated(scenario, calibration, fits):
        metrics = block.evaluation.metrics(None)
        chosen = {name: metrics[name] for name in names}
        spans = _spans(block.evaluation, calibration, block.scenario, chosen, len(shape))
        for name, pair in spans.items():
            if pair is None:
                absent.add(name)
            else:
                lows[name][block.points], highs[name][block.points] = pair
    for grid in (*lows.values(), *highs.values()):
        grid[~fits] = np.nan
    return {name: None if name in absent else (lows[name], highs[name]) for name in names}


def grid_point(
    answer: Callable[[Scenario, Calibration], Point], scenario: Scenario, calibration: Calibration,
    shape: tuple[int, ...], index: tuple[int, ...],
) -> Point:  # fmt: skip
    """Return what an engine answers of one point of a grid. Raises IndexError where there is none."""
    if len(index) != len(shape):
        raise IndexError(f"{len(index)} indices for {len(shape)} axes")
    return answer(single(scenario, index), calibration)


# ---- Whether an objective of times may be meant as it is written: next to what is predicted --------------------------

METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e": "latency"}  # key of an objective -> mean that it limits
TIGHT, LOOSE, PREFIX = 20.0, 300.0, 1e3  # so many times below and above what is predicted; from ms to s


def notes_of_slo(scenario: Scenario, metrics: Mapping[str, float | None]) -> Iterator[str]:
    """Yield which limits no request can keep or every request keeps by far, with what was probably meant."""
    plan = scenario.plan
    slo = plan.slo if isinstance(plan, Serving) else None
    for key, limit in asdict(slo).items() if slo is not None else ():
        value = metrics.get(METRICS[key])
        if not limit or not value or not math.isfinite(value):
            continue
        said = f"slo.{key} of {_shown(limit)} is {limit / value:.2g} times the predicted {_shown(value)}"
        if limit * TIGHT < value:
            yield f"{said}: no request keeps it; did you mean {_shown(limit * PREFIX)}?"
        elif limit > LOOSE * value:
            yield f"{said}: it limits nothing; did you mean {_shown(limit / PREFIX)}?"


def _shown(time: float) -> str:
    return render(float(f"{time:.3g}"), "duration")
