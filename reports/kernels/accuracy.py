"""The cross-validated errors that calibration files state, by device and operator, beside what the plan asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from costmodel.calibration.fit_files import read
from costmodel.records import Record, ValueRecord
from costmodel.schema.calibration import AccuracyFile, FitsFile
from costmodel.schema.fit_plan import BarFile, FitPlanFile
from costmodel.schema.references import Library

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
