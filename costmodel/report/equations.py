"""Equations of a run: which functions that state some were called, with which values, and how they follow one another.

Values are those of the run itself: local variables when a function returns, and what it returns.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, TypeAlias

import numpy as np

from costmodel.cost.terms import dimension_of
from costmodel.equations import Equation, declared, equations_of, place_of
from costmodel.errors import Location
from costmodel.records import Record, is_record, replace
from costmodel.schema import metrics
from costmodel.study.expressions import Expression, read_expression

Value: TypeAlias = "float | list[float]"
_DIMENSIONS = {
    "Seconds": "time", "Bytes": "size", "BytesPerSecond": "bandwidth", "Flop": "flop", "FlopPerSecond": "flop_rate",
    "Joules": "energy", "Watts": "power", "Dollars": "money", "DollarsPerSecond": "money_rate", "Count": "count",
}  # fmt: skip
_Chosen: TypeAlias = "dict[int, tuple[Call, list[Equation]]]"  # calls by identity, and which of their equations
_MENTIONED = re.compile(r"`(\w+)`")
_PLACE = Location("equation", None)


class Call(Record):
    """One call of a function that states equations.

    names: its local variables when it returned `result`.
    candidate: of several whose values are arrays, the place of the one that is meant, and how many there are.
    """

    function: Callable[..., Any]
    names: Mapping[str, Any]
    result: Any
    candidate: tuple[int, int] | None = None

    def equations(self) -> list[Equation]:
        """Return the equations of the function that hold in this call: those of which it has all values."""
        return [each for each in equations_of(self.function) if self._holds(each)]

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

    def dimension(self, path: str, *, is_stated: bool = False) -> str:
        """Return the dimension of a name: as its type says, else as the name does."""
        first, *rest = path.split(".")
        kind, holder = self.function.__annotations__.get(first), self._find(first)
        for name in rest:
            holder = holder[0] if isinstance(holder, list) and holder else holder
            kind, holder = _annotation(holder, name), getattr(holder, name, None)
        if kind is None and first not in self.names:
            records = [self.names.get("self"), *_parts(self.result)]
            kind = next((_annotation(part, first) for part in records if hasattr(part, first)), None)
            kind = kind or (self.function.__annotations__.get("return") if is_stated else None)
        words = set(re.findall(r"\w+", str(kind))) - {"tuple", "None"}
        return (_DIMENSIONS.get(words.pop()) if len(words) == 1 else None) or _by_name(path.rpartition(".")[2])

    def _holds(self, equation: Equation) -> bool:
        return self.stated(equation) is not None and len(self.terms(equation)) == len(_names(equation))

    def _find(self, path: str, *, last: bool = False) -> Any:
        """Return what a path leads to. last: of what is stated, which a local variable may share its name with."""
        first, *rest = path.split(".")
        results, own = _parts(self.result), self.names.get("self")
        stated = [*(part for part in results if isinstance(part, Mapping)), *(filter(is_record, results))]
        holders = [*stated, self.names] if last else [self.names, *([] if own is None else [own]), *stated]
        member = next((_member(holder, first) for holder in holders if _has(holder, first)), None)
        if member is None and not last:
            member = self.function.__globals__.get(first)
        for name in rest:
            several = isinstance(member, list | tuple) and not hasattr(member, name)
            member = [_member(each, name) for each in member or ()] if several else _member(member, name)
        return member


class Line(Record):
    """An equation with the values of its name and of what it reads, each with its dimension."""

    equation: Equation
    value: Value
    terms: Mapping[str, Value]
    dimensions: Mapping[str, str]

    @property
    def dimension(self) -> str:
        """Return the dimension of what it states."""
        return self.dimensions[self.equation.name]


class Block(Record):
    """Equations of one function. function: its name; place: file and line."""

    function: str
    place: str
    lines: tuple[Line, ...]

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
    functions = declared()

    def note(frame: FrameType, event: str, result: Any) -> None:
        if event == "return" and frame.f_code in functions:
            calls.append(Call(functions[frame.f_code], dict(frame.f_locals), result))

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
        self._stated: dict[str, list[tuple[Call, Equation]]] = {}
        for call in reversed(calls):
            for each in call.equations():
                self._stated.setdefault(each.name, []).append((call, each))

    @property
    def names(self) -> list[str]:
        """Return what equations state, the last ones first."""
        return list(self._stated)

    def derivations(self, name: str, value: Value | None = None, dimension: str = "count") -> list[list[Block]]:
        """Return how a name comes to a value: its equation, those of what it reads and so on, function by function.

        A name that an equation reads is that of another one where the last word of its path and its value are equal, of
        a list the largest. Of a function that a note mentions all equations follow. Several derivations add up to the
        value; none is returned where nothing does. dimension: of the value, if the name does not say it.
        """
        states = [(call, each, call.stated(each)) for call, each in self._stated.get(name, [])]
        known = [(call, each, value) for call, each in self._where(name, value)][:1]
        if not known:
            parts = {id(call): (call, each, number) for call, each, number in states if isinstance(number, float)}
            if len(parts) > 1 and _equal(math.fsum(number for _, _, number in parts.values()), value):
                known = [part for part in parts.values() if part[2]]
        derivations = []
        for call, each, _ in known:
            chosen: _Chosen = {}
            self._follow(chosen, call, each)
            blocks = [_block(one, some) for one, some in chosen.values()]
            stated = _key(name, call.stated(each))  # to the last digit, which the caller's value need not be
            derivations.append(_with_dimensions(blocks, {} if dimension == "count" else {stated: dimension}))
        return derivations

    def _follow(self, chosen: _Chosen, call: Call, equation: Equation) -> None:
        """Add an equation, and those that state what it reads."""
        equations = chosen.setdefault(id(call), (call, []))[1]
        if equation in equations:
            return
        equations.append(equation)
        for path, read in call.terms(equation).items():
            self._look_up(chosen, path.rpartition(".")[2], max(read) if isinstance(read, list) else read, call)
        for mentioned in _MENTIONED.findall(equation.note):
            last = next((each for each in reversed(self._calls) if each.function.__name__ == mentioned), None)
            for each in [] if last is None else last.equations():
                self._follow(chosen, last or call, each)

    def _look_up(self, chosen: _Chosen, name: str, value: Value, reader: Call) -> None:
        """Add the equation of a name with this value: the reader's own before others', of zero its own alone."""
        own = [(reader, each) for each in reader.equations() if each.name == name and reader.at(each, value) is reader]
        others = [pair for pair in self._where(name, value) if pair[0].names is not reader.names] if value else []
        for call, each in (*own, *others):
            if each not in chosen.get(id(call), (call, []))[1]:
                self._follow(chosen, call, each)
                return

    def _where(self, name: str, value: Value | None) -> list[tuple[Call, Equation]]:
        """Return the calls that state a name with this value, and their equation. Any value where none is asked for."""
        calls = []
        for call, each in self._stated.get(name, []):
            one = call.at(each, value)
            if one is not None:
                calls.append((self._candidates.setdefault((id(call), one.candidate), one), each))
        return calls


def composed(function: Callable[..., Any], expression: str, time: Value, terms: Mapping[str, Value]) -> Block:
    """Return an equation of a time that a function puts together. terms: of which it reads some."""
    equation = Equation("time", expression, "")
    read = {name: terms[name] for name in _names(equation)}
    dimensions = {"time": "time", **{name: _by_name(name) for name in read}}
    return Block(function.__qualname__, place_of(function), (Line(equation, time, read, dimensions),))


def evaluated(text: str, terms: Mapping[str, Any]) -> Value | None:
    """Return the value of an expression in the values of its names."""
    numbers = {name: np.asarray(value, dtype=np.float64) for name, value in terms.items()}
    return _as_value(_read(text).value(numbers))


@cache
def _read(text: str) -> Expression:
    """Return an expression of the code, in which no name is unknown."""
    return read_expression(text, _EVERY_NAME, _PLACE, lists=True)


def _block(call: Call, equations: Sequence[Equation]) -> Block:
    lines = []
    for each in equations:
        terms, value = call.terms(each), call.stated(each)
        assert value is not None, "an equation that holds has a value"
        dimensions = {name: call.dimension(name) for name in terms}
        dimensions[each.name] = call.dimension(each.name, is_stated=True)
        lines.append(Line(each, value, terms, dimensions))
    return Block(call.function.__qualname__, place_of(call.function), tuple(lines))


def _key(path: str, value: Value | None) -> tuple[str, str]:
    """Return what is one thing wherever it is read: the last word of its name, with its value."""
    return path.rpartition(".")[2], str(value)


def _with_dimensions(blocks: Sequence[Block], known: dict[tuple[str, str], str]) -> list[Block]:
    """Return blocks in which what is added up or compared has one dimension, wherever one of it is known."""
    lines = [line for block in blocks for line in block.lines]

    def key(line: Line, path: str) -> tuple[str, str]:
        return _key(path, line.value if path == line.equation.name else line.terms[path])

    for line in lines:
        known |= {key(line, path): each for path, each in line.dimensions.items() if each != "count"}
    for _ in lines:
        for line in lines:
            equal = [key(line, path) for path in (line.equation.name, *_added(line.equation))]
            dimension = next((known[each] for each in equal if each in known), None)
            known |= dict.fromkeys(equal, dimension) if dimension else {}
    return [
        replace(block, lines=tuple(
            replace(line, dimensions={path: known.get(key(line, path), "count") for path in line.dimensions})
            for line in block.lines
        ))
        for block in blocks
    ]  # fmt: skip


def _added(equation: Equation) -> list[str]:
    """Return the names whose values an equation adds up or compares, so that all have its dimension."""
    names: list[str] = []

    def visit(node: ast.expr) -> None:
        match node:
            case ast.Name() | ast.Attribute():
                names.append(ast.unparse(node))
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                visit(node.left)
                visit(node.right)
            case ast.BinOp(left=ast.Constant(), op=ast.Mult()):
                visit(node.right)
            case ast.Call(func=ast.Name(id="min" | "max" | "sum" | "largest")):
                for each in node.args:
                    visit(each)
            case ast.Call(func=ast.Name(id="where")):
                for each in node.args[1:]:
                    visit(each)

    if equation.expression:
        visit(ast.parse(equation.expression, mode="eval").body)
    return names


def _names(equation: Equation) -> tuple[str, ...]:
    """Return the names that an equation reads."""
    return _read(equation.expression).names if equation.expression else ()


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
    """Return the type that a field or a property of a record is declared with."""
    for kind in type(holder).__mro__:
        declaration = vars(kind).get(name)
        if isinstance(declaration, property) and declaration.fget is not None:
            return declaration.fget.__annotations__.get("return")
        if name in vars(kind).get("__annotations__", {}):
            return vars(kind)["__annotations__"][name]
    return None


def _by_name(name: str) -> str:
    return metrics.dimension_of(name) or dimension_of(name)


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
