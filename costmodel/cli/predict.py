"""`costmodel predict`: kernel times of a measurement table."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import output_option, path_option
from costmodel.errors import UncalibratedError


@click.command("predict")
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Use this device for all rows.")
@output_option("FILE", "Table to write; missing folders are created.")
@click.option("--strict", is_flag=True, help="Exit with code 4 if any row is outside the measured range.")
@path_option
def command(*, measurements: Path, device: str | None, output: Path, strict: bool, search_path: tuple[str, ...]) -> int:
    """Add predicted_us, low_us, high_us, basis and why to each row of MEASUREMENTS.

    Rows need the columns of the measurement schema except the time. `why` names the fit used, or the reason there is
    none.
    """
    from costmodel.calibration.row_prediction import in_thousands, predict, write_predictions
    from costmodel.measurements.raw_tables import read_columns
    from costmodel.measurements.tables import ignored_note, read_tables

    table = read_tables(measurements, timed=False, device=device)
    columns = read_columns(measurements)
    predictions = predict(table, search_path)
    write_predictions(output, columns, predictions)
    if note := ignored_note(columns):
        click.echo(f"note: {note}", err=True)
    if odd := in_thousands(table, predictions):
        click.echo(f"warning: {odd}", err=True)
    counts = predictions.count_by_basis()
    listed = ", ".join(
        f"{rows:,} {'without a prediction' if name == 'none' else name}" for name, rows in counts.items()
    )
    click.echo(f"wrote {len(table):,} rows to {output} ({listed})")
    outside = sum(rows for name, rows in counts.items() if name not in ("measured", "fitted"))
    return UncalibratedError.exit_code if strict and outside else 0
