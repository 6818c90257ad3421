"""How far rows and runs of a generation are predicted by what was measured before it, and what a few of its own add.

python -m reports.fits.backcasts MEASUREMENTS --path WITHOUT --table PAGE

Generations are hidden in the order in which they were announced, each with all that came later. Everything else is what
`predict` and `simulate` do for a device without rows. `--path` names a folder that holds one for each generation, by
its first architecture, whose prior, step errors and kernel anchors were made without the hidden architectures:
`reports.fits.prior`, `.effects` and `.kernel_anchors` take `--without`. Intervals have what the generations before
added, which `reports.fits.effects --generation` states for devices of today. A device is also hidden by itself, and
others of its die stay.

Of n rows of a family the others follow as `calibrate` has it (`costmodel.cost.anchored_fit`), over the same rows for
each n; of n runs of a site its others as `reports.fits.runs` has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import NORMAL_90, TIMES, deviations
from costmodel.calibration.device_chain import same_device
from costmodel.calibration.fit_files import ROOFLINE, FitStore, default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.calibration.kernel_anchors import shared_errors, standardised
from costmodel.calibration.row_times import Choice, times_of, variant_of
from costmodel.cost.anchored_fit import SharedErrors
from costmodel.cost.calibration import Calibration
from costmodel.measurements.row_group import OperatorRows
from costmodel.measurements.tables import Table
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.references import Library
from costmodel.study.published.reproduce import load_cases
from reports.fits import runs
from reports.fits.effects import FEWEST, GENERATION, OWN_KIND
from reports.fits.measured import KIND, Measured, options, publish
from reports.fits.prior import FAMILIES
from reports.fits.source_agreement import Pair, pooled
from reports.page import rendered

ALONE = {
    "others of its die known": ("h100-sxm", "h200-sxm", "h800-sxm", "a800-sxm-80gb"),
    "of another balance of peak and bandwidth": ("h20",),
}  # devices that are hidden by themselves
GENERATIONS = ("volta", "ampere", "hopper,ada", "blackwell", "rubin")  # architectures, as they were announced
ROWS, SITE_RUNS = (0, 1, 5, 50), (0, 1, 5)  # known ones of a family, and of a site
LEAST = ROWS[-1] + 8  # rows of a family of which so many are known
RUNS = 6  # figures of a publication and class
SEED = 0
COMMAND = "python -m reports.fits.backcasts MEASUREMENTS --path WITHOUT --table PAGE"


class Found(Record):
    """Of one `family/variant` of a device: logs of measured over predicted time, of low and of high over predicted.

    shares: of launch, compute and memory in the time, (rows, 3). half: of the interval of the kernels' fit.
    """

    key: str
    device: str
    logs: Array
    low: Array
    high: Array
    shares: Array
    half: Array

    @property
    def cells(self) -> tuple[str, ...]:
        """Return rows, median of |log|, share inside the intervals, median factor that half of an interval is wide."""
        inside = np.mean((self.logs >= self.low) & (self.logs <= self.high))
        shares = (f"{100 * each:.0f} %" for each in (np.median(np.abs(self.logs)), inside))
        return str(len(self.logs)), *shares, f"{np.exp(np.median(self.high - self.low) / 2.0):.2f}"

    def knowing(self, number: int, shared: SharedErrors) -> Found:
        """Return the same of the rows after the first fifty in a fixed order, of which so many are known."""
        order = np.random.default_rng(SEED).permutation(len(self.logs))
        known, others = order[:number], order[ROWS[-1] :]
        between = shared.covariance(self.shares[others], self.shares[known])
        scores = self.logs[known] / self.half[known]
        gain = between @ shared.inverse(self.shares[known], scores)
        told = (gain * between).sum(axis=1) / shared.variance(self.shares[others])
        left, moved = np.sqrt(np.maximum(1.0 - told, 0.0)), self.half[others] * (gain @ scores)
        return replace(self, logs=self.logs[others] - moved, low=self.low[others] * left, high=self.high[others] * left)


class Backcasts(Measured):
    """Measured rows beside what `predict` says of them while the fits of some devices are hidden."""

    def backcast(self, device: str, hidden: frozenset[str], generation: float | None = None) -> Iterator[Found]:
        """Yield the errors of every `family/variant` of a device while the fits of some are hidden.

        generation: what an architecture without fits adds to intervals, null: as the file of effects has it.
        """
        chooser, framework = Chooser(device, self.path, hidden, generation), default_framework(self.path)
        found: dict[str, list[tuple[Array, ...]]] = {}
        for file in self.plan.implementations:
            for key, part, rows, choice in self.chosen(file, chooser) if file.device == KIND + device else ():
                middle, low, high = times_of(part, choice, framework)
                shares, errors, half = standardised(part, rows, choice, framework)
                sides = (errors * half, np.log(low / middle), np.log(high / middle), shares, half)
                found.setdefault(key, []).append(sides)
        for key, parts in sorted(found.items()):
            yield Found(key, device, *(np.concatenate(side) for side in zip(*parts, strict=True)))

    def chosen(self, file: ImplementationFile, chooser: Chooser) -> Iterator[tuple[str, OperatorRows, Table, Choice]]:
        """Yield (family/variant, operators, their table, fits that answer) of the rows of an implementation."""
        rows, mapped = self.parts(file)
        for part in mapped:
            key = f"{part.family}/{variant_of(part)}"
            is_own = file.library == OWN_KIND and part.family.startswith("attention")
            if part.family in FAMILIES and not is_own and {key, part.family} & set(file.families):
                said = (str(rows.text(column)[part.rows[0]]) for column in ("framework", "kernel", "timing"))
                yield key, part, rows, chooser.choose(part.family, variant_of(part), Kernel(*said))


def together_of(key: str, cases: Sequence[Found], device: str = "all") -> Found:
    """Return the errors of several devices or families as one."""
    sides = zip(*((one.logs, one.low, one.high, one.shares, one.half) for one in cases), strict=True)
    return Found(key, device, *(np.concatenate(side) for side in sides))


def additions(cases: Sequence[Found]) -> dict[str, dict[Pair, Array]]:
    """Return log^2 - half^2 of the families of devices that have enough rows, as steps of `.effects` have it."""
    enough = [one for one in cases if len(one.logs) >= FEWEST]
    squares = [one.logs**2 - ((one.high - one.low) / 2.0) ** 2 for one in enough]
    return {
        f"{GENERATION}/{one.key}/{one.device}": {(one.device, one.key): square}
        for one, square in zip(enough, squares, strict=True)
    }


def effect_of(added: Mapping[str, Mapping[Pair, Array]]) -> float:
    """Return what generations add to half widths: the root of the 80 % point, each family of a device once."""
    reached = [reach for name, reach, *_ in pooled(added) if name == GENERATION] if added else [0.0]
    return math.sqrt(max(*reached, 0.0))


def table_of(cases: Sequence[Found]) -> list[tuple[str, ...]]:
    """Return the rows of a table: all kernels of all devices, of each device, then each `family/variant`."""
    devices, keys = ({getattr(one, name): None for one in cases} for name in ("device", "key"))
    rows = [together_of("all kernels", cases)]
    rows += [together_of("all kernels", [one for one in cases if one.device == name], name) for name in devices]
    rows += [together_of(key, [one for one in cases if one.key == key]) for key in sorted(keys)]
    return [(one.key, one.device, *one.cells) for one in rows]


def few_rows(name: str, cases: Sequence[Found], shared: SharedErrors) -> Iterator[tuple[object, ...]]:
    """Yield what each number of known rows of a family brings, over families that have enough."""
    enough = [one for one in cases if len(one.logs) >= LEAST]
    for number in ROWS if enough else ():
        yield name, len(enough), number, *together_of("", [each.knowing(number, shared) for each in enough]).cells


# ---- Whole runs ------------------------------------------------------------------------------------------------------


def unaided(row: runs.RunError, store: FitStore) -> runs.RunError:
    """Return a run as predicted with the fits of a store instead of those that are shipped."""
    scenario, logs = row.scenario, list[float]()
    for each in (FitStore(Library()), store):
        device = same_device(scenario.cluster.device.name, each.library)
        fits = FitLookup(each, device, scenario.framework.implementations)
        evaluation = evaluate(scenario, Calibration(ROOFLINE, fits, fits.notes, fits.notes_of))
        metrics = evaluation.metrics(None)
        centre, down, up = deviations(metrics, evaluation.families(), evaluation.metrics)[row.metric]
        logs.append(math.log(float(np.asarray(metrics[row.metric]))) + centre)
    late = row.late - (logs[1] - logs[0]) * (1.0 if row.metric in TIMES else -1.0)
    return replace(row, late=late, kernels=(down + up) / 2.0 / NORMAL_90, shares={**row.shares, runs.UNTRIED: 1.0})


def run_rows(
    name: str, known: Mapping[str, Sequence[runs.RunError]], earlier: Sequence[str], store: FitStore
) -> Iterator[tuple[object, ...]]:
    """Yield a row of the page for each class of whole runs of a generation. earlier: architectures before it."""
    for case_class, of in known.items():
        own = [row for row in of if row.architecture in name.split(",") and not row.scenario.parts]
        before = [row for row in of if row.architecture in earlier]
        if not own or not before:
            continue
        late, effects = [unaided(row, store) for row in own], runs.fitted(before, case_class)
        sites = [[row for row in late if row.site == site] for site in dict.fromkeys(row.site for row in late)]
        tried = [[one for n in SITE_RUNS if (one := runs.anchored(site, effects, n))] for site in sites]
        whole = [each for each in tried if len(each) == len(SITE_RUNS)]
        means = [float(np.mean([abs(math.expm1(-row.late)) for row in rows])) for rows in (own, late)]
        means.append(runs.inside(late, effects))
        anchors = [
            _percent(float(np.mean([each[at].error for each in whole]))) for at in range(len(SITE_RUNS)) if whole
        ]
        cells = (*map(_percent, means), len(whole), *(anchors or "-" * len(SITE_RUNS)))
        yield name, case_class, len(own), len({row.publication for row in own}), *cells


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict the rows and runs of devices whose fits are hidden; write the page."""
    asked = options("fits.backcasts", main, table=Path("backcasts.md"), every=16, path=[])
    chosen = asked.parse_args(arguments)
    here = Backcasts.read(chosen.measurements, chosen.every)
    known: dict[str, list[runs.RunError]] = {name: [] for name in runs.CONDITIONS}
    for case_class, row in runs.rows_of(load_cases([])[0], Library(), RUNS):
        known[case_class].append(row)
    generations, few, of_runs = (list[tuple[object, ...]]() for _ in range(3))
    tables, every = {}, dict[str, dict[Pair, Array]]()
    for at, name in enumerate(GENERATIONS):
        hidden, ours = (here.of_architectures(names) for names in (",".join(GENERATIONS[at:]), name))
        before, own = (
            [each for each in here.planned if each not in hidden],
            [each for each in here.planned if each in ours],
        )
        library = Library([path / name.partition(",")[0] for path in chosen.path])
        cells: tuple[str, ...] = ("-" if own else "0", *"----")
        if before and own:
            apart = Backcasts(here.table, here.plan, library.roots[:-1])
            bare, cases = (
                [each for device in own for each in apart.backcast(device, hidden, adds)]
                for adds in (0.0, effect_of(every))
            )
            added, store = additions(bare), FitStore(library, hidden, effect_of(every))
            cells, every = (*together_of("", cases).cells, f"{effect_of(added):.3g}"), every | added
            tables[f"Without all devices of {name} and later"] = table_of(cases)
            few += few_rows(name, cases, shared_errors(library))
            of_runs += run_rows(name, known, ",".join(GENERATIONS[:at]).split(","), store)
        generations.append((name, f"{len(before)} devices", ", ".join(own) or "nothing", *cells))
    for title, of in ALONE.items():
        alone = [each for name in of for each in here.backcast(name, frozenset({name}))]
        tables[f"Without the device, {title}"] = table_of(alone)
    text = rendered(
        "kernels/backcasts", day=date.today(), command=f"{COMMAND} --every {chosen.every}", least=LEAST, most=RUNS,
        generations=generations, adds=f"{effect_of(every):.3g}", few=few, of_runs=of_runs, tables=tables,
    )  # fmt: skip
    publish(chosen.table, text)


if __name__ == "__main__":
    main()
