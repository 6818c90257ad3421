"""`costmodel report`: figures and an HTML page from results, sweeps and traces."""

from __future__ import annotations

from pathlib import Path

import click

MOST_FILES = 16  # that are listed


@click.command("report")
@click.argument("sources", metavar="RESULT|TRACE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="Output folder (default: RESULT's name plus `_report`, or DIR/report).",
)  # fmt: skip
@click.option("--metric", metavar="NAME", help="Metric of sweeps to draw (default: each scenario's headline).")
def command(sources: tuple[Path, ...], output: Path | None, metric: str | None) -> int:
    """Draw figures from RESULT (the --json output of simulate, plan, search, sensitivity, reproduce or topology), TRACE
    (from `simulate --trace`, of requests also as CSV) or DIR (from `sweep`).

    Writes SVG, PNG and CSV files and a single page, report.html. Several inputs share one page.
    """
    from costmodel.errors import InputError
    from costmodel.report.html_report import write_report

    if output is None and len(sources) > 1:
        raise InputError.single("several inputs need an output folder", hint="add --output DIR", field="--output")
    files, not_drawn = write_report(sources, output or _folder(sources[0]), metric)
    if not_drawn:
        click.echo(f"{not_drawn:,} more axis combinations are not drawn; they are in the table", err=True)
    *drawn, page = files
    if len(drawn) > MOST_FILES:
        click.echo(f"{len(drawn)} files of figures in {page.parent}, and one page of all:")
    for path in drawn if len(drawn) <= MOST_FILES else ():
        click.echo(path)
    click.echo(page)
    return 0


def _folder(source: Path) -> Path:
    if source.is_dir():
        return source / "report"
    stem = source.stem if source.suffix == ".json" else source.name.partition(".")[0]
    return source.with_name(f"{stem}_report")
