"""What may serve a model on a cluster: engines, number formats and exchanges of experts, each as one workload."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from costmodel.analytic.model_layouts import head_lines, workload_tree
from costmodel.api import Workload, load
from costmodel.errors import InputError, Problem
from costmodel.planning.request import CLASSES, PlanRequest
from costmodel.records import Record, replace
from costmodel.result import Point
from costmodel.schema.files import load_cluster, load_document, read_model
from costmodel.schema.number_formats import lacked
from costmodel.schema.references import Library, as_reference
from costmodel.serving.compiled import has_numba
from costmodel.serving.lengths import longest_of, trace_rate
from costmodel.study.layouts import exchange_axis
from costmodel.study.search_servers import engine_counts
from costmodel.study.sweep import plan_sweep
from costmodel.units import render
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import BITS_PER_BYTE, GGUF_FORMATS, element_bytes
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trt-llm": "TensorRT-LLM"}  # frameworks that serve -> their names
SCENARIO = "serving"
HEAD = f"scenarios.{SCENARIO}."
MOST_OF_TRACE = {True: 20_000, False: 2_000}  # requests of a trace that are played, compiled or not


DRAFTS = f"{HEAD}speculative"
MOST_DEVICES = 8192  # of all replicas, where the cluster names no number of its own
LONGEST = 2**20  # tokens of a context at most
_EIGHT = 8  # bits of a number of the formats that are tried; narrower ones keep layers in 16 that are not counted so


class Structure(Record):
    """An engine with a number format and an exchange of experts on a cluster: what is no number.

    precision: null where it is the checkpoint's own.
    choices: further paths of the workload -> their text.
    most: devices that the cluster has, as many as a deployment may take where it is named by its node.
    """

    cluster: str
    framework: str
    precision: str | None
    workload: Workload
    choices: Mapping[str, str]
    most: int

    @property
    def scenario(self) -> Scenario:
        """Return the scenario, its layout not chosen yet."""
        return self.workload.scenario(SCENARIO)

    @property
    def plan(self) -> Serving:
        """Return its load."""
        plan = self.scenario.plan
        assert isinstance(plan, Serving), "the workload that is written here"
        return plan

    @property
    def format(self) -> str:
        """Return the number format for people."""
        return self.precision or self.scenario.precision.weights

    @property
    def drafts(self) -> dict[str, float] | None:
        """Return how many tokens are drafted, and how likely one is accepted, null without drafts."""
        drafts = self.plan.speculative
        if drafts is None:
            return None
        return {"depth": int(np.max(drafts.depth)), "acceptance": float(np.max(drafts.acceptance))}

    def __str__(self) -> str:
        drafts = self.drafts
        parts = [ENGINES[self.framework], shown_format(self.format)]
        parts += ["DeepEP"] if any(path != DRAFTS for path in self.choices) else []
        parts += [] if drafts is None else [f"{drafts['depth']} draft, {drafts['acceptance']:.3g} accepted"]
        return " ".join(parts)


def shown_format(name: str) -> str:
    """Return a number format for people: `fp8-tensor` is FP8, `fp8-inference` FP8 block, for its scales of blocks."""
    stem = name.removesuffix("-tensor").removesuffix("_block").upper()
    return stem.replace("-INFERENCE", " block")


def structures(request: PlanRequest, cluster: str, left_out: list[str]) -> Iterator[Structure]:
    """Yield what may serve the model on a cluster, engine by engine. left_out: receives what cannot, and why.

    Number formats are the checkpoint's own and those of inference with fewer bytes a weight. Raises InputError where
    the request itself cannot be met by any: an unknown model, cluster or trace.
    """
    stated = {path.removeprefix(HEAD): text for path, text in request.changes}
    asked = (request.emit,) if request.emit in ENGINES else tuple(ENGINES)
    named = stated.get("precision")
    tried = (stated["framework"],) if "framework" in stated else asked
    has = load_cluster(cluster, request.search_path, devices=MOST_DEVICES, changes=request.of_hardware).devices
    most, refused = int(np.max(has)), 0
    for framework in tried:
        try:
            own = loaded(request, cluster, framework, named)
        except InputError as error:
            refused += 1
            if refused == len(tried):
                raise
            left_out.append(f"{cluster}: {ENGINES[framework]}: {error.problems[0].message}")
            continue
        yield from _exchanges(cluster, most, framework, named, own)
        for precision in () if named else _narrower(own.scenario(SCENARIO), request.search_path):
            try:
                workload = loaded(request, cluster, framework, precision)
            except InputError as error:
                line = f"{cluster}: {precision.upper()}: {error.problems[0].message}"
                left_out += [] if line in left_out else [line]
                continue
            yield from _exchanges(cluster, most, framework, precision, workload)


def drafted(structure: Structure) -> Structure | None:
    """Return a structure in which the model's MTP module drafts tokens, null where it has none."""
    if structure.scenario.architecture.mtp is None:
        return None
    text = yaml.load(Path(__file__).with_name("drafts.yaml").read_text("utf-8"), Loader=yaml.CSafeLoader)["speculative"]
    workload = structure.workload.changed({DRAFTS: text}, [SCENARIO])
    return replace(structure, workload=workload, choices={**structure.choices, DRAFTS: text})


def _narrower(scenario: Scenario, search_path: tuple[str, ...]) -> Iterator[str]:
    """Yield the number formats of inference whose weights have fewer bits than the scenario's, scales aside."""
    own = bits(scenario.precision.weights)
    for name in Library(search_path).names("precisions"):
        document = load_document("precisions", name, search_path)
        weights = document["weights"]
        dominated = name == "int8" and "fp8" in scenario.cluster.device.math  # as fast as FP8, of a narrower range
        if document["master"] is None and weights not in GGUF_FORMATS and bits(weights) < own and not dominated:
            yield name


def bits(weights: str) -> int:
    """Return the bits of a stored weight, without its share of a block's scale, which is below one."""
    return int(BITS_PER_BYTE * element_bytes(weights))


def training_formats(scenario: Scenario, search_path: tuple[str, ...]) -> Iterator[str]:
    """Yield the number formats of training of whose products, in 8 bits, the device has the math unit."""
    for name in Library(search_path).names("precisions") if bits(scenario.precision.linear) > _EIGHT else ():
        document = load_document("precisions", name, search_path)
        linear = str(document["linear"])
        is_able = lacked(linear, scenario.cluster.device) is None
        if document["master"] is not None and is_able and bits(linear) == _EIGHT:
            yield name


def is_unfitted(point: Point) -> bool:
    """Tell whether most of a result's time is of kernels that were not measured in their number format."""
    known = sum(entry.time for entry in point.breakdown)
    return known > 0.0 and 2.0 * sum(entry.by_basis.get("roofline", 0.0) for entry in point.breakdown) > known


def _exchanges(
    cluster: str, most: int, framework: str, precision: str | None, workload: Workload
) -> Iterator[Structure]:  # fmt: skip
    """Yield a workload with each exchange of experts that its framework may choose."""
    axis = exchange_axis(workload, SCENARIO)
    if axis is None:
        yield Structure(cluster, framework, precision, workload, {}, most)
        return
    for one in plan_sweep(workload, [axis], every=True).structures:
        if one.workload is not None:
            differs = {path: text for path, text in one.choices.items() if "gather" not in one.choices.values()}
            yield Structure(cluster, framework, precision, one.workload, differs, most)


def loaded(
    request: PlanRequest, cluster: str, framework: str, precision: str | None, own: Sequence[str] | None = None
) -> Workload:  # fmt: skip
    """Return the workload of one engine of the model under the load that is asked for, or of `own` further lines."""
    if own is None:
        own = ["    parallel: {tp: 1}", *(f"    {key}: {value}" for key, value in load_settings(request).items())]
    lines = workload_lines(request, cluster, framework, precision, own)
    return load(workload_tree(lines, str(request.model)), set=request.of_hardware, search_path=request.search_path)


def workload_lines(
    request: PlanRequest, cluster: str, framework: str, precision: str | None, own: Sequence[str]
) -> list[str]:  # fmt: skip
    """Return the lines of a workload. own: those of its scenario that state layout and load."""
    assert request.model is not None, "the command has checked"
    return [
        *head_lines(request.model),
        f"  {SCENARIO}:",
        "    phase: serving",
        f"    cluster: {json.dumps(as_reference(cluster))}",
        f"    framework: {framework}",
        *([f"    precision: {precision}"] if precision else []),
        *_anchor_lines(request),
        *own,
    ]


def _anchor_lines(request: PlanRequest) -> list[str]:
    """Return the anchors of a scenario. Raises InputError on a benchmark, which does not say what ran."""
    for file in request.anchors:
        if not file.endswith((".yaml", ".yml")):
            raise InputError.single(
                "does not say which engine and layout ran", field=file,
                hint="keep it as a file: `costmodel calibrate --run WORKLOAD.yaml BENCH.json --output server.yaml`",
            )  # fmt: skip
    listed = ", ".join(json.dumps(as_reference(file)) for file in request.anchors)
    return [f"    anchor: [{listed}]"] if listed else []


def load_settings(request: PlanRequest) -> dict[str, str]:
    """Return the load and its limits as keys of a scenario. Raises InputError where there is no load."""
    settings: dict[str, str] = {}
    if request.isl is not None:
        settings["input_tokens"] = f"{request.isl:g}"
    if request.osl is not None:
        settings["output_tokens"] = f"{request.osl:g}"
    if request.users is not None:
        settings["concurrency"] = "1"  # of an engine; the plan divides users among engines
    elif request.rate is not None:
        settings["rate"] = render(request.rate, "rate")
    if request.trace is not None:
        settings["requests"] = _trace(request)
    elif request.classes is not None:
        settings["requests"] = f"{{classes: {request.classes}}}"
    limits = {name: limit for name, limit in (("ttft", request.ttft), ("tpot", request.tpot)) if limit is not None}
    if limits:
        shown = ", ".join(f"{name}: {render(limit.seconds, 'duration')}" for name, limit in limits.items())
        settings["slo"] = f"{{{shown}}}"
    return settings


def _trace(request: PlanRequest) -> str:
    """Return the requests of a trace, at its own rate or sped up to the one that is asked for."""
    assert request.trace is not None
    trace, most = os.path.abspath(request.trace), MOST_OF_TRACE[has_numba()]
    keys = {"trace": json.dumps(trace)}
    if request.users is not None:
        return f"{{trace: {keys['trace']}, arrivals: closed_loop, count: {most}}}"
    rate, count = trace_rate(trace, most)
    if count >= most:
        keys["count"] = str(most)
    if rate is None:
        raise InputError.single(
            "has requests of a single moment, which are no load", field=request.trace,
            hint="plan for users of them with --users 20, or for their lengths with --rate 5/s --isl 2000 --osl 500",
        )  # fmt: skip
    if request.rate is not None:
        keys["speed"] = f"{request.rate / rate:.12g}"
    return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


def unplayed(request: PlanRequest) -> str | None:
    """Return that a trace has more requests than are played, null where it has not."""
    if request.trace is None:
        return None
    most = MOST_OF_TRACE[has_numba()]
    if trace_rate(os.path.abspath(request.trace), most + 1)[1] <= most:
        return None
    why = "" if has_numba() else ": without Numba, of `pip install 'costmodel[fast]'`, no more are played"
    return f"{request.trace}: requests after the first {most:,}{why}"


def check_load(request: PlanRequest) -> None:
    """Raise InputError with all that a request lacks, that contradicts itself, or that nobody has a file of."""
    most = positions_of(check_model(request))
    problems = [*(Problem(None, *each) for each in _lacking(request)), *unknown_clusters(request)]
    if problems:
        raise InputError(problems)
    load_settings(request)
    field, hint = ("--isl", "lower --isl or --osl") if request.trace is None else (request.trace, "leave such out")
    is_known = request.trace is None or most == LONGEST  # else all of a trace are read
    longest = (request.isl or 0.0) + (request.osl or 0.0) if is_known else longest_of(str(request.trace))
    if longest > most:
        message = f"a request of {longest:,.0f} tokens is too long: {request.model} has {most:,} positions"
        raise InputError.single(message, field=field, hint=hint)


def positions_of(architecture: Architecture) -> int:
    """Return the longest context of a model: the rows of a learned table of positions, at most `LONGEST`."""
    rows = architecture.positions
    return LONGEST if rows is None or not np.all(rows) else min(LONGEST, int(np.max(rows)))


def check_model(request: PlanRequest) -> Architecture:
    """Return the model's architecture. Raises InputError where it is unknown, or makes images or videos."""
    name = str(request.model)
    architecture = read_model(name, request.search_path).architecture
    if architecture.denoiser is not None:
        on = next(iter(request.clusters), "nodes/dgx-h100")
        hint = f"`costmodel simulate {name} --cluster {on}` times one, `costmodel search` finds layouts of a workload"
        raise InputError.single("makes images or videos, of which nothing is planned", hint=hint, field=name)
    return architecture


def unknown_clusters(request: PlanRequest) -> Iterator[Problem]:
    """Yield what is wrong with the names and files of clusters."""
    for cluster in dict.fromkeys(request.clusters):
        try:
            load_cluster(cluster, request.search_path, changes=request.of_hardware)
        except InputError as error:
            yield from (each if each.location else replace(each, field="--cluster") for each in error.problems)


def _lacking(request: PlanRequest) -> Iterator[tuple[str, str, str]]:
    """Yield option, message and hint of what a request lacks, or has too much of."""
    yield from _refused(request)
    lengths = {f"--{name}": getattr(request, name) is not None for name in ("isl", "osl")}
    if request.trace is not None and request.classes is not None:
        yield "--trace", "its requests are of no `requests.classes`", "remove it, or --set requests.classes"
    if request.trace is not None and any(lengths.values()):
        yield (
            next(flag for flag, given in lengths.items() if given),
            "a trace has its own lengths",
            "remove it, or --trace",
        )
    if request.osl is not None and request.osl < 2.0:
        yield "--osl", f"{request.osl:g} is too small", "write at least 2"
    if request.trace is None and request.classes is None and not all(lengths.values()):
        missing = " and ".join(flag for flag, given in lengths.items() if not given)
        yield missing, "lengths of requests are not known", "add --isl 2000 --osl 500 (tokens), or --trace FILE"
    if request.trace is None and request.rate is None and request.users is None:
        yield "--rate", "a plan needs a load", "add --rate 20/s, --requests-per-day 2M, --users 200 or --trace FILE"
    if not request.clusters:
        yield "--cluster", "a plan needs hardware", "add --cluster nodes/dgx-h100 (`costmodel hardware list`)"


def _refused(request: PlanRequest) -> Iterator[tuple[str, str, str]]:
    """Yield option, message and hint of settings that a plan of servers does not take."""
    for path, text in request.changes:
        below = path.removeprefix(HEAD)
        if below not in ("precision", "framework") and path != CLASSES and path not in request.of_hardware:
            yield (
                f"--set {path}", "`plan` takes no other setting of a server than precision, framework, "
                "requests.classes and hardware",
                "`costmodel simulate` takes all settings",
            )  # fmt: skip
        elif below == "framework" and text not in ENGINES:
            yield f"--set {path}", f"{text!r} is no engine that serves", f"write one of {', '.join(ENGINES)}"
        elif below == "framework" and request.emit in ENGINES and request.emit != text:
            yield f"--set {path}", f"{text} contradicts --emit {request.emit}", "keep one of them"


def counts(most: int) -> np.ndarray:
    """Return numbers of replicas that are tried, up to `most`."""
    return np.unique(np.minimum(engine_counts(), float(most)))
