"""The best layouts of a scenario for an objective under constraints, how many were looked at, and the runners-up.

A training step's candidates are tried in the order of a lower bound on their time, and its memory ledger before its
schedule: what cannot beat the runners-up, or does not fit, is never scheduled. All others are one evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import take
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid
from costmodel.api import Workload
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.result import FITS, PHASES, Result
from costmodel.study.expressions import Expression, read_expression
from costmodel.study.layouts import Space, Variant, inference_space, lower_bounds, training_space, variants
from costmodel.workload.scenario import Decode, Prefill, Scenario, Training
from costmodel.workload.validity import feasible_layout

SCHEMA = "costmodel/search@1"
KEPT = 3  # the best and its runners-up
SENSES = {"minimise": 1.0, "maximise": -1.0}
# Objectives that a shorter step always serves, on the same devices.
_BY_STEP = {
    "minimise": ("step_time", "cost_per_trillion_tokens", "device_hours_per_trillion_tokens"),
    "maximise": ("tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "mfu", "mfu_noncausal"),
}
_DEFAULTS = {"training": "minimise step_time", "prefill": "maximise tokens_per_second_per_device",
             "decode": "maximise tokens_per_second_per_device"}  # fmt: skip
SEARCHED = tuple(_DEFAULTS)


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What is looked for. derived: name -> formula, each from metrics and those before it."""

    sense: str
    objective: Expression
    constraints: tuple[Expression, ...]
    derived: Mapping[str, Expression]

    @property
    def by_step(self) -> bool:
        """Tell whether a shorter step is always better, whichever the layout."""
        return self.objective.text in _BY_STEP[self.sense]

    def judged(self, result: Result, size: int, devices: Any) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the objective at each point, smaller being better, and where it fits and meets the constraints."""
        names: dict[str, Any] = {
            name: np.full(size, np.nan) if value is None else np.broadcast_to(np.asarray(value), (size,))
            for name, value in result.metrics.items()
        }
        fits = np.broadcast_to(np.asarray(result.reason) == FITS, (size,))
        names |= {"fits": fits, "devices": np.broadcast_to(np.asarray(devices), (size,))}
        for name, formula in self.derived.items():
            names[name] = formula.value(names)
        score = SENSES[self.sense] * np.broadcast_to(np.asarray(self.objective.value(names), dtype=np.float64), (size,))
        meets = fits & np.isfinite(score)
        for condition in self.constraints:
            meets = meets & np.broadcast_to(np.asarray(condition.value(names), dtype=bool), (size,))
        return np.where(meets, score, np.inf), meets


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A layout that was evaluated: where, the objective, its metrics, and the headline's 80 % interval.

    tied: its interval meets that of the next in the ranking.
    """

    at: Mapping[str, Any]
    devices: int
    objective: float
    metrics: Mapping[str, float | None]
    interval: tuple[float, float] | None
    tied: bool = False

    def document(self) -> dict[str, Any]:
        """Return the candidate as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True, eq=False)
class Found:
    """What a search found. looked_at: layouts; feasible: those whose degrees divide; scheduled: those evaluated.

    stages_dropped: the scenario states which layers stand on its stages, which holds for its own layout only.
    """

    scenario: str
    looked_at: int = 0
    feasible: int = 0
    scheduled: int = 0
    best: list[Candidate] = field(default_factory=list)
    front: list[Candidate] = field(default_factory=list)
    stages_dropped: bool = False

    def document(self) -> dict[str, Any]:
        """Return what was found as JSON."""
        rows = {"best": self.best, "front": self.front}
        counts = {"looked_at": self.looked_at, "feasible": self.feasible, "scheduled": self.scheduled}
        return {**counts, **{name: [row.document() for row in found] for name, found in rows.items()}}


def read_goal(
    workload: Workload, scenario: str, objective: str | None, constraints: Sequence[str], derived: Mapping[str, str]
) -> Goal:
    """Return the goal of a search; raise InputError on a bad objective or constraint, or a phase without layouts."""
    phase = workload.scenario(scenario).answers
    if phase not in _DEFAULTS:
        raise InputError.single(
            f"a search knows no layouts of phase {phase}", hint="sweep a study with axes", field=scenario
        )
    text = objective or _DEFAULTS[phase]
    sense, _, formula = text.strip().partition(" ")
    if sense not in SENSES or not formula.strip():
        raise InputError.single(
            f"{text!r} is no objective", hint="write one such as `minimise step_time`", field="--objective"
        )
    known = [*PHASES[phase][1], "devices", "fits"]
    read: dict[str, Expression] = {}
    for name, each in derived.items():
        read[name] = read_expression(each, [*known, *read], Location(f"derived {name}"))
    known += read
    return Goal(
        sense,
        read_expression(formula.strip(), known, Location("--objective")),
        tuple(read_expression(each, known, Location("--constraint"), condition=True) for each in constraints),
        read,
    )


def search(workload: Workload, scenario: str, goal: Goal, devices: Sequence[int] = ()) -> Found:
    """Return the best layouts of a scenario on some devices (default: as many as it takes now).

    With several numbers of devices and the objective `minimise devices`, a training step is searched on ever more
    devices until one meets the constraints.
    """
    chosen = workload.scenario(scenario)
    numbers = sorted(set(devices)) or [int(np.max(chosen.devices))]
    found = Found(scenario)
    if isinstance(chosen.plan, Decode | Prefill):
        _passes(workload, found, goal, inference_space(chosen, numbers))
        return found
    assert isinstance(chosen.plan, Training), "other phases have no goal"
    fewest = goal.objective.text == "devices" and goal.sense == "minimise"
    by_step = replace(goal, objective=read_expression("step_time", ["step_time"], Location("--objective")))
    for number in numbers:
        _steps(workload, found, by_step if fewest else goal, training_space(chosen, chosen.plan, number))
        if fewest and found.best:
            break
    return found


def _passes(workload: Workload, found: Found, goal: Goal, space: Space) -> None:
    """Search the layouts of a pass: all of them in one evaluation, and the front of rate against rate a user."""
    head = f"scenarios.{found.scenario}."
    scenario, shape = workload.varied(
        found.scenario, {tuple(head + name for name in space.columns): tuple(space.columns.values())}
    )
    calibration = workload.calibration(scenario)
    result = evaluate_grid(scenario, calibration, shape)
    score, meets = goal.judged(result, space.size, scenario.devices)
    found.looked_at += space.size
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    found.feasible += int(layout.sum())
    found.scheduled += int(layout.sum())
    rows = np.flatnonzero(meets)
    rate = np.broadcast_to(np.asarray(result.metrics["tokens_per_second_per_device"]), shape)
    ranked = rows[np.lexsort((-rate[rows], score[rows]))][:KEPT]
    found.best = _ranked([_candidate(scenario, calibration, space, None, int(at), goal) for at in ranked])
    rates = [result.metrics.get(f"tokens_per_second_per_{of}") for of in ("device", "user")]
    if all(rate is not None for rate in rates):
        each, user = (np.broadcast_to(np.asarray(rate), shape) for rate in rates)
        front = [int(at) for at in _front(rows, each, user)]
        found.front = [_candidate(scenario, calibration, space, None, at, goal) for at in front]


def _front(rows: npt.NDArray[np.intp], rate: Array, user: Array) -> Iterator[int]:
    """Yield the rows that no other beats in both rates, the fastest for a user first."""
    best = -np.inf
    for at in rows[np.lexsort((-rate[rows], -user[rows]))]:
        if rate[at] > best:
            best = float(rate[at])
            yield int(at)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Layouts of one variant that share an order of work, the most promising bound of them, and their bounds."""

    variant: int
    rows: npt.NDArray[np.intp]
    bounds: Array


class _Kept(NamedTuple):
    """A layout that may be among the best: in the order of the objective, then of the step's time."""

    score: float
    time: float
    variant: int
    row: int


def _steps(workload: Workload, found: Found, goal: Goal, space: Space) -> None:
    """Search the layouts of a training step, the most promising first."""
    head = f"scenarios.{found.scenario}."
    paths = tuple(head + name for name in space.columns)
    stages = {f"{head}stages": None} if _states_stages(workload, found.scenario) else {}
    found.stages_dropped = bool(stages)
    loaded = workload.changed(stages, [found.scenario]) if stages else workload
    base, shape = loaded.varied(found.scenario, {paths: tuple(space.columns.values())})
    calibration = workload.calibration(base)
    assert isinstance(base.plan, Training), "search has checked it"
    plans = variants(base.plan)
    groups = list(_groups(base, calibration, plans, space, found))
    groups.sort(key=lambda group: float(group.bounds.min()))
    prune = goal.by_step
    kept: list[_Kept] = []
    for group in groups:
        limit = _limit(kept) if prune else np.inf
        if prune and group.bounds.min() >= limit:
            break
        rows = group.rows[group.bounds < limit] if prune else group.rows
        scenario = plans[group.variant].of(base)
        part = take(scenario, (rows,), shape)
        ledger = ledger_of(part)
        assert ledger is not None, "a training step has a ledger"
        memory = np.broadcast_to(ledger.total <= part.cluster.device.device_memory.capacity, (len(rows),))
        if not memory.any():
            continue
        rows = rows[memory]
        part = take(scenario, (rows,), shape)
        result = evaluate_grid(part, calibration, (len(rows),))
        score, meets = goal.judged(result, len(rows), part.devices)
        found.scheduled += len(rows)
        times = np.broadcast_to(np.asarray(result.metrics["step_time"]), (len(rows),))
        kept += [
            _Kept(float(score[at]), float(times[at]), group.variant, int(rows[at])) for at in np.flatnonzero(meets)
        ]
        kept = sorted(kept)[:KEPT]
    found.best = _ranked(
        [_candidate(plans[one.variant].of(base), calibration, space, plans[one.variant], one.row, goal) for one in kept]
    )


def _limit(kept: Sequence[_Kept]) -> float:
    """Return the step time that a candidate has to stay below to be kept."""
    return kept[-1].time if len(kept) == KEPT else np.inf


def _states_stages(workload: Workload, scenario: str) -> bool:
    plan = workload.scenario(scenario).plan
    return isinstance(plan, Training) and plan.stages is not None


def _groups(
    base: Scenario, calibration: Calibration, plans: Sequence[Variant], space: Space, found: Found
) -> Iterator[_Group]:
    """Yield the feasible layouts of each variant by what fixes an order, with a lower bound of each."""
    columns = space.columns
    assert isinstance(base.plan, Training)
    count = np.asarray(base.plan.global_batch) / (columns["parallel.dp"] * columns["micro_batch"])
    order = np.stack([columns["parallel.pp"], columns["parallel.virtual"], count])
    _, member = np.unique(order, axis=1, return_inverse=True)
    times: dict[tuple[str, frozenset[str]], Array] = {}
    capacity = base.cluster.device.device_memory.capacity
    for number, variant in enumerate(plans):
        scenario = variant.of(base)
        assert isinstance(scenario.plan, Training)
        own = _own(variant, columns)
        layout = np.broadcast_to(feasible_layout(scenario), (space.size,)) & own
        found.looked_at += int(own.sum())
        found.feasible += int(layout.sum())
        key = variant.schedule, variant.recompute
        with np.errstate(all="ignore"):
            bounds = lower_bounds(scenario, scenario.plan, calibration, times.get(key))
        times[key] = bounds.step
        step = np.broadcast_to(bounds.step, (space.size,))
        rows = np.flatnonzero(layout & (bounds.memory <= capacity))
        rows = rows[np.argsort(member.reshape(-1)[rows], kind="stable")]
        cuts = np.flatnonzero(np.diff(member.reshape(-1)[rows])) + 1
        for part in np.split(rows, cuts):
            if len(part):
                yield _Group(number, part, step[part])


def _own(variant: Variant, columns: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
    """Return the layouts that a variant means: several stages a rank are interleaved; one replica shards nothing."""
    virtual = columns["parallel.virtual"]
    several = virtual > 1 if variant.schedule == "interleaved" else virtual == 1
    own = several if variant.schedule in ("1f1b", "interleaved") else np.ones(len(virtual), dtype=bool)
    return own & ((columns["parallel.dp"] > 1) | (variant.zero == 0))


def _candidate(
    scenario: Scenario, calibration: Calibration, space: Space, variant: Variant | None, row: int, goal: Goal
) -> Candidate:
    """Return one layout in full, its interval with it."""
    one = take(scenario, (np.array([row]),), (space.size,))
    result = evaluate_grid(one, calibration, (1,))
    score, _ = goal.judged(result, 1, one.devices)
    headline = PHASES[scenario.answers][0]
    ends = result.interval(headline)
    at: dict[str, Any] = {name: int(column[row]) for name, column in space.columns.items()}
    if variant is not None:
        at |= variant.document()
    return Candidate(
        at,
        int(np.max(one.devices)),
        float(SENSES[goal.sense] * score[0]),
        {name: None if value is None else _number(value) for name, value in result.metrics.items()},
        None if ends is None else (_end(ends[0]), _end(ends[1])),
    )


def _number(value: Any) -> float | None:
    found = _end(value)
    return found if np.isfinite(found) else None


def _end(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def _ranked(found: list[Candidate]) -> list[Candidate]:
    """Return candidates with whether each one's interval meets that of the next."""
    marked = [replace(one, tied=_meet(one.interval, after.interval)) for one, after in pairwise(found)]
    return [*marked, *found[-1:]]


def _meet(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]
