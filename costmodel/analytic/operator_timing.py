"""Times operators: kernels on the device, messages on the network, each with its family's fit."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.distinct_sizes import DistinctSizes, grid_shape
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.power import Clock, at_clock
from costmodel.cost.time import Machine, Time
from costmodel.equations import equation
from costmodel.hardware import Cluster
from costmodel.quantities import ArrayKey, Count, Quantity, Seconds, anywhere, as_key, is_single
from costmodel.records import MutableRecord, Record, Struct, content, field, fields, replace
from costmodel.workload import operators as ops
from costmodel.workload.operators import Collective, Kernel, Operator
from costmodel.workload.plans import Diffusion, Training
from costmodel.workload.scenario import Framework, Scenario
from costmodel.workload.work import LayerWork


class Sized(Record, dict=True):
    """What the time of operators of one size rests on.

    operator: the first of them.
    machine: that runs them.
    """

    operator: Operator
    machine: Machine
    calibration: Calibration

    @cached_property
    def fit(self) -> FamilyFit:
        """Return the fit at the size."""
        return self.calibration.fit(self.operator)

    @cached_property
    def least(self) -> Seconds:
        """Return what no interval goes below [s]."""
        return least_time(self.operator, self.machine) if self.fit.form is not None else 0.0


class TimedOperator(Record):
    """An operator and its time.

    sized: what its time rests on.
    overlapped_gemm: the one that a tensor-parallel message overlaps.
    """

    operator: Operator
    time: Time
    sized: Sized
    overlapped_gemm: TimedOperator | None = None

    @property
    def fit(self) -> FamilyFit:
        """Return the fit that the time comes from."""
        return self.sized.fit

    @property
    def least(self) -> Seconds:
        """Return what no interval goes below [s]."""
        return self.sized.least


class TimedWork(Record):
    """The three passes of one kind of layer, operator by operator."""

    name: str
    forward: tuple[TimedOperator, ...]
    input_gradient: tuple[TimedOperator, ...]
    weight_gradient: tuple[TimedOperator, ...]


_Times: TypeAlias = "dict[Hashable, tuple[Time, Sized]]"


class Kept(MutableRecord):
    """Times of single sizes on one machine, which evaluations on an equal one share, as its first evaluation has it."""

    times: _Times = field(default_factory=dict)
    machine: Machine | None = None


class OperatorTimer(MutableRecord, dict=True):
    """Times the operators of one scenario. Operators of equal sizes are evaluated once, whatever their names.

    processors: available to compute kernels.
    is_sustained: kernels are slower than in benchmark loops, as where matrix products follow one another for seconds.
    kernels, messages: times of single sizes, kept for evaluations on equal devices, and on equal clusters.
    """

    cluster: Cluster
    framework: Framework
    calibration: Calibration
    processors: Count
    is_sustained: bool = False
    kernels: Kept = field(default_factory=Kept)
    messages: Kept = field(default_factory=Kept)
    _by_identity: dict[int, tuple[Operator, TimedOperator]] = field(default_factory=dict)
    _by_size: _Times = field(default_factory=dict)

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Return the shape of the grid that the machine's numbers span."""
        return np.broadcast_shapes(_grid_of(self.cluster, self.framework), np.shape(self.processors))

    def at_clock(self, clock: Clock) -> OperatorTimer:
        """Return the timer of the same boards at a clock."""
        return OperatorTimer(
            at_clock(self.cluster, clock), self.framework, self.calibration, self.processors, self.is_sustained
        )

    def time_operator(self, operator: Operator) -> TimedOperator:
        """Return the operator, as the kernels run it that price it, with its time."""
        return self.time_all([operator])[0]

    def time_all(self, operators: Iterable[Operator]) -> tuple[TimedOperator, ...]:
        """Return operators with their times, in order."""
        operators, known = tuple(operators), self._by_identity
        new = [each for each in operators if id(each) not in known]
        if new:
            self._time(new)
        return tuple([known[id(each)][1] for each in operators])

    def time_work(self, work: LayerWork) -> TimedWork:
        """Return the three passes of one kind of layer."""
        passes = (work.forward, work.input_gradient, work.weight_gradient)
        return TimedWork(work.name, *(self.time_all(operators) for operators in passes))

    def _time(self, operators: Sequence[Operator]) -> None:
        """Time operators that are new here, and the GEMMs that they overlap."""
        gemms = [each.overlapped_gemm for each in operators if isinstance(each, Collective) and each.overlapped_gemm]
        overlapped = {id(gemm): timed for gemm, timed in zip(gemms, self.time_all(gemms), strict=True)} if gemms else {}
        sizes, new = [], dict[Hashable, Operator]()
        for operator in operators:
            run = self.calibration.as_run(operator)
            size, known = operator_key(run), (self.kernels if isinstance(run, Kernel) else self.messages).times
            kept = known.get(size) or self._by_size.get(size)
            if kept is None:
                new[size] = run
            sizes.append((operator, run, size, known, kept))
        if new:
            self._evaluate(new)
        for operator, run, size, known, kept in sizes:
            gemm = run.overlapped_gemm if isinstance(run, Collective) else None
            time, sized = kept or known.get(size) or self._by_size[size]
            self._by_identity[id(operator)] = operator, TimedOperator(run, time, sized, overlapped.get(id(gemm)))

    def _evaluate(self, sizes: Mapping[Hashable, Operator]) -> None:
        """Evaluate operators of sizes that are new here, those that differ in numbers only together."""
        groups: dict[Hashable, dict[Hashable, Operator]] = {}
        for size, operator in sizes.items():
            groups.setdefault(form_key(operator), {})[size] = operator
        for group in groups.values():
            is_kernel = isinstance(next(iter(group.values())), Kernel)
            kept, cluster = (self.kernels, None) if is_kernel else (self.messages, self.cluster)
            if kept.machine is None:
                kept.machine = Machine(self.cluster.device, self.framework, self.processors, cluster=cluster)
            self._together(group, kept.machine)

    def _together(self, group: Mapping[Hashable, Operator], machine: Machine) -> None:
        """Evaluate operators of one `form_key`; those with one fit except for those with several."""
        stack = Stack.of(list(group.values()), len(self.grid))
        if stack is None:
            times = [self._one(operator, machine) for operator in group.values()]
        else:
            joined = [anywhere(each) for each in stack.each(self.calibration.is_joined(stack.whole))]
            if any(joined) and not all(joined):
                for which in (True, False):
                    part = zip(group.items(), joined, strict=True)
                    self._together(dict(item for item, is_joined in part if is_joined is which), machine)
                return
            times = stack.times(self._one(stack.whole, machine))
        known = (self.kernels if machine.cluster is None else self.messages).times
        for (size, operator), time in zip(group.items(), times, strict=True):
            kept = known if is_single(time.seconds) else self._by_size
            kept[size] = time, Sized(operator, machine, self.calibration)

    @equation
    def _one(self, operator: Operator, machine: Machine) -> Time:
        """Return an operator's time in the scenario's phase.

        seconds = time.seconds * sustained_slowdown
        """
        sizes = self._distinct_sizes(operator)
        reduced = operator if sizes is None else sizes.reduced(operator)
        time = operator_time(reduced, machine, self.cluster, self.calibration.fit(reduced))
        if sizes is not None:
            time = sizes.over_grid(time)
        if self.is_sustained and isinstance(operator, Kernel):
            sustained_slowdown = self.framework.sustained_slowdown
            return time.scaled(sustained_slowdown)
        return time

    def _distinct_sizes(self, operator: Operator) -> DistinctSizes | None:
        """Return the sizes of a kernel over a grid on one machine of which each is evaluated once, null for others."""
        is_grid = np.ndarray in map(type, _READERS[type(operator)](operator))
        if not is_grid or not isinstance(operator, Kernel) or math.prod(self.grid) > 1:
            return None
        return None if self.calibration.at_any_shape(operator).form is None else DistinctSizes.of(operator)


MACHINES = 32  # whose times are kept
MOST = 8192  # times of a machine that are kept


@lru_cache(maxsize=MACHINES)
def _known(*machine: Hashable) -> Kept:  # noqa: ARG001  what times depend on besides the operators
    return Kept()


@lru_cache(maxsize=64)
def _grid_of(cluster: Cluster, framework: Framework) -> tuple[int, ...]:
    return np.broadcast_shapes(grid_shape(cluster), grid_shape(framework))


def operator_timer(scenario: Scenario, calibration: Calibration) -> OperatorTimer:
    """Return the timer of a scenario; in training and denoising kernels take `sustained_slowdown` times as long."""
    device = scenario.cluster.device
    processors = device.processors - scenario.communication.processors
    is_sustained = isinstance(scenario.plan, Training | Diffusion)
    timer = OperatorTimer(scenario.cluster, scenario.framework, calibration, processors, is_sustained=is_sustained)
    if not timer.grid:
        machine = (content(scenario.framework), calibration, as_key(processors), is_sustained)
        timer.kernels, timer.messages = (_known(content(each), *machine) for each in (device, scenario.cluster))
        for known in (timer.kernels, timer.messages):
            if len(known.times) > MOST:
                known.times.clear()
    return timer


def uncertain_families(operators: Iterable[TimedOperator]) -> frozenset[str]:
    """Return the families of operators whose times are uncertain."""
    return frozenset(timed.operator.family for timed in operators if not timed.fit.spread.is_exact)


# ---- Operators that differ in numbers only as one operator, with a leading axis: a form is evaluated once for all ----

LARGEST = 4096  # numbers of an array that stays in the cache


class Stack(Record):
    """Operators of one `form_key`.

    whole: all of them.
    count: how many.
    axes: of the grid behind the leading one.
    """

    whole: Operator
    count: int
    axes: int

    @classmethod
    def of(cls, operators: Sequence[Operator], hardware: int) -> Stack | None:
        """Return the operators as one; null where each is timed by itself.

        Single sizes are: what is kept of them must not depend, to the last digit, on what else a pass times.
        hardware: axes of the grid that their machine spans. A number that all share stays a number.
        """
        if len(operators) < 2:
            return None
        first = numbers(operators[0])
        shape = np.broadcast_shapes(*(value.shape for value in first.values() if isinstance(value, np.ndarray)))
        axes, points = max(len(shape), hardware), math.prod(shape) * len(operators)
        if not axes or points > LARGEST:
            return None
        changed: dict[str, Any] = {}
        for name, one in first.items():
            values = [getattr(operator, name) for operator in operators]
            if isinstance(one, np.ndarray):
                if any(value is not one for value in values):
                    padded = (*(1,) * (axes - one.ndim), *one.shape)
                    changed[name] = np.stack([value.reshape(padded) for value in values])
            elif values.count(one) < len(values):
                changed[name] = np.array(values).reshape(-1, *(1,) * axes)
        return cls(replace(operators[0], **changed), len(operators), axes)

    def times(self, time: Time) -> list[Time]:
        """Return the time of each operator from that of all."""
        parts = zip(*(self.each(getattr(time, name)) for name in fields(Time)), strict=True)
        return [Time(*each) for each in parts]

    def each(self, value: Any) -> Sequence[Any]:
        """Return what each operator has of a number or array of all; a grid of one point is a number."""
        if not isinstance(value, np.ndarray) or value.ndim <= self.axes:
            return [value] * self.count
        return value.reshape(-1).tolist() if value.size == self.count else list(value)


# ---- Keys of operators: of those that take the same time, and of those that differ in numbers only -------------------


def operator_key(whole: Any) -> Hashable:
    """Return all that the time of an operator, or of a field of one, depends on: every field but its name."""
    kind = type(whole)
    if kind in _READERS:
        parts = _READERS[kind](whole)
        if _PLAIN.issuperset(map(type, parts)):
            return kind, *parts
        return kind, *[part if type(part) in _PLAIN else operator_key(part) for part in parts]
    if kind is tuple:
        return tuple(map(operator_key, whole))
    return ArrayKey(whole) if kind is np.ndarray else whole


def form_key(operator: ops.Operator) -> Hashable:
    """Return what operators have in common that differ in numbers only, so that arrays of these stand for all.

    A number that is the default, such as one call, is not one of these: it often means that a term is absent.
    """
    kind = type(operator)
    defaults = _DEFAULTS[kind]
    return kind, *[
        (... if number == default else float) if type(number) is float else _shape(number)
        for number, default in zip(_READERS[kind](operator), defaults, strict=True)
    ]


def _shape(part: Any) -> Hashable:
    """Return the shape of an array, any other thing as a key."""
    if type(part) in _PLAIN:
        return part  # type: ignore[no-any-return]
    return part.shape if type(part) is np.ndarray else operator_key(part)


def numbers(operator: ops.Operator) -> dict[str, Quantity]:
    """Return the fields of an operator that hold numbers or arrays."""
    values = {name: getattr(operator, name) for name in fields(operator)}
    return {name: value for name, value in values.items() if type(value) in (float, np.ndarray)}


def _defaults(kind: type[Struct]) -> dict[str, object]:
    names, values = kind.__struct_fields__, kind.__struct_defaults__
    return dict.fromkeys(names) | dict(zip(names[len(names) - len(values) :], values, strict=True))


_PLAIN = {float, int, str, bool, type(None)}
_READERS = {
    kind: attrgetter(*(name for name in fields(kind) if name != "name"))
    for kind in (
        ops.Gemm, ops.AttentionKernel, ops.MixedAttention, ops.Elementwise, ops.Group, ops.Collective,
        ops.ExpertAllToAll, ops.HostTransfer, ops.HostUpdate, ops.HostGemm, ops.HostTime,
    )
}  # fmt: skip
_DEFAULTS = {kind: tuple(value for name, value in _defaults(kind).items() if name != "name") for kind in _READERS}
