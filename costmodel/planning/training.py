"""A training run: the fewest devices of each cluster that train a model on its tokens in time, and what they cost.

A ladder of numbers of devices is climbed. On each the search of training steps finds the best layout, and goodput says
what failures and checkpoints add to the days of its steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from costmodel.api import Workload, load
from costmodel.errors import ImplausibleInput, InputError, Problem
from costmodel.planning import commands
from costmodel.planning.goodput import DAY, HOUR, TrainingRun, goodput_of
from costmodel.planning.request import UNITS, PlanRequest
from costmodel.planning.structures import check_model, is_unfitted, training_formats, unknown_clusters
from costmodel.records import Record, field, replace
from costmodel.result import Point
from costmodel.schema.files import load_cluster
from costmodel.schema.model_names import is_model
from costmodel.schema.overrides import ON
from costmodel.schema.published_tables import PublishedRun, published_runs
from costmodel.study.goals import Candidate, OnProgress
from costmodel.study.layouts import OWN, VARIED
from costmodel.study.search import Space, searched, settings
from costmodel.study.sweep import Wanted
from costmodel.workload.counting import parameter_count
from costmodel.workload.plans import Training
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Scenario

MOST = 16_384  # devices of a node that is named instead of a cluster: those of the largest published run
SIDE = 8  # steps of the ladder between two numbers of devices of a run without a limit of days
_PART = 8  # of the batch: at most so much smaller is one that more numbers of devices divide
_NEIGHBOURS = 4  # numbers of devices on each side of those asked for that are tried where these do not do
_FULL = 0.9  # of memory, from which on a run that leaves a tenth is shown beside: allocators take more than is counted
_FEW = 3  # numbers of devices that are looked at, after which half counts as done
_EVEN = 0.5  # the least probability to end in time of a run that is recommended, where no confidence is asked for
_USUAL = {("micro_batch", "1"), ("recompute", "none"), ("optimizer.zero", "1"), ("schedule", "1f1b")}
_THIRD = 1.0 / 3.0  # of a published run's MFU, below which a plan says why
_QLORA = "'scenarios.training.adapters={rank: 16, base_precision: nf4}'"


class TrainingPlans(Record):
    """The answer: the cheapest run of each cluster first; without a limit of days, each cluster's Pareto front.

    holds: whether they keep to the days.
    """

    request: PlanRequest
    runs: tuple[TrainingRun, ...]
    left_out: tuple[str, ...]
    holds: bool

    @property
    def limit(self) -> float | None:
        """Return the time that a run may take [s]."""
        return None if self.request.days is None else self.request.days * DAY


def plan_training(request: PlanRequest, on_progress: OnProgress = lambda _: None) -> TrainingPlans:
    """Return the training runs of a model. Raises InputError on a bad request."""
    _check(request)
    holding: list[TrainingRun] = []
    nearest: list[TrainingRun] = []
    left_out: list[str] = []
    share = 1.0 / max(len(request.clusters), 1)
    for number, cluster in enumerate(request.clusters):
        own = Ladder.of(request, cluster, lambda done, number=number: on_progress((number + done) * share))  # type: ignore[misc]
        ladder = own.in_best_format()
        runs = ladder.fewest() if request.days is not None else ladder.front()
        holding += map(ladder.finished, runs)
        if not runs:
            known = [run for run in ladder.tried.values() if run is not None]
            nearest += [ladder.finished(min(known, key=lambda run: run.seconds))] if known else []
            if known or not request.devices or not ladder.numbers:
                left_out.append(f"{cluster}: {_why_none(ladder, known)}")
        left_out += ladder.unlisted({run.devices for run in runs})
        left_out += ladder.nearest() if request.devices and not any(ladder.tried.values()) else []
    best = sorted(holding or nearest, key=_order)
    on_progress(1.0)
    return TrainingPlans(request, tuple(best), tuple(dict.fromkeys(left_out)), bool(holding))


def _check(request: PlanRequest) -> None:
    """Raise InputError with all that a request lacks."""
    wanted = (
        ("MODEL", request.model, "a training run has a model", "name one (`costmodel model list`)"),
        ("--tokens", request.tokens, "a training run has a number of tokens", "add --tokens 15T"),
        ("--cluster", request.clusters, "a training run needs a cluster", "add --cluster nodes/dgx-h100"),
    )
    problems = [Problem(None, flag, message, hint) for flag, value, message, hint in wanted if not value]
    problems += unknown_clusters(request)
    if problems:
        raise InputError(problems)
    if is_model(str(request.model), request.search_path):
        check_model(request)


def _why_none(ladder: Ladder, runs: Sequence[TrainingRun]) -> str:
    request = ladder.request
    within = "" if request.budget is None else f" within {request.budget * HOUR:,.4g} $/h"
    if not ladder.numbers:
        return f"no number of devices is{within}: one is {(ladder.rent or 0.0) * HOUR:,.4g} $/h"
    if not runs:
        adapts = any(path.endswith("adapters") or ".adapters." in path for path in request.settings)
        hint = "write a shorter `--set scenarios.training.sequence`" if adapts else f"train adapters, --set {_QLORA}"
        none = f"no layout fits in memory on the numbers of devices{within} that were looked at"
        return f"{none}; {hint}, or name a --cluster of larger devices"
    fastest = min(runs, key=lambda run: run.seconds)
    return f"{counted(fastest.devices)}{within and f', the most{within}'}: {late(fastest, request)}"


def _order(run: TrainingRun) -> tuple[float, float]:
    """Return the position of a run: the cheapest first, those without a price by their devices."""
    return (math.inf if run.dollars is None else run.dollars), run.devices * run.seconds


class Ladder(Record):
    """Numbers of devices of one cluster, and the best run on each that was looked at, null where none fits.

    rent: of a device [$/s], null where it has no price.
    looked: numbers of devices that were searched, in all number formats; beside: what the model's own would take.
    """

    request: PlanRequest
    cluster: str
    workload: Workload
    name: str
    numbers: tuple[int, ...]
    rent: float | None
    on_progress: OnProgress
    looked: list[int] = field(default_factory=list)
    tried: dict[int, TrainingRun | None] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: PlanRequest, cluster: str, on_progress: OnProgress) -> Ladder:
        """Return the ladder of a cluster."""
        workload, name = _loaded(request, cluster)
        hardware = load_cluster(cluster, request.search_path, devices=MOST)
        node = int(np.max(hardware.node.count))
        most = int(np.max(hardware.devices)) if hardware.node.nic is not None else node
        numbers, rent = request.devices or tuple(_numbers(node, most)), request.rental(hardware.node.device)
        if request.budget is not None and rent is not None:
            numbers = tuple(number for number in numbers if number * rent <= request.budget)
        return cls(request, cluster, workload, name, numbers, rent, on_progress)

    def in_best_format(self) -> Ladder:
        """Return the ladder in the number format whose run is the fastest on the first number that is looked at.

        Besides the model's own those of 8 bits that the device multiplies in, where most kernels were measured in them.
        A file's format is its own, as one that is stated, and that of weights which adapters stand on.
        """
        path, plan = f"scenarios.{self.name}.precision", self._own.plan
        is_free = self.workload.start is not None and path not in self.request.settings and bool(self.numbers)
        if not is_free or not isinstance(plan, Training) or plan.adapters is not None:
            return self
        first, ladders = self.numbers[self._start], [self]
        for name in training_formats(self._own, self.request.search_path):
            request = replace(self.request, changes=(*self.request.changes, (path, name)))
            ladders.append(replace(Ladder.of(request, self.cluster, self.on_progress), looked=self.looked))
        runs = [(one.run(first), number) for number, one in enumerate(ladders)]
        able = [(run.seconds, at) for run, at in runs if run is not None and (not at or not is_unfitted(run.point))]
        best, own, usual = ladders[min(able, default=(0.0, 0))[1]], runs[0][0], self._own.precision.linear
        takes = "no layout fits" if own is None else f"{_rounded(own.seconds / DAY)} days"
        beside = f"in {usual.upper()} {takes} on {counted(first)}: --set {path}={usual}"
        return best if best is self else replace(best, beside=(beside,))

    def run(self, devices: int) -> TrainingRun | None:
        """Return the fastest run on some devices, null where no layout fits."""
        if devices not in self.tried:
            self.tried[devices] = self._searched(devices)
        return self.tried[devices]

    def holds(self, devices: int) -> bool:
        """Tell whether the fastest run on some devices ends in time, as probably as is asked, else more so than not."""
        run, days = self.run(devices), self.request.days
        if run is None or days is None:
            return run is not None
        chance = run.probability(days * DAY)
        return run.seconds <= days * DAY and (chance is None or chance >= (self.request.confidence or _EVEN))

    def fewest(self) -> list[TrainingRun]:
        """Return the run on the fewest devices that end in time, none where no number of them does.

        The first number that is looked at is the one that would do with published MFU; from there it goes step by step,
        down past those that were asked for and have no layout.
        """
        top, best = self._start, None
        while top + 1 < len(self.numbers) and not self.holds(self.numbers[top]):
            top += 1
        for at in range(top, -1, -1):
            if self.holds(self.numbers[at]):
                best = at
            elif self.run(self.numbers[at]) is not None or not self.request.devices:
                break
        run = None if best is None else self.run(self.numbers[best])
        if run is None:
            return []
        return [_with_fewer(run, self.numbers[best - 1], self.tried, self.request) if best else run]

    def front(self) -> list[TrainingRun]:
        """Return runs of which none is both faster and cheaper than another: the fastest first."""
        chosen = self.numbers if self.request.devices else self.numbers[self._start :: SIDE]
        kept: list[TrainingRun] = []
        for run in sorted(filter(None, map(self.run, chosen)), key=lambda run: run.seconds):
            if not kept or _order(run) < min(map(_order, kept)):
                kept.append(run)
        return kept

    def unlisted(self, listed: Set[int]) -> Iterator[str]:
        """Yield why numbers of devices that were asked for are not among the runs. listed: those that are."""
        for devices in sorted(set(self.request.devices) - listed):
            run = self.tried.get(devices)
            why = "no layout fits in memory and divides the batch, the layers and the heads"
            better = "another number is faster and no dearer" if self.request.days is None else "fewer end in time"
            if devices not in self.numbers:
                why = "over the budget"
            elif devices not in self.tried:  # the numbers from the first one that fails to those listed are
                more = next((each for each in sorted(self.tried) if each > devices), None)
                why = f"not looked at: {better if more is None else f'{more:,} do not end in time'}"
            elif run is not None:
                why = f"{run.seconds / DAY:,.1f} days: {better}" if self.holds(devices) else late(run, self.request)
            yield f"{self.cluster}: {counted(devices)}: {why}"

    def nearest(self) -> Iterator[str]:
        """Yield which numbers of devices do, below the largest and above the least asked for, where none of these fits.

        Where none of them ends in time those that fit. No more than `_NEIGHBOURS` are looked at on a side.
        """
        asked, own = self.request.devices, Ladder.of(replace(self.request, devices=()), self.cluster, lambda _: None)
        below = [n for n in reversed(own.numbers) if n < max(asked) and n not in asked]
        above = [n for n in own.numbers if n > min(asked) and n not in asked]
        for does, said in ((own.holds, "would do"), (own.run, "would fit, too slow")):
            able = (next(filter(does, side[:_NEIGHBOURS]), None) for side in (below, above))
            numbers = [f"{number:,}" for number in sorted({number for number in able if number is not None})]
            if numbers:
                yield f"{self.cluster}: --devices {' or '.join(numbers)} {said}"
                return

    @property
    def _own(self) -> Scenario:
        return self.workload.scenario(self.name)

    @property
    def _start(self) -> int:
        """Return the position of the number of devices that is looked at first.

        The least that would end in time with the MFU of a published run; without a limit the least that hold the model.
        """
        if self.request.days is None:
            return next((n for n, each in enumerate(self.numbers) if each >= int(self._own.devices)), 0)
        assert self.request.tokens is not None, "`plan_training` has checked it"
        step = self.workload.points([self.name])[self.name]
        rate, mfu = step.metrics["tokens_per_second_per_device"], step.metrics.get("mfu")
        if rate is None or not mfu:
            return 0
        needed = self.request.tokens / (rate / mfu * nearest_run(self._own).mfu) / (self.request.days * DAY)
        return next((n for n, each in enumerate(self.numbers) if each >= needed), len(self.numbers) - 1)

    def _searched(self, devices: int) -> TrainingRun | None:
        """Return the fastest run on some devices, as `costmodel search` finds its layout."""
        stated = {path: value for path, value in self.request.settings.items() if _is_of_layout(path, value)}
        lists = {path: value.strip("[]") for path, value in stated.items() if value.startswith("[")}
        fixed = [f"{path}={value}" for path, value in stated.items() if path not in lists]
        batch = f"scenarios.{self.name}.global_batch"
        batches = self._batches(devices) if batch not in self.request.settings else []
        lists |= {batch: ",".join(map(str, batches))} if len(batches) > 1 else {}
        goal = "maximise tokens_per_second" if lists else "minimise step_time"
        space = Space((devices,), [f"{path}={values}" for path, values in lists.items()], fixed)
        before = len(self.looked)
        self.looked.append(devices)

        def on_part(done: float) -> None:
            self.on_progress((before + done) / (before + done + _FEW))

        result = searched(self.workload, self.name, goal, Wanted({}, ()), space, on_part)
        return None if not result.best else self._as_run(result.best[0], settings(self.workload, result))

    def _batches(self, devices: int) -> list[int]:
        """Return the batches that are tried: a model's usual one, and one below that the devices' odd factor divides.

        step = odd * 2^n <= batch / 8,    batch' = floor(batch / step) * step

        A file's batch is its own.
        """
        plan = self._own.plan
        if self.workload.start is None or not isinstance(plan, Training):
            return []
        usual, odd = int(np.max(plan.global_batch)), devices // (devices & -devices)
        if usual % odd == 0 or odd * _PART > usual:
            return [usual]
        step = odd << int(math.log2(usual / _PART / odd))
        return [usual, usual // step * step]

    def _as_run(self, best: Candidate, layout: Mapping[str, str]) -> TrainingRun:
        """Return a layout as a run, its step evaluated as `costmodel simulate` does."""
        given = self.request.settings
        axes = {path for path, value in given.items() if value.startswith("[") and _is_of_layout(path, value)}
        changes = {**{path: value for path, value in given.items() if path not in axes}, **layout}
        chosen = load_one(self.request, self.cluster, changes, self.name)
        scenario, point = chosen.scenario(self.name), chosen.points([self.name])[self.name]
        assert self.request.tokens is not None, "`plan_training` has checked it"
        return TrainingRun(
            cluster=self.cluster, scenario=scenario, point=point, at=best.at, tokens=self.request.tokens,
            goodput=goodput_of(scenario, point), changes=changes, notes=tuple(_notes(scenario, point, best)),
        )  # fmt: skip

    def finished(self, run: TrainingRun) -> TrainingRun:
        """Return a run with its command, without what a model's training step has anyway, and one with more memory."""
        head, starts = f"scenarios.{self.name}.", self.workload.start is not None
        fewer: Mapping[str, str] = run.changes
        if starts:
            fewer = {path: value for path, value in fewer.items() if (path.removeprefix(head), value) not in _USUAL}
            point = load_one(self.request, self.cluster, fewer, self.name).points()[self.name]
            fewer = fewer if (point.metrics, point.memory) == (run.point.metrics, run.point.memory) else run.changes
        options = ["--phase", "training"] if starts else ["--scenario", self.name]
        command = commands.simulate(str(self.request.model), self.cluster, self.name, fewer, options, whole=starts)
        return replace(run, command=command, roomier=self._roomier(run), notes=(*run.notes, *self.beside))

    def _roomier(self, run: TrainingRun) -> TrainingRun | None:
        """Return the fastest run on as many devices that leaves a tenth of memory, null where the run does or none."""
        if run.memory <= _FULL * run.point.capacity:
            return None
        paths = (("hardware.memory.hbm.capacity", f"{_FULL * run.point.capacity:.0f} B"),)
        smaller = replace(self.request, changes=(*self.request.changes, *paths), devices=(run.devices,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImplausibleInput)  # a tenth less than a device has
            return Ladder.of(smaller, self.cluster, lambda _: None).run(run.devices)


def _with_fewer(
    run: TrainingRun, devices: int, tried: Mapping[int, TrainingRun | None], request: PlanRequest
) -> TrainingRun:  # fmt: skip
    fewer = tried.get(devices)
    dollars = None if fewer is None else fewer.dollars
    cost = "" if dollars is None or request.confidence is None else f", {_rounded(dollars)} $"
    said = "in no layout that fits" if fewer is None else f"{late(fewer, request)}{cost}"
    return replace(run, fewer=f"{counted(devices)}: {said}") if devices in tried else run


def late(run: TrainingRun, request: PlanRequest) -> str:
    """Return how long a run takes that does not end in time, or with which probability it does."""
    days, limit = f"{_rounded(run.seconds / DAY)} days", request.days or 0.0
    chance = run.probability(limit * DAY)
    if run.seconds > limit * DAY or chance is None:
        return f"{days}, more than {limit:g}"
    return f"{days}, in time with a probability of {chance:.0%}"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):,g}"


def counted(devices: int) -> str:
    """Return a number of devices in words."""
    return f"{devices:,} {'device' if devices == 1 else 'devices'}"


def load_one(request: PlanRequest, cluster: str, changes: Mapping[str, object], name: str | None = None) -> Workload:
    """Return the workload of a request on one cluster with some changes."""
    assert request.model is not None, "`plan_training` has checked it"
    phases = ("training",) if is_model(request.model, request.search_path) else ()
    scenarios = None if phases or name is None else [name]
    device = load_cluster(cluster, request.search_path).node.device
    if request.prices is not None and device.name in request.prices.rent:
        changes = {"hardware.device.price.rental": f"{request.prices.rent[device.name] * HOUR:.12g} $/h", **changes}
    return load(
        request.model, changes, cluster=cluster, search_path=request.search_path, phases=phases, scenarios=scenarios
    )


def _loaded(request: PlanRequest, cluster: str) -> tuple[Workload, str]:
    """Return the workload on a cluster, without its own layout, and its first scenario that trains.

    Of one with steps of reinforcement learning the first of these, engines and all.
    """
    changes = {path: value for path, value in request.settings.items() if not _is_of_layout(path, value)}
    workload = load_one(request, cluster, changes)
    for kind in (Reinforcement, Training):
        for name in workload.scenarios:
            if isinstance(workload.scenario(name).plan, kind):
                return workload, name.partition(ON)[0]
    raise InputError.single(f"{request.model} has no scenario that trains", field="--train", hint="name a model")


def _is_of_layout(path: str, value: str) -> bool:
    """Tell whether a change fixes a part of the layouts that are searched, or lists what it may be."""
    below = path.split(".", 2)[-1]
    is_batch = below == "global_batch" and not value.startswith("[")
    return path.startswith("scenarios.") and below in (*OWN, *VARIED) and not is_batch


def _numbers(node: int, most: int) -> Iterator[int]:
    """Yield the numbers of devices of a ladder: divisors of a node, then 1 to 7, 8, 10, 12, 14, 16 … whole nodes."""
    yield from (each for each in (2**n for n in range(node.bit_length())) if each < node and node % each == 0)
    nodes = sorted({factor * 2**n for n in range(32) for factor in (4, 5, 6, 7)} | {1, 2, 3})
    yield from (node * each for each in nodes if node * each <= most)


def nearest_run(scenario: Scenario) -> PublishedRun:
    """Return the published run that is nearest in the logarithm of the parameters of one token."""
    active = float(parameter_count(scenario.architecture).active_with_embedding)
    return min(published_runs(), key=lambda run: abs(math.log(run.parameters / active)))


def _notes(scenario: Scenario, point: Point, best: Candidate) -> Iterator[str]:
    """Yield what is assumed, and that the MFU is below a third of a published run's, with its cause."""
    mfu, run = point.metrics.get("mfu"), nearest_run(scenario)
    if isinstance(scenario.plan, Training):
        batch, sequence = float(np.max(scenario.plan.global_batch)), float(np.max(scenario.plan.sequence))
        yield f"{batch:,.0f} sequences of {sequence:,.0f} tokens a step: --set scenarios.{scenario.name}.global_batch=N"
        if mfu is not None and mfu < _THIRD * run.mfu and scenario.plan.adapters is None:
            shares = {entry.name: entry.time for entry in point.breakdown}
            largest = max(shares, key=lambda name: shares[name]) if shares else "nothing"
            yield (
                f"mfu {mfu:.0%} is below a third of the {run.mfu:.0%} of {run.name}: bound by {point.bound}, "
                f"most of it {largest}"
            )
            yield from (note for note in best.notes if note.startswith("mfu is"))


def document(plans: TrainingPlans) -> dict[str, Any]:
    """Return the answer by the keys of `costmodel plan --json`."""
    reachable = None
    if plans.runs and not plans.holds:
        fastest = min(plans.runs, key=lambda run: run.seconds)
        reachable = {"cluster": fastest.cluster, "devices": fastest.devices, "days": fastest.seconds / DAY}
    return {
        "request": plans.request.document(),
        "plans": [_run_document(run, plans) for run in plans.runs],
        "left_out": list(plans.left_out),
        "reachable": reachable,
    }


def _run_document(run: TrainingRun, plans: TrainingPlans) -> dict[str, Any]:
    """Return a run by its keys: days, dollars, joules, bytes; rent in $/h."""
    million, tokens, rate = 1e6, run.tokens, run.point.metrics["cost_rate"]
    rent = None if rate is None else rate * HOUR
    costs = None if run.dollars is None else {"all": run.dollars / tokens * million}
    days = None if run.interval is None else tuple(end / DAY for end in run.interval)
    plan, layout = run.training, run.layout
    return {
        "cluster": run.cluster, "devices": run.devices, "replicas": 1, "engine": run.scenario.framework.name,
        "framework": run.scenario.framework.name, "precision": run.format,
        "parallel": _degrees(run),
        "micro_batch": layout.get("micro_batch"), "global_batch": int(np.max(plan.global_batch)),
        "sequence": int(np.max(plan.sequence)), "recompute": layout.get("recompute"),
        "schedule": layout.get("schedule"), "zero": layout.get("optimizer.zero"),
        "prefill": None, "decode": None, "scheduler": None, **({} if run.rollout is None else {"rollout": run.rollout}),
        "metrics": {**run.point.metrics, "cost_rate": rent, "days": run.seconds / DAY, "dollars": run.dollars,
                    "energy": run.joules, "goodput": run.goodput.share, "checkpoint_interval": run.goodput.interval,
                    "checkpoint_write": run.goodput.write, "memory": run.memory,
                    "capacity": run.point.capacity},
        "intervals": {**run.point.intervals, "cost_rate": None if rent is None else (rent, rent), "days": days},
        "played": None, "holds": plans.holds, "probability": run.probability(plans.limit), "binds": run.point.bound,
        "cost_rate": rent, "cost_per_million": costs,
        "energy_per_million": None if run.joules is None else run.joules / tokens * million,
        "units": UNITS, "why_not_less": run.fewer, "notes": list(run.notes), "command": run.command,
        "roomier": None if run.roomier is None else {
            "memory": run.roomier.memory, "days": run.roomier.seconds / DAY, "dollars": run.roomier.dollars,
            "parallel": _degrees(run.roomier),
        },
    }  # fmt: skip


def _degrees(run: TrainingRun) -> dict[str, Any]:
    return {key.removeprefix("parallel."): at for key, at in run.layout.items() if key.startswith("parallel.")}
