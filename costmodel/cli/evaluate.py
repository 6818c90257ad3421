"""`costmodel evaluate`: the error of predictions."""

from __future__ import annotations

from pathlib import Path

import click

from costmodel.cli.options import json_option, path_option, print_json


@click.command("evaluate")
@click.argument("measurements", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Stand in for the rows' own device.")
@json_option
@path_option
def command(measurements: Path, device: str | None, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show the error of predictions for MEASUREMENTS, a table or a folder of them, per device, operator and format.

    Rows that are left out are listed with the reason. Rows that the shipped fits were made from are among the scored
    ones: `calibrate` prints errors of rows that a fit has not seen.
    """
    from costmodel.fitting.scoring import score
    from costmodel.measurements.tables import read_tables

    found = score(read_tables(measurements, device=device), search_path)
    if as_json:
        print_json(found.document())
    else:
        from costmodel.report.page import show
        from costmodel.report.scores import show_omissions, show_scores

        show_scores(found.scores)
        show()
        show_omissions(found.left_out)
    return 0
