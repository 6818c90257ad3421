"""Models that a browser sends: read from their bytes, written out again by this program under a name of its own."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from costmodel.errors import InputError
from costmodel.reading import confined_to
from costmodel.schema.assemble import Assembly
from costmodel.schema.files import imported_yaml
from costmodel.schema.loader import parse_tree
from costmodel.schema.model import ModelFile
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.schema.writing import yaml_of

MOST_UPLOADS = 64


def import_model(data: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Return the name, the file and notes on a model that a browser sends, as a config.json or as YAML.

    Raises InputError where it is neither, or names another file.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError.single("is not UTF-8 text", hint="send a config.json or a model's YAML") from None
    name = f"uploaded-{hashlib.sha256(data).hexdigest()[:12]}"
    if text.lstrip().startswith("{"):
        with tempfile.TemporaryDirectory() as folder, confined_to(folder):
            file = Path(folder) / "config.json"
            file.write_text(text, encoding="utf-8")
            said = {
                "name": name,
                "sources": [{"fields": ["hidden", "layers"], "cite": "sent to the page", "kind": "derived"}],
            }
            written, notes = imported_yaml(file, stated=said)
            return name, written, tuple(note.replace(str(file), "config.json") for note in notes)
    tree = parse_tree(text, "the file")
    _check(tree)
    assembly = Assembly(Library())
    with assembly.raising_problems():
        assembly.part(ModelFile, tree.without("schema")).require()
        named = tree.without("schema", "aliases").with_entries(name=Tree(name))
        return name, yaml_of(named, "model"), ()


def _check(tree: Tree) -> None:
    """Raise InputError where a document is no model, or rests on another file."""
    if not tree.is_mapping or tree.text("schema") != "costmodel/model@1":
        hint = "send a file with `schema: costmodel/model@1`, or a config.json"
        raise InputError.single("this is no model", hint=hint, location=tree.location)
    if tree.child("extends") is not None:
        raise InputError.single(
            "names another file, which a page does not read", hint="send the whole model", field="extends",
            location=tree.location,
        )  # fmt: skip
