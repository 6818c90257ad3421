"""The published evidence of kernel times: the cross-validated errors that calibration files state, beside the bars.

python -m reports.kernels --output reports/kernels

`costmodel evaluate` scores rows of a measurement table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from reports.kernels.accuracy import ENOUGH, MODELS, Accuracy, pooled, stated_accuracies
from reports.page import rendered, write_folder
from reports.what_if.bar_groups import Group, groups_plot

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


if __name__ == "__main__":
    write_folder("kernels", publish)
