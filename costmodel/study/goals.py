"""The goal of a search, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.analytic.anchors import POWERS
from costmodel.api import Workload
from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, asdict, field, fields, replace
from costmodel.result import FITS, PHASES, Point, Result, headline_of
from costmodel.study.axes import Axis
from costmodel.study.executors import HERE, Pool
from costmodel.study.expressions import Expression, read_expression
from costmodel.study.prices import Quoted, quotes
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Plan

_HALF = 0.5  # of a step: where arithmetic limits less, a search says what does
_DIGITS = 12  # in which two layouts have the same value
KEPT = 3  # the best and its runners-up
SENSES = {"minimise": 1.0, "maximise": -1.0}
_DEFAULTS = {"training": "minimise step_time", "prefill": "maximise tokens_per_second_per_device",
             "decode": "maximise tokens_per_second_per_device", "serving": "minimise cost_rate",
             "diffusion": "minimise latency", "rl": "minimise step_time"}  # fmt: skip
SEARCHED = tuple(_DEFAULTS)
OnProgress: TypeAlias = "Callable[[float], None]"  # called with the share of a search that is done
_STEPS = 20  # of an unknown number, after which half counts as done
FRONT = ("tokens_per_second_per_device", "tokens_per_second_per_user")  # the two rates of the Pareto front


class Goal(Record):
    """The goal of a search. derived: name -> formula, each from metrics and those before it."""

    sense: str
    objective: Expression
    constraints: tuple[Expression, ...]
    derived: Mapping[str, Expression]

    @property
    def by_step(self) -> bool:
        """Tell whether the objective of a layout follows from the time of its step, and a shorter one is better."""
        return POWERS.get(self.objective.text) == SENSES[self.sense]

    def may_meet(self, best: Mapping[str, Any], size: int) -> npt.NDArray[np.bool_]:
        """Return which layouts may meet the constraints. best: metrics of each that its own are no better than.

        Only conditions that hold one of them against a number rule a layout out.
        """
        able = np.ones(size, dtype=bool)
        for condition in self.constraints:
            name, worse = condition.limited
            if name is not None and best.get(name) is not None and POWERS.get(name) == worse:
                able = able & np.broadcast_to(np.asarray(condition.value(best), dtype=bool), (size,))
        return able

    @property
    def names(self) -> tuple[str, ...]:
        """Return every name that the objective and the constraints read, and what derived ones rest on."""
        read = [*self.objective.names, *(name for condition in self.constraints for name in condition.names)]
        for name in reversed(list(self.derived)):
            read += self.derived[name].names if name in read else ()
        return tuple(dict.fromkeys(read))

    @property
    def is_fewest(self) -> bool:
        """Tell whether the fewest devices are looked for."""
        return self.sense == "minimise" and self.objective.text == "devices"

    def judged(
        self, result: Result, size: int, devices: Any, axes: Mapping[str, Any] | None = None
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return the objective at each point, smaller being better, and where it fits and meets the constraints."""
        names: dict[str, Any] = {
            name: np.full(size, np.nan) if value is None else np.asarray(value, dtype=np.float64)
            for name, value in {**result.metrics, **(axes or {}), "devices": devices}.items()
        }
        names = {name: np.broadcast_to(value.reshape(-1), (size,)) for name, value in names.items()}
        fits = np.broadcast_to(np.asarray(result.reason).reshape(-1) == FITS, (size,))
        names["fits"] = fits
        for name, formula in self.derived.items():
            names[name] = formula.value(names)
        score = SENSES[self.sense] * np.broadcast_to(np.asarray(self.objective.value(names), dtype=np.float64), (size,))
        meets = fits & np.isfinite(score)
        for condition in self.constraints:
            meets = meets & np.broadcast_to(np.asarray(condition.value(names), dtype=bool), (size,))
        return np.where(meets, score, np.inf), meets


class Candidate(Record):
    """A layout that was evaluated: where, the objective, its metrics, and the headline's 80 % interval.

    objective_interval: that of the objective, null where it has none, as a formula.
    tied: whether this layout or a neighbour in the ranking is better is open.
    hardware: the device and its prices, by `hardware` of a result.
    percentiles: of a server's times, null elsewhere.
    notes: what a result of it says besides its numbers.
    """

    at: Mapping[str, Any]
    devices: int
    objective: float
    metrics: Mapping[str, float | None]
    interval: tuple[float, float] | None
    objective_interval: tuple[float, float] | None = None
    tied: bool = False
    hardware: Mapping[str, Any] = field(default_factory=dict)
    percentiles: Mapping[str, Mapping[str, float]] | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the candidate as JSON."""
        left_out = {"hardware", "notes"} if self.percentiles is not None else {"hardware", "notes", "percentiles"}
        return {name: getattr(self, name) for name in fields(self) if name not in left_out}


class Reached(NamedTuple):
    """The outermost value of a number that a search moved, at its path, and the next one, at which nothing is found.

    Null where the number cannot be any less. failed: the search there, or why the scenario cannot have that value.
    """

    path: str
    value: float
    beyond: float | None = None
    failed: SearchResult | str | None = None

    def document(self) -> dict[str, Any]:
        """Return the end as JSON."""
        return {"path": self.path, "value": self.value, "beyond": self.beyond}


class Need(NamedTuple):
    """Memory that a layout needs on its fullest device, and that the device has [B]."""

    memory: float
    capacity: float


class SearchResult(MutableRecord, eq=False):
    """The result of a search. looked_at: layouts; feasible: those whose degrees divide; scheduled: those evaluated.

    objective: its formula.
    names: what the goal reads.
    devices: numbers of them that layouts take.
    least: where none fits, the need of the layout that needs the least memory.
    stages: how layers stand on them, where the scenario states that and the search tries other numbers of stages.
    why: there is no layout, where a search knows more of it than counts say.
    notes: on all of the result.
    axes: path -> dimension of those of numbers.
    reached: the number that was moved until nothing more is found, null where none was.
    """

    scenario: str
    sense: str = "minimise"
    objective: str = ""
    names: tuple[str, ...] = ()
    devices: tuple[int, ...] = ()
    looked_at: int = 0
    feasible: int = 0
    scheduled: int = 0
    least: Need | None = None
    best: list[Candidate] = field(default_factory=list)
    front: list[Candidate] = field(default_factory=list)
    stages: str | None = None
    axes: Mapping[str, str] = field(default_factory=dict)
    why: str | None = None
    notes: tuple[str, ...] = ()
    reached: Reached | None = None

    def document(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {
            "devices": list(self.devices), "looked_at": self.looked_at, "feasible": self.feasible,
            "scheduled": self.scheduled, **({} if self.stages is None else {"stages": self.stages}),
            **({} if self.reached is None else {"reached": self.reached.document()}),
            "best": [one.document() for one in self.best], "front": [one.document() for one in self.front],
            **({"prices": [asdict(one) for one in self.rents]} if self.rents else {}),
            **({"notes": list(self.all_notes)} if self.all_notes else {}),
        }  # fmt: skip

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Return the notes of the search and those of the best layout, each once."""
        return tuple(dict.fromkeys((*self.notes, *(self.best[0].notes if self.best else ()))))

    @property
    def rents(self) -> list[Quoted]:
        """Return the distinct rents that costs of the result rest on."""
        return quotes((one.hardware for one in [*self.best, *self.front]), "rental")

    @property
    def fits_memory(self) -> bool:
        """Tell whether a layout fits into memory, whether or not it meets the constraints."""
        return self.scheduled > 0 and self.least is None

    def needs(self, memory: Array, capacity: Array) -> None:
        """Note the least that some layouts need, and what their devices have [B]."""
        if memory.size:
            at = int(memory.argmin())
            one = Need(float(memory[at]), float(capacity[at]))
            self.least = one if self.least is None else min(self.least, one)

    def merge(self, other: SearchResult, choices: Mapping[str, str]) -> None:
        """Add the result of a search of another structure. choices: its structural values."""
        if self.fits_memory or other.fits_memory:
            self.least = None
        elif other.least is not None:
            self.least = other.least if self.least is None else min(self.least, other.least)
        self.looked_at += other.looked_at
        self.feasible += other.feasible
        self.scheduled += other.scheduled
        self.stages = self.stages or other.stages
        self.why = self.why or other.why
        self.notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        best, front = ([replace(one, at={**choices, **one.at}) for one in rows] for rows in (other.best, other.front))
        best = [one for one in best if not _among(one, self.best)]
        front = [one for one in front if not _among(one, self.front)]
        self.best = ranked(sorted([*self.best, *best], key=self._order)[:KEPT])
        self.front = front_of([*self.front, *front])

    def _order(self, one: Candidate) -> tuple[float, float, int]:
        """Return the position of a layout: by the objective, then the headline, but for rounding, then the devices."""
        headline = one.metrics.get(headline_of(one.metrics) or "") or 0.0
        return _rounded(SENSES[self.sense] * one.objective), _rounded(headline), one.devices


class SearchRequest(Record):
    """One search. devices: numbers of them to lay out on; fixed: structural paths below the scenario that axes name.

    axes: those of numbers, by dimension.
    is_open: no number of devices was asked for.
    pool: workers that evaluate parts of it.
    """

    workload: Workload
    scenario: str
    goal: Goal
    devices: tuple[int, ...]
    axes: Sequence[tuple[Axis, ...]] = ()
    fixed: tuple[str, ...] = ()
    is_open: bool = False
    pool: Pool = HERE

    @property
    def head(self) -> str:
        """Return what stands before paths below the scenario."""
        return f"scenarios.{self.scenario}."


def default_objective(plan: Plan, result_kind: str, *, has_rent: bool) -> str | None:
    """Return what a search looks for where nobody says it, null where its phase has no layouts.

    Servers at a rate: the least rent, or the fewest devices where it is unknown. Users who always wait for an answer:
    the highest rate of a device.
    """
    if isinstance(plan, Serving) and plan.rate is None:
        return _DEFAULTS["decode"]
    return "minimise devices" if result_kind == "serving" and not has_rent else _DEFAULTS.get(result_kind)


def sense_of(objective: str) -> tuple[str | None, str]:
    """Return `minimise` or `maximise`, null where an objective begins with neither, and what stands behind it."""
    sense, _, formula = objective.strip().partition(" ")
    sense = sense.replace("mize", "mise")
    return (sense if sense in SENSES and formula.strip() else None), formula.strip()


def names_of(phase: str, axes: Iterable[str]) -> list[str]:
    """Return what formulas of a search may use. axes: paths of numeric axes."""
    return [*PHASES[phase][1], *axes, "devices", "fits"]


def read_goal(
    phase: str, scenario: str, objective: str | None, constraints: Iterable[str], derived: Mapping[str, str],
    axes: Sequence[str] = (),
) -> Goal:  # fmt: skip
    """Return the goal of a search. Raises InputError on a bad objective or constraint, or a phase without layouts.

    phase: what the scenario answers.
    axes: paths of numeric axes, which formulas may use.
    """
    if phase not in _DEFAULTS:
        raise InputError.single(
            f"a search knows no layouts of phase {phase}, only of {', '.join(SEARCHED)}",
            hint="sweep a study with axes, such as `parallel.tp`",
            field=scenario,
        )
    text = objective or _DEFAULTS[phase]
    sense, formula = sense_of(text)
    if sense is None:
        is_metric = text.isidentifier() and text.replace("mize", "mise") not in SENSES
        hint = f"write `minimise {text}` or `maximise {text}`" if is_metric else "write `minimise FORMULA`"
        raise InputError.single(f"{text!r} is no objective", hint=hint, field="--objective")
    known = names_of(phase, axes)
    read: dict[str, Expression] = {}
    for name, each in derived.items():
        read[name] = read_expression(each, [*known, *read], Location(f"derived {name}"))
    known += read
    return Goal(
        sense,
        read_expression(formula, known, Location("--objective")),
        tuple(read_expression(each, known, Location("--constraint"), condition=True) for each in constraints),
        read,
    )


def candidate(point: Point, at: Mapping[str, Any], score: float, goal: Goal) -> Candidate:
    """Return one layout in full. score: the objective, smaller being better."""
    value = SENSES[goal.sense] * score
    exact = (value, value) if goal.is_fewest else None
    own = point.intervals.get(goal.objective.text, exact)
    offer = {} if point.offer is None else {name: point.offer[name] for name in ("device", "price")}
    return Candidate(
        at, point.devices, value, point.metrics, point.intervals[point.headline], own, hardware=offer,
        percentiles=point.percentiles, notes=(*point.notes, *little_arithmetic(point)),
    )  # fmt: skip


def shares_of_step(point: Point) -> dict[str, float]:
    """Return what limits which share of a training step, the largest first: compute, memory, network, bubble, ..."""
    limits: dict[str, float] = {"bubble": point.metrics["bubble_time"] or 0.0}
    for entry in point.breakdown:
        limits[entry.bound] = limits.get(entry.bound, 0.0) + entry.time
    ordered = sorted(limits.items(), key=lambda each: -each[1])
    return {name: time / point.whole for name, time in ordered if time > 0.0}


def little_arithmetic(point: Point) -> Iterator[str]:
    """Yield that arithmetic limits less than half of a training step, where it does, and what the rest is."""
    mfu = point.metrics.get("mfu")
    rest = {} if mfu is None else shares_of_step(point)
    arithmetic = rest.pop("compute", 0.0)
    if mfu is None or arithmetic >= _HALF:
        return
    yield (
        f"mfu is {mfu:.1%}: arithmetic limits {arithmetic:.0%} of the step, "
        f"{', '.join(f'{name} {share:.0%}' for name, share in rest.items())}; more sequences a step (`global_batch`) "
        "or fewer devices use each device better"
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with whether the order of each one and the one before it or behind it is open."""
    meets = [False, *(_is_open(one, after) for one, after in pairwise(candidates)), False]
    return [
        replace(one, tied=before or behind) for one, (before, behind) in zip(candidates, pairwise(meets), strict=False)
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _is_open(one: Candidate, other: Candidate) -> bool:
    """Tell whether the 80 % intervals of what two are ranked by meet: the objective, or the headline where it is equal.

    The headline's stand for those of an objective without any.
    """
    known = one.objective_interval is not None and other.objective_interval is not None
    if known and one.objective != other.objective:
        return _meet(one.objective_interval, other.objective_interval)
    return _meet(one.interval, other.interval)


def _meet(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _among(one: Candidate, others: Sequence[Candidate]) -> bool:
    """Tell whether a candidate is one of others under another name: an exchange of experts that one rank has alone."""
    return any(one.devices == other.devices and dict(one.metrics) == dict(other.metrics) for other in others)


def front_of(rows: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both rates, the fastest for a user first."""
    if not rows:
        return []
    rate, user = (np.array([row.metrics.get(name) or 0.0 for row in rows]) for name in FRONT)
    return [rows[at] for at in front(np.arange(len(rows)), rate, user)]


def front(rows: npt.NDArray[np.intp], rate: Array, user: Array) -> Iterator[int]:
    """Yield the rows that no other beats in both rates, the fastest for a user first."""
    best = -np.inf
    for at in rows[np.lexsort((-rate[rows], -user[rows]))]:
        if rate[at] > best:
            best = float(rate[at])
            yield int(at)


def open_ended(on_progress: OnProgress, begin: float, share: float) -> Callable[[], None]:
    """Return what says that one more of an unknown number of steps is done: n / (n + 20) of a share from `begin` on."""
    numbers = count(1)

    def step() -> None:
        number = next(numbers)
        on_progress(begin + share * number / (number + _STEPS))

    return step
