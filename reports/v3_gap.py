"""DeepSeek-V3's published training step beside what the tool says with less and less known, and what it assumes.

python -m reports.v3_gap --output reports/v3_gap.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from costmodel.api import load
from costmodel.errors import InfeasibleError
from costmodel.records import ValueRecord
from costmodel.report.text import interval
from costmodel.result import Point
from costmodel.schema.case import Case, Expectation
from costmodel.schema.what_if import WhatIf, load_what_if
from costmodel.study.published.reproduce import load_cases
from reports.page import line, write_page

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


def page() -> str:
    """Return the page on DeepSeek-V3's step."""
    what_if = load_what_if(NAME)
    published = _published()
    lines = [
        *_head(), *_stories(what_if, published), *_assumptions(what_if, published), *_equally_good(what_if, published),
        *_ladder(waterfall(what_if)), "", *_decoding(), "",
        "Regenerate: `python -m reports.v3_gap --output reports/v3_gap.md`",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _head() -> Iterator[str]:
    yield "# DeepSeek-V3's training step: what is known, and what is assumed"
    yield ""
    yield "The step is no test of the tool: its terms were compared with the published parts when they were added. The"
    yield "first row below is what it would have said without any figure of DeepSeek's. `pairs` and `bubble` miss in"
    yield "opposite directions: that the step as a whole is close says little."


def _published() -> dict[str, float]:
    """Return the published step and its parts [s]."""
    cases, _ = load_cases([CASES])
    values: dict[str, float] = {}
    for case in cases:
        for expected in case.expect:
            if _is_of_the_step(case, expected) and isinstance(expected.value, float):
                values[expected.metric.removeprefix("schedule.")] = expected.value
    return values


def _is_of_the_step(case: Case, expected: Expectation) -> bool:
    return case.id.startswith(FABRIC) and (expected.metric == "step_time" or expected.metric.startswith("schedule."))


def _point(what_if: WhatIf, changes: Mapping[str, object]) -> Point:
    return load(what_if.file.workload, set=dict(changes)).evaluate(what_if.file.scenario).point()


def _stories(what_if: WhatIf, published: Mapping[str, float]) -> Iterator[str]:
    yield "\n## The step and its parts"
    yield ""
    yield f"| what is known | step | 80 % interval | error | {' | '.join(PARTS.values())} |"
    yield f"|---|---:|---:|---:|{'---:|' * len(PARTS)}"
    for story in what_if.file.stories:
        point = _point(what_if, story.set)
        step, span = point.metrics["step_time"], point.intervals["step_time"]
        assert step is not None
        assert span is not None
        error = step / published["step_time"] - 1.0
        parts = " | ".join(_part(point, name, published) for name in PARTS)
        yield f"| {story.name} | {step:.3f} s | {interval('step_time', *span)} | {error:+.1%} | {parts} |"
    shown = " | ".join(f"{published[name]:.2f} s" for name in PARTS)
    yield f"| **published** | **{published['step_time']:.3f} s** | | | {shown} |"
    yield ""
    yield "Parts: seconds, and milliseconds more than published. F, B and W are lone passes, pairs overlapped ones."


def _part(point: Point, name: str, published: Mapping[str, float]) -> str:
    assert point.schedule is not None
    value = point.schedule[name]
    return f"{value:.2f} s ({1000 * (value - published[name]):+.0f})"


def _assumptions(what_if: WhatIf, published: Mapping[str, float]) -> Iterator[str]:
    own = _point(what_if, {})
    step, span = own.metrics["step_time"], own.intervals["step_time"]
    assert step is not None
    assert span is not None
    down, up = math.log(step / span[0]) ** 2, math.log(span[1] / step) ** 2
    yield "\n## What is assumed"
    yield ""
    yield "| assumption | one end | step | other end | step | source of the range |"
    yield "|---|---|---:|---|---:|---|"
    for one in what_if.file.assumptions:
        ends = []
        for changes in (one.low, one.high):
            value = _point(what_if, changes).metrics["step_time"]
            ends.append(value)
        moved = [0.0 if value is None else math.log(value / step) for value in ends]
        down, up = down + min(*moved, 0.0) ** 2, up + max(*moved, 0.0) ** 2
        cells = [
            f"{_shown(changes)} | {_seconds(value)}" for changes, value in zip((one.low, one.high), ends, strict=True)
        ]
        yield f"| {one.term} | {cells[0]} | {cells[1]} | {one.cite} |"
    low, high = step * math.exp(-math.sqrt(down)), step * math.exp(math.sqrt(up))
    yield ""
    yield f"Shipped: {step:.3f} s, {interval('step_time', *span)} by kernels and unseen runs; over all assumptions"
    yield f"as well **{interval('step_time', low, high)}** (logarithms in quadrature). Published:"
    yield f"{published['step_time']:.3f} s."


def _shown(changes: Mapping[str, object]) -> str:
    return ", ".join(f"`{path.rpartition('.')[2]}={value}`" for path, value in changes.items())


def _seconds(value: float | None) -> str:
    return "does not fit" if value is None else f"{value:.2f} s"


def _equally_good(what_if: WhatIf, published: Mapping[str, float]) -> Iterator[str]:
    """Yield the loads and slowdowns that give the step alike, with how far their parts lie off."""
    load_path, slowdown_path = (
        "scenarios.training.communication.expert_load", "scenarios.training.framework.moe_comm_slowdown",
    )  # fmt: skip
    workload = load(what_if.file.workload)
    grid = workload.evaluate(what_if.file.scenario, vary={load_path: LOADS, slowdown_path: SLOWDOWNS})
    errors = np.asarray(grid.metrics["step_time"]) / published["step_time"] - 1.0
    alike = [(float(abs(errors[at])), at) for at in zip(*np.nonzero(np.abs(errors) <= ALIKE), strict=True)]
    yield "\n## Stories that fit equally well"
    yield ""
    yield f"{len(alike)} of {errors.size} pairs of two values that nobody outside knows give the step within"
    yield f"{ALIKE:.0%}, the nearest first:"
    yield ""
    yield f"| load of experts | slowdown beside all-to-alls | error | {' | '.join(PARTS.values())} |"
    yield f"|---:|---:|---:|{'---:|' * len(PARTS)}"
    for _, (row, column) in sorted(alike)[:SHOWN]:
        point = _point(what_if, {load_path: float(LOADS[row]), slowdown_path: float(SLOWDOWNS[column])})
        parts = " | ".join(_part(point, name, published) for name in PARTS)
        yield f"| {LOADS[row]:g} | {SLOWDOWNS[column]:g} | {errors[row, column]:+.1%} | {parts} |"


class Term(ValueRecord):
    """One step of the chain: the metric before and after it."""

    name: str
    change: str
    before: float
    after: float
    cite: str | None


class Waterfall(ValueRecord):
    """All terms, and what is left between the last evaluation and the published figure.

    own: how many of the terms lead to the workload's own prediction.
    """

    what_if: WhatIf
    start: float
    terms: tuple[Term, ...]
    own: int

    @property
    def unexplained(self) -> float | None:
        """Return the published figure less the last evaluation."""
        published = self.what_if.published
        return None if published is None else published - self.terms[-1].after


def waterfall(what_if: WhatIf) -> Waterfall:
    """Return the terms of a what-if file. Each is the difference of two evaluations, one change apart."""
    changes = dict(what_if.file.start)
    start = before = _evaluate(what_if, changes)
    terms: list[Term] = []
    own = 0
    for step in what_if.file.steps:
        if step.value is None:
            shown = f"{step.path}={changes.pop(step.path)}"
            change = f"without `{shown}`"
        else:
            changes[step.path] = step.value
            change = f"with `{step.path}={step.value}`"
        after = _evaluate(what_if, changes)
        terms.append(Term(step.term, change, before, after, step.cite))
        before = after
        if not changes:
            own = len(terms)
    return Waterfall(what_if, start, tuple(terms), own)


def _evaluate(what_if: WhatIf, changes: Mapping[str, object]) -> float:
    value = _point(what_if, changes).metrics[what_if.file.metric]
    if value is None:
        raise InfeasibleError(f"{what_if.file.scenario} with {changes} does not run")
    return value


def _ladder(result: Waterfall) -> Iterator[str]:
    """Yield the waterfall as a table."""
    file, published = result.what_if.file, result.what_if.published
    first = f"`{file.scenario}` of `{file.workload}` with all changes of `start` in the what-if file"
    yield f"\n## {file.title}"
    yield ""
    yield f"`{file.metric}`. Each term is the difference of two evaluations, one `--set` apart; the terms add up."
    yield ""
    yield "| term | change | difference | total | source |"
    yield "|---|---|---:|---:|---|"
    yield line(file.begin, first, "", f"{result.start:.3f} s", "")
    for number, term in enumerate(result.terms, start=1):
        cite = term.cite or "the workload's own value"
        yield line(term.name, term.change, f"{term.after - term.before:+.3f} s", f"{term.after:.3f} s", cite)
        if number == result.own:
            yield line("**prediction**", "the workload as it stands", "", f"**{term.after:.3f} s**", "")
    if file.published is not None and published is not None and result.unexplained is not None:
        yield line("*unexplained*", "no model computes it", f"{result.unexplained:+.3f} s", f"{published:.3f} s", "")
        yield line("**published**", "", "", f"**{published:.3f} s**", file.published.cite)


def _decoding() -> Iterator[str]:
    """Yield what the decoding rate rests on."""
    yield "## Decoding: how evenly experts are loaded"
    yield ""
    yield "| experts | tokens/s a device | 80 % interval | error |"
    yield "|---|---:|---:|---:|"
    (case,), _ = load_cases(["pd_decode_tps"])
    stated = case.expect[0].value
    assert isinstance(stated, float)
    for name, changes in (
        ("even, as the profile says (as shipped)", {}),
        ("drawn at random, token by token", {"scenarios.decode.routing.load": "uniform"}),
        ("a fullest rank of 1.0001 times the mean", {"scenarios.decode.communication.expert_load": 1.0001}),
        ("a fullest rank of 1.05 times the mean", {"scenarios.decode.communication.expert_load": 1.05}),
    ):
        point = load("deepseek_v3", set=dict(changes)).evaluate("decode").point()
        rate, span = point.metrics["tokens_per_second_per_device"], point.intervals["tokens_per_second_per_device"]
        assert rate is not None
        assert span is not None
        yield f"| {name} | {rate:,.0f} | {span[0]:,.0f} .. {span[1]:,.0f} | {rate / stated - 1:+.1%} |"
    yield f"| **published** | **{stated:,.0f}** | | |"


if __name__ == "__main__":
    write_page("v3_gap", page)
