"""What runs on a machine: every model of the catalogue in every format, its longest context, its users, its rates.

The formats are the scenarios of `workloads/what_runs.yaml`: a precision, the framework that serves it, the tokens of a
typical request. A model takes the fewest ranks of a node that hold it, the node as many replicas as it has devices for.
Passes of all models are timed together, so that operators of one form are evaluated at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.analytic.evaluation import PassEvaluation
from costmodel.analytic.inference import plan_pass
from costmodel.analytic.intervals import intervals, run_scatter
from costmodel.analytic.operator_timing import operator_timer
from costmodel.analytic.stream_times import Perturbations
from costmodel.api import load
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.errors import InputError, Problem
from costmodel.planning.request import PlanRequest
from costmodel.planning.structures import positions_of, unknown_clusters
from costmodel.quantities import Bytes
from costmodel.records import Record, asdict, replace
from costmodel.result import Metrics
from costmodel.schema.model_support import ListedModel, listed_models
from costmodel.schema.references import Library
from costmodel.schema.releases import for_model
from costmodel.schema.tree import Tree
from costmodel.study.goals import OnProgress
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import element_bytes
from costmodel.workload.engine_memory import KvPool, kv_pool
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Serving
from costmodel.workload.scenario import Routing, Scenario
from costmodel.workload.validity import rules

FORMATS = "what_runs"  # the workload whose scenarios are the formats
RELEASED = "released"  # its scenario of models that are published in a narrow format
_RATE = "tokens_per_second_per_user"
_NOT_ASKED = ("rate", "users", "trace", "ttft", "tpot", "budget", "confidence", "anchors", "train", "tokens", "days")


class Format(Record):
    """A scenario of the formats on a number of tensor-parallel ranks. precision: its name, null: as a model has it."""

    name: str
    precision: str | None
    ranks: int
    scenario: Scenario
    calibration: Calibration

    @property
    def plan(self) -> Serving:
        """Return the requests of one user."""
        plan = self.scenario.plan
        assert isinstance(plan, Serving), "`_format` has checked it"
        return plan

    def of(self, architecture: Architecture) -> Scenario:
        """Return the scenario of a model."""
        framework = for_model(self.scenario.framework, architecture)
        return replace(self.scenario, architecture=architecture, framework=framework)


class Held(Record):
    """A model that fits. users: at once, of one replica; longest: tokens of one user's context."""

    model: str
    format: Format
    scenario: Scenario
    users: int
    longest: int


class Row(Record):
    """A model in a format. Numbers in SI.

    devices: of a replica.
    memory: of its fullest device with one user; of a model that does not fit, what it needs at least [B].
    interval: 80 %, of a user's rate.
    most_users, tokens_per_second: of all replicas of the machine, at the typical context.
    """

    model: str
    format: str
    precision: str
    framework: str
    devices: int
    fits: bool
    memory: float
    longest_context: int | None = None
    tokens_per_second_per_user: float | None = None
    interval: tuple[float, float] | None = None
    most_users: int | None = None
    tokens_per_second: float | None = None
    command: str | None = None


class Machine(Record):
    """What runs on a node. rows: those that fit first, the largest models first, formats in the order of their file.

    context: tokens of a typical request, prompt and answer.
    left_out: formats and models without an answer, with the reason.
    """

    cluster: str
    devices: int
    capacity: float
    context: tuple[int, int]
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]

    def document(self, request: PlanRequest) -> dict[str, Any]:
        """Return the answer as JSON."""
        isl, osl = self.context
        return {
            "request": {**request.document(), "isl": isl, "osl": osl},
            "models": [asdict(row) for row in self.rows],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
        }


def what_runs(
    request: PlanRequest, on_progress: OnProgress = lambda _: None, models: Mapping[str, ListedModel] | None = None
) -> Machine:
    """Return which models run on a machine, in which formats, and how fast. Raises InputError on a bad request.

    models: the largest first, null: all of the catalogue.
    """
    _check(request)
    formats, left_out = _formats(request)
    first = next(iter(formats.values()))[0]
    held: list[Held] = []
    others: list[Row] = []
    for name, model in (listed_models(request.search_path) if models is None else models).items():
        reason = _no_answer(model.architecture, first.plan)
        if reason is not None:
            left_out.append((name, reason))
            continue
        for form, choices in formats.items():
            if form == RELEASED and model.weights is None:
                continue
            own = choices if form != RELEASED else _released(request, name, model, choices)
            fitting = _fitting(name, model, own)
            held += [fitting] if isinstance(fitting, Held) else []
            others += [fitting] if isinstance(fitting, Row) else []
    on_progress(0.3)
    node = first.scenario.cluster.node
    return Machine(
        cluster=request.clusters[0],
        devices=int(np.max(node.count)),
        capacity=float(np.max(node.device.device_memory.capacity)),
        context=(int(first.plan.input_tokens), int(first.plan.output_tokens)),
        rows=(*_timed(held, int(np.max(node.count)), request), *others),
        left_out=tuple(left_out),
    )


def _no_answer(architecture: Architecture, plan: Serving) -> str | None:
    """Return why a model has no requests like the typical one, null where it has."""
    if architecture.denoiser is not None:
        return "makes images or videos: `costmodel simulate NAME --phase diffusion`"
    if positions_of(architecture) < plan.input_tokens + plan.output_tokens:
        return f"has {positions_of(architecture):,} positions only: lower --isl or --osl"
    return None


def _check(request: PlanRequest) -> None:
    """Raise InputError where a request asks for more than what runs on one machine."""
    asked = [f"--{name.removesuffix('s') if name == 'anchors' else name}" for name in _NOT_ASKED
             if getattr(request, name)]  # fmt: skip
    problems = [
        Problem(None, each, "asks for a plan of one model", "name the MODEL, or leave the option out") for each in asked
    ]
    if len(request.clusters) != 1:
        hint = "name one, such as --cluster nodes/rtx-4090-x1"
        problems.append(Problem(None, "--cluster", "without a model one machine is looked at", hint))
    problems += unknown_clusters(request)
    if problems:
        raise InputError(problems)


# ---- formats --------------------------------------------------------------------------------------------------------


def _formats(request: PlanRequest) -> tuple[dict[str, list[Format]], list[tuple[str, str]]]:
    """Return every format on ever more ranks of a node, and those that its device or a framework lacks, with why."""
    library = Library(request.search_path)
    tree = library.read(library.find_workload(FORMATS), "workload")
    formats: dict[str, list[Format]] = {}
    left_out: list[tuple[str, str]] = []
    for name, written in tree.value["scenarios"].value.items():
        try:
            narrow = _format(request, FORMATS, name, written.text("precision"))
            count = int(np.max(narrow.scenario.cluster.node.count))
            wider = [_format(request, FORMATS, name, narrow.precision, 2**n) for n in range(1, count.bit_length())]
            formats[name] = [narrow, *wider]
        except InputError as error:
            left_out.append((name, error.problems[0].message))
    if not formats:
        raise InputError.single(f"no format runs on {request.clusters[0]}: {left_out[0][1]}", field="--cluster")
    return formats, left_out


def _format(request: PlanRequest, source: str | Tree, name: str, precision: str | None, ranks: int = 1) -> Format:
    """Return a format on some ranks. Raises InputError where the device or the framework lacks it."""
    changes = {f"scenarios.{name}.parallel.tp": ranks} if ranks > 1 else {}
    loaded = load(source, changes, cluster=request.clusters, search_path=request.search_path, scenarios=[name])
    scenario = loaded.scenario(name)
    plan, field = scenario.plan, f"{FORMATS}: scenarios.{name}"
    if not isinstance(plan, Serving):
        raise InputError.single("is no `phase: serving`, of which formats are", field=field)
    lacking = [rule for rule in rules(scenario) if rule.field in ("framework", "precision") and not rule.holds]
    if lacking:
        raise InputError.single(lacking[0].message, field=field)
    stated = {"input_tokens": request.isl, "output_tokens": request.osl}
    lengths = {key: value for key, value in stated.items() if value is not None}
    scenario = replace(scenario, plan=replace(plan, **lengths))
    return Format(name, precision, ranks, scenario, loaded.calibration(scenario))


def _released(request: PlanRequest, name: str, model: ListedModel, formats: Sequence[Format]) -> list[Format]:
    """Return the format that a model is published in on ever more ranks, none where its device cannot run it."""
    assert model.weights is not None, "others are published in 16 bits"
    held = [each for each in formats if _least(model, element_bytes(model.weights), each) <= _capacity(each)]
    library = Library(request.search_path)
    tree = library.read(library.find_workload(FORMATS), "workload").with_entries(model=Tree(f"models/{name}"))
    try:
        own = [_format(request, tree, each.name, None, each.ranks) for each in held]
    except InputError:
        return []
    return own


# ---- memory ---------------------------------------------------------------------------------------------------------


def _fitting(name: str, model: ListedModel, formats: Sequence[Format]) -> Held | Row | None:
    """Return a model on the fewest ranks that hold it and one user's context, else what it needs on the most.

    Null where no number of ranks divides it.
    """
    row: Row | None = None
    for form in formats:
        scenario = form.of(model.architecture)
        if all(rule.holds for rule in rules(scenario)):
            pool = kv_pool(scenario, form.plan)
            users = _users(pool, form.plan)
            if users >= 1:
                return Held(name, form, scenario, users, _longest(pool, model.architecture))
            row = _not_fitting(name, form, float(pool.ledger.total - pool.ledger.reserve))
    return row


def _capacity(form: Format) -> float:
    return float(form.scenario.cluster.device.device_memory.capacity)


def _least(model: ListedModel, element: Bytes, form: Format) -> float:
    """Return a lower bound of what a model's weights take on one rank: all of them as narrow as the narrowest [B]."""
    return model.parameters * float(element) / form.ranks


def _not_fitting(name: str, form: Format, memory: float) -> Row:
    framework = form.scenario.framework.name
    return Row(name, form.name, _precision(form), framework, form.ranks, fits=False, memory=memory)


def _precision(form: Format) -> str:
    """Return the name of a format's precision: of one that a model is published in, that of its weights."""
    return form.precision or form.scenario.precision.weights


@equation
def _users(pool: KvPool, plan: Serving) -> int:
    """Return the requests that one replica holds at once, each with all its tokens.

        users = min(floor(blocks / blocks_of(input + output)), max_num_seqs)

    An engine admits more while contexts are short, and preempts some when they grow.
    """
    tokens = plan.input_tokens + plan.output_tokens
    users = float(np.floor(pool.blocks / pool.blocks_of(tokens)))
    seats = plan.scheduler.max_num_seqs
    return int(users if seats is None else min(users, float(seats)))


def _longest(pool: KvPool, architecture: Architecture) -> int:
    """Return the most tokens of one user's context, in whole blocks: those whose blocks are no more than there are.

    Of a prompt and its answer, at most as the model has positions.
    """
    low, high = 0, positions_of(architecture) + 1  # of which the first fits, the second does not
    while high - low > 1:
        tried = np.unique(np.linspace(low, high, 64).astype(int))[1:-1]
        holds = np.broadcast_to(pool.blocks_of(tried.astype(np.float64)) <= pool.blocks, tried.shape)
        number = int(holds.sum())
        edges = [low, *tried.tolist(), high]
        low, high = edges[number], edges[number + 1]
    return low


# ---- times ----------------------------------------------------------------------------------------------------------


def _timed(held: Sequence[Held], devices: int, request: PlanRequest) -> list[Row]:
    """Return the rows of models that fit, in their order. Those under one framework on as many ranks share a timer."""
    groups: dict[tuple[str, int], list[Held]] = {}
    for each in held:
        groups.setdefault((each.format.scenario.framework.name, each.format.ranks), []).append(each)
    rows = {id(each): row for group in groups.values() for each, row in _timed_together(group, devices, request)}
    return [rows[id(each)] for each in held]


def _timed_together(
    held: Sequence[Held], devices: int, request: PlanRequest
) -> Iterable[tuple[Held, Row]]:  # fmt: skip
    """Yield models with their rows: one decoding step each, of one user and of the most, experts loaded evenly."""
    first = held[0].format
    timer = operator_timer(first.scenario, first.calibration)
    plans = [_decoding(each) for each in held]
    scenarios = [replace(each.scenario, plan=plan, routing=Routing()) for each, plan in zip(held, plans, strict=True)]
    works = [pass_work(plan_pass(scenario, plan)) for scenario, plan in zip(scenarios, plans, strict=True)]
    timer.time_all(operator for work in works for operator in work.operators())
    for each, scenario, plan, work in zip(held, scenarios, plans, works, strict=True):
        evaluation = PassEvaluation(scenario, plan, first.calibration, work, timer)
        yield each, _row(each, scenario, evaluation, devices, request)


def _decoding(held: Held) -> Decode:
    """Return the decoding steps of one user and of as many as a replica holds, as an array of two."""
    plan = held.format.plan
    users = np.array([1.0, float(held.users)])
    return Decode(users / held.format.ranks, plan.input_tokens, plan.output_tokens)


@equation
def _row(held: Held, scenario: Scenario, evaluation: PassEvaluation, devices: int, request: PlanRequest) -> Row:
    """Return a model in a format.

    tokens_per_second = most_users / tpot,   most_users = users * (devices // ranks)
    """
    form, calibration = held.format, held.format.calibration
    metrics = evaluation.metrics(None)

    def rates(perturbations: Perturbations) -> Metrics:
        return {_RATE: 1.0 / evaluation.metrics(perturbations)["tpot"]}  # type: ignore[operator]

    runs = run_scatter(scenario, calibration)
    span = intervals({_RATE: metrics[_RATE]}, evaluation.families(), 1, rates, runs)[_RATE]
    low, high = (float(np.broadcast_to(end, (2,))[0]) for end in span or (np.nan, np.nan))
    rate, rate_of_most = np.broadcast_to(np.asarray(metrics[_RATE], dtype=np.float64), (2,)).tolist()
    ledger, replicas = evaluation.ledger, devices // form.ranks
    assert ledger is not None, "a pass holds memory"
    return Row(
        held.model, form.name, _precision(form), scenario.framework.name, form.ranks,
        fits=True,
        memory=float(np.broadcast_to(ledger.total, (2,))[0]),
        longest_context=held.longest,
        tokens_per_second_per_user=rate,
        interval=(low, high),
        most_users=held.users * replicas,
        tokens_per_second=held.users * replicas * rate_of_most,
        command=_command(held, request),
    )  # fmt: skip


def _command(held: Held, request: PlanRequest) -> str:
    form, plan, head = held.format, held.format.plan, "scenarios.decode"
    settings: Mapping[str, object] = {
        "framework": held.scenario.framework.name,
        **({} if form.precision is None else {"precision": form.precision}),
        **({} if form.ranks == 1 else {"parallel.tp": form.ranks}),
        "batch_per_device": f"{1 / form.ranks:g}",
        "input_tokens": f"{float(plan.input_tokens):g}",
        "output_tokens": f"{float(plan.output_tokens):g}",
    }
    sets = " ".join(f"--set {head}.{path}={value}" for path, value in settings.items())
    return f"costmodel simulate {held.model} --cluster {request.clusters[0]} --phase decode {sets}"
