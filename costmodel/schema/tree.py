"""A document as written: nested mappings, lists and scalars, each with its location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from costmodel.errors import InputError, Location
from costmodel.records import Record, replace
from costmodel.units import whole

PathPart: TypeAlias = "str | int"
KEPT = 1024  # documents of files that are kept: all shipped ones and some more


class Tree(Record, weakref=True):
    """One value: a dict or a list of trees, or a scalar. `key` is the location of its key."""

    value: Any
    location: Location | None = None
    key: Location | None = None

    @property
    def is_mapping(self) -> bool:
        """Tell whether the value is a mapping."""
        return isinstance(self.value, dict)

    def child(self, part: PathPart) -> Tree | None:
        """Return the entry under a key, or the list item with an index or name. None if there is none."""
        if isinstance(self.value, dict):
            entry = self.value.get(part)
            return entry if isinstance(entry, Tree) else None
        if isinstance(self.value, list):
            index = self.index(part)
            return None if index is None else self.value[index]
        return None

    def index(self, part: PathPart) -> int | None:
        """Return the position of a list item, addressed by number or by its `name`."""
        number = part if isinstance(part, int) else whole(part)
        if number is not None:
            return number if number < len(self.value) else None
        return next((i for i, name in enumerate(self.names()) if name == part), None)

    def names(self) -> Iterator[str | None]:
        """Yield the `name` of every list item, None for an item without one."""
        for item in self.value:
            yield item.text("name") if item.is_mapping else None

    def at(self, path: Sequence[PathPart]) -> Tree | None:
        """Return the tree at `path`, or None."""
        current: Tree | None = self
        for part in path:
            current = current.child(part) if current is not None else None
        return current

    def text(self, key: str) -> str | None:
        """Return the string under `key`, None if there is none or it is no string."""
        entry = self.child(key)
        return entry.value if entry is not None and isinstance(entry.value, str) else None

    def error(self, message: str, hint: str = "", field: str = "") -> InputError:
        """Return an error at the value."""
        return InputError.single(message, hint=hint, field=field, location=self.location)

    def without(self, *keys: str) -> Tree:
        """Return the mapping without `keys`."""
        return replace(self, value={key: item for key, item in self.value.items() if key not in keys})

    def with_entries(self, **entries: Tree) -> Tree:
        """Return the mapping with `entries` added or replaced."""
        return replace(self, value={**self.value, **entries})


def to_python(tree: Tree) -> Any:
    """Return the nested dicts, lists and scalars of a tree."""
    if isinstance(tree.value, dict):
        return {key: to_python(item) for key, item in tree.value.items()}
    if isinstance(tree.value, list):
        return [to_python(item) for item in tree.value]
    return tree.value


def merge(base: Tree, over: Tree) -> Tree:
    """Return `base` extended by `over`: mappings merge, lists of named items merge by name, all else replaces."""
    if base.is_mapping and over.is_mapping:
        merged = dict(base.value)
        for key, item in over.value.items():
            merged[key] = merge(merged[key], item) if key in merged else item
        return replace(over, value=merged)
    if all(isinstance(each.value, list) and each.value and all(each.names()) for each in (base, over)):
        items = dict(zip(base.names(), base.value, strict=True))
        for name, item in zip(over.names(), over.value, strict=True):
            items[name] = merge(items[name], item) if name in items else item
        return replace(over, value=list(items.values()))
    return over


def replace_at(tree: Tree, path: Sequence[PathPart], new: Tree) -> Tree:
    """Return `tree` with `new` at `path`. Missing mappings are created, everything else is shared.

    Raise LookupError(tree, part) where a list has no such item or the path goes through a scalar.
    """
    if not path:
        return replace(new, key=new.key or tree.key)
    part, rest = path[0], path[1:]
    if isinstance(tree.value, list):
        index = tree.index(part)
        if index is None:
            raise LookupError(tree, part)
        items = list(tree.value)
        items[index] = replace_at(items[index], rest, new)
        return replace(tree, value=items)
    if tree.value is None:
        tree = Tree({}, new.location, tree.key)
    if not tree.is_mapping:
        raise LookupError(tree, part)
    below = tree.value.get(part, Tree(None, new.location, new.location))
    return replace(tree, value={**tree.value, part: replace_at(below, rest, new)})


# ---- Keys with a second accepted name, the field's usual word: read as ours wherever a file or an override has them.

ALIASES: dict[tuple[str, str], str] = {
    ("parallel", "tensor_parallel"): "tp",
    ("parallel", "pipeline_parallel"): "pp",
    ("parallel", "data_parallel"): "dp",
    ("parallel", "expert_parallel"): "ep",
    ("parallel", "context_parallel"): "cp",
    ("parallel", "virtual_stages"): "virtual",
    ("communication", "sms"): "processors",
    ("device", "sms"): "processors",
    ("optimizer", "hybrid_shard_size"): "shard_group",
    ("routing", "redundant_experts"): "redundant",
    ("simulation", "deadlock_timeout"): "patience",
    ("ffn", "topk_group"): "group_top_k",
}
"""(key of the enclosing mapping, for a whole file its kind; alias) -> our key."""


def without_aliases(tree: Tree, mapping: str) -> Tree:
    """Return a document with our keys for aliases. Raises InputError where a mapping has both names of one key.

    mapping: the key of the document, for a whole file its kind.
    """
    if isinstance(tree.value, list):
        items = [without_aliases(item, mapping) for item in tree.value]
        unchanged = all(new is old for new, old in zip(items, tree.value, strict=True))
        return tree if unchanged else replace(tree, value=items)
    if not tree.is_mapping:
        return tree
    entries: dict[str, Tree] = {}
    for key, item in tree.value.items():
        ours = ALIASES.get((mapping, key), key)
        if ours != key and ours in tree.value:
            raise InputError.single(
                f"`{key}` and `{ours}` are two names of one key", hint="keep one", field=f"{mapping}.{key}",
                location=item.key,
            )  # fmt: skip
        entries[ours] = without_aliases(item, key)
    unchanged = all(entries.get(key) is item for key, item in tree.value.items())
    return tree if unchanged else replace(tree, value=entries)


def path_without_aliases(document: str, path: Sequence[str]) -> tuple[str, ...]:
    """Return a path inside a document with our keys for aliases."""
    mappings = (document, *path)
    return tuple(ALIASES.get((mapping, key), key) for mapping, key in zip(mappings, path, strict=False))
