"""What a number is inside `costmodel`: an SI float, or a numpy array of them that broadcasts.

The aliases only carry the unit to the reader. The functions below are the element-wise ones that the
cost rooms need beyond `+ - * /`: each takes plain floats fast (a single point never pays for numpy) and
arrays by broadcasting, so that one line serves a point and a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.records import Record

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = "bool | npt.NDArray[np.bool_]"
Quantity: TypeAlias = float | Array

Count: TypeAlias = Quantity  # a number of things: tokens, ranks, processors
Seconds: TypeAlias = Quantity
Bytes: TypeAlias = Quantity
BytesPerSecond: TypeAlias = Quantity
Flop: TypeAlias = Quantity  # a multiply-add is two
FlopPerSecond: TypeAlias = Quantity
Hertz: TypeAlias = Quantity
PerSecond: TypeAlias = Quantity  # requests or tokens
Watts: TypeAlias = Quantity
Joules: TypeAlias = Quantity
Dollars: TypeAlias = Quantity
DollarsPerSecond: TypeAlias = Quantity

_SMALL = frozenset(map(float, range(1, 9)))  # exponents that take a few multiplications
_TINY = 1e-300  # what zero is taken for where a logarithm is


def maximum(first: Quantity, *others: Quantity) -> Quantity:
    """Return the element-wise largest of the arguments."""
    largest: Any = first
    for other in others:
        if isinstance(largest, np.ndarray) or isinstance(other, np.ndarray):
            largest = np.maximum(largest, other)
        elif other > largest:
            largest = other
    return largest  # type: ignore[no-any-return]


def minimum(first: Quantity, *others: Quantity) -> Quantity:
    """Return the element-wise smallest of the arguments."""
    smallest: Any = first
    for other in others:
        if isinstance(smallest, np.ndarray) or isinstance(other, np.ndarray):
            smallest = np.minimum(smallest, other)
        elif other < smallest:
            smallest = other
    return smallest  # type: ignore[no-any-return]


def sum_of(values: Iterable[Quantity]) -> Quantity:
    """Return the sum of numbers and arrays that broadcast, zero of none."""
    total: Quantity = 0.0
    for value in values:
        total = total + value
    return total


def ceil(value: Quantity) -> Quantity:
    """Return the smallest whole number not below `value`, as a float."""
    if isinstance(value, np.ndarray):
        return np.ceil(value)
    return float(math.ceil(value))


def floor(value: Quantity) -> Quantity:
    """Return the largest whole number not above `value`, as a float."""
    if isinstance(value, np.ndarray):
        return np.floor(value)
    return float(math.floor(value))


def log2(value: Quantity) -> Quantity:
    """Return the binary logarithm."""
    return np.log2(value) if isinstance(value, np.ndarray) else math.log2(value)


def log(value: Quantity) -> Quantity:
    """Return the natural logarithm."""
    return np.log(value) if isinstance(value, np.ndarray) else math.log(value)


def exp(value: Quantity) -> Quantity:
    """Return e to the power of `value`."""
    return np.exp(value) if isinstance(value, np.ndarray) else math.exp(value)


def power(value: Quantity, exponent: float) -> Quantity:
    """Return a number of zero or more to a positive power.

    numpy's own power of an array takes twice as long as by logarithms, and forty times as long as a few products.
    """
    if not isinstance(value, np.ndarray):
        return value**exponent  # type: ignore[no-any-return]
    if exponent == 0.25:
        return np.sqrt(np.sqrt(value))
    if exponent not in _SMALL:
        return np.asarray(np.exp(exponent * np.log(np.maximum(value, _TINY))))
    result = value
    for _ in range(1, int(exponent)):
        result = result * value
    return result


def hypot(first: Quantity, second: Quantity) -> Quantity:
    """Return sqrt(first^2 + second^2)."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.asarray(np.sqrt(first * first + second * second))
    return math.hypot(first, second)


def where(condition: Mask, yes: Quantity, no: Quantity) -> Quantity:
    """Return `yes` where `condition` holds and `no` elsewhere."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, yes, no)
    return yes if condition else no


def anywhere(condition: Mask | Quantity) -> bool:
    """Tell whether a condition holds, or a number is not zero, at any point."""
    return bool(condition.any() if isinstance(condition, np.ndarray) else condition)


def distinct_rows(columns: Sequence[Array]) -> tuple[Indices, Indices]:
    """Return the first position of each distinct row of equally long columns, and of each position the row's number.

    A column that follows from those before it, or is the same everywhere, is determined to be so without sorting it.
    """
    first, inverse = np.zeros(1, dtype=np.intp), np.zeros(len(columns[0]), dtype=np.intp)
    for column in columns:
        if np.array_equal(column[first][inverse], column):
            continue
        distinct, own = np.unique(column, return_inverse=True)
        _, first, inverse = np.unique(inverse * len(distinct) + own, return_index=True, return_inverse=True)
    return first, inverse


def divides(divisor: Quantity, value: Quantity) -> Mask:
    """Tell where `value` is a whole multiple of `divisor`."""
    return value % divisor == 0


def uniform_int(value: Quantity) -> int:
    """Return a count that is the same at every point as an int."""
    return int(value.flat[0]) if isinstance(value, np.ndarray) else int(value)


def is_single(value: Quantity) -> bool:
    """Tell whether `value` is one number rather than a grid."""
    return not isinstance(value, np.ndarray)


class ArrayKey(Record):
    """An array as a key: it equals another one of the same numbers, so that what follows is computed once."""

    values: Array

    def __hash__(self) -> int:
        ends = (self.values.item(0), self.values.item(-1)) if self.values.size else ()
        return hash((self.values.shape, *(end for end in ends if not math.isnan(end))))  # NaN: another hash each time

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayKey):
            return False
        return other.values is self.values or np.array_equal(other.values, self.values)


def as_key(value: Quantity) -> ArrayKey | float:
    """Return a number or an array as a key of what follows from it. `value_of` returns it again."""
    return ArrayKey(value) if isinstance(value, np.ndarray) else value


def from_key(known: ArrayKey | float) -> Quantity:
    """Return what a key stands for."""
    return known.values if isinstance(known, ArrayKey) else known
