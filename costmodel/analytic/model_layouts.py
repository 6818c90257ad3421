"""Layouts and work with which a model's phases fit a cluster: candidates in order, each as the text of a workload."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.serving.engine_state import admission
from costmodel.errors import ImplausibleInput, InputError, LayoutError
from costmodel.hardware import Cluster
from costmodel.quantities import is_single
from costmodel.records import Record, ValueRecord, replace
from costmodel.schema.files import ModelDocument, load_cluster, read_model
from costmodel.schema.hardware_names import called
from costmodel.schema.loader import parse_tree
from costmodel.schema.model_names import model_reference
from costmodel.schema.overrides import ON, is_of
from costmodel.schema.published_tables import TrainingRecipe, nearest_recipe
from costmodel.schema.references import Library, as_reference
from costmodel.schema.resolve import resolve
from costmodel.schema.tree import Tree
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.counting import parameter_count
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Parallelism, Scenario

TRAINING = "training"
REQUESTS = (32, 16, 8, 4, 2, 1)  # in flight: as many as fit
ADAPTERS: Mapping[str, Any] = {  # sequences of a step
    "model": "Guanaco (QLoRA)", "global_batch": 16,
    "cite": "artidoro/qlora (GitHub), scripts/finetune_guanaco_7b.sh and finetune_guanaco_65b.sh: 4 x 4 sequences",
}  # fmt: skip
REINFORCEMENT: Mapping[str, Any] = {  # sequences of an optimizer step, each a prompt with its answer
    "model": "GRPO of NeMo RL", "global_batch": 512, "sequence": 2048,
    "cite": "NVIDIA-NeMo/RL, examples/configs/grpo_math_8B.yaml",
}  # fmt: skip
_INPUT, _OUTPUT = 1024, 1024
_FRAMEWORKS = {TRAINING: "megatron", "diffusion": "torch-compile"}  # that a phase is taken to run under; others: vLLM
_MOST_DEVICES = 1024  # of a node instead of a cluster: as many nodes as the layout needs
_LEAST_BYTES = 0.5  # of a stored weight: layouts that cannot hold even these are not tried
_PLAIN = re.compile(r"(?!\d+$)[\w./-]+")  # YAML reads such a name as text


class Choice(ValueRecord):
    """What is chosen so that a job can run. requests: in flight; recompute: whether layers are computed again.

    ep: ranks of a node over which a training step spreads its experts.
    micro_batch: sequences of a rank at a time.
    """

    tp: int
    pp: int
    dp: int = 1
    ep: int = 1
    requests: int = REQUESTS[0]
    recompute: bool = False
    micro_batch: int = 1


class Found(Record):
    """Scenarios and what was chosen for each. holds: whether all of them fit."""

    choices: Mapping[str, Choice]
    scenarios: Mapping[str, Scenario]
    holds: bool


class Question(Record):
    """Some phases of a model on a cluster.

    phases: name of a scenario -> its phase.
    changes: as for `resolve`.
    learns: whether training is an optimizer step of reinforcement learning.
    takes_all: whether the cluster's name states how many devices there are, all of which a training step takes.
    """

    model: str
    document: ModelDocument
    cluster: str
    hardware: Cluster
    phases: Mapping[str, str]
    changes: Mapping[str, object]
    search_path: tuple[str | Path, ...]
    learns: bool = False
    takes_all: bool = False

    @property
    def recipe(self) -> TrainingRecipe | None:
        """Return the published recipe of training, null for inference. Adapters have a batch of their own."""
        if TRAINING not in self.phases.values():
            return None
        recipe = nearest_recipe(self.document.architecture)
        if self.learns:
            return replace(recipe, **REINFORCEMENT)
        trains_adapters = any(re.match(r"scenarios\.[^.]+\.adapters\b", path) for path in self.changes)
        return replace(recipe, **ADAPTERS) if trains_adapters else recipe

    def states(self, name: str, field: str) -> bool:
        """Tell whether a change sets a field of a scenario."""
        return any(f"scenarios.{each}.{field}" in self.changes for each in (name, name.partition(ON)[0]))

    @property
    def node(self) -> int:
        """Return the devices of a node."""
        return int(np.max(self.hardware.node.count))

    @property
    def nodes(self) -> int:
        """Return how many nodes there can be. Those without a NIC are alone."""
        return int(np.max(self.hardware.count)) if self.hardware.node.nic is not None else 1

    @property
    def experts(self) -> int:
        """Return the largest number of ranks among which the experts of every layer can be divided, zero without."""
        kinds = self.document.architecture.kinds
        return math.gcd(*(int(np.max(kind.ffn.experts)) for kind in kinds if isinstance(kind.ffn, MoeFfn)))

    @property
    def trains_experts(self) -> bool:
        """Tell whether ranks of a training step can share out experts."""
        return self.recipe is not None and self.experts > 1

    @property
    def capacity(self) -> float:
        """Return the memory of a device [B]."""
        return float(np.max(self.hardware.node.device.device_memory.capacity))

    @property
    def is_narrow(self) -> bool:
        """Tell whether 16-bit weights have to be FP16, since the device has no BF16."""
        return "bf16" not in self.hardware.node.device.math and self.document.document["quantization"] is None


def question_of(
    model: str, cluster: str, phases: Mapping[str, str], changes: Mapping[str, object],
    search_path: Sequence[str | Path],
) -> Question:  # fmt: skip
    """Return the question of some phases of a model on a cluster. For a node, on as many as the layout needs."""
    of_hardware = {path: value for path, value in changes.items() if path.startswith("hardware.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplausibleInput)  # who loads the workload warns
        of = load_cluster(cluster, search_path, devices=_MOST_DEVICES, changes=of_hardware)
    meant = called(cluster, Library(search_path))
    stated = meant is not None and meant[1] is not None
    document = read_model(model, search_path)
    return Question(model, document, cluster, of, phases, changes, tuple(search_path), takes_all=stated)


def choose(question: Question) -> Found:
    """Return the first choice with which all phases fit, else the one that needs least. Raise where none is valid."""
    most, *less = _eased(question)
    first = _first_layout(question, most)
    if first.holds:
        return _larger_micro_batch(question, first)
    least = _first_layout(question, less[-1])
    if not least.holds:
        return least
    between = (_first_layout(question, eased) for eased in less[:-1])
    return next((first for first in between if first.holds), least)


def _first_layout(question: Question, eased: Choice) -> Found:
    """Return the first layout with which all phases fit, else the last valid one. Raises InputError where none is.

    Of the layouts of a training step on as many devices, it is the one with the narrowest tensor parallelism.
    """
    last: Found | None = None
    failed: InputError | None = None
    for alternatives in _layouts(question):
        narrowest: Found | None = None
        for tp, pp, dp in alternatives:
            try:
                last = _try(question, replace(eased, tp=tp, pp=pp, dp=dp))
            except LayoutError as error:  # heads, layers or experts do not divide
                failed = failed or error
                continue
            narrowest = last if last.holds else narrowest
            if not (question.trains_experts or (question.recipe and last.holds)):
                break  # fewer ranks of tensor parallelism hold no more, but where they leave more for experts
        if narrowest is not None:
            return narrowest
    if last is None:
        raise _stated(failed) or InputError.single(f"{question.cluster} has no device", field="--cluster")
    return last


def _stated(failed: InputError | None) -> InputError | None:
    """Return the problems of what changes set, without those of layouts that are only tried. All where none is."""
    problems = failed.problems if failed is not None else ()
    of_changes = [each for each in problems if each.location is not None and each.location.source.startswith("--set ")]
    return LayoutError(of_changes) if of_changes else failed


def _larger_micro_batch(question: Question, chosen: Found) -> Found:
    """Return the same with the largest power of two of sequences a micro-batch that fits. One through a pipeline.

    Without a pipeline nothing waits for a larger one, and its kernels are larger.
    """
    (name, choice), *_ = chosen.choices.items()
    if question.recipe is None or choice.pp > 1 or question.states(name, "micro_batch"):
        return chosen
    try:
        larger = _try(question, replace(choice, micro_batch=2 * choice.micro_batch))
    except LayoutError:  # it does not divide a rank's share of the batch
        return chosen
    return _larger_micro_batch(question, larger) if larger.holds else chosen


def _eased(question: Question) -> list[Choice]:
    """Return what needs less and less memory: fewer requests in flight. In training, layers computed again."""
    if question.recipe is not None:
        return [Choice(1, 1, recompute=recompute) for recompute in (False, True)]
    return [Choice(1, 1, requests=requests) for requests in REQUESTS]


def _powers(most: int) -> list[int]:
    return list(takewhile(lambda power: power <= most, (2**n for n in range(32))))


def _layouts(question: Question) -> Iterator[list[tuple[int, int, int]]]:
    """Yield layouts (tp, pp, dp), the fewest devices first. Those of a list have as many.

    The last one is yielded whatever it holds, so that there is one.
    """
    inside, recipe = _powers(question.node), question.recipe
    splits = [*inside, *(inside[-1] * nodes for nodes in _powers(question.nodes)[1:])]
    least = float(parameter_count(question.document.architecture).total) * _LEAST_BYTES
    counts = [question.nodes] if question.takes_all else _powers(question.nodes)
    sizes = [question.node * nodes for nodes in counts] if recipe else [0]
    pairs = [(size, split) for size in sizes for split in splits if not recipe or split <= size]
    for at, (size, split) in enumerate(pairs):
        if least / split <= question.capacity or at == len(pairs) - 1:
            batch = 1 if recipe is None else batch_of(question, recipe)[0]
            dp = 1 if recipe is None else next(each for each in range(size // split, 0, -1) if batch % each == 0)
            yield [(tp, split // tp, dp) for tp in reversed(inside) if tp <= split]


def batch_of(question: Question, recipe: TrainingRecipe) -> tuple[int, int]:
    """Return the sequences of a step and their tokens: those of a recipe, or as many tokens in shorter sequences."""
    positions = question.document.architecture.positions
    longest = int(positions) if positions is not None and is_single(positions) and positions else recipe.sequence
    sequence = min(recipe.sequence, longest)
    return recipe.tokens // sequence, sequence


def _try(question: Question, choice: Choice) -> Found:
    """Return the scenarios of a choice, and whether they fit. Raises LayoutError where something does not divide.

    Degrees that changes set are taken as chosen, so that what each device gets is of the layout that runs.
    """
    chosen = dict.fromkeys(question.phases, choice)
    scenarios = _resolved(question, chosen)
    own = {name: _with_degrees(question, name, each.parallel, chosen[name]) for name, each in scenarios.items()}
    if own != chosen:
        scenarios = _resolved(question, own)
    return Found(own, scenarios, all(map(holds_all, scenarios.values())))


def _resolved(question: Question, choices: Mapping[str, Choice]) -> Mapping[str, Scenario]:
    lines = [line for name, choice in choices.items() for line in scenario_lines(question, name, choice)]
    tree = workload_tree([*head_lines(question.model), *lines], question.model)
    changes = {path: value for path, value in question.changes.items() if concerns(path, question.phases)}
    return resolve(tree, overrides=changes, search_path=question.search_path).scenarios


def _with_degrees(question: Question, name: str, parallel: Parallelism, choice: Choice) -> Choice:
    """Return a choice with the degrees that a scenario has, experts spread over the ranks of a node in training."""
    if not (is_single(parallel.tp) and is_single(parallel.pp) and is_single(parallel.dp)):
        return choice
    tp, pp, dp = int(parallel.tp), int(parallel.pp), int(parallel.dp)
    spreads = question.trains_experts and not question.states(name, "parallel.ep")
    return replace(choice, tp=tp, pp=pp, dp=dp, ep=math.gcd(question.experts, tp * dp, question.node) if spreads else 1)


def concerns(path: str, names: Mapping[str, str]) -> bool:
    """Tell whether a change is one of some scenarios, or of all."""
    head, *rest = path.split(".")
    return head != "scenarios" or (bool(rest) and any(is_of(rest[0], name) for name in names))


def full_ledger(scenario: Scenario) -> Ledger:
    """Return what a device would hold."""
    ledger = ledger_of(scenario)
    assert ledger is not None, "no phase here is a bound"
    return ledger


def holds_all(scenario: Scenario) -> bool:
    """Tell whether the model and all its requests fit at once: an engine that serves lets others wait."""
    plan = scenario.plan
    if not full_ledger(scenario).total <= scenario.cluster.device.device_memory.capacity:
        return False
    if isinstance(plan, Serving) and plan.rate is None and plan.concurrency is not None:
        return bool(admission(scenario, plan).most >= plan.concurrency)
    return True


def head_lines(model: str) -> list[str]:
    """Return the first lines of a workload."""
    reference = model_reference(model)
    named = reference if reference.startswith("./") else f"models/{reference.removeprefix('models/')}"
    return [
        "# The smallest workload of this model: every other key has its default (docs/formats.md).",
        "schema: costmodel/workload@1",
        f"model: {_quoted(named)}",
        "scenarios:",
    ]


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def scenario_lines(question: Question, name: str, choice: Choice) -> list[str]:
    """Return the lines of a scenario."""
    phase = question.phases[name]
    degrees = {"tp": choice.tp, "pp": choice.pp, "dp": choice.dp, "ep": choice.ep}
    layout = ", ".join(f"{degree}: {value}" for degree, value in degrees.items() if value > 1 or degree == "tp")
    layout = f"{{{layout}{', expert_tensor: 1' if choice.ep > 1 and choice.tp > 1 else ''}}}"
    reason = "whole nodes that hold it" if phase == TRAINING else "the fewest devices that hold it"
    return [
        f"  {name}:",
        f"    phase: {phase}",
        f"    cluster: {_quoted(as_reference(question.cluster))}",
        f"    parallel: {layout:<30} # {reason}, or all",
        f"    framework: {_FRAMEWORKS.get(phase, 'vllm')}",
        *(["    precision: fp16                      # the device has no BF16"] if question.is_narrow else []),
        *(f"    {line}" for line in _work(question, name, choice)),
    ]


def _work(question: Question, name: str, choice: Choice) -> list[str]:
    """Return the keys of a phase: devices of tp share each request. Stages of a pipeline pass requests on."""
    phase = question.phases[name]
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
        return [*([] if question.states(name, "rate") else [f"concurrency: {requests}"]), *lengths]
    if phase == "diffusion":
        return _pixels(question)
    assert recipe is not None, "training has a recipe"
    sequences, sequence = batch_of(question, recipe)
    further = [f"micro_batch: {choice.micro_batch}"] if choice.micro_batch > 1 else []
    further += ["recompute: layer"] if choice.recompute else []
    stated = f"global_batch: {sequences}"
    return [f"{stated:<40} # {recipe.model}: {recipe.cite}", f"sequence: {sequence}", "optimizer: {zero: 1}", *further]


def _pixels(question: Question) -> list[str]:
    """Return the keys of an image or, of a model whose latents stand for several frames, of a video."""
    denoiser = question.document.architecture.denoiser
    if denoiser is None:
        raise InputError.single(f"{question.model} denoises no latents", field="--phase", hint="ask for another phase")
    if not np.any(np.greater(denoiser.frame_compression, 1.0)):
        return ["height: 1024", "width: 1024", "steps: 28"]
    tiles = [] if denoiser.streamed else ["tile: 256                             # pixels that are decoded at once"]
    return ["height: 704", "width: 1280", "frames: 81", "steps: 50", *tiles]


def workload_tree(lines: Sequence[str], model: str) -> Tree:
    """Return the workload of a model as a document."""
    return parse_tree(
        "\n".join(lines), f"workload of {model.removeprefix('./').replace('/', '--')}"
    )  # no folder: paths start here
