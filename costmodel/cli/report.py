"""`costmodel report`: figures of a result or of a sweep."""

from __future__ import annotations

from pathlib import Path

import click

PAGE = "report.html"


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

    As SVG and PNG, with the data as CSV, and all of it as one page, report.html.
    """
    from costmodel.errors import InfeasibleError
    from costmodel.report.drawing import draw_result, draw_sweep, draw_timelines
    from costmodel.report.figures.sweep import left_out
    from costmodel.report.web.drawn import sweep_page, timeline_page
    from costmodel.report.web.inline import read_figures
    from costmodel.report.web.result import result_page
    from costmodel.schema.results import read_result
    from costmodel.schema.whole_files import write_whole
    from costmodel.study.points import read_sweep
    from costmodel.study.timelines import is_trace_file, read_slices

    if source.is_dir():
        swept = read_sweep(source)
        folder = output or source / "report"
        made = draw_sweep(swept, folder)
        page = sweep_page(swept.study, read_figures(made))
        if hidden := left_out(swept):
            click.echo(f"{hidden:,} more combinations of its axes are not drawn; its table holds them", err=True)
    elif is_trace_file(source):
        stem = source.name.partition(".")[0]
        folder = output or source.with_name(f"{stem}_report")
        made = draw_timelines(read_slices(source), folder)
        page = timeline_page(stem, read_figures(made))
    else:
        result = read_result(source)
        folder = output or source.with_name(f"{source.stem}_report")
        made = draw_result(result, folder)
        page = result_page(result, read_figures(made))
    if not made:
        raise InfeasibleError("nothing in it can run, so there is nothing to draw")
    write_whole(folder / PAGE, [page])
    for path in (*made, folder / PAGE):
        click.echo(path)
    return 0
