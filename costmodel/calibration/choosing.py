"""Which calibration file prices a kernel that a table names: the same kernel's, else the nearest that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from costmodel.calibration.load import Fits, Held, Shelf, nearest_keys
from costmodel.cost.calibration import Calibration
from costmodel.schema.references import Library

STREAMS = "elementwise"


@dataclass(frozen=True, slots=True)
class Kernel:
    """How a row names what ran: framework, kernel and timing method, blank where it does not say."""

    framework: str
    kernel: str
    timing: str


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The fits that price a row, and why these."""

    calibration: Calibration
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A calibration file of the chain. distance: devices between its device and the one asked for."""

    held: Held
    implementation: str
    distance: int

    def covers(self, key: str) -> bool:
        """Tell whether the file has the very `family/variant`, or the family as a whole."""
        return not {key, key.partition("/")[0]}.isdisjoint(self.held.file.families)

    def mismatch(self, kernel: Kernel) -> tuple[int, ...]:
        """Return how far the file is from a kernel, the weightiest first; what a row does not say does not count.

        A kernel that no file names is nearest to those of the library whose name its own holds.
        """
        file = self.held.file
        names = [framework.partition(" ")[0] for framework in file.frameworks]
        other = _differs(kernel.kernel, file.kernels)
        named = f"{kernel.kernel} {kernel.framework}".lower()
        return (
            other, int(bool(other) and (file.library is None or file.library not in named)),
            _differs(kernel.framework.partition(" ")[0], names), _differs(kernel.framework, file.frameworks),
            _differs(kernel.timing, file.timings),
        )  # fmt: skip

    def order(self, kernel: Kernel) -> tuple[int | str, ...]:
        """Return what candidates for a kernel are ordered by: the nearest device, then the least mismatch."""
        return (self.distance, *self.mismatch(kernel), self.implementation)


class Chooser:
    """Finds the fits for kernels on one device. Files are read once."""

    def __init__(self, device: str, search_path: Sequence[str | Path] = ()) -> None:
        self._device = device
        self._shelf = Shelf(Library(search_path))
        self._choices: dict[tuple[str, str, Kernel], Choice] = {}

    def choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        """Return the fits for a kernel of a family.

        Order: the kernel itself on this device; another kernel, framework or version of it here; the same on the
        devices that this one inherits from, in turn; the nearest variant that any of these has; the roofline. The
        file prices all families that it covers, such as the decoding part of a mixed call; the others keep the
        device's defaults.
        """
        key = (family, variant, kernel)
        if key not in self._choices:
            self._choices[key] = self._choose(family, variant, kernel)
        return self._choices[key]

    def _choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        for alike in (f"{family}/{variant}", *nearest_keys(family, variant)):
            covering = [each for each in self._candidates if each.covers(alike)]
            if covering:
                best = min(covering, key=lambda each: each.order(kernel))
                own = self._streams(kernel) | {_scope(key): (best.implementation,) for key in best.held.file.families}
                calibration = Calibration(self._device, Fits(self._shelf, self._device, own))
                asked = f"{family}/{variant}"
                instead = "" if alike == asked else f", {alike} stands in for {asked}"
                return Choice(calibration, _why(best, kernel) + instead)
        fits = Fits(self._shelf, self._device, {})
        return Choice(Calibration(self._device, fits), f"no fit of {family}/{variant} for {self._device}: roofline")

    def _streams(self, kernel: Kernel) -> dict[str, tuple[str, ...]]:
        """Return the implementations of the element-wise kernels that run in the same rows as others, kind by kind."""
        found: dict[str, _Candidate] = {}
        for each in sorted(self._candidates, key=lambda each: each.order(kernel)):
            for key in each.held.file.families:
                if key.startswith(f"{STREAMS}/"):
                    found.setdefault(key, each)
        return {key: (each.implementation,) for key, each in found.items()}

    @cached_property
    def _candidates(self) -> list[_Candidate]:
        found = []
        for distance, (device, _) in enumerate(self._shelf.chain(self._device)):
            for implementation in self._shelf.names(device):
                held = self._shelf.held(device, implementation)
                if held is not None:
                    found.append(_Candidate(held, implementation, distance))
        return found


def _scope(key: str) -> str:
    """Return for what a file is chosen that has `family/variant`: the family; of streams the kind alone."""
    return key if key.startswith(f"{STREAMS}/") else key.partition("/")[0]


def _why(best: _Candidate, kernel: Kernel) -> str:
    name = best.held.file.name
    if best.distance:
        return f"{name}: stands in from {best.held.device}"
    other = best.mismatch(kernel)
    if not any(other):
        return name
    said = (
        *(f"kernel {kernel.kernel}",) * 2, f"framework {kernel.framework}", kernel.framework, f"timing {kernel.timing}",
    )  # fmt: skip
    return f"{name}: nearest to {next(text for text, differs in zip(said, other, strict=True) if differs)}"


def _differs(stated: str, known: Sequence[str]) -> int:
    return int(bool(stated) and bool(known) and stated not in known)
