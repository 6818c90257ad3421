"""`costmodel sweep`: evaluate the scenarios of a workload over numeric axes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError


@click.command("sweep")
@click.argument("workload")
@click.option(
    "--vary",
    "varied",
    multiple=True,
    metavar="PATH=VALUES",
    help="An axis: values, or LOW..HIGH:COUNT[:log], with commas between; repeatable, the table is their product.",
)
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option("--cluster", metavar="NAME", help="Stand in for every scenario's cluster.")
@set_option
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the table.")
@json_option
@path_option
def command(
    workload: str,
    varied: tuple[str, ...],
    scenarios: tuple[str, ...],
    cluster: str | None,
    changes: tuple[str, ...],
    output: Path,
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Vary numbers of WORKLOAD and write every point to DIR/points.csv, what was asked to DIR/study.json."""
    from costmodel.api import load
    from costmodel.cli.progress import progress
    from costmodel.study.files import check_folder
    from costmodel.study.points import write_sweep
    from costmodel.study.sweep import plan_sweep, run_sweep, summaries

    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    sweep = plan_sweep(loaded, varied, every=bool(scenarios))
    check_folder(output, sweep.document())
    with progress("sweep") as told:
        swept = run_sweep(sweep, told)
        write_sweep(sweep, swept, output)
    found = summaries(sweep, swept)
    if as_json:
        print_json({**sweep.document(), "summary": found})
    else:
        from costmodel.report.sweeps import show_sweep

        show_sweep(sweep.document(), found, shlex.quote(str(output)))
    return 0 if any(summary["fit"] for summary in found.values()) else InfeasibleError.exit_code
