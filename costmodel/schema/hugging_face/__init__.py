"""A Hugging Face config.json as a model document: read by the table of its family; ignored keys are listed."""

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
from costmodel.schema.references import available, did_you_mean, display_path
from costmodel.schema.tree import Tree, to_python

FILE = "config.json"
_QUANTISED = "quantization_config"
_SHOWN = 60  # characters of a value in a note


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A model document, its values located in config.json, and notes on the keys that are ignored."""

    tree: Tree
    notes: tuple[str, ...]


def is_config(path: Path) -> bool:
    """Tell whether a path means a config.json: a JSON file, or a folder that contains one."""
    return path.suffix == ".json" or (path / FILE).is_file()


def import_config(path: Path, origin: Location | None = None) -> Imported:
    """Return the model of a config.json or of a folder that contains one; raise InputError at the invalid key.

    origin: where the path was written.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        message = f"{display_path(path)} {f'is a folder without a {FILE}' if path.is_dir() else 'not found'}"
        hint = f"name a {FILE} or a folder that contains one"
        raise InputError.single(message, hint=hint, field="model.hf", location=origin)
    tree = parse_json(read_text(file, display_path(file), MAX_BYTES), display_path(file))
    if not tree.is_mapping:
        raise InputError.single(
            f"must be an object at top level, not {kind_of(tree.value)}", hint="write an object {…}",
            location=tree.location,
        )  # fmt: skip
    family = _family(tree)
    document = model_tree(Config(tree, family), _name(tree, file))
    return Imported(document, tuple(_notes(tree, family, display_path(file))))


def _family(tree: Tree) -> Family:
    """Return the table of the file's architecture."""
    kind = tree.child("model_type")
    if kind is None or not isinstance(kind.value, str):
        hint = f"add it; {available(list(FAMILIES))}"
        raise InputError.single("is missing", hint=hint, field="model_type", location=tree.location)
    if kind.value not in FAMILIES:
        hints = [did_you_mean(kind.value, list(FAMILIES)), available(list(FAMILIES))]
        if tree.child("text_config"):
            hints.append("its `text_config` is a language model of its own: put that in a file")
        raise InputError.single(
            f"{kind.value!r}: this architecture cannot be imported",
            hint="; ".join([*filter(None, hints), f"or {BY_HAND}"]), field="model_type", location=kind.location,
        )  # fmt: skip
    return FAMILIES[kind.value]


def _name(tree: Tree, file: Path) -> Tree:
    """Return the name of the model: the file's own, else its folder's, else that of the file itself."""
    own = (tree.text("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    fallback = file.resolve().parent.name if file.name == FILE else file.stem
    return Tree(own or fallback or "model", tree.location)


def _notes(tree: Tree, family: Family, file: str) -> Iterator[str]:
    """Yield a note on the ignored keys of a config.json."""
    ignored = list(_ignored(tree, family, ""))
    if ignored:
        yield f"{file}: ignored keys: {', '.join(ignored)}"
    if tree.child(_QUANTISED) is not None:
        yield f"{file}: {_QUANTISED} is ignored; set the scenario's `precision` instead"


def _ignored(tree: Tree, family: Family, prefix: str) -> Iterator[str]:
    """Yield `key = value` of every key that is neither in the family's table nor known to affect no cost."""
    read = {name for key in keys_of(family) for name in (key.name, key.older_name)}
    known = read | set(family.get("must", {})) | set(family.get("inert", ())) | INERT | {_QUANTISED}
    for name, item in tree.value.items():
        path = f"{prefix}{name}"
        if path in known or item.value is None:
            continue
        if item.is_mapping and any(other.startswith(f"{path}.") for other in known):
            yield from _ignored(item, family, f"{path}.")
            continue
        text = json.dumps(to_python(item))
        yield f"{path} = {text if len(text) <= _SHOWN else text[:_SHOWN] + ' …'}"
