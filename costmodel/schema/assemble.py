"""The documents of a scenario: read once, changed as the user asks, checked, every problem noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from costmodel.errors import InputError, Problem
from costmodel.schema.loader import kind_of
from costmodel.schema.overrides import Override, apply_overrides
from costmodel.schema.references import Library, folder_of, relative_path
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import Tree, merge

File = TypeVar("File", bound=Strict)


class Stop(Exception):
    """Ends the work on one part whose problems are already noted."""


@dataclass(frozen=True, slots=True, eq=False)
class DocumentPart(Generic[File]):
    """One document of a scenario as written, changes made. `stated` is the document before the changes."""

    tree: Tree
    original: Tree
    _file: File | None

    @property
    def file(self) -> File:
        """Return the checked document; stop where it has problems."""
        if self._file is None:
            raise Stop
        return self._file

    def require(self) -> None:
        """Stop where the document has problems."""
        if self._file is None:
            raise Stop


class Assembly:
    """Makes parts, once for all scenarios that share them, and notes every problem on the way.

    notes: what people should know of what was read, such as keys of a config.json that are not mapped.
    """

    def __init__(self, library: Library, overrides: Sequence[Override] = ()) -> None:
        self.library = library
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._overrides = overrides
        self._used: set[Override] = set()
        self._parts: dict[tuple[object, ...], Any] = {}

    @contextmanager
    def collecting_problems(self) -> Iterator[None]:
        """Note the problems of what is done inside, and go on after it."""
        try:
            yield
        except InputError as error:
            self.problems.extend(error.problems)
        except Stop:
            pass

    def overrides_of(self, target: str, scenario: str | None) -> list[Override]:
        """Return the changes that the user makes to one document of a scenario, in their order."""
        return [
            change for change in self._overrides
            if change.target.document == target and change.target.scenario in (None, scenario)
        ]  # fmt: skip

    def part(
        self, model: type[File], stated: Tree, changes: Sequence[Override] = (), field: str = ""
    ) -> DocumentPart[File]:
        """Return a document with `changes` made, checked as `model`."""
        self._used.update(changes)
        key = (model, stated, *changes)
        if key not in self._parts:
            tree = apply_overrides(stated, changes, field)
            self._parts[key] = DocumentPart(tree, stated, validate_tree(model, tree, self.problems, field))
        return self._parts[key]  # type: ignore[no-any-return]

    def inline_or_named(self, reference: Tree, schema: str, field: str) -> tuple[Tree, str]:
        """Return the document that a reference names or holds, and the field below which its own fields stand."""
        if reference.is_mapping:
            return self.library.extend(reference, schema), field
        return self.library.document(reference, folder_of(schema), schema, field), ""

    def model(self, reference: Tree, field: str) -> tuple[Tree, str]:
        """Return the model that a reference means, and the field below which its own fields stand.

        Beside a name and a mapping this may be a config.json or its folder: a path to it, or `{hf: PATH}`, whose other
        keys replace what was imported.
        """
        stated = reference.child("hf") if reference.is_mapping else None
        if stated is not None:
            if not isinstance(stated.value, str) or not stated.value:
                raise InputError.single(
                    f"must be a path, not {kind_of(stated.value)}", hint="write the path of a config.json",
                    field=f"{field}.hf".lstrip("."), location=stated.location,
                )  # fmt: skip
            base = reference.child("extends")
            if base is not None:
                raise InputError.single(
                    "a model is imported or extends another, not both", hint="keep `hf` or `extends`",
                    field=f"{field}.extends".lstrip("."), location=base.key,
                )  # fmt: skip
            return merge(self._imported(stated), reference.without("hf")), field
        text = reference.value
        if isinstance(text, str) and text.startswith("./") and _is_config(relative_path(text, reference.location)):
            return self._imported(reference), ""
        return self.inline_or_named(reference, "model", field)

    def _imported(self, path: Tree) -> Tree:
        """Return the model of a config.json, and note what of it is not mapped."""
        from costmodel.schema.hugging_face import import_config  # few models are imported

        imported = import_config(relative_path(path.value, path.location), path.location)
        self.notes.extend(imported.notes)
        return imported.tree

    def report_unused(self) -> None:
        """Note the changes for all scenarios that changed nothing in any."""
        for change in self._overrides:
            if change.target.scenario is None and change not in self._used:
                message = "changes nothing: no selected scenario has that part"
                self.problems.append(Problem(change.value.location, "", message, "name a cluster that has it"))


def _is_config(path: Path) -> bool:
    """Tell whether a path means a config.json."""
    from costmodel.schema.hugging_face import is_config

    return is_config(path)
