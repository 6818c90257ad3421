"""80 % intervals: one perturbed evaluation per operator family and side, combined in quadrature.

A family's error is the same for all its operators (they share one fit), so it is perturbed as a whole. Families are
independent. The centre is the metric with every family at its median ratio of measured to predicted time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import Perturbation, Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Quantity, maximum, minimum, sum_of
from costmodel.records import Record
from costmodel.result import Interval, Metrics
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Disaggregated, Plan, Scenario

# These can be zero, so their deviations are added as they are; those of all other metrics as ratios.
LINEAR = frozenset({
    "bubble_time", "exposed_communication_time", "goodput", "preemptions", "prefix_hit_rate", "idle_share",
})  # fmt: skip
TIMES = frozenset({
    "step_time", "ttft", "tpot", "latency", "device_hours_per_trillion_tokens", "cost_per_trillion_tokens",
    "cost_per_million_tokens", "rollout_time", "log_probability_time", "train_time", "update_time", "offload_time",
    "cost_per_step", "cost_per_sample", "denoising_step_time", "denoiser_time",
    "text_encoder_time", "encoder_time", "decoder_time", "cost_per_image",
})  # fmt: skip
"""Metrics that grow with the time of a whole run, and `RATES`, which fall with it."""
RATES = frozenset({
    "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "tokens_per_second_per_user",
    "requests_per_second", "samples_per_second", "input_tokens_per_second", "prefill_tokens_per_second_per_device",
    "decode_tokens_per_second_per_device", "mfu", "mfu_noncausal", "hfu", "flop_rate_per_device", "images_per_second",
    "images_per_second_per_device",
})  # fmt: skip
_OFFERED = frozenset({
    "requests_per_second", "input_tokens_per_second", "tokens_per_second", "tokens_per_second_per_device",
    "cost_per_million_tokens",
})  # fmt: skip  # that follow the requests which come while an engine keeps up
ENERGIES = frozenset({"energy_per_token", "energy_per_trillion_tokens", "energy_per_sample", "energy_per_image"})
_ROUNDING = 1e-9
NORMAL_90 = 1.2815515655446004  # standard deviations beyond which a tenth of a normal distribution lies
TRIED = "composition_tried/"  # what names of families begin with that stand for architectures of devices
_RunTerm: TypeAlias = "tuple[Quantity, Quantity, Quantity]"
_NO_RUN: _RunTerm = (0.0, 0.0, 0.0)
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
    runs: RunScatter | None = None,
) -> dict[str, Interval]:
    """Return [low, high] of every metric. It always contains the point. families: those whose times are uncertain.

        low = c - sqrt(sum_f down_f^2),   high = c + sqrt(sum_f up_f^2)

    with c the metric at all medians, down_f and up_f its largest deviations under family f. On a logarithmic scale
    except for `LINEAR` metrics. runs: how whole runs scatter about predictions, one more term of `TIMES` and
    `RATES`. A rate follows the scatter as far as it follows the kernels: one that requests bring, and not the engine's
    speed, has none (`_followed`).
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
            with np.errstate(invalid="ignore"):  # of a time that has no end, such as waiting for an overloaded engine
                centre, down, up = _run_deviations(name, runs)
                followed = _followed(name, values, perturbed)
                low, high = _quadrature(np.log(values), (followed * centre, followed * down, followed * up))
            ends = (np.where(followed > 0.0, np.exp(each), value) for each in (low, high))
            spans[name] = minimum(value, next(ends)), maximum(value, next(ends))
    return spans


def _followed(name: str, values: Array, perturbed: Metrics) -> Quantity:
    """Return how much of the change of a token's time a metric shows under perturbed kernels, 0 to 1.

    One for all but rates and costs where requests come by themselves: what they bring an engine that keeps up is the
    same however fast it is.
    """
    reference = perturbed.get("tpot")
    if "highest_stable_rate" not in perturbed or reference is None or name not in _OFFERED:
        return 1.0
    paces = np.broadcast_to(np.asarray(reference, dtype=np.float64), values.shape)
    changes = [np.abs(np.log(each / each[:1])).sum(axis=0) for each in (values, paces)]
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Array = np.minimum(changes[0] / changes[1], 1.0)
    share = np.where(share > _ROUNDING, share, 0.0)
    return np.where(changes[1] > 0.0, share, 1.0)


def deviations(
    point: Metrics, families: Iterable[str], evaluate: Callable[[Perturbations], Metrics]
) -> dict[str, tuple[float, float, float]]:
    """Return the deviation of the log of each time and rate of a point under its kernels: centre, then down and up."""
    perturbations = perturbations_of(families, 0)
    perturbed, count = evaluate(perturbations) if perturbations else {}, 1 + 2 * len(perturbations)
    spans = {}
    for name, value in point.items():
        if value is None or name not in TIMES | RATES or not np.any(value):  # a part that a run does not have
            continue
        with np.errstate(divide="ignore", invalid="ignore"):  # of a wait that vanishes under some of them
            logs = np.log(np.broadcast_to(np.asarray(perturbed.get(name, value), dtype=np.float64), count) / value)
            low, high = _quadrature(logs)
        spans[name] = float(logs[0]), float(logs[0] - low), float(high - logs[0])
    return spans


def ratio_interval(before: Array, after: Array) -> tuple[float, float, float]:
    """Return the ratio of two evaluations and the ends of its 80 % interval.

    before, after: a metric under the same `perturbations_of`. An error that both share, such as that of a kernel which
    the change does not touch, cancels. So does that of whole runs.
    """
    with np.errstate(all="ignore"):
        low, high = _quadrature(np.log(after / before))
        centre = after[0] / before[0]
    return float(centre), float(np.exp(low)), float(np.exp(high))


class RunScatter(Record):
    """How far a run that nobody here has seen lies from its prediction, besides what its kernels say.

    centre: log of measured over predicted time.
    down, up: to the ends of the 80 % interval from there.
    first_token: what the time to the first token adds to both, in quadrature.
    power: likewise what the power of a board adds to energies.
    """

    centre: Quantity
    down: Quantity
    up: Quantity
    first_token: float = 0.0
    power: Quantity = 0.0


def run_scatter(scenario: Scenario, calibration: Calibration) -> RunScatter | None:
    """Return the scatter of runs such as a scenario, null where none was fitted.

        down^2 = D_class^2 + sum over conditions b of (x_b D_b)^2,     up likewise

    D_class: of the phase's class.
    x_b: `shares_of_conditions`.
    D_b: of runs that meet b wholly.
    """
    phase = scenario.plan.phase
    own = _logs(calibration, f"composition_{_CLASSES.get(phase, phase)}")
    if own is None:
        return None
    centre, down, up = own
    below: Quantity = down * down
    above: Quantity = up * up
    shares = shares_of_conditions(scenario)
    shares["untried"] = float(phase == "training" and not _is_tried(scenario, calibration))
    for name, share in shares.items():
        more = _logs(calibration, f"composition_{name}")
        if more is not None:
            below, above = below + (share * more[1]) ** 2, above + (share * more[2]) ** 2
    waiting = _logs(calibration, "composition_first_token") if phase == "serving" else None
    error = scenario.cluster.device.power.error
    power = np.log1p(0.0 if error is None else error)
    return RunScatter(centre, np.sqrt(below), np.sqrt(above), 0.0 if waiting is None else waiting[2], power)


def run_deviation(scenario: Scenario, calibration: Calibration, operators: Sequence[TimedOperator]) -> Quantity:
    """Return the standard deviation of log(measured / predicted time) of a run, without a schedule [-].

        s = sqrt(D^2 + sum over families f of k_f^2) / 1.28,   k_f = sum over kernels i of f of t_i k_i / sum of t

    D: of `run_scatter`, both ends alike.
    k_i: half of the log of the ratio of the ends of a kernel's interval. It is near half the interval of the run's
    time, in which what runs side by side counts once.
    """
    moved: dict[str, Quantity] = {}
    whole: Quantity = 0.0
    for timed in operators:
        seconds = np.nan_to_num(timed.time.seconds, posinf=0.0)
        ends = (timed.fit.ratio(timed.time, seconds, low, 1.0 - low) for low in (0.0, 1.0))
        high, low = ends
        family = timed.operator.family
        moved[family] = moved.get(family, 0.0) + seconds * 0.5 * np.abs(np.log(high / low))
        whole = whole + seconds
    shown = sum_of((each / np.maximum(whole, np.finfo(float).tiny)) ** 2 for each in moved.values())
    runs = run_scatter(scenario, calibration)
    if runs is None:
        return np.sqrt(shown) / NORMAL_90
    return np.sqrt((0.5 * (runs.down + runs.up)) ** 2 + shown) / NORMAL_90


def _is_tried(scenario: Scenario, calibration: Calibration) -> bool:
    """Tell whether publications of training steps have the architecture of the device. So where none is known to."""
    known = [name for name in calibration.families if name.startswith(TRIED)]
    return not known or f"{TRIED}{scenario.cluster.device.architecture}" in known


def shares_of_conditions(scenario: Scenario) -> dict[str, float]:
    """Return how far a run meets what widens the scatter of whole runs, 0 or 1.

    unknown: the framework names no kernels.
    experts: a training step has routed experts, whose load, padding and permutations differ between programs and are
    seldom published.
    drafted: it drafts tokens, and how many are accepted is assumed.
    """
    routed = any(isinstance(layer.ffn, MoeFfn) for layer in scenario.architecture.kinds)
    phase, unknown = scenario.plan.phase, not scenario.framework.implementations
    return {
        "unknown": float(unknown), "experts": float(routed and phase == "training"),
        "drafted": float(phase == "serving" and _drafts_by_assumption(scenario.plan)),
    }  # fmt: skip


def _drafts_by_assumption(plan: Plan) -> bool:
    """Tell whether a server drafts tokens of which nobody measured how many are accepted."""
    drafts = plan.decode.plan if isinstance(plan, Disaggregated | Pools) else plan
    speculative = getattr(drafts, "speculative", None)
    return speculative is not None and speculative.assumed


def _logs(calibration: Calibration, family: str) -> tuple[float, float, float] | None:
    """Return the centre of a family's spread, and down and up from there, as logarithms, null where it has none."""
    fit = calibration.families.get(family)
    if fit is None:
        return None
    low, median, high = (math.log(points[0]) for points in (fit.spread.low, fit.spread.median, fit.spread.high))
    return median, median - low, high - median


def _run_deviations(name: str, runs: RunScatter | None) -> _RunTerm:
    """Return the deviation of the log of a metric under whole runs: centre, down, up."""
    if runs is not None and name in ENERGIES:  # how long a run takes, and what its boards draw
        return runs.centre, np.hypot(runs.down, runs.power), np.hypot(runs.up, runs.power)
    if runs is None or name not in TIMES | RATES:
        return _NO_RUN
    if name == "ttft":
        down, up = np.hypot(runs.down, runs.first_token), np.hypot(runs.up, runs.first_token)
        return runs.centre, down, up
    if name in TIMES:
        return runs.centre, runs.down, runs.up
    return -runs.centre, runs.up, runs.down


def _quadrature(values: Array, run: _RunTerm = _NO_RUN) -> tuple[Array, Array]:
    """Return centre minus and plus the root of the summed squares of each family's deviations down and up.

    run: shift of the centre, deviations down and up, of whole runs.
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
