"""The terminal view of `explain`: a scenario's operators, and one of them in full."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from costmodel.report.explain import Explanation, Line
from costmodel.report.text import console, quantity, share, table


def show_lines(found: Sequence[Line], argument: str) -> None:
    """Print where a scenario's time goes, and how to ask for more."""
    rows = table("operator", ">time", ">share", ">hidden", "limit", "basis")
    for line in found:
        hidden = quantity(line.hidden, "time") if line.hidden else ""
        rows.add_row(line.name, quantity(line.time, "time"), share(line.share), hidden, line.bound, line.basis)
    out = console()
    out.print(rows)
    if found:
        out.print(escape(f'next: costmodel explain {argument} --op "{found[0].name}"'), style="dim")


def show_explanations(found: Sequence[Explanation]) -> None:
    """Print operators explained, one after the other."""
    for position, explanation in enumerate(found):
        if position:
            console().print()
        _show(explanation)


def _show(explanation: Explanation) -> None:
    out = console()
    out.print(f"[bold]{escape(explanation.name)}[/bold] ({explanation.family})\n{escape(explanation.formula)}")
    rows = table("input", ">value")
    for name, (value, dimension) in explanation.inputs.items():
        rows.add_row(name, quantity(value, dimension, 6))
    out.print(rows)
    parts = ", ".join(f"{name} {quantity(value, 'time')}" for name, value in explanation.parts.items())
    out.print(f"time of one run {quantity(explanation.time, 'time')}: {parts}")
    out.print(f"limit: {explanation.bound}; basis: {explanation.basis}")
    for name, place in explanation.origins.items():
        out.print(escape(f"  {name} is written at {place}"), style="dim")
    for note in explanation.notes:
        out.print(escape(f"note: {note}"))
