"""`costmodel predict`: the kernels of a measurement table."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import path_option
from costmodel.errors import UncalibratedError


@click.command("predict")
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Stand in for the rows' own device.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Table to write; makes its folders.",
)
@click.option("--strict", is_flag=True, help="Exit with 4 if a row lies outside what was measured.")
@path_option
def command(measurements: Path, device: str | None, output: Path, strict: bool, search_path: tuple[str, ...]) -> int:
    """Write the rows of MEASUREMENTS, in order, with predicted_us, low_us, high_us, basis and why.

    Rows need the columns of the measurement schema, but no time. `why` names the fit that a time rests on, or says why
    there is none.
    """
    from costmodel.calibration.row_prediction import predict, write_predictions
    from costmodel.measurements.raw_tables import read_columns
    from costmodel.measurements.tables import read_tables

    table = read_tables(measurements, timed=False, device=device)
    found = predict(table, search_path)
    write_predictions(output, read_columns(measurements), found)
    counts = found.count_by_basis()
    click.echo(f"{len(table):,} rows to {output}: " + ", ".join(f"{rows:,} {name}" for name, rows in counts.items()))
    outside = sum(rows for name, rows in counts.items() if name not in ("measured", "fitted"))
    return UncalibratedError.exit_code if strict and outside else 0
