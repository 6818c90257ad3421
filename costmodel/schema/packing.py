"""Records as bytes and back: what they hold and no code, so that bytes of any origin can do no harm.

The bytes are a msgpack array of three:
- classes: module, name and fields of each,
- leaves: numbers, texts, nulls,
- nodes: a class or a kind of container, and the places of what it holds among the leaves and the nodes before it.

The last node holds the whole. What was one object is one object again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Literal

import msgspec
import numpy as np

from costmodel.records import fields, is_record

_LEAVES = (type(None), bool, int, float, str, bytes)
_PACKAGE = "costmodel."


class UnpackableError(ValueError):
    """What is to be packed holds more than data, or bytes are not those of records of this program."""


def pack(thing: object) -> bytes:
    """Return a thing as bytes; raise UnpackableError where it holds functions or objects of other programs."""
    packer = _Packer()
    packer.add((thing,))
    count = len(packer.leaves)
    nodes = [[kind, *(index if index >= 0 else count + ~index for index in places)] for kind, places in packer.nodes]
    return msgspec.msgpack.encode((list(packer.classes), list(packer.leaves.values()), nodes))


def unpack(data: bytes) -> Any:
    """Return the thing that bytes were made of; raise UnpackableError where its classes are others today."""
    try:
        classes, known, nodes = msgspec.msgpack.decode(data, type=tuple[list[list[str]], list[Any], list[list[int]]])
        makers = (*_CONTAINERS.values(), *(_maker(*each) for each in classes))
        for kind, *places in nodes:
            known.append(makers[kind]([known[index] for index in places]))
        return known[-1][0]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise UnpackableError(str(error)) from None


class _Packer:
    """Gives every leaf a place from zero on, and every node one from -1 down."""

    def __init__(self) -> None:
        self.classes: dict[tuple[str, ...], int] = {}
        self.leaves: dict[tuple[type, str], Any] = {}
        self.nodes: list[tuple[int, list[int]]] = []
        self._places: dict[tuple[type, str], int] = {}
        self._known: dict[int, tuple[int, Any]] = {}  # objects are kept, so that no other one takes the same number

    def add(self, thing: Any) -> int:
        """Return the number of a thing, which is added unless it is there."""
        if type(thing) in _LEAVES:
            key = (type(thing), repr(thing))  # 1, 1.0 and True are equal, 0.0 and -0.0 as well
            self.leaves.setdefault(key, thing)
            return self._places.setdefault(key, len(self._places))
        if id(thing) not in self._known:
            kind, parts = self._parts(thing)
            self.nodes.append((kind, [self.add(part) for part in parts]))
            self._known[id(thing)] = ~(len(self.nodes) - 1), thing
        return self._known[id(thing)][0]

    def _parts(self, thing: Any) -> tuple[int, Iterable[Any]]:
        """Return the number of a thing's kind, and what it holds."""
        own = type(thing)
        if is_record(thing):
            names = fields(thing)
            index = self.classes.setdefault((own.__module__, own.__qualname__, *names), len(self.classes))
            return len(_CONTAINERS) + index, [getattr(thing, name) for name in names]
        if own is dict:
            return _KINDS[dict], [part for item in thing.items() for part in item]
        if own in (tuple, list, frozenset, set):
            return _KINDS[own], thing
        if isinstance(thing, np.ndarray | np.generic) and thing.dtype.kind in "biuf":
            array = np.asarray(thing)
            order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
            return _KINDS[np.ndarray if own is np.ndarray else np.generic], (
                array.dtype.str, order, array.tobytes(order), *array.shape
            )  # fmt: skip
        raise UnpackableError(f"{own.__module__}.{own.__qualname__} is no data")


def _array(parts: list[Any]) -> Any:
    kind, order, data, *shape = parts
    return np.frombuffer(data, np.dtype(kind)).reshape(shape, order=order).copy(order)


_CONTAINERS: dict[type, Callable[[list[Any]], Any]] = {
    tuple: tuple, list: list, frozenset: frozenset, set: set,
    dict: lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    np.ndarray: _array,
    np.generic: lambda parts: _array(parts)[()],
}  # fmt: skip
_KINDS = {kind: number for number, kind in enumerate(_CONTAINERS)}


def _maker(module: str, name: str, *names: str) -> Callable[[list[Any]], Any]:
    """Return what makes a record of its fields; raise UnpackableError where there is no such class of ours."""
    made = getattr(import_module(module), name) if module.startswith(_PACKAGE) else None
    if not (isinstance(made, type) and issubclass(made, msgspec.Struct) and fields(made) == names):
        raise UnpackableError(f"{module}.{name} has other fields, or is no record of ours")
    return lambda values: made(**dict(zip(names, values, strict=True)))
