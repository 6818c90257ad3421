"""`costmodel sweep`: evaluate the scenarios of a workload over axes, into a table that a killed run goes on with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError, InputError


@click.command("sweep")
@click.argument("workload", metavar="WORKLOAD|STUDY.yaml")
@click.option(
    "--vary",
    "varied",
    multiple=True,
    metavar="PATH=VALUES",
    help="An axis: values, or LOW..HIGH:COUNT[:log], with commas between; `;` links paths. Repeatable.",
)
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option("--cluster", metavar="NAME", hidden=True, help="As `--set scenarios.NAME.cluster=…` for every scenario.")
@set_option
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Evaluate in this many processes.")
@click.option(
    "--cluster-scheduler",
    "scheduler",
    envvar="DASK_SCHEDULER_ADDRESS",
    metavar="URL",
    help="Evaluate on the Dask cluster of this scheduler, or `embedded`.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to make.")
@json_option
@path_option
def command(
    workload: str,
    varied: tuple[str, ...],
    scenarios: tuple[str, ...],
    cluster: str | None,
    changes: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    output: Path,
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Vary a workload and write every point to DIR/points/, what was asked to DIR/study.json.

    The same command goes on where a killed one stopped.
    """
    from costmodel.api import load
    from costmodel.cli.progress import progress
    from costmodel.schema.study import find_study
    from costmodel.study.executors import pool
    from costmodel.study.files import STUDY, check_folder
    from costmodel.study.points import write_sweep
    from costmodel.study.sweep import NOTHING, Wanted, plan_sweep

    study = find_study(workload, search_path)
    made = read_changes(changes)
    wanted = NOTHING
    if study is not None:
        twice = next((path for path in made if path in study.changes), None)
        if twice is not None:
            raise InputError.single(f"is set by the study {workload}, too", hint="keep one of them", field=twice)
        workload, made = study.file.workload, {**study.changes, **made}
        varied, scenarios = (*study.varied, *varied), scenarios or tuple(study.file.scenarios)
        wanted = Wanted(study.file.derived, tuple(study.file.constraints))
    loaded = load(workload, set=made, cluster=cluster, search_path=search_path, scenarios=scenarios or None)
    sweep = plan_sweep(loaded, varied, every=bool(scenarios), wanted=wanted)
    check_folder(output, sweep.document())
    try:
        with progress("sweep", sweep.points) as told, pool(workers, scheduler) as executor:
            found = write_sweep(sweep, output, told, executor)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {output} keeps what is finished, and the same command goes on from there", err=True)
        raise
    if as_json:
        print_json({**json.loads((output / STUDY).read_text(encoding="utf-8")), "summary": found})
    else:
        from costmodel.report.sweeps import show_sweep

        show_sweep(sweep.document(), found, shlex.quote(str(output)))
    return 0 if any(summary["fit"] for summary in found.values()) else InfeasibleError.exit_code
