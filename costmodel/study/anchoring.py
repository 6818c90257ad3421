"""Measured values of runs to an anchor file, what they say of a site, and how a workload takes them over."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel import units
from costmodel.analytic.anchors import Anchored
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import InputError, Location, Problem
from costmodel.measurements.importing.serving import Benchmark, Load, read_benchmark
from costmodel.records import Record, replace
from costmodel.schema.anchor import CLASSES, MEASURED, read_scatter
from costmodel.schema.case import load_case_file
from costmodel.schema.loader import parse_tree, yaml_text
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library, as_reference, is_name, relative_path
from costmodel.schema.resolve import measured_steps, resolve
from costmodel.schema.tree import Tree, to_python
from costmodel.schema.whole_files import write_whole
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Anchor, Disaggregated, MeasuredStep, Scenario

SCHEMA = "costmodel/anchor_report@1"
METRICS = MEASURED["training"]


class AnchoredSite(Record):
    """The measured steps of a site by name, with predictions of each, and what they say of one more run of the first.

    predicted: the measured metric without anchors, in SI.
    """

    framework: str
    device: str
    cluster: str
    steps: Mapping[str, MeasuredStep]
    predicted: Mapping[str, float]
    anchored: Anchored

    def document(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {
            "schema": SCHEMA, "framework": self.framework, "device": self.device, "cluster": self.cluster,
            "steps": [
                {
                    "name": name, "metric": step.metric, "measured": step.value, "predicted": self.predicted[name],
                    "ratio": ratio,
                }
                for (name, step), ratio in zip(self.steps.items(), self.anchored.ratios, strict=True)
            ],
            "site": {"factor": float(self.anchored.factor), "deviation": float(self.anchored.deviation)},
        }  # fmt: skip


def anchor_site(runs: Sequence[Path], output: Path, search_path: Sequence[str | Path] = ()) -> AnchoredSite:
    """Write the anchor file of measured values, and return what they say of their site.

    runs: workloads whose scenarios state an `anchor`, a workload with benchmarks of its server, or files of training
    cases. Raises InputError where they hold no measured value, or some of several classes, frameworks or devices.
    """
    if output.suffix != ".yaml" or not is_name(output.stem):
        hint = "letters, digits, `.`, `_` and `-`, as in `site.yaml`"
        raise InputError.single(f"{output} cannot be an anchor file", hint=hint, field="--output")
    library = Library(search_path)
    benchmarks = [path for path in runs if path.suffix not in (".yaml", ".yml")]
    entries = [
        entry for path in runs if path not in benchmarks for entry in _entries(path, library, output, benchmarks)
    ]
    if not entries:
        raise InputError.single(
            "no measured value of a run in these files", field="MEASUREMENTS",
            hint="state `anchor: {metric: step_time, value: 12.3 s}` in a scenario, add a benchmark to the workload of "
            "its server, or name a case with one of " + ", ".join(METRICS),
        )  # fmt: skip
    text = yaml_text({"name": output.stem, "steps": entries}, "anchor")
    steps = measured_steps(parse_tree(text, str(output)), library)
    site = _site([str(entry["name"]) for entry in entries], steps, library)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, [text.encode("utf-8")])
    return site


def _entries(
    path: Path, library: Library, output: Path, benchmarks: Sequence[Path]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the values of a file as an anchor file has them. benchmarks: of a workload's server."""
    if library.schema_of(path) == "case":
        yield from _of_cases(path, library, output)
        return
    workload = with_anchors(path, benchmarks, library) if benchmarks else library.read(path, "workload")
    for name, tree in workload.value["scenarios"].value.items():
        anchor = tree.child("anchor") if tree.is_mapping else None
        items = [] if anchor is None else anchor.value if isinstance(anchor.value, list) else [anchor]
        stated = [item for item in items if item.is_mapping]
        scenario = {"model": _moved(workload.value["model"], output), **_moved(tree.without("anchor"), output)}
        for number, item in enumerate(stated):
            suffix = f"-{number + 1}" if len(stated) > 1 else ""
            yield {"name": f"{path.stem}-{name}{suffix}", "scenario": scenario, **to_python(item)}


def _of_cases(path: Path, library: Library, output: Path) -> Iterator[dict[str, Any]]:
    """Yield the steps of the training cases of a file whose metric is one that anchors may have."""
    for case in load_case_file(path, library.roots):
        if case.skip is not None or case.case_class != "training" or case.scenario is None:
            continue
        scenario = _moved(case.scenario, output)
        changes = {**scenario.pop("set", {}), **case.overrides}
        inline = f"scenarios.{case.scenario_name}." if case.scenario.child("workload") is None else ""
        own = {key.removeprefix(inline): value for key, value in changes.items()}
        for expected in case.expect:
            utilisation = expected.metric.startswith("mfu") and case.conventions  # counted in other ways than here
            if utilisation or expected.metric not in METRICS:
                continue
            if expected.check == "value" and isinstance(expected.value, float):
                value = f"{expected.value!r} {_unit(expected.metric)}".strip()
                step = {"name": case.id, "scenario": scenario, "metric": expected.metric, "value": value}
                yield {**step, "set": own} if own else step
                break


def _unit(metric: str) -> str:
    """Return the unit of a metric's value in SI, nothing for a plain number."""
    unit = units.base_unit(dimension_of(metric) or "ratio")
    return "" if unit == "1" else unit


def _moved(tree: Tree, output: Path) -> Any:
    """Return the values of a tree, its relative paths relative to the folder of another file."""
    if isinstance(tree.value, dict):
        return {key: _moved(item, output) for key, item in tree.value.items()}
    if isinstance(tree.value, list):
        return [_moved(item, output) for item in tree.value]
    if isinstance(tree.value, str) and tree.value.startswith("./"):
        return f"./{os.path.relpath(relative_path(tree.value, tree.location), output.parent)}"
    return tree.value


def _site(names: Sequence[str], steps: Sequence[MeasuredStep], library: Library) -> AnchoredSite:
    """Return what steps say of their site. Raises InputError where they are of several."""
    first = steps[0].scenario
    for name, step in zip(names, steps, strict=True):
        one = step.scenario
        if (one.framework.name, one.cluster.device.name) != (first.framework.name, first.cluster.device.name):
            raise InputError.single(
                f"{name} ran {one.framework.name} on {one.cluster.device.name}, {names[0]} {first.framework.name} on "
                f"{first.cluster.device.name}", hint="write one file for each framework and device", field=name,
            )  # fmt: skip

        if CLASSES[one.plan.phase] != CLASSES[first.plan.phase]:
            raise InputError.single(
                f"{name} is of phase {one.plan.phase}, {names[0]} of {first.plan.phase}", field=name,
                hint="write one file for training, one for prefill, decode and generate, one for serving",
            )  # fmt: skip

    def evaluated(run: Scenario) -> Evaluation:
        return evaluate(run, load_calibration(run.cluster.device, run.framework, library.roots))

    predicted = {
        name: float(evaluated(step.scenario).metrics(None)[step.metric] or 0.0)
        for name, step in zip(names, steps, strict=True)
    }
    anchored = evaluated(replace(first, anchor=Anchor(tuple(steps), read_scatter(library, first)))).anchored
    assert anchored is not None, "an anchored step"
    return AnchoredSite(
        first.framework.name, first.cluster.device.name, first.cluster.name,
        dict(zip(names, steps, strict=True)), predicted, anchored,
    )  # fmt: skip


CLOSE = 0.05  # of mean lengths: tokenizers add and drop a few tokens of a prompt
EXACT = 1e-3  # of rates and of requests in flight, which both sides were told
OTHERWISE = ("latency", "tokens_per_second", "requests_per_second")  # of a benchmark with neither `ttft` nor `tpot`


def with_anchors(
    workload: str | Path, files: Sequence[str | Path], library: Library, scenarios: Sequence[str] | None = None
) -> Tree:
    """Return a workload's document whose scenarios are anchored by files.

    files: anchor files, for all scenarios, and benchmarks of a server, for the scenario that ran: the only one of phase
    serving, or the one that agrees with the load. It stands as written there, whatever `--set` asks of.
    scenarios: those that may have run, null: all. Raises InputError where a file is neither, or no scenario agrees.
    """
    path = library.find_workload(workload)
    tree = library.read(path, "workload")
    entries = dict(tree.value["scenarios"].value)
    chosen = [name for name in entries if not scenarios or name in {one.partition("@")[0] for one in scenarios}]
    kept = (".yaml", ".yml")  # kinds of anchors' files, which may be named without one
    benchmarks = [each for each in map(Path, files) if each.suffix not in kept and (each.suffix or each.is_file())]
    known = resolve(path, library=library, scenarios=chosen).scenarios if benchmarks else {}
    for file in map(Path, files):
        if file in benchmarks:
            name, items = measured(file, known)
            entries[name] = _anchored(entries[name], items)
            continue
        reference = [Tree(as_reference(str(file)))]
        for name in chosen:
            if entries[name].is_mapping and entries[name].text("phase") in MEASURED:
                entries[name] = _anchored(entries[name], reference)
    location = replace(tree.location, source=path.stem) if tree.location else Location(path.stem)
    return replace(
        tree.with_entries(scenarios=replace(tree.value["scenarios"], value=entries)), location=location
    )  # fmt: skip


def _anchored(scenario: Tree, items: Sequence[Tree]) -> Tree:
    own = scenario.child("anchor")
    before = [] if own is None or own.value is None else own.value if isinstance(own.value, list) else [own]
    return scenario.with_entries(anchor=Tree([*before, *items]))


def measured(file: Path, scenarios: Mapping[str, Scenario]) -> tuple[str, list[Tree]]:
    """Return the scenario that a benchmark measured, and what it measured as entries of `anchor`."""
    shown = str(file)
    benchmark = read_benchmark(file, shown)
    servers = {name: one for name, one in scenarios.items() if one.plan.phase == "serving"}
    if not servers:
        raise InputError.single(
            "is of a server, and the workload has no scenario of phase serving", location=Location(shown),
            hint="state `anchor: {metric: tpot, value: 12 ms}` in the scenario that was measured",
        )  # fmt: skip
    if benchmark.load.rate == math.inf and benchmark.load.concurrency is None:
        raise InputError.single(
            "sent all its requests at once, which is no steady load", location=Location(shown),
            hint="measure with --max-concurrency or --request-rate",
        )  # fmt: skip
    problems = {name: list(differences(benchmark.load, one, shown)) for name, one in servers.items()}
    agreeing = [name for name, found in problems.items() if not found]
    if not agreeing:
        raise InputError(min(problems.values(), key=len))  # all of the nearest one
    if len(agreeing) > 1:
        raise InputError.single(
            f"agrees with {', '.join(agreeing)}", hint="name the one that ran with --scenario", location=Location(shown)
        )
    return agreeing[0], [_item(metric, value, shown) for metric, value in _stated(benchmark).items()]


def _stated(benchmark: Benchmark) -> dict[str, float]:
    """Return the metrics of a benchmark that anchor: times to first and of later tokens, else the first other one."""
    metrics = {name: value for name, value in benchmark.metrics.items() if value > 0.0}
    times = {name: value for name, value in metrics.items() if name in ("tpot", "ttft")}
    others = (name for name in OTHERWISE if name in metrics)
    return times or {name: metrics[name] for name in itertools.islice(others, 1)}


def _item(metric: str, value: float, shown: str) -> Tree:
    location = Location(shown)
    return Tree({"metric": Tree(metric, location), "value": Tree(_written(metric, value), location)}, location)


def _written(metric: str, value: float) -> Any:
    return f"{value!r} s" if metric in ("ttft", "tpot", "latency") else value


def differences(load: Load, scenario: Scenario, shown: str) -> Iterator[Problem]:
    """Yield in which keys a scenario has another load than a benchmark states."""
    for key, is_, stated, close in _pairs(load, scenario):
        if stated is None:
            known = "a rate" if key == "concurrency" else "a concurrency"
            yield _differs(shown, scenario, key, f"was measured at {key} {is_:g}, the scenario has {known}")
        elif abs(is_ / stated - 1.0) > close:
            yield _differs(shown, scenario, key, f"was measured at {key} {is_:g}, the scenario has {stated:g}")


def _differs(shown: str, scenario: Scenario, key: str, message: str) -> Problem:
    hint = f"write the scenario as it ran; ask of another `{key}` with --set"
    return Problem(Location(shown), f"scenarios.{scenario.name}.{key}", message, hint)


def _pairs(load: Load, scenario: Scenario) -> Iterator[tuple[str, float, float | None, float]]:
    """Yield what a benchmark states, with the scenario's value, null where it has none, and how close they have to be.

    Requests in flight are of the whole deployment, those of a scenario of one replica.
    """
    plan = scenario.plan
    assert isinstance(plan, Serving | Disaggregated), "a server"
    is_rate = load.rate is not None and load.rate < math.inf
    if isinstance(plan, Serving) and (plan.rate is not None or plan.concurrency is not None):
        engines = float(scenario.parallel.dp) * float(plan.replicas.count)
        in_flight = None if plan.concurrency is None else float(plan.concurrency) * engines
        if is_rate and load.rate is not None:
            yield "rate", load.rate, None if plan.rate is None else float(plan.rate), EXACT
        elif load.concurrency is not None:
            yield "concurrency", load.concurrency, in_flight, EXACT
    for key in ("input_tokens", "output_tokens"):
        mean = getattr(load, key)
        if mean is not None:
            yield key, mean, float(getattr(plan, key)), CLOSE
