"""The smallest workload of a model on clusters: a layout that fits, round lengths, a published batch. It says which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.analytic.model_layouts import (
    REQUESTS,
    TRAINING,
    Found,
    Question,
    batch_of,
    choose,
    concerns,
    full_ledger,
    head_lines,
    holds_all,
    question_of,
    scenario_lines,
    workload_tree,
)
from costmodel.analytic.out_of_memory import gib
from costmodel.errors import InputError
from costmodel.records import Record, replace
from costmodel.schema import SI
from costmodel.schema.files import load_document, load_node, read_model
from costmodel.schema.overrides import runs
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.workload.dtypes import GGUF_FORMATS
from costmodel.workload.plans import Decode, Diffusion, Generate, Prefill, Serving, Training
from costmodel.workload.requests import RequestStream

PHASES = ("prefill", "decode", "generate", "serving", "training", "diffusion", "rl")
DEFAULT_PHASES = ("prefill", "decode")  # of language models


class ModelStart(Record):
    """A workload as text.

    lines: what was assumed for it, and what does not fit.
    name: of the model.
    phases: those that were asked for, or that it has by default.
    """

    text: str
    lines: tuple[str, ...]
    name: str
    phases: tuple[str, ...]

    @property
    def file(self) -> str:
        """Return the file that a user may write it to, none that is there."""
        name = Path(self.name).stem if Path(self.name).is_file() else Path(self.name).name
        return f"{name}_workload.yaml" if Path(f"{name}.yaml").exists() else f"{name}.yaml"

    @property
    def tree(self) -> Tree:
        """Return the workload as a document."""
        return workload_tree([self.text], self.name)


def start_workload(
    model: str, clusters: Sequence[str], phases: Sequence[str] = (), search_path: Sequence[str | Path] = (),
    changes: Mapping[str, object] | None = None,
) -> ModelStart:  # fmt: skip
    """Return the smallest workload of a model on clusters. Raises InputError where one of them is unknown.

    Inference has the fewest devices whose memory holds the model and the requests of all its phases: tensor parallel in
    a node, then pipeline stages over nodes. Fewer requests where no layout holds all. Training takes the fewest whole
    nodes, filled with data parallelism, experts spread inside a node, tensor parallelism no wider than memory asks for,
    without a pipeline the largest micro-batch that fits, and the batch of the published recipe of the nearest size. If
    nothing fits, the lines say by how much, and the quantisation and the number of devices that would. changes: paths
    of the workload and their new values, with which it has to fit.
    """
    chosen = tuple(phases) or default_phases(model, search_path)
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
            question = question_of(model, cluster, together, single, search_path)
            layouts = choose(question)
            texts.update({name: _stated(question, layouts, name) for name in together})
            lines += [*_told(question, layouts), *_shortfall(question, layouts)]
        for name in (name for name, phase in here.items() if phase == "rl"):
            step = reinforcement(model, cluster, name, single, search_path)
            texts[name] = list(step.lines)
            lines += [step.assumed, *_shortfall(*step.serving), *_told(*step.training), *_shortfall(*step.training)]
    text = [*head_lines(model), *(line for name in of for line in texts[name])]
    return ModelStart("\n".join(text) + "\n", tuple(lines), model, chosen)


def _stated(question: Question, chosen: Found, name: str) -> list[str]:
    """Return the lines of a scenario, without the lengths and the load that a trace has of its own."""
    trace = _trace(chosen, name)
    own: tuple[str, ...] = () if trace is None else ("input_tokens", "output_tokens")
    own += () if trace is None or trace.arrivals == "closed_loop" else ("concurrency",)
    lines = scenario_lines(question, name, chosen.choices[name])
    return [line for line in lines if line.partition(":")[0].strip() not in own]


def _trace(chosen: Found, name: str) -> RequestStream | None:
    plan = chosen.scenarios[name].plan
    stream = plan.requests if isinstance(plan, Serving) else None
    return None if stream is None or stream.trace is None else stream


def _is_grid(change: object) -> bool:
    """Tell whether a change is many values, which are evaluated in the layout that fits without it."""
    return isinstance(change.value if isinstance(change, SI) else change, np.ndarray)


def default_phases(model: str, search_path: Sequence[str | Path] = ()) -> tuple[str, ...]:
    """Return the phases of a model that nobody has asked for."""
    denoises = read_model(model, search_path).architecture.denoiser is not None
    return ("diffusion",) if denoises else DEFAULT_PHASES


def _groups(phases: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the scenarios that share a layout: those of inference, and those of training."""
    for trains in (False, True):
        group = {name: phase for name, phase in phases.items() if (phase == TRAINING) is trains and phase != "rl"}
        if group:
            yield group


def _told(question: Question, chosen: Found) -> list[str]:
    """Return what is assumed of some phases on a cluster, for people: a line for each layout."""
    by_layout: dict[str, list[str]] = {}
    for name, scenario in chosen.scenarios.items():
        parallel = scenario.parallel
        count = float(parallel.all_devices)
        further = {"dp": parallel.dp, "ep": parallel.ep}
        degrees = [
            f"tp {parallel.tp:g}, pp {parallel.pp:g}",
            *(f"{each} {value:g}" for each, value in further.items() if value != 1),
        ]
        on = f"{count:,.0f} device{'' if count == 1 else 's'} of {question.cluster} ({', '.join(degrees)})"
        by_layout.setdefault(on, []).append(_phase_told(question, chosen, name))
    return [f"{question.model} on {on}: {'; '.join(phases)}" for on, phases in by_layout.items()]


def _phase_told(question: Question, chosen: Found, name: str) -> str:
    """Return what is assumed of a phase, for people: its values, whoever chose them."""
    scenario = chosen.scenarios[name]
    plan, parallel, under = scenario.plan, scenario.parallel, scenario.framework.name
    group = parallel.tp * parallel.cp * parallel.dp
    if isinstance(plan, Training):
        recipe = question.recipe
        batch, sequence = float(plan.global_batch), float(plan.sequence)
        tokens = f"{batch * sequence / 1e6:.3g} million tokens"
        own = recipe is not None and (batch, sequence) == batch_of(question, recipe)
        like = f", as {recipe.model} was trained" if own and recipe is not None else ""
        at_once = f", micro-batches of {plan.micro_batch:g}" if plan.micro_batch != 1 else ""
        again = ", layers recomputed" if chosen.choices[name].recompute else ""
        of = f"{batch:,.0f} sequences of {sequence:,.0f} tokens a step ({tokens}{like})"
        return f"training on {of}{at_once}{again} under {under}"
    if isinstance(plan, Prefill):
        prompts = float(plan.tokens_per_device * group / plan.input_tokens)
        number = "one prompt" if prompts == 1 else f"{prompts:,g} prompts"
        return f"prefill of {number} of {plan.input_tokens:,.0f} tokens"
    if isinstance(plan, Diffusion):
        what = "an image" if plan.frames == 1 else f"a video of {plan.frames:g} frames"
        size = f"{plan.width:g} x {plan.height:g} pixels"
        return f"diffusion of {what} of {size} in {plan.steps:g} steps under {under}"
    in_flight: object = plan.batch_per_device * group if isinstance(plan, Decode) else None
    if isinstance(plan, Generate | Serving):
        in_flight = plan.batch if isinstance(plan, Generate) else plan.concurrency
    lengths = f"{plan.input_tokens:,.0f} tokens in and {plan.output_tokens:,.0f} out"  # type: ignore[union-attr]
    if _trace(chosen, name) is not None:
        return f"{question.phases[name]} of a trace's requests, under {under}"
    requests = "requests" if in_flight is None else f"{in_flight:,g} request{'' if in_flight == 1 else 's'}"
    fewer = " (more do not fit)" if chosen.holds and in_flight == chosen.choices[name].requests < REQUESTS[0] else ""
    return f"{question.phases[name]} of {requests}{fewer}, {lengths}, under {under}"


def _shortfall(question: Question, chosen: Found) -> Iterator[str]:
    """Yield by how much a model does not fit, and the quantisation and the number of devices with which it does."""
    if chosen.holds:
        return
    name, scenario = next((name, each) for name, each in chosen.scenarios.items() if not holds_all(each))
    ledger, capacity = full_ledger(scenario), scenario.cluster.device.device_memory.capacity
    stored = getattr(getattr(scenario.plan, "adapters", None), "base_precision", None)
    count, formats = scenario.devices, stored or scenario.precision.weights
    alone = "the device" if count == 1 else f"each of {count:,.0f} devices"
    shortfall = (
        f"{question.model} does not fit: {name} needs {gib(ledger.total)} > {gib(capacity)} of {alone} of "
        f"{question.cluster} (weights in {formats}: {gib(ledger.weights)})"
    )
    yield "; ".join([shortfall, *_quantised(question), *_devices_needed(question, formats)])


def _quantised(question: Question) -> Iterator[str]:
    """Yield the precision with the widest weights with which a model fits, and how to ask for it."""
    paths = [f"scenarios.{name}.precision" for name in question.phases]
    stated = any(".precision" in path and concerns(path, question.phases) for path in question.changes)
    if question.recipe is not None or stated:
        return
    fitting: list[tuple[float, str, Found]] = []
    for precision in _of_inference(question.search_path):
        changes = {**question.changes, **dict.fromkeys(paths, precision)}
        try:
            chosen = choose(replace(question, changes=changes))
        except InputError:  # the device has no such unit, or the framework no such format
            continue
        if chosen.holds:
            fitting.append(
                (max(float(full_ledger(each).weights) for each in chosen.scenarios.values()), precision, chosen)
            )
    if fitting:
        _, precision, chosen = max(fitting, key=lambda each: each[0])
        ask = " ".join(f"--set {path}={precision}" for path in paths)
        needed = gib(max(float(full_ledger(each).total) for each in chosen.scenarios.values()))
        devices = float(next(iter(chosen.scenarios.values())).devices)
        on = "" if devices == 1 else f" on {devices:,.0f} devices"
        requests = next(iter(chosen.choices.values())).requests
        with_requests = "" if "diffusion" in question.phases.values() else f" with {requests} in flight"
        yield f"{precision} fits{on} ({needed}{with_requests}): {ask}"


def _of_inference(search_path: Sequence[str | Path]) -> Iterator[str]:
    """Yield the precisions of inference, without those of llama.cpp, which is not the framework here."""
    for name in Library(search_path).names("precisions"):
        formats = load_document("precisions", name, search_path)
        if formats["master"] is None and formats["weights"] not in GGUF_FORMATS:
            yield name


def _devices_needed(question: Question, formats: str) -> Iterator[str]:
    """Yield the fewest devices of the kind that hold a model, and a node that has them."""
    device, library = question.hardware.node.device.name, Library(question.search_path)
    counts: list[tuple[int, str]] = []
    for node in (f"nodes/{name}" for name in library.names("nodes")):
        if load_node(node, question.search_path).device.name == device:
            choice = choose(question_of(question.model, node, question.phases, question.changes, question.search_path))
            if choice.holds:
                counts.append((int(next(iter(choice.scenarios.values())).parallel.all_devices), node))
    if counts:
        count, node = min(counts)
        yield f"in {formats} it takes {count:,} devices: --cluster {node}"
    else:
        yield f"in {formats} no node of {device} holds it"


_PROMPTS, _SAMPLES = 64, 32
_ANSWER, _LONGEST = 1024, 3072
_STATED = ("concurrency", "output_tokens")  # of an engine, which the step has of its own


class Step(Record):
    """A step and what it consists of.

    lines: of a workload, those of the step first, then those of its engines and of its training.
    assumed: what is assumed of the engines, for people.
    serving, training: question and choice of each part.
    """

    lines: tuple[str, ...]
    assumed: str
    serving: tuple[Question, Found]
    training: tuple[Question, Found]


def reinforcement(
    model: str, cluster: str, name: str, changes: Mapping[str, object], search_path: Sequence[str | Path]
) -> Step:
    """Return the step `name` of a model: GRPO as NeMo RL starts it, engines and training in turn on the same devices.

    Training takes the fewest whole nodes that hold it, an engine the fewest devices, as many engines as fill them.
    Prompts have 1,024 tokens, answers as many in the mean, spread exponentially up to 4,096 in all (the example's
    longest): round numbers, since no source states lengths.
    Raises InputError where model or cluster are unknown, or no layout is valid.
    """
    rollout, train = (f"{part}{name.removeprefix('rl')}" for part in ("rollout", "train"))
    training = replace(question_of(model, cluster, {train: TRAINING}, changes, search_path), learns=True)
    serving = question_of(model, cluster, {rollout: "serving"}, changes, search_path)
    trained, served = choose(training), choose(serving)
    devices = trained.scenarios[train].devices
    engines = max(int(devices // served.scenarios[rollout].devices), 1)
    own = [
        f"  {name}:",
        "    phase: rl",
        "    rollout: rollout",
        "    train: train",
        f"    prompts: {_PROMPTS}                              # NVIDIA-NeMo/RL, examples/configs/grpo_math_8B.yaml",
        f"    samples: {_SAMPLES}",
        "    offload: all                             # training states wait in host memory while devices generate",
    ]
    answers = _PROMPTS * _SAMPLES
    output = f"{{distribution: exponential, mean: {_ANSWER}, high: {_LONGEST}}}"
    generates = [
        *(line for line in scenario_lines(serving, rollout, served.choices[rollout]) if not _is_stated(line)),
        f"    replicas: {{count: {engines}}}                   # as many as the training's devices hold",
        f"    concurrency: {-(-answers // engines)}                          # what an engine does not hold waits",
        "    # Round lengths: no source states them, and answers of other lengths move the step most.",
        f"    requests: {{arrivals: closed_loop, count: {answers}, output: {output}}}",
    ]
    lines = (*own, *generates, *scenario_lines(training, train, trained.choices[train]))
    engine = served.scenarios[rollout]
    assert isinstance(engine.plan, Serving), "its phase says so"
    parallel = engine.parallel
    at = f"{engines:,} engine{'' if engines == 1 else 's'} of {cluster} (tp {parallel.tp:g}, pp {parallel.pp:g})"
    prompts = f"{_PROMPTS} prompts of {engine.plan.input_tokens:,.0f} tokens"
    lengths = f"{_ANSWER:,} tokens in the mean and at most {_LONGEST:,}"
    assumed = f"{model} on {at}: {prompts}, {_SAMPLES} answers to each of {lengths}"
    return Step(lines, assumed, (serving, served), (training, trained))


def _is_stated(line: str) -> bool:
    return line.partition(":")[0].strip() in _STATED
