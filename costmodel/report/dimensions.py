"""Units of what equations state and read: as types and declarations say, and as they follow from the equations.

An equation holds in any system of units. So what has no declared unit has the one in which the equation still holds
where seconds, bytes, FLOP, joules and dollars are as many times as large.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from costmodel import declared
from costmodel.cost.parameter import Constant, Parameter
from costmodel.cost.time import dimension_of as dimension_of_term
from costmodel.schema import metrics

Units: TypeAlias = str  # such as `B/s`, `1` of what is counted
_DIMENSIONS = {
    "time": "s", "size": "B", "bandwidth": "B/s", "flop": "FLOP", "flop_rate": "FLOP/s", "energy": "J",
    "power": "J/s", "money": "$", "money_rate": "$/s", "rate": "1/s", "count": "1",
}  # fmt: skip
_OTHERS = {"duration": "s", "ratio": "1", "frequency": "1/s"}  # dimensions with the units of another one
_TYPES = {
    "Seconds": "s", "Bytes": "B", "BytesPerSecond": "B/s", "Flop": "FLOP", "FlopPerSecond": "FLOP/s", "Joules": "J",
    "Watts": "J/s", "Dollars": "$", "DollarsPerSecond": "$/s", "Hertz": "1/s",
    "PerSecond": "1/s", "Count": "1",
}  # fmt: skip
_SCALES = {"s": 1.37, "B": 2.11, "FLOP": 1.73, "J": 3.17, "$": 1.61}
_COUNTED = ("count", "counts", "runs", "calls", "repeats", "ratio", "share")
_EXPONENTS = re.compile(r"\*\* ?\(?(?:1 / )?([A-Za-z_][\w.]*)")
_POINTS, _ZEROS = 12, 0.15  # at which an equation is tried, and share of zeros among counts: most branches are taken


def units_of_kind(kind: Any) -> Units | None:
    """Return the units of a declared number, of a type or of a dimension, null where it has none of its own."""
    if isinstance(kind, Parameter | Constant):  # what is no base unit, such as a cycle, is counted
        over, *under = (unit.replace("bytes", "B") for unit in kind.unit.split("/"))
        known = [over if over in _SCALES else "1", *(unit for unit in under if unit in _SCALES)]
        return "/".join(known) if kind.unit else None
    text = str(kind).removeprefix("Annotated[").partition(",")[0] if str(kind).startswith("Annotated") else str(kind)
    words = set(re.findall(r"\w+", text)) - {"tuple", "None"}
    word = words.pop() if len(words) == 1 else ""
    measures = [
        each for each in getattr(getattr(declared, word, None), "__metadata__", ()) if hasattr(each, "dimension")
    ]
    return (_TYPES | _DIMENSIONS | _OTHERS).get(measures[0].dimension if measures else word)


def units_of_name(name: str) -> Units | None:
    """Return the units that a name itself says, null where it says none."""
    is_constant, name, stated = name.isupper(), name.lower(), metrics.unit_of(name).split("/")
    if name in _COUNTED or name.startswith("seconds"):
        return "s" if name.startswith("seconds") else "1"
    if len(stated) == 2:  # `token/s`; of `token/day` a number
        over = stated[0] if stated[0] in _SCALES else "1"
        return f"{over}/s" if stated[1] == "s" else over
    dimension = metrics.dimension_of(name) or dimension_of_term(name)
    return units_of_kind(dimension) if dimension != "count" or is_constant or metrics.dimension_of(name) else None


def dimension_of(name: str, units: Units | None) -> str:
    """Return the dimension of a name that has some units, a count where none is known."""
    own = metrics.dimension_of(name)
    if own is not None and units in (None, units_of_kind(own)):
        return own
    if units == "1/s" and name.endswith(("clock", "frequency")):
        return "frequency"
    return next((each for each, text in _DIMENSIONS.items() if text == units), "count")


def inferred(
    text: str, holds: Callable[[Mapping[str, Units]], bool], units: Mapping[str, Units | None]
) -> dict[str, Units]:  # fmt: skip
    """Return the units of the names that have none where one fits, the same of several names that are not counted.

    text: of the expression.
    holds: whether the equation does in any system of units where its names have some.
    """
    units = {**units, **dict.fromkeys(_EXPONENTS.findall(text), "1")}
    unknown = [name for name, each in units.items() if each is None]
    known = {name: each for name, each in units.items() if each is not None}
    few = len(unknown) == 1 or bool(set(known.values()) - {"1"})
    tried = [each for each in _DIMENSIONS.values() if each != "1" or len(unknown) == 1] if unknown and few else []
    fitting = [each for each in tried if holds(known | dict.fromkeys(unknown, each))]
    if len(fitting) != 1:
        return {}
    assumed = dict.fromkeys(unknown, fitting[0])
    return {name: each for name, each in assumed.items() if not holds(known | assumed | {name: f"{each}/FLOP"})}


@cache  # operators of a step have few equations
def is_even(
    formula: Callable[..., Any], stated: str, units: tuple[tuple[str, Units], ...], sizes: tuple[tuple[str, int], ...]
) -> bool:
    """Tell whether an equation holds in any system of units.

    formula: gives what the equation states from what it reads.
    stated: the name of that.
    sizes: how many numbers a name that is read stands for.
    """
    draw, known = np.random.default_rng(1), dict(units)
    scales = {name: _scale(each) for name, each in units}
    for _ in range(_POINTS):
        point = {
            name: np.exp(draw.uniform(0.5, 4.0, size)) * (draw.random() > _ZEROS or known[name] != "1")
            for name, size in sizes
        }
        scaled = formula({name: scales[name] * value for name, value in point.items()})
        if not np.allclose(scaled, scales[stated] * np.asarray(formula(point)), rtol=1e-9, atol=0.0, equal_nan=True):
            return False
    return True


def _scale(units: Units) -> float:
    over, *under = units.split("/")
    return _SCALES.get(over, 1.0) / float(np.prod([_SCALES[unit] for unit in under]))
