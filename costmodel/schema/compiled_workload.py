"""A workload from the compiled catalogue, whose files are read when something other than its records is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from costmodel.records import MutableRecord, replace
from costmodel.schema import catalogue
from costmodel.schema.catalogue import Question
from costmodel.schema.inputs import Answers
from costmodel.schema.references import Library
from costmodel.schema.resolved import Documents, ResolvedWorkload
from costmodel.schema.tree import Tree


class DocumentsOfFiles(MutableRecord, eq=False):
    """The documents of a workload without changes, read when first asked for. The arguments are those of `resolve`."""

    workload: str | Path
    cluster: str | tuple[str, ...] | None
    search_path: tuple[str | Path, ...]
    scenarios: tuple[str, ...] | None
    _read: Documents | None = None

    @property
    def document(self) -> dict[str, Any]:
        """Return the resolved document."""
        return self._documents.document

    @property
    def trees(self) -> dict[str, dict[str, Tree]]:
        """Return the documents as written."""
        return self._documents.trees

    def recall(self) -> ResolvedWorkload | None:
        """Return the workload as the catalogue has it, null where it has none that its files still make."""
        recalled = catalogue.recall(self._question)
        return None if recalled is None else replace(recalled.answer, documents=self)

    def keep(self, resolved: ResolvedWorkload, rests_on: Answers) -> None:
        """Let the catalogue keep the workload, unless there is something to warn of, at its place in a file."""
        if not resolved.warnings:
            catalogue.keep(self._question, rests_on, replace(resolved, documents=None))

    @property
    def _question(self) -> Question:
        words = (str(self.workload), self.cluster, self.scenarios)
        return Question("workload", words, Library(self.search_path).roots)

    @property
    def _documents(self) -> Documents:
        if self._read is None:
            from costmodel.schema.resolve import resolve  # YAML and pydantic load where files are read

            resolved = resolve(
                self.workload, cluster=self.cluster, search_path=self.search_path, scenarios=self.scenarios
            )
            self._read = resolved.documents
            assert self._read is not None
        return self._read
