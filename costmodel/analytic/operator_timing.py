"""Times operators: kernels on the device, messages on the network, each with its family's fit."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.distinct_sizes import DistinctSizes, is_uniform
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.time import Time
from costmodel.hardware import Cluster
from costmodel.quantities import Count, Seconds
from costmodel.records import MutableRecord, Record, field
from costmodel.workload.operator_key import operator_key
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm, MixedAttention, Operator
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Framework, Scenario
from costmodel.workload.work import LayerWork

KERNELS = (Gemm, AttentionKernel, MixedAttention, Elementwise)  # computed by the device; all others move data


class TimedOperator(Record):
    """An operator, its time and the fit behind it.

    overlapped_gemm: the one that a tensor-parallel message overlaps.
    least: what no interval goes below [s].
    """

    operator: Operator
    time: Time
    fit: FamilyFit
    overlapped_gemm: TimedOperator | None = None
    least: Seconds = 0.0


class TimedWork(Record):
    """The three passes of one kind of layer, operator by operator."""

    name: str
    forward: tuple[TimedOperator, ...]
    input_gradient: tuple[TimedOperator, ...]
    weight_gradient: tuple[TimedOperator, ...]


class OperatorTimer(MutableRecord):
    """Times the operators of one scenario. Operators of equal sizes are evaluated once, whatever their names.

    processors: available to compute kernels.
    is_training: kernels are slower than in benchmark loops.
    """

    cluster: Cluster
    framework: Framework
    calibration: Calibration
    processors: Count
    is_training: bool = False
    _by_identity: dict[int, tuple[Operator, TimedOperator]] = field(default_factory=dict)
    _by_size: dict[Hashable, tuple[Time, FamilyFit, Seconds]] = field(default_factory=dict)
    _uniform: bool | None = None

    def time_operator(self, operator: Operator) -> TimedOperator:
        """Return the operator, as the kernels run it that price it, with its time."""
        known = self._by_identity.get(id(operator))
        if known is None:
            run = self.calibration.as_run(operator)
            time, fit, least = self._time(run)
            gemm = operator.overlapped_gemm if isinstance(operator, Collective) else None
            overlapped = None if gemm is None else self.time_operator(gemm)
            known = self._by_identity[id(operator)] = operator, TimedOperator(run, time, fit, overlapped, least)
        return known[1]

    def _time(self, operator: Operator) -> tuple[Time, FamilyFit, Seconds]:
        """Return an operator's time, the fit that it comes from, and the least time that the device allows."""
        sizes = operator_key(operator)
        known = self._by_size.get(sizes)
        if known is None:
            fit = self.calibration.fit(operator)
            machine = Machine(self.cluster.device, self.framework, self.processors, cluster=self.cluster)
            time = self._over_grid(operator, machine, fit)
            if self.is_training and isinstance(operator, KERNELS):
                time = time.scaled(self.framework.sustained_slowdown)
            least = least_time(operator, machine) if fit.form is not None else 0.0
            known = self._by_size[sizes] = time, fit, least
        return known

    def _over_grid(self, operator: Operator, machine: Machine, fit: FamilyFit) -> Time:
        """Return an operator's time. Of a kernel over a grid on one machine, each size is evaluated once."""
        sizes = DistinctSizes.of(operator) if isinstance(operator, KERNELS) and fit.form is not None else None
        if sizes is None or not self._is_uniform(machine):
            return operator_time(operator, machine, self.cluster, fit)
        reduced = sizes.reduced(operator)
        return sizes.over_grid(operator_time(reduced, machine, self.cluster, self.calibration.fit(reduced)))

    def _is_uniform(self, machine: Machine) -> bool:
        """Tell whether nothing of the machine differs over the grid."""
        if self._uniform is None:
            self._uniform = is_uniform(machine)
        return self._uniform

    def time_all(self, operators: Iterable[Operator]) -> tuple[TimedOperator, ...]:
        """Return operators with their times, in order."""
        return tuple(self.time_operator(operator) for operator in operators)

    def time_work(self, work: LayerWork) -> TimedWork:
        """Return the three passes of one kind of layer."""
        passes = (work.forward, work.input_gradient, work.weight_gradient)
        return TimedWork(work.name, *(self.time_all(operators) for operators in passes))


def operator_timer(scenario: Scenario, calibration: Calibration) -> OperatorTimer:
    """Return the timer of a scenario; in training kernels take `sustained_slowdown` times as long."""
    device = scenario.cluster.device
    processors = device.processors - scenario.communication.processors
    is_training = isinstance(scenario.plan, Training)
    return OperatorTimer(scenario.cluster, scenario.framework, calibration, processors, is_training=is_training)
