"""YAML text to a tree that knows the place of every value.

The C parser only finds the structure. Plain scalars are typed here, by the core rules of YAML 1.2, because the
parser's own rules (YAML 1.1) read `1e12` as text, `no` as false and `1:30` as ninety.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from costmodel import units
from costmodel.errors import InputError, Location
from costmodel.schema.tree import Tree

MAX_BYTES = 16 * 2**20  # of a YAML or JSON file; far above any real one
MAX_TABLE_BYTES = 64 * 2**20  # of a table, which Python holds at ten times its size
MAX_SWEEP_BYTES = 256 * 2**20  # of the table that a sweep wrote: one of a million points is read back
_MOST_NODES = 100_000  # far above any real file; reached only by aliases that multiply
_CORE_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_CONSTANTS = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"), None)
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | {f"{sign}.{text}": float(f"{sign}inf") for sign in ("", "+", "-") for text in ("inf", "Inf", "INF")}
    | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


class _Composer(yaml.CSafeLoader):
    """The C parser without YAML 1.1's typing: every plain scalar stays text."""


_Composer.yaml_implicit_resolvers = {}


def read_text(path: Path, shown: str, most: int, *, absent: str = "check the path") -> str:
    """Return the text of a file, which is UTF-8; all else as `read_data`."""
    try:
        return read_data(path, shown, most, absent=absent).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError.single(
            f"is not UTF-8 text (byte {error.start})", hint="save the file as UTF-8", location=Location(shown)
        ) from None


def read_data(path: Path, shown: str, most: int, *, absent: str = "check the path") -> bytes:
    """Return the content of a file; raise InputError where there is none. A file above `most` bytes is not read.

    shown: how messages name it; absent: what to do where it does not exist.
    """
    place = Location(shown)
    try:
        size = path.stat().st_size
        if size > most:
            raise _too_large(size, most, place)
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:  # what is no regular file does not know its size
            raise _too_large(size, most, place)
        return data
    except FileNotFoundError:
        raise InputError.single("does not exist", hint=absent, location=place) from None
    except OSError as error:
        raise InputError.single(f"cannot be read: {error.strerror}", location=place) from None


def _too_large(size: int, most: int, place: Location) -> InputError:
    limit = units.render(most, "size")
    found = f"has {units.render(size, 'size')}" if size > most else f"goes on after {limit}"
    return InputError.single(
        f"{found}, and at most {limit} are read", hint="name the right file, or split this one", location=place
    )


def read_tree(path: Path, shown: str) -> Tree:
    """Return the document of a file; `shown` names the file in messages."""
    place = Location(shown)
    if path.is_dir():
        raise InputError.single("is a directory", hint="name a YAML file inside it", location=place)
    tree = parse_tree(read_text(path, shown, MAX_BYTES), shown)
    if not tree.is_mapping:
        found = "is empty" if tree.value is None else f"holds {kind_of(tree.value)} at top level"
        hint = "write a mapping that begins with its kind, as in `schema: costmodel/workload@1`"
        raise InputError.single(found, hint=hint, location=tree.location if tree.value is not None else place)
    return tree


def parse_tree(text: str, source: str, *, place: Location | None = None) -> Tree:
    """Return the document in `text`; with `place`, every value is said to stand there, not at a line of `source`."""
    try:
        composer = _Composer(text)
        try:
            root = composer.get_single_node()
        finally:
            composer.dispose()
        return _Walk(source, place).tree(root) if root is not None else Tree(None, place or Location(source))
    except yaml.YAMLError as error:
        raise _syntax_error(error, source, place) from None
    except RecursionError:
        raise InputError.single("is nested too deeply to read", location=place or Location(source)) from None


def kind_of(value: object) -> str:
    """Return what a YAML author calls such a value."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


class _Walk:
    """Turns the parser's nodes into trees; counts them, because an alias may repeat a subtree any number of times."""

    def __init__(self, source: str, place: Location | None) -> None:
        self._source = source
        self._place = place
        self._count = 0
        self._open: set[int] = set()

    def tree(self, node: yaml.Node, key: Location | None = None) -> Tree:
        location = self._locate(node)
        self._count += 1
        if self._count > _MOST_NODES:
            raise InputError.single(
                f"the aliases of this file expand to more than {_MOST_NODES:,} values",
                hint="write the values out, or fewer of them", location=location,
            )  # fmt: skip
        if node.tag not in _CORE_TAGS:
            raise InputError.single(f"has the tag {node.tag!r}", hint="remove the tag", location=location)
        if isinstance(node, yaml.ScalarNode):
            return Tree(_typed(node.value) if not node.style else node.value, location, key)
        if id(node) in self._open:
            raise InputError.single("an alias stands inside its own anchor", hint="remove it", location=location)
        self._open.add(id(node))
        value = self._mapping(node) if isinstance(node, yaml.MappingNode) else [self.tree(n) for n in node.value]
        self._open.remove(id(node))
        return Tree(value, location, key)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Tree]:
        entries: dict[str, Tree] = {}
        for key, value in node.value:
            place = self._locate(key)
            if not isinstance(key, yaml.ScalarNode):
                raise InputError.single("a key must be one word or number, not a list or mapping", location=place)
            if key.value == "<<" and not key.style:
                raise InputError.single("merge keys (`<<`) are not supported", hint="use `extends`", location=place)
            if key.value in entries:
                first = entries[key.value].key
                raise InputError.single(
                    f"key {key.value!r} stands twice", location=place,
                    hint=f"keep one; the first is at line {first.line}" if first and first.line else "keep one",
                )  # fmt: skip
            entries[key.value] = self.tree(value, place)
        return entries

    def _locate(self, node: yaml.Node) -> Location:
        mark = node.start_mark
        return self._place or Location(self._source, mark.line + 1, mark.column + 1)


def _typed(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 400 else float(text)  # Python refuses to read integers of thousands of digits
    if _FLOAT.fullmatch(text):
        return float(text)
    return int(text, 0) if _OTHER_BASE.fullmatch(text) else text


def _syntax_error(error: yaml.YAMLError, source: str, place: Location | None) -> InputError:
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
    location = place or (Location(source, mark.line + 1, mark.column + 1) if mark else Location(source))
    return InputError.single(f"is not valid YAML: {problem}", hint=hint, location=location)
