"""Keys with a second accepted name, the field's usual word: read as ours wherever a file or an override has them."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.tree import Tree

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
