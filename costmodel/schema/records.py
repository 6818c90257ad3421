"""From a checked mapping of a file to the frozen record of the same fields."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from costmodel.schema.strict import Strict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def record(kind: type[Record], file: Strict, **given: object) -> Record:
    """Return a record: the `given` fields, and for every other one the file's value of the same name."""
    values = {name: getattr(file, name) for name in _field_names(kind) if name not in given}
    return kind(**values, **given)


def optional(kind: type[Record], file: Strict | None) -> Record | None:
    """Return the record of a mapping that may be missing."""
    return None if file is None else record(kind, file)


@cache
def _field_names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
