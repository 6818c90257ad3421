"""Keys of operators that take the same time: equal in all but their name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any

import numpy as np

from costmodel.quantities import ArrayKey
from costmodel.records import fields
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    Group,
    HostGemm,
    HostTime,
    HostTransfer,
    HostUpdate,
    MixedAttention,
    Operator,
)


def operator_key(operator: Operator) -> Hashable:
    """Return all that an operator's time depends on: every field but its name."""
    return _key(operator)


def _key(whole: Any) -> Hashable:
    """Return an operator, or a field of one, as a key."""
    kind = type(whole)
    if kind in _READERS:
        return kind, *[part if type(part) in _PLAIN else _key(part) for part in _READERS[kind](whole)]
    if kind is tuple:
        return tuple(map(_key, whole))
    return ArrayKey(whole) if kind is np.ndarray else whole


def _reader(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Return a reader of all fields of an operator but its name."""
    return attrgetter(*(name for name in fields(kind) if name != "name"))


_PLAIN = {float, int, str, bool, type(None)}
_READERS = {
    kind: _reader(kind)
    for kind in (
        Gemm, AttentionKernel, MixedAttention, Elementwise, Group, Collective, ExpertAllToAll, HostTransfer, HostUpdate,
        HostGemm, HostTime,
    )
}  # fmt: skip
