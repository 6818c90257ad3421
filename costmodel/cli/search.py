"""`costmodel search`: the best layouts and batches for an objective under constraints."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from costmodel.cli.options import json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError, InputError, LayoutError

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.study.goals import SearchResult


@click.command("search")
@click.argument("workload", metavar="WORKLOAD|STUDY.yaml")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this scenario; repeatable.")
@click.option("--objective", metavar="TEXT", help="`minimise FORMULA` or `maximise FORMULA` of metrics and `devices`.")
@click.option("--constraint", "constraints", multiple=True, metavar="TEXT", help="`tpot <= 50 ms`; repeatable.")
@click.option("--devices", metavar="N,N,…", help="Numbers of devices to lay out on.")
@set_option
@json_option
@path_option
def command(
    workload: str,
    scenarios: tuple[str, ...],
    objective: str | None,
    constraints: tuple[str, ...],
    devices: str | None,
    changes: tuple[str, ...],
    as_json: bool,
    search_path: tuple[str, ...],
) -> int:
    """Find the best degrees of parallelism, micro-batches, recomputation and batches of WORKLOAD.

    `--objective "minimise devices"` with a constraint finds the fewest devices that meet it. A degree, batch, schedule,
    recomputation or ZeRO stage that `--set` states is not searched. Without --devices layouts take as many as
    `simulate` does with the same --set, tp*cp*dp*pp.
    """
    from costmodel.api import load
    from costmodel.cli.progress import progress
    from costmodel.schema.study import find_study
    from costmodel.study.search import SCHEMA, searched
    from costmodel.study.sweep import Wanted

    study, made = find_study(workload, search_path), read_changes(changes)
    varied: tuple[str, ...] = ()
    wanted = Wanted({}, constraints)
    if study is not None:
        workload, made, varied = study.file.workload, {**study.changes, **made}, study.varied
        scenarios, objective = scenarios or tuple(study.file.scenarios), objective or study.file.objective
        wanted = Wanted(study.file.derived, (*study.file.constraints, *constraints))
    pins = {path: value for path, value in made.items() if _is_pinned(path, value)}
    rest = {path: value for path, value in made.items() if path not in pins}
    loaded = load(workload, set=rest, search_path=search_path, scenarios=scenarios or None)
    with suppress(LayoutError):  # whether the layout that is stated can be does not matter: others may
        loaded.changed(pins)
    chosen = _chosen(loaded, workload, scenarios, narrow=bool(objective or wanted.constraints))
    numbers = _numbers(devices)
    found: list[SearchResult] = []
    with progress("search") as told:
        for name in chosen:

            def share(part: float, done: int = len(found)) -> None:
                told((done + part) / len(chosen))

            fixed = [f"{path}={value}" for path, value in pins.items() if path.split(".")[1] == name]
            found.append(
                searched(
                    workload=loaded,
                    scenario=name,
                    objective=objective,
                    wanted=wanted,
                    devices=numbers,
                    varied=varied,
                    fixed=fixed,
                    told=share,
                )
            )
            stated = int(loaded.scenario(name).devices)
            if fixed and not numbers and not varied and found[-1].devices != (stated,):
                taken = f"{found[-1].devices[0]:,} devices, without it {stated:,}"
                click.echo(
                    f"note: with what --set states {name} takes {taken}: --devices {stated} keeps them", err=True
                )
    if as_json:
        print_json({"schema": SCHEMA, **loaded.asked(), "scenarios": {one.scenario: one.document() for one in found}})
    else:
        from costmodel.report.studies import show_found

        for one in found:
            show_found(one)
    return 0 if all(one.best for one in found) else InfeasibleError.exit_code


def _is_pinned(path: str, value: object) -> bool:
    """Tell whether `--set` states a part of a layout that a search would try others of. A list is no such value."""
    from costmodel.study.layouts import OWN, VARIED

    head, _, rest = path.partition(".")
    return head == "scenarios" and rest.partition(".")[2] in (*OWN, *VARIED) and not str(value).startswith("[")


def _chosen(loaded: Workload, name: str, scenarios: tuple[str, ...], *, narrow: bool) -> tuple[str, ...]:
    """Return the scenarios to search: those that are named, or all that have layouts. narrow: the goal is of one."""
    from costmodel.study.goals import SEARCHED

    chosen = scenarios or tuple(each for each in loaded.scenarios if loaded.scenario(each).result_kind in SEARCHED)
    if not chosen:
        raise InputError.single("no scenario has layouts to search", hint="sweep a study with axes", field=name)
    if narrow and len(chosen) > 1 and not scenarios:
        raise InputError.single(
            "an objective or a constraint is of one scenario", hint=f"add --scenario {chosen[0]}", field="--scenario"
        )
    return chosen


def _numbers(text: str | None) -> list[int]:
    """Return numbers of devices as `--devices` writes them."""
    found = [part.strip() for part in text.split(",")] if text is not None else []
    for part in found:
        if not part.isdigit() or not 0 < int(part) <= 10**7:
            raise InputError.single(
                f"{part!r} is no number of devices", hint="write whole numbers such as 64,128", field="--devices"
            )
    return [int(part) for part in found]
