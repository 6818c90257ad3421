"""Long runs of a page: events one by one, and what each lever is worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from costmodel.api import event_engine, request_engine
from costmodel.app.prediction import LEVERS, Predicted, Wrong, asked
from costmodel.app.state import State
from costmodel.app.workers import report
from costmodel.errors import CostModelError, InputError
from costmodel.records import replace
from costmodel.schema.lever import load_levers
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


def run_named(name: str) -> tuple[str, Callable[..., object]]:
    """Return title and function of a run. Raises InputError on an unknown name."""
    if name not in RUNS:
        raise InputError.single(f"no run is named {name!r}", hint=f"write one of {', '.join(RUNS)}")
    return RUNS[name]
