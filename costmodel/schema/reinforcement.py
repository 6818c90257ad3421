"""A step of reinforcement learning: a scenario that names two others of its workload, one for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from costmodel.declared import SI
from costmodel.errors import Problem, suggest
from costmodel.quantities import Count
from costmodel.records import Record, replace
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, Stop
from costmodel.schema.installation import install
from costmodel.schema.overrides import ON, apply_overrides
from costmodel.schema.records import record
from costmodel.schema.strict import validate_tree
from costmodel.schema.tree import Tree, merge, to_python
from costmodel.schema.workload import ReinforcementFile, ServingFile
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Scenario
from costmodel.workload.split_rules import shown
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


def check_layout(assembly: Assembly, scenario: Scenario, tree: Tree, within: str = "") -> None:
    """Collect every rule that the layout breaks, at the value that breaks it. On a grid, the evaluator masks points.

    within: the place of the layout in the scenario, with a dot.
    """
    for rule in rules(scenario):
        if isinstance(rule.holds, np.ndarray) or rule.holds:
            continue
        nearest: Tree = tree
        for part in rule.field.split("."):
            nearest = nearest.child(part) or nearest
        field = f"scenarios.{scenario.name}.{within}{rule.field}"
        location = nearest.location or tree.location
        assembly.problems.append(Problem(location, field, rule.message, rule.hint, of_layout=True))


# ---- Two pools of engines under a load: each as a scenario of one engine, and what both share ------------------------

_OF_BOTH = ("prefill", "decode", "rate", "concurrency", "requests", "replicas", "slo", "anchor")
_OF_ENGINE = ("parallel", "communication", "micro_batches", "chunk_tokens")
_OVER = ("scheduler", "memory")  # of the scenario, changed by the pool
_SHOWN_OF_POOLS = ("precision", "framework", "hardware", "cluster")
Read = Callable[[Tree, ServingFile], Resolved]


def pools_of(assembly: Assembly, name: str, tree: Tree, file: ServingFile, read: Read) -> Resolved:
    """Return a scenario of two pools under a load. Raises InputError on what a pool cannot be.

    read: returns the scenario of one engine.
    """
    anchor = tree.child("anchor")
    if anchor is not None:
        raise anchor.error(
            "measured runs anchor one engine, not two pools", "remove `anchor`", f"scenarios.{name}.anchor"
        )
    inputs, outputs = build.mean_lengths(file)
    parts = {
        key: _pool(assembly, name, tree.value[key], tree, (inputs, outputs), read) for key in ("prefill", "decode")
    }
    prefill, decode = (_engines(parts[key].scenario) for key in ("prefill", "decode"))
    references = [to_python(_cluster(tree, tree.value[key])) for key in ("prefill", "decode")]
    plan = Pools(
        prefill=replace(prefill, plan=replace(prefill.plan, output_tokens=1.0)), decode=decode, input_tokens=inputs,
        output_tokens=outputs, rate=file.rate, concurrency=file.concurrency,
        requests=build.drawn_requests(file), slo=file.slo.made(),
        router=file.replicas.made(), shared=references[0] == references[1],
    )  # fmt: skip
    cluster = decode.cluster
    if plan.shared:
        ranks = build.Ranks(plan.devices, is_whole=False)
        with assembly.part_of(name):
            cluster = install(assembly, _cluster(tree, tree.value["decode"]), name, ranks).cluster
    notes = tuple(dict.fromkeys((*prefill.notes, *decode.notes)))
    scenario = replace(decode, name=name, plan=plan, cluster=cluster, notes=notes)
    check_layout(assembly, scenario, tree)
    document = file.model_dump(by_alias=True, exclude={"cluster", "framework", "precision"})
    document |= {key: parts["decode"].document[key] for key in _SHOWN_OF_POOLS}
    if not plan.shared:
        document["prefill"]["hardware"] = parts["prefill"].document["hardware"]
    return Resolved(scenario, document, parts["decode"].trees | {"scenario": tree})


def _engines(part: Scenario) -> Scenario:
    """Return the engines of a pool, whose load is not theirs alone."""
    assert isinstance(part.plan, Serving), "the file was checked"
    framework, eager = part.framework, part.framework.eager_prompts
    if "pools" in (eager.only or ()):
        framework = replace(framework, eager_prompts=replace(eager, only=None))
    return replace(part, plan=replace(part.plan, concurrency=None), framework=framework)


def with_others(assembly: Assembly, name: str, tree: Tree, file: ServingFile, read: Read) -> Resolved:
    """Return a scenario with the engines that share its requests. Raises InputError on what these cannot be."""
    if (anchor := tree.child("anchor")) is not None:
        raise anchor.error("measured runs anchor equal engines", "remove `anchor`", f"scenarios.{name}.anchor")
    main, entries = read(tree, file), tree.at(("replicas", "others"))
    check_layout(assembly, main.scenario, tree)
    assert entries is not None, "the file was checked"
    assert isinstance(main.scenario.plan, Serving), "the file was checked"
    inputs, outputs = build.mean_lengths(file)
    others, weights, engines = [], [], [(tree.value["cluster"], main.scenario.devices)]
    for number, (own, entry) in enumerate(zip(file.replicas.others, entries.value, strict=True)):
        if not own.count:
            continue
        part = _pool(assembly, name, entry, tree, (np.maximum(inputs, 1.0), np.maximum(outputs, 2.0)), read)
        check_layout(assembly, part.scenario, entry, f"replicas.others.{number}.")
        assert isinstance(part.scenario.plan, Serving), "the file was checked"
        others.append(replace(part.scenario, plan=replace(part.scenario.plan, concurrency=None)))
        weights.append(float(own.weight))
        engines.append((_cluster(tree, entry), others[-1].devices))
    _check_room(assembly, name, tree, engines)
    replicas = replace(main.scenario.plan.replicas, others=tuple(others), weights=tuple(weights))
    scenario = replace(main.scenario, plan=replace(main.scenario.plan, replicas=replicas))
    return replace(main, scenario=scenario)


def _check_room(assembly: Assembly, name: str, tree: Tree, engines: Sequence[tuple[Tree, Count]]) -> None:
    """Collect that engines take more devices than the cluster that they share. A grid of them is not looked at.

    engines: cluster and devices of each kind. A node stands for as many as they take.
    """
    of_cluster: dict[str, list[tuple[Tree, Count]]] = {}
    for reference, devices in engines:
        of_cluster.setdefault(str(to_python(reference)), []).append((reference, devices))
    for own in of_cluster.values():
        taken = sum(devices for _, devices in own)
        if isinstance(taken, np.ndarray):
            continue
        with assembly.part_of(name):
            has = install(assembly, own[0][0], name, build.Ranks(taken, is_whole=False)).cluster.devices
        if taken > has:
            message = f"engines take {taken:,.0f} devices of {shown(has)} that their cluster has"
            hint, field = "lower a count or a degree, or name a larger cluster", f"scenarios.{name}.replicas"
            replicas = tree.child("replicas") or tree
            assembly.problems.append(Problem(replicas.location, field, message, hint, of_layout=True))


def _cluster(tree: Tree, pool: Tree) -> Tree:
    """Return what a pool's `cluster` says, else the scenario's."""
    own = pool.child("cluster")
    return tree.value["cluster"] if own is None or own.value is None else own


def _pool(
    assembly: Assembly, name: str, pool: Tree, tree: Tree, lengths: tuple[Count, Count], read: Read
) -> Resolved:  # fmt: skip
    location = pool.location
    entries: dict[str, Tree] = {"cluster": _cluster(tree, pool)}
    entries |= {each: pool.value[each] for each in _OF_ENGINE if pool.child(each) is not None}
    for each in _OVER:
        own, common = pool.child(each), tree.child(each)
        if own is not None:
            entries[each] = own if common is None else merge(common, own)
    count = pool.child("instances") or pool.child("count") or Tree(SI(1.0), location)
    entries |= {
        "replicas": Tree({"count": count}, location), "concurrency": Tree(SI(1.0), location),
        "input_tokens": Tree(SI(lengths[0]), location), "output_tokens": Tree(SI(lengths[1]), location),
    }  # fmt: skip
    own_tree = tree.without(*_OF_BOTH).with_entries(**entries)
    file = validate_tree(ServingFile, own_tree, assembly.problems, f"scenarios.{name}")
    if file is None:
        raise Stop
    return read(own_tree, file)
