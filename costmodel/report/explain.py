"""What `explain` shows of one operator: its equation with every term, its inputs, fit, bound and basis."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from costmodel.analytic.bound import bound_times
from costmodel.analytic.breakdown import ALL_TO_ALL_CONTENTION
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.expert_load import routing_facts
from costmodel.analytic.operator_timing import KERNELS, TimedOperator
from costmodel.calibration.candidates import Candidate
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.cost.calibration import ANCHORED, Calibration, Form
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import derivation
from costmodel.cost.parameter import Parameter, declarations, value
from costmodel.errors import InputError, suggest
from costmodel.network.group_links import group_links
from costmodel.records import ValueRecord, field
from costmodel.report import explain_cost, explain_pass, explain_step, explain_wait
from costmodel.report.explain_inputs import Inputs, inputs_of, link_paths, locations, origins_of, work_section
from costmodel.report.explain_step import BUBBLE, STEP
from costmodel.result import shown_line, whole_of
from costmodel.workload.dtypes import payload_width
from costmodel.workload.operators import Elementwise, Group, Operator, base_name
from costmodel.workload.plans import Decode, ExpertBound, Prefill, Serving, Training
from costmodel.workload.scenario import Disaggregated, Pool, Scenario

if TYPE_CHECKING:
    from costmodel.api import Workload

SCHEMA = "costmodel/explanation@2"
BOUND = "all-to-all"  # the one line of a bound
BOUND_EQUATION = """\
tpot       = layers * layer
layer      = 2 * all_to_all
all_to_all = (b_dispatch + b_combine) * tokens * sends * hidden / B"""


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
    """One operator explained.

    equation: of its time, term by term.
    file: that computes it.
    section: of docs/method.md that explains it.
    work: where its FLOP and traffic are counted, empty for what has none.
    inputs: name -> (value, dimension).
    parameters: of a fitted form, name -> (value, its declaration).
    terms: every term of the equation, by the name that it has there.
    parts: of the time, by what bounds it.
    origins: path -> where the value was written.
    considered: fits that were looked at, in the order of the choice. The last one answers.
    """

    name: str
    family: str
    equation: str
    file: str
    section: str
    work: str = ""
    inputs: Inputs
    parameters: dict[str, tuple[float, Parameter]] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float]
    time: float
    bound: str
    basis: str
    origins: dict[str, str] = field(default_factory=dict)
    considered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the explanation as JSON: SI numbers."""
        return {
            "name": self.name,
            "family": self.family,
            "equation": self.equation,
            "file": self.file,
            "section": self.section,
            "work": self.work,
            "inputs": {name: number for name, (number, _) in self.inputs.items()},
            "parameters": {name: number for name, (number, _) in self.parameters.items()},
            "terms": self.terms,
            "parts": self.parts,
            "time": self.time,
            "bound": self.bound,
            "basis": self.basis,
            "origins": self.origins,
            "considered": list(self.considered),
            "notes": list(self.notes),
        }


def refused(workload: Workload, scenario: str) -> str | None:
    """Return why a scenario cannot run, null where it can."""
    result = workload.evaluate(scenario)
    return None if result.fits else result.point().reason


def lines(workload: Workload, scenario: str) -> list[Line]:
    """Return where a scenario's time goes, the longest first. As if memory sufficed where it does not."""
    evaluation = _evaluated(workload, scenario)
    headline, entries = evaluation.metrics(None)[evaluation.headline], evaluation.breakdown()
    whole = whole_of(None if headline is None else float(headline), entries)
    names = dict.fromkeys(priced.operator.name for priced in evaluation.operators())
    return [
        Line(
            entry.name,
            entry.time,
            entry.time / whole if whole else 0.0,
            entry.hidden,
            entry.bound,
            entry.basis,
            tuple(name for name in names if base_name(name) == entry.name),
            entry.count,
        )
        for entry in entries
    ]


def has_step(workload: Workload, scenario: str) -> bool:
    """Tell whether `step` explains how a scenario's operators compose."""
    return isinstance(workload.scenario(scenario).plan, Training | Prefill | Decode)


def explain(workload: Workload, scenario: str, name: str) -> list[Explanation]:
    """Return an operator, or all those that a line of the breakdown stands for, explained.

    Operators of one name that differ in size are explained one by one. Raises InputError on an unknown name, with the
    nearest ones.
    """
    chosen = workload.scenario(scenario)
    if isinstance(chosen.plan, Training) and name in (STEP, BUBBLE, ALL_TO_ALL_CONTENTION):
        return [_step(workload, chosen, chosen.plan, name)]
    if isinstance(chosen.plan, Prefill | Decode) and name in (STEP, ALL_TO_ALL_CONTENTION):
        return [_pass(workload, chosen, chosen.plan, name)]
    if name in explain_cost.NAMES:
        return [_cost(workload, scenario)]
    if isinstance(chosen.plan, Serving) and name in explain_wait.WAITS:
        waiting = next((line for line in lines(workload, scenario) if line.name == name), None)
        if waiting is not None:
            return [_wait(_evaluated(workload, scenario), chosen, waiting)]
    if isinstance(chosen.plan, ExpertBound):
        known, explanations = {BOUND}, [_bound(workload, chosen, chosen.plan)] if name == BOUND else []
    else:
        distinct = {
            (priced.operator.name, float(priced.time.seconds)): priced
            for priced in _evaluated(workload, scenario).operators()
            if float(priced.time.seconds)
        }.values()
        known = {each for priced in distinct for each in (priced.operator.name, base_name(priced.operator.name))}
        named = [priced for priced in distinct if priced.operator.name == name]
        explanations = [
            _explained(workload, chosen, priced)
            for priced in named or [each for each in distinct if base_name(each.operator.name) == name]
        ]
    if not explanations:
        raise _unknown(workload, scenario, name, sorted(known))
    return explanations


def _unknown(workload: Workload, scenario: str, name: str, known: list[str]) -> InputError:
    """Return the error of a name that no operator has: a wait between operators, or nothing at all."""
    everything = "run without --op to list all operators"
    listed = [line.name for line in lines(workload, scenario)]
    if name in listed:
        text = f"{name!r} of scenario {scenario} is waiting or slowdown time, not an operator"
        return InputError.single(text, hint=everything, field="--op")
    if name.replace(" ", "_") in {
        metric.removesuffix("_time") for metric in _evaluated(workload, scenario).metrics(None)
    }:
        text = f"{name!r} is a metric of scenario {scenario}, not an operator"
        step, waits = has_step(workload, scenario), ", ".join(each for each in listed if each in explain_wait.WAITS)
        more = ", with `--op step` to see how they compose" if step else f"; `--op` also takes its waits: {waits}"
        return InputError.single(text, hint=everything + (more if step or waits else ""), field="--op")
    hint = suggest(name, known)
    text = f"scenario {scenario} has no operator {name!r}"
    return InputError.single(text, hint=hint if hint.endswith("?") else everything, field="--op")


def routing(workload: Workload, scenario: str) -> dict[str, float] | None:
    """Return how full the fullest rank is and which experts it runs, null without expert layers."""
    facts = routing_facts(workload.scenario(scenario))
    return None if facts is None else {name: float(value) for name, value in facts.items()}


@lru_cache(maxsize=1)  # a command asks for several things of one scenario
def _evaluated(workload: Workload, scenario: str) -> Evaluation:
    chosen = workload.scenario(scenario)
    return evaluate(chosen, workload.calibration(chosen))


def _explained(workload: Workload, scenario: Scenario, timed: TimedOperator) -> Explanation:
    operator, time, fit = timed.operator, timed.time, timed.fit
    pool = _pool(scenario, operator.name)
    scenario = scenario if pool is None else scenario.of_pool(pool)
    processors = scenario.cluster.device.processors - scenario.communication.processors
    machine = Machine(scenario.cluster.device, scenario.framework, processors, cluster=scenario.cluster)
    derived = derivation(operator, machine, scenario.cluster, fit)
    terms = {name: float(number) for name, number in derived.terms.items()}
    composition, slowdown = derived.composition, scenario.framework.sustained_slowdown
    if isinstance(operator, KERNELS) and isinstance(scenario.plan, Training) and float(slowdown) != 1.0:
        terms["sustained_slowdown"], composition = float(slowdown), f"{composition} * sustained_slowdown"
    calibration = workload.calibration(scenario)
    parts = {"compute": time.compute, "memory": time.memory, "network": time.network, "fixed": time.fixed}
    return Explanation(
        name=operator.name, family=operator.family, equation=f"time = {composition}\n{derived.equation}",
        file=f"{derived.module.replace('.', '/')}.py", section=f"docs/method.md, section {derived.section}",
        work=work_section(operator),
        inputs=inputs_of(timed, scenario), parameters={} if fit.form is None else _parameters(fit.form), terms=terms,
        parts={part: float(seconds) for part, seconds in parts.items() if float(seconds)},
        time=float(time.seconds), bound=time.bound, basis=fit.basis_at(operator, time),
        origins=origins_of(workload, scenario, timed, None if pool is None else _part(operator.name)),
        considered=_considered(calibration, operator),
        notes=(*calibration.told([operator]), *((_ANCHORED,) if fit.basis == ANCHORED else ())),
    )  # fmt: skip


_ANCHORED = (
    "measured rows of the device make its time anchor_factor times as long, the more the more alike they are: method, "
    "section 15.12"
)


def _considered(calibration: Calibration, operator: Operator) -> tuple[str, ...]:
    """Return the fits that were looked at for an operator, nothing where a calibration was made in Python."""
    if not isinstance(calibration.families, FitLookup):
        return ()
    key = f"{operator.family}/{operator.variant}" if operator.variant else operator.family
    made_with = calibration.companion(operator)
    if made_with is not None and isinstance(operator, Elementwise):
        role = f"made together with that of {operator.product}"
        return (str(Candidate(made_with.source, key, role, made_with, error=made_with.error or None)),)
    return tuple(map(str, calibration.families.considered_at(key, operator)))


def _parameters(form: Form) -> dict[str, tuple[float, Parameter]]:
    """Return the fitted parameters of a form. Those of mechanisms that it lacks are left out."""
    fitted = {}
    for name, declaration in declarations(type(form)).items():
        number = value(form, declaration)
        if isinstance(declaration.kind, Parameter) and number is not None and number != declaration.default:
            fitted[name] = (float(number), declaration.kind)
    return fitted


def _pool(scenario: Scenario, operator: str) -> Pool | None:
    """Return the pool that an operator runs in, of two. Null where there is one engine, or between the pools."""
    plan = scenario.plan
    if not isinstance(plan, Disaggregated):
        return None
    return {"prefill": plan.prefill, "decode": plan.decode}.get(_part(operator))


def _part(operator: str) -> str:
    """Return the part of a phase that an operator's name begins with."""
    return operator.partition(":")[0].removesuffix(" draft")


def _step(workload: Workload, scenario: Scenario, plan: Training, name: str) -> Explanation:
    """Return a training step explained, its bubble, or what exchanges add to it."""
    terms, actions, bound, shown = explain_step.step_terms(scenario, plan, workload.calibration(scenario))
    parts = {key.removesuffix("_time"): terms[key] for key in ("busy_time", "bubble_time", "optimizer_time")}
    time = terms.get(f"{name}_time", 0.0)
    if name == ALL_TO_ALL_CONTENTION:
        time = _line_time(workload, scenario, name)
        parts = {"all actions of a rank": time}
    notes: tuple[str, ...] = (shown,)
    known = evaluate(scenario, workload.calibration(scenario)).anchored
    if known is not None:
        factor = float(known.factor)
        terms = {**terms, "anchor_factor": factor}
        if name != ALL_TO_ALL_CONTENTION:  # a line of the breakdown has the factor
            time, parts = factor * time, {key: factor * seconds for key, seconds in parts.items()}
        notes = (shown, "measured steps of the site make all times anchor_factor times as long: method, section 15.11")
    return Explanation(
        name=shown_line(name), family="schedule", equation=explain_step.EQUATION, file=explain_step.FILES,
        section="docs/method.md, section 10.2", inputs=actions, terms=terms, parts=parts, time=time, bound=bound,
        basis="derived from the operators' times", notes=notes,
    )  # fmt: skip


def _pass(workload: Workload, scenario: Scenario, plan: Prefill | Decode, name: str) -> Explanation:
    """Return a prefill or a decoding step explained, or what exchanges add to it."""
    terms, sizes, bound = explain_pass.pass_terms(scenario, plan, workload.calibration(scenario))
    stage = {key.removesuffix("_time"): terms[key] for key in ("compute_time", "contention_time")}
    parts, time = {**stage, "waits for other streams": terms["idle_time"]}, next(iter(terms.values()))
    if name == ALL_TO_ALL_CONTENTION:
        time = _line_time(workload, scenario, name)
        parts = {"all stages": time}
    return Explanation(
        name=shown_line(name), family="pass", equation=explain_pass.EQUATION, file=explain_pass.FILE,
        section="docs/method.md, section 12.1", inputs=sizes, terms=terms, parts=parts, time=time, bound=bound,
        basis="derived from the operators' times",
    )  # fmt: skip


def _cost(workload: Workload, scenario: str) -> Explanation:
    """Return what tokens cost, explained: the rent of the system for the time that they take."""
    inputs, seconds, notes = explain_cost.cost_inputs(workload, scenario)
    point = workload.points([scenario])[scenario]
    return Explanation(
        name="cost", family="money", equation=explain_cost.EQUATION, file=explain_cost.FILE,
        section="docs/method.md, section 16", inputs=inputs, parts={"the tokens on the whole system": seconds},
        time=seconds, bound=point.bound, basis="derived from the scenario's rate and the device's price",
        origins=locations(workload, workload.scenario(scenario), ["hardware.price.rental"]), notes=notes,
    )  # fmt: skip


def _wait(evaluation: Evaluation, scenario: Scenario, line: Line) -> Explanation:
    """Return a request's wait explained: no operator runs in it."""
    wait, terms = explain_wait.explained(evaluation, scenario, line.name)
    return Explanation(
        name=line.name, family="wait", equation=f"time = {wait.equation}", file=wait.file, section=explain_wait.SECTION,
        inputs={}, terms=terms, parts={line.bound: line.time}, time=line.time,
        bound=line.bound, basis=f"derived from the operators' times, most of them {line.basis}", notes=(wait.told,),
    )  # fmt: skip


def _line_time(workload: Workload, scenario: Scenario, name: str) -> float:
    """Return the time of a line of the breakdown, zero where it has none."""
    return next((line.time for line in lines(workload, scenario.name) if line.name == name), 0.0)


def _bound(workload: Workload, scenario: Scenario, plan: ExpertBound) -> Explanation:
    """Return the closed-form bound explained: it has one equation and no operators."""
    times, communication = bound_times(scenario, plan), scenario.communication
    links = group_links(Group(scenario.parallel.ep), scenario.cluster)
    inputs = {
        "bytes of a dispatched element": (payload_width(communication.dispatch), "size"),
        "bytes of a combined element": (payload_width(communication.combine), "size"),
        "tokens": (float(plan.tokens_per_device), "count"),
        "sends": (float(plan.sends), "count"),
        "hidden": (float(plan.hidden), "count"),
        "layers": (float(scenario.architecture.depth), "count"),
        "bandwidth of the slowest link": (float(links.slowest), "bandwidth"),
    }
    parts = {"all_to_all": float(times.all_to_all), "layer": float(times.layer)}
    paths = [link_paths(scenario, links)[-1], "sends", "hidden", "tokens_per_device"]
    return Explanation(
        name=BOUND, family="bound", equation=BOUND_EQUATION, file="costmodel/analytic/bound.py",
        section="docs/method.md, section 13", inputs=inputs, terms=parts, parts=parts, time=float(times.tpot),
        bound="network", basis="roofline", origins=locations(workload, scenario, paths),
    )  # fmt: skip
