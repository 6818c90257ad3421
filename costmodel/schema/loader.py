"""YAML or JSON text to a tree that knows the location of every value.

The C parser only finds the structure. Plain scalars are typed here, by the core schema of YAML 1.2, because the
parser's own rules (YAML 1.1) read `1e12` as text, `no` as false and `1:30` as ninety.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import lru_cache
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

import yaml

from costmodel import units
from costmodel.errors import InputError, Location, kind_of
from costmodel.reading import open_regular
from costmodel.schema.inputs import record_content
from costmodel.schema.tree import KEPT, Tree, to_python

MAX_BYTES = 16 * 2**20  # of a YAML or JSON file; far above any real one
MAX_TABLE_BYTES = 64 * 2**20  # of a table, which Python holds at ten times its size
MAX_SWEEP_BYTES = 256 * 2**20  # of the table of a sweep: one of a million points must be readable
_MAX_NODES = 100_000  # far above any real file; reached only by aliases that multiply
_MAX_REPEATS = 10_000  # of these, values that aliases repeat
_MAX_KEYS = 2000  # of one mapping: far above any real one, and each is compared with what is known
_TAGS: dict[type[yaml.Node], str] = {
    yaml.ScalarNode: "tag:yaml.org,2002:str",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
    yaml.MappingNode: "tag:yaml.org,2002:map",
}
_CONSTANTS = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"), None)
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | {f"{sign}.{text}": float(f"{sign}inf") for sign in ("", "+", "-") for text in ("inf", "Inf", "INF")}
    | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_LEADING_ZEROS = re.compile(r"[-+]?0[0-9]+")
_EXTRA_ZEROS = re.compile(r"0+(?=[0-9])")
_SEPARATED = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)+")
_BEGIN_NUMBERS = frozenset("+-.0123456789")
_SWITCHES = ("yes", "no", "on", "off")  # true and false of YAML 1.1
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


class _Composer(yaml.CSafeLoader):
    """The C parser without YAML 1.1's typing: every plain scalar stays text."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ARG002  PyYAML's signature
        return _TAGS[kind]


def read_text(path: Path, label: str, limit: int, *, missing_hint: str = "check the path") -> str:
    """Return the text of a UTF-8 file. Otherwise as `read_data`."""
    try:
        return read_data(path, label, limit, missing_hint=missing_hint).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError.single(
            f"is not UTF-8 text (byte {error.start})", hint="save the file as UTF-8", location=Location(label)
        ) from None


def read_data(path: Path, label: str, limit: int, *, missing_hint: str = "check the path") -> bytes:
    """Return the content of a file. Raises InputError if there is none, or if it has more than `limit` bytes.

    label: the file's name in messages.
    missing_hint: what to do if it does not exist.
    """
    location = Location(label)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise _too_large(size, limit, location)
            data = file.read(limit + 1)
        if len(data) > limit:  # it grew, or is of the kernel's and states no size
            raise _too_large(len(data), limit, location)
        record_content(path, data)
        return data
    except FileNotFoundError:
        record_content(path, None)
        raise InputError.single("does not exist", hint=missing_hint, location=location) from None
    except OSError as error:
        record_content(path, None)
        raise InputError.single(f"cannot be read: {error.strerror}", location=location) from None


def _too_large(size: int, limit: int, location: Location) -> InputError:
    limit_text = units.render(limit, "size")
    actual = units.render(size, "size") if size > limit else f"more than {limit_text}"
    return InputError.single(
        f"file too large: {actual}; the limit is {limit_text}", hint="name the right file, or split this one",
        location=location,
    )  # fmt: skip


def read_tree(path: Path, label: str) -> Tree:
    """Return the document of a file, one object for the same text. `label` names the file in messages."""
    if path.is_dir():
        raise InputError.single("is a directory", hint="name a YAML file inside it", location=Location(label))
    return _document(read_text(path, label, MAX_BYTES), label)


@lru_cache(maxsize=KEPT)
def _document(text: str, label: str) -> Tree:
    location = Location(label)
    tree = parse_tree(text, label)
    if not tree.is_mapping:
        message = "is empty" if tree.value is None else f"must be a mapping at top level, not {kind_of(tree.value)}"
        hint = "start the file with its kind, as in `schema: costmodel/workload@1`"
        raise InputError.single(message, hint=hint, location=location if tree.value is None else tree.location)
    return tree


def parse_tree(text: str, source: str, *, label: Location | None = None) -> Tree:
    """Return the document in `text`. A `label` is the location of every value, instead of a line of `source`."""
    try:
        composer = _Composer(text)
        try:
            root = composer.get_single_node()
        finally:
            composer.dispose()
        return _Walk(source, label).tree(root) if root is not None else Tree(None, label or Location(source))
    except yaml.YAMLError as error:
        raise _syntax_error(error, source, label) from None
    except RecursionError:
        raise InputError.single("is nested too deeply to read", location=label or Location(source)) from None
    except UnicodeEncodeError:
        raise InputError.single("is no text", hint="write it in UTF-8", location=label or Location(source)) from None


class _Walk:
    """Turns the parser's nodes into trees. Counts them, because an alias may repeat a subtree any number of times."""

    def __init__(self, source: str, label: Location | None) -> None:
        self._source = source
        self._label = label
        self._count = self._repeats = 0
        self._seen: set[int] = set()
        self._open: set[int] = set()

    def tree(self, node: yaml.Node, key: Location | None = None) -> Tree:
        location = self._locate(node)
        self._count += 1
        self._repeats += id(node) in self._seen
        self._seen.add(id(node))
        if self._count > _MAX_NODES or self._repeats > _MAX_REPEATS:
            raise InputError.single(
                f"YAML aliases expand to more than {_MAX_REPEATS if self._repeats else _MAX_NODES:,} values",
                hint="write the values out, or fewer of them", location=location,
            )  # fmt: skip
        if node.tag != _TAGS[type(node)]:
            raise InputError.single(f"has the tag {node.tag!r}", hint="remove the tag", location=location)
        if isinstance(node, yaml.ScalarNode):
            return Tree(node.value if node.style else self._typed(node.value, location), location, key)
        if id(node) in self._open:
            raise InputError.single("a YAML alias refers to itself", hint="remove it", location=location)
        self._open.add(id(node))
        value = self._mapping(node) if isinstance(node, yaml.MappingNode) else [self.tree(n) for n in node.value]
        self._open.remove(id(node))
        return Tree(value, location, key)

    @staticmethod
    def _typed(text: str, location: Location) -> Any:
        try:
            return _typed(text)
        except ValueError as error:
            message, hint = error.args
            raise InputError.single(message, hint=hint, location=location) from None

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Tree]:
        entries: dict[str, Tree] = {}
        if len(node.value) > _MAX_KEYS:
            hint, place = "split the file, or vary one of them by a study", self._locate(node.value[_MAX_KEYS][0])
            raise InputError.single(f"a mapping has more than {_MAX_KEYS:,} keys", hint=hint, location=place)
        for key, value in node.value:
            location = self._locate(key)
            if not isinstance(key, yaml.ScalarNode):
                raise InputError.single("a key must be one word or number, not a list or mapping", location=location)
            if key.value == "<<" and not key.style:
                raise InputError.single("merge keys (`<<`) are not supported", hint="use `extends`", location=location)
            if key.value in entries:
                raise duplicate_key(key.value, entries[key.value].key, location)
            entries[key.value] = self.tree(value, location)
        return entries

    def _locate(self, node: yaml.Node) -> Location:
        mark = node.start_mark
        return self._label or Location(self._source, mark.line + 1, mark.column + 1)


def duplicate_key(key: str, first: Location | None, location: Location) -> InputError:
    """Return the error of a key that a mapping has already; first: where."""
    hint = f"keep one; the first is at line {first.line}" if first and first.line else "keep one"
    return InputError.single(f"duplicate key {key!r}", hint=hint, location=location)


def _typed(text: str) -> Any:
    """Return a plain scalar by its type. Raises ValueError with the fix where readers of YAML disagree about it."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] in _BEGIN_NUMBERS:
        return _number(text)
    if len(text) <= 3 and text.lower() in _SWITCHES:
        meant = "true" if text.lower() in ("yes", "on") else "false"
        raise ValueError(f"{text!r} is true or false to some readers of YAML", f"write {meant}, or quote it")
    if not text.isascii() and any(sign.isdecimal() and not sign.isascii() for sign in text):
        raise ValueError(f"{text!r} has digits that are not 0 to 9", "write 0 to 9, or quote it")
    return text


def _number(text: str) -> Any:
    """Return a number, or text that only begins like one. Raises ValueError where readers of YAML disagree about it."""
    if _LEADING_ZEROS.fullmatch(text):
        raise ValueError(
            f"{text} has leading zeros, which some read as octal", f"write {_EXTRA_ZEROS.sub('', text, 1)}, or quote it"
        )
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 400 else float(text)  # Python refuses to read integers of thousands of digits
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SEPARATED.fullmatch(text):
        raise ValueError(f"{text} has separators between digits", f"write {text.replace('_', '')}, or quote it")
    return int(text, 0) if _OTHER_BASE.fullmatch(text) else text


def _syntax_error(error: yaml.YAMLError, source: str, label: Location | None) -> InputError:
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable")
    mark = getattr(error, "problem_mark", None)
    hint = "check the indentation, the colons and the quotes of this line and the one above it"
    if "single document" in str(getattr(error, "context", "")) or "another document" in problem:
        problem, hint = "more than one document", "keep one document and remove the `---` line between them"
    elif "cannot start any token" in problem or "tab" in problem:
        hint = "indent with spaces, not tabs, and quote text that begins with a special character"
    elif "control characters" in problem or "special characters" in problem:
        hint = "remove the invisible characters from the file"
    elif "alias" in problem:
        hint = "define the anchor (`&name`) before its alias (`*name`)"
    location = label or (Location(source, mark.line + 1, mark.column + 1) if mark else Location(source))
    return InputError.single(f"is not valid YAML: {problem}", hint=hint, location=location)


# ---- A document as YAML text for people to keep and edit -------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_FLOW = ("mixer", "ffn", "mtp", "sources")  # each on one line


def yaml_of(tree: Tree, schema: str) -> str:
    """Return the YAML file of a document. It reads back as the same document."""
    return yaml_text(to_python(tree), schema)


def yaml_text(document: Mapping[str, Any], schema: str) -> str:
    """Return the YAML file of nested dicts, lists and scalars."""
    return "\n".join([f"schema: costmodel/{schema}@1", *_block(document, "")]) + "\n"


def _block(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield the lines of a mapping, with lists of mappings as blocks."""
    for key, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], Mapping) and key not in _FLOW:
            yield f"{indent}{key}:"
            for entry in item:
                first, *rest = _block(entry, f"{indent}    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{indent}{key}: {_flow(item)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_tree(value, "").value == value:
        return value
    return json.dumps(value, ensure_ascii=False)


_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity")
_STRINGS = JSONDecoder()
_WORDS = {"true": True, "false": False, "null": None}


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
        if text in _WORDS:
            return _WORDS[text]
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
