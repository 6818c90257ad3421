"""The terminal view of `explain`: a scenario's operators, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costmodel.cost.parameter import Parameter
from costmodel.cost.terms import dimension_of
from costmodel.report.expert_load import routing_line
from costmodel.report.explain import Explanation, Line
from costmodel.report.page import show, table
from costmodel.report.text import quantity, share
from costmodel.result import shown_line


def show_refused(reason: str | None) -> None:
    """Print that the scenario cannot run, where it cannot: its times are those that it would take with more memory."""
    if reason is not None:
        show(f"infeasible: {reason}", "red")
        show("times below assume enough memory")


def show_lines(lines: Sequence[Line], argument: str, routing: Mapping[str, float] | None = None) -> None:
    """Print where a scenario's time goes, and how to ask for more. routing: of its expert layers."""
    rows = table("operator", ">time", ">share", "|", ">hidden", "bound", "basis")
    longest = max((line.time for line in lines), default=0.0) or 1.0
    for line in lines:
        hidden = quantity(line.hidden, "time") if line.hidden else ""
        rows.add(
            shown_line(line.name), quantity(line.time, "time"), share(line.share), line.time / longest, hidden,
            line.bound, line.basis,
        )  # fmt: skip
    show(rows)
    if routing is not None:
        show(routing_line(routing))
    if lines:
        show(f'next: costmodel explain {argument} --op "{lines[0].name}"', "dim")


def show_explanations(explanations: Sequence[Explanation]) -> None:
    """Print operators explained, one after the other."""
    for position, explanation in enumerate(explanations):
        if position:
            show()
        _show(explanation)


def _show(explanation: Explanation) -> None:
    show(f"{explanation.name} ({explanation.family})", "bold")
    show(explanation.equation)
    show(f"{explanation.file}; {explanation.section}", "dim")
    rows = table("term", ">value")
    for name, value in explanation.terms.items():
        rows.add(name, quantity(value, dimension_of(name), 6))
    show(rows)
    rows = table("input", ">value")
    for name, (value, dimension) in explanation.inputs.items():
        rows.add(name, quantity(value, dimension, 6))
    show(rows)
    if explanation.parameters:
        rows = table("fitted parameter", ">value", "meaning")
        for name, (value, parameter) in explanation.parameters.items():
            rows.add(name, _parameter(value, parameter), parameter.meaning)
        show(rows)
    parts = ", ".join(f"{name} {quantity(value, 'time')}" for name, value in explanation.parts.items())
    show(f"one run takes {quantity(explanation.time, 'time')}: {parts}")
    show(f"bound: {explanation.bound}; basis: {explanation.basis}")
    if explanation.considered:
        *passed_over, taken = explanation.considered
        show(f"fit: {taken}")
        for candidate in passed_over:
            show(f"  considered: {candidate}", "dim")
    for name, location in explanation.origins.items():
        show(f"  {name} is set at {location}", "dim")
    for note in explanation.notes:
        show(f"note: {note}")


def _parameter(value: float, parameter: Parameter) -> str:
    """Return the value of a parameter with its unit."""
    if parameter.dimension != "ratio":
        return quantity(value, parameter.dimension, 6)
    return f"{quantity(value, 'count', 6)} {'' if parameter.unit == '1' else parameter.unit}".rstrip()
