"""The smallest workload of a model on clusters: a layout that fits, round lengths, a published batch; it says which."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.out_of_memory import gib
from costmodel.analytic.serving import admission
from costmodel.errors import ImplausibleInput, InputError, LayoutError
from costmodel.hardware import Cluster
from costmodel.quantities import is_single
from costmodel.schema import SI, resolve
from costmodel.schema.files import ModelDocument, load_cluster, load_document, load_node, read_model
from costmodel.schema.loader import parse_tree
from costmodel.schema.model_names import model_reference
from costmodel.schema.overrides import is_of, runs
from costmodel.schema.references import Library, as_reference
from costmodel.schema.training_recipes import TrainingRecipe, nearest_recipe
from costmodel.schema.tree import Tree
from costmodel.workload.counting import parameter_count
from costmodel.workload.dtypes import GGUF_FORMATS
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Decode, Generate, Prefill, Serving, Training
from costmodel.workload.scenario import Parallelism, Scenario

PHASES = ("prefill", "decode", "generate", "serving", "training")
DEFAULT_PHASES = ("prefill", "decode")
_TRAINING = "training"
_REQUESTS = (32, 16, 8, 4, 2, 1)  # in flight: as many as fit
_INPUT, _OUTPUT = 1024, 1024
_MOST_DEVICES = 1024  # of a node in place of a cluster: as many nodes as the layout needs
_LEAST_BYTES = 0.5  # of a stored weight: layouts that cannot hold even these are not tried
_PLAIN = re.compile(r"[\w./-]+")  # YAML reads such a name as text


@dataclass(frozen=True, slots=True, eq=False)
class ModelStart:
    """A workload as text. lines: what was assumed for it, and what does not fit; name: of the model."""

    text: str
    lines: tuple[str, ...]
    name: str

    @property
    def file(self) -> str:
        """Return the file that a user may write it to, none that is there."""
        name = Path(self.name).stem if Path(self.name).is_file() else Path(self.name).name
        return f"{name}_workload.yaml" if Path(f"{name}.yaml").exists() else f"{name}.yaml"

    @property
    def tree(self) -> Tree:
        """Return the workload as a document."""
        return parse_tree(self.text, f"workload of {self.name.replace('/', '--')}")  # no folder: paths start here


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is chosen so that a job can run. requests: in flight; recompute: whether layers are computed again."""

    tp: int
    pp: int
    dp: int = 1
    requests: int = _REQUESTS[0]
    recompute: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Scenarios and what was chosen for each. holds: whether all of them fit."""

    choices: Mapping[str, _Choice]
    scenarios: Mapping[str, Scenario]
    holds: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """Some phases of a model on a cluster. phases: name of a scenario -> its phase; changes: as for `resolve`."""

    model: str
    document: ModelDocument
    cluster: str
    hardware: Cluster
    phases: Mapping[str, str]
    changes: Mapping[str, object]
    search_path: tuple[str | Path, ...]

    @property
    def recipe(self) -> TrainingRecipe | None:
        """Return the published recipe of training, null for inference."""
        return nearest_recipe(self.document.architecture) if _TRAINING in self.phases.values() else None

    @property
    def node(self) -> int:
        """Return the devices of a node."""
        return int(np.max(self.hardware.node.count))

    @property
    def nodes(self) -> int:
        """Return how many nodes there can be; those without a NIC are alone."""
        return int(np.max(self.hardware.count)) if self.hardware.node.nic is not None else 1

    @property
    def capacity(self) -> float:
        """Return the memory of a device [B]."""
        return float(np.max(self.hardware.node.device.device_memory.capacity))

    @property
    def is_narrow(self) -> bool:
        """Tell whether 16-bit weights have to be FP16, since the device has no BF16."""
        return "bf16" not in self.hardware.node.device.math and self.document.document["quantization"] is None


def start_workload(
    model: str, clusters: Sequence[str], phases: Sequence[str] = (), search_path: Sequence[str | Path] = (),
    changes: Mapping[str, object] | None = None,
) -> ModelStart:  # fmt: skip
    """Return the smallest workload of a model on clusters; raise InputError where one of them is unknown.

    Inference has the fewest devices whose memory holds the model and the requests of all its phases: tensor parallel in
    a node, then pipeline stages over nodes; fewer requests where no layout holds all. Training takes the fewest whole
    nodes, filled with data parallelism, and the batch of the published recipe of the nearest size. If nothing fits, the
    lines say by how much, and the quantisation and the number of devices that would. changes: paths of the workload and
    their new values, with which it has to fit.
    """
    chosen = tuple(phases) or DEFAULT_PHASES
    unknown = next((phase for phase in chosen if phase not in PHASES), None)
    if unknown is not None:
        raise InputError.single(f"unknown phase {unknown!r}", hint=f"write one of {', '.join(PHASES)}", field="--phase")
    of = runs(chosen, clusters)
    single = {path: value for path, value in (changes or {}).items() if not _is_grid(value)}
    texts: dict[str, list[str]] = {}
    lines: list[str] = []
    for cluster in clusters:
        here = {name: phase for name, (phase, where) in of.items() if where == cluster}
        for together in _groups(here):
            question = _question(model, cluster, together, single, search_path)
            found = _choose(question)
            texts.update({name: _scenario(question, name, found.choices[name]) for name in together})
            lines += [*_told(question, found), *([] if found.holds else [_shortfall(question, found)])]
    text = [*_head(model), *(line for name in of for line in texts[name])]
    return ModelStart("\n".join(text) + "\n", tuple(lines), model)


def _is_grid(change: object) -> bool:
    """Tell whether a change is many values, which are evaluated in the layout that fits without it."""
    return isinstance(change.value if isinstance(change, SI) else change, np.ndarray)


def _groups(phases: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the scenarios that share a layout: those of inference, and those of training."""
    for trains in (False, True):
        group = {name: phase for name, phase in phases.items() if (phase == _TRAINING) is trains}
        if group:
            yield group


def _question(
    model: str, cluster: str, phases: Mapping[str, str], changes: Mapping[str, object],
    search_path: Sequence[str | Path],
) -> _Question:  # fmt: skip
    """Return the question of some phases of a model on a cluster; for a node, on as many as the layout needs."""
    of_hardware = {path: value for path, value in changes.items() if path.startswith("hardware.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplausibleInput)  # who loads the workload warns
        of = load_cluster(cluster, search_path, devices=_MOST_DEVICES, changes=of_hardware)
    return _Question(model, read_model(model, search_path), cluster, of, phases, changes, tuple(search_path))


def _choose(question: _Question) -> _Found:
    """Return the first choice with which all phases fit, else the one that needs least; raise where none is valid."""
    most, *less = _eased(question)
    found = _first_layout(question, most)
    if found.holds:
        return found
    least = _first_layout(question, less[-1])
    if not least.holds:
        return least
    between = (_first_layout(question, eased) for eased in less[:-1])
    return next((found for found in between if found.holds), least)


def _first_layout(question: _Question, eased: _Choice) -> _Found:
    """Return the first layout with which all phases fit, else the last valid one; raise InputError where none is."""
    last: _Found | None = None
    failed: InputError | None = None
    for alternatives in _layouts(question):
        for tp, pp, dp in alternatives:
            try:
                last = _try(question, replace(eased, tp=tp, pp=pp, dp=dp))
            except LayoutError as error:  # heads, layers or experts do not divide
                failed = error
                continue
            if last.holds:
                return last
            break  # another split over as many devices holds as much
    if last is None:
        raise failed or InputError.single(f"{question.cluster} has no device", field="--cluster")
    return last


def _eased(question: _Question) -> list[_Choice]:
    """Return what needs less and less memory: fewer requests in flight; in training, layers computed again."""
    if question.recipe is not None:
        return [_Choice(1, 1, recompute=recompute) for recompute in (False, True)]
    return [_Choice(1, 1, requests=requests) for requests in _REQUESTS]


def _powers(most: int) -> list[int]:
    """Return the powers of two up to a number."""
    return list(takewhile(lambda power: power <= most, (2**n for n in range(32))))


def _layouts(question: _Question) -> Iterator[list[tuple[int, int, int]]]:
    """Yield layouts (tp, pp, dp), the fewest devices first; those of a list have as many.

    The last one is yielded whatever it holds, so that there is one.
    """
    inside, recipe = _powers(question.node), question.recipe
    splits = [*inside, *(inside[-1] * nodes for nodes in _powers(question.nodes)[1:])]
    least = float(parameter_count(question.document.architecture).total) * _LEAST_BYTES
    sizes = [question.node * nodes for nodes in _powers(question.nodes)] if recipe else [0]
    pairs = [(size, split) for size in sizes for split in splits if not recipe or split <= size]
    for at, (size, split) in enumerate(pairs):
        if least / split <= question.capacity or at == len(pairs) - 1:
            dp = 1 if recipe is None else _largest_divisor(_batch(question, recipe)[0], size // split)
            yield [(tp, split // tp, dp) for tp in reversed(inside) if tp <= split]


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(most, 0, -1) if number % divisor == 0)


def _batch(question: _Question, recipe: TrainingRecipe) -> tuple[int, int]:
    """Return the sequences of a step and their tokens: those of a recipe, or as many tokens in shorter sequences."""
    positions = question.document.architecture.positions
    longest = int(positions) if positions is not None and is_single(positions) and positions else recipe.sequence
    sequence = min(recipe.sequence, longest)
    return recipe.tokens // sequence, sequence


def _try(question: _Question, choice: _Choice) -> _Found:
    """Return the scenarios of a choice, and whether they fit; raise LayoutError where something does not divide.

    Degrees that changes set are taken as chosen, so that what each device gets is of the layout that runs.
    """
    chosen = dict.fromkeys(question.phases, choice)
    scenarios = _resolved(question, chosen)
    own = {name: _with_degrees(chosen[name], each.parallel) for name, each in scenarios.items()}
    if own != chosen:
        scenarios = _resolved(question, own)
    return _Found(own, scenarios, all(map(_holds, scenarios.values())))


def _resolved(question: _Question, choices: Mapping[str, _Choice]) -> Mapping[str, Scenario]:
    lines = [line for name, choice in choices.items() for line in _scenario(question, name, choice)]
    tree = ModelStart("\n".join([*_head(question.model), *lines]), (), question.model).tree
    changes = {path: value for path, value in question.changes.items() if _concerns(path, question.phases)}
    return resolve(tree, overrides=changes, search_path=question.search_path).scenarios


def _with_degrees(choice: _Choice, parallel: Parallelism) -> _Choice:
    """Return a choice with the degrees that a scenario has."""
    if not (is_single(parallel.tp) and is_single(parallel.pp) and is_single(parallel.dp)):
        return choice
    return replace(choice, tp=int(parallel.tp), pp=int(parallel.pp), dp=int(parallel.dp))


def _concerns(path: str, names: Mapping[str, str]) -> bool:
    """Tell whether a change is one of some scenarios, or of all."""
    head, *rest = path.split(".")
    return head != "scenarios" or (bool(rest) and any(is_of(rest[0], name) for name in names))


def _ledger(scenario: Scenario) -> Ledger:
    ledger = ledger_of(scenario)
    assert ledger is not None, "no phase here is a bound"
    return ledger


def _holds(scenario: Scenario) -> bool:
    """Tell whether the model and all its requests fit at once: an engine that serves lets others wait."""
    plan = scenario.plan
    if not _ledger(scenario).total <= scenario.cluster.device.device_memory.capacity:
        return False
    if isinstance(plan, Serving) and plan.rate is None and plan.concurrency is not None:
        return bool(admission(scenario, plan).most >= plan.concurrency)
    return True


def _head(model: str) -> list[str]:
    """Return the first lines of a workload."""
    reference = model_reference(model)
    named = reference if reference != model else f"models/{model.removeprefix('models/')}"
    return [
        "# The smallest workload of this model: every other key has its default (docs/formats.md).",
        "schema: costmodel/workload@1",
        f"model: {_quoted(named)}",
        "scenarios:",
    ]


def _quoted(name: str) -> str:
    """Return a name as YAML reads it."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _scenario(question: _Question, name: str, choice: _Choice) -> list[str]:
    """Return the lines of a scenario."""
    phase = question.phases[name]
    degrees = {"tp": choice.tp, "pp": choice.pp, "dp": choice.dp}
    layout = ", ".join(f"{degree}: {value}" for degree, value in degrees.items() if value > 1 or degree == "tp")
    layout = f"{{{layout}}}"
    reason = "whole nodes that hold it" if phase == _TRAINING else "the fewest devices that hold it"
    return [
        f"  {name}:",
        f"    phase: {phase}",
        f"    cluster: {_quoted(as_reference(question.cluster))}",
        f"    parallel: {layout:<30} # {reason}, or all",
        f"    framework: {_framework(phase)}",
        *(["    precision: fp16                      # the device has no BF16"] if question.is_narrow else []),
        *(f"    {line}" for line in _work(question, phase, choice)),
    ]


def _framework(phase: str) -> str:
    """Return the program that a phase is taken to run under."""
    return "megatron" if phase == _TRAINING else "vllm"


def _work(question: _Question, phase: str, choice: _Choice) -> list[str]:
    """Return the keys of a phase: devices of tp share each request; stages of a pipeline pass requests on."""
    lengths = [f"input_tokens: {_INPUT}", f"output_tokens: {_OUTPUT}"]
    requests, recipe = choice.requests, question.recipe
    if phase == "prefill":
        prompt = [f"input_tokens: {_INPUT}"]
        return [*prompt, f"tokens_per_device: {_INPUT / choice.tp:g}                  # one prompt at a time"]
    if phase == "decode":
        batch = f"batch_per_device: {requests / choice.tp:g}"
        return [f"{batch:<40} # {requests} requests in flight", *lengths]
    if phase == "generate":
        return [f"batch: {requests}", *lengths]
    if phase == "serving":
        return [f"concurrency: {requests}", *lengths]
    assert recipe is not None, "training has a recipe"
    sequences, sequence = _batch(question, recipe)
    again = ["recompute: layer"] if choice.recompute else []
    stated = f"global_batch: {sequences}"
    return [f"{stated:<40} # {recipe.model}: {recipe.cite}", f"sequence: {sequence}", "optimizer: {zero: 1}", *again]


def _told(question: _Question, found: _Found) -> list[str]:
    """Return what is assumed of some phases on a cluster, for people: a line for each layout."""
    by_layout: dict[str, list[str]] = {}
    for name, scenario in found.scenarios.items():
        parallel = scenario.parallel
        count = float(parallel.all_devices)
        degrees = [f"tp {parallel.tp:g}, pp {parallel.pp:g}", *([f"dp {parallel.dp:g}"] if parallel.dp != 1 else [])]
        on = f"{count:,.0f} device{'' if count == 1 else 's'} of {question.cluster} ({', '.join(degrees)})"
        by_layout.setdefault(on, []).append(_phase_told(question, found, name))
    return [f"{question.model} on {on}: {'; '.join(phases)}" for on, phases in by_layout.items()]


def _phase_told(question: _Question, found: _Found, name: str) -> str:
    """Return what is assumed of a phase, for people: its values, whoever chose them."""
    scenario = found.scenarios[name]
    plan, parallel, under = scenario.plan, scenario.parallel, scenario.framework.name
    group = parallel.tp * parallel.cp * parallel.dp
    if isinstance(plan, Training):
        recipe = question.recipe
        batch, sequence = float(plan.global_batch), float(plan.sequence)
        tokens = f"{batch * sequence / 1e6:.3g} million tokens"
        own = recipe is not None and (batch, sequence) == _batch(question, recipe)
        like = f", as {recipe.model} was trained" if own and recipe is not None else ""
        again = ", layers recomputed" if found.choices[name].recompute else ""
        return (
            f"training on {batch:,.0f} sequences of {sequence:,.0f} tokens a step ({tokens}{like}){again} under {under}"
        )
    if isinstance(plan, Prefill):
        prompts = float(plan.tokens_per_device * group / plan.input_tokens)
        number = "one prompt" if prompts == 1 else f"{prompts:,g} prompts"
        return f"prefill of {number} of {plan.input_tokens:,.0f} tokens"
    in_flight: object = None
    if isinstance(plan, Decode):
        in_flight = plan.batch_per_device * group
    elif isinstance(plan, Generate):
        in_flight = plan.batch
    elif isinstance(plan, Serving):
        in_flight = plan.concurrency
    lengths = f"{plan.input_tokens:,.0f} tokens in and {plan.output_tokens:,.0f} out"  # type: ignore[union-attr]
    requests = "requests" if in_flight is None else f"{in_flight:,g} request{'' if in_flight == 1 else 's'}"
    fewer = " (more do not fit)" if found.holds and in_flight == found.choices[name].requests < _REQUESTS[0] else ""
    return f"{question.phases[name]} of {requests}{fewer}, {lengths}, under {under}"


def _shortfall(question: _Question, found: _Found) -> str:
    """Return by how much a model does not fit, and the quantisation and the number of devices with which it does."""
    name, scenario = next((name, each) for name, each in found.scenarios.items() if not _holds(each))
    ledger, capacity = _ledger(scenario), scenario.cluster.device.device_memory.capacity
    count, formats = scenario.devices, scenario.precision.weights
    alone = "the device" if count == 1 else f"each of {count:,.0f} devices"
    told = (
        f"{question.model} does not fit: {name} needs {gib(ledger.total)} > {gib(capacity)} of {alone} of "
        f"{question.cluster} (weights in {formats}: {gib(ledger.weights)})"
    )
    return "; ".join([told, *_quantised(question), *_devices_needed(question, formats)])


def _quantised(question: _Question) -> Iterator[str]:
    """Yield the precision with the widest weights with which a model fits, and how to ask for it."""
    paths = [f"scenarios.{name}.precision" for name in question.phases]
    stated = any(".precision" in path and _concerns(path, question.phases) for path in question.changes)
    if question.recipe is not None or stated:
        return
    fitting: list[tuple[float, str, _Found]] = []
    for precision in _of_inference(question.search_path):
        changes = {**question.changes, **dict.fromkeys(paths, precision)}
        try:
            found = _choose(replace(question, changes=changes))
        except InputError:  # the device has no such unit, or the framework no such format
            continue
        if found.holds:
            fitting.append((max(float(_ledger(each).weights) for each in found.scenarios.values()), precision, found))
    if fitting:
        _, precision, found = max(fitting, key=lambda each: each[0])
        ask = " ".join(f"--set {path}={precision}" for path in paths)
        needed = gib(max(float(_ledger(each).total) for each in found.scenarios.values()))
        devices = float(next(iter(found.scenarios.values())).devices)
        place = "" if devices == 1 else f" on {devices:,.0f} devices"
        yield f"{precision} fits{place} ({needed} with {next(iter(found.choices.values())).requests} in flight): {ask}"


def _of_inference(search_path: Sequence[str | Path]) -> Iterator[str]:
    """Yield the precisions of inference, without those of llama.cpp, which is not the framework here."""
    for name in Library(search_path).names("precisions"):
        formats = load_document("precisions", name, search_path)
        if formats["master"] is None and formats["weights"] not in GGUF_FORMATS:
            yield name


def _devices_needed(question: _Question, formats: str) -> Iterator[str]:
    """Yield the fewest devices of the kind that hold a model, and a node that has them."""
    device, library = question.hardware.node.device.name, Library(question.search_path)
    found: list[tuple[int, str]] = []
    for node in (f"nodes/{name}" for name in library.names("nodes")):
        if load_node(node, question.search_path).device.name == device:
            choice = _choose(_question(question.model, node, question.phases, question.changes, question.search_path))
            if choice.holds:
                found.append((int(next(iter(choice.scenarios.values())).parallel.all_devices), node))
    if found:
        count, node = min(found)
        yield f"in {formats} it takes {count:,} devices: --cluster {node}"
    else:
        yield f"in {formats} no node of {device} holds it"
