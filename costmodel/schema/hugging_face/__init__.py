"""A Hugging Face config.json as a model document: read by the table of its family. Ignored keys are listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from costmodel.errors import InputError, Location, kind_of
from costmodel.records import Record
from costmodel.schema.hugging_face.config import Config
from costmodel.schema.hugging_face.model import model_tree
from costmodel.schema.hugging_face.quantization import quantization_of
from costmodel.schema.hugging_face.tables import Family, keys_of, table
from costmodel.schema.hugging_face.wrappers import Source, audio_of, encoder_of, find_source
from costmodel.schema.inputs import is_file
from costmodel.schema.loader import MAX_BYTES, parse_json, read_text
from costmodel.schema.model_names import CONFIG
from costmodel.schema.references import display_path
from costmodel.schema.tree import Tree, to_python

_QUANTISED = "quantization_config"
_QUANTISED_BESIDE = "hf_quant_config.json"
_SHOWN = 60  # characters of a value in a note


class Imported(Record):
    """A model document, its values located in config.json, and notes on the keys that are ignored."""

    tree: Tree
    notes: tuple[str, ...]


def import_config(path: Path, origin: Location | None = None, chosen: str | None = None) -> Imported:
    """Return the model of a config.json or of a folder that contains one. Raises InputError at the invalid key.

    origin: where the path was written.
    chosen: the family to read it by (null: as the file says).
    """
    file = path / CONFIG if path.is_dir() else path
    if not is_file(file):
        message = f"{display_path(path)} {f'is a folder without a {CONFIG}' if path.is_dir() else 'not found'}"
        hint = f"name a {CONFIG} or a folder that contains one"
        raise InputError.single(message, hint=hint, field="model.hf", location=origin)
    tree = parse_json(read_text(file, display_path(file), MAX_BYTES), display_path(file))
    if not tree.is_mapping:
        raise tree.error(f"must be an object at top level, not {kind_of(tree.value)}", "write an object {…}")
    source = find_source(tree, chosen)
    audio = audio_of(source)
    if audio is not None:
        raise audio.error("towers for sound cannot be imported", "remove it to import the rest", "audio_config")
    name = _name(tree, file)
    config = Config(source.tree, source.family)
    document = model_tree(config, name)
    encoder = encoder_of(source, config.size("hidden"))
    document = document if encoder is None else document.with_entries(encoder=encoder)
    formats = _formats(source, file, config.depth())
    if isinstance(formats, dict):
        shown = display_path(file)
        document = document.with_entries(quantization=parse_json(json.dumps(formats), shown))
    return Imported(document, tuple(_notes(source, display_path(file), formats)))


def _formats(source: Source, file: Path, depth: int) -> dict[str, Any] | str | None:
    """Return the number formats of the checkpoint: of config.json, or of the file that ModelOpt writes next to it."""
    other = file.parent / _QUANTISED_BESIDE
    more = None
    if is_file(other) and file.name == CONFIG:
        more = to_python(parse_json(read_text(other, display_path(other), MAX_BYTES), display_path(other)))
    return quantization_of(to_python(source.tree), more, depth, source.family.get("modules", {}))


def _name(tree: Tree, file: Path) -> Tree:
    """Return the name of the model: the file's own, else its folder's, else that of the file itself."""
    own = (tree.text("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    fallback = file.resolve().parent.name if file.name == CONFIG else file.stem
    return Tree(own or fallback or "model", tree.location)


def _notes(source: Source, file: str, formats: object) -> Iterator[str]:
    """Yield a note on the ignored keys of a config.json, and on what named its family."""
    if source.alias is not None:
        yield f"{file}: read {source.alias}"
    ignored = list(_ignored(source.tree, source.family, ""))
    if ignored:
        yield f"{file}: ignored keys: {', '.join(ignored)}"
    if isinstance(formats, str):
        yield f"{file}: {_QUANTISED}: {formats} is not known; state the scenario's `precision`"


def _ignored(tree: Tree, family: Family, prefix: str) -> Iterator[str]:
    """Yield `key = value` of every key that is neither in the family's table nor known to affect no cost."""
    read = {name for key in keys_of(family) for name in key.names}
    known = read.union(family.get("must", ()), family.get("inert", ()), table("names")["inert"], (_QUANTISED,))
    for name, item in tree.value.items():
        path = f"{prefix}{name}"
        if path in known or item.value is None:
            continue
        if item.is_mapping and any(other.startswith(f"{path}.") for other in known):
            yield from _ignored(item, family, f"{path}.")
            continue
        text = json.dumps(to_python(item))
        yield f"{path} = {text if len(text) <= _SHOWN else text[:_SHOWN] + ' …'}"
