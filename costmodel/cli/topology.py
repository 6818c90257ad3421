"""`costmodel topology`: parts, price, diameter and bisection bandwidth of network topologies."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import json_option, path_option, print_json


@click.command("topology")
@click.argument("topologies", metavar="[NAME…]", nargs=-1, shell_complete=names("topologies", files=True))
@json_option
@path_option
def command(*, topologies: tuple[str, ...], as_json: bool, search_path: tuple[str, ...]) -> int:
    """List network topologies with endpoints, switches, inter-switch links, cost, diameter and bisection bandwidth."""
    from costmodel.analytic.fabrics import facts
    from costmodel.schema.files import list_names, load_topology

    chosen = topologies or tuple(list_names("topologies", search_path))
    rows = [facts(name.removeprefix("topologies/"), *load_topology(name, search_path)) for name in chosen]
    if as_json:
        print_json([row.document() for row in rows])
        return 0
    from costmodel.report.hardware import show_topologies

    show_topologies(rows)
    return 0
