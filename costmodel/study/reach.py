"""Dual questions: how far a number of a scenario can go while a layout still fits and meets the constraints.

The highest rate of a budget, the longest context of a latency, the slowest network that keeps a step's time.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection
from typing import TypeAlias

from costmodel.api import Workload
from costmodel.declared import Measure
from costmodel.errors import ImplausibleInput, InputError
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.study.goals import OnProgress, Reached, SearchResult, open_ended, sense_of
from costmodel.units import render

_PATH = re.compile(r"[A-Za-z_][\w.-]*")
_BITS = 10  # of a whole number: each one up to 1,024, then steps of less than two thousandths
_DIGITS = 3  # of a quantity
_OCTAVES = 24  # doublings or halvings at most

Search: TypeAlias = "Callable[[Workload], SearchResult]"


class Number(Record):
    """A number of a scenario that a search moves: its path, its name as the user wrote it, and its value now [SI].

    own: null where the scenario states none.
    dimension: of its unit, `count` for a plain number.
    whole: it is a count, as a length in tokens.
    """

    path: str
    name: str
    own: float | None
    dimension: str
    whole: bool

    def rounded(self, value: float) -> float:
        """Return the value near another one that is tried: ten significant bits of a count, three digits of others."""
        if not self.whole:
            return float(f"{value:.{_DIGITS}g}")
        step = 2.0 ** max(math.frexp(value)[1] - _BITS, 0)
        return max(math.floor(value / step) * step, 1.0)

    def plain(self, value: float) -> float:
        """Return a value as JSON has it."""
        return int(value) if self.whole else value

    def text(self, value: float) -> str:
        """Return a value as `--set` takes it."""
        return f"{value:.0f}" if self.whole else render(value, self.dimension)


def number_of(workload: Workload, scenario: str, objective: str, known: Collection[str]) -> Number | None:
    """Return the number of a scenario that an objective names, null where it names none, or is a formula.

    known: names of metrics and axes, which come first. A path may leave out `scenarios.NAME.`.
    """
    sense, name = sense_of(objective)
    if sense is None or name in known or not _PATH.fullmatch(name):
        return None
    for path in (f"scenarios.{scenario}.{name}", name):
        try:
            number = workload.resolved.number(path)
        except InputError:
            continue
        if number is not None:
            own = workload.resolved.value(path)
            dimension = number.dimension if isinstance(number, Measure) else "count"
            whole = dimension == "count" and (own is None or float(own).is_integer())
            return Number(path, name, None if own is None else float(own), dimension, whole)
    return None


class _Walk(MutableRecord, eq=False):
    """Searches at values of a number, each once: the result, or why the scenario cannot have the value."""

    workload: Workload
    number: Number
    search: Search
    on_step: Callable[[], None]
    known: dict[float, SearchResult | str] = field(default_factory=dict)

    def holds(self, value: float) -> bool:
        """Tell whether a layout fits and meets the constraints at a value."""
        if value not in self.known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ImplausibleInput)  # what is tried is not what the user states
                try:
                    text = self.number.text(value)
                    self.known[value] = self.search(self.workload.changed({self.number.path: text}))
                except InputError as error:
                    if not self.known:
                        raise
                    self.known[value] = error.problems[0].message
            self.on_step()
        found = self.known[value]
        return isinstance(found, SearchResult) and bool(found.best)

    def ends(self, factor: float) -> tuple[float | None, float | None]:
        """Return the outermost value that holds, and the next one, which does not. Null where there is none.

        factor: 2 outward where the largest is looked for, 1/2 for the smallest.
        """
        value = self.number.rounded(self.number.own or 1.0)  # a field at zero begins at one
        is_held = self.holds(value)
        for _ in range(_OCTAVES):
            further = self.number.rounded(value * (factor if is_held else 1.0 / factor))
            if further == value:
                break
            if self.holds(further) != is_held:
                return self._between(*((value, further) if is_held else (further, value)))
            value = further
        return (value, None) if is_held else (None, value)

    def _between(self, held: float, failed: float) -> tuple[float, float]:
        """Return two neighbours, the first of which holds and the other does not."""
        while (middle := self.number.rounded(0.5 * (held + failed))) not in (held, failed):
            held, failed = (middle, failed) if self.holds(middle) else (held, middle)
        return held, failed


def reach(
    workload: Workload, number: Number, objective: str, search: Search, on_progress: OnProgress
) -> SearchResult:  # fmt: skip
    """Return the best layouts at the largest (or smallest) value of a number at which any meets the constraints.

    From the scenario's own value by doubling, then by bisection: a larger load, a longer context or a slower part is
    taken to be no easier. search: returns the best layouts of a workload.

    Raises InputError where nothing limits the number.
    """
    sense, _ = sense_of(objective)
    assert sense is not None, "the objective was read"
    if number.own is None:
        raise InputError.single(
            f"the scenario states no {number.name} to begin with", hint=f"add --set {number.path}=VALUE",
            field="--objective",
        )  # fmt: skip
    walk = _Walk(workload, number, search, open_ended(on_progress, 0.0, 1.0))
    held, failed = walk.ends(2.0 if sense == "maximise" else 0.5)
    results = {value: one for value, one in walk.known.items() if isinstance(one, SearchResult)}
    if held is None:
        result = next(iter(results.values()))
        tried = sorted(results)
        span = f"{number.name} {number.text(tried[0])} to {number.text(tried[-1])}"
        result.why = None if result.least else f"no layout both fits and meets the constraints, at {span}"
        return result
    if failed is None and not (number.whole and held == 1.0):
        raise InputError.single(
            f"nothing limits {number.name}: layouts meet the constraints at {number.text(held)} as well",
            hint="add a --constraint", field="--objective",
        )  # fmt: skip
    result = results[held]
    value = number.plain(held)
    result.sense, result.objective = sense, number.name
    result.best = [
        replace(one, at={number.path: value, **one.at}, objective=value, objective_interval=None, tied=False)
        for one in result.best
    ]
    result.axes = {**result.axes, number.path: number.dimension}
    beyond = None if failed is None else number.plain(failed)
    result.reached = Reached(number.path, value, beyond, None if failed is None else walk.known[failed])
    for name in ("looked_at", "feasible", "scheduled"):
        setattr(result, name, sum(getattr(one, name) for one in results.values()))
    return result
