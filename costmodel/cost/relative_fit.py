"""A fit of a relative of the device, as rows of the device itself move it: its parameters, three factors of its own."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from costmodel.cost.anchored_fit import time_shares
from costmodel.cost.calibration import FamilyFit, Form
from costmodel.cost.machine import Machine
from costmodel.cost.time import Time
from costmodel.equations import equation
from costmodel.records import fields


class RelativeFit(FamilyFit, kw_only=True):
    """A relative's fit with factors by what bounds a kernel.

    logs: of measured over predicted time of kernels that only launch, that arithmetic and that device memory bounds.
    """

    logs: tuple[float, float, float]

    @classmethod
    def of(cls, fit: FamilyFit, logs: tuple[float, float, float]) -> Self:
        """Return a fit with factors."""
        return cls(**{name: getattr(fit, name) for name in fields(FamilyFit)}, logs=logs)

    @equation
    def fitted_time(self, form: Form, operator: Any, machine: Machine) -> Time:
        """Return the time that the relative's fit gives, moved.

        seconds = time.seconds * relative_factor
        relative_factor = exp(relative)
        relative := sum of launch, compute and memory of log of its factor * its share of the time (`time_shares`)
        """
        time = super().fitted_time(form, operator, machine)
        relative = time_shares([operator], machine) @ np.array(self.logs)
        relative_factor = np.exp(relative)
        return time.scaled(relative_factor if np.ndim(relative_factor) else float(relative_factor))
