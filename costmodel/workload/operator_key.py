"""Keys of operators: of those that take the same time, and of those that differ in numbers only."""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter
from typing import Any

import numpy as np

from costmodel.quantities import ArrayKey, Quantity
from costmodel.records import Struct, fields
from costmodel.workload import operators as ops


def operator_key(whole: Any) -> Hashable:
    """Return all that the time of an operator, or of a field of one, depends on: every field but its name."""
    kind = type(whole)
    if kind in _READERS:
        parts = _READERS[kind](whole)
        if _PLAIN.issuperset(map(type, parts)):
            return kind, *parts
        return kind, *[part if type(part) in _PLAIN else operator_key(part) for part in parts]
    if kind is tuple:
        return tuple(map(operator_key, whole))
    return ArrayKey(whole) if kind is np.ndarray else whole


def form_key(operator: ops.Operator) -> Hashable:
    """Return what operators have in common that differ in numbers only, so that arrays of these stand for all.

    A number that is the default, such as one call, is not one of these: it often means that a term is absent.
    """
    kind = type(operator)
    defaults = _DEFAULTS[kind]
    return kind, *[
        (... if number == default else float) if type(number) is float else _shape(number)
        for number, default in zip(_READERS[kind](operator), defaults, strict=True)
    ]


def _shape(part: Any) -> Hashable:
    """Return the shape of an array, any other thing as a key."""
    if type(part) in _PLAIN:
        return part  # type: ignore[no-any-return]
    return part.shape if type(part) is np.ndarray else operator_key(part)


def numbers(operator: ops.Operator) -> dict[str, Quantity]:
    """Return the fields of an operator that hold numbers or arrays."""
    values = {name: getattr(operator, name) for name in fields(operator)}
    return {name: value for name, value in values.items() if type(value) in (float, np.ndarray)}


def _defaults(kind: type[Struct]) -> dict[str, object]:
    """Return the default of every field, null where it has none."""
    names, values = kind.__struct_fields__, kind.__struct_defaults__
    return dict.fromkeys(names) | dict(zip(names[len(names) - len(values) :], values, strict=True))


_PLAIN = {float, int, str, bool, type(None)}
_READERS = {
    kind: attrgetter(*(name for name in fields(kind) if name != "name"))
    for kind in (
        ops.Gemm, ops.AttentionKernel, ops.MixedAttention, ops.Elementwise, ops.Group, ops.Collective,
        ops.ExpertAllToAll, ops.HostTransfer, ops.HostUpdate, ops.HostGemm, ops.HostTime,
    )
}  # fmt: skip
_DEFAULTS = {kind: tuple(value for name, value in _defaults(kind).items() if name != "name") for kind in _READERS}
