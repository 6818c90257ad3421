"""`costmodel simulate`: predicts the scenarios of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costmodel.cli.completion import names
from costmodel.cli.options import ENGINES, print_json, read_changes, workload_arguments, workload_options
from costmodel.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from costmodel.event.evaluation import EventEngine


@click.command("simulate")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option(
    "--engine", type=click.Choice(ENGINES), default="analytic", show_default=True,
    help="analytic: closed form; event: discrete-event simulation.",
)  # fmt: skip
@click.option("--full", is_flag=True, help="Simulate every rank, even identical ones (event engine only).")
@click.option(
    "--trace", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the timeline for Perfetto to FILE, compressed if it ends in .gz; of serving, a table of requests if "
    "it ends in .csv (event engine only).",
)  # fmt: skip
@workload_options
def command(
    *, workload: str, scenarios: tuple[str, ...], cluster: str | None, engine: str, full: bool, trace: Path | None,
    changes: tuple[str, ...], as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Predict time, memory, cost and the limiting resource for each scenario of WORKLOAD (a file or a name)."""
    from costmodel.api import event_engine, load

    if engine != "event" and (full or trace is not None):
        name = "--full" if full else "--trace"
        raise InputError.single("needs the event engine", field=name, hint="add --engine event")
    loaded = load(
        workload, set=read_changes(changes), cluster=cluster, search_path=search_path, scenarios=scenarios or None
    )
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    simulation = event_engine(full=full) if engine == "event" else None
    if as_json:
        document = loaded.simulate(engine=engine, simulation=simulation)
        results = document["scenarios"]
        _write_trace(trace, simulation, {name: result.get("reason") for name, result in results.items()})
        print_json(document)
        return 0 if all(result["memory"]["fits"] for result in results.values()) else InfeasibleError.exit_code
    from costmodel.report.simulate import show_simulation

    points = loaded.points(engine=engine, simulation=simulation)
    _write_trace(trace, simulation, {name: point.reason for name, point in points.items()})
    arguments = workload_arguments(workload, cluster, changes, search_path)
    show_simulation(arguments, loaded, points, detailed=bool(scenarios) or len(points) == 1, engine=engine)
    return 0 if all(point.fits for point in points.values()) else InfeasibleError.exit_code


def _write_trace(path: Path | None, simulation: EventEngine | None, reasons: Mapping[str, str | None]) -> None:
    """Write the timelines to a file and name the scenarios without one. reasons: why each cannot run, or null."""
    if path is None or simulation is None:
        return
    from costmodel.report.trace import write_trace

    if simulation.served:
        _write_served(path, simulation, reasons)
        return
    for name, reason in reasons.items():
        if reason is not None:
            click.echo(f"{path}: no timeline of {name}, which cannot run: {reason}", err=True)
        elif name not in simulation.timelines:
            why = "the event engine supports training, prefill and decode only"
            click.echo(f"{path}: no timeline of {name}: {why}", err=True)
    timelines = {name: timeline for name, timeline in simulation.timelines.items() if reasons[name] is None}
    if timelines:
        write_trace(path, timelines)
    else:
        click.echo(f"{path}: not written", err=True)


def _write_served(path: Path, simulation: EventEngine, reasons: Mapping[str, str | None]) -> None:
    """Write the requests of the only serving scenario, as a table or as tracks."""
    from costmodel.report.trace import write_events
    from costmodel.serving.evaluation import RequestEvaluation
    from costmodel.serving.output import track_events, write_requests

    name, evaluation = next(iter(simulation.served.items()))
    if len(reasons) > 1:
        raise InputError.single("several scenarios have requests", field="--trace", hint="choose one with --scenario")
    if reasons[name] is not None:
        click.echo(f"{path}: no requests of {name}, which cannot run: {reasons[name]}", err=True)
        return
    assert isinstance(evaluation, RequestEvaluation), "the engine that the command uses"
    if path.suffix == ".csv":
        write_requests(path, evaluation.served)
    else:
        write_events(path, track_events(evaluation.served))
