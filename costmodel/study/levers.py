"""What the levers of a publication are worth to a workload: each alone, all in order, with ceiling and interval.

    saving  = 1 - after / before          of the scenario's headline; of a rate 1 - before / after
    ceiling = share * (1 - 1/factor)      share: of the headline in what the lever touches, exposed and hidden

share is 1 for `everything`; of `products` their lines, of `messages` all lines without FLOP or device memory (messages,
waits and slowdowns by them), of `processors` those that communication takes from compute. None of it uses the changed
side: a saving beyond its ceiling is a fault of this model, and is said to be one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.intervals import perturbations_of, ratio_interval
from costmodel.api import Workload
from costmodel.errors import CostModelError, InfeasibleError, InputError
from costmodel.quantities import Array
from costmodel.result import Point
from costmodel.schema.lever import LeversFile, SwitchFile
from costmodel.schema.quantity import SI
from costmodel.schema.references import suggest

SCHEMA = "costmodel/what_if@1"
OWN = "scenario."  # begins a path of the scenario at hand
_ROUNDING = 1e-6  # by which a saving may exceed its ceiling
_RATES = ("tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user", "requests_per_second")


@dataclass(frozen=True, slots=True)
class LeverEffect:
    """One lever in one scenario: the headline without it and with it.

    before, after, saving, interval, ceiling: null where it does not apply, as `reason` says.
    interval: 80 % of the saving, in which errors that both sides share cancel; null where nothing is uncertain.
    holds: whether the saving stays within its ceiling.
    """

    name: str
    term: str
    section: str
    scenario: str
    metric: str
    changes: tuple[str, ...]
    before: float | None = None
    after: float | None = None
    saving: float | None = None
    interval: tuple[float, float] | None = None
    ceiling: float | None = None
    reason: str | None = None
    limit: str | None = None

    @property
    def holds(self) -> bool:
        """Tell whether the saving is within its ceiling."""
        return self.saving is None or self.ceiling is None or self.saving <= self.ceiling + _ROUNDING

    def document(self) -> dict[str, Any]:
        """Return the effect as the documented JSON object."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "changes": list(self.changes), "holds": self.holds}


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a comparison."""

    evaluation: Evaluation
    point: Point
    workload: Workload


def switches(file: LeversFile, names: Sequence[str] = ()) -> list[tuple[SwitchFile, str, str]]:
    """Return (switch, term, section) of all switches, or of those named; raise InputError on an unknown name."""
    found = [(switch, switch.term or lever.term, lever.section) for lever in file.levers for switch in lever.switches]
    known = [switch.name for switch, _, _ in found]
    for name in names:
        if name not in known:
            raise InputError.single(f"no lever is named {name!r}", hint=suggest(name, known), field="--lever")
    return [one for one in found if not names or one[0].name in names]


def alone(workload: Workload, file: LeversFile, names: Sequence[str] = ()) -> Iterator[LeverEffect]:
    """Yield what each switch is worth by itself in each scenario of its phases."""
    for scenario in workload.scenarios:
        phase = workload.scenario(scenario).plan.phase
        for switch, term, section in switches(file, names):
            if phase in switch.phases:
                yield _effect(workload, scenario, (switch, term, section))


def cumulative(workload: Workload, file: LeversFile, names: Sequence[str] = ()) -> Iterator[LeverEffect]:
    """Yield what each switch adds to those before it; one that does not apply, or has a side of its own, is left out.

    Switches with `against` compare with a system that the workload is not, so that they cannot join a chain.
    """
    for scenario in workload.scenarios:
        phase, present = workload.scenario(scenario).plan.phase, workload.changed({}, [scenario])
        for switch, term, section in switches(file, names):
            if phase not in switch.phases or switch.against or switch.against_times:
                continue
            effect = _effect(present, scenario, (switch, term, section))
            yield effect
            if effect.reason is None:
                present = present.changed(_changes(present, scenario, switch), [scenario])


def _effect(workload: Workload, scenario: str, found: tuple[SwitchFile, str, str]) -> LeverEffect:
    """Return what one switch is worth in one scenario, or why it does not apply."""
    switch, term, section = found
    told = (*_told(switch.set), *(f"{path} x {factor:g}" for path, factor in switch.times.items()),
            *(f"{path} x {factor:g} without it" for path, factor in switch.against_times.items()))  # fmt: skip
    empty = LeverEffect(switch.name, term, section, scenario, "", told, limit=switch.limit)
    try:
        both = {_own(scenario, path): value for path, value in switch.against.items()}
        base = workload.changed(both, [scenario])
        without = _side(base, scenario, _factors(base, scenario, switch.against_times))
        with_it = _side(base, scenario, _changes(base, scenario, switch))
        return _compared(empty, switch, without, with_it)
    except CostModelError as error:
        problems = error.problems if isinstance(error, InputError) else ()
        reason = ": ".join(filter(None, (problems[0].field, problems[0].message))) if problems else str(error)
        return LeverEffect(
            switch.name, term, section, scenario, "", told, reason=f"does not apply: {reason}", limit=switch.limit
        )


def _compared(empty: LeverEffect, switch: SwitchFile, without: _Side, with_it: _Side) -> LeverEffect:
    """Return both sides compared. empty: what is known without them."""
    metric = without.point.headline
    before, after = (side.point.metrics[metric] for side in (without, with_it))
    if before is None or after is None:
        raise InfeasibleError(f"{metric} is not known")
    rises = metric in _RATES
    ratio = before / after if rises else after / before
    ends = _ratio(without.evaluation, with_it.evaluation, metric)
    interval = None
    if ends is not None:
        values = [1.0 / end for end in ends] if rises else list(ends)
        interval = 1.0 - max(*values, ratio), 1.0 - min(*values, ratio)
    return LeverEffect(
        empty.name, empty.term, empty.section, empty.scenario, metric, empty.changes, before=before, after=after,
        saving=1.0 - ratio, interval=interval, ceiling=_ceiling(switch, without, with_it), limit=empty.limit,
    )  # fmt: skip


def _side(base: Workload, scenario: str, changes: Mapping[str, object]) -> _Side:
    """Return one side; raise InfeasibleError where it does not run."""
    changed = base.changed(changes, [scenario]) if changes else base
    point = changed.points([scenario])[scenario]
    if not point.fits:
        raise InfeasibleError(f"{point.reason}")
    chosen = changed.scenario(scenario)
    return _Side(evaluate(chosen, changed.calibration(chosen)), point, changed)


def _changes(base: Workload, scenario: str, switch: SwitchFile) -> dict[str, object]:
    """Return the changes of a switch as `load` takes them."""
    plain: dict[str, object] = {_own(scenario, path): value for path, value in switch.set.items()}
    return plain | _factors(base, scenario, switch.times)


def _factors(base: Workload, scenario: str, times: Mapping[str, object]) -> dict[str, object]:
    """Return path -> the workload's own value times a factor; raise InputError where it has none."""
    changes: dict[str, object] = {}
    for path, factor in times.items():
        full = _own(scenario, path)
        value = base.resolved.value(full)
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise InputError.single(f"{path} is not stated: {value}", hint="state it", field=path)
        changes[full] = SI(float(value) * float(str(factor)))
    return changes


def _own(scenario: str, path: str) -> str:
    """Return a path with the scenario at hand."""
    if path.startswith(OWN):
        return f"scenarios.{scenario}.{path.removeprefix(OWN)}"
    return f"scenarios.{scenario}.{path}" if path.startswith("hardware.") else path


def _told(changes: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{path}={value}" for path, value in changes.items())


def _ceiling(switch: SwitchFile, without: _Side, with_it: _Side) -> float:
    """Return the most that a switch can save."""
    factor = math.inf if switch.factor is None else float(switch.factor)
    return _share(switch, without, with_it) * (1.0 - 1.0 / factor)


def _share(switch: SwitchFile, without: _Side, with_it: _Side) -> float:
    """Return the share of the headline in what a switch touches, exposed and hidden, one at most."""
    if switch.touches == "everything":
        return 1.0
    if switch.touches == "processors":
        name = without.workload.scenarios[0]
        taken, left = (float(side.workload.scenario(name).communication.processors) for side in (without, with_it))
        processors = float(without.workload.scenario(name).cluster.device.processors)
        return 1.0 - (processors - taken) / (processors - left)
    headline = without.point.metrics[without.point.headline]
    assert headline is not None, "it was compared"
    lines = [
        entry.time + entry.hidden
        for entry in without.point.breakdown
        if (entry.flop > 0 if switch.touches == "products" else entry.traffic is None)
    ]
    bubble = (without.point.schedule or {}).get("bubble", 0.0) if switch.touches == "messages" else 0.0
    return min((math.fsum(lines) + bubble) / headline, 1.0)


def _ratio(before: Evaluation, after: Evaluation, metric: str) -> tuple[float, float] | None:
    """Return the 80 % interval of after over before, null where nothing is uncertain."""
    moves = perturbations_of(before.families() | after.families(), 0)
    if not moves:
        return None
    count = 1 + 2 * len(moves)
    values: list[Array] = [
        np.broadcast_to(np.asarray(side.metrics(moves)[metric], dtype=np.float64), (count,)) for side in (before, after)
    ]
    _, low, high = ratio_interval(*values)
    return low, high
