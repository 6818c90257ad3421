"""The published evidence of kernel times: the cross-validated errors that calibration files state, beside the bars.

python -m reports.kernels --output reports/kernels

`costmodel evaluate` scores rows of a measurement table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from costmodel.calibration.fit_files import read
from costmodel.fitting.run_plan import PLAN
from costmodel.records import Record, ValueRecord
from costmodel.report.plots.bars import Bar
from costmodel.report.plotting import write_plots
from costmodel.report.style import Plot, styled
from costmodel.schema.calibration import AccuracyFile, FitsFile
from costmodel.schema.fit_plan import BarFile, FitPlanFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from reports.figures import Group, groups_plot
from reports.page import rendered, write_folder

_LEAST, _MOST, _WIDEST = 0.6, 0.95, 2.5  # of rows in 80 % intervals, and half of these over the median error
NAME, MOST = "held_out", 10  # of the figure; bars


def publish(folder: Path, search_path: Sequence[str | Path] = ()) -> list[Path]:
    """Write the figure and the page with the tables; the same fits give the same bytes."""
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    accuracies = stated_accuracies(search_path)
    with styled():
        made = write_plots([(NAME, drawn(accuracies))], folder)
    groups = pooled(accuracies, plan)
    large = [one for one in groups if one.rows >= ENOUGH and one.coverage is not None and one.width is not None]
    page = rendered(
        "kernels/page", name=NAME, models=MODELS, pooled=groups, accuracies=accuracies, large=large, enough=ENOUGH,
        holding=sum(_LEAST <= (one.coverage or 0.0) <= _MOST for one in large), least=100 * _LEAST, most=100 * _MOST,
        narrow=sum((one.width or 0.0) <= _WIDEST for one in large), widest=_WIDEST,
    )  # fmt: skip
    write_whole(folder / "README.md", [page.encode()])
    return [*made, folder / "README.md"]


def drawn(accuracies: Sequence[Accuracy]) -> Plot:
    """Return the error of held-out kernel times on the devices with most rows, with the roofline's beside it."""
    rows = Counter[str]()
    for one in accuracies:
        rows[one.device] += int(one.rows)
    devices = [device for device, _ in rows.most_common(MOST)]
    errors = {
        device: [_mean([one for one in accuracies if one.device == device], name) for name in ("residual", "roofline")]
        for device in devices
    }
    bars = [
        Bar(device, "mfu", fitted, note=f"roofline {bare:.0%}; {rows[device]:,} rows")
        for device, (fitted, bare) in sorted(errors.items(), key=lambda item: item[1][0])
    ]
    fitted, bare = (_mean(accuracies, name) for name in ("residual", "roofline"))
    title = f"Fitted kernels are {fitted:.0%} off the times of held-out rows, the bare roofline {bare:.0%}"
    note = "mean of |predicted / measured - 1|; the ten devices with most rows"
    return groups_plot(title, [Group("mean error of held-out rows", "ratio", bars)], note)


def _mean(accuracies: Sequence[Accuracy], name: str) -> float:
    """Return a stated error in the mean of rows."""
    return sum(one.rows * float(getattr(one.stated, name)) for one in accuracies) / sum(one.rows for one in accuracies)


# ---- The cross-validated errors that calibration files state, by device and operator, beside what the plan asks for.

MODELS = ("roofline", "shape_only", "form", "residual")
ENOUGH = 50  # rows below which the median error counts


class Accuracy(Record):
    """One family of one calibration file."""

    device: str
    file: str
    family: str
    rows: float
    stated: AccuracyFile


class Pooled(ValueRecord):
    """Families of one device that share a bar, or one family without: errors are means over rows.

    median: the row-weighted mean of the families' medians; coverage: share of the same rows within their
    80 % intervals; half_width: row-weighted mean of the families' medians of half an interval; none where a file does
    not say.
    bar, aim: of the mean error, of the median below `ENOUGH` rows; none where the plan asks for none.
    """

    device: str
    family: str
    rows: float
    errors: Mapping[str, float]
    median: float
    bias: float
    coverage: float | None
    half_width: float | None
    bar: float | None
    aim: float | None

    @property
    def width(self) -> float | None:
        """Return half an interval over the median error."""
        return None if self.half_width is None or not self.median else self.half_width / self.median

    @property
    def counts(self) -> float:
        """Return the error that is held against the bar."""
        return self.errors["residual"] if self.rows >= ENOUGH else self.median

    @property
    def verdict(self) -> str:
        """Return how the error stands: `aim`, `bar` or `missed`; blank without a bar."""
        if self.bar is None or self.aim is None:
            return ""
        return "aim" if self.counts <= self.aim else "bar" if self.counts <= self.bar else "missed"


def stated_accuracies(search_path: Sequence[str | Path] = ()) -> list[Accuracy]:
    """Return the errors that the calibration files of the search path state, by device, file and family."""
    library = Library(search_path)
    found = []
    for name in sorted(library.names("calibrations")):
        if library.schema_of(library.find(name, "calibrations")) != "calibration":
            continue  # scatter of sites
        file = read(library, "calibrations", name, FitsFile)
        for family, fit in file.families.items():
            if fit.accuracy is not None and file.device is not None:
                device = file.device.removeprefix("devices/")
                found.append(Accuracy(device, name, family, float(fit.rows), fit.accuracy))
    return found


def pooled(accuracies: Sequence[Accuracy], plan: FitPlanFile) -> list[Pooled]:
    """Return the errors by device and the operators that a bar of the plan is for, else by family."""
    groups: dict[tuple[str, str], list[Accuracy]] = {}
    bars: dict[tuple[str, str], BarFile] = {}
    for one in accuracies:
        bar = _bar(one, plan.bars)
        key = (one.device, one.family if bar is None else _named(bar))
        groups.setdefault(key, []).append(one)
        if bar is not None:
            bars[key] = bar
    return [_pool(key, groups[key], bars.get(key)) for key in sorted(groups)]


def _named(bar: BarFile) -> str:
    """Return the families of a bar, and whose they are where it is not for all."""
    families = ", ".join(bar.families)
    return f"{families} of {', '.join(bar.implementations)}" if bar.implementations else families


def _bar(one: Accuracy, bars: Sequence[BarFile]) -> BarFile | None:
    """Return the bar of a family's very variant, else of the family as a whole."""
    own = [bar for bar in bars if bar.device.removeprefix("devices/") == one.device]
    for key in (one.family, one.family.partition("/")[0]):
        for bar in own:
            if key in bar.families and (not bar.implementations or one.file.partition("/")[2] in bar.implementations):
                return bar
    return None


def _pool(key: tuple[str, str], members: Sequence[Accuracy], bar: BarFile | None) -> Pooled:
    rows = sum(one.rows for one in members)

    def mean(name: str) -> float:
        return sum(one.rows * float(getattr(one.stated, name)) for one in members) / rows

    def known(name: str) -> float | None:
        return None if any(getattr(one.stated, name) is None for one in members) else mean(name)

    return Pooled(
        *key, rows, {model: mean(model) for model in MODELS}, mean("median"), mean("bias"), known("coverage"),
        known("half_width"),
        None if bar is None else float(bar.bar), None if bar is None else float(bar.aim),
    )  # fmt: skip


if __name__ == "__main__":
    write_folder("kernels", publish)
