"""Money and energy of running devices for a time."""

from __future__ import annotations

from costmodel.hardware import Device
from costmodel.quantities import Count, Quantity, Seconds


def rental_cost(device: Device, devices: Count, seconds: Seconds) -> Quantity | None:
    """Return rental * devices * time [$]; null where the device file states no rental price."""
    rental = device.price.rental
    return None if rental is None else rental * devices * seconds


def energy(device: Device, devices: Count, seconds: Seconds) -> Quantity | None:
    """Return TDP * devices * time [J], an upper bound: boards seldom exceed their limit. Null without a stated TDP."""
    tdp = device.power.tdp
    return None if tdp is None else tdp * devices * seconds
