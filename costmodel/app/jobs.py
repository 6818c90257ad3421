"""Long runs of a page: events one by one, what each lever is worth, plans of a deployment, what runs on a machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from costmodel.api import event_engine, request_engine
from costmodel.app.prediction import LEVERS, Predicted, Wrong, asked
from costmodel.app.state import State
from costmodel.app.workers import report
from costmodel.errors import CostModelError, InputError
from costmodel.planning.request import PlanRequest
from costmodel.records import ValueRecord, replace
from costmodel.report.web.markup import html_table
from costmodel.schema.what_if import load_levers
from costmodel.study.levers import hypothetical, worths_of
from costmodel.study.what_if import Worth


def events(state: State, search_path: Sequence[str], slot: int) -> Predicted:
    """Return a scenario as its events are simulated: requests one by one, or the tasks of each rank."""
    try:
        workload, _, _ = asked(state, search_path)
        requests = request_engine(workers=os.cpu_count() or 1, on_progress=report(slot))
        engine = event_engine(requests=requests)
        point = workload.points([state.run], engine="event", simulation=engine, requests=requests)[state.run]
    except CostModelError as error:
        return Predicted(state, wrong=(Wrong("", str(error)),))
    return Predicted(state, phase=point.phase, document=point.document(), headline=point.headline, engine="event")


def levers(state: State, search_path: Sequence[str], slot: int) -> list[Worth]:
    """Return what each of the paper's levers is worth in a scenario without any, the largest first."""
    workload, _, _ = asked(replace(state, levers=()), search_path)
    with hypothetical(workload, LEVERS):
        worths = worths_of(workload, state.run, load_levers(LEVERS, tuple(search_path)), on_progress=report(slot))
    return sorted(worths, key=lambda worth: -(worth.saved or 0.0))


RUNS: dict[str, tuple[str, Callable[..., object]]] = {
    "events": ("Events simulated one by one", events),
    "levers": ("What each lever is worth", levers),
}


class Planned(ValueRecord):
    """A plan, or what runs on a machine, for people. rows: as markup; plans: as in `costmodel plan --json`."""

    answer: str
    rows: str
    command: str = ""
    left_out: tuple[str, ...] = ()
    plans: tuple[dict[str, Any], ...] = ()


def plan(request: PlanRequest, slot: int) -> Planned:
    """Return deployments that serve a load, as `costmodel plan` has them. Without a model, what runs on a machine.

    The planner loads here: the page's first answer need not wait for it.
    """
    if request.model is None:
        from costmodel.planning.machine import what_runs
        from costmodel.report.models import answer, rows_table

        machine = what_runs(request, report(slot))
        fitting = [row for row in machine.rows if row.fits]
        isl, osl = machine.context
        caption = f"Models that run; users with {isl:,} tokens in and {osl:,} out"
        left_out = tuple(f"{name}: {reason}" for name, reason in machine.left_out)
        command = (fitting[0].command if fitting else None) or ""
        return Planned(answer(machine, fitting), html_table(caption, rows_table(fitting)), command, left_out)
    from costmodel.planning.deployments import command_of, document
    from costmodel.planning.servers import plan_servers
    from costmodel.report.plan import headline, plans_table

    plans = plan_servers(request, report(slot))
    known = document(plans)
    best = plans.best[0] if plans.best else None
    said = plans.nothing if best is None else headline(best)
    if best is not None and best.holds is False:
        said = f"nothing holds; the nearest is {said}"
    return Planned(
        said, html_table("Deployments, the best first", plans_table(plans)), "" if best is None else command_of(best),
        tuple(known["left_out"]), tuple(known["plans"]),
    )  # fmt: skip


def run_named(name: str) -> tuple[str, Callable[..., object]]:
    """Return title and function of a run. Raises InputError on an unknown name."""
    if name not in RUNS:
        raise InputError.single(f"no run is named {name!r}", hint=f"write one of {', '.join(RUNS)}")
    return RUNS[name]
