"""What single changes are worth in a scenario: each alone, one after the other, and at most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import isclose
from typing import Any, Literal, NamedTuple

import numpy as np

from costmodel.analytic.breakdown import ALL_TO_ALL_CONTENTION
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.grid import evaluate_single
from costmodel.analytic.intervals import perturbations_of, ratio_interval
from costmodel.api import Workload
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.errors import CostModelError, InputError
from costmodel.quantities import Array, maximum
from costmodel.records import ValueRecord, fields, replace
from costmodel.result import PHASES, Entry
from costmodel.schema.what_if import AlternativeFile
from costmodel.workload.dtypes import ELEMENT_BYTES, LOGARITHMIC, payload_width
from costmodel.workload.scenario import Scenario

MESSAGES = (
    "hardware.node.nic", "hardware.node.peer", "hardware.network", "hardware.links", "hardware.node.host",
    "hardware.node.count",
)  # fmt: skip
KERNELS = ("hardware.memory", "hardware.math", "hardware.clock", "hardware.processors")
_KEYS = "dispatch", "combine", "in_network", "multicast", "reduction", "codec", "checksum", "fences", "host_link"
OF_EXCHANGE = tuple(f"communication.{key}" for key in _KEYS)
SENDING = "communication.processors"
_SLOWED = (ALL_TO_ALL_CONTENTION,)  # lines that grow with what runs during kernels
_SERVERS = ("serving", "disaggregated", "pools")
_WAITS = ("wait", "bubble")
_MATH = "hardware.math."


class Whole(NamedTuple):
    """A scenario whose parts changes shorten. headline: the metric that the lines of its breakdown and the bubble
    make up."""

    phase: str
    headline: float
    breakdown: Sequence[Entry]


def ceiling(before: Whole, scenario: Scenario, values: Mapping[str, tuple[Any, Any]]) -> float | None:
    """Return the most that changes can save of the headline, a share of it, null of a server.

    scenario: without them.
    values: path -> its value before and after, paths without the name of a scenario.
    """
    if before.phase in _SERVERS:
        return None
    share = _of_lines(before, values)
    factor = 1.0 - 1.0 / max((_factor(scenario, path, *pair) for path, pair in values.items()), default=1.0)
    of_kernels = all(path.startswith(KERNELS) or path == SENDING for path in values)
    return share * factor if of_kernels else min(share, factor)


def with_waves(before: Whole, values: Mapping[str, tuple[Any, Any]]) -> float | None:
    """Return the most that freed processors save where their share does not bound it, null for other changes.

    A kernel of two waves of tiles may need one: half of its time. What sends instead of a few processors may send as
    fast as the library's own number of them: an exchange may be hidden whole.
    """
    if SENDING not in values or before.phase in _SERVERS:
        return None
    exchanges = {path: pair for path, pair in values.items() if path != SENDING} | {OF_EXCHANGE[0]: (None, None)}
    return min(0.5 * _of_lines(before, values) + _of_lines(before, exchanges), 1.0)


def _factor(scenario: Scenario, path: str, old: Any, new: Any) -> float:
    """Return f by which a change improves a rate or reduces a size, at least one; infinite of no number or format."""
    if path == SENDING:
        processors = float(np.asarray(scenario.cluster.device.processors))
        return max((processors - float(new)) / (processors - float(old)), 1.0)
    if isinstance(old, bool) or isinstance(new, bool):
        return math.inf
    if isinstance(old, int | float) and isinstance(new, int | float):
        return _ratio(float(old), float(new))
    if isinstance(old, str) and isinstance(new, str) and {old, new} <= {*ELEMENT_BYTES, *LOGARITHMIC}:
        return max(payload_width(old) / payload_width(new), 1.0)
    return 1.0 if old == new else math.inf


def _ratio(old: float, new: float) -> float:
    if old == new:
        return 1.0
    return math.inf if 0.0 in (old, new) else max(new / old, old / new)


def _of_lines(before: Whole, values: Mapping[str, tuple[Any, Any]]) -> float:
    """Return the share of the headline that the lines make which any of the changes touches."""
    touched = [entry for entry in before.breakdown if any(_touches(path, entry) for path in values)]
    listed = math.fsum(entry.time for entry in before.breakdown)
    bubble = max(before.headline - listed, 0.0)  # of a training step, besides its lines
    return min((math.fsum(entry.time for entry in touched) + bubble) / before.headline, 1.0)


def _touches(path: str, entry: Entry) -> bool:
    """Tell whether a change of a path can shorten a line."""
    if entry.name in _SLOWED or any(word in entry.name for word in _WAITS):
        return True
    is_message = entry.traffic is None
    if path.startswith(_MATH):
        return entry.dtype == path.removeprefix(_MATH).partition(".")[0]
    if path.startswith((*MESSAGES, *OF_EXCHANGE)):
        return is_message
    if path.startswith(KERNELS) or path == SENDING:
        return not is_message
    return True


def within(saved: float, most: float, tolerance: float = 1e-9) -> bool:
    """Tell whether a saving keeps to its ceiling but for rounding."""
    return bool(saved <= float(maximum(most, 0.0)) + tolerance)


SCHEMA = "costmodel/what_if@1"
LEVERS = "levers"  # what-if file of any workload
_OWN = "scenario."  # begins a path of the scenario at hand
_ROUNDING = 1e-9
_SHOWN = 0.5e-4
_EXCHANGE = "communication.exchange"
_GATHERS = "its experts exchange tokens by gathers: there is no all-to-all that this could change"
_NO_EXPERTS = "the model has no experts that exchange tokens"
_HAS_IT = "the scenario has it already"
Base = Literal["scenario", "without", "another"]


class Worth(ValueRecord):
    """What a lever is worth in a scenario.

    before, after: the headline without it and with it alone.
    ratio: 80 % interval of after over before, in which the errors that both share cancel.
    difference: likewise of before less after, in the headline's unit.
    rent: of a device of the scenario [$/s], null where no source states it.
    ceiling: the most that it can save, a share of the headline.
    with_waves: of freed processors, the most where kernels need whole waves of tiles fewer, null for others.
    together: the headline with it and all levers above it that help, null where it does not help.
    refused: why it cannot be had, null where it can.
    name, section: of a publication's lever, null of others.
    against: what its switch replaces, null for nothing. base: what it is measured against: the `scenario` as it is. The
    scenario `without` what it has already, so that `after` is the scenario. Or `another` scenario, which `against`
    makes.
    """

    term: str
    scenario: str
    metric: str
    changes: Mapping[str, Any]
    before: float
    after: float | None = None
    ratio: tuple[float, float] | None = None
    difference: tuple[float, float] | None = None
    ceiling: float | None = None
    with_waves: float | None = None
    together: float | None = None
    refused: str | None = None
    limit: str | None = None
    cite: str | None = None
    name: str | None = None
    section: str | None = None
    against: Mapping[str, str] | None = None
    base: Base = "scenario"
    rent: float | None = None

    @property
    @equation
    def worth(self) -> float | None:
        """Return what the change may cost an hour and device before it stops paying [$/s], null where that is unknown.

        worth = rent * (before / after - 1)      a token costs rent * time: as much as before at rent + worth
        """
        rent, before, after = self.rent, self.before, self.after
        return None if rent is None or after is None else rent * (before / after - 1)

    @property
    def saved(self) -> float | None:
        """Return the share of the headline that it saves alone, null where it cannot be had."""
        return None if self.after is None else 1.0 - self.after / self.before

    @property
    def changes_nothing(self) -> bool:
        """Tell whether it can be had and moves the headline by less than the second digit of a per cent."""
        return self.saved is not None and abs(self.saved) < _SHOWN

    @property
    def keeps_to_its_ceiling(self) -> bool:
        """Tell whether it saves no more than it can."""
        if self.saved is None or self.ceiling is None:
            return True
        return within(self.saved, self.ceiling if self.with_waves is None else max(self.ceiling, self.with_waves))

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        row = {name: getattr(self, name) for name in fields(self)}
        return {
            **row,
            "changes": {path: str(value) for path, value in self.changes.items()},
            "saved": self.saved,
            "worth": self.worth,
            "keeps_to_its_ceiling": self.keeps_to_its_ceiling,
        }


def worths(workload: Workload, scenario: str, levers: Sequence[AlternativeFile]) -> list[Worth]:
    """Return what each lever that a scenario could have is worth in it, in the order given.

    Raises InputError on an unknown scenario. A lever without meaning there is refused.
    """
    listed: list[Worth] = []
    kept: dict[str, Any] = {}
    shortest = _base(workload, scenario)[0].headline
    for lever in levers:
        one = _worth(workload, scenario, lever)
        if one.after is not None:
            wider = {**kept, **one.changes}
            total = _together(workload, scenario, wider) if kept else one.after
            if total is not None and total <= shortest:
                kept, shortest = wider, total
                one = replace(one, together=total)
        listed.append(one)
    return listed


def _worth(workload: Workload, scenario: str, lever: AlternativeFile) -> Worth:
    unknown = _unknown(workload, scenario, lever, {})
    try:
        changes = dict(changes_of(workload, scenario, lever))
        return worth_between(workload, workload.changed(changes, [scenario]), scenario, lever, changes)
    except InputError as error:  # also of what the hardware lacks altogether, such as a NIC
        return replace(unknown, refused=reason_of(error, scenario))


def worth_between(
    workload: Workload, changed: Workload, scenario: str, lever: AlternativeFile, changes: Mapping[str, Any]
) -> Worth:
    """Return what a lever is worth alone. Raises InputError where the scenario cannot run without it.

    workload, changed: without its changes and with them.
    """
    unknown, chosen = _unknown(workload, scenario, lever, changes), workload.scenario(scenario)
    if same(workload, changed, changes):
        return replace(unknown, refused=_HAS_IT)
    if exchanges_otherwise(workload, changed, scenario, changes):
        return replace(unknown, refused=no_all_to_all(chosen))
    outcome = _run(changed, scenario)
    if isinstance(outcome, str):
        return replace(unknown, refused=outcome)
    after, altered = outcome
    whole, before = _base(workload, scenario)
    one, other = workload.resolved, changed.resolved
    values = {path.removeprefix(f"scenarios.{scenario}."): (one.value(path), other.value(path)) for path in changes}
    metric, rent = unknown.metric, chosen.cluster.device.price.rental
    return replace(
        unknown, after=after, ratio=change_interval(before, altered, metric, after / whole.headline),
        difference=difference_interval(before, altered, metric, whole.headline - after),
        ceiling=ceiling(whole, chosen, values), with_waves=with_waves(whole, values),
        rent=None if rent is None else float(rent),
    )  # fmt: skip


def _unknown(workload: Workload, scenario: str, lever: AlternativeFile, changes: Mapping[str, Any]) -> Worth:
    """Return a worth of which the scenario without the lever is known alone."""
    value = _base(workload, scenario)[0].headline
    return Worth(lever.term, scenario, _metric(workload, scenario), changes, value, limit=lever.limit, cite=lever.cite)


def reason_of(error: CostModelError, scenario: str) -> str:
    """Return why a change cannot be had, in the words of the scenario: without the place and the fix of an input."""
    if not isinstance(error, InputError):
        return str(error).splitlines()[0]
    first = error.problems[0]
    field = first.field.removeprefix("--scenario").removeprefix(f"scenarios.{scenario}.")
    return f"{field}: {first.message}" if field else first.message


def no_all_to_all(scenario: Scenario) -> str:
    """Return why a scenario has no all-to-all of experts."""
    return _GATHERS if scenario.architecture.has_experts else _NO_EXPERTS


def same(one: Workload, other: Workload, paths: Iterable[str]) -> bool:
    """Tell whether two workloads have the same values at all of the paths, but for rounding."""
    return all(_equal(one.resolved.value(path), other.resolved.value(path)) for path in paths)


def exchanges_otherwise(one: Workload, other: Workload, scenario: str, paths: Iterable[str]) -> bool:
    """Tell whether changes, by what they imply alone, give a scenario another exchange between experts.

    Who states something of an all-to-all has one, also where the engine would gather.
    """
    if any(path.endswith(_EXCHANGE) for path in paths):
        return False
    return one.scenario(scenario).communication.exchange != other.scenario(scenario).communication.exchange


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=_ROUNDING)
    return bool(one == other)


def changes_of(workload: Workload, scenario: str, lever: AlternativeFile) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of a lever's changes in a scenario, for it alone. Scaled numbers from its own ones.

    Raises InputError where the scenario has no such number.
    """
    for path, value in lever.set.items():
        yield _path(scenario, path), value
    for path, factor in lever.scale.items():
        full = _path(scenario, path)
        try:
            old = workload.resolved.value(full)
        except InputError:
            old = None
        if not isinstance(old, int | float) or isinstance(old, bool):
            raise InputError.single(f"the scenario has no {path.removeprefix(_OWN)}")
        yield full, float(old) * factor


def _path(scenario: str, path: str) -> str:
    return f"scenarios.{scenario}.{path.removeprefix(_OWN)}"


def _metric(workload: Workload, scenario: str) -> str:
    return PHASES[workload.scenario(scenario).result_kind][0]


@lru_cache(maxsize=8)  # all changes of a scenario have it as one side
def _base(workload: Workload, scenario: str) -> tuple[Whole, Evaluation]:
    outcome = _run(workload, scenario)
    if isinstance(outcome, str):
        raise InputError.single(f"scenario {scenario} cannot run: {outcome}", field="--scenario")
    value, evaluation = outcome
    return Whole(workload.scenario(scenario).plan.phase, value, evaluation.breakdown()), evaluation


@lru_cache(maxsize=8)  # what some changes start from, others end at
def _run(workload: Workload, scenario: str) -> tuple[float, Evaluation] | str:
    """Return the headline and the evaluation that gives it, or why the scenario cannot run, in a sentence."""
    chosen, metric = workload.scenario(scenario), _metric(workload, scenario)
    made: list[Evaluation] = []

    def engine(one: Scenario, calibration: Calibration) -> Evaluation:
        made.append(evaluate(one, calibration))
        return made[-1]

    result = evaluate_single(chosen, workload.calibration(chosen), engine)
    value = result.metrics[metric]
    if value is not None:
        return float(value), made[0]
    point = result.point()
    return (point.reason or point.reasons[metric]).partition(". ")[0]


def _together(workload: Workload, scenario: str, changes: Mapping[str, Any]) -> float | None:
    """Return the headline with some changes, null where it cannot run or where they contradict each other."""
    try:
        outcome = _run(workload.changed(changes, [scenario]), scenario)
    except InputError:
        return None
    return None if isinstance(outcome, str) else outcome[0]


def change_interval(before: Evaluation, after: Evaluation, metric: str, point: float) -> tuple[float, float] | None:
    """Return the 80 % interval of after over before, which always contains the ratio of the two predictions.

    Null where there is none: without fits, or where an error of one of them overloads a server.
    """
    values = _both_perturbed(before, after, metric)
    if values is None:
        return None
    _, low, high = ratio_interval(*values)
    return min(low, point), max(high, point)


def ratio_of(
    workload: Workload, scenario: str, other: Workload, named: str
) -> tuple[float, tuple[float, float] | None]:  # fmt: skip
    """Return the headline of a scenario of another workload, `named`, over that of a scenario, with its 80 % interval.

    On one device errors that both share cancel; on two, whose kernels are measured apart, none does. Raises InputError
    where either cannot run.
    """
    (whole, one), (changed, two) = _base(workload, scenario), _base(other, named)
    metric, ratio = _metric(workload, scenario), changed.headline / whole.headline
    if workload.scenario(scenario).cluster.device.name == other.scenario(named).cluster.device.name:
        return ratio, change_interval(one, two, metric, ratio)
    sides = [_perturbed(side, side.families(), metric) for side in (one, two)]
    if not all(len(side) > 1 and np.isfinite(side).all() for side in sides):
        return ratio, None
    first, second = ((side, np.full(len(rest) - 1, side[0])) for side, rest in zip(sides, reversed(sides), strict=True))
    _, low, high = ratio_interval(np.concatenate(first), np.concatenate([second[0][:1], second[1], second[0][1:]]))
    return ratio, (min(low, ratio), max(high, ratio))


def difference_interval(
    before: Evaluation, after: Evaluation, metric: str, point: float
) -> tuple[float, float] | None:  # fmt: skip
    """Return the 80 % interval of before less after, in the metric's unit, which contains that of the predictions.

        d +- sqrt(sum over families f of (the largest move of before - after by f's error to that side)^2)

    What both sides share cancels. Null where there is none, as `change_interval`.
    """
    values = _both_perturbed(before, after, metric)
    if values is None:
        return None
    saved = values[0] - values[1]
    moves = saved[1:].reshape(-1, 2) - saved[0]
    down, up = np.minimum(moves.min(axis=1), 0.0), np.maximum(moves.max(axis=1), 0.0)
    low, high = saved[0] - np.sqrt(down @ down), saved[0] + np.sqrt(up @ up)
    return min(float(low), point), max(float(high), point)


def _both_perturbed(before: Evaluation, after: Evaluation, metric: str) -> list[Array] | None:
    """Return a metric of both sides under the same errors, null without any or where one overloads a server."""
    families = before.families() | after.families()
    values = [_perturbed(side, families, metric) for side in (before, after)] if families else []
    return values if values and np.isfinite(values).all() else None


@lru_cache(maxsize=8)  # a list of changes asks for the same side again and again
def _perturbed(side: Evaluation, families: frozenset[str], metric: str) -> Array:
    moves = perturbations_of(families, 0)
    return np.broadcast_to(np.asarray(side.metrics(moves)[metric], dtype=np.float64), (1 + 2 * len(families),))
