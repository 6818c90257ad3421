"""A step of reinforcement learning: a scenario that names two others of its workload, one for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from costmodel.errors import Problem, suggest
from costmodel.records import Record, replace
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, Stop
from costmodel.schema.installation import install
from costmodel.schema.overrides import ON, apply_overrides
from costmodel.schema.records import record
from costmodel.schema.strict import validate_tree
from costmodel.schema.tree import Tree
from costmodel.schema.workload import ReinforcementFile
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import rules

_PARTS = {"rollout": ("generate", "serving"), "train": ("training",)}  # phases of the scenarios that a key may name
_SHOWN = ("cluster", "precision", "framework", "hardware")  # of the training scenario, in a step's document


class Resolved(Record):
    """One scenario, its part of the document, and the trees of its values by document."""

    scenario: Scenario
    document: dict[str, Any]
    trees: dict[str, Tree]


def step_of_parts(
    assembly: Assembly, name: str, original: Tree, known: Sequence[str], read: Callable[[str], Resolved]
) -> Resolved:
    """Return a step of reinforcement learning. Raises InputError on a part that is no such scenario.

    known: all scenarios of the workload.
    read: returns one of them.
    """
    field = f"scenarios.{name}"
    for override in assembly.overrides_of("framework", name):
        if override.target.scenario is not None:
            raise override.value.error(
                "a step has no framework of its own", "change that of its parts", f"{field}.framework"
            )
    tree = apply_overrides(original, assembly.overrides_of("scenario", name), field)
    file = validate_tree(ReinforcementFile, tree, assembly.problems, field)
    if file is None:
        raise Stop
    with assembly.part_of(name):
        rollout, train = (_part(name, key, tree, known, read) for key in _PARTS)
    keys = {key: value for key, value in file.model_dump().items() if key not in ("cluster", "phase")}
    step = record(
        Reinforcement, file, rollout=rollout.scenario, train=train.scenario,
        log_probabilities=tuple(dict.fromkeys(file.log_probabilities)),
    )  # fmt: skip
    reference = tree.child("cluster")
    if reference is None or reference.value is None:
        reference = train.trees["scenario"].child("cluster")
    assert reference is not None, "the part was read"
    with assembly.part_of(name):
        whole = install(assembly, reference, train.scenario.name, build.Ranks(step.devices, is_whole=False))
    count = np.maximum(whole.cluster.node.count, train.scenario.cluster.node.count)
    cluster = replace(whole.cluster, node=replace(whole.cluster.node, count=count))
    notes = (*train.scenario.notes, *rollout.scenario.notes)
    scenario = replace(
        train.scenario, name=name, plan=step, anchor=None, notes=tuple(dict.fromkeys(notes)),
        cluster=train.scenario.cluster if step.placement == "colocated" else cluster,
    )  # fmt: skip
    check_layout(assembly, scenario, tree)
    shown = {key: train.document[key] for key in _SHOWN}
    return Resolved(scenario, {"phase": step.phase, **keys, **shown}, train.trees | {"scenario": tree})


def _part(name: str, key: str, tree: Tree, known: Sequence[str], read: Callable[[str], Resolved]) -> Resolved:
    """Return the scenario that a key names, on the same cluster where each runs on several."""
    field, entry = f"scenarios.{name}.{key}", tree.child(key)
    assert entry is not None, "the file was checked"
    _, on, where = name.partition(ON)
    chosen = f"{entry.value}{on}{where}"
    if chosen not in known:
        others = [each for each in known if each != name]
        raise entry.error(f"no scenario `{entry.value}`", suggest(str(entry.value), others), field)
    phases = _PARTS[key]
    message = f"`{entry.value}` does not {'train' if key == 'train' else 'generate'}"
    wrong = entry.error(message, f"name a scenario of phase {' or '.join(phases)}", field)
    if chosen == name:
        raise wrong
    part = read(chosen)
    if part.scenario.result_kind not in phases:
        raise wrong
    return part


def check_layout(assembly: Assembly, scenario: Scenario, tree: Tree) -> None:
    """Collect every rule that the layout breaks, at the value that breaks it. On a grid, the evaluator masks points."""
    for rule in rules(scenario):
        if isinstance(rule.holds, np.ndarray) or rule.holds:
            continue
        nearest: Tree = tree
        for part in rule.field.split("."):
            nearest = nearest.child(part) or nearest
        field = f"scenarios.{scenario.name}.{rule.field}"
        location = nearest.location or tree.location
        assembly.problems.append(Problem(location, field, rule.message, rule.hint, of_layout=True))
