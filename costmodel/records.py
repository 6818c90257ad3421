"""Classes of named, typed fields. They cost a tenth of what dataclasses do: a class at start, an instance at a point.

A `Record` is immutable and is what it is: two are equal where they are the same object, since fields may be arrays. A
`ValueRecord` is immutable and equal to another one with equal fields. A `MutableRecord` may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, dataclass_transform

from msgspec import Struct, StructMeta, field
from msgspec.msgpack import Encoder
from msgspec.structs import force_setattr, replace

__all__ = [
    "MutableRecord", "Record", "Struct", "ValueRecord", "asdict", "content", "field", "fields", "force_setattr",
    "is_record", "replace",
]  # fmt: skip


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
class Immutable(StructMeta):
    """The class of records and values, for type checkers: fields cannot be set."""


class Record(Struct, metaclass=Immutable, frozen=True, eq=False):
    """Immutable, and equal to itself only."""


class ValueRecord(Struct, metaclass=Immutable, frozen=True):
    """Immutable, and equal to those with equal fields."""


class MutableRecord(Struct):
    """Fields may change."""


def fields(record: Struct | type[Struct]) -> tuple[str, ...]:
    """Return the names of the fields, in the order of the class."""
    return record.__struct_fields__


def content(record: Struct) -> bytes:
    """Return what a record of a class holds: the same bytes for equal values, whichever objects hold them."""
    return _CONTENT.encode(record)


def is_record(thing: object) -> bool:
    """Tell whether a thing is a record, a value or a state. Classes are not."""
    return isinstance(thing, Struct)


def asdict(record: Struct) -> dict[str, Any]:
    """Return the fields by name, those of records within as dicts, too."""
    return {name: _plain(getattr(record, name)) for name in fields(record)}


def _numbers(value: object) -> object:
    as_list = getattr(value, "tolist", None)  # NumPy's, which is not imported for it
    if as_list is not None:
        return as_list()
    raise TypeError(f"{type(value)} is no data")


_CONTENT = Encoder(enc_hook=_numbers)


def _plain(value: object) -> object:
    if isinstance(value, Struct):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    return value
