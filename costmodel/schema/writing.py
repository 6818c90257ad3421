"""A document as YAML text for people to keep and edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from costmodel.schema.loader import parse_tree
from costmodel.schema.tree import Tree, to_python

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
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_tree(value, "").value == value:
        return value
    return json.dumps(value, ensure_ascii=False)
