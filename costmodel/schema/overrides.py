"""`--set path=value`: which document a path of the resolved workload belongs to, and the change made there.

A path starts with `model`, `scenarios.NAME` or `hardware`. Documents are changed as written, before they are checked:
a new value obeys the same rules, and its problems are reported at `--set path=value`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from costmodel.declared import SI, Measure, Whole
from costmodel.errors import InputError, Location, Problem, did_you_mean, kind_of, suggest
from costmodel.records import Record, replace
from costmodel.schema.loader import parse_tree
from costmodel.schema.strict import NumberType, Strict, deeper, number_at, validate_tree
from costmodel.schema.tree import Tree, path_without_aliases, replace_at, to_python, without_aliases
from costmodel.units import base_unit

DocumentName: TypeAlias = str  # "workload", "model", "scenario", "cluster", "node", "device" or "framework"

ON = "@"  # between a scenario and its cluster, where there are several: `decode@dgx-h100`
_DEEPEST = 32  # names in a path
_OPEN = ("math", "links", "implementations")  # mappings whose keys are names, not fields


class OverrideTarget(Record):
    """Where an override applies: in one scenario (None: in all), in which of its documents, at which path there."""

    scenario: str | None
    document: DocumentName
    path: tuple[str, ...]

    def is_in(self, scenario: str | None) -> bool:
        """Tell whether an override applies in a scenario. Null: in the workload as a whole."""
        return self.scenario is None or (scenario is not None and is_of(self.scenario, scenario))

    def for_number(self) -> OverrideTarget:
        """Return where a number goes: one for `clock` is the tensor reference clock."""
        is_clock = (self.document, self.path) == ("device", ("clock",))
        return replace(self, path=("clock", "tensor_reference")) if is_clock else self


class Override(Record):
    """A new value at a target. Its location is the override as the user wrote it."""

    target: OverrideTarget
    value: Tree


def runs(scenarios: Sequence[str], clusters: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return name of a run -> its scenario and the cluster that stands in, null for the scenario's own.

    Of several clusters, each scenario runs on all, and its name tells which. Raises InputError on one given twice.
    """
    if len(clusters) <= 1:
        return {name: (name, *(clusters or (None,))) for name in scenarios}
    short = [cluster.rpartition("/")[2] for cluster in clusters]
    names = short if len(set(short)) == len(short) else [cluster.removeprefix("./") for cluster in clusters]
    if len(set(names)) < len(names):
        raise InputError.single("the same cluster is given twice", hint="keep one of them", field="--cluster")
    words = [re.sub(r"[^\w-]", "-", name.removesuffix(".yaml")) for name in names]
    return {
        f"{name}{ON}{word}": (name, cluster)
        for name in scenarios
        for word, cluster in zip(words, clusters, strict=True)
    }


def is_of(named: str, scenario: str) -> bool:
    """Tell whether a name is that of a scenario. One without a cluster is that of the runs on all clusters."""
    return named in (scenario, scenario.partition(ON)[0])


def expanded(path: str, value: object) -> dict[str, object]:
    """Return a change of a whole scenario, `scenarios.NAME={…}`, as one of each of its keys.

    Raises InputError where the value is no mapping.
    """
    label = Location(f"--set {path}={_display(value)}")
    tree = parse_tree(value, label.source, label=label) if isinstance(value, str) else _from_python(value, label)
    if not tree.is_mapping:
        locate(path, (), label)
    texts = {key: to_python(each) for key, each in tree.value.items()}
    return {f"{path}.{key}": each if isinstance(each, str) else json.dumps(each) for key, each in texts.items()}


def read_overrides(values: Mapping[str, object], scenarios: Sequence[str]) -> list[Override]:
    """Return the overrides of `values`: path -> YAML text, number or SI. Unknown paths raise InputError."""
    overrides: list[Override] = []
    problems: list[Problem] = []
    for path, value in values.items():
        try:
            overrides.append(_read(path, value, scenarios))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    return overrides


def _read(path: str, value: object, scenarios: Sequence[str]) -> Override:
    label = Location(f"--set {path}={_display(value)}")
    tree = parse_tree(value, label.source, label=label) if isinstance(value, str) else _from_python(value, label)
    target = locate(path, scenarios, label)
    tree = without_aliases(tree, target.path[-1])
    return Override(target if tree.is_mapping else target.for_number(), tree)


def locate(path: str, scenarios: Sequence[str], label: Location | None = None) -> OverrideTarget:
    """Return the target of a path such as `hardware.memory.hbm.bandwidth` or `scenarios.decode.parallel.ep`."""
    target = _locate(path, scenarios, label)
    return replace(target, path=path_without_aliases(target.document, target.path))


def _locate(path: str, scenarios: Sequence[str], label: Location | None) -> OverrideTarget:
    head, *rest = path.split(".")
    if len(rest) > _DEEPEST:
        raise InputError.single(f"has more than {_DEEPEST} names", hint="shorten the path", field=f"{path[:40]}…")
    if head == "model":
        return OverrideTarget(None, "model", tuple(rest)) if rest else OverrideTarget(None, "workload", ("model",))
    if head == "hardware" and rest:
        return _in_hardware(None, rest)
    if head == "scenarios" and len(rest) > 1:
        name, *below = rest
        if not any(is_of(name, each) for each in scenarios):
            raise InputError.single(
                f"unknown scenario {name!r}", hint=suggest(name, scenarios), field=path, location=label
            )
        return _in_scenario(name, below)
    if head in ("hardware", "scenarios"):
        hint = "give a field inside it, e.g. `hardware.memory.hbm.bandwidth` or `scenarios.NAME.parallel.tp`"
        raise InputError.single("is a section, not a value", hint=hint, field=path, location=label)
    from costmodel.schema.workload import scenario_key

    scenario = next(iter(scenarios), "NAME")
    meant = ".".join(("scenarios", scenario, scenario_key(head, scenario.partition(ON)[0]) or head, *rest))
    near = did_you_mean(head, ("model", "scenarios", "hardware"))
    hint = near or f"paths start with `model.`, `hardware.` or `scenarios.NAME.`; did you mean `{meant}`?"
    raise InputError.single(f"unknown path {head!r}", hint=hint, field=path, location=label)


def apply_overrides(tree: Tree, overrides: Sequence[Override], field: str = "") -> Tree:
    """Return `tree` with `overrides` applied in order. field: the field of the tree itself, for messages."""
    for override in overrides:
        _check_names(tree, override, field)
        if override.target.path == ("resolution",):  # states what these do
            tree = replace(
                tree, value={key: each for key, each in tree.value.items() if key not in ("width", "height")}
            )
        try:
            tree = replace_at(tree, override.target.path, override.value)
        except LookupError as error:
            stopped, part = error.args
            raise _unknown_field(stopped, part, override, field) from None
    return tree


def _in_scenario(name: str, path: Sequence[str]) -> OverrideTarget:
    head, *rest = path
    if head == "hardware" and rest:
        return _in_hardware(name, rest)
    if head in ("cluster", "framework") and rest:
        return OverrideTarget(name, head, tuple(rest))
    return OverrideTarget(name, "scenario", tuple(path))


def _in_hardware(scenario: str | None, path: Sequence[str]) -> OverrideTarget:
    """Return the target of what follows `hardware`. Everything but `node` and `network` is a field of the device."""
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


def _check_names(tree: Tree, override: Override, field: str) -> None:
    """Raise InputError where a path goes through a name that a mapping of names does not have."""
    path = override.target.path
    for i, part in enumerate(path[:-2]):
        below = tree.at(path[: i + 1])
        if part in _OPEN and below is not None and below.is_mapping and below.child(path[i + 1]) is None:
            raise _unknown_field(below, path[i + 1], override, field)


def _unknown_field(stopped: Tree, part: str, override: Override, field: str) -> InputError:
    if isinstance(stopped.value, list):
        known = [name or str(i) for i, name in enumerate(stopped.names())]
    else:
        known = list(stopped.value) if stopped.is_mapping else []
    path = ".".join(piece for piece in (field, *override.target.path) if piece)
    if known:
        message, hint = f"unknown field {part!r}", deeper(stopped, part) or suggest(part, known)
    else:
        message, hint = f"{part!r} is inside {kind_of(stopped.value)} that has no fields", "shorten the path"
    return override.value.error(message, hint, path)


def _from_python(value: Any, label: Location) -> Tree:
    if isinstance(value, dict):
        return Tree({str(key): _from_python(item, label) for key, item in value.items()}, label, label)
    if isinstance(value, (list, tuple)):
        return Tree([_from_python(item, label) for item in value], label, label)
    return Tree(value.item() if isinstance(value, np.generic) else value, label, label)


def _display(value: object) -> str:
    return str(SI(value) if isinstance(value, np.ndarray) else value)


def entry(document: Mapping[str, Any], route: Sequence[str], path: str) -> Any:
    """Return the value at the end of a route. Raises InputError, at `path`, that names the fields that exist."""
    current: Any = document
    for part in route:
        entries = _entries(current)
        if part not in entries:
            raise InputError.single(f"unknown field {part!r}", hint=suggest(part, list(entries)), field=path)
        current = entries[part]
    return current


def _entries(value: Any) -> dict[str, Any]:
    """Return the entries of a mapping or list by the words that address them."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return {}
    by_index = {str(i): item for i, item in enumerate(value)}
    return by_index | {item["name"]: item for item in value if isinstance(item, Mapping) and "name" in item}


# ---- Changes that are relative to what a document says: `2x`, `+10%`, `-10%` -----------------------------------------

_RELATIVE = re.compile(r"\s*(?:(?P<times>-?\d+(?:\.\d+)?)\s*x|(?P<percent>[+-]\s*\d+(?:\.\d+)?)\s*%)\s*")


def factor_of(text: object) -> float | None:
    """Return what `2x`, `+10%` or `-10%` multiplies by: 2, 1.1 or 0.9. Null for anything else."""
    match = _RELATIVE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    return float(match["times"]) if match["times"] else 1.0 + float(match["percent"].replace(" ", "")) / 100.0


def multiplied(number: NumberType, value: object, factor: float, source: tuple[str, Location | None]) -> float:
    """Return a value times a factor in SI, a whole number where the field takes these alone.

    source: field and location for the error of a value that is not known.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError.single(
            "is relative to a value that is not known", hint="write the value itself", field=source[0],
            location=source[1],
        )  # fmt: skip
    product = float(value) * factor
    return float(round(product)) if isinstance(number, Whole) else product


def absolute(model: type[Strict], tree: Tree, overrides: Sequence[Override], field: str = "") -> Sequence[Override]:
    """Return overrides of a document with values instead of factors.

    A factor is of what the document, checked as `model` and with the other overrides, has: its defaults are values too.
    Raises InputError where it has none. A document with problems is left to whoever checks it.
    """
    relative = {override: factor_of(override.value.value) for override in overrides}
    if not any(factor is not None for factor in relative.values()):
        return overrides
    plain = [override for override, factor in relative.items() if factor is None]
    file = validate_tree(model, apply_overrides(tree, plain, field), [], field)
    if file is None:
        return overrides
    document = file.model_dump(by_alias=True)
    return [
        override if factor is None else _multiplied(model, document, override, factor)
        for override, factor in relative.items()
    ]


def _multiplied(model: type[Strict], document: dict[str, object], override: Override, factor: float) -> Override:
    path, location = override.target.path, override.value.location
    number = number_at(model, path)
    if number is None:
        return override
    name = ".".join(path)
    value = multiplied(number, entry(document, path, name), factor, (name, location))
    return replace(override, value=replace(override.value, value=SI(value)))


def absolute_text(text: str, number: NumberType, value: Callable[[], object], source: tuple[str, Location]) -> str:
    """Return values and ranges of an axis, `0.5x..2x:8`, with a number and its unit instead of each factor.

    value: returns what the factors multiply.
    """

    def of(part: str) -> str:
        factor = factor_of(part)
        if factor is None:
            return part
        unit = base_unit(number.dimension) if isinstance(number, Measure) else "1"
        return f"{multiplied(number, value(), factor, source)!r}{'' if unit == '1' else f' {unit}'}"

    items = []
    for item in text.split(","):
        ends, colon, spacing = item.partition(":") if ".." in item else (item, "", "")
        items.append("..".join(map(of, ends.split(".."))) + colon + spacing)
    return ",".join(items)
