"""What measured runs of inference say of another run of their site: factors on its passes and on its first tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from costmodel.analytic.anchors import Anchored, separation, told
from costmodel.analytic.intervals import NORMAL_90, RATES, run_deviation, run_scatter
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.quantities import Array, Quantity
from costmodel.records import Record, replace
from costmodel.result import Metrics
from costmodel.units import slip
from costmodel.workload.scenario import Anchor, MeasuredStep, Pace, Scenario
from costmodel.workload.site_scatter import Separation

MOST_STEPS, CLOSE, LONGEST = 8, 1e-5, 1.0  # of the search for a factor: log of the metric that is left, and of one step
LEAST_SLOPE = 0.02  # of a metric's log over that of the time of steps, below which it says nothing of them
LIMIT = math.log(100.0)  # of a factor, beyond which a value is of another unit or another run
SHIFT = 0.05  # of the log of steps' times, over which a first token's time is differenced


class Reading(Record):
    """A measured value of a run: y = gain * z + u, z the log of the factor on its passes, u on first tokens besides.

    own, first: standard deviations of z and u.
    prompts: of passes with prompts, not of decoding.
    ratio: measured over predicted time.
    """

    run: Scenario
    y: float
    gain: float
    own: float
    first: float
    prompts: bool
    ratio: float

    @property
    def deviation(self) -> float:
        """Return the standard deviation of y."""
        return math.hypot(self.gain * self.own, self.first)


class Timed(Protocol):
    """What is asked of an evaluation."""

    anchored: Anchored | None

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics."""

    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator."""


T = TypeVar("T", bound=Timed)
Engine: TypeAlias = Callable[[Scenario, Calibration], Timed]


class Engines(Record, Generic[T]):
    """What evaluates runs without anchors: the one that is asked for, measured ones, and any in closed form."""

    asked: Callable[[Scenario, Calibration], T]
    measured: Engine
    closed: Engine


def paced(scenario: Scenario, calibration: Calibration, engines: Engines[T]) -> T:
    """Return the evaluation of a run whose passes take the times that measured runs of its site make likely.

    Of runs x, i of one framework on one cluster, z the log of the factor on times of passes and u on first tokens that
    a server answers, both normal around zero:

        y_i = gain_i z_i + u_i [time to first token],  cov(z_x, z_i) = s_x s_i c(x, i),  cov(u_x, u_i) = f_x f_i a(x, i)

    c is the correlation of runs, a that of effects of a site. y_i is what makes the engine give the measured value; the
    gain is 1 of all but first tokens of a server, of which it is their change with times of steps.
    """
    anchor = scenario.anchor
    assert anchor is not None, "measured runs"
    readings = _readings(anchor, calibration, engines.measured, engines.closed)
    plain = replace(scenario, anchor=None)
    own = _deviation(plain, calibration, engines.closed, engines.measured)
    pace, anchored = _known(plain, anchor, readings, own, _first(plain, calibration))
    evaluation = engines.asked(replace(plain, pace=pace), calibration)
    evaluation.anchored = anchored
    return evaluation


def _known(
    scenario: Scenario, anchor: Anchor, readings: Sequence[Reading], own: Quantity, first: float
) -> tuple[Pace, Anchored]:
    """Return the factors of a run, and what its result says of them. own, first: deviations of z and u."""
    law = _Law(anchor, readings)
    has_prompts = scenario.plan.phase == "prefill"
    z = {prompts: law.posterior(scenario, own, prompts=prompts) for prompts in (True, False)}
    factors = {prompts: np.exp(mean) for prompts, (mean, _) in z.items()}
    rests_on, steps = tuple(map(told, anchor.steps)), len(readings)
    ratios, off = tuple(each.ratio for each in readings), law.off
    pace = Pace(_number(factors[True]), _number(factors[False]))
    left = z[has_prompts][1]
    first_left: Quantity | None = z[True][1] if scenario.plan.phase == "generate" else None
    if scenario.plan.phase == "serving":
        rest = np.exp(law.posterior(scenario, 0.0, first, prompts=False)[0])
        first_left = law.posterior(scenario, own, first, prompts=False)[1]
        pace = Pace(pace.decodes, pace.decodes, _number(rest))
    factor = pace.prompts if has_prompts else pace.decodes
    deviation = _number(np.asarray(own * left))
    kept = None if first_left is None else _number(np.asarray(first_left))
    return pace, Anchored(factor, _number(left), deviation, steps, ratios, off, rests_on, pace.first, kept)


class _Law(Record):
    """The normal law of measured values of a site."""

    anchor: Anchor
    readings: Sequence[Reading]

    @property
    def among(self) -> Array:
        return np.array([[self._correlation(one, other) for other in self.readings] for one in self.readings])

    def _correlation(self, one: Reading, other: Reading) -> float:
        scale = one.deviation * other.deviation
        apart = _separation(one.run, other.run, one.prompts, other.prompts)
        scatter = self.anchor.scatter
        passes, firsts = float(scatter.correlation(apart)), float(scatter.similarity(apart))
        common = one.gain * other.gain * one.own * other.own * passes + one.first * other.first * firsts
        return common / scale if scale else 0.0

    @property
    def off(self) -> tuple[float, ...]:
        """Return each value over the deviation that sites scatter by."""
        repeat = self.anchor.scatter.repeat
        return tuple(each.y / math.hypot(each.deviation, repeat) for each in self.readings)

    def posterior(
        self, scenario: Scenario, own: Quantity, first: float = 0.0, *, prompts: bool
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return the mean of z + u of a run, and the share of its deviation that is left.

        own, first: deviations of z and u, zero for what is not asked.
        """
        whole = np.hypot(own, first)
        safe = np.where(whole > 0.0, whole, 1.0)
        between = []
        for each in self.readings:
            apart = _separation(each.run, scenario, each.prompts, prompts)
            passes, firsts = self.anchor.scatter.correlation(apart), self.anchor.scatter.similarity(apart)
            common = each.gain * each.own * own * passes + each.first * first * firsts
            between.append(common / (safe * each.deviation) if each.deviation else np.zeros_like(common))
        y, deviations = [each.y for each in self.readings], [each.deviation for each in self.readings]
        mean, left = self.anchor.scatter.posterior(y, deviations, self.among, np.broadcast_arrays(*between))
        return np.asarray(whole * mean), left


def _separation(one: Scenario, other: Scenario, prompts: bool, others: bool) -> Separation:  # noqa: FBT001  of both runs
    return replace(separation(one, other), passes=float(prompts != others))


def of_prompts(scenario: Scenario, metric: str) -> bool:
    """Tell whether a time is of passes with prompts alone. A server's steps mix both."""
    phase = scenario.plan.phase
    return phase == "prefill" or (phase == "generate" and metric == "ttft")


def _first(scenario: Scenario, calibration: Calibration) -> float:
    """Return the standard deviation of log(measured / predicted) of first tokens, besides that of steps [-]."""
    runs = run_scatter(scenario, calibration)
    return 0.0 if runs is None else runs.first_token / NORMAL_90


def _deviation(scenario: Scenario, calibration: Calibration, closed: Engine, engine: Engine) -> Quantity:
    """Return the standard deviation of log(measured / predicted) of a run's passes [-]."""
    try:
        operators = closed(scenario, calibration).operators()
    except InputError:  # requests that only a simulation knows
        operators = engine(scenario, calibration).operators()
    return run_deviation(scenario, calibration, operators)


@lru_cache(maxsize=64)
def _readings(anchor: Anchor, calibration: Calibration, engine: Engine, closed: Engine) -> tuple[Reading, ...]:
    """Return the readings of an anchor. Kept by object, since all points of a site ask for the same."""
    known: dict[int, Reading] = {}
    late = [
        at for at, step in enumerate(anchor.steps) if step.metric == "ttft" and step.scenario.plan.phase == "serving"
    ]
    for at in [*(at for at in range(len(anchor.steps)) if at not in late), *late]:
        step = anchor.steps[at]
        own = float(np.asarray(_deviation(step.scenario, calibration, closed, engine)))
        search = _Search(step, calibration, engine)
        if at not in late:
            known[at] = Reading(
                step.scenario, search.implied(), 1.0, own, 0.0, of_prompts(step.scenario, step.metric), search.ratio
            )
            continue
        whole = [each for each in known.values() if each.gain == 1.0]
        same = [each.y for each in whole if np.all(np.asarray(separation(each.run, step.scenario).same) == 1.0)]
        y, gain = search.first_token(float(np.mean(same)) if same else 0.0)
        known[at] = Reading(step.scenario, y, gain, own, _first(step.scenario, calibration), False, search.ratio)  # noqa: FBT003
    return tuple(known[at] for at in range(len(anchor.steps)))


def _number(value: Quantity) -> Quantity:
    return np.asarray(value) if np.ndim(value) else float(np.asarray(value))


class _Search(Record):
    """Looks for the factor at which an engine gives a measured value."""

    step: MeasuredStep
    calibration: Calibration
    engine: Engine

    @property
    def power(self) -> float:
        return -1.0 if self.step.metric in RATES else 1.0

    @property
    def ratio(self) -> float:
        return math.exp(self.power * (math.log(self.step.value) - self.log_at(0.0)))

    def log_at(self, z: float) -> float:
        """Return the log of the metric where passes take e^z times as long. Raises InputError where it has no value."""
        step, factor = self.step, math.exp(z)
        pace = Pace(factor, 1.0 if of_prompts(step.scenario, step.metric) else factor)
        run = replace(step.scenario, anchor=None, pace=pace)
        value = self.engine(run, self.calibration).metrics(None).get(step.metric)
        if value is None or not 0.0 < value < math.inf:
            raise self._error(
                f"{step.metric} is measured, and the prediction without anchors has none for this run",
                "check that the scenario is what ran; of an overloaded server state `tpot` or `tokens_per_second`",
            )
        return math.log(float(np.asarray(value)))

    def implied(self) -> float:
        """Return the log of the factor on passes at which the metric is as measured, by secants.

        z' = z + (log measured - log metric(z)) / slope
        """
        goal, z, known = math.log(self.step.value), 0.0, self.log_at(0.0)
        following = self.power * (goal - known)
        self._check(following)
        for _ in range(MOST_STEPS):
            if abs(goal - known) < CLOSE:
                break
            value = self.log_at(following)
            slope = (value - known) / (following - z)
            if slope * self.power < LEAST_SLOPE:
                raise self._error(
                    f"{self.step.metric} does not follow the speed of the engine here, but what requests bring",
                    "measure `tpot` or `ttft`, or a closed loop",
                )
            step = min(max((goal - value) / slope, -LONGEST), LONGEST)
            z, known, following = following, value, following + step
        return z

    def _check(self, apart_by: float) -> None:
        """Raise InputError where a measured time is too long or too short to be of this run. apart_by: log of ratio."""
        if abs(apart_by) > LIMIT:
            ratio = math.exp(apart_by)
            raise self._error(
                f"the measured value is {ratio:.3g} times as long as predicted{slip(ratio)}",
                "check the unit, and that the scenario is what ran",
            )

    def first_token(self, z: float) -> tuple[float, float]:
        """Return y and gain of a server's time to first token, with steps as others of its run have them.

        gain = d log ttft / dz,     y = log(measured / ttft(z)) + gain z
        """
        self._check(math.log(self.step.value) - self.log_at(0.0))
        here = self.log_at(z)
        gain = (self.log_at(z + SHIFT) - here) / SHIFT
        return math.log(self.step.value) - here + gain * z, max(gain, 0.0)

    def _error(self, message: str, hint: str) -> InputError:
        return InputError.single(message, hint=hint, field=self.step.field, location=self.step.location)
