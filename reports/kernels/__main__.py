"""The published evidence of kernel times: predicted against measured, and the errors beside what was asked for.

python -m reports.kernels MEASUREMENTS --output reports/kernels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.calibration.row_prediction import Predictions, predict_mapped
from costmodel.fitting.run_plan import PLAN
from costmodel.fitting.scoring import Score, scores_of
from costmodel.measurements.exclusions import Exclusion, Screened, screen
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import read_tables
from costmodel.quantities import Indices
from costmodel.report.plotting import file_names
from costmodel.report.style import figure_bytes, styled
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import make_folder, write_whole
from reports.kernels.accuracy import ENOUGH, MODELS, Accuracy, Pooled, pooled, stated_accuracies
from reports.kernels.plot import Points, kernels_figure
from reports.page import percent, table

_ROOFLINE = ": roofline"  # ends the reason of a prediction that rests on no fit
_LEAST, _MOST, _WIDEST = 0.6, 0.95, 2.5  # of rows in 80 % intervals, and half of these over the median error
COMMAND = "python -m reports.kernels MEASUREMENTS --output reports/kernels"


def publish(measurements: Path, folder: Path, search_path: Sequence[str | Path] = ()) -> list[Path]:
    """Write a figure of every device and the page with the tables; the same tables and fits give the same bytes."""
    catalogue = Catalogue(search_path)
    found = screen(read_tables(measurements), catalogue)
    predictions = predict_mapped(found.rows, found.mapped, found.unmapped, search_path)
    make_folder(folder)
    figures = {}
    for device, operators in _points(found, predictions).items():
        name = f"{file_names([device])[device]}.svg"
        with styled():
            write_whole(folder / name, [figure_bytes(kernels_figure(device, operators), "svg")])
        figures[device] = name
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    accuracies = stated_accuracies(search_path)
    scores = scores_of(found.rows, predictions)
    page = [
        *_head(), *_by_operator(pooled(accuracies, plan)), *_by_file(accuracies), *_scores(scores),
        *_borrowed(found, scores, catalogue, search_path), *_left_out(found.omissions), *_figures(figures),
    ]  # fmt: skip
    write_whole(folder / "README.md", ["\n".join(page).encode()])
    return [*(folder / name for name in figures.values()), folder / "README.md"]


def _points(found: Screened, predictions: Predictions) -> dict[str, dict[str, Points]]:
    """Return the rows with a prediction, by device file and operation."""
    devices: dict[str, dict[str, list[Indices]]] = {}
    for part in found.mapped:
        operation = str(found.rows.text("op")[part.rows[0]])
        known = part.rows[np.isfinite(predictions.seconds[part.rows])]
        devices.setdefault(part.device.name, {}).setdefault(operation, []).append(known)
    points: dict[str, dict[str, Points]] = {}
    for device in sorted(devices):
        for operation, parts in sorted(devices[device].items()):
            rows = np.sort(np.concatenate(parts))
            if len(rows):
                formats = found.rows.text("dtype_in")[rows]
                points.setdefault(device, {})[operation] = Points(
                    found.rows.seconds[rows], predictions.seconds[rows], formats
                )
    return points


def _head() -> Iterator[str]:
    yield "# Kernel times: predicted against measured"
    yield ""
    yield "Errors are |predicted / measured - 1|. Columns `roofline`, `shape_only`, `form` and `residual` are means"
    yield "over held-out rows, as the calibration files state them: the bare roofline, a smooth function of the"
    yield "shape alone, the physical form, and the form with its residual, which is what times are made of. The"
    yield "residual's lengths and the widths of intervals were chosen on these held-out rows, and widths are scaled to"
    yield "hold 80 % of them: neither is an error or a coverage of rows that nothing has seen. Those are on the page"
    yield "of [nested folds](nested.md)."
    yield ""
    yield f"Regenerate: `{COMMAND}`"


def _by_operator(rows: Sequence[Pooled]) -> Iterator[str]:
    yield from table(
        "Held-out rows, by device and operator",
        ("device", "operator", "rows", *MODELS, "median", "bias", "bar / aim", "reached", "in interval", "width"),
        (
            (
                one.device, one.family, f"{one.rows:,.0f}", *(percent(one.errors[model]) for model in MODELS),
                percent(one.median), percent(one.bias, sign=True),
                "" if one.bar is None else f"{100 * one.bar:g} / {100 * (one.aim or 0.0):g} %", one.verdict,
                percent(one.coverage), "" if one.width is None else f"{one.width:.1f}",
            )
            for one in rows
        ),
    )  # fmt: skip
    yield ""
    yield "Several files of one operator are averaged over their rows; below 50 rows the median counts. `in interval`"
    yield "is the share of these held-out rows that their 80 % intervals hold, `width` half an interval over the median"
    yield "error."
    yield ""
    yield from _interval_bars(rows)


def _interval_bars(rows: Sequence[Pooled]) -> Iterator[str]:
    """Yield how many of the larger groups have intervals as they are meant to be."""
    large = [one for one in rows if one.rows >= ENOUGH and one.coverage is not None and one.width is not None]
    holding = sum(_LEAST <= (one.coverage or 0.0) <= _MOST for one in large)
    narrow = sum((one.width or 0.0) <= _WIDEST for one in large)
    yield f"Of {len(large)} groups with {ENOUGH} rows or more, {holding} have {100 * _LEAST:g} to {100 * _MOST:g} % of"
    yield f"the rows in their intervals, and {narrow} have intervals of at most {_WIDEST:g} median errors to each side."


def _by_file(accuracies: Sequence[Accuracy]) -> Iterator[str]:
    yield from table(
        "Held-out rows, by calibration file",
        ("file", "family", "rows", "held out together", "groups", *MODELS, "median", "bias"),
        (
            (
                one.file, one.family, f"{one.rows:,.0f}", one.stated.held_out, f"{one.stated.groups:,.0f}",
                *(percent(float(getattr(one.stated, model))) for model in MODELS),
                _median(one), percent(float(one.stated.bias), sign=True),
            )
            for one in accuracies
        ),
    )  # fmt: skip


def _median(one: Accuracy) -> str:
    """Return a median error, with its 80 % interval where few rows stand behind it."""
    low, high = one.stated.median_low, one.stated.median_high
    own = percent(float(one.stated.median))
    return own if low is None or high is None else f"{own} ({percent(float(low))} to {percent(float(high))})"


def _scores(scores: Sequence[Score]) -> Iterator[str]:
    yield from table(
        "All rows, those that the fits were made from included",
        ("device", "operator", "format", "rows", "mean", "median", "bias", "in 80 % interval", "half width / median"),
        (
            (
                one.device, one.op, one.dtype, f"{one.rows:,}", percent(one.mean), percent(one.median),
                percent(one.bias, sign=True), percent(one.inside),
                f"{one.half_width / one.median:.1f}" if one.half_width and one.median else "",
            )
            for one in scores
            if one.rows
        ),
    )  # fmt: skip


def _borrowed(
    found: Screened, scores: Sequence[Score], catalogue: Catalogue, search_path: Sequence[str | Path]
) -> Iterator[str]:
    """Yield how well another device's fits predict a device's rows, where both have such kernels."""
    lenders = {device.name: catalogue.inherits(device.name) for device in {part.device for part in found.mapped}}
    known = {device: lender for device, lender in lenders.items() if lender is not None}
    parts = [part for part in found.mapped if part.device.name in known]
    lent = predict_mapped(found.rows, parts, (), search_path, known)
    lent.seconds[np.array([why.endswith(_ROOFLINE) for why in lent.why], dtype=bool)] = np.nan
    own = {(one.device, one.op, one.dtype): one for one in scores}
    yield from table(
        "With the fits of the device that it inherits from, and no row of its own",
        ("device", "fits of", "operator", "format", "rows", "mean", "median", "bias", "mean with its own rows"),
        (
            (
                one.device, known[catalogue.name(one.device)], one.op, one.dtype, f"{one.rows:,}", percent(one.mean),
                percent(one.median), percent(one.bias, sign=True),
                percent(own[one.device, one.op, one.dtype].mean),
            )
            for one in scores_of(found.rows, lent)
            if one.rows
        ),
    )  # fmt: skip
    yield ""
    yield "Kernels of which the lender has no fit are left out. With its own rows: as in the table before."


def _left_out(left_out: Sequence[Exclusion]) -> Iterator[str]:
    yield from table(
        "Rows left out", ("rows", "operator", "reason"), ((f"{one.rows:,}", one.op, one.reason) for one in left_out)
    )


def _figures(figures: dict[str, str]) -> Iterator[str]:
    yield ""
    yield "## Figures"
    for device, name in figures.items():
        yield ""
        yield f"![{device}: predicted against measured times]({name})"
    yield ""


@click.command()
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--path", "search_path", multiple=True, help="Folder to search first; repeatable.")
def main(measurements: Path, output: Path, search_path: tuple[str, ...]) -> None:
    """Write the evidence of kernel times: figures, and a page with the tables."""
    for path in publish(measurements, output, search_path):
        click.echo(path)


if __name__ == "__main__":
    main()
