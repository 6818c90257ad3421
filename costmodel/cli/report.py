"""`costmodel report`: figures of a result or of a sweep."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("source", metavar="RESULT|TRACE|DIR", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the figures (default: RESULT's name with `_report`, or DIR/report).",
)
def command(source: Path, output: Path | None) -> int:
    """Draw RESULT, what `simulate --json` printed, TRACE, what `simulate --trace` wrote, or DIR, what `sweep` wrote.

    As SVG and PNG, with the data as CSV.
    """
    from costmodel.errors import InfeasibleError
    from costmodel.report.drawing import draw_result, draw_sweep, draw_timelines
    from costmodel.report.figures.sweep import left_out
    from costmodel.schema.results import read_result
    from costmodel.study.points import read_sweep
    from costmodel.study.timelines import is_trace_file, read_slices

    if source.is_dir():
        swept = read_sweep(source)
        made = draw_sweep(swept, output or source / "report")
        if hidden := left_out(swept):
            click.echo(f"{hidden:,} more combinations of its axes are not drawn; its table holds them", err=True)
    elif is_trace_file(source):
        made = draw_timelines(
            read_slices(source), output or source.with_name(f"{source.name.partition('.')[0]}_report")
        )
    else:
        made = draw_result(read_result(source), output or source.with_name(f"{source.stem}_report"))
    if not made:
        raise InfeasibleError("nothing in it can run, so there is nothing to draw")
    for path in made:
        click.echo(path)
    return 0
