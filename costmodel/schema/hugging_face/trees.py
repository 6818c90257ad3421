"""Mappings of a model document from the facts of a config.json: trees.yaml says which key has which fact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.tables import table
from costmodel.schema.tree import Tree

_READ: dict[str, Callable[[Config, str], Any]] = {
    "size": Config.size,
    "count": Config.count,
    "nullable": Config.count,
    "value": Config.value,
    "flag": lambda config, fact: config.flag(fact) or None,
    "unless": lambda config, fact: None if config.flag(fact) else False,
}


def mapping(config: Config, name: str, **made: Any) -> dict[str, Tree]:
    """Return a mapping of the table, each value at the place of its fact.

    made: the values that the table leaves to code; null: no key. A tree has a place of its own.
    """
    document: dict[str, Tree] = {}
    for key, rule in table("trees")[name].items():
        reader, *facts = rule.split()
        if reader == "is":
            value: Any = facts.pop(0)
        elif reader == "made":
            value = made[key]
        else:
            value = _READ[reader](config, facts[0] if facts else key)
        if value is not None or reader == "nullable":
            document[key] = value if isinstance(value, Tree) else config.leaf(value, facts[-1] if facts else key)
    return document
