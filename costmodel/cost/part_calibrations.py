"""The calibrations of a scenario of several parts, such as pools of servers on two kinds of devices."""

from __future__ import annotations

from costmodel.cost.calibration import Calibration


class PartCalibrations(Calibration):
    """The calibration of the main part of a scenario, and those of the other parts."""

    others: tuple[Calibration, ...] = (Calibration(),)

    @classmethod
    def of(cls, main: Calibration, *others: Calibration) -> PartCalibrations:
        """Return all."""
        return cls(main.name, main.families, main.notes, main.notes_of, others=others)


def other_of(calibration: Calibration, number: int = 0) -> Calibration:
    """Return the calibration of another part of a scenario, the same where all have one."""
    return calibration.others[number] if isinstance(calibration, PartCalibrations) else calibration
