"""The terminal view of a sensitivity analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costmodel.declared import Measure
from costmodel.report.page import Number, show, table
from costmodel.report.text import NONE, count, metric, setting
from costmodel.schema import ResolvedWorkload
from costmodel.study.sensitivity import Sensitivity

MOST_ROWS = 20  # parameters that are shown; --json has them all


def show_sensitivities(resolved: ResolvedWorkload, name: str, scenarios: Mapping[str, Sequence[Sensitivity]]) -> None:
    """Print the hardware parameters of each scenario that change a metric, those first whose better part does most."""
    for scenario, rows in scenarios.items():
        show(f"{scenario}: change of {name} with 10 % more and 10 % less of each hardware parameter", "bold")
        if not rows:
            show("no hardware parameter changes it", "yellow")
            continue
        ranking = table(
            "", "parameter", ">value", ">10 % more", ">10 % less", "|", "??>elasticity", f"?>{name} if 10 % better",
            "??>saves ($ per trillion tokens)",
        )  # fmt: skip
        strongest = max(row.gain for row in rows) or 1.0
        for row in rows[:MOST_ROWS]:
            number = resolved.number(f"scenarios.{scenario}.{row.path}")
            dimension = number.dimension if isinstance(number, Measure) else "count"
            ranking.add(
                "~" if row.tied else "", row.path, setting(row.value, dimension), _change(row.more), _change(row.less),
                row.gain / strongest, Number(f"{row.elasticity:+.3f}", row.elasticity), metric(name, row.better),
                NONE if row.saved is None else count(row.saved),
            )  # fmt: skip
        show(ranking)
        if len(rows) > MOST_ROWS:
            show(f"{len(rows) - MOST_ROWS} weaker parameters not shown (use --json for all)", "dim")
        if any(row.tied for row in rows[:MOST_ROWS]):
            show("~ the order of this parameter and its neighbour is another one for a part that is 10 % worse")


def _change(value: float | None) -> str:
    return NONE if value is None else Number(f"{100 * value:+.2f} %", value)
