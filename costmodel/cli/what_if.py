"""`costmodel what-if`: what changes of hardware and software are worth."""

from __future__ import annotations

import click

from costmodel.cli.options import print_json, read_changes, workload_options


@click.command("what-if")
@click.argument("workload")
@click.option("--levers", default="levers", metavar="NAME", help="What-if file with the changes (default: levers).")
@workload_options
def command(
    *, workload: str, levers: str, scenarios: tuple[str, ...], cluster: str | None, changes: tuple[str, ...],
    as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Show what each change of a list would save: alone, after those above it, and at most.

    The ceiling is bounded without the model: by the largest factor that the change has, and by the time of the lines
    that it can touch.
    """
    from costmodel.api import load
    from costmodel.schema.what_if import load_what_if
    from costmodel.study.what_if import SCHEMA, worths

    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    listed = [one for one in load_what_if(levers, search_path).file.alternatives if one.set or one.scale]
    found = {name: worths(loaded, name, listed) for name in loaded.scenarios}
    if as_json:
        rows = {name: [row.document() for row in rows] for name, rows in found.items()}
        print_json({"schema": SCHEMA, **loaded.asked(), "levers": levers, "scenarios": rows})
    else:
        from costmodel.report.what_if import show_worths

        show_worths(found)
    return 0
