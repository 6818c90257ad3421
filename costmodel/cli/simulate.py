"""`costmodel simulate`: predicts the scenarios of a workload."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costmodel.cli.completion import names
from costmodel.cli.options import ENGINES, print_json, read_changes, workload_arguments, workload_options
from costmodel.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from costmodel.event.evaluation import EventEngine
    from costmodel.study.model_start import ModelStart


@click.command("simulate")
@click.argument("workload", shell_complete=names("workloads", files=True))
@click.option(
    "--engine", type=click.Choice(ENGINES),
    help="analytic: closed form; event: discrete-event simulation. Default: the closed form, and requests one by one "
    "where only these answer.",
)  # fmt: skip
@click.option("--full", is_flag=True, hidden=True, help="Simulate every rank, even identical ones (event engine only).")
@click.option(
    "--trace", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the timeline for Perfetto to FILE, compressed if it ends in .gz; of serving, a table of requests if "
    "it ends in .csv (event engine only).",
)  # fmt: skip
@click.option(
    "--checkpoint", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), hidden=True,
    help="Keep the state of a simulation of requests in FILE, and go on from it (event engine only).",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1, 1024), metavar="N", hidden=True,
    help="Threads for replicas that serve independently of each other (event engine only); default: all processors.",
)  # fmt: skip
@click.option(
    "--phase", "phases", multiple=True, metavar="PHASE",
    help="Of a model: prefill, decode, generate, serving or training. Repeatable; default: prefill and decode.",
)  # fmt: skip
@workload_options
def command(
    *, workload: str, phases: tuple[str, ...], scenarios: tuple[str, ...], cluster: str | None, engine: str | None,
    full: bool, trace: Path | None, checkpoint: Path | None, workers: int | None,
    changes: tuple[str, ...], as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Predict time, memory, cost and the limiting resource for each scenario of WORKLOAD (a file or a name).

    WORKLOAD may be a model too: a name of the catalogue, a model file, a config.json or its folder, or an id in the
    cache of Hugging Face. It then runs on --cluster in the smallest workload, as `costmodel init workload` writes it.

    The event engine also takes --full: every rank is simulated, even identical ones; of requests --checkpoint FILE,
    which keeps the state of a run that goes on from it, and --workers N threads for replicas (default: all processors).
    """
    from costmodel.api import engine_of, event_engine, load, request_engine
    from costmodel.cli.progress import progress

    options = {"--full": full or None, "--trace": trace, "--checkpoint": checkpoint, "--workers": workers}
    name = next((name for name, value in options.items() if value is not None), None)
    if engine != "event" and name is not None:
        raise InputError.single("needs the event engine", field=name, hint="add --engine event")
    start = _start(workload, cluster, phases, search_path)
    loaded = load(
        workload if start is None else start.tree, set=read_changes(changes),
        cluster=cluster if start is None else None, search_path=search_path, scenarios=scenarios or None,
    )  # fmt: skip
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    if checkpoint is not None and len(loaded.scenarios) > 1:
        raise InputError.single("keeps one scenario", field="--checkpoint", hint="choose one with --scenario")
    with progress("simulating") as on_progress:
        requests = request_engine(
            checkpoint=checkpoint, workers=workers or os.cpu_count() or 1, on_progress=on_progress
        )
        simulation = event_engine(full=full, requests=requests) if engine == "event" else None
        if as_json:
            document = loaded.simulate(engine=engine, simulation=simulation, requests=requests)
        else:
            points = loaded.points(engine=engine, simulation=simulation, requests=requests)
    if as_json:
        results = document["scenarios"]
        _write_trace(trace, simulation, {name: result.get("reason") for name, result in results.items()})
        print_json(document)
        return 0 if all(result["memory"]["fits"] for result in results.values()) else InfeasibleError.exit_code
    from costmodel.report.simulate import show_simulation

    _write_trace(trace, simulation, {name: point.reason for name, point in points.items()})
    arguments = workload_arguments(start.file if start else workload, None if start else cluster, changes, search_path)
    detailed, engine = bool(scenarios) or len(points) == 1, engine or engine_of(points)
    show_simulation(arguments, loaded, points, detailed=detailed, engine=engine)
    return 0 if all(point.fits for point in points.values()) else InfeasibleError.exit_code


def _start(
    workload: str, cluster: str | None, phases: tuple[str, ...], search_path: tuple[str, ...]
) -> ModelStart | None:
    """Return the smallest workload where a model is asked for, and say what it assumes; null for a workload."""
    from costmodel.schema.model_names import is_model
    from costmodel.schema.references import Library

    if not is_model(workload, search_path):
        if phases:
            Library(search_path).find_workload(workload)
            raise InputError.single(
                f"{workload} is a workload, whose scenarios have phases of their own", field="--phase",
                hint="name scenarios with --scenario, or a model",
            )  # fmt: skip
        return None
    if cluster is None:
        raise InputError.single(
            f"{workload} is a model, which runs on a cluster", field="--cluster",
            hint="add --cluster nodes/dgx-h100, or another one (`costmodel hardware list`)",
        )  # fmt: skip
    from costmodel.study.model_start import start_workload  # loads every kind of file

    start = start_workload(workload, cluster, phases, search_path)
    click.echo(f"note: {start.line}", err=True)
    again = " ".join(["costmodel init workload", f"--model {workload}", f"--cluster {cluster}"])
    again += "".join(f" --phase {phase}" for phase in phases)
    click.echo(f"note: `{again} > {start.file}` writes this workload to change it", err=True)
    if "training" in phases:
        click.echo(f"note: `costmodel search {start.file} --scenario training` then looks for faster layouts", err=True)
    return start


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
            why = "the event engine supports training, prefill, decode and serving only"
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
