"""The number that a field holds: which quantity or count the file model says stands at a path."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeAlias

from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location
from costmodel.schema.loader import parse_tree
from costmodel.schema.quantity import Measure, Positive, Whole
from costmodel.schema.strict import Strict, file_models, union_members
from costmodel.schema.tree import to_python

NumberType: TypeAlias = Measure | Whole | Positive


def number_at(root: type[Strict], path: Sequence[str]) -> NumberType | None:
    """Return what kind of number a file holds at `path`, null where it is text, a switch, a list or a mapping.

    Items of lists and entries of mappings are all of one kind, so their names and positions say nothing.
    """
    current: Any = root
    notes: Sequence[Any] = ()
    for part in path:
        fields = [
            field
            for owner in file_models(current)
            for name, field in owner.model_fields.items()
            if (field.alias or name) == part
        ]
        if fields:
            current, notes = fields[0].annotation, fields[0].metadata
            continue
        arguments = [typing.get_args(one) for one in union_members(current) if typing.get_origin(one) in (list, dict)]
        if not arguments:
            return None
        current, notes = arguments[0][-1], ()
    return next((note for note in (*notes, *_notes(current)) if isinstance(note, NumberType)), None)


def read_number(number: NumberType, text: str, label: Location, field: str) -> float:
    """Return a number written as `--set` takes it, in SI; raise InputError with its place and fix."""
    try:
        return float(number.check(to_python(parse_tree(text, label.source, place=label))))
    except PydanticCustomError as error:
        told = error.context or {}
        raise InputError.single(told["message"], hint=told["hint"], field=field, location=label) from None


def _notes(annotation: Any) -> list[Any]:
    """Return what a type, or a member of a union, is annotated with."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return list(annotation.__metadata__)
    return [note for one in arguments for note in _notes(one)] if origin in (typing.Union, UnionType) else []
