"""`costmodel compare`: two results, or a result and a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from costmodel.cli.options import json_option, print_json


@click.command("compare")
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("other", metavar="RESULT|BENCH.json", type=click.Path(path_type=Path))
@click.option("--scenario", metavar="NAME", help="Compare only this scenario.")
@click.option(
    "--trace", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Both inputs are traces: merge them into FILE and compare the time of each class of operators.",
)  # fmt: skip
@json_option
def command(*, result: Path, other: Path, scenario: str | None, trace: Path | None, as_json: bool) -> int:
    """Compare RESULT (from `simulate --json`) with another result, metric by metric and operator by operator. Two plans
    (`plan --output FILE.json`) are compared by their best deployments.

    The second file may also be a serving benchmark: JSON from `vllm bench serve --save-result`, SGLang's
    `bench_serving`, genai-perf or AIPerf, or the text of a server's /metrics. `simulate --anchor` takes it too.
    """
    if trace is not None:
        return _compare_traces(result, other, trace, as_json=as_json)
    from costmodel.report.plan_file import read_plan

    plans = [plan for plan in map(read_plan, (result, other)) if plan is not None]
    if len(plans) == 2:
        return _compare_plans(plans, as_json=as_json)
    from costmodel.study.comparing import compare

    comparison = compare(result, other, scenario)
    if as_json:
        print_json(comparison.document())
    else:
        from costmodel.report.compare import show_comparison

        show_comparison(comparison)
    return 0


def _compare_plans(plans: list[dict[str, Any]], *, as_json: bool) -> int:
    """Print the facts of the best deployments of two plans side by side."""
    from costmodel.report.page import show
    from costmodel.report.plan_file import compared, comparison_table

    rows = compared(*plans)
    if as_json:
        print_json({"plans": [dict(zip(("name", "first", "second", "ratio"), row, strict=True)) for row in rows]})
    else:
        show(comparison_table(rows))
    return 0


def _compare_traces(predicted: Path, measured: Path, output: Path, *, as_json: bool) -> int:
    """Merge both timelines into one file and print the time of each class of operators."""
    from costmodel.report.compare import show_classes
    from costmodel.report.trace import write_merged
    from costmodel.study.timelines import SCHEMA, compare_traces, read_slices

    ours, theirs = read_slices(predicted), read_slices(measured)
    write_merged(output, ours, theirs)
    classes = compare_traces(ours, theirs)
    if as_json:
        print_json({"schema": SCHEMA, "classes": classes})
    else:
        show_classes(classes)
    return 0
