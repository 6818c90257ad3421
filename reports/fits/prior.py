"""Expected times where nothing was measured: what all fitted devices share, and backcasts that leave devices out.

python -m reports.fits.prior MEASUREMENTS --output hardware/calibrations/prior.yaml
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from costmodel import units
from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.cost.attention import l2_miss_bytes
from costmodel.cost.calibration import Calibration
from costmodel.cost.expected_roofline import OVERLAP_P, bare_times, share_on_die
from costmodel.cost.time import p_norm
from costmodel.fitting.samples import Samples
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import Table
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm
from reports.fits.effects import OWN_KIND, leave_out, some_rows
from reports.fits.measured import Measured, Origin, calibration, device_of, options

FAMILIES = (
    "gemm", "bmm", "grouped_gemm", "grouped_gemm_weight_only", "attention_prefill", "attention_decode", "mla_prefill",
    "mla_decode",
)  # fmt: skip
BALANCE = 0.8  # compute share over memory share, by which the tile of a bare GEMM is taken
WARM_SHARE = 0.5  # of L2 that a warm benchmark finds again
LEAST_READ = 1e-6  # share of the bytes that a warm kernel reads at least: it tells that a kernel is there
FEWEST = 8  # rows of a group
SLOWED = 0.75  # share of a die's FLOP in a cycle: devices have all, a half or a quarter
LEAST = 0.05  # half width of an interval that backcasts do not narrow further
COMMAND = "python -m reports.fits.prior MEASUREMENTS --output hardware/calibrations/prior.yaml"


def groups(measured: Measured, store: FitStore) -> dict[str, list[GroupEffect]]:
    """Return the effects of every implementation by `family/variant`."""
    found: dict[str, list[GroupEffect]] = {}
    for file in measured.plan.implementations:
        device = device_of(file)
        for key, samples in measured.samples(file, Calibration(file.name, FitLookup(store, device, {}))):
            if key.partition("/")[0] in FAMILIES and not (file.library == OWN_KIND and key.startswith("attention")):
                group = _rows(some_rows(samples), file.name, store.rate_on_die(device))
                if len(group.seconds) >= FEWEST:
                    found.setdefault(key, []).append(group_effect(group))
    return found


def _is_slowed(table: Table, catalogue: Catalogue, store: FitStore) -> npt.NDArray[np.bool_]:
    """Tell of every row whether its device has not all of its die's FLOP in a cycle: such devices have few rows."""
    devices = table.text("device").astype(str)
    slowed = {name for name in np.unique(devices) if store.rate_on_die(catalogue.name(name)) < SLOWED}
    return np.isin(devices, sorted(slowed))


def _rows(samples: Samples, implementation: str, rate: float) -> GroupRows:
    """Return the bare times of a family's kernels in every row whose other kernels leave them any time."""
    count, framework = samples.repeats, default_framework()
    chip, hbm = [], []
    for part, own, _ in samples.targets():
        machine = part.machine(framework)
        work, memory = np.zeros((count, len(part.rows))), np.zeros((count, len(part.rows)))
        for i, operator in enumerate(own):
            assert isinstance(operator, Gemm | AttentionKernel | Elementwise)
            share = l2_miss_bytes(1.0, machine, WARM_SHARE) if not machine.warm_l2 else (
                l2_miss_bytes(operator.traffic, machine, WARM_SHARE) / np.maximum(operator.traffic, 1.0)
            )  # fmt: skip
            times = bare_times(operator, machine, BALANCE)
            work[i], memory[i] = times[0], times[1] * np.maximum(share, LEAST_READ)
        chip.append(work)
        hbm.append(memory)
    device, other = samples.parts[0].device, samples.other_times()
    works, memories = np.concatenate(chip, axis=1), np.concatenate(hbm, axis=1)
    good = np.isfinite(works + memories).all(axis=0) & np.isfinite(other) & (samples.seconds > other)
    return GroupRows(
        device.name, device.architecture, implementation, works[:, good], memories[:, good], other[good],
        samples.seconds[good], rate,
    )  # fmt: skip


class Backcast(ValueRecord):
    """How a family's rows of a device are predicted without its architecture: log(measured / predicted)."""

    key: str
    device: str
    errors: Array
    seconds: Array


def backcasts(found: Mapping[str, Sequence[GroupEffect]]) -> Iterator[Backcast]:
    """Yield the errors of every family and device."""
    for key, effects in sorted(found.items()):
        for device in sorted({each.rows.device for each in effects}):
            own = [each for each in effects if each.rows.device == device]
            far = [each for each in effects if each.rows.architecture != own[0].rows.architecture]
            far = far or [each for each in effects if each.rows.device != device]  # of one architecture alone
            if far:
                errors = np.concatenate([each.rows.errors(pooled_effect(far)) for each in own])
                predicted = np.concatenate([each.rows.seconds for each in own]) / np.exp(errors)
                yield Backcast(key, device, errors, predicted)


def render(found: Mapping[str, Sequence[GroupEffect]], cases: Sequence[Backcast]) -> str:
    """Return the calibration file: of every `family/variant`, and of every family, what all groups share."""
    families: dict[str, list[GroupEffect]] = {}
    for key, effects in found.items():
        families.setdefault(key.partition("/")[0], []).extend(effects)
    lines: list[str] = []
    for key, effects in sorted({**families, **found}.items()):
        launch, compute, memory = np.exp(pooled_effect(effects))
        rows = sum(len(each.rows.seconds) for each in effects)
        devices = ", ".join(sorted({each.rows.device for each in effects}))
        shown = f"launch: {units.render(float(f'{launch:.4g}'), 'time')}, compute_efficiency: {min(compute, 1.3):.4g}"
        lines += [
            f"  {key}:",
            f"    form: {{kind: expected, {shown}, hbm_efficiency: {min(memory, 1.3):.4g}}}",
            f"    spread: [{{time: {units.render(1e-3, 'time')}, {_points(key, cases)}, rows: {rows}}}]",
            f"    rows: {rows}",
            f'    note: "{len(effects)} groups, {devices}."',
        ]
    note = (
        "Effects that groups of rows share; spreads are backcasts that leave the device's architecture out,",
        "every device with the same weight.", f"Made by `{COMMAND}`.",
    )  # fmt: skip
    return calibration("prior", lines, Origin(note), basis="roofline")


def _points(key: str, cases: Sequence[Backcast]) -> str:
    """Return 10 % and 90 % points of backcasts of a key, else its family, else all; devices weigh the same."""
    family = key.partition("/")[0]
    chosen = [one for one in cases if one.key == key]
    chosen = chosen or [one for one in cases if one.key.partition("/")[0] == family] or list(cases)
    errors = np.concatenate([one.errors for one in chosen])
    weights = np.concatenate([np.full(len(one.errors), 1.0 / len(one.errors)) for one in chosen])
    order = np.argsort(errors)
    reached = (np.cumsum(weights[order]) - weights[order] / 2.0) / weights.sum()
    low, high = np.interp((0.1, 0.9), reached, errors[order])
    low, high = np.exp(min(low, -LEAST)), np.exp(max(high, LEAST))
    return f"low: {low:.3g}, median: 1, high: {high:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Pool what kernels share over devices; write the calibration file."""
    asked = options("fits.prior", main, "calibration file", without="", every=16)
    chosen = asked.parse_args(arguments)
    measured, store = Measured.read(chosen.measurements), FitStore(Library(()))
    of_all = np.arange(len(measured.table)) % chosen.every == 0
    measured.table = measured.table.take(of_all | _is_slowed(measured.table, measured.catalogue, store))
    leave_out(measured, chosen.without)
    found = groups(measured, store)
    cases = list(backcasts(found))
    write_whole(chosen.output, [render(found, cases).encode("utf-8")])


# ---- What kernels of a family share over devices: launch and shares of the peaks, pooled over groups of rows ---------
#
# A group is one implementation on one device. Its parameters theta_g = log(launch, compute share, memory share) are
# fitted to its rows alone, with what they leave open, C_g. Over groups theta_g = mu + delta_g, delta_g of variance S:
#
#     mu = (sum_g W_g)^-1 sum_g W_g theta_g,    W_g = (C_g + S)^-1,    S by moments, diagonal
#
# Two-stage meta-analysis: DerSimonian, Laird, Controlled Clinical Trials 7(3), 1986.

SCATTER = 0.18  # of rows about a group's form: chosen, not measured; it weighs rows against the spread of groups
START = np.log([4e-6, 0.6, 0.75])
LOOSE = np.array([1.5, 0.5, 0.4])  # chosen: so wide that rows decide wherever they say anything
BETWEEN = np.array([0.35, 0.22, 0.15])  # least deviations between groups, where few groups tell too little
ROUNDS = 5


class GroupRows(Record):
    """Rows of one implementation on one device.

    chip, hbm: bare times of the pooled kernels of every row, shape (kernels, rows) [s].
    other: what other kernels of the row take.
    seconds: measured. rate: FLOP of a processor in a cycle over those that the die has.
    """

    device: str
    architecture: str
    implementation: str
    chip: Array
    hbm: Array
    other: Array
    seconds: Array
    rate: float = 1.0

    def predict(self, theta: Array) -> Array:
        """Return the time of every row with the parameters [s]."""
        launch, compute, memory = np.exp(theta)
        busy = p_norm(OVERLAP_P, self.chip / share_on_die(compute, self.rate), self.hbm / memory)
        present = (self.chip + self.hbm) > 0.0
        total: Array = self.other + (np.where(present, launch, 0.0) + busy).sum(axis=0)
        return total

    def errors(self, theta: Array) -> Array:
        """Return log(measured / predicted) of every row."""
        log_errors: Array = np.log(self.seconds / self.predict(theta))
        return log_errors


class GroupEffect(Record):
    """A group's parameters and what its rows leave open of them."""

    rows: GroupRows
    theta: Array
    covariance: Array


def group_effect(rows: GroupRows) -> GroupEffect:
    """Return the parameters of a group by its rows alone."""
    weight = 1.0 / (SCATTER * np.sqrt(max(len(rows.seconds) / 30.0, 1.0)))  # rows of a group are no independent draws

    def misfit(theta: Array) -> Array:
        return np.concatenate([weight * rows.errors(theta), (theta - START) / LOOSE])

    solution = least_squares(misfit, START, loss="soft_l1")
    jacobian = np.asarray(solution.jac)
    return GroupEffect(rows, np.asarray(solution.x), np.linalg.inv(jacobian.T @ jacobian))


def pooled_effect(groups: Sequence[GroupEffect]) -> Array:
    """Return what groups share, each with the weight that its rows and the deviation between groups leave it."""
    between = BETWEEN**2
    thetas = np.array([each.theta for each in groups])
    mean: Array = thetas.mean(axis=0)
    for _ in range(ROUNDS):
        weights = [np.linalg.inv(each.covariance + np.diag(between)) for each in groups]
        total = np.linalg.inv(np.sum(weights, axis=0))
        mean = total @ np.sum([weight @ theta for weight, theta in zip(weights, thetas, strict=True)], axis=0)
        own = np.array([np.diag(each.covariance) for each in groups])
        between = np.maximum(((thetas - mean) ** 2 - own).mean(axis=0), BETWEEN**2)
    return mean


if __name__ == "__main__":
    main()
