"""Benchmarks of one's own server, and anchor files, as the anchors of a workload."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import InputError, Location, Problem
from costmodel.measurements.importing.serving import Benchmark, Load, read_benchmark
from costmodel.records import replace
from costmodel.schema.anchor import MEASURED
from costmodel.schema.references import Library, as_reference
from costmodel.schema.resolve import resolve
from costmodel.schema.tree import Tree
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Disaggregated, Scenario

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
