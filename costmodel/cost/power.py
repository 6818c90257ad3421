"""What boards draw, and the clock at which what they do meets their power limit.

Switching takes C*V^2, and the voltage follows the clock [Le Sueur and Heiser, HotPower 2010, section 2]: the energy of
an operation goes with the square of the clock. Device memory and links have supplies and clocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import numpy as np

from costmodel.cost.time import Time
from costmodel.equations import equation
from costmodel.hardware import Cluster, Device, Node, Power
from costmodel.quantities import Bytes, Count, Joules, Quantity, Seconds, Watts, maximum, minimum, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    MixedAttention,
    Operator,
)

_PRODUCTS = (Gemm, AttentionKernel, MixedAttention)
SIXTEEN_BIT = 2.0  # bytes of an element whose multiply-adds `Power.tensor` states
LOWEST = 0.1  # clock, of the highest: 210 of 1,980 MHz on H100 [nvidia-smi, supported clocks]
NEWTON_STEPS = 12  # from the highest clock to the lowest: each takes a third off at least where it is far away


class Work(Record):
    """What a board does, with kernels as they were timed.

    kernels: time in which they run [s].
    clocked: of it, what goes with the clock: kernels that device memory does not bound [s].
    switched: energy of multiply-adds at the highest clock's voltage [J].
    moved: energy of bytes of device memory and of bytes sent, whatever the clock [J].
    """

    kernels: Seconds = 0.0
    clocked: Seconds = 0.0
    switched: Joules = 0.0
    moved: Joules = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.kernels + other.kernels, self.clocked + other.clocked,
            self.switched + other.switched, self.moved + other.moved,
        )  # fmt: skip

    def times(self, count: Quantity) -> Work:
        """Return so many runs."""
        return Work(count * self.kernels, count * self.clocked, count * self.switched, count * self.moved)


NO_WORK = Work()


def work_of(operators: Iterable[tuple[Operator, Time]], power: Power) -> Work:
    """Return the work of some operators, one run of each: what it takes, and how much of their time goes by the clock.

    Kernels that device memory bounds take their time at any clock.
    """
    whole = NO_WORK
    for operator, time in operators:
        is_kernel = isinstance(operator, (*_PRODUCTS, Elementwise))
        clocked = where(time.compute > time.memory, time.compute, 0.0) if is_kernel else 0.0
        whole += Work(time.seconds if is_kernel else 0.0, clocked, *_joules(operator, power))
    return whole


@equation
def work_joules(operators: Iterable[Operator], power: Power) -> Joules:
    """Return the energy of the work of some operators, one run of each.

        joules := tensor * (bytes of an element / 2) * FLOP + memory * bytes of device memory + link * bytes sent

    Energy of a multiply-add goes by the bits that it moves and multiplies. [Horowitz, ISSCC 2014, figure 1.1.9]
    """
    return sum_of([switched + moved for switched, moved in map(_joules, operators, repeat(power))])


def _joules(operator: Operator, power: Power) -> tuple[Joules, Joules]:
    """Return the energy of an operator's multiply-adds, and that of the bytes that it moves in memory or sends."""
    if isinstance(operator, _PRODUCTS):
        per_flop = power.tensor * (ELEMENT_BYTES[operator.dtype] / SIXTEEN_BIT)
        return per_flop * operator.flop, power.memory * operator.traffic
    if isinstance(operator, Elementwise):
        return 0.0, power.memory * operator.traffic
    return 0.0, power.link * _sent(operator)


def _sent(operator: Operator) -> Bytes:
    """Return the bytes that a rank sends: of a collective its buffer, of an exchange a copy to each target."""
    if isinstance(operator, Collective):
        return operator.size * operator.calls
    if isinstance(operator, ExpertAllToAll):
        return operator.tokens * operator.targets(operator.group.size) * operator.token_bytes
    return 0.0


class Clock(Record):
    """The clock of a board that works.

    share: of the highest clock.
    ratio: to the clock that its kernels had when they were timed, under the limit of the device's file.
    """

    share: Quantity
    ratio: Quantity


def is_as_timed(power: Power) -> bool:
    """Tell whether a board has the limit under which its kernels were timed, so that these are as long as measured."""
    return power.tdp is None or power.timed is None or bool(np.all(np.equal(power.tdp, power.timed)))


@equation
def clock_of(device: Device, work: Work, seconds: Seconds) -> Clock:
    """Return the clock of a board that does that work again and again, as long each time as with timed kernels [s].

    clock = share * device.clock_max
    share := the highest at which `mean_power` is within the limit: 1 where it stays below, at least 0.1
    """
    power = device.power
    if power.tdp is None or not power.states_work:
        return Clock(1.0, 1.0)
    same = replace(work, clocked=0.0)
    timed = _share(power, power.tdp if power.timed is None else power.timed, same, seconds, 1.0)
    share = timed if is_as_timed(power) else _share(power, power.tdp, work, seconds, timed)
    mean_power(power, same if is_as_timed(power) else work, seconds, timed, share)
    return Clock(share, share / timed)


@equation
def mean_power(power: Power, work: Work, seconds: Seconds, timed: Quantity, share: Quantity) -> Watts:
    """Return the mean power of a board at a share of its highest clock.

    mean_power = power.idle + (power.busy * share**3 * kernels + work.switched * share**2 + work.moved) / t
    kernels = work.kernels + slower
    t = seconds + slower
    slower = work.clocked * (timed / share - 1)      timed: the share at which the work takes `seconds`
    """
    assert power.idle is not None, "a board whose work is known"
    slower = work.clocked * (timed / share - 1.0)
    t, kernels = seconds + slower, work.kernels + slower
    return power.idle + (power.busy * share**3 * kernels + work.switched * share**2 + work.moved) / t


def _share(power: Power, limit: Watts, work: Work, seconds: Seconds, timed: Quantity) -> Quantity:
    """Return the highest share of the clock at which `mean_power` is within a limit.

    (mean_power - limit) * t * share is a polynomial that is convex in the share: Newton's method from 1 comes down to
    its root and never below it.
    """
    assert power.idle is not None, "a board whose work is known"
    room, at_one = power.idle - limit, work.clocked * timed
    rest, running = seconds - work.clocked, work.kernels - work.clocked
    above = room * (rest + at_one) + power.busy * (running + at_one) + work.switched + work.moved
    share: Quantity = 1.0
    for _ in range(NEWTON_STEPS):
        value = room * (rest * share + at_one) + work.switched * share**3 + work.moved * share
        value = value + power.busy * share**3 * (running * share + at_one)
        slope = room * rest + 3.0 * work.switched * share**2 + work.moved
        slope = slope + power.busy * share**2 * (4.0 * running * share + 3.0 * at_one)
        share = where(above > 0.0, maximum(share - value / where(above > 0.0, slope, 1.0), LOWEST), 1.0)
    return share


def fastest(cluster: Cluster) -> Cluster:
    """Return a cluster on which no kernel takes longer than on this one, whatever clock its limit leaves the work.

    A limit above that under which kernels were timed may leave them any higher clock.
    """
    power = cluster.device.power
    if power.tdp is None or power.timed is None or not np.any(np.greater(power.tdp, power.timed)):
        return cluster
    return at_clock(cluster, Clock(1.0, 1.0 / LOWEST))


def at_clock(cluster: Cluster, clock: Clock) -> Cluster:
    """Return a cluster whose boards have a clock: math units and caches are slower, their switching takes less.

    Device memory and links are as they were.
    """
    device, share = cluster.device, clock.share
    power = replace(device.power, busy=device.power.busy * share**3, tensor=device.power.tensor * share**2)
    return replace(cluster, node=replace(cluster.node, device=replace(device.clocked(clock.ratio), power=power)))


@equation
def board_power(power: Power, work: Watts) -> Watts | None:
    """Return what a board draws, at most its limit, null without a stated limit. work: of what it does.

    board = min(power.idle + work, limit)
    """
    if power.tdp is None:
        return None
    if power.idle is None or not power.states_work:
        return power.tdp
    limit = power.tdp
    return minimum(power.idle + work, limit)


@equation
def energy(node: Node, devices: Count, seconds: Seconds, work: Watts) -> Joules | None:
    """Return what `devices` and their share of hosts, network and cooling take in that time.

        joules = (board + host + node.facility.network) * node.facility.pue * devices * seconds

    work: power of what one of them does. Hosts, network and PUE count where the node file states them, null without a
    power limit of the device.
    """
    board = board_power(node.device.power, work)
    if board is None:
        return None
    host = 0.0 if node.host.power is None else node.host.power / node.count
    return (board + host + node.facility.network) * node.facility.pue * devices * seconds
