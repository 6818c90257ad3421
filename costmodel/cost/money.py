"""Money of running devices for a time, and of buying them."""

from __future__ import annotations

from costmodel.equations import equation
from costmodel.hardware import Device, Node
from costmodel.quantities import Count, Dollars, Seconds


@equation
def rental_cost(device: Device, devices: Count, seconds: Seconds) -> Dollars | None:
    """Return the rent of devices for a time [$], null where the device file states no rental price.

    cost = device.price.rental * devices * seconds
    """
    rental = device.price.rental
    return None if rental is None else rental * devices * seconds


def purchase_cost(device: Device, devices: Count) -> Dollars | None:
    """Return purchase price * devices [$], null where the device file states none."""
    return None if device.price.purchase is None else device.price.purchase * devices


def host_cost(node: Node, devices: Count) -> Dollars | None:
    """Return the share of the nodes, without their devices, that goes with `devices`: price * devices / devices a node.

    In US dollars, null where the node file states no price.
    """
    return None if node.host.price is None else node.host.price * devices / node.count
