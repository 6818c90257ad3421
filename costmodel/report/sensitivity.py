"""The terminal view of a sensitivity analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costmodel.declared import Measure
from costmodel.report.page import Number, is_verbose, show, show_hint, table
from costmodel.report.text import NONE, count, metric, readable, setting
from costmodel.schema import ResolvedWorkload
from costmodel.study.sensitivity import CARRY, Sensitivity

MOST_ROWS, FEW = 20, 8  # parameters that are shown; --json has them all
LEAST = 0.0005  # of the metric, that reads as 0.1 %


def show_sensitivities(resolved: ResolvedWorkload, name: str, scenarios: Mapping[str, Sequence[Sensitivity]]) -> None:
    """Print the hardware parameters of each scenario that change a metric, those first whose better part does most."""
    for scenario, rows in scenarios.items():
        if not rows:
            show(f"{scenario}: no hardware parameter changes {readable(name)}", "yellow")
            continue
        show(_answer(scenario, name, rows), "bold")
        all_rows = is_verbose()
        wide = (f"?>{name} if 10 % better", "??>saves ($ per trillion tokens)") if all_rows else ()
        ranking = table(
            "", "parameter", ">value", ">10 % better", ">10 % worse", "|", *(("??>elasticity",) if all_rows else ()),
            *wide,
        )  # fmt: skip
        strongest = max(row.gain for row in rows) or 1.0
        shown = [row for row in rows if all_rows or max(row.gain, row.loss) >= LEAST][: MOST_ROWS if all_rows else FEW]
        for row in shown:
            number = resolved.number(f"scenarios.{scenario}.{row.path}")
            dimension = number.dimension if isinstance(number, Measure) else "count"
            more = (
                Number(f"{row.elasticity:+.3f}", row.elasticity), metric(name, row.better),
                NONE if row.saved is None else count(row.saved),
            )  # fmt: skip
            ranking.add(
                f"{'~' if row.tied else ''}{'^' if row.is_kinked else ''}", row.path, setting(row.value, dimension, 3),
                change(row.if_better), change(row.if_worse), row.gain / strongest, *(more if all_rows else ()),
            )  # fmt: skip
        show(ranking)
        if any(row.tied for row in shown):
            show("~ 10 % worse, this parameter and its neighbour come in the other order")
        if any(row.is_kinked for row in shown):
            show("^ a kink: better and worse move it by different amounts, as where another resource binds", "dim")
        if any(row.path.endswith(CARRY) for row in shown):
            show("processors and clocks carry the peaks and the rates per processor with them", "dim")
        if len(rows) > len(shown):
            show(f"{len(rows) - len(shown)} weaker parameters left out{'; --json has all' if all_rows else ''}", "dim")
    show_hint()


def _answer(scenario: str, name: str, rows: Sequence[Sensitivity]) -> str:
    best = rows[0]
    if best.better is None or best.if_better is None:
        return f"{scenario}: change of {readable(name)} with each hardware parameter 10 % better and 10 % worse"
    base = best.better / (1.0 + best.if_better)
    return (
        f"{scenario}: {readable(name)} {metric(name, base)}; 10 % better {best.path} "
        f"moves it most, {change(best.if_better)}"
    )


def change(value: float | None) -> str:
    """Return a relative change in per cent."""
    return NONE if value is None else Number(f"{100 * value:+.2f} %", value)
