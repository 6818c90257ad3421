"""`costmodel simulate`: predict the scenarios of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costmodel.cli.completion import names
from costmodel.cli.options import ENGINES, asked, json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from costmodel.event.evaluation import EventEngine


@click.command("simulate")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option(
    "--cluster",
    metavar="NAME",
    shell_complete=names("clusters", "nodes", qualified=True),
    help="Stand in for every scenario's cluster: clusters/NAME or nodes/NAME.",
)
@click.option(
    "--engine", type=click.Choice(ENGINES), default="analytic", show_default=True, help="Closed form or simulation."
)
@click.option("--full", is_flag=True, help="Simulate ranks and stages that are alike one by one.")
@click.option(
    "--trace",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the simulated timeline for Perfetto, packed where FILE ends in .gz; makes its folders.",
)
@set_option
@json_option
@path_option
def command(
    workload: str,
    scenarios: tuple[str, ...],
    cluster: str | None,
    engine: str,
    full: bool,
    trace: Path | None,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Predict time, memory, cost and what limits them for the scenarios of WORKLOAD, a file or a name."""
    from costmodel.api import event_engine, load

    if engine != "event" and (full or trace is not None):
        name = "--full" if full else "--trace"
        raise InputError.single("only the event engine has a timeline", field=name, hint="write --engine event")
    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    simulation = event_engine(full=full) if engine == "event" else None
    if as_json:
        document = loaded.simulate(engine=engine, simulation=simulation)
        _write_trace(trace, simulation, {name: one.get("reason") for name, one in document["scenarios"].items()})
        print_json(document)
        feasible = all(scenario["memory"]["fits"] for scenario in document["scenarios"].values())
        return 0 if feasible else InfeasibleError.exit_code
    from costmodel.report.terminal import show_simulation

    points = loaded.points(engine=engine, simulation=simulation)
    _write_trace(trace, simulation, {name: point.reason for name, point in points.items()})
    again = asked(workload, cluster, changes, search_path)
    show_simulation(again, loaded, points, detailed=bool(scenarios) or len(points) == 1, engine=engine)
    return 0 if all(point.fits for point in points.values()) else InfeasibleError.exit_code


def _write_trace(path: Path | None, simulation: EventEngine | None, refused: Mapping[str, str | None]) -> None:
    """Write the timelines where a file is asked for, and say which scenarios have none. refused: why one cannot run."""
    if path is None or simulation is None:
        return
    from costmodel.report.trace import write_trace

    for name, reason in refused.items():
        if reason is not None:
            click.echo(f"{path}: no timeline of {name}, which cannot run: {reason}", err=True)
        elif name not in simulation.timelines:
            told = "the event engine simulates training, prefill and decode only"
            click.echo(f"{path}: no timeline of {name}: {told}", err=True)
    found = {name: timeline for name, timeline in simulation.timelines.items() if refused[name] is None}
    if found:
        write_trace(path, found)
    else:
        click.echo(f"{path}: not written", err=True)
