"""The number type of a field: which quantity or count the file model has at a path."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeAlias

from costmodel.declared import Measure, Positive, Whole, Wrong
from costmodel.errors import InputError, Location
from costmodel.schema.loader import parse_tree
from costmodel.schema.strict import Strict, file_models, union_members
from costmodel.schema.tree import to_python

NumberType: TypeAlias = Measure | Whole | Positive


def number_at(root: type[Strict], path: Sequence[str]) -> NumberType | None:
    """Return the type of the number at `path`, null for text, a switch, a list or a mapping.

    Items of a list and entries of a mapping of names share one type, so their names and positions do not matter.
    """
    current: Any = root
    notes: Sequence[Any] = ()
    for part in path:
        models = file_models(current)
        fields = [
            field for model in models for name, field in model.model_fields.items() if part == (field.alias or name)
        ]
        if fields:
            current, notes = fields[0].annotation, fields[0].metadata
            continue
        containers = [member for member in union_members(current) if typing.get_origin(member) in (list, dict)]
        if not containers:
            return None
        current, notes = typing.get_args(containers[0])[-1], ()
    return next((note for note in (*notes, *_notes(current)) if isinstance(note, NumberType)), None)


def read_number(number: NumberType, text: str, label: Location, field: str) -> float:
    """Return a number in SI, written as for `--set`. Raises InputError with its location and fix."""
    try:
        return float(number.check(to_python(parse_tree(text, label.source, label=label))))
    except Wrong as error:
        raise field_error(error, field, label) from None


def field_error(error: Wrong, field: str, location: Location | None) -> InputError:
    """Return what a field's check found, at its place in a file."""
    return InputError.single(error.message, hint=error.hint, field=field, location=location)


def _notes(annotation: Any) -> list[Any]:
    """Return the annotations of a type, and of the members of a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return list(annotation.__metadata__)
    is_union = origin in (typing.Union, UnionType)
    return [note for argument in arguments for note in _notes(argument)] if is_union else []
