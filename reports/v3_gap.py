"""DeepSeek-V3's published training step beside what the tool says with less and less known, and what it assumes.

python -m reports.v3_gap --output reports/v3_gap.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from costmodel.api import load
from costmodel.errors import InfeasibleError
from costmodel.records import ValueRecord
from costmodel.report.text import interval
from costmodel.result import Point
from costmodel.schema.what_if import WhatIf, WhatIfFile, load_what_if
from costmodel.study.published.reproduce import load_cases
from reports.page import rendered, write_page

NAME = "deepseek_v3_gap"
CASES = "insights_deepseek_v3"
FABRIC = "ins_t4_mpft_"  # what ids of the step's figures on the fabric of the workload begin with
PARTS = {
    "forward": "F", "backward_input": "B", "backward_weight": "W", "forward_backward": "pairs", "bubble": "bubble",
    "optimizer": "optimizer",
}  # fmt: skip
LOADS = np.round(np.arange(1.0, 1.81, 0.05), 2)
SLOWDOWNS = np.round(np.arange(1.0, 1.51, 0.05), 2)
ALIKE = 0.01  # of the published step: stories within it fit it equally well
SHOWN = 8
DECODING: Mapping[str, Mapping[str, object]] = {  # how evenly experts are loaded -> what says so
    "even, as the profile says (as shipped)": {},
    "drawn at random, token by token": {"scenarios.decode.routing.load": "uniform"},
    "a fullest rank of 1.0001 times the mean": {"scenarios.decode.communication.expert_load": 1.0001},
    "a fullest rank of 1.05 times the mean": {"scenarios.decode.communication.expert_load": 1.05},
}


def page() -> str:
    """Return the page on DeepSeek-V3's step."""
    what_if, published = load_what_if(NAME), _published()
    return rendered(
        "v3_gap", parts=PARTS, published=published, interval=interval,
        stories=[(story.name, _point(what_if, story.set)) for story in what_if.file.stories],
        assumed=_assumptions(what_if), alike=_equally_good(what_if, published["step_time"]),
        ladder=waterfall(what_if), decoding=_decoding(),
    )  # fmt: skip


def _published() -> dict[str, float]:
    """Return the published step and its parts [s]."""
    cases, _ = load_cases([CASES])
    return {
        each.metric.removeprefix("schedule."): each.value
        for case in cases
        if case.id.startswith(FABRIC)
        for each in case.expect
        if (each.metric == "step_time" or each.metric.startswith("schedule.")) and isinstance(each.value, float)
    }


def _point(what_if: WhatIf, changes: Mapping[str, object]) -> Point:
    return load(what_if.file.workload, set=dict(changes)).evaluate(what_if.file.scenario).point()


def _assumptions(what_if: WhatIf) -> dict[str, Any]:
    """Return the step at both ends of each assumption, and the ends over all of them: logarithms in quadrature."""
    own = _point(what_if, {})
    step, span = own.metrics["step_time"], own.intervals["step_time"]
    assert step is not None
    assert span is not None
    down, up = math.log(step / span[0]) ** 2, math.log(span[1] / step) ** 2
    rows = []
    for one in what_if.file.assumptions:
        ends = [(changes, _point(what_if, changes).metrics["step_time"]) for changes in (one.low, one.high)]
        moved = [0.0 if value is None else math.log(value / step) for _, value in ends]
        down, up = down + min(*moved, 0.0) ** 2, up + max(*moved, 0.0) ** 2
        rows.append((one.term, ends, one.cite))
    both = step * math.exp(-math.sqrt(down)), step * math.exp(math.sqrt(up))
    return {"rows": rows, "step": step, "span": span, "ends": both}


def _equally_good(what_if: WhatIf, published: float) -> dict[str, Any]:
    """Return the loads and slowdowns that give the step alike, the nearest of them with their points."""
    load_path, slowdown_path = (
        "scenarios.training.communication.expert_load", "scenarios.training.framework.moe_comm_slowdown",
    )  # fmt: skip
    workload = load(what_if.file.workload)
    grid = workload.evaluate(what_if.file.scenario, vary={load_path: LOADS, slowdown_path: SLOWDOWNS})
    errors = np.asarray(grid.metrics["step_time"]) / published - 1.0
    alike = sorted((float(abs(errors[at])), at) for at in zip(*np.nonzero(np.abs(errors) <= ALIKE), strict=True))
    shown = []
    for _, (row, column) in alike[:SHOWN]:
        pair = float(LOADS[row]), float(SLOWDOWNS[column])
        point = _point(what_if, dict(zip((load_path, slowdown_path), pair, strict=True)))
        shown.append((*pair, float(errors[row, column]), point))
    return {"found": len(alike), "tried": errors.size, "within": ALIKE, "shown": shown}


class Term(ValueRecord):
    """One step of the chain: the metric before and after it."""

    name: str
    change: str
    before: float
    after: float
    cite: str | None


class Waterfall(ValueRecord):
    """All terms, and the published figure. own: how many of the terms lead to the workload's own prediction."""

    file: WhatIfFile
    published: float | None
    start: float
    terms: tuple[Term, ...]
    own: int


def waterfall(what_if: WhatIf) -> Waterfall:
    """Return the terms of a what-if file. Each is the difference of two evaluations, one change apart."""
    changes = dict(what_if.file.start)
    start = before = _evaluate(what_if, changes)
    terms: list[Term] = []
    own = 0
    for step in what_if.file.steps:
        if step.value is None:
            change = f"without `{step.path}={changes.pop(step.path)}`"
        else:
            changes[step.path] = step.value
            change = f"with `{step.path}={step.value}`"
        after = _evaluate(what_if, changes)
        terms.append(Term(step.term, change, before, after, step.cite))
        before = after
        if not changes:
            own = len(terms)
    return Waterfall(what_if.file, what_if.published, start, tuple(terms), own)


def _evaluate(what_if: WhatIf, changes: Mapping[str, object]) -> float:
    value = _point(what_if, changes).metrics[what_if.file.metric]
    if value is None:
        raise InfeasibleError(f"{what_if.file.scenario} with {changes} does not run")
    return value


def _decoding() -> dict[str, Any]:
    """Return what the decoding rate rests on, and the published one [tokens/s/device]."""
    (case,), _ = load_cases(["pd_decode_tps"])
    rows = []
    for name, changes in DECODING.items():
        point = load("deepseek_v3", set=dict(changes)).evaluate("decode").point()
        rate = "tokens_per_second_per_device"
        rows.append((name, point.metrics[rate], point.intervals[rate]))
    return {"rows": rows, "published": case.expect[0].value}


if __name__ == "__main__":
    write_page("v3_gap", page)
