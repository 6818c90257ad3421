"""What boards draw, by what they do: idle, running kernels, tensor cores, device memory, links."""

from __future__ import annotations

from collections.abc import Iterable

from costmodel.equations import equation
from costmodel.hardware import Device, Node, Power
from costmodel.quantities import Bytes, Count, Joules, Quantity, Seconds, Watts, minimum, sum_of
from costmodel.records import Record
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

SIXTEEN_BIT = 2.0  # bytes of an element whose multiply-adds `Power.tensor` states


class Draw(Record):
    """What a device does: the share of the time in which kernels run, and the power of their work [W]."""

    busy: Quantity
    work: Watts


@equation
def work_joules(operators: Iterable[Operator], power: Power) -> Joules:
    """Return the energy of the work of some operators, one run of each.

        joules := tensor * (bytes of an element / 2) * FLOP + memory * bytes of device memory + link * bytes sent

    Energy of a multiply-add goes by the bits that it moves and multiplies. [Horowitz, ISSCC 2014, figure 1.1.9]
    """
    return sum_of(_joules(operator, power) for operator in operators)


def _joules(operator: Operator, power: Power) -> Joules:
    """Return the energy of one run of an operator."""
    if isinstance(operator, Gemm | AttentionKernel | MixedAttention):
        width = ELEMENT_BYTES[operator.dtype] / SIXTEEN_BIT
        return power.tensor * width * operator.flop + power.memory * operator.traffic
    if isinstance(operator, Elementwise):
        return power.memory * operator.traffic
    return power.link * _sent(operator)


def _sent(operator: Operator) -> Bytes:
    """Return the bytes that a rank sends: of a collective its buffer, of an exchange a copy to each target."""
    if isinstance(operator, Collective):
        return operator.size * operator.calls
    if isinstance(operator, ExpertAllToAll):
        return operator.tokens * operator.targets(operator.group.size) * operator.token_bytes
    return 0.0


@equation
def board_power(device: Device, draw: Draw) -> Watts | None:
    """Return what a board draws, at most its limit, null without a stated limit.

        board = min(power.idle + power.busy * draw.busy + draw.work, limit)
        board = power.idle + draw.busy * span              where the device states no energy of its work

    Where the device states no energy of its work, power goes linearly from idle to the limit with the busy share [Fan,
    Weber, Barroso, ISCA 2007, section 3.4], an upper bound: kernels that wait for memory draw less. Without an idle
    power the limit stands for the power.
    """
    power = device.power
    if power.tdp is None:
        return None
    if power.idle is None:
        return power.tdp
    if not power.states_work:
        span = power.tdp - power.idle
        return power.idle + draw.busy * span
    limit = power.tdp
    return minimum(power.idle + power.busy * draw.busy + draw.work, limit)


@equation
def energy(node: Node, devices: Count, seconds: Seconds, draw: Draw) -> Joules | None:
    """Return what `devices` and their share of hosts, network and cooling take in that time.

        joules = (board + host + node.facility.network) * node.facility.pue * devices * seconds

    Hosts, network and PUE count where the node file states them, null without a power limit of the device.
    """
    board = board_power(node.device, draw)
    if board is None:
        return None
    host = 0.0 if node.host.power is None else node.host.power / node.count
    return (board + host + node.facility.network) * node.facility.pue * devices * seconds
