"""`costmodel step-times`: what a serving engine's steps take, as a table."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.completion import names
from costmodel.cli.options import Asked, output_option, workload_options
from costmodel.errors import InputError


@click.command("step-times")
@click.argument("workload", shell_complete=names("workloads", files=True))
@output_option("FILE", "Table to write: Parquet if it ends in .parquet (needs polars), else CSV.")
@workload_options()
def command(*, asked: Asked, output: Path) -> int:
    """Write the time of an engine's steps over decoding requests, their keys, prompt chunks, and their tokens.

    The sizes go up to the scenario's limits and lengths. The serving scenario needs no name where it is the only one.
    Of a model (WORKLOAD, with --cluster) it is the phase `serving`.
    """
    from costmodel.schema.whole_files import write_whole
    from costmodel.serving.step_table import serving_scenario, step_columns
    from costmodel.study.tables import CSV, PARQUET, encode

    loaded = asked.load(phases=("serving",))
    serving = serving_scenario([loaded.scenario(name) for name in loaded.scenarios])
    form = PARQUET if output.suffix == ".parquet" else CSV
    if form == PARQUET and not _has_polars():
        raise InputError.single(
            "Parquet needs polars", field="--output", hint="install costmodel[sweep], or name a .csv"
        )
    columns = step_columns(serving, loaded.calibration(serving))
    write_whole(output, [encode(columns, form, ("decodes", "chunks", "rows"))])
    click.echo(f"{output}: {len(columns['seconds']):,} steps", err=True)
    return 0


def _has_polars() -> bool:
    from importlib.util import find_spec

    return find_spec("polars") is not None
