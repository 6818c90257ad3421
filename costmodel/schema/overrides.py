"""`--set path=value`: which document a path of the resolved workload lies in, and the change made there.

A path starts with `model`, `scenarios.NAME` or `hardware`. Changes are made on the documents as written, before they
are checked, so that a changed value is held to the same rules and reported at `--set path=value`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from costmodel.errors import InputError, Location, Problem
from costmodel.schema.loader import kind_of, parse_tree
from costmodel.schema.quantity import SI
from costmodel.schema.references import suggest
from costmodel.schema.tree import Tree, replace_at

DocumentName: TypeAlias = str  # "model", "scenario", "cluster", "node", "device" or "framework"

_OPEN = ("math", "links", "implementations")  # mappings whose keys are names, not fields


@dataclass(frozen=True, slots=True, eq=False)
class OverrideTarget:
    """A path of the resolved document: in which scenario (None: all), in which of its documents, where there."""

    scenario: str | None
    document: DocumentName
    path: tuple[str, ...]

    def for_number(self) -> OverrideTarget:
        """Return where a number for this place stands: one for `clock` is the tensor reference clock."""
        short = (self.document, self.path) == ("device", ("clock",))
        return OverrideTarget(self.scenario, self.document, ("clock", "tensor_reference")) if short else self


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """A new value at a place; `label` is how the user wrote it."""

    target: OverrideTarget
    value: Tree


def read_overrides(values: Mapping[str, object], scenarios: Sequence[str]) -> list[Override]:
    """Return the changes that `values` (path -> YAML text, number or SI) asks for, unknown paths raise InputError."""
    made: list[Override] = []
    problems: list[Problem] = []
    for path, value in values.items():
        try:
            made.append(_read(path, value, scenarios))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    return made


def _read(path: str, value: object, scenarios: Sequence[str]) -> Override:
    label = Location(f"--set {path}={_shown(value)}")
    tree = parse_tree(value, label.source, place=label) if isinstance(value, str) else _from_python(value, label)
    place = locate(path, scenarios, label)
    return Override(place if tree.is_mapping else place.for_number(), tree)


def locate(path: str, scenarios: Sequence[str], label: Location | None = None) -> OverrideTarget:
    """Return the place of a path such as `hardware.memory.hbm.bandwidth` or `scenarios.decode.parallel.ep`."""
    head, *rest = path.split(".")
    if head == "model":
        return OverrideTarget(None, "model", tuple(rest)) if rest else OverrideTarget(None, "workload", ("model",))
    if head == "hardware" and rest:
        return _in_hardware(None, rest)
    if head == "scenarios" and len(rest) > 1:
        name, *inner = rest
        if name not in scenarios:
            raise InputError.single(
                f"no scenario is named {name!r}", hint=suggest(name, scenarios), field=path, location=label
            )
        return _in_scenario(name, inner)
    if head in ("hardware", "scenarios"):
        hint = "name a field below it, as in `hardware.memory.hbm.bandwidth` or `scenarios.NAME.parallel.tp`"
        raise InputError.single("names a whole section, not a value", hint=hint, field=path, location=label)
    hint = suggest(head, ("model", "scenarios", "hardware"))
    if hint.startswith("known"):
        hint = f"paths start with model, hardware or scenarios.NAME: did you mean `scenarios.NAME.{path}`?"
    raise InputError.single(f"no path starts with {head!r}", hint=hint, field=path, location=label)


def apply_overrides(tree: Tree, changes: Sequence[Override], field: str = "") -> Tree:
    """Return `tree` with `changes` made in their order."""
    for change in changes:
        _check_names(tree, change, field)
        try:
            tree = replace_at(tree, change.target.path, change.value)
        except LookupError as error:
            stopped, part = error.args
            raise _no_such(stopped, part, change, field) from None
    return tree


def _in_scenario(name: str, inner: Sequence[str]) -> OverrideTarget:
    head, *rest = inner
    if head == "hardware" and rest:
        return _in_hardware(name, rest)
    if head in ("cluster", "framework") and rest:
        return OverrideTarget(name, head, tuple(rest))
    return OverrideTarget(name, "scenario", tuple(inner))


def _in_hardware(scenario: str | None, path: Sequence[str]) -> OverrideTarget:
    """Return the place of what follows `hardware`; what is no part of it is a field of the device."""
    match list(path):
        case ["device"]:
            return OverrideTarget(scenario, "node", ("device",))
        case ["node"] | ["network", *_]:
            return OverrideTarget(scenario, "cluster", tuple(path))
        case ["node", "device", *rest] | ["device", *rest] if rest:
            return OverrideTarget(scenario, "device", tuple(rest))
        case ["node", *rest]:
            return OverrideTarget(scenario, "node", tuple(rest))
    return OverrideTarget(scenario, "device", tuple(path))


def _check_names(tree: Tree, change: Override, field: str) -> None:
    """Raise InputError where a path goes through a name that a mapping of names does not have."""
    path = change.target.path
    for at, part in enumerate(path[:-2]):
        below = tree.at(path[: at + 1])
        if part in _OPEN and below is not None and below.is_mapping and below.child(path[at + 1]) is None:
            raise _no_such(below, path[at + 1], change, field)


def _no_such(stopped: Tree, part: str, change: Override, field: str) -> InputError:
    known: Iterator[str | None] | list[str]
    if isinstance(stopped.value, list):
        known = [name or str(at) for at, name in enumerate(stopped.names())]
    else:
        known = list(stopped.value) if stopped.is_mapping else []
    path = ".".join(piece for piece in (field, *change.target.path) if piece)
    if not known:
        return InputError.single(
            f"{part!r} is below {kind_of(stopped.value)} that has no fields", hint="shorten the path",
            field=path, location=change.value.location,
        )  # fmt: skip
    return InputError.single(
        f"nothing here is named {part!r}", hint=suggest(part, known), field=path, location=change.value.location
    )


def _from_python(value: Any, label: Location) -> Tree:
    if isinstance(value, dict):
        return Tree({str(key): _from_python(item, label) for key, item in value.items()}, label, label)
    if isinstance(value, (list, tuple)):
        return Tree([_from_python(item, label) for item in value], label, label)
    return Tree(value.item() if isinstance(value, np.generic) else value, label, label)


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray) or (isinstance(value, SI) and isinstance(value.value, np.ndarray)):
        return "array"
    return str(value.value if isinstance(value, SI) else value)
