"""What a published case predicts: any metric that a case may state, under the conventions that the case names."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.grid import evaluate_point, fitting_changes
from costmodel.analytic.inference import inference_layout, plan_pass, prefill_passes
from costmodel.analytic.intervals import intervals
from costmodel.analytic.metrics import sixteen_bit_peak
from costmodel.api import Workload
from costmodel.calibration.fit_files import ROOFLINE
from costmodel.calibration.fit_selection import Chooser
from costmodel.calibration.row_prediction import predict_mapped
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.errors import InputError, Location, suggest
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import single_row
from costmodel.records import Record, ValueRecord, replace
from costmodel.result import Point
from costmodel.schema.case import Case, resolve_case, resolve_device
from costmodel.schema.overrides import entry
from costmodel.schema.references import Library
from costmodel.schema.tree import to_python
from costmodel.serving.choice import why_requests
from costmodel.workload.counting import architecture_facts, attention_flop_per_token
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, base_name
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Prefill, Training, expand
from costmodel.workload.scenario import Scenario

CONVENTIONS = {"attention": ("causal", "full"), "flop": ("model", "hardware")}
UTILISATIONS = ("mfu", "hfu", "flop_rate_per_device")
RATE = "tokens_per_second_per_device"  # proportional to the utilisations of a run


def proportional_metric(metric: str) -> str:
    """Return the metric of the result to which a published one is proportional."""
    return RATE if metric in UTILISATIONS else metric


class Value(ValueRecord):
    """A predicted value with its 80 % interval, in SI, null where the scenario has no such part."""

    value: float | None
    low: float | None
    high: float | None


NOTHING = Value(None, None, None)
Interval: TypeAlias = "tuple[float, float] | None"


class Prediction(Record):
    """Facts of a case's model, with the point of its scenario if it has one. Or a device, or a kernel.

    remedied: of a training step that does not fit into memory as stated, what it predicts with the fastest setting that
        makes it fit; remedy: that setting.
    fit: of a kernel, the calibration file that prices it, null for the roofline. sources: of the scenario's operators,
    the calibration files that price them.
    fitted: their families that are priced by more than the roofline.
    kernels: their families, and `family/variant`.
    """

    facts: Mapping[str, Any]
    point: Point | None
    workload: Workload | None
    device: Mapping[str, Any] | None = None
    kernel: Mapping[str, Value] | None = None
    fit: str | None = None
    sources: tuple[str, ...] = ()
    fitted: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()
    remedied: Prediction | None = None
    remedy: str | None = None

    @property
    def infeasible(self) -> str | None:
        """Return why the scenario cannot run, null where it can or where there is none."""
        return None if self.point is None else self.point.reason

    def value(self, metric: str, conventions: Mapping[str, str]) -> Value:
        """Return a metric, of a section such as `memory` or of the result. Raises InputError if nothing gives it."""
        _check(conventions)
        section, _, name = metric.partition(".")
        if section == "device":
            return self._of_device(name, metric)
        if self.kernel is not None:
            figure: Value = _entry(self.kernel, metric, metric)
            return figure
        if section == "model" or metric in self.facts:
            return _exact(_entry(self.facts, name or metric, metric))
        if self.point is None or self.workload is None:
            raise InputError.single(f"{metric!r} needs a scenario", hint="add its phase, cluster and layout")
        sections = {
            "memory": self._memory, "host_memory": self._host_memory, "work": self._work,
            "schedule": self._part_of_step, "routing": self._routing, "breakdown": self._breakdown,
        }  # fmt: skip
        if section in sections:
            return sections[section](self.point, name, metric)
        if metric in UTILISATIONS and (conventions or metric not in self.point.metrics):
            return self._utilisation(metric, conventions)
        return _with_interval(_entry(self.point.metrics, metric, metric), self.point.intervals[metric])

    def _memory(self, point: Point, name: str, metric: str) -> Value:
        if point.memory is None:
            raise InputError.single(f"{metric!r} is not counted: phase {point.phase} holds nothing in memory")
        return _sum_of_parts({"total": point.on_device, **point.memory}, name, metric)

    def _host_memory(self, point: Point, name: str, metric: str) -> Value:
        if point.host_memory is None:
            raise InputError.single(f"{metric!r} is not counted: the scenario keeps nothing on its host")
        return _sum_of_parts({"total": point.on_host, **point.host_memory}, name, metric)

    def _work(self, _point: Point, name: str, metric: str) -> Value:
        lines, _, count = name.rpartition(".")
        counted = counted_work(self.scenario)
        return _exact(math.fsum(_entry(_entry(counted, line, metric), count, metric) for line in lines.split("+")))

    def _routing(self, point: Point, name: str, metric: str) -> Value:
        if point.routing is None:
            raise InputError.single(f"{metric!r} is of expert layers, which the scenario does not have")
        return _exact(_entry(point.routing, name, metric))

    def _breakdown(self, point: Point, name: str, metric: str) -> Value:
        times = {one.name: one.time for one in point.breakdown}
        return _sum_of_parts(times, name, metric) if point.fits else NOTHING

    def _of_device(self, path: str, metric: str) -> Value:
        """Return a figure of the case's device, null where its file states none."""
        if self.device is None:
            raise InputError.single(f"{metric!r} needs a device", hint="write `device: devices/NAME` for the scenario")
        value = entry(self.device, path.split("."), metric)
        return NOTHING if value is None else _exact(value)

    def _part_of_step(self, point: Point, name: str, metric: str) -> Value:
        """Return a part of a training step, null where the step is not known."""
        assert self.workload is not None
        if point.schedule is None:
            if not point.fits:
                return NOTHING
            raise InputError.single(f"{metric!r} is a part of a training step, this scenario is {point.phase}")
        value: float = _entry(point.schedule, name, metric)
        if not value:
            return _exact(value)
        if name == "bubble":
            return _with_interval(value, point.intervals["bubble_time"])
        scenario = self.scenario
        calibration = self.workload.calibration(scenario)
        step = evaluate(scenario, calibration)
        parts = intervals({name: value}, step.families(), 0, lambda moves: dict(step.schedule(moves) or {}))
        pair = parts[name]
        return _with_interval(value, None if pair is None else (float(pair[0]), float(pair[1])))

    @property
    def scenario(self) -> Scenario:
        """Return the case's scenario."""
        assert self.workload is not None
        return self.workload.scenario(self.workload.scenarios[0])

    def _utilisation(self, metric: str, conventions: Mapping[str, str]) -> Value:
        """Return a FLOP rate of a device, or its share of the peak, as publications define them.

            rate = FLOP of a token * tokens / (step * devices);   mfu, hfu = rate / peak

        flop: `model` (forward and backward) or `hardware` (and what is recomputed; always so for `hfu`).
        attention: `causal` or `full`.
        peak: a number format of the device, where left out its 16-bit one.
        """
        assert self.point is not None
        plan = self.scenario.plan
        if not isinstance(plan, Training):
            raise InputError.single(f"{metric!r} is a metric of training, this scenario is {plan.phase}")
        if not self.point.fits:
            return NOTHING
        causal = conventions.get("attention", "causal") == "causal"
        used = self.point.metrics["mfu" if causal else "mfu_noncausal"]
        tokens, span = self.point.metrics[RATE], self.point.intervals[RATE]
        assert used is not None
        assert tokens is not None
        flop = used * float(sixteen_bit_peak(self.scenario.cluster.device)) / tokens
        if metric == "hfu" or conventions.get("flop") == "hardware":
            flop += self._recomputed_flop(plan, causal=causal)
        scale = flop / (1.0 if metric == "flop_rate_per_device" else self._peak(conventions))
        return _with_interval(scale * tokens, None if span is None else (scale * span[0], scale * span[1]))

    def _recomputed_flop(self, plan: Training, *, causal: bool) -> float:
        """Return the FLOP of a token that recomputation adds.

        It is what is executed more than without recomputation, its attention counted as the convention says.
        """
        assert self.point is not None
        assert self.workload is not None
        scenario = self.scenario
        plain = replace(scenario, plan=replace(plan, recompute=frozenset()))
        once = evaluate(plain, self.workload.calibration(scenario)).metrics(None)["flop_per_token"]
        executed = self.point.metrics["flop_per_token"]
        assert once is not None
        assert executed is not None
        extra = executed - float(once)
        if expand(plan.recompute) & {"layer", "attention_core"}:
            unfused = scenario.framework.unfused_attention
            extra += _attention(scenario, plan, causal=causal) - _attention(scenario, plan, causal=not unfused)
        return extra

    def _peak(self, conventions: Mapping[str, str]) -> float:
        device, stated = self.scenario.cluster.device, conventions.get("peak")
        if stated is None:
            return float(sixteen_bit_peak(device))
        if stated not in device.math:
            raise InputError.single(f"{device.name} has no {stated} peak", hint=suggest(stated, list(device.math)))
        return float(device.peak(stated))


def predict(
    case: Case,
    search_path: Sequence[str | Path] = (),
    library: Library | None = None,
    runs: Mapping[str, FamilyFit] | None = None,
) -> Prediction:
    """Return what a case predicts. Raises InputError with every problem of its scenario.

    library: has read files already, for many cases. runs: how whole runs scatter, instead of what the files say.
    """
    if case.kernel is not None:
        figures, fit = kernel_figures(case, search_path)
        return Prediction({}, None, None, kernel=figures, fit=fit)
    if case.device is not None:
        return Prediction({}, None, None, resolve_device(case, search_path))
    resolved = resolve_case(case, search_path, library)
    if not resolved.scenarios:
        return Prediction(architecture_facts(resolved.architecture), None, None)
    workload = Workload(resolved, case.id, {}, None, library or Library(search_path))
    if runs is not None:
        workload = workload.with_families(runs)
    (name,) = workload.scenarios
    own = _of_workload(workload, name)
    if own.point is None or own.point.fits or not isinstance(own.scenario.plan, Training):
        return own
    changes = [
        change
        for change in fitting_changes(own.scenario, workload.calibration(own.scenario))
        if not any(_states(case, setting.partition(":")[0]) for setting in change.remedy.settings)
    ]
    if not changes:
        return own
    changed = replace(workload, resolved=replace(resolved, scenarios={name: changes[0].remedy.scenario}))
    return replace(own, remedied=_of_workload(changed, name), remedy=", ".join(changes[0].remedy.settings))


def _states(case: Case, key: str) -> bool:
    stated = {} if case.scenario is None else to_python(case.scenario)
    inner: Any = stated
    for name in key.split("."):
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    paths = (*case.overrides, *(stated.get("set") or {}))
    return inner is not None or any(f".{path}".endswith(f".{key}") for path in paths)


def _of_workload(workload: Workload, name: str) -> Prediction:
    """Return what a scenario of a workload predicts."""
    evaluations: list[Evaluation] = []

    def record(scenario: Scenario, calibration: Calibration) -> Evaluation:
        evaluations.append(evaluate(scenario, calibration))
        return evaluations[-1]

    scenario = workload.scenario(name)
    point = evaluate_point(scenario, workload.calibration(scenario), record)
    if why_requests(scenario, evaluations[0]) is not None:  # as `simulate` answers
        point = workload.points([name], engine=None)[name]
    operators = [timed for evaluation in evaluations for timed in evaluation.operators()]
    fits = {id(timed.fit): timed for timed in operators}.values()
    sources = tuple(sorted({source for timed in fits for source in timed.fit.sources}))
    fitted = frozenset(timed.operator.family for timed in fits if timed.fit.basis != ROOFLINE)
    kernels = {(timed.operator.family, getattr(timed.operator, "variant", "")) for timed in operators}
    names = frozenset(name for family, variant in kernels for name in (family, f"{family}/{variant}"))
    return Prediction(workload.model(), point, workload, sources=sources, fitted=fitted, kernels=names)


def kernel_figures(case: Case, search_path: Sequence[str | Path] = ()) -> tuple[dict[str, Value], str | None]:
    """Return time [s] and FLOP rate [FLOP/s] of the kernel of a case, priced as a row, and the calibration file.

    Raises InputError where the row holds no kernel of the package.
    """
    assert case.kernel is not None
    table = single_row(case.kernel, case.location or Location("case"))
    catalogue, choosers = _read_once(tuple(search_path))
    mapped, left_out = map_all(table, catalogue)
    if not mapped:
        raise InputError.single("; ".join(left.reason for left in left_out), field="kernel", location=case.location)
    predicted = predict_mapped(table, mapped, left_out, search_path, choosers=choosers)
    seconds = [float(each[0]) for each in (predicted.seconds, predicted.low, predicted.high)]
    flop = sum(float(np.sum(each.flop)) for each in mapped[0].operators if isinstance(each, Gemm | AttentionKernel))
    rates = [flop / each if each else math.inf for each in seconds]
    return {"time": Value(*seconds), "flop_rate": Value(rates[0], rates[2], rates[1])}, str(predicted.fits[0]) or None


@cache
def _read_once(search_path: tuple[str | Path, ...]) -> tuple[Catalogue, dict[str, Chooser]]:
    return Catalogue(search_path), {}


def _check(conventions: Mapping[str, str]) -> None:
    """Raise InputError on a convention that no prediction knows."""
    for name, word in conventions.items():
        if name not in (*CONVENTIONS, "peak"):
            raise InputError.single(f"no convention is named {name!r}", hint=suggest(name, [*CONVENTIONS, "peak"]))
        if name != "peak" and word not in CONVENTIONS[name]:
            raise InputError.single(f"unknown convention {name}: {word}", hint=suggest(word, CONVENTIONS[name]))


def _attention(scenario: Scenario, plan: Training, *, causal: bool) -> float:
    return float(attention_flop_per_token(scenario.architecture, plan.sequence, causal=causal))


def _entry(values: Mapping[str, Any], name: str, metric: str) -> Any:
    """Return an entry. Raises InputError with the nearest names where there is none."""
    if name not in values:
        raise InputError.single(f"no prediction has a metric {metric!r}", hint=suggest(name, list(values)))
    return values[name]


def _sum_of_parts(parts: Mapping[str, float], names: str, metric: str) -> Value:
    return _exact(math.fsum(_entry(parts, part, metric) for part in names.split("+")))


def _exact(value: Any) -> Value:
    return Value(float(value), float(value), float(value))


def _with_interval(value: float | None, interval: Interval) -> Value:
    return NOTHING if value is None else Value(value, *(interval or (None, None)))


# ---- FLOP and bytes of one pass of an inference scenario by line, without times --------------------------------------

TOTAL, LAYERS = "total", "layers"  # the whole pass; without embedding and head


def counted_work(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Return flop, traffic and pairs of every line of a prefill or decode pass on one rank, `TOTAL` and `LAYERS`.

    Over all layers of all pipeline stages, and all steps where sequences are denoised. flop [FLOP]. Traffic [B]. Pairs:
    (query, key) pairs of all heads and sequences. Raises InputError for other phases.
    """
    plan = scenario.plan
    if not isinstance(plan, Prefill | Decode):
        raise InputError.single("only a prefill or decode scenario counts its work by line", hint="change the phase")
    work, steps = pass_work(plan_pass(scenario, plan)), 1.0
    if isinstance(plan, Prefill):
        steps = float(plan.steps * prefill_passes(scenario, plan).count)
    lines: dict[str, dict[str, float]] = defaultdict(lambda: {"flop": 0.0, "traffic": 0.0, "pairs": 0.0})
    for stage in inference_layout(scenario):
        for index, (times, kind) in enumerate(zip(work.repeats(stage), work.kinds, strict=True)):
            inner = (LAYERS,) if 0 < index <= len(work.body.layers) else ()
            for operator in kind.forward:
                if not isinstance(operator, Gemm | AttentionKernel | Elementwise):
                    continue
                pairs = 0.0
                if isinstance(operator, AttentionKernel):
                    pairs = float(operator.sequences * operator.heads * operator.qk_pairs)
                for name in (base_name(operator.name), TOTAL, *inner):
                    line = lines[name]
                    line["flop"] += steps * times * float(operator.flop)
                    line["traffic"] += steps * times * float(operator.traffic)
                    line["pairs"] += steps * times * pairs
    return dict(lines)
