"""`costmodel sweep`: evaluates the scenarios of a workload over axes into a table. An interrupted run resumes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from costmodel.cli.completion import names, paths
from costmodel.cli.options import (
    Asked,
    json_option,
    output_option,
    print_json,
    scheduler_of,
    workers_options,
    workload_options,
)
from costmodel.errors import InfeasibleError, InputError


@click.command("sweep")
@click.argument(
    "workload", metavar="WORKLOAD|STUDY.yaml", shell_complete=names("workloads", "models", "studies", files=True)
)
@click.option(
    "--vary", "--axis", "varied", multiple=True, metavar="PATH=VALUES", shell_complete=paths,
    help="Axis to vary: a comma-separated list of values or LOW..HIGH:COUNT[:log]; join paths with `;` to vary them "
         "together. Repeatable.",
)  # fmt: skip
@click.option(
    "--engine",
    type=click.Choice(["analytic", "event"]),
    default="analytic",
    show_default=True,
    help="Closed form, or simulate each point.",
)
@workers_options()
@output_option("DIR", "Output folder, e.g. `--output runs`.")
@workload_options("--cluster", "--phase")
@json_option
def command(
    *, asked: Asked, varied: tuple[str, ...], engine: str, workers: int | None, scheduler: str | None, output: Path,
    as_json: bool,
) -> int:  # fmt: skip
    """Evaluate a workload at every combination of values. Writes results to DIR/points/ and the settings to
    DIR/study.json.

    WORKLOAD may be a model, as in `simulate`: options --cluster NAME (several are compared) and --phase PHASE.
    Run the same command again to resume an interrupted sweep. --cluster-scheduler URL evaluates on a Dask cluster: its
    address, `env` for that of $DASK_SCHEDULER_ADDRESS, or `embedded` for one of its own with --workers processes.
    """
    from costmodel.cli.progress import progress
    from costmodel.schema.results import SWEEP_HINT, read_json
    from costmodel.schema.what_if import find_study
    from costmodel.study.executors import started_pool
    from costmodel.study.files import STUDY, check_folder
    from costmodel.study.points import write_sweep
    from costmodel.study.sweep import NOTHING, Wanted, plan_sweep

    study = find_study(asked.workload, asked.search_path)
    wanted = NOTHING
    if study is not None:
        duplicate = next((path for path in asked.changes if path in study.changes), None)
        if duplicate is not None:
            named = asked.workload
            raise InputError.single(f"is also set by the study {named}", hint="keep one of them", field=duplicate)
        asked, varied = asked.of(study), (*study.varied, *varied)
        wanted = Wanted(study.file.derived, tuple(study.file.constraints))
    loaded = asked.load()
    sweep = plan_sweep(loaded, varied, every=bool(asked.scenarios), wanted=wanted, engine=engine)
    check_folder(output, sweep.document())
    scheduler = scheduler_of(scheduler)
    try:
        with progress("sweep", sweep.points) as on_progress, started_pool(workers, scheduler) as pool:
            summaries = write_sweep(sweep, output, on_progress, pool)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {output} keeps the finished points; run the same command to resume", err=True)
        raise
    if as_json:
        print_json({**read_json(output / STUDY, SWEEP_HINT), "summary": summaries})
    else:
        from costmodel.report.sweep import show_sweep

        show_sweep(sweep.document(), summaries, shlex.quote(str(output)))
    return 0 if any(summary["fit"] for summary in summaries.values()) else InfeasibleError.exit_code
