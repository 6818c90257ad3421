"""The documents of a scenario: read once, overrides applied, checked, every problem collected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from costmodel.errors import InputError, Problem, kind_of
from costmodel.records import Record, replace
from costmodel.schema.loader import parse_tree
from costmodel.schema.model_names import is_config, network_of
from costmodel.schema.overrides import Override, absolute, apply_overrides
from costmodel.schema.references import Library, folder_of, relative_path
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import Tree, merge

File = TypeVar("File", bound=Strict)
_HARDWARE = ("cluster", "node", "device")  # documents that the parts of a scenario share


class Stop(Exception):
    """Ends the work on a document whose problems are already collected."""


class DocumentPart(Record, Generic[File]):
    """One document of a scenario with its overrides. `original`: the document before them."""

    tree: Tree
    original: Tree
    _file: File | None

    @property
    def file(self) -> File:
        """Return the checked document. Stop if it has problems."""
        if self._file is None:
            raise Stop
        return self._file

    def require(self) -> None:
        """Stop if the document has problems."""
        if self._file is None:
            raise Stop


class Assembly:
    """Reads and checks documents, once for all scenarios that share them, and collects every problem.

    notes: what users should know about the files read, such as ignored keys of a config.json.
    warnings: values that are unlike all that is known, which `validate` reports as problems.
    """

    def __init__(self, library: Library, overrides: Sequence[Override] = ()) -> None:
        self.library = library
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.warnings: list[Problem] = []
        self._overrides = overrides
        self._used: set[Override] = set()
        self._whole: str | None = None
        self._parts: dict[tuple[object, ...], Any] = {}

    @contextmanager
    def collecting_problems(self) -> Iterator[None]:
        """Collect the problems raised inside, and continue after it."""
        try:
            yield
        except InputError as error:
            self.problems.extend(error.problems)
        except Stop:
            pass

    @contextmanager
    def raising_problems(self) -> Iterator[None]:
        """Raise, where any problem ends what is inside, all that were collected."""
        try:
            yield
        except InputError as error:
            raise InputError(in_order([*self.problems, *error.problems])) from None
        except Stop:
            raise InputError(in_order(self.problems)) from None

    @contextmanager
    def part_of(self, scenario: str) -> Iterator[None]:
        """Read scenarios as parts of another one, whose hardware is theirs."""
        before, self._whole = self._whole, scenario
        try:
            yield
        finally:
            self._whole = before

    def overrides_of(self, document: str, scenario: str | None) -> list[Override]:
        """Return the overrides of one document of a scenario, in their order."""
        whole = self._whole if document in _HARDWARE else None
        return [
            override for override in self._overrides
            if override.target.document == document
            and (override.target.is_in(scenario) or (whole is not None and override.target.is_in(whole)))
        ]  # fmt: skip

    def use(self, overrides: Sequence[Override]) -> None:
        """Note overrides that had an effect elsewhere than in a document."""
        self._used.update(overrides)

    def part(
        self, model: type[File], original: Tree, overrides: Sequence[Override] = (), field: str = ""
    ) -> DocumentPart[File]:
        """Return a document with `overrides`, checked as `model`. field: the field of the document itself."""
        self._used.update(overrides)
        key = (model, original, *overrides)
        if key not in self._parts:
            tree = apply_overrides(original, absolute(model, original, overrides, field), field)
            self._parts[key] = DocumentPart(tree, original, validate_tree(model, tree, self.problems, field))
        return self._parts[key]  # type: ignore[no-any-return]

    def inline_or_named(self, reference: Tree, schema: str, field: str) -> tuple[Tree, str]:
        """Return the document that a reference names or holds, and the field of that document."""
        if reference.is_mapping:
            return self.library.extend(reference, schema), field
        return self.library.document(reference, folder_of(schema), schema, field), ""

    def model(self, reference: Tree, field: str) -> tuple[Tree, str]:
        """Return the model that a reference names or holds, and the field of that document.

        Besides a name, and a mapping that may extend one, it may be a config.json or its folder: a path to it, or `{hf:
        PATH}`, whose other keys replace imported ones. `as` names the family to read it by.
        """
        path = reference.child("hf") if reference.is_mapping else None
        if path is not None:
            _check_import(reference, path, field)
            return merge(self._imported(path, reference.text("as")), reference.without("hf", "as")), field
        text = reference.value
        if isinstance(text, str) and text.startswith("./") and is_config(relative_path(text, reference.location)):
            return self._imported(reference), ""
        base = (reference.child("extends") if reference.is_mapping else None) or reference
        text = base.value
        named = network_of(text, self.library) if isinstance(text, str) and not text.startswith("./") else None
        if named is not None:
            tree = self._by_name(base, *named)
            return (tree, "") if base is reference else (merge(tree, reference.without("extends")), field)
        return self.inline_or_named(reference, "model", field)

    def _by_name(self, reference: Tree, model: str, stored: str | None) -> Tree:
        """Return the catalogue's model in the number formats that a name says, and note what the name was read as."""
        from costmodel.schema.hugging_face.tables import table  # few names are not the catalogue's

        tree = self.library.document(Tree(model, reference.location), "models", "model", "")
        said, own = f"{reference.value.removeprefix('models/')} is read as {model}", tree.child("quantization")
        names, owner = table("quantization")["names"], reference.value.removeprefix("models/").partition("/")[0].lower()
        formats = None if stored is None else names.get(f"{owner}/{stored}", names[stored])
        if formats is None or (own is not None and own.text("weights") == formats["weights"]):
            self.notes.append(f"{said}, by its name")
            return tree
        self.notes.append(f"{said} in {stored}, by its name: its config.json would say which layers stay wide")
        return tree.with_entries(quantization=parse_tree(json.dumps(formats), f"the name {reference.value}"))

    def _imported(self, path: Tree, chosen: str | None = None) -> Tree:
        """Return the model of a config.json, and note its ignored keys."""
        from costmodel.schema.hugging_face import import_config  # few models are imported

        imported = import_config(relative_path(path.value, path.location), path.location, chosen)
        self.notes.extend(imported.notes)
        return imported.tree

    def report_unused(self) -> None:
        """Collect as problems the overrides for all scenarios that apply to none."""
        for override in self._overrides:
            if override.target.scenario is None and override not in self._used:
                message = "has no effect: no selected scenario has this field"
                self.problems.append(Problem(override.value.location, "", message, "name a cluster that has it"))


def _check_import(reference: Tree, path: Tree, field: str) -> None:
    """Raise InputError unless `hf` is a path, and the only base of the model."""
    if not isinstance(path.value, str) or not path.value:
        raise path.error(
            f"must be a path, not {kind_of(path.value)}", "write the path of a config.json", f"{field}.hf".lstrip(".")
        )
    base = reference.child("extends")
    if base is not None:
        raise InputError.single(
            "use either `hf` or `extends`, not both", hint="remove one of them",
            field=f"{field}.extends".lstrip("."), location=base.key,
        )  # fmt: skip


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems without repeats, by file and line. One that several scenarios share names no scenario."""
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        scenario, field = _split_field(problem.field)
        key = (problem.location, field, problem.message, problem.hint, None if problem.location else scenario)
        groups.setdefault(key, []).append(problem)
    merged = [
        group[0] if len({problem.field for problem in group}) == 1
        else replace(group[0], field=_split_field(group[0].field)[1])
        for group in groups.values()
    ]  # fmt: skip

    def position(problem: Problem) -> tuple[str, int, int]:
        location = problem.location
        return (location.source, location.line or 0, location.column or 0) if location else ("", 0, 0)

    return sorted(dict.fromkeys(merged), key=position)


def _split_field(field: str) -> tuple[str, str]:
    """Return the scenario of a problem's field, empty for none, and the path below it."""
    if not field.startswith("scenarios."):
        return "", field
    _, scenario, *rest = field.split(".")
    return scenario, ".".join(rest) or field
