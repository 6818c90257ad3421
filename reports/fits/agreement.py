"""How far measured times lie from what several fits give together: by what each expects, and by how far they are apart.

python -m reports.fits.agreement MEASUREMENTS --output hardware/calibrations/agreement.yaml

Every device is hidden by itself, and its rows are predicted by the fits of others as `predict` does for a device
without any. Half of the 80 % interval [log] of kernels that several fits answer for is

    h^2 = (claimed * h_leading)^2 + (apart * s)^2

with h_leading what the leading fit expects of itself and s how far the fits lie from their mean. Both numbers are those
of the least quantile loss at 80 %, each `family/variant` of a device with the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import minimize

from costmodel.calibration.fit_files import AGREEMENT, default_framework
from costmodel.calibration.fit_selection import Chooser
from costmodel.calibration.row_times import times_of
from costmodel.cost.calibration import JoinedFit
from costmodel.cost.operator_time import operator_time
from costmodel.fitting.run_plan import KIND
from costmodel.quantities import Array
from costmodel.records import Record
from reports.fits.backcasts import Backcasts
from reports.fits.measured import Origin, calibration, options, publish, spread_lines

INSIDE = 0.8  # of measured times, in an interval


class Joined(Record):
    """Of kernels of one `family/variant` on a hidden device: |log(measured / predicted)|, what the leading fit expects,
    and how far the fits are apart, all [log].
    """

    device: str
    errors: Array
    expected: Array
    apart: Array

    def inside(self, claimed: float, apart: float) -> float:
        """Return the share of kernels inside their intervals."""
        return float(np.mean(self.errors <= self.half(claimed, apart)))

    def half(self, claimed: float, apart: float) -> Array:
        """Return half of the intervals."""
        return np.hypot(claimed * self.expected, apart * self.apart)


def joined_of(measured: Backcasts, device: str) -> Iterator[Joined]:
    """Yield the kernels of a device that several fits answer for while its own are hidden."""
    chooser, framework = Chooser(device, measured.path, frozenset({device})), default_framework(measured.path)
    found: dict[str, list[tuple[Array, Array, Array]]] = {}
    for file in measured.plan.implementations:
        if file.device != KIND + device:
            continue
        for key, part, rows, choice in measured.chosen(file, chooser):
            fit = choice.calibration.fit(part.operators[0])
            if len(part.operators) > 1 or not isinstance(fit, JoinedFit):
                continue
            operator, machine = part.operators[0], part.machine(framework)
            time = operator_time(operator, machine, part.cluster, fit)
            ratio = fit.spread.ratio(time.seconds, 0.0, 1.0) / fit.spread.ratio(time.seconds, 1.0, 0.0)
            expected = np.hypot(fit.width(operator) * np.log(ratio) / 2.0, fit.unseen_half_width(operator))
            errors = np.abs(np.log(rows.seconds[part.rows] / times_of(part, choice, framework)[0]))
            claim, apart = (np.broadcast_to(each, errors.shape) for each in (expected / fit.claimed, time.apart))
            found.setdefault(key, []).append((errors, claim, apart))
    for parts in found.values():
        yield Joined(device, *(np.concatenate(side) for side in zip(*parts, strict=True)))


def agreement_of(cases: Sequence[Joined]) -> tuple[float, float]:
    """Return `claimed` and `apart` of the least quantile loss."""

    def loss(shares: Array) -> float:
        over = (each.errors - each.half(*shares) for each in cases)
        return float(np.mean([np.mean(np.maximum(INSIDE * one, (INSIDE - 1.0) * one)) for one in over]))

    claimed, apart = minimize(loss, np.array([1.0, 1.0]), method="Nelder-Mead").x
    return abs(float(claimed)), abs(float(apart))


def render(cases: Sequence[Joined], rests_on: Sequence[str], command: str) -> str:
    """Return the calibration file, with what intervals hold of devices that the two numbers have not seen."""
    devices = list(dict.fromkeys(each.device for each in cases))
    held_out, before = [], []
    for device in devices:
        others = agreement_of([each for each in cases if each.device != device])
        own = [each for each in cases if each.device == device]
        held_out += [each.inside(*others) for each in own]
        before += [each.inside(1.0, 0.0) for each in own]
    rows = sum(len(each.errors) for each in cases)
    lines: list[str] = []
    shares = agreement_of(cases)
    for name, share in zip(("claimed", "apart"), shares, strict=True):
        lines += spread_lines(name, share, rows)
    note = (
        f"Made by `{command}`.",
        f"{len(cases)} kinds of kernels of {len(devices)} devices, each hidden by itself. Of a device that the",
        f"two numbers have not seen intervals hold {100 * np.mean(held_out):.0f} % in the mean of the kinds,",
        f"{100 * np.mean(before):.0f} % with what the leading fit expects of itself.",
    )
    comment = "of half an interval: as high is over one, a logarithm"
    return calibration(AGREEMENT, lines, Origin(note, "derived", rests_on), comment=comment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit how the error of joined fits follows from their agreement."""
    chosen = options("fits.agreement", main, "calibration file", every=16).parse_args(arguments)
    measured = Backcasts.read(chosen.measurements, chosen.every)
    cases = [each for device in measured.planned for each in joined_of(measured, device)]
    every = f"--every {chosen.every}"
    command = f"python -m reports.fits.agreement MEASUREMENTS {every} --output {chosen.output.as_posix()}"
    publish(chosen.output, render(cases, measured.rests_on, command))


if __name__ == "__main__":
    main()
