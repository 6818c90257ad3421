"""Why a mutated file is accepted: what differs in it, by kind, so that nobody has to trust that it was harmless."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from fuzz.mutations import QUANTITY, ROOT, Mutation

MISSING = object()
WORDS = {
    "title", "name", "note", "cite", "description", "aliases", "sources", "kind", "date", "cpu", "die", "fields",
    "rests_on", "seen", "says", "options",
}  # fmt: skip
SAME = "the same document: spaces, comments, order of keys, another way to write a value"
FOR_PEOPLE = "words for people: names, titles, citations"
LEFT_OUT = "an optional key is missing: its default takes its place"
NULL = "null: the default, or none of it"
ADDED = "one more entry, or an optional key"
NUMBER = "another number that hardware or a workload could have"
CHOICE = "another name that exists, or another value of a switch"
ORDER = "values in other places, each of which could stand there"
REASONS = (SAME, FOR_PEOPLE, LEFT_OUT, NULL, ADDED, NUMBER, CHOICE, ORDER)

_Path = tuple[Any, ...]


def reason(mutation: Mutation) -> str:
    """Return why the document of a mutation is accepted: the first kind of difference that it has."""
    texts = ((ROOT / mutation.file).read_text(encoding="utf-8"), mutation.text)
    before, after = (yaml.load(text, Loader=yaml.CSafeLoader) for text in texts)  # as the tool: tabs may separate
    changes = list(differences(before, after))
    if not changes:
        return SAME
    serious = [change for change in changes if not WORDS.intersection(change[0])]
    if not serious:
        return FOR_PEOPLE
    _, one, other = serious[0]
    if len(serious) > 1 and sorted(repr(a) for _, a, _ in serious) == sorted(repr(b) for _, _, b in serious):
        return ORDER
    if other is MISSING:
        return LEFT_OUT
    if other is None:
        return NULL
    if one is MISSING:
        return ADDED
    return NUMBER if _is_number(one) and _is_number(other) else CHOICE


def differences(before: Any, after: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any, Any]]:
    """Yield (path, before, after) of each part that differs; what is not there is MISSING."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key, MISSING), after.get(key, MISSING), (*path, key))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            yield from differences(_at(before, place), _at(after, place), (*path, place))
    elif not _equal(before, after):
        yield path, before, after


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else MISSING


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return type(one) is type(other) and one == other


def _is_number(value: Any) -> bool:
    is_plain = isinstance(value, int | float) and not isinstance(value, bool)
    return is_plain or (isinstance(value, str) and re.match(QUANTITY, value) is not None)
