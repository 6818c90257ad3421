"""How errors of fits go together: one normal law, whose deviations are those of `calibrations/effects`.

The error of a fit for the kernels of a device, a build and a library, log(measured / predicted), is a sum of normal
effects of each. What two kernels do not share is the variogram between them, in squares of half widths of 80 %
intervals:

    g(a, b) = device(a, b)^2 + program(a, b)^2
    device    by how their devices are related: twin, die, rebalanced, refresh, architecture, other. Zero for one device
    program   of another build of the library, or of another library. Zero for one build

To the error of any answer for a device of an architecture without fits its generation adds one effect, measured by
backcasts, which moves no weight.

The errors of fits i, j for the kernels 0 that are asked for have the covariance

    V_ij = (g(i, 0) + g(j, 0) - g(i, j)) / 2 + [i = j] held_out_i^2

where two fits share nothing at least, and at most what either lacks of 0. What kernels of all devices share has the
error of backcasts, held_out, which is the most that it shares with any fit.

held_out: the error of a fit on rows that it had not seen [Cressie, Statistics for Spatial Data, 1993, section 3.2].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from costmodel.calibration.device_relations import ARCHITECTURE, OTHER, OWN
from costmodel.cost.spread import UnseenGroups
from costmodel.records import Record, ValueRecord
from costmodel.schema.calibration import FamilyEffectsFile, FamilyFitFile

Covariance: TypeAlias = "tuple[tuple[float, ...], ...]"
EXACT = 1e-3  # half width: nothing is known better than this


class Kernels(ValueRecord):
    """Whose kernels a fit is of: device, implementation and library. Without a device: of all that have fits."""

    device: str
    implementation: str
    library: str


class Effects(Record):
    """The effects by family, those of families without rows of their own under `any`.

    relation: of two devices, by name.
    """

    families: Mapping[str, FamilyEffectsFile]
    relation: Callable[[str, str], str]

    def variogram(self, family: str, one: Kernels, other: Kernels, *, is_tuned: bool = False) -> float:
        """Return the square of what the kernels of two devices and programs do not share.

        Of kernels of all devices, whose error is that of backcasts, it is part of that error. is_tuned: at layers with
        tuned tiles. Engines that share a kernel share the tiles that were tuned for it, and not those that they fall
        back on.
        """
        device, program = self.unshared(family, one, other, is_tuned=is_tuned)
        return device**2 + program**2

    def unshared(self, family: str, one: Kernels, other: Kernels, *, is_tuned: bool = False) -> tuple[float, float]:
        """Return what the kernels of two devices, and what those of two programs, do not share."""
        if not (one.device and other.device):
            return 0.0, 0.0
        device = self._device(family, self.relation(one.device, other.device))
        if one.library != other.library:
            program = self._of(family, "library")
        elif one.implementation == other.implementation:
            program = 0.0
        else:
            program = self._of(family, "tuned" if is_tuned and self.has_tuned(family) else "build")
        return device, program

    def has_tuned(self, family: str) -> bool:
        """Tell whether layers with tuned tiles differ from others in a family."""
        effects = self.families.get(family)
        return effects is not None and effects.tuned is not None

    def covariance(
        self, family: str, asked: Kernels, fits: Sequence[Kernels], held_out: Sequence[float], *,
        is_tuned: bool = False, common: float = 0.0,
    ) -> Covariance:  # fmt: skip
        """Return the covariance of the errors of fits for the kernels that are asked for. common: to all of them."""
        to_asked = [self.variogram(family, one, asked, is_tuned=is_tuned) for one in fits]
        own_error = [max(each, EXACT) ** 2 for each in held_out]

        def of(i: int, j: int) -> float:
            if i == j:
                return to_asked[i] + own_error[i]
            of_backcasts = [own_error[at] for at in (i, j) if not fits[at].device]
            between = self.variogram(family, fits[i], fits[j], is_tuned=is_tuned)
            shared = max((to_asked[i] + to_asked[j] - between) / 2.0, 0.0)
            return min(shared, to_asked[i], to_asked[j], *of_backcasts)

        return tuple(tuple(of(i, j) + common for j in range(len(fits))) for i in range(len(fits)))

    @property
    def generation(self) -> float:
        """Return what a device of an architecture without any fits adds to what all others lend it."""
        return self._of("any", "generation")

    def unseen(self, key: str, *, is_shape_wise: bool) -> UnseenGroups | None:
        """Return what unmeasured groups of shapes add to the interval of a family's fit. None where no file says.

        is_shape_wise: the family's own evidence held out single shapes, so that groups inside the measured sizes add
        too.
        """
        family = key.partition("/")[0]
        known = [self.families[name] for name in (family, "any") if name in self.families]
        inside, beyond = (
            next((value for each in known if (value := getattr(each, name)) is not None), None)
            for name in ("unseen", "beyond")
        )
        if inside is None or beyond is None:
            return None
        return UnseenGroups(float(inside) if is_shape_wise else 0.0, float(beyond))

    def _device(self, family: str, related: str) -> float:
        """Return the effect of a relation. Of another die of the architecture, where it has none, that of any die."""
        if related == OWN:
            return 0.0
        own = self.families.get(family)
        if related == ARCHITECTURE and own is not None and own.architecture is None and own.other is not None:
            related = OTHER
        return self._of(family, related)

    def _of(self, family: str, effect: str) -> float:
        """Return an effect of a family, of all where it has none."""
        for name in (family, "any"):
            value = getattr(self.families[name], effect) if name in self.families else None
            if value is not None:
                return float(value)
        return 0.0


def held_out_error(fit: FamilyFitFile) -> float:
    """Return the error of a fit on unseen rows of its own kernels. Of a stated rate, that of its spread."""
    if fit.accuracy is not None and fit.accuracy.half_width is not None:
        return float(fit.accuracy.half_width)
    return sum(math.log(float(knot.high) / float(knot.low)) for knot in fit.spread) / 2.0 / len(fit.spread)
