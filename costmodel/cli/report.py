"""`costmodel report`: figures of a result or of a sweep."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("source", metavar="RESULT|DIR", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the figures (default: RESULT's name with `_report`, or DIR/report).",
)
def command(source: Path, output: Path | None) -> int:
    """Draw RESULT, what `simulate --json` printed, or DIR, what `sweep` wrote: SVG, PNG, and the data as CSV."""
    from costmodel.errors import InfeasibleError
    from costmodel.report.drawing import draw_result, draw_sweep
    from costmodel.report.figures.sweep import left_out
    from costmodel.schema.results import read_result
    from costmodel.study.points import read_sweep

    if source.is_dir():
        swept = read_sweep(source)
        made = draw_sweep(swept, output or source / "report")
        if hidden := left_out(swept):
            click.echo(f"{hidden:,} more combinations of its axes are not drawn; its table holds them", err=True)
    else:
        made = draw_result(read_result(source), output or source.with_name(f"{source.stem}_report"))
    if not made:
        raise InfeasibleError("nothing in it can run, so there is nothing to draw")
    for path in made:
        click.echo(path)
    return 0
