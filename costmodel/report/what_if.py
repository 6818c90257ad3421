"""The terminal view of what changes are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costmodel.report.page import Number, show, table
from costmodel.report.text import NONE, metric
from costmodel.study.what_if import Worth


def show_worths(scenarios: Mapping[str, Sequence[Worth]]) -> None:
    """Print what each change of each scenario saves, the largest first; then those that cannot be had, and why."""
    for scenario, rows in scenarios.items():
        had = sorted((row for row in rows if row.saved is not None), key=lambda row: -(row.saved or 0.0))
        headline = rows[0].metric if rows else ""
        show(f"{scenario}: what each change saves of {metric(headline, rows[0].before) if rows else NONE}", "bold")
        view = table("change", ">alone", ">80 % interval", ">at most", f">{headline} with those above it in the list")
        for row in had:
            view.add(row.term, _share(row.saved), _interval(row), _share(row.ceiling), metric(headline, row.together))
        show(view)
        for row in had:
            if (row.saved or 0.0) > (row.ceiling or 1.0):
                show(f"{row.term}: more than its share, as kernels need whole waves of tiles fewer", "dim")
        for row in rows:
            if row.refused is not None:
                show(f"{row.term}: {row.refused}", "dim")


def _share(value: float | None) -> str:
    return NONE if value is None else Number(f"{100 * value:.2f} %", value)


def _interval(row: Worth) -> str:
    return NONE if row.ratio is None else f"{100 * (1 - row.ratio[1]):.2f} .. {100 * (1 - row.ratio[0]):.2f} %"
