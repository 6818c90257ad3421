"""A Hugging Face config.json as a model document: read by the table of its family; unmapped keys are listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from costmodel.errors import InputError, Location
from costmodel.schema.hugging_face.config import BY_HAND, Config
from costmodel.schema.hugging_face.families import FAMILIES, INERT, Family, keys_of
from costmodel.schema.hugging_face.model import model_tree
from costmodel.schema.json_tree import parse_json
from costmodel.schema.loader import MAX_BYTES, kind_of, read_text
from costmodel.schema.references import display_path, suggest
from costmodel.schema.tree import Tree, to_python

FILE = "config.json"
_QUANTISED = "quantization_config"
_SHOWN = 60  # characters of a value that a note shows


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A model document, its values at their places in config.json, and what of that file it leaves out."""

    tree: Tree
    notes: tuple[str, ...]


def is_config(path: Path) -> bool:
    """Tell whether a path means a config.json: a JSON file, or a folder that holds one."""
    return path.suffix == ".json" or (path / FILE).is_file()


def import_config(path: Path, origin: Location | None = None) -> Imported:
    """Return the model of a config.json or of the folder that holds one; raise InputError at the key that is wrong.

    origin: where the path was written.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        found = f"is a folder without a {FILE}" if path.is_dir() else "is no file or folder"
        hint = f"name a {FILE} or the folder that holds it"
        raise InputError.single(f"{display_path(path)} {found}", hint=hint, field="model.hf", location=origin)
    tree = parse_json(read_text(file, display_path(file), MAX_BYTES), display_path(file))
    if not tree.is_mapping:
        raise InputError.single(
            f"holds {kind_of(tree.value)} at top level", hint="write an object {…}", location=tree.location
        )
    family = _family(tree)
    document = model_tree(Config(tree, family), _name(tree, file))
    return Imported(document, tuple(_notes(tree, family, display_path(file))))


def _family(tree: Tree) -> Family:
    """Return the table of the architecture that the file says it is."""
    stated, known = tree.child("model_type"), ", ".join(FAMILIES)
    if stated is None or not isinstance(stated.value, str):
        raise InputError.single("is missing", hint=f"add it: {known}", field="model_type", location=tree.location)
    if stated.value not in FAMILIES:
        hint = suggest(stated.value, list(FAMILIES))
        parts = [hint] if hint.startswith("known") else [hint, f"known: {known}"]
        if tree.child("text_config"):
            parts.append("its `text_config` is a language model of its own: put that in a file")
        raise InputError.single(
            f"{stated.value!r} is no architecture that can be imported", hint="; ".join([*parts, f"or {BY_HAND}"]),
            field="model_type", location=stated.location,
        )  # fmt: skip
    return FAMILIES[stated.value]


def _name(tree: Tree, file: Path) -> Tree:
    """Return what the model is called: as the file says, else as its folder, else as the file itself."""
    stated = (tree.text("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    named = file.resolve().parent.name if file.name == FILE else file.stem
    return Tree(stated or named or "model", tree.location)


def _notes(tree: Tree, family: Family, file: str) -> Iterator[str]:
    """Yield what of a config.json has no part in the model."""
    left = list(_unmapped(tree, family, ""))
    if left:
        yield f"{file}: not mapped, and without effect here: {', '.join(left)}"
    if tree.child(_QUANTISED) is not None:
        yield f"{file}: {_QUANTISED} is not mapped: the format of weights is the scenario's `precision`"


def _unmapped(tree: Tree, family: Family, prefix: str) -> Iterator[str]:
    """Yield `key = value` of every key that neither the family's table nor the list of inert keys names."""
    read = {name for key in keys_of(family) for name in (key.name, key.or_name)}
    known = read | set(family.get("must", {})) | set(family.get("inert", ())) | INERT | {_QUANTISED}
    for name, item in tree.value.items():
        path = f"{prefix}{name}"
        if path in known or item.value is None:
            continue
        if item.is_mapping and any(other.startswith(f"{path}.") for other in known):
            yield from _unmapped(item, family, f"{path}.")
            continue
        text = json.dumps(to_python(item))
        yield f"{path} = {text if len(text) <= _SHOWN else text[:_SHOWN] + ' …'}"
