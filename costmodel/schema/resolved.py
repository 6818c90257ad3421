"""A workload with complete scenarios, as records. Its documents and the origins of values are read when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from costmodel.errors import InputError, Location, Problem
from costmodel.records import Record
from costmodel.schema.tree import Tree
from costmodel.workload.architecture import Architecture
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.schema.overrides import OverrideTarget
    from costmodel.schema.strict import NumberType

AS_PUBLISHED, KNOWING = "number formats as published", "chosen knowing published results"
PROVENANCE = (AS_PUBLISHED, KNOWING)  # in notes that say where a value is from, and move nothing
_DEFAULT = Location("default")


class Documents(Protocol):
    """What the files say."""

    @property
    def document(self) -> dict[str, Any]:
        """Return `model`, and `scenarios.NAME` each with its `hardware`, as nested dicts in SI."""

    @property
    def trees(self) -> dict[str, dict[str, Tree]]:
        """Return the documents of each scenario as written, by kind."""


class KnownDocuments(Record):
    """The documents of a workload that was just read."""

    document: dict[str, Any]
    trees: dict[str, dict[str, Tree]]


class ResolvedWorkload(Record):
    """A workload whose every value is known.

    notes: what the files say that is ignored, for people.
    warnings: values unlike all hardware that is known.
    """

    name: str
    title: str | None
    scenarios: dict[str, Scenario]
    architecture: Architecture
    documents: Documents | None
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """Return `model`, and `scenarios.NAME` each with its `hardware`, as nested dicts in SI."""
        return self._documents.document

    @property
    def _documents(self) -> Documents:
        assert self.documents is not None, "only the catalogue has workloads without documents"
        return self.documents

    def value(self, path: str) -> Any:
        """Return the value at a path of the document. Raises InputError if there is no such path."""
        from costmodel.schema.document import find

        target = self._target(path)
        return find(self.document, target, self._first(target.scenario), path)

    def number(self, path: str) -> NumberType | None:
        """Return the type of the number at a path, null for text, a switch, a list or a mapping.

        Raises InputError if there is no such path.
        """
        from costmodel.schema.document import number_type

        self.value(path)
        target = self._target(path).for_number()
        phase = ""
        if target.document == "scenario":
            phase = self.document["scenarios"][self._first(target.scenario)]["phase"]
        return number_type(target, phase)

    def origin(self, path: str) -> Location | None:
        """Return where the value at `path` was written: a file position, `--set …` or `default`; None: no such path.

        A path for all scenarios (`hardware.…`) is looked up in the first one.
        """
        try:
            target = self._target(path)
            self.value(path)
        except InputError:
            return None
        tree = self._documents.trees[self._first(target.scenario)][target.document].at(target.path)
        return (tree.location or tree.key or _DEFAULT) if tree is not None else _DEFAULT

    def _target(self, path: str) -> OverrideTarget:
        from costmodel.schema.overrides import locate

        return locate(path, list(self._documents.trees) if self.scenarios else [])

    def _first(self, scenario: str | None) -> str:
        """Return the key of the first scenario of a name, null for any. A workload without scenarios has one, too."""
        from costmodel.schema.overrides import is_of

        return next(name for name in self._documents.trees if scenario is None or is_of(scenario, name))
