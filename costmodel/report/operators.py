"""The terminal view of `explain`: a scenario's operators, and one of them in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from costmodel.cost.parameter import Parameter
from costmodel.report.answer import routing_line
from costmodel.report.equations import Block, Value
from costmodel.report.explain import Explanation, Line
from costmodel.report.page import is_verbose, show, show_hint, table
from costmodel.report.text import quantity, readable, share, shortened, shown_basis
from costmodel.result import shown_line

FEW = 6  # operators in the short form
LONGEST_LIST = 110  # characters of their names there
MOST_EXPLAINED = 4  # operators in full; more are listed
SYMBOLS = {  # inputs that equations and docs/method.md have a symbol for
    "bandwidth inside a node": "bandwidth inside a node (B_in)",
    "bandwidth between nodes": "bandwidth between nodes (B_out)",
    "latency inside a node": "latency inside a node (a_in)",
    "latency between nodes": "latency between nodes (a_out)",
}


def show_refused(reason: str | None, note: str | None) -> None:
    """Print that the scenario cannot run, where it cannot: its times are those that it would take with more memory.

    note: of the engine that `simulate` runs, where that is another one than what is explained.
    """
    if note is not None:
        show(f"note: {note}")
    if reason is not None:
        show(f"infeasible: {reason}", "red")
        show("times below assume enough memory")


def show_lines(
    lines: Sequence[Line], argument: str, names: Mapping[str, Sequence[str]], routing: Mapping[str, float] | None,
    scenario: str,
) -> None:  # fmt: skip
    """Print where a scenario's time goes, and how to ask for more.

    names: of all else that can be explained, by kind.
    routing: of its expert layers.
    """
    if lines:
        first = lines[0]
        show(f"{scenario}: {shown_line(first.name)} takes most, {_part(first)}", "bold")
    rows = table("operator", ">time", ">share", "|", "?>hidden", "bound", "basis")
    longest = max((line.time for line in lines), default=0.0) or 1.0
    for line in lines if is_verbose() else lines[:FEW]:
        hidden = quantity(line.hidden, "time") if line.hidden else ""
        rows.add(
            shown_line(line.name), quantity(line.time, "time"), share(line.share), line.time / longest, hidden,
            line.bound, shown_basis(line.basis),
        )  # fmt: skip
    show(rows)
    if routing is not None:
        show(routing_line(routing))
    for kind, some in {"operators": [line.name for line in lines[FEW:]], **names}.items():
        if some and (is_verbose() or kind != "terms") and not (is_verbose() and kind == "operators"):
            listed = f"{kind}: {', '.join(map(shown_line, some))}"
            show(listed if is_verbose() else shortened(listed, LONGEST_LIST))
    asked = [lines[0].name] if lines else []
    show_hint()
    for word, name in zip(("next:", "     "), [*asked, *names["metrics"][:1]], strict=False):
        show(f'{word} costmodel explain {argument} --op "{name}"', "dim")


def _part(line: Line) -> str:
    return f"{quantity(line.time, 'time')}, {share(line.share)}, {line.bound}-bound, {shown_basis(line.basis)}"


def show_explanations(
    explanations: Sequence[Explanation], line: Line | None, argument: str, scenario: str
) -> None:  # fmt: skip
    """Print operators explained one after the other, as a list where they are many, then their line of the list."""
    first = explanations[0]
    if line is not None and line.runs:
        show(f"{scenario}: {shown_line(line.name)} takes {_part(line)}", "bold")
    else:
        bound = f", {first.bound}-bound" if first.bound and first.time is not None else ""
        value = first.value[0] if isinstance(first.value, list) else first.value
        shown = quantity(value, first.dimension) if math.isfinite(value) else "has no end"
        show(f"{scenario}: {readable(first.name)} {shown}{bound}", "bold")
    if len(explanations) > MOST_EXPLAINED:
        _show_list(explanations, argument)
        _show_line(line)
        return
    if not is_verbose():
        _show_short(explanations[0])
        if len(explanations) > 1:
            show(f"also: {', '.join(readable(each.name) for each in explanations[1:])}", "dim")
        _show_line(line)
        show_hint()
        return
    for position, explanation in enumerate(explanations):
        if position:
            show()
        _show(explanation)
    _show_line(line)


def _show_short(explanation: Explanation) -> None:
    show_blocks(explanation.blocks)
    if explanation.parts:
        parts = ", ".join(f"{name} {quantity(value, 'time')}" for name, value in explanation.parts.items())
        show(f"one run takes {quantity(explanation.time, 'time')}: {parts}")
    _show_interval(explanation)
    if explanation.considered:
        show(f"fit: {explanation.considered[-1]}")
    for note in explanation.notes:
        show(f"note: {note}")


def _show_interval(explanation: Explanation) -> None:
    if explanation.interval is None:
        return
    low, high = (quantity(end, "time") for end in explanation.interval)
    more = f"; site and run add {share(math.expm1(explanation.site_and_run))} to a whole run's"
    show(f"80 % interval of one run: {low} .. {high}{more if explanation.site_and_run else ''}")


def _show_list(explanations: Sequence[Explanation], argument: str) -> None:
    rows = table("operator", ">one run", "bound", "basis", "equation")
    longest, *_ = ordered = sorted(explanations, key=lambda each: -(each.time or 0.0))
    for each in ordered:
        rows.add(
            each.name, quantity(each.time, "time"), each.bound, shown_basis(each.basis), f"{each.file}; {each.section}"
        )
    show(rows)
    show(f'next: costmodel explain {argument} --op "{longest.name}"', "dim")


def _show_line(line: Line | None) -> None:
    """Print how the runs of a line's operators make its time."""
    if line is None or not line.runs:
        return
    hidden = f", and {quantity(line.hidden, 'time')} hidden under other work" if line.hidden else ""
    names = f" of: {', '.join(line.operators)}" if len(line.operators) <= MOST_EXPLAINED else ""
    show(
        f"line `{shown_line(line.name)}` of the list: {quantity(line.time, 'time')}, {share(line.share)}{hidden}; "
        f"{line.runs:,.0f} runs on a device{names}"
    )


def _show_values(heading: str, values: Mapping[str, tuple[float, str]]) -> None:
    if not values:
        return
    rows = table(heading, ">value")
    for name, (value, dimension) in values.items():
        rows.add(name, quantity(value, dimension, 6))
    show(rows)


def _show(explanation: Explanation) -> None:
    show(f"{readable(explanation.name)} ({explanation.family})", "bold")
    show_blocks(explanation.blocks)
    if explanation.work:
        show(f"FLOP and traffic: {explanation.work}", "dim")
    _show_values("input", {SYMBOLS.get(name, name): each for name, each in explanation.inputs.items()})
    if explanation.parameters:
        rows = table("fitted parameter", ">value", "meaning")
        for name, (value, parameter) in explanation.parameters.items():
            rows.add(name, _parameter(value, parameter), parameter.meaning)
        show(rows)
    if explanation.parts:
        parts = ", ".join(f"{name} {quantity(value, 'time')}" for name, value in explanation.parts.items())
        show(f"one run takes {quantity(explanation.time, 'time')}: {parts}")
    show(f"bound: {explanation.bound}; basis: {shown_basis(explanation.basis)}")
    _show_interval(explanation)
    if explanation.considered:
        *passed_over, taken = explanation.considered
        show(f"fit: {taken}")
        for candidate in passed_over:
            show(f"  considered: {candidate}", "dim")
    for name, location in explanation.origins.items():
        is_default = location == "default"
        show(f"  {name} has its default" if is_default else f"  {name} is set at {location}", "dim")
    for note in explanation.notes:
        show(f"note: {note}")


def _parameter(value: float, parameter: Parameter) -> str:
    if parameter.dimension != "ratio":
        return quantity(value, parameter.dimension, 6)
    return f"{quantity(value, 'count', 6)} {'' if parameter.unit == '1' else parameter.unit}".rstrip()


# ---- The terminal view of equations with their values, function by function ------------------------------------------

MOST, LONGEST = 8, 60  # equations in the short form, and characters of one


def show_blocks(blocks: Sequence[Block]) -> None:
    """Print equations with their file and line: the first of each function, or on request all with their terms."""
    if is_verbose():
        _show_all(blocks)
        return
    rows = table("equation", ">value", "?where")
    for block in dict.fromkeys(blocks):
        line = block.lines[0]
        rows.add(shortened(str(line.equation), LONGEST), _value(line.value, line.dimension), block.place)
        if len(rows.rows) == MOST:
            break
    if rows.rows:
        show(rows)
    if len(blocks) > MOST:
        show(f"{len(blocks) - MOST} more", "dim")


def _show_all(blocks: Sequence[Block]) -> None:
    """Print all equations and their terms.

    Below an equation stand the terms that no other one states, and those that several state with different values.
    """
    stated: dict[str, set[str]] = {}
    for line in (line for block in blocks for line in block.lines):
        stated.setdefault(line.equation.name, set()).add(str(line.value))
    for block in blocks:
        rows = table(f"{block.place} {block.function}", ">value", "")
        for line in block.lines:
            rows.add(str(line.equation), _value(line.value, line.dimension), line.equation.note if line.terms else "")
            for name, value in line.terms.items():
                if stated.get(name.rpartition(".")[2]) != {str(value)}:
                    rows.add(f"    {name}", _value(value, line.dimension_of(name)), "")
        show(rows)


def _value(value: Value, dimension: str) -> str:
    if isinstance(value, list) and len(value) > 1:
        return f"{len(value)}, up to {quantity(max(value), dimension)}"
    value = value[0] if isinstance(value, list) else value
    return quantity(value, dimension, 6) if math.isfinite(value) else str(value)
