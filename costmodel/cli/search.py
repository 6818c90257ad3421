"""`costmodel search`: the best layouts and batch sizes for an objective under constraints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from costmodel.cli.options import common_options, print_json, read_changes, scenario_option, workload_arguments
from costmodel.errors import InfeasibleError, InputError, LayoutError

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.study.goals import SearchResult


_SEARCHED = "layouts of training, prefill, decode and servers (`phase: serving`) are, those of two pools are not"


@click.command("search")
@click.argument("workload", metavar="WORKLOAD|STUDY.yaml")
@scenario_option
@click.option(
    "--objective",
    metavar="TEXT",
    help="`minimise FORMULA` or `maximise FORMULA`; formulas use metric names and `devices`.",
)
@click.option(
    "--constraint", "constraints", multiple=True, metavar="TEXT",
    help="Condition to meet, e.g. `tpot <= 50 ms`. Repeatable.",
)  # fmt: skip
@click.option("--devices", metavar="N,N,…", help="Device counts to consider, e.g. 64,128.")
@common_options
def command(
    *, workload: str, scenarios: tuple[str, ...], objective: str | None, constraints: tuple[str, ...],
    devices: str | None, changes: tuple[str, ...], as_json: bool, search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Find the best parallel degrees, micro-batch size, recomputation and batch size for WORKLOAD.

    `--objective "minimise devices"` with a constraint finds the fewest devices that meet it. Anything fixed with
    `--set` (degree, batch, schedule, recomputation, ZeRO stage) is not searched. Without --devices, the number of
    devices is tp*cp*dp*pp, as in `simulate` with the same --set. Of a server at a `rate` (`phase: serving`) the search
    finds the cheapest engines and how many of them keep up, the 99th percentile of their times within the scenario's
    `slo`; without --devices, on up to 512 devices. Two pools are not searched: sweep them.
    """
    from costmodel.api import load
    from costmodel.cli.progress import progress
    from costmodel.schema.study import find_study
    from costmodel.study.search import SCHEMA, Space, searched, settings
    from costmodel.study.sweep import Wanted

    study, values = find_study(workload, search_path), read_changes(changes)
    varied: tuple[str, ...] = ()
    wanted = Wanted({}, constraints)
    if study is not None:
        workload, values, varied = study.file.workload, {**study.changes, **values}, study.varied
        scenarios, objective = scenarios or tuple(study.file.scenarios), objective or study.file.objective
        wanted = Wanted(study.file.derived, (*study.file.constraints, *constraints))
    pins = {path: value for path, value in values.items() if _is_pinned(path, value)}
    others = {path: value for path, value in values.items() if path not in pins}
    loaded = load(workload, set=others, search_path=search_path, scenarios=scenarios or None)
    for note in loaded.resolved.notes:
        click.echo(f"note: {note}", err=True)
    with suppress(LayoutError):  # the workload's own layout need not be valid: others may be
        loaded.changed(pins)
    chosen = _chosen(loaded, workload, scenarios, has_goal=bool(objective or wanted.constraints))
    counts = _device_counts(devices)
    results: list[SearchResult] = []
    with progress("search") as on_progress:
        for number, name in enumerate(chosen):
            fixed = [f"{path}={value}" for path, value in pins.items() if path.split(".")[1] == name]
            result = searched(
                workload=loaded,
                scenario=name,
                objective=objective,
                wanted=wanted,
                space=Space(counts, varied, fixed),
                on_progress=lambda share, done=number: on_progress((done + share) / len(chosen)),  # type: ignore[misc]
            )
            results.append(result)
            if fixed and not counts and not varied:
                _note_device_count(name, int(loaded.scenario(name).devices), result.devices)
    if as_json:
        documents = {result.scenario: result.document() for result in results}
        print_json({"schema": SCHEMA, **loaded.asked(), "scenarios": documents})
    else:
        from costmodel.report.search import show_search

        for result in results:
            found = settings(loaded, result) if result.best else {}
            asked = tuple(f"{path}={value}" for path, value in {**values, **found}.items())
            show_search(result, workload_arguments(workload, None, asked, search_path))
    return 0 if all(result.best for result in results) else InfeasibleError.exit_code


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


def _chosen(loaded: Workload, name: str, scenarios: tuple[str, ...], *, has_goal: bool) -> tuple[str, ...]:
    """Return the scenarios to search: those named, else all that have layouts; a goal needs a single one."""
    from costmodel.study.goals import SEARCHED

    chosen = scenarios or tuple(name for name in loaded.scenarios if loaded.scenario(name).result_kind in SEARCHED)
    if not chosen:
        raise InputError.single(
            f"no scenario can be searched: {_SEARCHED}",
            hint="sweep a study with axes, such as `parallel.tp`",
            field=name,
        )
    if has_goal and len(chosen) > 1 and not scenarios:
        raise InputError.single(
            "an objective or a constraint applies to a single scenario",
            hint=f"add --scenario {chosen[0]}",
            field="--scenario",
        )
    return chosen


def _device_counts(text: str | None) -> list[int]:
    """Return the device counts that `--devices` lists."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    for part in parts:
        if not part.isdigit() or not 0 < int(part) <= 10**7:
            raise InputError.single(
                f"{part!r} is not a device count", hint="write whole numbers such as 64,128", field="--devices"
            )
    return [int(part) for part in parts]
