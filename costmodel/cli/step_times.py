"""`costmodel step-times`: what a serving engine's steps take, as a table."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.completion import names
from costmodel.cli.options import output_option, path_option, read_changes, set_option
from costmodel.errors import InputError


@click.command("step-times")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option("--scenario", metavar="NAME", help="The serving scenario; not needed where there is only one.")
@output_option("FILE", "Table to write: Parquet if it ends in .parquet (needs polars), else CSV.")
@set_option
@path_option
def command(
    workload: str, scenario: str | None, output: Path, changes: tuple[str, ...], search_path: tuple[str, ...]
) -> int:
    """Write the time of an engine's steps over decoding requests, their keys, prompt chunks, and their tokens.

    The sizes go up to the scenario's limits and lengths.
    """
    from costmodel.api import load
    from costmodel.schema.whole_files import write_whole
    from costmodel.serving.step_table import serving_scenario, step_columns
    from costmodel.study.tables import CSV, PARQUET, encode

    chosen = None if scenario is None else (scenario,)
    loaded = load(workload, set=read_changes(changes), search_path=search_path, scenarios=chosen)
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
