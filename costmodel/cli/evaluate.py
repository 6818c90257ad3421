"""`costmodel evaluate`: errors of kernel predictions."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, path_option, print_json


@click.command("evaluate")
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Use this device for all rows.")
@click.option(
    "--by", "columns", multiple=True, metavar="COLUMN",
    help="Tell rows apart by this column too, such as kernel, window or includes. Repeatable.",
)  # fmt: skip
@json_option
@path_option
def command(
    *, measurements: Path, device: str | None, columns: tuple[str, ...], as_json: bool, search_path: tuple[str, ...]
) -> int:
    """Compare predictions with MEASUREMENTS (a table, or a folder of tables): errors by device, operator and number
    format.

    Skipped rows are listed with the reason. The score includes rows that the shipped fits were made from. `calibrate`
    prints errors on held-out rows.
    """
    from costmodel.fitting.scoring import score
    from costmodel.measurements.raw_tables import read_columns
    from costmodel.measurements.tables import ignored_note, read_tables

    table = read_tables(measurements, device=device)
    if note := ignored_note(read_columns(measurements)):
        click.echo(f"note: {note}", err=True)
    report = score(table, search_path, columns)
    if as_json:
        print_json(report.document())
        return 0
    from costmodel.report.page import show
    from costmodel.report.scores import show_exclusions, show_scores

    show_scores(report.scores)
    show()
    show_exclusions(report.left_out)
    return 0
