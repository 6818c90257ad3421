"""Two pools of engines under a load: each as a scenario of one engine, and what both share."""

from __future__ import annotations

from collections.abc import Callable

from costmodel.declared import SI
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, Stop
from costmodel.schema.installation import install
from costmodel.schema.reinforcement import Resolved, check_layout
from costmodel.schema.strict import validate_tree
from costmodel.schema.tree import Tree, merge, to_python
from costmodel.schema.workload import ServingFile
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario

_OF_BOTH = ("prefill", "decode", "rate", "concurrency", "requests", "replicas", "slo", "anchor")
_OF_ENGINE = ("parallel", "communication", "micro_batches", "chunk_tokens")
_OVER = ("scheduler", "memory")  # of the scenario, changed by the pool
_SHOWN = ("precision", "framework", "hardware", "cluster")
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
    parts = {key: _part(assembly, name, key, tree, (inputs, outputs), read) for key in ("prefill", "decode")}
    prefill, decode = (_engines(parts[key].scenario) for key in ("prefill", "decode"))
    references = [to_python(_cluster(tree, key)) for key in ("prefill", "decode")]
    plan = Pools(
        prefill=replace(prefill, plan=replace(prefill.plan, output_tokens=1.0)), decode=decode, input_tokens=inputs,
        output_tokens=outputs, rate=file.rate, concurrency=file.concurrency,
        requests=None if file.requests is None else file.requests.made(), slo=file.slo.made(),
        router=file.replicas.made(), shared=references[0] == references[1],
    )  # fmt: skip
    cluster = decode.cluster
    if plan.shared:
        ranks = build.Ranks(plan.devices, is_whole=False)
        with assembly.part_of(name):
            cluster = install(assembly, _cluster(tree, "decode"), name, ranks).cluster
    notes = tuple(dict.fromkeys((*prefill.notes, *decode.notes)))
    scenario = replace(decode, name=name, plan=plan, cluster=cluster, notes=notes)
    check_layout(assembly, scenario, tree)
    document = file.model_dump(by_alias=True, exclude={"cluster", "framework", "precision"})
    document |= {key: parts["decode"].document[key] for key in _SHOWN}
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


def _cluster(tree: Tree, key: str) -> Tree:
    """Return what a pool's `cluster` says, else the scenario's."""
    own = tree.at((key, "cluster"))
    return tree.value["cluster"] if own is None or own.value is None else own


def _part(
    assembly: Assembly, name: str, key: str, tree: Tree, lengths: tuple[Count, Count], read: Read
) -> Resolved:  # fmt: skip
    """Return one engine of a pool, as many as it has."""
    pool, location = tree.value[key], tree.value[key].location
    entries: dict[str, Tree] = {"cluster": _cluster(tree, key)}
    entries |= {each: pool.value[each] for each in _OF_ENGINE if pool.child(each) is not None}
    for each in _OVER:
        own, common = pool.child(each), tree.child(each)
        if own is not None:
            entries[each] = own if common is None else merge(common, own)
    count = pool.child("instances") or Tree(SI(1.0), location)
    entries |= {
        "replicas": Tree({"count": count}, location), "concurrency": Tree(SI(1.0), location),
        "input_tokens": Tree(SI(lengths[0]), location), "output_tokens": Tree(SI(lengths[1]), location),
    }  # fmt: skip
    own_tree = tree.without(*_OF_BOTH).with_entries(**entries)
    file = validate_tree(ServingFile, own_tree, assembly.problems, f"scenarios.{name}")
    if file is None:
        raise Stop
    return read(own_tree, file)
