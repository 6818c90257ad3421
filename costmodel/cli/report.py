"""`costmodel report`: figures and one page of results, sweeps and traces."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("sources", metavar="RESULT|TRACE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to make for the figures (default: RESULT's name with `_report`, or DIR/report).",
)
def command(sources: tuple[Path, ...], output: Path | None) -> int:
    """Draw RESULT, what `simulate`, `search`, `sensitivity`, `reproduce` or `topology` print with --json, TRACE, what
    `simulate --trace` wrote, or DIR, what `sweep` wrote.

    As SVG and PNG, with the data as CSV, and all of it as one page, report.html; several of them on one page.
    """
    from costmodel.errors import InputError
    from costmodel.report.gathering import write_report

    if output is None and len(sources) > 1:
        raise InputError.single(
            "several sources have no folder of their own", hint="add --output DIR", field="--output"
        )
    made, hidden = write_report(sources, output or _folder(sources[0]))
    if hidden:
        click.echo(f"{hidden:,} more combinations of its axes are not drawn; its table holds them", err=True)
    for path in made:
        click.echo(path)
    return 0


def _folder(source: Path) -> Path:
    """Return where the figures of a source go."""
    if source.is_dir():
        return source / "report"
    stem = source.stem if source.suffix == ".json" else source.name.partition(".")[0]
    return source.with_name(f"{stem}_report")
