"""What people call machines: `8xH100`, `h100-x8`, `4x RTX 4090`, `h200`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from costmodel.errors import InputError, did_you_mean
from costmodel.records import Record
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree

_IGNORED = re.compile(r"\b(?:nvidia|geforce|amd|instinct)\b|[-_. ]")
_COUNTED = (re.compile(r"(?P<count>\d+) ?[x*] ?(?P<name>.+)"), re.compile(r"(?P<name>.+?)[-_ ]?[x*:](?P<count>\d+)"))
HARDWARE = ("clusters", "nodes", "devices")
_SIZE = re.compile(r"-x\d+$")


class _Node(Record):
    """A node's file. aliases: what it says that it goes by; names: these, and its own, as `_key` has them."""

    reference: str
    device: str
    count: int
    aliases: frozenset[str]
    names: frozenset[str]


def kind_of_name(text: str, library: Library) -> str | None:
    """Return of which folder's kind a name is, null of none."""
    readings = (text.partition("/")[::2], *((kind, text) for kind in HARDWARE))
    return next((kind for kind, name in readings if kind in HARDWARE and library.has(kind, name)), None)


def called(text: str, library: Library) -> tuple[str, int | None] | None:
    """Return the node that a name means which is no file's, and the stated number of devices; null for an unknown one.

    A node goes by its aliases, and by its file's name without the number of its devices. What a device is called too
    (`gb200`) is a node's alias first: `devices/gb200` is the device by itself. Of a stated number it is the
    node that has just as many of this device, else the one that goes by the name, or the smallest that has more.
    Raises InputError for more devices than a node has, in no whole nodes.
    """
    kind = kind_of_name(text, library)
    is_of_device = kind == "devices" and "/" not in text
    if text.startswith("./") or (kind is not None and not is_of_device):
        return None
    nodes, readings = list(_nodes(library)), _readings(text)[: 1 if is_of_device else None]
    known = [(node, node.aliases if is_of_device else node.names) for node in nodes]
    meant = ((node, number) for name, number in readings for node, names in known if name in names and number != 0)
    own, number = next(meant, (None, None))
    if own is None or number is None:
        return None if own is None else (own.reference, None)
    of_device = [node for node in nodes if node.device == own.device]
    larger = [node for node in of_device if node.count > number] if own.count == 1 else []
    one = min(larger, key=lambda node: node.count, default=own)
    one = next((node for node in of_device if node.count == number), one)
    if number > one.count and number % one.count:
        hint = f"write a number below {one.count}, or a multiple of it"
        raise InputError.single(f"{text!r}: {one.reference} has {one.count} devices", hint=hint, field="cluster")
    return one.reference, number


def nearest(text: str, library: Library) -> str:
    """Return a hint with the hardware whose names are nearest to a text, empty if none is near."""
    files = did_you_mean(text, [f"{kind}/{name}" for kind in HARDWARE for name in library.names(kind)])
    return files or did_you_mean(
        _readings(text)[-1][0], sorted({name for node in _nodes(library) for name in node.names})
    )


def _readings(text: str) -> list[tuple[str, int | None]]:
    """Return the names, as `_key` has them, and numbers of devices that a text may state."""
    text = text.removeprefix("nodes/").lower()
    matches = (found for pattern in _COUNTED if (found := pattern.fullmatch(text)) is not None)
    return [(_key(text), None), *((_key(found["name"]), int(found["count"])) for found in matches)]


def _nodes(library: Library) -> Iterator[_Node]:
    """Yield the nodes that can be read: those with aliases first, since what goes by one is meant by most.

    Aliases of a file that a node extends are that file's own.
    """
    documents = []
    for name in library.names("nodes"):
        try:
            documents.append((name, library.document(Tree(f"nodes/{name}"), "nodes", "node", "")))
        except InputError:  # told where it is used
            continue
    for name, document in sorted(documents, key=lambda each: not _aliases(each[1])):
        count, named = document.child("count"), _aliases(document)
        whole = count.value if count is not None and isinstance(count.value, int) else 1
        names = named | {_key(_SIZE.sub("", name))}
        yield _Node(f"nodes/{name}", document.text("device") or "", whole, named, names)


def _aliases(document: Tree) -> frozenset[str]:
    aliases = document.child("aliases")
    if aliases is None or aliases.location is None or document.location is None:
        return frozenset()
    is_own = aliases.location.source == document.location.source
    return frozenset(_key(str(each.value)) for each in aliases.value) if is_own else frozenset()


def _key(name: str) -> str:
    return _IGNORED.sub("", name.lower())
