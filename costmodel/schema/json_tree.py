"""JSON text to a tree that knows the location of every value, as the YAML loader makes one."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError, JSONDecoder
from typing import Any

from costmodel.errors import InputError, Location
from costmodel.schema.loader import duplicate_key
from costmodel.schema.tree import Tree

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity")
_STRINGS = JSONDecoder()
_CONSTANTS = {"true": True, "false": False, "null": None}


def parse_json(text: str, source: str) -> Tree:
    """Return the document in `text`. Raises InputError if it is not valid JSON. NaN and infinity are numbers."""
    try:
        return _Scanner(text, source).document()
    except RecursionError:
        raise InputError.single("is nested too deeply to read", location=Location(source)) from None


class _Scanner:
    """Reads one value after another. `position` is an offset in the text."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source = text, source
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> Tree:
        tree, position = self._value(self._skip(0))
        position = self._skip(position)
        if position < len(self._text):
            raise self._error(position, "more text after the document", "remove it")
        return tree

    def _value(self, position: int, key: Location | None = None) -> tuple[Tree, int]:
        location, opening = self._locate(position), self._text[position : position + 1]
        value: Any
        if opening == '"':
            value, end = self._string(position)
        elif opening == "{":
            value, end = self._mapping(position + 1)
        elif opening == "[":
            value, end = self._list(position + 1)
        else:
            match = _WORD.match(self._text, position)
            if match is None:
                raise self._error(position, "no value", "write a number, text in double quotes, true, false or null")
            value, end = self._word(match), match.end()
        return Tree(value, location, key), end

    def _mapping(self, position: int) -> tuple[dict[str, Tree], int]:
        entries: dict[str, Tree] = {}
        position = self._skip(position)
        while self._text[position : position + 1] != "}":
            if entries:
                position = self._skip(self._expect(position, ","))
            location = self._locate(position)
            name, end = self._string(position)
            if name in entries:
                raise duplicate_key(name, entries[name].key, location)
            entries[name], end = self._value(self._skip(self._expect(self._skip(end), ":")), location)
            position = self._skip(end)
        return entries, position + 1

    def _list(self, position: int) -> tuple[list[Tree], int]:
        items: list[Tree] = []
        position = self._skip(position)
        while self._text[position : position + 1] != "]":
            if items:
                position = self._skip(self._expect(position, ","))
            item, end = self._value(position)
            items.append(item)
            position = self._skip(end)
        return items, position + 1

    def _string(self, position: int) -> tuple[str, int]:
        if self._text[position : position + 1] != '"':
            raise self._error(position, "no key", "write a key in double quotes; remove a comma before `}`")
        try:
            text, end = _STRINGS.raw_decode(self._text, position)
        except JSONDecodeError as error:
            raise self._error(error.pos, error.msg[0].lower() + error.msg[1:], "check the quotes") from None
        return str(text), end

    def _word(self, match: re.Match[str]) -> Any:
        text = match.group()
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        is_whole = match.group(1) is None and match.group(2) is None and text[-1].isdecimal() and len(text) < 400
        return int(text) if is_whole else float(text)

    def _expect(self, position: int, sign: str) -> int:
        if self._text[position : position + 1] != sign:
            raise self._error(position, f"no `{sign}`", f"add `{sign}`, or close what is open")
        return position + 1

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self._text, position)
        return match.end() if match else position

    def _locate(self, position: int) -> Location:
        line = bisect_right(self._lines, position)
        return Location(self._source, line, position - self._lines[line - 1] + 1)

    def _error(self, position: int, message: str, hint: str) -> InputError:
        """Return the error at a position. At the end of the text, that the file is truncated."""
        if position >= len(self._text.rstrip()):
            message, hint = "the file ends too early", "copy it again: it is truncated"
        return InputError.single(f"is not valid JSON: {message}", hint=hint, location=self._locate(position))
