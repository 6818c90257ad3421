"""Equations of a run: which functions that state some were called, with which values, and how they follow one another.

Values are those of the run itself: local variables when a function returns, and what it returns.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from types import FrameType
from typing import Any, TypeAlias

import numpy as np

from costmodel.cost.parameter import DeclaredRecord
from costmodel.equations import Equation, declared, equations_of, further_values, place_of
from costmodel.errors import Location
from costmodel.records import Record, is_record, replace
from costmodel.report.dimensions import Units, dimension_of, inferred, is_even, units_of_kind, units_of_name
from costmodel.study.expressions import Expression, read_expression

Value: TypeAlias = "float | list[float]"
_Chosen: TypeAlias = "dict[int, tuple[Call, list[Equation]]]"  # calls by identity, and which of their equations
_MENTIONED = re.compile(r"`(\w+)`")
_PLACE = Location("equation", None)


class Call(Record, dict=True):
    """One call of a function that states equations.

    names: its local variables when it returned `result`.
    frames: the calls that were under way, by number, of all functions. The last one is its own.
    candidate: of several whose values are arrays, the place of the one that is meant, and how many there are.
    """

    function: Callable[..., Any]
    names: Mapping[str, Any]
    result: Any
    frames: tuple[int, ...] = ()
    candidate: tuple[int, int] | None = None

    @cached_property
    def equations(self) -> list[Equation]:
        """Return the equations of the function that hold in this call: those of which it has all values."""
        stated = [each for each in equations_of(self.function) if self.stated(each) is not None]
        return [each for each in stated if len(self.terms(each)) == len(_names(each))]

    def stated(self, equation: Equation) -> Value | None:
        """Return the value of what an equation states: by its name, else what the function returns or the equation."""
        value = self._number(self._find(equation.name, last=True))
        if value is not None or equation.name in self.function.__code__.co_varnames:
            return value
        value = self._number(self.result)
        if value is None and equation.expression:
            terms = self.terms(equation)
            return evaluated(equation.expression, terms) if len(terms) == len(_names(equation)) else None
        return value

    def value(self, path: str) -> Value | None:
        """Return the value of a name that an equation reads, null where it has none."""
        return self._number(self._find(path))

    def at(self, equation: Equation, value: Value | None) -> Call | None:
        """Return the call where an equation states a value: itself, or one of several candidates in arrays."""
        stated = self.stated(equation)
        if isinstance(stated, list) and isinstance(value, float):
            near = [candidate for candidate, each in enumerate(stated) if _equal(each, value)]
            return replace(self, candidate=(near[0], len(stated))) if near else None
        return self if stated is not None and _equal(stated, value) else None

    def _number(self, member: Any) -> Value | None:
        value = _as_value(member)
        candidate, count = self.candidate or (0, 0)
        return value[candidate] if isinstance(value, list) and len(value) == count else value

    def terms(self, equation: Equation) -> dict[str, Value]:
        """Return the values of the names that an equation reads."""
        return {name: value for name in _names(equation) if (value := self.value(name)) is not None}

    def units(self, path: str, *, is_stated: bool = False) -> Units | None:
        """Return the units of a name: as its type or its declaration says, else as the name does."""
        first, *rest = path.split(".")
        if first in self.further:
            return "1"
        kind, holder = self.function.__annotations__.get(first), self._find(first)
        for name in rest:
            holder = holder[0] if isinstance(holder, list) and holder else holder
            kind, holder = _annotation(holder, name), getattr(holder, name, None)
        if kind is None and first not in self.names:
            own, stated = [self.names.get("self")], _parts(self.result)
            records = [*stated, *own] if is_stated else [*own, *stated]
            kind = next((_annotation(part, first) for part in records if hasattr(part, first)), None)
            kind = kind or (self.function.__annotations__.get("return") if is_stated else None)
        known = units_of_kind(kind)
        return units_of_name(path.rpartition(".")[2]) if known is None else known

    def distance(self, other: Call) -> tuple[int, bool, int]:
        """Return how many calls lead from this one to another, whether that ended later, and which of equal is last."""
        common = len(set(self.frames) & set(other.frames))
        return len(self.frames) + len(other.frames) - 2 * common, other.frames > self.frames, -other.frames[-1]

    @cached_property
    def further(self) -> Mapping[str, Any]:
        """Return what its equations read and a run does not compute: counts."""
        return further_values(self.function, self.names)

    def _find(self, path: str, *, last: bool = False) -> Any:
        """Return what a path leads to. last: of what is stated, which a local variable may share its name with."""
        first, *rest = path.split(".")
        results, own = _parts(self.result), self.names.get("self")
        stated = [*(part for part in results if isinstance(part, Mapping)), *(filter(is_record, results))]
        holders = [*stated, self.names] if last else [self.names, *([] if own is None else [own]), *stated]
        member = next((_member(holder, first) for holder in holders if _has(holder, first)), None)
        if member is None and not last:
            member = self.function.__globals__.get(first, self.further.get(first))
        for name in rest:
            several = isinstance(member, list | tuple) and not hasattr(member, "_fields")
            member = [_member(each, name) for each in member or ()] if several else _member(member, name)
        return member


class Line(Record):
    """An equation with the values of its name and of what it reads, each with its units where they are known."""

    equation: Equation
    value: Value
    terms: Mapping[str, Value]
    units: Mapping[str, Units | None]

    def holds_in(self, units: Mapping[str, Units]) -> bool:
        """Tell whether the equation holds in any system of units where its names have some."""
        sizes = tuple((name, np.size(each)) for name, each in self.terms.items())
        return is_even(_read(self.equation.expression).value, self.equation.name, tuple(units.items()), sizes)

    @property
    def dimension(self) -> str:
        """Return the dimension of what it states."""
        return self.dimension_of(self.equation.name)

    def dimension_of(self, path: str) -> str:
        """Return the dimension of a name."""
        return dimension_of(path.rpartition(".")[2], self.units[path])


class Block(Record):
    """Equations of one function. function: its name; place: file and line."""

    function: str
    place: str
    lines: tuple[Line, ...]

    @property
    def file(self) -> str:
        """Return the file of the function."""
        return self.place.rpartition(":")[0]

    @property
    def terms(self) -> dict[str, Value]:
        """Return the values of all names in the equations."""
        terms: dict[str, Value] = {}
        for line in self.lines:
            terms |= {line.equation.name: line.value, **line.terms}
        return terms

    def document(self) -> dict[str, Any]:
        """Return the block as JSON."""
        equations = [str(line.equation) for line in self.lines]
        return {"function": self.function, "place": self.place, "equations": equations, "terms": finite(self.terms)}


def finite(terms: Mapping[str, Value]) -> dict[str, Value | None]:
    """Return terms as JSON can hold them: null for what has no end."""
    return {name: each if np.isfinite(each).all() else None for name, each in terms.items()}


@contextmanager
def traced() -> Iterator[list[Call]]:
    """Note the calls, in what runs within, of functions that state equations, in the order of their ends."""
    calls: list[Call] = []
    functions, number, frames = declared(), itertools.count(), list[int]()

    def note(frame: FrameType, event: str, result: Any) -> None:
        if event == "call":
            frames.append(next(number))
        elif event == "return" and frames:  # without frames: of what began before
            if frame.f_code in functions:
                calls.append(Call(functions[frame.f_code], dict(frame.f_locals), result, tuple(frames)))
            frames.pop()

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


class Chain:
    """The equations of a run by the names that they state, and those that follow from some of them."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls, self._candidates = calls, dict[tuple[int, Any], Call]()
        self._open: list[tuple[int, Equation]] = []  # from what is asked for to what is followed now
        self._stated: dict[str, list[tuple[Call, Equation]]] = {}
        for call in reversed(calls):
            for each in call.equations:
                self._stated.setdefault(each.name, []).append((call, each))

    @property
    def names(self) -> list[str]:
        """Return what equations state, the last ones first."""
        return list(self._stated)

    def calls(self, name: str, value: Value) -> list[Call]:
        """Return the calls that state a name with a value."""
        return [call for call, _ in self._where(name, value)]

    def derivations(self, name: str, value: Value | None = None, dimension: str = "count") -> list[list[Block]]:
        """Return how a name comes to a value; several derivations add up to it, and there is none where nothing does.

        dimension: of the value, if the name does not say it.
        """
        value = self._last_read(name) if value is None else value
        known = self._where(name, value)[:1]
        if not known:
            states = [(call, each, call.stated(each)) for call, each in self._stated.get(name, [])]
            parts = {id(call): (call, each, number) for call, each, number in states if isinstance(number, float)}
            if len(parts) > 1 and _equal(math.fsum(number for _, _, number in parts.values()), value):
                known = [(call, each) for call, each, number in parts.values() if number]
        return [self._derivation([one], name, dimension) for one in known]

    def _last_read(self, name: str) -> Value | None:
        """Return the value of a name that the last equation of all reads it with, null where none does."""
        read = (
            call.value(path)
            for call in reversed(self._calls)
            for path in dict.fromkeys(path for each in call.equations for path in _names(each))
            if path.rpartition(".")[2] == name
        )
        return next((value for value in read if isinstance(value, float)), None)

    def derivation(self, asked: Sequence[tuple[str, Value]]) -> list[Block]:
        """Return how some names come to their values, no equation twice. Those that nothing states are left out."""
        known = [self._where(name, value)[:1] for name, value in asked]
        return self._derivation([pair for some in known for pair in some])

    def _derivation(
        self, known: Sequence[tuple[Call, Equation]], name: str = "", dimension: str = "count"
    ) -> list[Block]:
        """Return equations, those of what they read and so on, function by function.

        A name that an equation reads is that of another one where the last word of its path and its value are equal, of
        a list the largest. Of several that of the call that is nearest to the reader in the tree of calls. Of a
        function that a note mentions all equations follow.
        """
        chosen: _Chosen = {}
        units: dict[tuple[str, str], Units | None] = {}
        for call, each in known:
            self._follow(chosen, call, each)
            if dimension != "count":  # to the last digit, which the caller's value need not be
                units[_key(name, call.stated(each))] = units_of_kind(dimension)
        return _with_units([_block(one, some) for one, some in chosen.values()], units)

    def _follow(self, chosen: _Chosen, call: Call, equation: Equation) -> None:
        """Add an equation, and those that state what it reads."""
        equations = chosen.setdefault(id(call), (call, []))[1]
        if equation in equations:
            return
        equations.append(equation)
        self._open.append((id(call.names), equation))
        terms = call.terms(equation)
        for path in _effective(equation, terms):
            read = terms[path]
            number = max(read) if isinstance(read, list) else read
            self._look_up(chosen, path.rpartition(".")[2], number, call, equation)
        for mentioned in _MENTIONED.findall(equation.note):
            named = [each for each in self._calls if each.function.__name__ == mentioned]
            nearest = min(named, key=call.distance, default=None)
            for each in [] if nearest is None else nearest.equations:
                self._follow(chosen, nearest or call, each)
        self._open.pop()

    def _look_up(self, chosen: _Chosen, name: str, value: Value, reader: Call, equation: Equation) -> None:
        """Add the equation of a name with this value: the reader's own before others', of zero its own alone.

        What reads the equation itself, on the way to it, states nothing that is read here.
        """
        own = [(reader, each) for each in reader.equations if each.name == name and reader.at(each, value) is reader]
        stated = self._where(name, value) if value else []
        closed = [(call, each) for call, each in stated if (id(call.names), each) not in self._open]
        others = [pair for pair in closed if pair[0].names is not reader.names]
        for call, each in (*own, *sorted(others, key=lambda pair: reader.distance(pair[0]))):
            if each != equation:
                self._follow(chosen, call, each)
                return

    def _where(self, name: str, value: Value | None) -> list[tuple[Call, Equation]]:
        """Return the calls that state a name with this value, and their equation. Any value where none is asked for.

        The seconds of a `Time` are also those of its form's equation, t.
        """
        calls = []
        for call, each in (*self._stated.get(name, ()), *(self._stated.get("t", ()) if name == "seconds" else ())):
            one = call.at(each, value)
            if one is not None:
                calls.append((self._candidates.setdefault((id(call), one.candidate), one), each))
        return calls


def evaluated(text: str, terms: Mapping[str, Any]) -> Value | None:
    """Return the value of an expression in the values of its names, null where these are of grids that do not match."""
    expression = _read(text)
    numbers = {name: np.asarray(value, dtype=np.float64) for name, value in terms.items()}
    if len({numbers[name].shape for name in expression.names if numbers[name].size > 1}) > 1:
        return None
    return _as_value(expression.value(numbers))


def _effective(equation: Equation, terms: Mapping[str, Value]) -> list[str]:
    """Return the names whose values have an effect: not those of the branch that a condition leaves, nor times zero."""
    names: list[str] = []

    def visit(node: ast.expr) -> None:
        match node:
            case ast.Name() | ast.Attribute():
                names.append(ast.unparse(node))
            case ast.Call(func=ast.Name(id="where"), args=[condition, yes, no]):
                visit(condition)
                held = value(condition)
                for branch in [yes, no] if isinstance(held, list) else [yes if held else no]:
                    visit(branch)
            case ast.BinOp(op=ast.Mult()) if 0.0 in (factors := (value(node.left), value(node.right))):
                visit(node.left if factors[0] == 0.0 else node.right)
            case _:
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.expr):
                        visit(part)

    def value(node: ast.expr) -> Value | None:
        return evaluated(ast.unparse(node), terms)

    if equation.expression:
        visit(ast.parse(equation.expression, mode="eval").body)
    return [name for name in dict.fromkeys(names) if name in terms]


def _block(call: Call, equations: Sequence[Equation]) -> Block:
    lines = []
    for each in equations:
        terms, value = call.terms(each), call.stated(each)
        assert value is not None, "an equation that holds has a value"
        units = {name: call.units(name) for name in terms}
        units[each.name] = call.units(each.name, is_stated=True)
        lines.append(Line(each, value, terms, units))
    return Block(call.function.__qualname__, place_of(call.function), tuple(lines))


def _key(path: str, value: Value | None) -> tuple[str, str]:
    """Return what is one thing wherever it is read: the last word of its name, with its value."""
    return path.rpartition(".")[2], str(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _with_units(blocks: Sequence[Block], known: dict[tuple[str, str], Units | None]) -> list[Block]:
    """Return blocks in which a name of one value has one unit, which follows from the equations where it can."""
    lines = [line for block in blocks for line in block.lines]

    def key(line: Line, path: str) -> tuple[str, str]:
        return _key(path, line.value if path == line.equation.name else line.terms[path])

    for line in lines:
        known |= {key(line, path): each for path, each in line.units.items() if each is not None}
    before = -1
    while before != len(known):
        before = len(known)
        for line in lines:
            if line.equation.expression:
                units = {path: known.get(key(line, path)) for path in line.units}
                learnt = inferred(line.equation.expression, line.holds_in, units)
                known |= {key(line, path): each for path, each in learnt.items()}
    return [
        replace(block, lines=tuple(
            replace(line, units={path: known.get(key(line, path)) for path in line.units}) for line in block.lines
        ))
        for block in blocks
    ]  # fmt: skip


def _names(equation: Equation) -> tuple[str, ...]:
    return _read(equation.expression).names if equation.expression else ()


@cache
def _read(text: str) -> Expression:
    """Return an expression of an equation, whatever the names that it reads. Its parts may be conditions."""
    is_condition = isinstance(ast.parse(text, mode="eval").body, ast.Compare)
    return read_expression(text, _EVERY_NAME, _PLACE, condition=is_condition, lists=True)


class _EveryName(list[str]):
    """Names of which none is unknown."""

    def __contains__(self, name: object) -> bool:
        return True


_EVERY_NAME = _EveryName()


def _parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def _has(holder: Any, name: str) -> bool:
    if isinstance(holder, Mapping):
        return name in holder or name.replace("_", " ") in holder
    return hasattr(holder, name)


def _member(holder: Any, name: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name, holder.get(name.replace("_", " ")))
    return getattr(holder, name, None)


def _annotation(holder: Any, name: str) -> Any:
    """Return the type that a field or a property of a record is declared with, of a form's number its declaration."""
    declared_here = getattr(holder, "declared", {}) if isinstance(holder, DeclaredRecord) else {}
    if name in declared_here:
        return declared_here[name].kind
    for kind in type(holder).__mro__:
        declaration = vars(kind).get(name)
        if isinstance(declaration, property) and declaration.fget is not None:
            return declaration.fget.__annotations__.get("return")
        if name in vars(kind).get("__annotations__", {}):
            return vars(kind)["__annotations__"][name]
    return None


def _as_value(member: Any) -> Value | None:
    """Return a number, or the numbers of a list; null for what is neither."""
    if member is None or isinstance(member, str | Mapping) or is_record(member) or callable(member):
        return None
    if isinstance(member, list | tuple):
        values = [_as_value(each) for each in member]
        flat = [each for each in values if isinstance(each, float)]
        return flat if flat and len(flat) == len(values) else None
    try:
        array = np.asarray(member, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return float(array.item()) if array.size == 1 else array.reshape(-1).tolist()


def _equal(value: Value | None, other: Value | None) -> bool:
    """Tell whether two values are the same but for rounding; any is where none is known."""
    if value is None or other is None:
        return other is None
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-9) or (math.isnan(value) and math.isnan(other))
    return np.shape(value) == np.shape(other) and bool(np.allclose(value, other, rtol=1e-9, atol=0.0, equal_nan=True))
