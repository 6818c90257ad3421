"""A workload file to complete scenarios: references followed, overrides applied, the origin of every value known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from costmodel.errors import InputError, LayoutError, Location, Problem, available, suggest
from costmodel.hardware import Device
from costmodel.quantities import is_single, minimum, where
from costmodel.records import replace
from costmodel.schema import build, build_model
from costmodel.schema.anchor import Anchors, read_steps
from costmodel.schema.assemble import Assembly, DocumentPart, Stop, in_order
from costmodel.schema.device import Source, forecast_notes
from costmodel.schema.document import model_document, scenario_document
from costmodel.schema.expert_load import expert_counts
from costmodel.schema.framework import ExpertSpreadFile, FrameworkFile
from costmodel.schema.installation import Installation, install, unlike_others
from costmodel.schema.kernel_names import unknown_names
from costmodel.schema.model import ModelFile
from costmodel.schema.number_formats import (
    changed_formats,
    check_masters,
    choose_formats,
    expand_set_name,
    shipped_formats,
    wide_weights,
)
from costmodel.schema.overrides import Override, absolute, apply_overrides, is_of, read_overrides, runs
from costmodel.schema.plausible import unlike_published
from costmodel.schema.references import Library, as_reference
from costmodel.schema.reinforcement import Resolved as _Resolved
from costmodel.schema.reinforcement import check_layout, pools_of, step_of_parts, with_others
from costmodel.schema.releases import for_model, of_release, with_defaults, with_exchange
from costmodel.schema.resolved import KNOWING, KnownDocuments, ResolvedWorkload
from costmodel.schema.serving import locate_files
from costmodel.schema.strict import validate_tree
from costmodel.schema.tree import Tree, merge, without_aliases
from costmodel.schema.workload import (
    PHASES,
    CommunicationFile,
    ExpertBoundFile,
    ParallelFile,
    PlanFile,
    ReinforcementFile,
    ServingFile,
    TrainingFile,
    WorkloadFile,
    phases_with,
)
from costmodel.workload.architecture import Architecture, Drafter, MoeFfn, with_wide_ends
from costmodel.workload.drafts import eagle_head, own_eagle_head
from costmodel.workload.pools import Pools
from costmodel.workload.popularity import DRAWN, LEARNED
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Framework, MeasuredStep, Parallelism, Scenario

_Model: TypeAlias = "tuple[Architecture | None, DocumentPart[ModelFile] | None]"


def resolve(
    workload: str | Path | Tree,
    *,
    overrides: Mapping[str, object] | None = None,
    cluster: str | Sequence[str] | None = None,
    search_path: Sequence[str | Path] = (),
    scenarios: Iterable[str] | None = None,
    library: Library | None = None,
) -> ResolvedWorkload:
    """Return the workload of a file, of a name under `workloads/` or of a document; raise InputError with all problems.

    overrides: path of the resolved document -> YAML text, number or `SI`.
    cluster: replaces the cluster of every scenario. Of several, each scenario runs on all, as `NAME@CLUSTER`.
    scenarios: those to resolve, null: all.
    library: the files of several resolutions, each read once, null: those of `search_path`.
    """
    library = library or Library(search_path)
    if isinstance(workload, Tree):
        name = workload.location.source if workload.location else "workload"
        document = library.extend(without_aliases(workload.without("schema"), "workload"), "workload")
        return resolve_tree(document, name, library, overrides=overrides, cluster=cluster, scenarios=scenarios)
    path = library.find_workload(workload)
    tree = library.read(path, "workload")
    return resolve_tree(tree, path.stem, library, overrides=overrides, cluster=cluster, scenarios=scenarios)


def resolve_tree(
    tree: Tree,
    name: str,
    library: Library,
    *,
    overrides: Mapping[str, object] | None = None,
    cluster: str | Sequence[str] | None = None,
    scenarios: Iterable[str] | None = None,
) -> ResolvedWorkload:
    """Return the workload of a document. Raises InputError with every problem."""
    entries = tree.child("scenarios")
    scenario_trees: dict[str, Tree] = entries.value if entries is not None and entries.is_mapping else {}
    known = runs(list(scenario_trees), [cluster] if isinstance(cluster, str) else cluster or ())
    assembly = Assembly(library, read_overrides(overrides or {}, list(known)))
    head = assembly.part(WorkloadFile, tree, assembly.overrides_of("workload", None))
    model: DocumentPart[ModelFile] | None = None
    with assembly.collecting_problems():
        model = _model(assembly, head.tree)
    architecture = build_model.architecture(model.file) if model else None
    resolved: dict[str, _Resolved] = {}
    parts_read: dict[str, _Resolved] = {}  # those of steps of several parts too
    anchors = Anchors.of(tree, library, _without_anchors)

    def read(scenario: str) -> _Resolved:
        written, where = known[scenario]
        original = scenario_trees[written]
        if original.is_mapping and original.text("phase") == Reinforcement.phase:
            return step_of_parts(assembly, scenario, original, list(known), read)
        part = _scenario(assembly, scenario, original, (architecture, model), where)
        parts_read[scenario] = part
        if isinstance(part.scenario.plan, Pools):
            return part
        return replace(part, scenario=anchors.apply(part.scenario, part.trees["scenario"], written))

    for scenario in _selected(list(known), scenarios):
        with assembly.collecting_problems():
            resolved[scenario] = read(scenario)
    if not assembly.problems:
        assembly.report_unused()
    if assembly.problems or model is None or architecture is None:
        problems = in_order(assembly.problems)
        raise (LayoutError if all(problem.of_layout for problem in problems) else InputError)(problems)
    parts, known_parts = resolved.items(), {**resolved, **parts_read, **resolved}.items()
    return ResolvedWorkload(
        name=name,
        title=head.file.title,
        scenarios={
            key: replace(
                part.scenario,
                notes=(*part.scenario.notes, *_in_sight(head.file.sources, known[key][0], overrides or {})),
            )
            for key, part in parts
        },
        architecture=architecture,
        documents=KnownDocuments(
            {"model": model_document(model.file), "scenarios": {key: each.document for key, each in known_parts}},
            {key: each.trees | {"model": model.tree, "workload": head.tree} for key, each in known_parts},
        ),
        notes=tuple(assembly.notes),
        warnings=tuple(in_order(assembly.warnings)),
    )


def _in_sight(sources: Iterable[Source], scenario: str, overrides: Mapping[str, object]) -> Iterator[str]:
    """Yield notes on values of a scenario that were chosen with published ones in sight, not on those set anew."""
    for source in sources:
        fields = [
            field.removeprefix(f"scenarios.{scenario}.")
            for field in source.fields
            if field.startswith(f"scenarios.{scenario}.") and field not in overrides
        ]
        if source.seen and fields:
            yield (
                f"{', '.join(fields)}: {KNOWING} ({', '.join(source.seen)}); that the prediction is close to these "
                "proves nothing"
            )


def _without_anchors(
    tree: Tree, name: str, library: Library, *, overrides: Mapping[str, object], scenarios: Sequence[str]
) -> Mapping[str, Scenario]:
    entries = tree.value["scenarios"]
    stripped = {key: each.without("anchor") if each.is_mapping else each for key, each in entries.value.items()}
    plain = tree.with_entries(scenarios=replace(entries, value=stripped))
    return resolve_tree(plain, name, library, overrides=overrides, scenarios=scenarios).scenarios


def measured_steps(tree: Tree, library: Library) -> list[MeasuredStep]:
    """Return the measured steps of an anchor file. Raises InputError with the problems of the first that has any."""
    return list(read_steps(tree, library, _without_anchors))


def resolve_model(
    tree: Tree, name: str, library: Library, overrides: Mapping[str, object] | None = None
) -> ResolvedWorkload:
    """Return a workload without scenarios: its model alone, for questions that need no hardware."""
    assembly = Assembly(library, read_overrides(overrides or {}, ()))
    with assembly.raising_problems():
        model = _model(assembly, apply_overrides(tree, assembly.overrides_of("workload", None)))
        return ResolvedWorkload(
            name=name,
            title=None,
            scenarios={},
            architecture=build_model.architecture(model.file),
            documents=KnownDocuments(
                {"model": model_document(model.file), "scenarios": {}}, {"": {"model": model.tree, "workload": tree}}
            ),
            notes=tuple(assembly.notes),
        )


def _selected(known: Sequence[str], scenarios: Iterable[str] | None) -> list[str]:
    chosen: list[str] = []
    for name in known if scenarios is None else scenarios:
        of_name = [each for each in known if is_of(name, each)]
        if not of_name:
            raise InputError.single(f"unknown scenario {name!r}", hint=suggest(name, known), field="scenarios")
        chosen += of_name
    return chosen


def _model(assembly: Assembly, tree: Tree) -> DocumentPart[ModelFile]:
    reference = tree.child("model")
    if reference is None:
        raise Stop
    document, field = assembly.model(reference, "model")
    part = assembly.part(ModelFile, document, assembly.overrides_of("model", None), field)
    part.require()
    return part


def _formats(
    tree: Tree, plan: PlanFile, model: DocumentPart[ModelFile] | None, device: Device, *, mxfp8_experts: bool
) -> tuple[Tree, list[str]]:
    """Return the `precision` of a scenario and notes: the set that it names, in inference else that of the model's
    weights, with the keys that it states.

    mxfp8_experts: the engine multiplies experts in MXFP4 with activations in MXFP8 on the device.
    """
    stated = tree.child("precision")
    quantization = None if model is None else model.file.quantization
    names_set = stated is not None and stated.child("compute") is not None
    if names_set or quantization is None or isinstance(plan, TrainingFile | ExpertBoundFile):
        return stated or Tree({}, tree.location), []
    formats, note = shipped_formats(quantization, device, mxfp8_experts=mxfp8_experts)
    if stated is not None:
        formats, note = changed_formats(formats, note, stated)
    return formats, [note]


def _scenario(assembly: Assembly, name: str, original: Tree, of: _Model, cluster: str | None) -> _Resolved:
    tree, plan = _plan(assembly, name, original, cluster)
    if isinstance(plan, ServingFile) and plan.has_loaded_pools:
        return pools_of(assembly, name, tree, plan, lambda part, file: _of_plan(assembly, name, part, file, of))
    if isinstance(plan, ServingFile) and plan.replicas.others:
        return with_others(assembly, name, tree, plan, lambda part, file: _of_plan(assembly, name, part, file, of))
    resolved = _of_plan(assembly, name, tree, plan, of)
    check_layout(assembly, resolved.scenario, tree)
    return resolved


def _of_plan(assembly: Assembly, name: str, tree: Tree, plan: PlanFile, of: _Model) -> _Resolved:
    """Return a scenario of one plan, from its own document with all overrides and its checked form."""
    architecture, model = of
    field = f"scenarios.{name}"
    assembly.warnings.extend(unlike_published(plan, tree, field))
    hardware = install(assembly, tree.value["cluster"], name, build.ranks(plan), plan.devices)
    reference = tree.child("framework") or Tree(plan.framework)
    overrides = assembly.overrides_of("framework", name)
    reference, overrides, asked = of_release(assembly.library, reference, overrides, f"{field}.framework")
    assembly.use(asked)
    framework_tree, framework_field = assembly.inline_or_named(reference, "framework", f"{field}.framework")
    framework = assembly.part(FrameworkFile, framework_tree, overrides, framework_field)
    assembly.problems.extend(unknown_names(assembly.library, framework.tree))
    assembly.warnings.extend(unlike_others(FrameworkFile, framework.tree))
    device = hardware.cluster.device
    mxfp8_experts = hardware.device_part.file.die in framework.file.mxfp8_experts
    chosen, notes = _formats(tree, plan, model, device, mxfp8_experts=mxfp8_experts)
    plan = with_defaults(plan, framework.file.training)
    does = framework.file.training
    own = {"gradients": does.gradients, "activations": does.activations} if isinstance(plan, TrainingFile) else {}
    formats, replaced = choose_formats(assembly, chosen, device, f"{field}.precision", own)
    if isinstance(plan, TrainingFile):
        check_masters(assembly, chosen, f"{field}.precision")
    elif model is not None and not isinstance(plan, ExpertBoundFile):
        notes += wide_weights(tree.child("precision"), formats.file, model.file.quantization)
    if architecture is None:
        raise Stop
    architecture = _with_drafter(assembly, architecture, tree, plan, field)
    if isinstance(plan, TrainingFile):
        architecture = with_wide_ends(architecture, formats.file.wide_first, formats.file.wide_last)
    by_chance = list(_by_chance(plan, architecture))
    kernels = for_model(build.framework(framework.file, hardware.device_part.file), architecture)
    plan = _with_load(plan, architecture, framework.file.expert_spread)
    plan = with_exchange(plan, framework.file.training, kernels, architecture)
    layout = build.layout(plan, slices_experts=framework.file.training.slices_experts)
    fallbacks = (
        f"{device.name} has no {dtype.upper()} unit; using the fallback precision, weights in {formats.file.weights}"
        for dtype in replaced
    )
    work = build.plan(_located(plan, tree, field), kernels, device)
    has_deepep = hardware.device_part.file.die in framework.file.low_latency_experts
    gathers = exchange_notes(plan, kernels, architecture, has_deepep=has_deepep)
    remarks = (*gathers, *forecast_notes(hardware.device_part.file))
    scenario = Scenario(
        name=name,
        plan=work,
        architecture=architecture,
        cluster=hardware.cluster,
        parallel=layout,
        precision=build.precision(formats.file, plan),
        communication=build.communication(plan.communication, kernels),
        framework=kernels,
        offload=plan.offload.made(),
        notes=(*notes, *fallbacks, *_uneven(architecture, layout), *_unused(plan, hardware), *by_chance, *remarks),
        routing=build.routing(plan.routing, expert_counts(plan.routing, tree, architecture, field)),
        simulation=plan.simulation.made(),
    )
    trees = {
        "scenario": tree.with_entries(precision=merge(formats.tree, chosen)), "cluster": hardware.cluster_part.tree,
        "node": hardware.node_part.tree, "device": hardware.device_part.tree, "framework": framework.tree,
    }  # fmt: skip
    return _Resolved(scenario, scenario_document(plan, scenario, hardware, formats.file, framework.file), trees)


def _with_drafter(
    assembly: Assembly, architecture: Architecture, tree: Tree, plan: PlanFile, field: str
) -> Architecture:
    """Return the model together with the head or the other model that drafts for it, where a scenario states one."""
    drafts, written = getattr(plan, "speculative", None), tree.child("speculative")
    if written is None or drafts is None or drafts.drafter not in ("eagle3", "model"):
        return architecture
    reference, own = written.child("model"), architecture
    if reference is not None and drafts.model is not None:
        document, place = assembly.model(reference, f"{field}.speculative.model")
        own = build_model.architecture(assembly.part(ModelFile, document, (), place).file)
    if drafts.drafter == "model":
        return replace(architecture, drafter=Drafter(own, is_head=False))
    try:
        return replace(architecture, drafter=own_eagle_head(own) if own is architecture else eagle_head(own))
    except InputError as error:
        (problem,) = error.problems
        raise InputError([replace(problem, location=written.location, field=f"{field}.{problem.field}")]) from None


def _is_by_chance(plan: PlanFile, architecture: Architecture) -> bool:
    """Tell whether a training scenario leaves open how its experts are loaded."""
    if not isinstance(plan, TrainingFile) or not architecture.has_experts:
        return False
    return plan.routing.load is None and plan.communication.expert_load is None


def _by_chance(plan: PlanFile, architecture: Architecture) -> Iterator[str]:
    """Yield a note where a training scenario leaves open how its experts are loaded."""
    if _is_by_chance(plan, architecture):
        yield (
            "experts are loaded by chance, as where a router is forced to be balanced; a learned one is less even: set "
            "communication.expert_load (1.3 was measured on 64 ranks of DeepSeek-V3, docs/method.md 17.2) or routing"
        )


def _with_load(plan: PlanFile, architecture: Architecture, spread: ExpertSpreadFile | None) -> PlanFile:
    """Return the plan with a `routing.load`: by chance in training and in an engine's step, unless it is stated.

    spread: of the popularity of a trained router's experts, which an engine's steps have. Null: they are equal.
    """
    if plan.routing.load is not None:
        return plan
    engine = isinstance(plan, ServingFile) and plan.prefill is None and architecture.has_experts
    load: dict[str, Any] = {"load": DRAWN if engine or _is_by_chance(plan, architecture) else "balanced"}
    if engine and spread is not None and plan.communication.expert_load is None:
        counts = (layer.ffn.experts for layer in architecture.layers if isinstance(layer.ffn, MoeFfn))
        uneven = where(reduce(minimum, counts) >= spread.experts, spread.spread, 0.0)
        load = {"load": LEARNED, "spread": uneven} if np.any(uneven) else load
    return plan.model_copy(update={"routing": plan.routing.model_copy(update=load)})


def _located(plan: PlanFile, tree: Tree, field: str) -> PlanFile:
    """Return the plan with the paths of its files of requests."""
    if not isinstance(plan, ServingFile) or plan.requests is None:
        return plan
    return plan.model_copy(update={"requests": locate_files(plan.requests, tree, field)})


def _uneven(architecture: Architecture, layout: Parallelism) -> Iterator[str]:
    """Yield a note where something does not divide but the layout is valid."""
    vocabulary, tp = architecture.vocabulary, layout.tp
    if is_single(vocabulary) and is_single(tp) and vocabulary % tp:
        effect = "frameworks pad it; here it is split evenly without padding"
        yield f"a vocabulary of {vocabulary:,.0f} does not divide over tp = {tp:g}: {effect}"


def _unused(plan: PlanFile, hardware: Installation) -> Iterator[str]:
    """Yield notes where nodes have idle devices, and where a scenario requests more than its degrees use."""
    share, whole = hardware.cluster.node.count, hardware.node_part.file.count
    devices = hardware.cluster.devices
    if is_single(share) and is_single(whole) and is_single(devices) and share < whole and devices > share:
        yield f"{share:g} of {whole:g} devices in use in each of {devices / share:g} nodes, which the ranks fill evenly"
    requested, used = plan.devices, build.ranks(plan).devices
    if requested is not None and is_single(requested) and is_single(used) and requested > used:
        hint = "set parallel.dp or other degrees, or see `costmodel search`"
        yield f"devices: {requested:g} requested, but the parallel degrees use {used:g}: {hint}"


def _plan(assembly: Assembly, name: str, original: Tree, cluster: str | None) -> tuple[Tree, PlanFile]:
    """Return a scenario's own document with all overrides, and its checked form."""
    field = f"scenarios.{name}"
    if not original.is_mapping:
        raise original.error("must be a mapping", "add `phase:`", field)
    overrides: Sequence[Override] = assembly.overrides_of("scenario", name)
    written = expand_set_name(original)
    if (known := PHASES.get(str(written.text("phase")))) is not None:
        overrides = absolute(known, written, overrides, field)
    tree = expand_set_name(apply_overrides(written, overrides, field))
    if cluster is not None:
        label = Location(f"--cluster {cluster}")
        tree = tree.with_entries(cluster=Tree(as_reference(cluster), label, label))
    phase = tree.text("phase")
    if phase not in PHASES:
        raise _unknown_phase(tree, field)
    problems: list[Problem] = []
    plan = validate_tree(PHASES[phase], tree, problems, field)
    assembly.problems.extend(_naming_phases(problem, field, phase) for problem in problems)
    assert not isinstance(plan, ReinforcementFile), "the caller has looked"
    if plan is None:
        reference = tree.child("cluster")  # whose problems are said together with the scenario's own
        if reference is not None and isinstance(reference.value, (str, dict)):
            with assembly.collecting_problems():
                install(assembly, reference, name, build.Ranks(1.0))
        raise Stop
    return tree, plan


def _unknown_phase(tree: Tree, field: str) -> InputError:
    phase = tree.child("phase")
    return (phase or tree).error(
        "is missing" if phase is None else f"unknown phase {phase.value!r}",
        available(list(PHASES)) if phase is None else suggest(str(phase.value), list(PHASES)), f"{field}.phase",
    )  # fmt: skip


def _naming_phases(problem: Problem, field: str, phase: str) -> Problem:
    """Return a problem. That of a key of other phases names them."""
    key = problem.field.removeprefix(f"{field}.")
    others = [other for other in phases_with(key) if other != phase]
    if problem.message != "unknown key" or not others:
        return problem
    *first, last = others
    names = f"{', '.join(first)} and {last}" if first else last
    message = f"not allowed in phase {phase} (belongs to {names})"
    named = f"{problem.hint}, " if problem.hint.startswith("write ") else ""  # the key of this phase
    return replace(problem, message=message, hint=f"{named}remove it, or change the phase")


# ---- Notes for a reader on a framework's own way of carrying tokens to the experts of other ranks --------------------


def exchange_notes(
    plan: PlanFile, kernels: Framework, architecture: Architecture, *, has_deepep: bool
) -> Iterator[str]:
    """Yield a note where ranks of expert parallelism gather all tokens only because the framework does by default.

    It does so where groups of ranks have tokens of their own, ep*etp/tp > 1, as of `exchange_messages`. has_deepep: the
    framework can use DeepEP on the device. A scenario that states its exchange gets none.
    """
    if isinstance(plan, TrainingFile | ExpertBoundFile) or not architecture.has_experts:
        return
    where = [path for path, parallel, own in _pools(plan) if _gathers(parallel, own, kernels)]
    if not where:
        return
    text = f"experts' tokens are exchanged by an all-gather, as {kernels.name} does by default"
    if has_deepep:
        paths = " and ".join(where)
        text += (
            f"; for DeepEP, which is made for many ranks, set {paths}: {{mode: low_latency, dispatch: fp8}}, or bf16 "
            "where its tokens are not in FP8"
        )
    yield text


def _pools(plan: PlanFile) -> Iterator[tuple[str, ParallelFile, CommunicationFile]]:
    """Yield (path of the communication settings, degrees, settings) of a scenario, or of each of two pools."""
    pools = (("prefill", plan.prefill), ("decode", plan.decode)) if isinstance(plan, ServingFile) else ()
    parts = [(f"{name}.communication", pool.parallel, pool.communication) for name, pool in pools if pool is not None]
    yield from parts or [("communication", plan.parallel, plan.communication)]


def _gathers(parallel: ParallelFile, own: CommunicationFile, kernels: Framework) -> bool:
    """Tell whether a layout gathers tokens, and does not say so itself."""
    degrees = build.parallelism(parallel)
    groups = np.asarray(degrees.ep * degrees.etp / degrees.tp)
    is_by_default = own.exchange is None and build.communication(own, kernels).exchange == "gather"
    return is_by_default and degrees.expert_pool is None and bool(np.any(groups > 1))
