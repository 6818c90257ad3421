"""What measurements say about an operator family: efficiencies, how sure, and on what basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from costmodel.quantities import Quantity

BASES = ("measured", "fitted", "transferred", "extrapolated", "roofline")


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """The 10 %, 50 % and 90 % points of measured time over predicted time."""

    low: Quantity
    median: Quantity
    high: Quantity


@dataclass(frozen=True, slots=True, eq=False)
class FamilyFit:
    """One operator family on one device.

    compute, memory, network: achieved share of each resource's peak (one: the roofline); launch: fixed time over the
    framework's stated launch; spread: measured over predicted; basis: where the efficiencies come from.
    """

    compute: Quantity = 1.0
    memory: Quantity = 1.0
    network: Quantity = 1.0
    launch: Quantity = 1.0
    spread: Spread = Spread(1.0, 1.0, 1.0)
    basis: str = "roofline"


ROOFLINE = FamilyFit()


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fits by operator family. A family without one is priced at the roofline, with the roofline's own spread.

    notes: which fit stands in for which missing one, for `explain`.
    """

    name: str = "roofline"
    families: Mapping[str, FamilyFit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def family(self, name: str) -> FamilyFit:
        """Return the fit of a family, the bare roofline where there is none."""
        return self.families.get(name, ROOFLINE)
