"""The tables of a config.json's keys as data: families.yaml says how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from costmodel.records import ValueRecord
from costmodel.schema.loader import MAX_BYTES, read_text

REQUIRED: Final = object()
_CONSTANTS = {"null": None, "true": True, "false": False}


class Key(ValueRecord):
    """Names of one value in a config.json, dotted inside another mapping; the first that the file states counts.

    default: value if the file omits all or sets them to null; REQUIRED: the file must have one.
    """

    names: tuple[str, ...]
    default: Any = REQUIRED


class Switch(ValueRecord):
    """A fact that depends on another: `values` by what the key states."""

    key: Key
    values: Mapping[Any, Any]


Fact: TypeAlias = Any  # a constant, a Key or a Switch
Family: TypeAlias = dict[str, Fact]


def table(name: str) -> dict[str, Any]:
    """Return the content of a file next to this one."""
    return _parsed(_text(name))


def families() -> dict[str, Family]:
    """Return the facts of every family of language models."""
    return _families(_text("families"))


def encoders() -> dict[str, Family]:
    """Return the facts of every family of towers for images."""
    return _families(_text("encoders"))


def _text(name: str) -> str:
    """Return the text of a file next to this one, read anew: what is kept of an answer rests on it."""
    path = Path(__file__).with_name(f"{name}.yaml")
    return read_text(path, str(path), MAX_BYTES)


@cache
def _parsed(text: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return document


def keys_of(family: Family) -> Iterator[Key]:
    """Yield the keys that a family reads, those of its kinds of layers included."""
    for fact in family.values():
        if isinstance(fact, Key):
            yield fact
        elif isinstance(fact, Switch):
            yield from keys_of({"": fact.key} | dict(fact.values))
        elif isinstance(fact, tuple):
            yield from (each for each in fact if isinstance(each, Key))
        elif isinstance(fact, dict):
            yield from keys_of(fact)


@cache
def _families(text: str) -> dict[str, Family]:
    document = _parsed(text)
    stated = document["groups"] | document["families"]
    made: dict[str, Family] = {}
    return {family: _family(stated[family], stated, made) for family in document["families"]}


def _family(own: Mapping[str, Any], stated: Mapping[str, Any], made: dict[str, Family]) -> Family:
    """Return the facts of a family, over those of what it extends. made: what has been read, which this adds to."""
    bases = own.get("extends", [])
    family: Family = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if base not in made:
            made[base] = _family(stated[base], stated, made)
        family = _over(made[base], family)
    kinds = {kind: _family(facts, stated, made) for kind, facts in own.get("kinds", {}).items()}
    facts = {name: _fact(value) for name, value in own.items() if name not in ("extends", "kinds")}
    return _over(facts | ({"kinds": kinds} if kinds else {}), family)


def _over(facts: Family, family: Family) -> Family:
    """Return facts over those of a family; what either ignores or asks for holds."""
    both = {
        "inert": (*family.get("inert", ()), *facts.get("inert", ())),
        "must": family.get("must", {}) | facts.get("must", {}),
    }
    return family | facts | {name: value for name, value in both.items() if value}


def _fact(stated: Any) -> Fact:
    if isinstance(stated, str):
        return _key(stated) if stated.startswith("$") else stated
    if isinstance(stated, list):
        return tuple(map(_fact, stated))
    if isinstance(stated, dict):
        values = {name: _fact(value) for name, value in stated.items()}
        return values if "key" not in values else Switch(values.pop("key"), values)
    return stated


def _key(text: str) -> Key:
    names = text.split(" or ")
    if names[-1].startswith("$"):
        return Key(tuple(name[1:] for name in names))
    default = names.pop()
    number = default.lstrip("-").replace(".", "", 1).isdigit()
    value = (float(default) if "." in default else int(default)) if number else _CONSTANTS.get(default, default)
    return Key(tuple(name[1:] for name in names), value)
