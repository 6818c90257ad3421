"""How far a fit is expected to miss kernels that it was not made from: of another device, library or version.

Errors are half widths of 80 % intervals of log(measured / predicted). Those that are independent add up squared:

    error^2 = held_out^2 + transfer^2 + stand_in^2
    held_out   of the fit on rows that it had not seen
    transfer   of the family between devices of that relation, from `calibrations/transfer`
    stand_in   of the family for kernels of that library, from the same file
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from costmodel.records import ValueRecord
from costmodel.schema.calibration import FamilyFitFile
from costmodel.schema.device import DeviceFile

OWN, DIE, REBALANCED, REFRESH, ARCHITECTURE, OTHER = "own", "die", "rebalanced", "refresh", "architecture", "other"
RELATIONS = (DIE, REBALANCED, REFRESH, ARCHITECTURE, OTHER)  # of two devices, the nearest first
VERSION, STAND_IN = "version", "stand_in"  # another build of the library on the same device; another library
TUNED = "tuned"  # of layers of experts for which an engine ships tiles that were tuned on the device
ALIKE = math.log(2.0)  # chosen: `distance` of dies of one architecture that are as large; others are five times farther
BALANCE = math.log(2.0)  # chosen: of peak over bandwidth, from which on other terms than at home bound a kernel
EQUAL = 0.01  # chosen: datasheets round peaks and bandwidths to it
_AMD = ("cdna", "rdna")
_UNITS = ("bf16", "fp16", "fp32")  # that tell the balance of a device, the first that it has


def relation(own: DeviceFile | None, other: DeviceFile | None, *, same: bool) -> str:
    """Return how two devices are related. same: they are one."""
    if same:
        return OWN
    if own is None or other is None:
        return OTHER
    if own.die is not None and own.die == other.die:
        return REBALANCED if abs(_log_balance(own) - _log_balance(other)) > BALANCE else DIE
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


def has_equal_compute(own: DeviceFile, other: DeviceFile) -> bool:
    """Tell whether two devices of a die compute equally: as many processors at one peak, on the same power."""
    same = own.processors == other.processors and own.power.tdp == other.power.tdp
    return same and math.isclose(_peak(own), _peak(other), rel_tol=EQUAL)


def has_equal_memory(own: DeviceFile, other: DeviceFile) -> bool:
    """Tell whether the memories of two devices have the same bandwidth."""
    return math.isclose(bandwidth_of(own), bandwidth_of(other), rel_tol=EQUAL)


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
    """Return the cycles of all processors in a second."""
    return float(device.clock.tensor_reference) * float(device.processors)


def is_of_one_maker(own: DeviceFile, other: DeviceFile) -> bool:
    """Tell whether the libraries of one device run on another: AMD's architectures are CDNA and RDNA."""
    return own.architecture.startswith(_AMD) == other.architecture.startswith(_AMD)


def pair_of(first: str, second: str) -> str:
    """Return the name of two libraries that stand in for each other."""
    return "+".join(sorted((first, second)))


def held_out_error(fit: FamilyFitFile) -> float:
    """Return the error of a fit on unseen rows of its own kernels. Of a stated rate, that of its spread."""
    if fit.accuracy is not None and fit.accuracy.half_width is not None:
        return float(fit.accuracy.half_width)
    return sum(math.log(float(knot.high) / float(knot.low)) for knot in fit.spread) / 2.0 / len(fit.spread)


class StepErrors(ValueRecord):
    """The measured errors of a step from what a fit was made from.

    families: of `calibrations/transfer`: what the step is, alone, with a family, or with a `family/variant`.
    """

    families: Mapping[str, FamilyFitFile]

    def transfer(self, related: str, key: str) -> float:
        """Return the error of a family's fit on a device of some relation.

        Where none is known for the very `family/variant`, that of a farther device: a nearer one is no worse. Then the
        same for the family, and for all kernels. Last that of a nearer device. The next die of the same size has the
        balance of the first, and bounds nothing of a die with another one.
        """
        if related == OWN or not self.families:
            return 0.0
        first, family = RELATIONS.index(related), key.partition("/")[0]
        farther = [one for one in RELATIONS[first:] if (related, one) != (REBALANCED, REFRESH)]
        steps = [f"{one}{name}" for name in (f"/{key}", f"/{family}", "") for one in farther]
        steps += [f"{one}{name}" for name in (f"/{key}", f"/{family}", "") for one in reversed(RELATIONS[:first])]
        return next((self._error(step) for step in steps if step in self.families), 0.0)

    def stand_in(self, wanted: str, library: str, key: str) -> float:
        """Return the error of a library's fit for kernels of another one, which is zero for its own."""
        if wanted == library or not self.families:
            return 0.0
        known = (self._found(one, key) for one in (pair_of(wanted, library), STAND_IN))
        return next((error for error in known if error is not None), 0.0)

    def version(self, key: str) -> float:
        """Return the error of a fit for another build of its library."""
        return self._found(VERSION, key) or 0.0

    def tuned(self, key: str) -> float | None:
        """Return the same where tiles were tuned for the device, null where no such kernels were measured."""
        name = f"{VERSION}/{key}_{TUNED}"
        return self._error(name) if name in self.families else None

    def _found(self, step: str, key: str) -> float | None:
        """Return the error of a step for a `family/variant`, else its family, else all."""
        family = key.partition("/")[0]
        names = (f"{step}/{key}", f"{step}/{family}", step)
        return next((self._error(name) for name in names if name in self.families), None)

    def _error(self, name: str) -> float:
        return math.log(float(self.families[name].spread[0].high))


def _log_balance(device: DeviceFile) -> float:
    """Return the logarithm of a device's peak over its memory's bandwidth [FLOP/B]."""
    return math.log(_peak(device) / bandwidth_of(device))


def _peak(device: DeviceFile) -> float:
    """Return a device's peak in the first of the formats that distinguish devices [FLOP/s]."""
    return next((float(device.math[name].peak) for name in _UNITS if name in device.math), math.nan)


def expected(*errors: float) -> float:
    """Return what independent errors come to."""
    return math.hypot(*errors)
