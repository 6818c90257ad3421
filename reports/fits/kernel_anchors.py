"""How errors of other devices' fits go together: `hardware/calibrations/kernel_anchors.yaml`.

python -m reports.fits.kernel_anchors MEASUREMENTS --output hardware/calibrations/kernel_anchors.yaml

Devices are predicted without their own fits (`reports.fits.backcasts`); the likeliest shares of the variance are those
of all families of all implementations on devices that are not of `--without`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import minimize

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_selection import Chooser
from costmodel.calibration.kernel_anchors import moves, standardised
from costmodel.cost.anchored_fit import SharedErrors
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.fit_plan import ImplementationFile
from reports.fits.backcasts import Backcasts
from reports.fits.measured import KIND, Origin, options, publish

COMMAND = "python -m reports.fits.kernel_anchors MEASUREMENTS --output hardware/calibrations/kernel_anchors.yaml"
FEWEST = 8  # rows of a family of an implementation
MOST = 40  # of them that the likelihood sees
WORTH = 10.0  # chosen: rows of one family that count as independent at most
OUTLYING = 4.0  # half-widths beyond which a row counts as if it lay there
SEED = 0


class Family(Record):
    """Rows of one family of an implementation, predicted without the device.

    shares, errors: as `standardised` has them. half: of the interval [log].
    """

    key: str
    device: str
    shares: Array
    errors: Array
    half: Array


def families(measured: Backcasts, device: str, hidden: frozenset[str]) -> Iterator[Family]:
    """Yield the families of all implementations of a device, predicted while the fits of some devices are hidden."""
    chooser = Chooser(device, measured.path, hidden)
    for file in measured.plan.implementations:
        if file.device == KIND + device:
            yield from _of(file, measured, chooser)


def _of(file: ImplementationFile, measured: Backcasts, chooser: Chooser) -> Iterator[Family]:
    device, framework = file.device[len(KIND) :], default_framework(measured.path)
    found: dict[str, list[tuple[Array, ...]]] = {}
    for key, part, rows, choice in measured.chosen(file, chooser):
        if moves(part):
            found.setdefault(key, []).append(standardised(part, rows, choice, framework))
    for key, parts in found.items():
        whole = [np.concatenate(side) for side in zip(*parts, strict=True)]
        if len(whole[1]) >= FEWEST:
            yield Family(key, device, *whole)


def likeliest(known: Sequence[Family]) -> SharedErrors:
    """Return the shares of the variance that make rows of families the likeliest, as sums of one."""
    chosen = [np.random.default_rng(SEED).permutation(len(each.errors))[:MOST] for each in known]
    data = [
        (each.shares[rows], np.clip(each.errors[rows], -OUTLYING, OUTLYING))
        for each, rows in zip(known, chosen, strict=True)
    ]

    def loss(logs: Array) -> float:
        shared, total = SharedErrors(*np.exp(logs)), 0.0
        for shares, errors in data:
            root = np.linalg.cholesky(shared.covariance(shares, shares) + shared.own * np.eye(len(errors)))
            white = np.linalg.solve(root, errors)
            total += (0.5 * white @ white + np.log(np.diag(root)).sum()) * min(1.0, WORTH / len(errors))
        return float(total)

    found = np.exp(minimize(loss, np.log(np.full(5, 0.2)), method="Powell", options={"maxiter": 6, "xtol": 1e-2}).x)
    return SharedErrors(*(float(f"{each:.3g}") for each in found / found.sum()))


def render(shared: SharedErrors, known: Sequence[Family], rests_on: Sequence[str], made: str) -> str:
    """Return the text of the calibration file. rests_on: sources of the rows; made: the command that made it."""
    rows, names = sum(len(each.errors) for each in known), ("common", "launch", "compute", "memory", "own")
    note = (
        "Likeliest shares of the variance of log(measured / predicted) of kernels on devices whose own fits are",
        f"hidden. Made by `{made}`.",
    )
    return "\n".join([
        "schema: costmodel/kernel_anchors@1", "name: kernel_anchors",
        *(f"{name}: {getattr(shared, name):g}" for name in names), f"rows: {rows}", f"groups: {len(known)}",
        *Origin(note, "derived", rests_on).lines(", ".join(names)),
    ]) + "\n"  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict devices without their fits; write the calibration file."""
    asked = options("fits.kernel_anchors", main, "calibration file", without="blackwell", every=16)
    chosen = asked.parse_args(arguments)
    here = Backcasts.read(chosen.measurements, chosen.every)
    new = here.of_architectures(chosen.without)
    known = [each for name in here.planned if name not in new for each in families(here, name, frozenset({name}))]
    shared = likeliest(known)
    publish(chosen.output, render(shared, known, here.rests_on, f"{COMMAND} --every {chosen.every}"))


if __name__ == "__main__":
    main()
