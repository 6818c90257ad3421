"""The calibrations of a scenario of two parts, such as pools of servers on two kinds of devices."""

from __future__ import annotations

from costmodel.cost.calibration import Calibration


class PartCalibrations(Calibration):
    """The calibration of the main part of a scenario of two, and that of the other part."""

    other: Calibration = Calibration()

    @classmethod
    def of(cls, main: Calibration, other: Calibration) -> PartCalibrations:
        """Return both."""
        return cls(main.name, main.families, main.notes, main.notes_of, other=other)


def other_of(calibration: Calibration) -> Calibration:
    """Return the calibration of the other part of a scenario, the same where both have one."""
    return calibration.other if isinstance(calibration, PartCalibrations) else calibration
