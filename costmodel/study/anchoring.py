"""Measured values of runs to an anchor file, and what they say of a site."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel import units
from costmodel.analytic.anchors import Anchored
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import InputError
from costmodel.records import Record, replace
from costmodel.schema.anchor import CLASSES, MEASURED, read_scatter
from costmodel.schema.case import load_case_file
from costmodel.schema.loader import parse_tree, yaml_text
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library, is_name, relative_path
from costmodel.schema.resolve import measured_steps
from costmodel.schema.tree import Tree, to_python
from costmodel.schema.whole_files import write_whole
from costmodel.study.served_anchors import with_anchors
from costmodel.workload.scenario import Anchor, MeasuredStep, Scenario

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
