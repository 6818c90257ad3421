"""How devices are related, which decides what the kernels of one say of those of another."""

from __future__ import annotations

import math

from costmodel.schema.device import DeviceFile

OWN, TWIN, DIE, REBALANCED = "own", "twin", "die", "rebalanced"
REFRESH, ARCHITECTURE, OTHER = "refresh", "architecture", "other"
RELATIONS = (TWIN, DIE, REBALANCED, REFRESH, ARCHITECTURE, OTHER)  # of two devices, the nearest first
ALIKE = math.log(2.0)  # chosen: `distance` of dies of one architecture that are as large; others are five times farther
EQUAL = 0.01  # chosen: datasheets round peaks to it
BALANCE = math.log(2.0)  # chosen: of peak over bandwidth, from which on other terms than at home bound a kernel
_AMD = ("cdna", "rdna")
_UNITS = ("bf16", "fp16", "fp32")  # that tell the balance of a device, the first that it has


def relation(own: DeviceFile | None, other: DeviceFile | None, *, same: bool) -> str:
    """Return how two devices are related. same: they are one."""
    if same:
        return OWN
    if own is None or other is None:
        return OTHER
    if own.die is not None and own.die == other.die:
        if abs(_log_balance(own) - _log_balance(other)) > BALANCE:
            return REBALANCED
        return TWIN if _computes_equally(own, other) else DIE
    if own.architecture != other.architecture:
        return OTHER
    return REFRESH if distance(own, other) < ALIKE else ARCHITECTURE


def distance(own: DeviceFile, other: DeviceFile) -> float:
    """Return the distance between two devices: the sum of |log| of processors, bandwidth, peak and shared memory.

    Tiles of kernels are as large as a processor's shared memory lets them be.
    """

    def sizes(device: DeviceFile) -> tuple[float, ...]:
        bandwidth, shared = device.memory[-1].bandwidth, device.memory[0].capacity
        return float(device.processors), float(bandwidth or math.nan), _peak(device), float(shared)

    steps = (abs(math.log(mine / theirs)) for mine, theirs in zip(sizes(own), sizes(other), strict=True))
    return sum(math.inf if math.isnan(step) else step for step in steps)


def _computes_equally(own: DeviceFile, other: DeviceFile) -> bool:
    """Tell whether two devices of a die have as many processors at one peak, on the same power."""
    same = own.processors == other.processors and own.power.tdp == other.power.tdp
    return same and math.isclose(_peak(own), _peak(other), rel_tol=EQUAL)


def bandwidth_of(device: DeviceFile) -> float:
    """Return the bandwidth of a device's memory [B/s]."""
    return float(device.memory[-1].bandwidth or math.nan)


def cycle_rate(device: DeviceFile) -> float:
    """Return the FLOP of a processor in a cycle."""
    return _peak(device) / float(device.clock.tensor_reference) / float(device.processors)


def bytes_per_cycle(device: DeviceFile) -> float:
    """Return what the memory gives a processor in a cycle [B]."""
    return bandwidth_of(device) / _processor_cycles(device)


def memory_step(own: DeviceFile, other: DeviceFile) -> tuple[float, float]:
    """Return what the memory of a device gives a processor in a cycle over that of another, and what L2 gives it [B].

    Where no source states the bandwidth of the device's L2, a processor has as much of it as on the other device.
    """
    stated = (_l2_bytes_per_cycle(device) for device in (own, other))
    l2_load = next((load for load in stated if load is not None), math.inf)
    return bytes_per_cycle(own) / bytes_per_cycle(other), l2_load


def _l2_bytes_per_cycle(device: DeviceFile) -> float | None:
    """Return what L2 gives a processor in a cycle, all loading [B], null where no source states its bandwidth."""
    bandwidth = next((level.bandwidth for level in device.memory if level.name == "l2"), None)
    return None if bandwidth is None else float(bandwidth) / _processor_cycles(device)


def _processor_cycles(device: DeviceFile) -> float:
    return float(device.clock.tensor_reference) * float(device.processors)


def is_of_one_maker(own: DeviceFile, other: DeviceFile) -> bool:
    """Tell whether the libraries of one device run on another: AMD's architectures are CDNA and RDNA."""
    return bool(own.architecture.startswith(_AMD) == other.architecture.startswith(_AMD))


def _log_balance(device: DeviceFile) -> float:
    """Return the logarithm of a device's peak over its memory's bandwidth [FLOP/B]."""
    return math.log(_peak(device) / bandwidth_of(device))


def _peak(device: DeviceFile) -> float:
    return next((float(device.math[name].peak) for name in _UNITS if name in device.math), math.nan)
