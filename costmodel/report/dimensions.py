"""Units of what equations state and read: as types and declarations say, and as they follow from the equations."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from costmodel.cost import terms
from costmodel.cost.parameter import Constant, Parameter
from costmodel.equations import Equation
from costmodel.schema import metrics

Units: TypeAlias = "tuple[tuple[str, float], ...]"  # base unit -> exponent, in the order of the alphabet
_BASES = {"s": "s", "B": "B", "bytes": "B", "FLOP": "FLOP", "J": "J", "$": "$"}
_TEXTS = {
    "time": "s", "duration": "s", "size": "B", "bandwidth": "B/s", "flop": "FLOP", "flop_rate": "FLOP/s",
    "energy": "J", "power": "J/s", "money": "$", "money_rate": "$/s", "rate": "1/s", "frequency": "1/s",
    "count": "1", "ratio": "1",
}  # fmt: skip
_TYPES = {
    "Seconds": "s", "Bytes": "B", "BytesPerSecond": "B/s", "Flop": "FLOP", "FlopPerSecond": "FLOP/s", "Joules": "J",
    "Watts": "J/s", "Dollars": "$", "DollarsPerSecond": "$/s", "Hertz": "1/s", "Count": "1",
}  # fmt: skip
_NONE: Units = ()
_COUNTED = ("count", "counts", "runs", "calls", "repeats", "ratio", "share")


def _units(text: str) -> Units:
    """Return the units of a text such as `B/s`. What is no base unit is counted."""
    powers: dict[str, float] = {}
    over, *under = text.split("/")
    for sign, unit in ((1.0, over), *((-1.0, each) for each in under)):
        if unit in _BASES:
            powers[_BASES[unit]] = powers.get(_BASES[unit], 0.0) + sign
    return _sorted(powers)


def units_of_kind(kind: Any) -> Units | None:
    """Return the units of a declared number, of a type or of a dimension, null where it has none of its own."""
    if isinstance(kind, Parameter | Constant):
        return _units(kind.unit) if kind.unit else None
    words = set(re.findall(r"\w+", str(kind))) - {"tuple", "None"}
    word = words.pop() if len(words) == 1 else ""
    text = _TYPES.get(word) or _TEXTS.get(word)
    return None if text is None else _units(text)


def units_of_name(name: str) -> Units | None:
    """Return the units that a name itself says, null where it says none."""
    name = name.lower()
    if name in _COUNTED:
        return _NONE
    if metrics.unit_of(name) != "1":
        return _units(metrics.unit_of(name))
    dimension = metrics.dimension_of(name) or terms.dimension_of(name)
    return _units(_TEXTS[dimension]) if dimension != "count" or metrics.dimension_of(name) else None


def dimension_of(name: str, units: Units | None) -> str:
    """Return the dimension of a name that has some units, a count where none is known."""
    own = metrics.dimension_of(name)
    if own is not None and (units is None or _units(_TEXTS[own]) == units):
        return own
    if units == _units("1/s") and name.endswith(("clock", "frequency")):
        return "frequency"
    return next((each for each, text in _TEXTS.items() if units and _units(text) == units), "count")


def inferred(equation: Equation, known: Mapping[str, Units | None]) -> dict[str, Units]:
    """Return the units of names that follow from an equation and the units of its other names."""
    learnt: dict[str, Units] = {}
    if not equation.expression:
        return learnt
    tree = ast.parse(equation.expression, mode="eval").body
    own, stated = _of(tree, known), known[equation.name]
    if stated is not None:
        _demand(tree, stated, known, learnt)
    elif own is not None:
        learnt[equation.name] = own
    for part in ast.walk(tree):  # what is added to, compared with or chosen beside something that has units
        if isinstance(part, ast.expr) and _alike(part) and (units := _of(part, known)) is not None:
            _demand(part, units, known, learnt)
    return learnt


def _of(node: ast.expr, known: Mapping[str, Units | None]) -> Units | None:
    """Return the units of an expression, null where they are not known."""
    match node:
        case ast.Name() | ast.Attribute():
            return known.get(ast.unparse(node))
        case ast.BinOp(op=ast.Mult() | ast.Div() as sign):
            left, right = (_factor(part, known) for part in (node.left, node.right))
            if left is None or right is None:
                return None
            return _product(left, right, 1.0 if isinstance(sign, ast.Mult) else -1.0)
        case ast.BinOp(op=ast.Pow()):
            base, exponent = _factor(node.left, known), _number(node.right)
            return base if base is None or exponent is None else _product((), base, exponent)
        case ast.UnaryOp():
            return _of(node.operand, known)
        case ast.Compare():
            return _NONE
        case ast.Call(func=ast.Name(id="log" | "log2" | "exp")):
            return _NONE
        case ast.Call(func=ast.Name(id="sqrt")):
            base = _of(node.args[0], known)
            return None if base is None else _product((), base, 0.5)
    return next((each for part in _alike(node) if (each := _of(part, known)) is not None), None)


def _factor(node: ast.expr, known: Mapping[str, Units | None]) -> Units | None:
    """Return the units of a factor. A number has none."""
    return _NONE if isinstance(node, ast.Constant) else _of(node, known)


def _alike(node: ast.expr) -> list[ast.expr]:
    """Return the parts of an expression that have its own units: what is added up, compared or chosen from."""
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            return [node.left, node.right]
        case ast.Call(func=ast.Name(id="where")):
            return node.args[1:]
        case ast.Call(func=ast.Name(id="min" | "max" | "sum" | "largest" | "ceil" | "floor" | "abs")):
            return node.args
    return []


def _demand(node: ast.expr, units: Units, known: Mapping[str, Units | None], learnt: dict[str, Units]) -> None:
    """Learn the units of names in an expression that has some units itself."""
    match node:
        case ast.Name() | ast.Attribute():
            if known.get(ast.unparse(node)) is None:
                learnt[ast.unparse(node)] = units
        case ast.UnaryOp():
            _demand(node.operand, units, known, learnt)
        case ast.BinOp(op=ast.Mult() | ast.Div() as sign):
            left, right = (_factor(part, known) for part in (node.left, node.right))
            is_product = isinstance(sign, ast.Mult)
            if right is not None:
                _demand(node.left, _product(units, right, -1.0 if is_product else 1.0), known, learnt)
            elif left is not None:
                wanted = _product(units, left, -1.0) if is_product else _product(left, units, -1.0)
                _demand(node.right, wanted, known, learnt)
        case ast.BinOp(op=ast.Pow()):
            exponent = _number(node.right)
            _demand(node.left, units if exponent is None else _product((), units, 1.0 / exponent), known, learnt)
        case _:
            for part in _alike(node):
                _demand(part, units, known, learnt)


def _number(node: ast.expr) -> float | None:
    """Return the value of an exponent, null of the name of one, which a root of a sum of powers takes back."""
    return float(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def _product(first: Units, second: Units, exponent: float) -> Units:
    powers = dict(first)
    for unit, power in second:
        powers[unit] = powers.get(unit, 0.0) + exponent * power
    return _sorted(powers)


def _sorted(powers: Mapping[str, float]) -> Units:
    return tuple(sorted((unit, power) for unit, power in powers.items() if power))
