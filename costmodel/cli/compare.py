"""`costmodel compare`: a result beside another, or beside a benchmark."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, print_json


@click.command("compare")
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("other", metavar="RESULT|BENCH.json", type=click.Path(path_type=Path))
@click.option("--scenario", metavar="NAME", help="The only scenario to compare.")
@click.option(
    "--trace",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="RESULT and the other are traces: write both as one (makes its folders), and compare by class.",
)
@json_option
def command(result: Path, other: Path, scenario: str | None, trace: Path | None, as_json: bool) -> int:
    """Hold RESULT, what `simulate --json` printed, against another result, metric by metric and operator by operator.

    Or against the JSON file of a serving benchmark: `vllm bench serve --save-result`, SGLang's `bench_serving`.
    """
    if trace is not None:
        return _compare_traces(result, other, trace, as_json=as_json)
    from costmodel.study.comparing import compare

    found = compare(result, other, scenario)
    if as_json:
        print_json(found.document())
    else:
        from costmodel.report.comparing import show_compared

        show_compared(found)
    return 0


def _compare_traces(predicted: Path, measured: Path, output: Path, *, as_json: bool) -> int:
    """Write both timelines as one file and print the seconds of each class of operators."""
    from costmodel.report.comparing import show_classes
    from costmodel.report.trace import write_beside
    from costmodel.study.timelines import compare_traces, read_slices

    ours, theirs = read_slices(predicted), read_slices(measured)
    write_beside(output, ours, theirs)
    found = compare_traces(ours, theirs)
    if as_json:
        print_json(found.document())
    else:
        show_classes(found)
    return 0
