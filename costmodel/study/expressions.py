"""Constraints, objectives and derived metrics: arithmetic over metrics, read by a whitelist and never run as code.

`tpot <= 50 ms`, `fits and mfu >= 40 %`, `1 / (cost_per_million_tokens * tpot)`. A quantity is written with its unit and
becomes its SI value. Names are metrics, derived metrics, `devices`, `fits` and paths of axes.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.errors import InputError, Location, suggest
from costmodel.quantities import Quantity
from costmodel.records import Record
from costmodel.schema.metrics import dimension_of
from costmodel.units import DIMENSIONS, example_unit, parse, spellings

_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_COMPARED: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "min": (2, np.minimum), "max": (2, np.maximum), "abs": (1, np.abs), "sqrt": (1, np.sqrt), "log": (1, np.log),
    "exp": (1, np.exp), "floor": (1, np.floor), "ceil": (1, np.ceil),
}  # fmt: skip
_OF_LISTS: dict[str, tuple[int, Callable[..., Any]]] = {
    "sum": (1, np.sum), "largest": (1, np.max), "where": (3, np.where), "log2": (1, np.log2),
}  # fmt: skip
_ALL = _FUNCTIONS | _OF_LISTS
_QUANTITY = re.compile(r"(?<![\w.])(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(%|\$/h|[A-Za-zµμ$][\w/$]*)")
_WORDS = ("and", "or", "not", "if", "else", "in", "is")  # may follow a number without being its unit
_LONGEST = 1000  # characters of one expression
_DEEPEST = 50  # parentheses within another
_HIGHEST = 200  # operators within another: evaluation goes as deep


class Expression(Record):
    """A formula that was checked. names: what it reads."""

    text: str
    names: tuple[str, ...]
    _tree: ast.expr
    _quantities: Mapping[str, float]

    def value(self, names: Mapping[str, Any]) -> Any:
        """Return the value: numbers and arrays broadcast, NaN where one of its names is."""
        with np.errstate(all="ignore"):
            return _value(self._tree, {**names, **self._quantities})

    @property
    def limited(self) -> tuple[str | None, float]:
        """Return the name that a condition alone holds against a number, null in any other, and 1 for an upper limit,
        -1 for a lower one."""
        match self._tree:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if _dotted(left) in self.names:
                is_number = isinstance(right, ast.Constant) or _dotted(right) in self._quantities
                return (_dotted(left) if is_number else None), 1.0 if isinstance(op, ast.Lt | ast.LtE) else -1.0
        return None, 0.0


def read_expression(
    text: str, known: Collection[str], location: Location, *, condition: bool = False, lists: bool = False
) -> Expression:
    """Return the formula of a text. known: names that it may use; condition: it has to be true or false.

    lists: names may stand for several values, which `sum` and `largest` make one.

    Raises InputError on what is no formula, on an unknown name or unit, and where a bound has another dimension.
    """
    if len(text) > _LONGEST or text.count("(") > _DEEPEST:
        raise _wrong(text[:40] + "…", location, "is too long", "write a shorter formula")
    quantities: dict[str, tuple[float, str | None]] = {}
    try:
        tree = ast.parse(_named(text, quantities, location).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _wrong(text, location, "is no formula", "write one such as `tpot <= 50 ms`") from None
    if _depth(tree) > _HIGHEST:
        raise _wrong(text[:40] + "…", location, "is nested too deeply", "write a shorter formula")
    names = tuple(dict.fromkeys(_names(tree, text, location, quantities)))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if not lists and called & _OF_LISTS.keys():
        unknown = min(called & _OF_LISTS.keys())
        raise _wrong(text, location, f"`{unknown}` is not allowed", f"use {', '.join(_FUNCTIONS)}")
    for name in names:
        if name not in known:
            raise _wrong(text, location, f"{name!r} is no metric of this study", suggest(name, list(known)))
    if condition != _is_condition(tree):
        hint = "write one such as `tpot <= 50 ms`" if condition else "write a number, without a comparison"
        raise _wrong(text, location, "is no condition" if condition else "is a condition", hint)
    _check_dimensions(tree, text, location, quantities)
    return Expression(text, names, tree, {name: value for name, (value, _) in quantities.items()})


def _depth(tree: ast.AST) -> int:
    """Return how deep a formula is nested, level by level: one that is too deep cannot be walked."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _named(text: str, quantities: dict[str, tuple[float, str | None]], location: Location) -> str:
    """Return the text with every quantity as a name, which `quantities` then explains in SI and with its dimension."""

    def name(match: re.Match[str]) -> str:
        number, unit = match.groups()
        if unit in _WORDS:
            return match[0]
        for dimension in DIMENSIONS:
            if unit in spellings(dimension):
                key = f"_quantity_{len(quantities)}"
                quantities[key] = parse(f"{number} {unit}", dimension), dimension
                return key
        raise _wrong(text, location, f"{unit!r} is no unit", "write one such as ms, GB/s or %, and `*` between factors")

    return _QUANTITY.sub(name, text)


def _names(
    node: ast.AST, text: str, location: Location, quantities: dict[str, tuple[float, str | None]]
) -> Iterator[str]:
    """Yield the names that a formula reads. Raises InputError on what is not allowed in one."""
    match node:
        case ast.Constant(value=bool() as switch):
            raise _wrong(text, location, f"{switch} is no number", "leave it out")
        case ast.Constant(value=int() | float() as number) if abs(number) < 1e300:
            return
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            if name is None:
                raise _wrong(text, location, f"{ast.unparse(node)} is not allowed", "use names, numbers and + - * / **")
            if name not in quantities:
                yield name
        case _:
            parts = _operands(node)
            if parts is None:
                hint = f"use names, numbers, + - * / **, < <= > >=, and, or, not, and {', '.join(_FUNCTIONS)}"
                raise _wrong(text, location, f"`{ast.unparse(node)}` is not allowed", hint)
            yield from (name for part in parts for name in _names(part, text, location, quantities))


def _operands(node: ast.AST) -> Sequence[ast.expr] | None:
    """Return what an operator or a function is applied to, null where it is not allowed in a formula."""
    match node:
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return node.left, node.right
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            return (node.operand,)
        case ast.BoolOp():
            return node.values
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            return node.left, node.comparators[0]
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in _ALL:
            number = len(node.args)
            several = called in ("min", "max") and number > 2
            return node.args if several or number == _ALL[called][0] else None
    return None


def _dotted(node: ast.AST) -> str | None:
    """Return a name or a path of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _is_condition(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Compare | ast.BoolOp)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
        or (isinstance(node, ast.Name) and node.id == "fits")
    )


def _check_dimensions(
    tree: ast.AST, text: str, location: Location, quantities: Mapping[str, tuple[float, str | None]]
) -> None:
    """Raise InputError where a metric is held against a quantity of another dimension, or against a bare number."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
            name = _dotted(one)
            expected = None if name is None else dimension_of(name)
            if name is None or expected is None:
                continue
            bare = isinstance(other, ast.Constant)
            dimension = "count" if bare else (quantities.get(_dotted(other) or "") or (0.0, None))[1]
            if dimension is None or dimension == expected or {dimension, expected} in _ALIKE:
                continue
            example = example_unit(expected)
            message = f"{name} is a {expected.replace('_', ' ')}, {ast.unparse(other) if bare else 'its bound'} is none"
            raise _wrong(
                text, location, message, f"write the bound with a unit such as {example}" if example else "no unit"
            )


_ALIKE = ({"time", "duration"}, {"count", "ratio"})


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp():
            return _ARITHMETIC[type(node.op)](_number(node.left, names), _number(node.right, names))
        case ast.UnaryOp(op=ast.Not()):
            return np.logical_not(_value(node.operand, names))
        case ast.UnaryOp():
            return -_number(node.operand, names)
        case ast.BoolOp():
            parts = [_value(part, names) for part in node.values]
            return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(
                np.broadcast_arrays(*parts)
            )
        case ast.Compare():
            return _COMPARED[type(node.ops[0])](_value(node.left, names), _value(node.comparators[0], names))
        case ast.Call(func=ast.Name(id=called)):
            parts = [_value(part, names) for part in node.args]
            function = _ALL[called][1]
            return functools.reduce(function, parts) if called in ("min", "max") else function(*parts)
    name = _dotted(node)
    assert name is not None, "the whitelist lets only names through"
    return names[name]


def _number(node: ast.AST, names: Mapping[str, Any]) -> Quantity:
    """Return a value for arithmetic: as numpy's number, so that a division by zero is infinite and no error."""
    return np.asarray(_value(node, names), dtype=np.float64)


def _wrong(text: str, location: Location, message: str, hint: str) -> InputError:
    return InputError.single(message, hint=hint, field=text, location=location)
