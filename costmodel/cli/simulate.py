"""`costmodel simulate`: predicts the scenarios of a workload."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costmodel.cli.completion import names
from costmodel.cli.options import (
    ENGINES,
    Asked,
    json_option,
    print_json,
    scheduler_of,
    workers_options,
    workload_options,
)
from costmodel.errors import CostModelError, InfeasibleError, InputError
from costmodel.records import replace

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.event.evaluation import EventEngine
    from costmodel.result import Point


@click.command("simulate")
@click.argument("workload", shell_complete=names("workloads", "models", files=True))
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
@workers_options("Threads for replicas that serve independently of each other (event engine only).", hidden=True)
@workload_options()
@json_option
def command(
    *, asked: Asked, engine: str | None, full: bool, trace: Path | None, checkpoint: Path | None, workers: int | None,
    scheduler: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Predict time, memory, cost and the limiting resource for each scenario of WORKLOAD (a file or a name).

    WORKLOAD may be a model too: a name of the catalogue, a model file, a config.json or its folder, or an id in the
    cache of Hugging Face. It then runs on --cluster in the smallest workload, as `costmodel init workload` writes it.
    On several clusters each scenario runs on all of them, as NAME@CLUSTER.

    The event engine also takes --full: every rank is simulated, even identical ones. Of requests --checkpoint FILE,
    which keeps the state of a run that goes on from it, and for replicas that serve independently of each other
    --workers N threads (default: all processors), or processes without Numba, or --cluster-scheduler as in `sweep`.
    """
    from costmodel.api import engine_of, event_engine, request_engine
    from costmodel.cli.progress import progress

    options = {"--full": full or None, "--trace": trace, "--checkpoint": checkpoint, "--workers": workers,
               "--cluster-scheduler": scheduler}  # fmt: skip
    name = next((name for name, value in options.items() if value is not None), None)
    loaded = asked.load()
    if name is not None:
        engine = _event_engine(loaded, engine, name)
    _say_next(asked, loaded)
    if checkpoint is not None and len(loaded.scenarios) > 1:
        raise InputError.single("keeps one scenario", field="--checkpoint", hint="choose one with --scenario")
    with progress("simulating") as on_progress, _replicas(workers, scheduler) as (number, executor):
        requests = request_engine(
            checkpoint=checkpoint, workers=number, executor=executor, on_progress=on_progress, keeps=bool(trace),
        )  # fmt: skip
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
    _say_what_limits(loaded, points)
    detailed = len(points) == 1 or (bool(asked.scenarios) and len(asked.clusters) <= 1)
    shown = engine or engine_of(points)
    base = _base(asked) if shown == "analytic" else None
    show_simulation(asked.arguments, loaded, points, detailed=detailed, engine=shown, base=base)
    return 0 if all(point.fits for point in points.values()) else InfeasibleError.exit_code


@contextmanager
def _replicas(workers: int | None, scheduler: str | None) -> Iterator[tuple[int, Executor | None]]:
    """Give how many threads run replicas, or how many tasks of an executor: a Dask cluster's, or that of processes
    where loops are not compiled, which let one thread run at a time."""
    if scheduler is None and (workers is None or find_spec("numba")):
        yield workers or os.cpu_count() or 1, None
        return
    from costmodel.study.executors import started_pool

    with started_pool(workers, scheduler_of(scheduler)) as pool:
        yield pool.busy, pool.executor


def _base(asked: Asked) -> Workload | None:
    """Return the workload without the changes that are factors of what it says, `2x` or `+10%`; null without any."""
    if not asked.changes:
        return None
    from costmodel.schema.overrides import factor_of  # loads every kind of file

    others = {path: value for path, value in asked.changes.items() if factor_of(value) is None}
    if len(others) == len(asked.changes):
        return None
    with suppress(CostModelError):  # what is asked for may fit where the file's own values do not
        return replace(asked, changes=others).quietly()
    return None


def _event_engine(loaded: Workload, engine: str | None, option: str) -> str:
    """Return the event engine where it was asked for, or answers all scenarios unasked. Else the option is refused."""
    from costmodel.serving.choice import by_requests

    chosen = map(loaded.scenario, loaded.scenarios)
    if engine == "event" or (engine is None and all(by_requests(each, loaded.calibration(each)) for each in chosen)):
        return "event"
    raise InputError.single("needs the event engine", field=option, hint="add --engine event")


def _say_next(asked: Asked, loaded: Workload) -> None:
    """Print how the workload of a model is changed, and how to search for faster layouts of training."""
    if loaded.start is None:
        return
    named = [("--cluster", name) for name in asked.clusters] + [("--phase", name) for name in asked.phases]
    options = shlex.join(word for option in named for word in option)
    again = f"costmodel init workload --model {asked.workload} {options}"
    click.echo(f"note: `{again} > {loaded.start.file}` writes this workload to change it", err=True)
    if "training" in asked.phases:
        click.echo(f"note: `costmodel search {asked.arguments}` then looks for faster layouts", err=True)


def _say_what_limits(loaded: Workload, points: Mapping[str, Point]) -> None:
    """Print what limits the training step of a model, whose layout nobody chose, where arithmetic limits little."""
    if loaded.start is None:
        return
    from costmodel.study.goals import little_arithmetic

    for name, point in points.items():
        for note in little_arithmetic(point):
            click.echo(f"note: {name}: {note}", err=True)


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
