"""`costmodel simulate`: predict the scenarios of a workload."""

from __future__ import annotations

import click

from costmodel.cli.completion import names
from costmodel.cli.options import ENGINES, asked, json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError


@click.command("simulate")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option(
    "--cluster",
    metavar="NAME",
    shell_complete=names("clusters", "nodes", qualified=True),
    help="Stand in for every scenario's cluster: clusters/NAME or nodes/NAME.",
)
@click.option("--engine", type=click.Choice(ENGINES), default="analytic", show_default=True, help="Closed form.")
@set_option
@json_option
@path_option
def command(
    workload: str,
    scenarios: tuple[str, ...],
    cluster: str | None,
    engine: str,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Predict time, memory, cost and what limits them for the scenarios of WORKLOAD, a file or a name."""
    from costmodel.api import load

    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        document = loaded.simulate(engine=engine)
        print_json(document)
        feasible = all(scenario["memory"]["fits"] for scenario in document["scenarios"].values())
        return 0 if feasible else InfeasibleError.exit_code
    from costmodel.report.terminal import show_simulation

    points = loaded.points(engine=engine)
    again = asked(workload, cluster, changes, search_path)
    show_simulation(again, loaded, points, detailed=bool(scenarios) or len(points) == 1)
    return 0 if all(point.fits for point in points.values()) else InfeasibleError.exit_code
