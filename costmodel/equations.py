"""Equations of the code: lines `name = expression` of a docstring, in the names that its function has.

A name is that of a local variable, of a key or field of what is returned, of a field of `self`, or a path from one of
them; of a list of records, that of a field of each. What follows three spaces is a note. `name := words` stands for
what no expression says, such as a recurrence. `costmodel explain` and tests read them; a run never does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_ROOT = Path(__file__).parents[1]
_FURTHER: dict[CodeType, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {}
_DECLARED: dict[CodeType, Callable[..., Any]] = {}
_LINE = re.compile(r" *(?P<name>[A-Za-z_]\w*) *(?P<sign>:?=) (?P<rest>.+)")


def equation(function: _F) -> _F:
    """Return the function itself, whose docstring states its equations."""
    _DECLARED[function.__code__] = function
    return function


def equation_with(further: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Callable[[_F], _F]:
    """Return `equation` for a function whose equations read more than a run computes.

    further: returns that by name, from the function's local variables.
    """

    def mark(function: _F) -> _F:
        _FURTHER[function.__code__] = further
        return equation(function)

    return mark


def further_values(function: Callable[..., Any], names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what equations of a function read and a run does not compute. names: its local variables."""
    further = _FURTHER.get(function.__code__)
    return {} if further is None else further(names)


class Equation(NamedTuple):
    """One equation of a function. expression: empty for what an algorithm computes; note: in words."""

    name: str
    expression: str
    note: str

    def __str__(self) -> str:
        return f"{self.name} = {self.expression}" if self.expression else f"{self.name}: {self.note}"


def declared() -> dict[CodeType, Callable[..., Any]]:
    """Return the functions of all loaded modules that state equations, by their code."""
    return _DECLARED


@cache
def equations_of(function: Callable[..., Any]) -> list[Equation]:
    """Return the equations of a function; a line with an open bracket goes on in the next one."""
    equations: list[Equation] = []
    text = (function.__doc__ or "").splitlines()
    for number, line in enumerate(text):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        if match["sign"] == ":=":
            equations.append(Equation(match["name"], "", match["rest"].strip()))
            continue
        expression, _, note = match["rest"].partition("   ")
        for more in text[number + 1 :]:
            if expression.count("(") == expression.count(")"):
                break
            part, _, note = more.strip().partition("   ")
            expression += f" {part}"
        equations.append(Equation(match["name"], expression.strip(), note.strip()))
    return equations


def place_of(function: Callable[..., Any]) -> str:
    """Return the file and the line of a function."""
    code = function.__code__
    return f"{Path(code.co_filename).relative_to(_ROOT).as_posix()}:{code.co_firstlineno}"
