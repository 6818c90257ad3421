"""The published evidence of kernel times: the cross-validated errors that calibration files state, beside the bars.

python -m reports.kernels --output reports/kernels

`costmodel evaluate` scores rows of a measurement table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from costmodel.calibration.fit_files import read
from costmodel.fitting.run_plan import PLAN
from costmodel.report.plots.bars import Bar
from costmodel.report.plots.plot import Plot
from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from reports.kernels.accuracy import ENOUGH, MODELS, Accuracy, Pooled, pooled, stated_accuracies
from reports.page import percent, table, write_folder
from reports.what_if.bar_groups import Group, groups_plot

_LEAST, _MOST, _WIDEST = 0.6, 0.95, 2.5  # of rows in 80 % intervals, and half of these over the median error
NAME, MOST = "held_out", 10  # of the figure; bars
COMMAND = "python -m reports.kernels --output reports/kernels"


def publish(folder: Path, search_path: Sequence[str | Path] = ()) -> list[Path]:
    """Write the figure and the page with the tables; the same fits give the same bytes."""
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    accuracies = stated_accuracies(search_path)
    with styled():
        made = write_plots([(NAME, drawn(accuracies))], folder)
    page = [*_head(), *_by_operator(pooled(accuracies, plan)), *_by_file(accuracies), ""]
    write_whole(folder / "README.md", ["\n".join(page).encode()])
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


def _head() -> Iterator[str]:
    yield "# Kernel times: predicted against measured"
    yield ""
    yield "Errors are |predicted / measured - 1|. Columns `roofline`, `shape_only`, `form` and `residual` are means"
    yield "over held-out rows, as the calibration files state them: the bare roofline, a smooth function of the"
    yield "shape alone, the physical form, and the form with its residual, which is what times are made of. The"
    yield "residual's lengths and the widths of intervals were chosen on these held-out rows, and widths are scaled to"
    yield "hold 80 % of them: neither is an error or a coverage of rows that nothing has seen. Fourteen families that"
    yield "were fitted again, choices and all, without a third of their groups of shapes err on those rows 1.2 times as"
    yield "much, and hold 77 % of them in their intervals. `costmodel evaluate` scores any table of rows."
    yield ""
    yield f"![Errors of held-out kernel times]({NAME}.svg)"
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


if __name__ == "__main__":
    write_folder("kernels", publish)
