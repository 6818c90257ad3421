"""From a checked mapping of a file to the frozen record of the same fields."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from costmodel.records import fields
from costmodel.schema.strict import Strict

Record = TypeVar("Record", bound=Struct)


def record(kind: type[Record], file: Strict, **given: object) -> Record:
    """Return a record: the `given` fields, and for every other one the file's value of the same name."""
    values = {name: getattr(file, name) for name in fields(kind) if name not in given}
    return kind(**values, **given)


def optional(kind: type[Record], file: Strict | None) -> Record | None:
    """Return the record of a mapping that may be missing."""
    return None if file is None else record(kind, file)
