"""What `explain` shows: operators, and all that equations of the code state, with every term, inputs, fit and basis."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodel.analytic.evaluation import Evaluation, PassEvaluation, evaluate
from costmodel.analytic.expert_load import routing_facts
from costmodel.analytic.inference import PassModel
from costmodel.analytic.intervals import run_scatter
from costmodel.analytic.operator_timing import Kept, OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.recurrence.program import Slot
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import pipeline_times, step_streams
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.calibration.candidates import Candidate
from costmodel.calibration.compiled_fits import CompiledFits
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.cost.calibration import ANCHORED, Calibration, Form
from costmodel.cost.operator_time import call_terms
from costmodel.cost.parameter import Parameter, declarations, value
from costmodel.cost.power import is_as_timed
from costmodel.cost.time import Terms
from costmodel.equations import equations_of, place_of
from costmodel.errors import InputError, did_you_mean
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord, field, fields, replace
from costmodel.report.equations import Block, Call, Chain, Value, finite, traced
from costmodel.report.explain_inputs import Inputs, inputs_of, locations, origins_of, work_section
from costmodel.result import shown_line, whole_of
from costmodel.serving.choice import why_requests
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.study.prices import quotes
from costmodel.workload.architecture import Stage
from costmodel.workload.operators import KINDS, Elementwise, Operator, base_name
from costmodel.workload.plans import Decode, Diffusion, ExpertBound, Prefill, Training
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Disaggregated, Scenario
from costmodel.workload.schedules.catalogue import SCHEDULES

if TYPE_CHECKING:
    from costmodel.api import Workload

SCHEMA = "costmodel/explanation@2"
_WITH_UNITS = ("inputs", "parameters")  # name -> (value, what says its unit)
QUEUES = ("rest_of_the_running_step", "waiting_for_a_seat", "behind_other_prompts")  # waits of a request
COSTS = (
    "cost_per_million_tokens", "cost_per_trillion_tokens", "cost_per_image", "cost_per_step", "cost_per_sample",
    "cost_rate",
)  # fmt: skip


class Line(ValueRecord):
    """One line of a scenario's breakdown: exposed time, its share of the headline, and the operators it stands for.

    runs: of its operators on a device, a mean where devices differ.
    """

    name: str
    time: float
    share: float
    hidden: float
    bound: str
    basis: str
    operators: tuple[str, ...]
    runs: float = 0.0


class Explanation(ValueRecord, kw_only=True):
    """An operator explained, or what an equation states: a metric, a part of memory, a wait.

    file: that computes it.
    section: of docs/method.md that explains a kernel or a message.
    blocks: the equations of its time or value, function by function, with the values of the run.
    work: where its FLOP and traffic are counted, empty for what has none.
    inputs: name -> (value, dimension).
    parameters: of a fitted form, name -> (value, its declaration).
    own: further terms of the operator's form.
    parts: of the time, by what bounds it.
    time: of one run, null of what is no time.
    value: of whatever it is, in its dimension.
    origins: path -> where the value was written.
    considered: fits that were looked at, in the order of the choice. The last one answers.
    interval: 80 % interval of the time of one run by its fit, null of what has none.
    site_and_run: half of that of a whole run besides its kernels, a logarithm.
    """

    name: str
    family: str
    file: str
    section: str = ""
    blocks: tuple[Block, ...] = ()
    work: str = ""
    inputs: Inputs = field(default_factory=dict)
    parameters: dict[str, tuple[float, Parameter]] = field(default_factory=dict)
    own: Terms = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    time: float | None
    value: Value
    dimension: str = "time"
    bound: str
    basis: str
    origins: dict[str, str] = field(default_factory=dict)
    considered: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None
    site_and_run: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def equation(self) -> str:
        """Return all equations, one a line."""
        return "\n".join(str(line.equation) for block in self.blocks for line in block.lines)

    @property
    def terms(self) -> dict[str, Value]:
        """Return the values of all names, of several with one name the first."""
        terms = {name: each for block in reversed(self.blocks) for name, each in block.terms.items()}
        return {**terms, **{name: float(number) for name, number in self.own.items()}}

    def document(self) -> dict[str, Any]:
        """Return the explanation as JSON: SI numbers."""
        values = {name: {key: number for key, (number, _) in getattr(self, name).items()} for name in _WITH_UNITS}
        blocks = [block.document() for block in self.blocks]
        known = {"terms": finite(self.terms), **finite({"value": self.value})}
        own = {"equation": self.equation, "blocks": blocks, **known, **values}
        return {name: getattr(self, name) for name in fields(self)} | own


def refused(workload: Workload, scenario: str) -> str | None:
    """Return why a scenario cannot run, null where it can."""
    result = workload.evaluate(scenario)
    return None if result.fits else result.point().reason


def engine_note(workload: Workload, scenario: str) -> str | None:
    """Return that what is explained is the closed form, where `simulate` simulates requests; null elsewhere."""
    why = why_requests(workload.scenario(scenario), _run(workload, scenario).evaluation)
    if why is None:
        return None
    return f"the closed form is explained; `simulate` runs requests one by one (costmodel/serving/engine.py): {why}"


def lines(workload: Workload, scenario: str) -> list[Line]:
    """Return where a scenario's time goes, the longest first. As if memory sufficed where it does not."""
    evaluation = _run(workload, scenario).evaluation
    headline, entries = evaluation.metrics(None)[evaluation.headline], evaluation.breakdown()
    whole = whole_of(None if headline is None else float(headline), entries)
    names = dict.fromkeys(priced.operator.name for priced in evaluation.operators())
    return [
        Line(
            entry.name, entry.time, entry.time / whole if whole else 0.0, entry.hidden, entry.bound, entry.basis,
            tuple(name for name in names if base_name(name) == entry.name), entry.count,
        )
        for entry in entries
    ]  # fmt: skip


def names_of(workload: Workload, scenario: str) -> dict[str, list[str]]:
    """Return what can be explained beside the lines of the breakdown: metrics, parts of memory, terms of equations."""
    run = _run(workload, scenario)
    known = {
        "metrics": [name for name, number in run.metrics.items() if run.chain.derivations(name, number)],
        "memory": [name for name, size in run.memory.items() if size and run.chain.derivations(name, size)],
    }
    return {**known, "terms": sorted({*run.chain.names}.difference(*known.values()))}


def explain(workload: Workload, scenario: str, name: str) -> list[Explanation]:
    """Return an operator, or all those that a line of the breakdown stands for, or what an equation states, explained.

    Operators of one name that differ in size are explained one by one. Raises InputError on an unknown name, with the
    nearest ones.
    """
    chosen, run = workload.scenario(scenario), _run(workload, scenario)
    distinct = {
        (timed.operator.name, float(timed.time.seconds)): timed
        for timed in run.evaluation.operators()
        if float(timed.time.seconds)
    }.values()
    named = [timed for timed in distinct if timed.operator.name == name]
    named = named or [timed for timed in distinct if base_name(timed.operator.name) == name]
    if named:
        return [_explained(workload, chosen, timed) for timed in named]
    listed = lines(workload, scenario)
    explanations = [each for one in _asked(chosen, name) for each in _stated(workload, chosen, one, listed)]
    if explanations:
        return explanations
    if name.replace(" ", "_") in ("cost", *COSTS):
        raise _without_cost(workload, scenario)
    names = [each for some in names_of(workload, scenario).values() for each in some]
    known = {each for timed in distinct for each in (timed.operator.name, base_name(timed.operator.name))}
    hint = did_you_mean(name, sorted({*known, *names, *(line.name for line in listed)}))
    longest = ", ".join(line.name for line in sorted(listed, key=lambda line: -line.time)[:_OFFERED])
    raise InputError.single(
        f"scenario {scenario} has no operator, metric or term {name!r}", field="--op",
        hint=hint or f"the longest: {longest}; run without --op to list all",
    )  # fmt: skip


def _asked(scenario: Scenario, name: str) -> tuple[str, ...]:
    """Return what equations call a thing that people ask for."""
    plan = scenario.plan
    headlines = (
        (Training | Reinforcement, "step_time"), (Prefill, "ttft"), (Decode, "tpot"),
        (Diffusion, "denoising_step_time"),
    )  # fmt: skip
    others: dict[str, tuple[str, ...]] = {
        "step": tuple(headline for kind, headline in headlines if isinstance(plan, kind)),
        "bubble": ("bubble_time",),
        "cost": COSTS,
        "memory": ("total",),
        "all-to-all": ("tpot",) if isinstance(plan, ExpertBound) else (),
        "prefix": ("prefix_hit_rate",),
        **dict.fromkeys(("queue", "queueing", "queuing"), QUEUES),
    }
    return others.get(name.lower()) or (name,)


def _without_cost(workload: Workload, scenario: str) -> InputError:
    point = workload.points([scenario])[scenario]
    why = next((point.reasons[each] for each in COSTS if each in point.reasons), None)
    hint = why or "explain a scenario of training, prefill, decode, generate, serving or diffusion"
    return InputError.single(f"scenario {scenario} has no cost", hint=hint, field="--op")


def routing(workload: Workload, scenario: str) -> dict[str, float] | None:
    """Return how full the fullest rank is and which experts it runs, null without expert layers."""
    facts = routing_facts(workload.scenario(scenario))
    return None if facts is None else {name: float(value) for name, value in facts.items()}


class _Run(Record):
    """An evaluation, its metrics, the parts of its memory [B], and the equations of the functions that it called."""

    evaluation: Evaluation
    metrics: dict[str, float]
    memory: dict[str, float]
    chain: Chain


@lru_cache(maxsize=1)  # a command asks for several things of one scenario
def _run(workload: Workload, scenario: str) -> _Run:
    chosen = workload.scenario(scenario)
    with traced() as calls:
        evaluation = evaluate(chosen, workload.calibration(chosen))
        metrics = evaluation.metrics(None)
        evaluation.breakdown()
        if isinstance(evaluation, TrainingEvaluation | PassEvaluation) and is_as_timed(chosen.cluster.device.power):
            evaluation.clock()
        ledger = evaluation.ledger
        memory = {} if ledger is None else {**ledger.on_device, "total": ledger.total}
    numbers = {name: float(number) for name, number in metrics.items() if number is not None}
    return _Run(evaluation, numbers, {name: float(size) for name, size in memory.items()}, Chain(calls))


def _stated(workload: Workload, scenario: Scenario, name: str, listed: Sequence[Line]) -> list[Explanation]:
    """Return what equations state: a metric, a part of memory, a line in which no operator runs, or a term."""
    run, line = _run(workload, scenario.name), next((line for line in listed if line.name == name), None)
    own = re.sub(r"\W+", "_", name)
    own = own if own in run.chain.names else re.sub(r"\W+", "_", name.rpartition(": ")[2])
    own = next((each for each in (own, f"{own}_time") if each in run.metrics), own)  # as people write it
    known = {**run.memory, **run.metrics, **({} if line is None else {own: line.time})}
    family = "metric" if own in run.metrics else "memory" if own in run.memory else "term" if line is None else "wait"
    bounds: dict[str, float] = {}
    for each in listed if line is None else [line]:
        bounds[each.bound] = bounds.get(each.bound, 0.0) + each.time
    bound = "capacity" if family == "memory" else max(bounds, key=lambda each: bounds[each], default="")
    basis = "counted" if family == "memory" else "derived from the operators' times"
    explanations = []
    for blocks in run.chain.derivations(own, known.get(own), "count" if line is None else "time"):
        first = blocks[0].lines[0]
        is_time = first.dimension in ("time", "duration")
        explanation = Explanation(
            name=shown_line(name), family=family, file=blocks[0].file, blocks=tuple(blocks),
            time=first.value if is_time and isinstance(first.value, float) and math.isfinite(first.value) else None,
            value=first.value,
            dimension=first.dimension, bound=bound, basis=basis,
        )  # fmt: skip
        explanations.append(_with_context(workload, scenario, own, explanation))
    return explanations


def _with_context(workload: Workload, scenario: Scenario, name: str, explanation: Explanation) -> Explanation:
    """Return an explanation with what is known beside equations: prices of costs, actions of a training step."""
    evaluation, chain = _run(workload, scenario.name).evaluation, _run(workload, scenario.name).chain
    if name in COSTS:
        offer = workload.points([scenario.name])[scenario.name].offer
        rents = quotes([] if offer is None else [offer], "rental")
        prices = locations(workload, scenario, ["hardware.price.rental"])
        return replace(explanation, origins=prices, notes=tuple(f"rental price: {each}" for each in rents))
    if name == "clock":
        is_highest = explanation.terms["share"] == 1.0
        return replace(explanation, bound="highest clock" if is_highest else "power limit")
    if why_requests(scenario, evaluation) is not None:
        shown = [each for each in equations_of(RequestEvaluation.metrics_of) if each.name == name]
        place = place_of(RequestEvaluation.metrics_of)
        told = (f"`simulate`, by requests: {each} {each.note if each.expression else ''}; {place}" for each in shown)
        return replace(explanation, notes=tuple(told))
    path = path_of(chain, explanation.blocks)
    if isinstance(evaluation, PassEvaluation) and path is not None:
        return replace(explanation, inputs=segments_of(evaluation.model, path))
    if isinstance(evaluation, TrainingEvaluation) and name in ("step_time", "bubble_time", "slowed_by_exchanges"):
        actions, bound, notes, seconds = actions_of(evaluation.model, path)
        bubble = float(evaluation.times().bubble)
        asked = [(name, explanation.value), *([("bubble", bubble)] if bubble else []), ("seconds", seconds)]
        blocks = tuple(chain.derivation(asked))
        return replace(explanation, blocks=blocks, inputs=actions, bound=bound, notes=notes)
    return explanation


def _explained(workload: Workload, scenario: Scenario, timed: TimedOperator) -> Explanation:
    if isinstance(scenario.plan, Reinforcement):
        name, _, own = timed.operator.name.partition(": ")
        part = scenario.plan.rollout if name == "rollout" else scenario.plan.train
        cluster = scenario.cluster if name == "update" else part.cluster
        plain = replace(timed, operator=replace(timed.operator, name=own))
        return replace(_explained(workload, replace(part, cluster=cluster), plain), name=timed.operator.name)
    operator, time, fit = timed.operator, timed.time, timed.fit
    pool = _pool(scenario, operator.name)
    scenario = scenario if pool is None else pool
    calibration = workload.calibration(scenario)
    timer = replace(operator_timer(scenario, calibration), kernels=Kept(), messages=Kept())
    scatter = run_scatter(scenario, calibration)
    terms, blocks = _time_of(timed, replace(timer, cluster=timed.sized.machine.cluster or timer.cluster))
    section = KINDS[type(operator)].time_section if fit.form is None else fit.form.SECTION
    parts = {"compute": time.compute, "memory": time.memory, "network": time.network, "fixed": time.fixed}
    return Explanation(
        name=operator.name, family=operator.family, blocks=blocks, own=terms,
        file=next(block.file for block in blocks for line in block.lines if line.equation.name == "t"),
        section=f"docs/method.md, section {section}",
        work=work_section(operator),
        inputs=inputs_of(timed, scenario), parameters={} if fit.form is None else _parameters(fit.form),
        parts={part: float(seconds) for part, seconds in parts.items() if float(seconds)},
        time=float(time.seconds), value=float(time.seconds), bound=time.bound, basis=fit.basis_at(operator, time),
        origins=origins_of(workload, scenario, timed, None if pool is None else _part(operator.name)),
        considered=_considered(calibration, operator),
        interval=(_end_of(timed, 1.0, 0.0), _end_of(timed, 0.0, 1.0)),
        site_and_run=0.0 if scatter is None else float(np.asarray(scatter.up)),
        notes=(*calibration.told([operator]), *((_ANCHORED,) if fit.basis == ANCHORED else ())),
    )  # fmt: skip


def _time_of(timed: TimedOperator, timer: OperatorTimer) -> tuple[Terms, tuple[Block, ...]]:
    """Return the terms of one call of an operator, and the equations of its time. timer: to which no time is known."""
    with traced() as calls:
        terms = call_terms(timed.operator, timed.sized.machine, timed.fit)
        timer.time_operator(timed.operator)
    chain, seconds = Chain(calls), float(timed.time.seconds)
    return terms, tuple(chain.derivation([("seconds", seconds)]))


def _end_of(timed: TimedOperator, low: float, high: float) -> float:
    """Return the low or the high end of the interval of an operator's time [s]."""
    seconds = timed.time.seconds
    return float(np.asarray(seconds * timed.fit.ratio(timed.time, seconds, low, high)))


_OFFERED = 6  # lines that are named where there is none of the name that is asked for
_ANCHORED = (
    "measured rows of the device make its time anchor_factor times as long, the more the more alike they are: method, "
    "section 15.12"
)


def _considered(calibration: Calibration, operator: Operator) -> tuple[str, ...]:
    """Return the fits that were looked at for an operator, nothing where a calibration was made in Python."""
    fits = calibration.families.files if isinstance(calibration.families, CompiledFits) else calibration.families
    if not isinstance(fits, FitLookup):
        return ()
    key = f"{operator.family}/{operator.variant}" if operator.variant else operator.family
    made_with = calibration.companion(operator)
    if made_with is not None and isinstance(operator, Elementwise):
        role = f"made together with that of {operator.product}"
        error = made_with.error
        return (str(Candidate(made_with.source, key, role, made_with, held_out=error, is_compared=error > 0.0)),)
    return tuple(map(str, fits.considered_at(key, operator)))


def _parameters(form: Form) -> dict[str, tuple[float, Parameter]]:
    fitted = {}
    for name, declaration in declarations(type(form)).items():
        number = value(form, declaration)
        if isinstance(declaration.kind, Parameter) and number is not None and number != declaration.default:
            fitted[name] = (float(number), declaration.kind)
    return fitted


def _pool(scenario: Scenario, operator: str) -> Scenario | None:
    """Return the pool that an operator runs in, of two. Null where there is one engine, or between the pools."""
    plan, part = scenario.plan, _part(operator)
    if part not in ("prefill", "decode"):
        return None
    if isinstance(plan, Pools):
        return plan.prefill if part == "prefill" else plan.decode
    return scenario.of_pool(getattr(plan, part)) if isinstance(plan, Disaggregated) else None


def _part(operator: str) -> str:
    return operator.partition(":")[0].removesuffix(" draft")


# ---- What `explain --op step` shows of a step beside its equations: its events, and what bounds it -------------------


def path_of(chain: Chain, blocks: Sequence[Block]) -> Call | None:
    """Return the call that sums up the longest path of the events in some equations, null where none does."""
    lines = (line for block in blocks for line in block.lines if "on_path" in line.terms)
    return next((call for line in lines for call in chain.calls(line.equation.name, line.value) if call.further), None)


def segments_of(model: PassModel, path: Call) -> Inputs:
    """Return how long each segment on the longest path of a pass takes [s]."""
    segments: Inputs = {}
    slots = zip(path.names["program"].slots, path.further["on_path"], path.names["durations"][:, 0], strict=True)
    for (kind, number), count, seconds in slots:
        first, last = (model.segments[kind][number].operators[place].operator.name for place in (0, -1))
        if count:
            name = f"{count:g} on the longest path: {first} to {last}, of layers of kind {kind + 1}"
            segments[name] = (float(seconds), "time")
    return segments


def actions_of(model: StepModel, path: Call | None) -> tuple[Inputs, str, tuple[str, ...], float]:
    """Return the size of the pipeline with the time of its actions, which rank bounds the step, and notes.

    Then the time of the action that takes most of the step [s]. path: the longest one through the actions.
    """
    times = pipeline_times(model, step_streams(model, None))
    durations = times.durations.reshape(len(model.pipeline.program.slots), -1)[:, 0]
    most = int(np.argmax(model.pipeline.program.mean_counts * durations))
    place = place_of(SCHEDULES[model.pipeline.order[0]].build)
    notes = [
        f"`action_times` is of the action with most time: {_named(model.pipeline.program.slots[most], model)}",
        f"the order of each rank's actions: {place}; docs/method.md, sections 10.1 and 10.3",
    ]
    bound = _bound(model, durations, float(times.span))
    return _actions(model, durations, path), bound, tuple(notes), float(durations[most])


def _actions(model: StepModel, durations: Array, path: Call | None) -> Inputs:
    """Return the size of the pipeline, and how long an action of each kind takes on which stages."""
    name, ranks, virtual, micro_batches = model.pipeline.order
    sizes: Inputs = {
        f"ranks of {name}": (float(ranks), "count"),
        "stages per rank": (float(virtual), "count"),
        "micro-batches": (float(micro_batches), "count"),
    }
    program = model.pipeline.program
    paths = [""] * len(durations)
    if path is not None:
        paths = [f", {count:g} on the longest path" for count in path.further["on_path"]]
    rows = zip(program.slots, program.mean_counts, paths, durations, strict=True)
    return sizes | {
        f"{count:g} per rank{path}: {_named(slot, model)}": (float(seconds), "time")
        for slot, count, path, seconds in rows
    }


def _named(slot: Slot, model: StepModel) -> str:
    """Return an action with the stages that it may be on."""
    layout, classes = model.pipeline.layout, model.pipeline.classes
    parts = [
        f"{word} of {_stages(layout, classes[label])}"
        for word, label in (("forward", slot.forward), ("backward", slot.backward))
        if label is not None
    ]
    return f"{slot.kind.value.replace('_', ' ')} ({' with '.join(parts)})"


def _stages(layout: tuple[Stage, ...], wanted: Stage) -> str:
    """Return the numbers of the stages that are equal to one, consecutive ones as a range."""
    numbers = [number for number, stage in enumerate(layout) if stage == wanted]
    runs = np.split(numbers, 1 + np.flatnonzero(np.diff(numbers) > 1))
    ranges = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"stage{'s' if len(numbers) > 1 else ''} {', '.join(ranges)}"


def _bound(model: StepModel, durations: Array, span: float) -> str:
    """Return the rank that computes longest, and for how much of the span: the rest is fill, drain and waits."""
    program, schedule = model.pipeline.program, model.pipeline.schedule
    busy = program.counts @ durations
    rank = int(np.argmax(busy))
    stages = ", ".join(str(stage) for stage in schedule.stages_of(rank))
    return f"pipeline rank {rank} (stages {stages}), busy for {busy[rank] / span:.1%} of {span:.4g} s"
