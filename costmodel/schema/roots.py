"""The folders that the search path names: what each holds, and which of its files hide others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from costmodel.errors import Problem
from costmodel.records import ValueRecord
from costmodel.schema.references import FOLDERS, Library

WORKLOADS = "workloads"
KINDS = (*FOLDERS, WORKLOADS)
PARTS = tuple(dict.fromkeys([*FOLDERS.values(), WORKLOADS]))  # folders of a root
OPTION, VARIABLE, SHIPPED = "--path", "COSTMODEL_PATH", "shipped"


class Root(ValueRecord):
    """A folder of the search path.

    named_by: what names it.
    parts: those of `hardware` and `workloads` that it has.
    counts: files by kind.
    shadows: `kind/name` of its files that later roots have, too, and that are read from here.
    """

    path: Path
    named_by: str
    is_there: bool
    parts: tuple[str, ...]
    counts: Mapping[str, int]
    shadows: tuple[str, ...]

    @property
    def problem(self) -> Problem | None:
        """Return why nothing is in it, null where something is."""
        if self.parts:
            return None
        if self.named_by == SHIPPED:
            message = f"{self.path} holds no data: the installation is broken"
            return Problem(None, SHIPPED, message, "pip install --force-reinstall costmodel")
        if not self.is_there:
            message = "is no folder" if os.path.lexists(self.path) else "does not exist"
            hint = "create it, or name another one"
            return Problem(None, self.named_by, f"{self.path} {message}", hint)
        real = Path(os.path.realpath(self.path))
        hint = f"name {real.parent}" if real.name in PARTS else "name the folder that holds them"
        return Problem(None, self.named_by, f"{self.path} has neither hardware/ nor workloads/", hint)


def roots(search_path: Sequence[str | Path] = ()) -> tuple[Root, ...]:
    """Return the roots of the search path in the order in which files are looked for: the first one that has a file."""
    library = Library(search_path)
    names = [{kind: library.names_in(root, kind) for kind in KINDS} for root in library.roots]
    real = [os.path.realpath(root) for root in library.roots]
    listed = []
    for i, path in enumerate(library.roots):
        named_by = OPTION if i < len(search_path) else VARIABLE if i < len(library.roots) - 1 else SHIPPED
        later = [names[j] for j in range(i + 1, len(names)) if real[j] != real[i]]
        shadows = (
            f"{kind}/{name}"
            for kind in KINDS
            for name in sorted(names[i][kind])
            if any(name in other[kind] for other in later)
        )
        parts = tuple(part for part in PARTS if os.path.isdir(path / part))  # Path's raises where it may not look
        counts = {kind: len(names[i][kind]) for kind in KINDS}
        listed.append(Root(path, named_by, os.path.isdir(path), parts, counts, tuple(shadows)))
    return tuple(listed)
