"""`costmodel search`: the best layouts and batch sizes for an objective under constraints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from costmodel.cli.completion import names
from costmodel.cli.options import (
    Asked,
    device_counts,
    json_option,
    print_json,
    scheduler_of,
    workers_options,
    workload_options,
)
from costmodel.errors import InfeasibleError, InputError, LayoutError
from costmodel.records import replace

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.study.goals import SearchResult


_SEARCHED = (
    "layouts of training, prefill, decode, diffusion, servers (`phase: serving`) and steps of `rl` are, those of two "
    "pools are not"
)


@click.command("search")
@click.argument(
    "workload", metavar="WORKLOAD|STUDY.yaml", shell_complete=names("workloads", "models", "studies", files=True)
)
@click.option(
    "--objective",
    metavar="TEXT",
    help="`minimise FORMULA` or `maximise FORMULA` of metrics and `devices`; or a field, as `maximise input_tokens`.",
)
@click.option(
    "--constraint", "constraints", multiple=True, metavar="TEXT",
    help="Condition to meet, e.g. `tpot <= 50 ms`. Repeatable.",
)  # fmt: skip
@click.option("--devices", metavar="N,N,…", help="Device counts to consider, e.g. 64,128.")
@workers_options(hidden=True)
@workload_options("--phase")
@json_option
def command(
    *, asked: Asked, objective: str | None, constraints: tuple[str, ...], devices: str | None, workers: int | None,
    scheduler: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Find the best parallel degrees, micro-batch size, recomputation and batch size for WORKLOAD.

    WORKLOAD may be a model, with --cluster and --phase as in `simulate`. Several clusters are searched one by one.
    Anything fixed with `--set` (degree, batch, schedule, recomputation, ZeRO stage) is not searched. Without --devices,
    the number of devices is tp*cp*dp*pp, as in `simulate` with the same --set. Of a server at a `rate`
    (`phase: serving`) the search finds the cheapest engines and how many of them keep up, the 99th percentile of their
    times within the scenario's `slo`; without --devices, on up to 512 devices. Of a step of `phase: rl` the best
    layouts of its training are tried with all its engines. Two pools are not searched: sweep them.

    `--objective "minimise devices"` finds the fewest devices that meet the constraints. The objective may name a field
    of the scenario: `maximise rate` with `--constraint "cost_rate <= 100 $/h"` is the highest rate of a budget,
    `maximise sequence` the longest context that trains, `minimise hardware.node.nic.bandwidth` the slowest network
    that keeps a step's time.

    --workers and --cluster-scheduler as in `sweep`: numbers of devices, values of axes that are texts, and layouts that
    are looked at one by one go to the workers, which find the same.
    """
    from costmodel.cli.progress import progress
    from costmodel.schema.overrides import is_of
    from costmodel.schema.what_if import find_study
    from costmodel.study.executors import started_pool
    from costmodel.study.search import SCHEMA, Space, searched, settings
    from costmodel.study.sweep import Wanted

    study = find_study(asked.workload, asked.search_path)
    varied: tuple[str, ...] = ()
    wanted = Wanted({}, constraints)
    if study is not None:
        asked, varied, objective = asked.of(study), study.varied, objective or study.file.objective
        wanted = Wanted(study.file.derived, (*study.file.constraints, *constraints))
    values = asked.changes
    pins = {path: value for path, value in values.items() if _is_pinned(path, value)}
    loaded = replace(asked, changes={path: value for path, value in values.items() if path not in pins}).load()
    with suppress(LayoutError):  # the workload's own layout need not be valid: others may be
        loaded.changed(pins)
    chosen = _chosen(loaded, asked, has_goal=bool(objective or wanted.constraints))
    counts = device_counts(devices)
    results: list[SearchResult] = []
    with progress("search") as on_progress, started_pool(workers, scheduler_of(scheduler)) as pool:
        for number, name in enumerate(chosen):
            of_it = [(path.split(".", 2), value) for path, value in pins.items()]
            own = (name, *loaded.scenario(name).part_names)
            fixed = [
                f"scenarios.{each}.{path[2]}={value}" for each in own for path, value in of_it if is_of(path[1], each)
            ]
            result = searched(
                workload=loaded,
                scenario=name,
                objective=objective,
                wanted=wanted,
                space=Space(counts, varied, fixed, pool),
                on_progress=lambda share, done=number: on_progress((done + share) / len(chosen)),  # type: ignore[misc]
            )
            results.append(result)
            if fixed and not counts and not varied:
                _note_device_count(name, int(loaded.scenario(name).devices), result.devices)
    if as_json:
        documents = {result.scenario: result.document() for result in results}
        print_json({"schema": SCHEMA, **loaded.asked(), "scenarios": documents})
    else:
        from costmodel.report.search import show_clusters, show_search

        for result in results:
            layout = settings(loaded, result) if result.best else {}
            one, name = _alone(replace(asked, changes={**values, **layout}), result.scenario)
            show_search(result, one.arguments, name)
        show_clusters(results)
    return 0 if all(result.best for result in results) else InfeasibleError.exit_code


def _alone(asked: Asked, run: str) -> tuple[Asked, str]:
    """Return what is asked for of one run alone, on its cluster, and the name of its scenario there."""
    from costmodel.schema.overrides import ON, runs

    base = run.partition(ON)[0]
    name, cluster = runs([base], asked.clusters)[run]
    changes: dict[str, object] = {}
    for path, value in asked.changes.items():
        document, _, rest = path.partition(".")
        scenario, _, below = rest.partition(".")
        if document == "scenarios" and scenario.partition(ON)[0] == base:
            if scenario in (base, run):
                changes[f"scenarios.{name}.{below}"] = value
        else:
            changes[path] = value
    return replace(asked, clusters=() if cluster is None else (cluster,), changes=changes), name


def _note_device_count(name: str, before: int, counts: Sequence[int]) -> None:
    """Print a note on standard error where the layout that `--set` fixes changes the number of devices."""
    if len(counts) == 1 and counts != (before,):  # of servers, many are tried
        click.echo(
            f"note: your --set changes {name} from {before:,} to {counts[0]:,} devices; "
            f"add --devices {before} to keep {before:,}",
            err=True,
        )


def _is_pinned(path: str, value: object) -> bool:
    """Tell whether `--set` fixes a part of a layout that a search would vary. A list fixes nothing."""
    from costmodel.study.layouts import OWN, VARIED

    head, _, rest = path.partition(".")
    return head == "scenarios" and rest.partition(".")[2] in (*OWN, *VARIED) and not str(value).startswith("[")


def _chosen(loaded: Workload, asked: Asked, *, has_goal: bool) -> tuple[str, ...]:
    """Return the scenarios to search: those named, else all that have layouts. A goal needs a single one."""
    from costmodel.schema.overrides import ON
    from costmodel.study.goals import SEARCHED

    searched = (name for name in loaded.scenarios if loaded.scenario(name).result_kind in SEARCHED)
    chosen = loaded.scenarios if asked.scenarios else tuple(searched)
    if not chosen:
        raise InputError.single(
            f"no scenario can be searched: {_SEARCHED}", hint="sweep a study with axes, such as `parallel.tp`",
            field=asked.workload,
        )  # fmt: skip
    if has_goal and len({name.partition(ON)[0] for name in chosen}) > 1 and not asked.scenarios:
        raise InputError.single(
            "an objective or a constraint applies to a single scenario", hint=f"add --scenario {chosen[0]}",
            field="--scenario",
        )  # fmt: skip
    return chosen
