"""How errors of lent fits go together, `hardware/calibrations/kernel_anchors.yaml`, and what few rows are worth.

python -m reports.fits.kernel_anchors MEASUREMENTS --output hardware/calibrations/kernel_anchors.yaml

Devices are predicted without their own fits (`reports.fits.backcasts`); the likeliest shares of the variance are those
of all families of all implementations on devices that are not of `--without`. `--table PAGE` shows the medians of
abs(log) with none, one and five rows of a family known: of its devices, or of the architecture that was left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_selection import Chooser
from costmodel.calibration.kernel_anchors import moves, standardised
from costmodel.calibration.row_times import times_of
from costmodel.cost.anchored_fit import SharedErrors
from costmodel.fitting.run_plan import KIND
from costmodel.quantities import Array, Indices
from costmodel.records import Record
from costmodel.schema.fit_plan import ImplementationFile
from reports.fits.backcasts import Backcasts
from reports.fits.measured import Origin, options, publish

COMMAND = "python -m reports.fits.kernel_anchors MEASUREMENTS --output hardware/calibrations/kernel_anchors.yaml"
FEWEST = 8  # rows of a family of an implementation
MOST = 40  # of them that the likelihood sees
WORTH = 10.0  # chosen: rows of one family that count as independent at most
DRAWS = 16  # single rows of a family, each of which is the one that is known in its turn
OUTLYING = 4.0  # half-widths beyond which a row counts as if it lay there
SEED = 0


class Family(Record):
    """Rows of one family of an implementation, predicted without the device.

    shares, errors: as `standardised` has them. half: of the interval [log]. middle: predicted [s].
    """

    key: str
    device: str
    shares: Array
    errors: Array
    half: Array
    middle: Array

    def after(self, known: Indices, shared: SharedErrors) -> tuple[Array, Array, Indices]:
        """Return log(measured / predicted), halves of intervals and places of the rows that `known` ones leave."""
        rest = np.setdiff1d(np.arange(len(self.errors)), known)
        if not len(known):
            return self.errors * self.half, self.half, rest
        inverse = shared.inverse(self.shares[known], self.errors[known])
        between = shared.covariance(self.shares[rest], self.shares[known])
        expected = between @ inverse @ self.errors[known]
        told = np.einsum("ij,jk,ik->i", between, inverse, between)
        left = np.sqrt(np.maximum(1.0 - told / shared.variance(self.shares[rest]), 0.0))
        return (self.errors[rest] - expected) * self.half[rest], self.half[rest] * left, rest

    def five(self) -> Indices:
        """Return a tiny kernel, and of the longer half two that memory bounds the most and two that arithmetic does."""
        long = np.flatnonzero(self.middle >= np.median(self.middle))
        balance = self.shares[long, 1] - self.shares[long, 2]
        order = long[np.argsort(balance, kind="stable")]
        return np.unique([int(np.argmin(self.middle)), *order[:2], *order[-2:]])


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
            middle = times_of(part, choice, framework)[0]
            found.setdefault(key, []).append((*standardised(part, rows, choice, framework), middle))
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


def lines_of(known: Sequence[Family], shared: SharedErrors) -> Iterator[str]:
    """Yield the lines of the page: medians of abs(log), shares inside and factors by number of known rows."""
    random = np.random.default_rng(SEED)
    by_key: dict[str, list[tuple[tuple[Array, Array], ...]]] = {}
    for each in known:
        ones = random.permutation(len(each.errors))[:DRAWS, None]
        cases = (np.zeros((1, 0), dtype=np.intp), ones, each.five()[None])
        by_key.setdefault(each.key, []).append(tuple(_after(each, rows, shared) for rows in cases))
    for key, parts in sorted(by_key.items()):
        shown = []
        for number in range(3):
            logs, half = (np.concatenate([part[number][side] for part in parts]) for side in (0, 1))
            inside = np.mean(np.abs(logs) <= half)
            shown.append(f"{np.median(np.abs(logs)):.0%}, {inside:.0%}, {np.exp(np.median(half)):.2f}")
        pairs = [tuple(float(np.median(np.abs(case[0]))) for case in part) for part in parts]
        worse = " and ".join(f"{sum(pair[i] > pair[0] for pair in pairs)}" for i in (1, 2))
        rows = sum(len(part[0][0]) for part in parts)
        yield f"| {key} | {rows} | {' | '.join(shown)} | {worse} of {len(parts)} |"


def _after(family: Family, draws: Indices, shared: SharedErrors) -> tuple[Array, Array]:
    """Return log errors and halves of intervals of the rows that known ones leave. draws: known rows, a set a line."""
    logs, halves = zip(*(family.after(rows, shared)[:2] for rows in draws), strict=True)
    return np.concatenate(logs), np.concatenate(halves)


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
    """Predict devices without their fits; write the calibration file, and the page of what few rows are worth."""
    asked = options("fits.kernel_anchors", main, "calibration file", without="blackwell", every=16, path=[])
    asked.add_argument("--table", type=Path, help="page to write")
    chosen = asked.parse_args(arguments)
    here = Backcasts.read(chosen.measurements, chosen.every)
    apart, new = Backcasts(here.table, here.plan, chosen.path), here.of_architecture(chosen.without)
    known = [each for name in here.planned if name not in new for each in families(here, name, frozenset({name}))]
    shared = likeliest(known)
    publish(chosen.output, render(shared, known, here.rests_on, f"{COMMAND} --every {chosen.every}"))
    if chosen.table is not None:
        unseen = [each for name in here.planned if name in new for each in families(apart, name, new)]
        head = [
            "| kernels | rows | no row | one row | five rows | families that get worse with one and with five |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines = [
            "# What a few rows of an unmeasured device are worth", "",
            f"Made by `{COMMAND} --path WITHOUT --table reports/kernel_anchors.md --every {chosen.every}`.", "",
            "Median of abs(log(measured / predicted)), share inside 80 % intervals, median factor from a prediction to",
            f"an interval's end. One row: each of up to {DRAWS} drawn by chance in its turn; five: a tiny kernel, two",
            "of memory, two of work.",
            "", f"## Without all devices of {chosen.without}, whose rows the shares have not seen", "", *head,
            *lines_of(unseen, shared),
            "", "## Without the device itself (the shares are fitted to these rows)", "", *head,
            *lines_of(known, shared),
        ]  # fmt: skip
        publish(chosen.table, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
