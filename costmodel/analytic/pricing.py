"""Prices operators: kernels on the device, messages on the network, each with its family's fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.kernels import Machine, attention_time, elementwise_time, gemm_time
from costmodel.cost.time import Time, message
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.exchange import exchange_time
from costmodel.network.paths import path
from costmodel.quantities import Count, Quantity, Seconds, where
from costmodel.workload.operators import AttentionCore, Collective, Elementwise, Exchange, Gemm, Operator
from costmodel.workload.scenario import Framework, Scenario
from costmodel.workload.work import Work

Scales: TypeAlias = "Mapping[str, Quantity]"  # operator family -> factor on its times


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """An operator with its time and the fit that the time rests on."""

    operator: Operator
    time: Time
    fit: FamilyFit


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Times of some operators, added up by family: kernels, collectives that block them, expert exchanges."""

    kernels: Mapping[str, Seconds] = field(default_factory=dict)
    collectives: Mapping[str, Seconds] = field(default_factory=dict)
    exchanges: Mapping[str, Seconds] = field(default_factory=dict)

    def kernel_time(self, scales: Scales) -> Seconds:
        """Return the time of all kernels."""
        return _scaled(self.kernels, scales)

    def compute_time(self, scales: Scales) -> Seconds:
        """Return the time of the compute stream: kernels, and the collectives that they wait for."""
        return _scaled(self.kernels, scales) + _scaled(self.collectives, scales)

    def exchange_time(self, scales: Scales) -> Seconds:
        """Return the time of the expert exchanges."""
        return _scaled(self.exchanges, scales)


def _scaled(times: Mapping[str, Seconds], scales: Scales) -> Seconds:
    total: Quantity = 0.0
    for family, seconds in times.items():
        total = total + (seconds * scales[family] if family in scales else seconds)
    return total


def combine(parts: Iterable[tuple[float, Sums]]) -> Sums:
    """Return the weighted sum of several sums."""
    totals: tuple[dict[str, Quantity], ...] = ({}, {}, {})
    for count, sums in parts:
        for total, times in zip(totals, (sums.kernels, sums.collectives, sums.exchanges), strict=True):
            for family, seconds in times.items():
                total[family] = total[family] + count * seconds if family in total else count * seconds
    return Sums(*totals)


@dataclass(frozen=True, slots=True, eq=False)
class PricedWork:
    """The three passes of one kind of layer, operator by operator and summed."""

    name: str
    forward: tuple[Priced, ...]
    input_gradient: tuple[Priced, ...]
    weight_gradient: tuple[Priced, ...]
    forward_sums: Sums
    input_gradient_sums: Sums
    weight_gradient_sums: Sums


@dataclass(slots=True)
class Pricer:
    """Prices operators of one scenario. An operator that several passes share is priced once.

    processors: those that compute kernels may use.
    """

    cluster: Cluster
    framework: Framework
    calibration: Calibration
    processors: Count
    _priced: dict[int, Priced] = field(default_factory=dict)

    def price(self, operator: Operator) -> Priced:
        """Return the operator with its time."""
        known = self._priced.get(id(operator))
        if known is None:
            fit = self.calibration.family(operator.family)
            known = self._priced[id(operator)] = Priced(operator, self._time(operator, fit), fit)
        return known

    def price_all(self, operators: Iterable[Operator]) -> tuple[Priced, ...]:
        """Return operators with their times, in order."""
        return tuple(self.price(operator) for operator in operators)

    def price_work(self, work: Work) -> PricedWork:
        """Return the three passes of one kind of layer."""
        passes = [self.price_all(each) for each in (work.forward, work.input_gradient, work.weight_gradient)]
        return PricedWork(work.name, passes[0], passes[1], passes[2], *map(sums_of, passes))

    def _time(self, operator: Operator, fit: FamilyFit) -> Time:
        machine = Machine(self.cluster.device, self.framework, self.processors)
        if isinstance(operator, Gemm):
            return gemm_time(operator, machine, fit)
        if isinstance(operator, AttentionCore):
            return attention_time(operator, machine, fit)
        if isinstance(operator, Elementwise):
            return elementwise_time(operator, machine, fit)
        way = path(operator.group, self.cluster)
        latency = where(way.size > 1, way.latency, 0.0)
        if isinstance(operator, Collective):
            return message(collective_time(operator.kind, operator.size, way) / fit.network, latency)
        return message(exchange_time(operator, way) / fit.network, latency)


def pricer(scenario: Scenario, calibration: Calibration) -> Pricer:
    """Return the pricer of a scenario: compute has the processors that communication does not hold."""
    processors = scenario.cluster.device.processors - scenario.communication.processors
    return Pricer(scenario.cluster, scenario.framework, calibration, processors)


def sums_of(priced: Iterable[Priced]) -> Sums:
    """Return the times of some operators by family."""
    kernels: dict[str, Quantity] = {}
    collectives: dict[str, Quantity] = {}
    exchanges: dict[str, Quantity] = {}
    for item in priced:
        operator = item.operator
        if isinstance(operator, Exchange):
            times = exchanges
        elif isinstance(operator, Collective):
            times = collectives
        else:
            times = kernels
        seconds = item.time.seconds
        times[operator.family] = times[operator.family] + seconds if operator.family in times else seconds
    return Sums(kernels, collectives, exchanges)
