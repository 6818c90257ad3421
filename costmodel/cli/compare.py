"""`costmodel compare`: a result beside another, or beside a benchmark."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, print_json


@click.command("compare")
@click.argument("result", type=click.Path(path_type=Path))
@click.argument("other", metavar="RESULT|BENCH.json", type=click.Path(path_type=Path))
@click.option("--scenario", metavar="NAME", help="The only scenario to compare.")
@json_option
def command(result: Path, other: Path, scenario: str | None, as_json: bool) -> int:
    """Hold RESULT, what `simulate --json` printed, against another result, metric by metric and operator by operator.

    Or against the JSON file of a serving benchmark: `vllm bench serve --save-result`, SGLang's `bench_serving`.
    """
    from costmodel.study.comparing import compare

    found = compare(result, other, scenario)
    if as_json:
        print_json(found.document())
    else:
        from costmodel.report.comparing import show_compared

        show_compared(found)
    return 0
