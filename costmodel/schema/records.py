"""Records and the mappings of files that state them: a record declares its keys, and the mapping follows from it.

A key is a field of a record whose annotation says what it means: `Annotated[Latency, "of one cache"]`. Its type has
dimension and bounds (`costmodel.declared`), its default is the field's. Fields without a meaning are not in files.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields as struct_fields
from pydantic import Field

from costmodel.declared import FieldType, Key, Nullable
from costmodel.records import fields
from costmodel.schema.strict import Strict

Record = TypeVar("Record", bound=Struct)

_LAST = ("aliases", "calibration", "plausible", "sources")  # keys about the values, behind them
_FILES: dict[type[Struct], type[Declared]] = {}  # record -> its mapping
_NULLABLE: set[tuple[type[Struct], str]] = set()  # fields whose keys may be null


class Declared(Strict):
    """A mapping of a file whose keys a record declares: `class NicFile(Declared, of=Nic)`.

    What it states itself replaces the record's, or comes before it.
    optional: null is allowed for every key, and means as elsewhere; such a mapping makes no record.
    without: keys of the record that it does not have.
    mixer, pattern: the tag of one of several mappings, under the key `type` or `kind`.
    """

    record_type: ClassVar[type[Struct]]

    def __init_subclass__(
        cls, of: type[Struct] | None = None, *, optional: bool = False, without: Collection[str] = (),
        mixer: str = "", pattern: str = "", **options: Any,
    ) -> None:  # fmt: skip
        """Add the keys that a record declares, in its order, before pydantic looks for them."""
        super().__init_subclass__(**options)
        if of is None:
            return
        own: dict[str, Any] = inspect.get_annotations(cls)
        for key, word, what in (("type", mixer, "mixer"), ("kind", pattern, "pattern")):
            if word:
                own = {key: Literal[word], **own}
                setattr(cls, key, Field(description=f"this {what}"))
        keys = {key: (kind, field) for key, kind, field in _keys(of, optional=optional) if key not in (*own, *without)}
        further = [key for key in own if key not in fields(of)]
        order = [*further, *(key for key in fields(of) if key in keys or key in own)]
        order.sort(key=lambda key: (key != "name", key in _LAST))
        cls.__annotations__ = {key: keys[key][0] if key in keys else own[key] for key in order}
        for key, (_, field) in keys.items():
            setattr(cls, key, field)
        cls.record_type = of
        if not optional:
            _FILES[of] = cls

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Take the options of a class, of which pydantic knows none."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def made(self) -> Any:
        """Return the record."""
        keys = type(self).model_fields
        return self.record_type(**_values(self.record_type, self, [k for k in fields(self.record_type) if k in keys]))


def file_of(made: type[Struct]) -> type[Declared]:
    """Return the mapping that states a record."""
    if made not in _FILES:
        document = {"__doc__": made.__doc__}
        types.new_class(f"{made.__name__}File", (Declared,), {"of": made}, lambda body: body.update(document))
    return _FILES[made]


def _keys(made: type[Struct], *, optional: bool) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and field of every key that a record declares."""
    for field in struct_fields(made):
        hint = field.type
        notes = hint.__metadata__ if typing.get_origin(hint) is Annotated else ()
        meaning = next((note for note in notes if isinstance(note, str)), None)
        nullable = any(isinstance(note, Nullable) for note in notes)
        if nullable:
            _NULLABLE.add((made, field.name))
        if meaning is None:
            continue
        kind, default = _file_type(hint), dict[str, Any]()
        if optional or nullable:
            kind, default = kind | None, {"default": None}
        elif field.default is not NODEFAULT:
            default = {"default": list(field.default) if isinstance(field.default, tuple) else field.default}
        elif field.default_factory is not NODEFAULT:
            default = {"default_factory": _file_type(field.default_factory)}
        if isinstance(default.get("default"), Struct):
            default = {"default_factory": file_of(type(default["default"]))}
        alias = next((note.name for note in notes if isinstance(note, Key)), None)
        yield field.name, kind, Field(**default, alias=alias, description=meaning)


def _file_type(hint: Any) -> Any:
    """Return the type of a key from that of its field: mappings for records, lists for tuples."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        notes = [note for note in hint.__metadata__ if isinstance(note, FieldType)]
        inner = _file_type(hint.__origin__)
        return Annotated[(inner, *notes)] if notes else inner
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_file_type, arguments))]  # noqa: UP007  of types known only here
    if origin is tuple:
        return list[_file_type(arguments[0])]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[arguments[0], _file_type(arguments[1])]  # type: ignore[misc, valid-type]
    return file_of(hint) if isinstance(hint, type) and issubclass(hint, Struct) else hint


def record(kind: type[Record], file: Strict, **given: object) -> Record:
    """Return a record: the `given` fields, and for every other one the file's value of the same name."""
    return kind(**_values(kind, file, [name for name in fields(kind) if name not in given]), **given)


def _values(kind: type[Struct], file: Strict, names: Collection[str]) -> dict[str, Any]:
    """Return fields of a record as a file states them, without those whose null means their default."""
    stated = {name: getattr(file, name) for name in names}
    return {name: _made(value) for name, value in stated.items() if value is not None or (kind, name) not in _NULLABLE}


def optional(kind: type[Record], file: Strict | None) -> Record | None:
    """Return the record of a mapping that may be missing."""
    return None if file is None else record(kind, file)


def _made(value: Any) -> Any:
    """Return a value of a file as a record holds it: records for the mappings that state them, tuples for lists."""
    if isinstance(value, Declared):
        return value.made()
    if isinstance(value, dict):
        return {key: _made(each) for key, each in value.items()}
    return tuple(map(_made, value)) if isinstance(value, list) else value
