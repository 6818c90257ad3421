"""Keys of a config.json, and the tables of facts that a family of models reads from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from costmodel.records import ValueRecord

REQUIRED: Final = object()


class Key(ValueRecord):
    """A key of config.json, dotted if it is inside another.

    default: value if the file omits the key or sets it to null. REQUIRED: the file must have it.
    older_name: spelling of older files.
    """

    name: str
    default: Any = REQUIRED
    older_name: str = ""


class First(ValueRecord):
    """The first of several keys that the file states."""

    keys: tuple[Key, ...]


class Switch(ValueRecord):
    """A fact that depends on another: `values` by what the key states."""

    key: Key
    values: Mapping[Any, Any]


Fact: TypeAlias = Any  # a constant, a Key, a First or a Switch
Family: TypeAlias = dict[str, Fact]


def keys_of(family: Family) -> Iterator[Key]:
    """Yield the keys that a family reads, those of its kinds of layers included."""
    for name, source in family.items():
        if name == "kinds":
            for kind in source.values():
                yield from keys_of(kind)
            continue
        for fact in source if isinstance(source, tuple) else (source,):
            yield from _keys_in(fact)


def _keys_in(fact: Fact) -> Iterator[Key]:
    """Yield the keys of one fact."""
    if isinstance(fact, Key):
        yield fact
    elif isinstance(fact, First):
        yield from fact.keys
    elif isinstance(fact, Switch):
        yield fact.key
        for value in fact.values.values():
            yield from _keys_in(value)
