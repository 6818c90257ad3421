"""80 % intervals: one perturbed evaluation per operator family and side, combined in quadrature.

A family's error is the same for all its operators (they share one fit), so it is perturbed as a whole; families are
independent. The centre is the metric with every family at its median ratio of measured to predicted time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from costmodel.analytic.stream_times import Perturbation, Perturbations
from costmodel.cost.calibration import Calibration, Spread
from costmodel.quantities import Array, maximum, minimum
from costmodel.result import Interval, Metrics

# These can be zero, so their deviations are added as they are; those of all other metrics as ratios.
LINEAR = frozenset({"bubble_time", "exposed_communication_time", "goodput", "preemptions", "prefix_hit_rate"})
TIMES = frozenset({
    "step_time", "ttft", "tpot", "latency", "device_hours_per_trillion_tokens", "cost_per_trillion_tokens",
    "cost_per_million_tokens",
})  # fmt: skip
"""Metrics that grow with the time of a whole run, and `RATES`, which fall with it."""
RATES = frozenset({
    "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "tokens_per_second_per_user",
    "requests_per_second", "input_tokens_per_second", "prefill_tokens_per_second_per_device",
    "decode_tokens_per_second_per_device", "mfu", "mfu_noncausal", "hfu", "flop_rate_per_device",
})  # fmt: skip
_CLASSES = {"prefill": "inference", "decode": "inference", "generate": "inference"}


def perturbations_of(families: Iterable[str], dimensions: int) -> dict[str, Perturbation]:
    """Return perturbations along a new leading axis: all families at the median, then each one low and high in turn.

    dimensions: of the grid behind that axis.
    """
    uncertain = sorted(families)
    positions = np.arange(1 + 2 * len(uncertain)).reshape(-1, *(1,) * dimensions)
    return {
        name: Perturbation(low=1.0 * (positions == 1 + 2 * number), high=1.0 * (positions == 2 + 2 * number))
        for number, name in enumerate(uncertain)
    }


def intervals(
    point: Metrics,
    families: Iterable[str],
    dimensions: int,
    evaluate: Callable[[Perturbations], Metrics],
    spread: Spread | None = None,
) -> dict[str, Interval]:
    """Return [low, high] of every metric; it always contains the point. families: those whose times are uncertain.

        low = c - sqrt(sum_f down_f^2),   high = c + sqrt(sum_f up_f^2)

    with c the metric at all medians, down_f and up_f its largest deviations under family f; on a logarithmic scale
    except for `LINEAR` metrics. spread: measured over predicted times of whole runs, one more term of `TIMES` and
    `RATES`.
    """
    perturbations = perturbations_of(families, dimensions)
    if not perturbations:
        return {name: None if value is None else (value, value) for name, value in point.items()}
    perturbed, count = evaluate(perturbations), 1 + 2 * len(perturbations)
    spans: dict[str, Interval] = {}
    for name, value in point.items():
        perturbed_value = perturbed[name]
        if value is None or perturbed_value is None:
            spans[name] = None
            continue
        values = np.asarray(perturbed_value, dtype=np.float64)
        if values.ndim <= dimensions or len(values) != count:  # no family affects it
            spans[name] = value, value
        elif name in LINEAR:
            low, high = _quadrature(values)
            spans[name] = minimum(value, maximum(low, 0.0)), maximum(value, high)
        else:
            low, high = _quadrature(np.log(values), _run_deviations(name, spread))
            spans[name] = minimum(value, np.exp(low)), maximum(value, np.exp(high))
    return spans


def deviations(
    point: Metrics, families: Iterable[str], evaluate: Callable[[Perturbations], Metrics]
) -> dict[str, tuple[float, float, float]]:
    """Return the deviation of the log of each time and rate of a point under its kernels: centre, then down and up."""
    perturbations = perturbations_of(families, 0)
    perturbed, count = evaluate(perturbations) if perturbations else {}, 1 + 2 * len(perturbations)
    spans = {}
    for name, value in point.items():
        if value is None or name not in TIMES | RATES:
            continue
        logs = np.log(np.broadcast_to(np.asarray(perturbed.get(name, value), dtype=np.float64), count) / value)
        low, high = _quadrature(logs)
        spans[name] = float(logs[0]), float(logs[0] - low), float(high - logs[0])
    return spans


def ratio_interval(before: Array, after: Array) -> tuple[float, float, float]:
    """Return the ratio of two evaluations and the ends of its 80 % interval.

    before, after: a metric under the same `perturbations_of`. An error that both share, such as that of a kernel which
    the change does not touch, cancels; so does that of whole runs.
    """
    with np.errstate(all="ignore"):
        low, high = _quadrature(np.log(after / before))
        centre = after[0] / before[0]
    return float(centre), float(np.exp(low)), float(np.exp(high))


def run_spread(calibration: Calibration, phase: str) -> Spread | None:
    """Return the ratios of measured to predicted times of whole runs of a phase, null where none were fitted."""
    fit = calibration.families.get(f"composition_{_CLASSES.get(phase, phase)}")
    return None if fit is None else fit.spread


def _run_deviations(name: str, spread: Spread | None) -> tuple[float, float, float]:
    """Return the deviation of the log of a metric under whole runs: its centre, down from there, and up."""
    if spread is None or name not in TIMES | RATES:
        return 0.0, 0.0, 0.0
    low, median, high = (math.log(points[0]) for points in (spread.low, spread.median, spread.high))
    return (median, median - low, high - median) if name in TIMES else (-median, high - median, median - low)


def _quadrature(values: Array, run: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[Array, Array]:
    """Return centre minus and plus the root of the summed squares of each family's deviations down and up.

    run: shift of the centre, and deviations down and up, of whole runs.
    """
    centre, lows, highs = values[0], values[1::2], values[2::2]
    down = np.maximum(centre - np.minimum(lows, highs), 0.0)
    up = np.maximum(np.maximum(lows, highs) - centre, 0.0)
    shift, below, above = run
    centre = centre + shift
    return (
        centre - np.sqrt((down * down).sum(axis=0) + below * below),
        centre + np.sqrt((up * up).sum(axis=0) + above * above),
    )
