"""JSON text to a tree that knows the place of every value, as the YAML loader makes one."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError, JSONDecoder
from typing import Any

from costmodel.errors import InputError, Location
from costmodel.schema.tree import Tree

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity")
_STRINGS = JSONDecoder()
_CONSTANTS = {"true": True, "false": False, "null": None}


def parse_json(text: str, source: str) -> Tree:
    """Return the document in `text`; raise InputError where it is no JSON. NaN and infinity are numbers."""
    try:
        return _Scanner(text, source).document()
    except RecursionError:
        raise InputError.single("is nested too deeply to read", location=Location(source)) from None


class _Scanner:
    """Reads values one after the other; `at` is a position in the text."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def document(self) -> Tree:
        """Return the only value of the text."""
        tree, at = self._value(self._skip(0))
        at = self._skip(at)
        if at < len(self._text):
            raise self._wrong(at, "more text after the document", "remove it")
        return tree

    def _value(self, at: int, key: Location | None = None) -> tuple[Tree, int]:
        """Return the value at a position, and the position behind it."""
        place, opening = self._locate(at), self._text[at : at + 1]
        value: Any
        if opening == '"':
            value, end = self._string(at)
        elif opening == "{":
            value, end = self._mapping(at + 1)
        elif opening == "[":
            value, end = self._list(at + 1)
        else:
            found = _WORD.match(self._text, at)
            if found is None:
                raise self._wrong(at, "no value", "write a number, text in double quotes, true, false or null")
            value, end = self._word(found), found.end()
        return Tree(value, place, key), end

    def _mapping(self, at: int) -> tuple[dict[str, Tree], int]:
        entries: dict[str, Tree] = {}
        at = self._skip(at)
        while self._text[at : at + 1] != "}":
            if entries:
                at = self._skip(self._expect(at, ","))
            place = self._locate(at)
            name, end = self._string(at)
            if name in entries:
                first = entries[name].key
                hint = f"keep one; the first is at line {first.line}" if first else "keep one"
                raise InputError.single(f"key {name!r} stands twice", hint=hint, location=place)
            entries[name], end = self._value(self._skip(self._expect(self._skip(end), ":")), place)
            at = self._skip(end)
        return entries, at + 1

    def _list(self, at: int) -> tuple[list[Tree], int]:
        items: list[Tree] = []
        at = self._skip(at)
        while self._text[at : at + 1] != "]":
            if items:
                at = self._skip(self._expect(at, ","))
            item, end = self._value(at)
            items.append(item)
            at = self._skip(end)
        return items, at + 1

    def _string(self, at: int) -> tuple[str, int]:
        if self._text[at : at + 1] != '"':
            raise self._wrong(at, "no key", "write a key in double quotes; a comma before `}` has to go")
        try:
            text, end = _STRINGS.raw_decode(self._text, at)
        except JSONDecodeError as error:
            raise self._wrong(error.pos, error.msg[0].lower() + error.msg[1:], "check the quotes") from None
        return str(text), end

    def _word(self, found: re.Match[str]) -> Any:
        text = found.group()
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        is_whole = found.group(1) is None and found.group(2) is None and text[-1].isdecimal() and len(text) < 400
        return int(text) if is_whole else float(text)

    def _expect(self, at: int, sign: str) -> int:
        if self._text[at : at + 1] != sign:
            raise self._wrong(at, f"no `{sign}`", f"add `{sign}`, or close what is open")
        return at + 1

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _locate(self, at: int) -> Location:
        line = bisect_right(self._lines, at)
        return Location(self._source, line, at - self._lines[line - 1] + 1)

    def _wrong(self, at: int, message: str, hint: str) -> InputError:
        """Return the error at a position; at the end of the text it is that the file is cut off."""
        if at >= len(self._text.rstrip()):
            message, hint = "the file ends too early", "copy it again: it is cut off"
        return InputError.single(f"is not valid JSON: {message}", hint=hint, location=self._locate(at))
