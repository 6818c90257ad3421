"""The levers of a publication in a workload: its switches as single changes, those with a side of their own too.

A switch that compares with a system which the workload is not (`against`) changes both sides; it stays out of the chain
that `together` follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from costmodel.api import Workload
from costmodel.errors import CostModelError, InputError
from costmodel.schema.lever import LeverFile, LeversFile, SwitchFile, load_levers
from costmodel.schema.references import FOLDERS, Library, suggest
from costmodel.schema.what_if import AlternativeFile, load_what_if
from costmodel.study.what_if import Worth, changes_of, worths

_FOLDER = "levers"


def levers_of(name: str, search_path: Sequence[str] = ()) -> LeversFile:
    """Return the levers of a file, of a name under workloads/levers, or of a what-if file: each of its changes one."""
    found = tuple(search_path)
    if _is_lever_file(name, found):
        return load_levers(name, found)
    file = load_what_if(name, found).file
    levers = [
        LeverFile(term=one.term, section=one.cite or "", kind="recommendation", switches=[_switch(one)])
        for one in file.alternatives
        if (one.set or one.scale) and one.message is None
    ]
    return LeversFile(title=file.title, cite=name, levers=levers)


def _switch(one: AlternativeFile) -> SwitchFile:
    return SwitchFile(name=one.term, set=one.set, times={**one.scale}, against=one.against, limit=one.limit)


def _is_lever_file(name: str, search_path: tuple[str, ...]) -> bool:
    path = Path(name)
    if path.exists():
        return "costmodel/lever@" in path.read_text(encoding="utf-8")[:200]
    assert _FOLDER in FOLDERS, "a folder of data"
    return name in Library(search_path).names(_FOLDER)


def switches(file: LeversFile, names: Sequence[str] = ()) -> list[tuple[SwitchFile, LeverFile]]:
    """Return the switches of all levers, or those named; raise InputError on an unknown name."""
    found = [(switch, lever) for lever in file.levers for switch in lever.switches]
    known = [switch.name for switch, _ in found]
    for name in names:
        if name not in known:
            raise InputError.single(f"no lever is named {name!r}", hint=suggest(name, known), field="--lever")
    return [one for one in found if not names or one[0].name in names]


def worths_of(workload: Workload, scenario: str, file: LeversFile, names: Sequence[str] = ()) -> list[Worth]:
    """Return what each switch of a scenario's phase is worth, in the order of the file."""
    phase = workload.scenario(scenario).plan.phase
    asked = [one for one in switches(file, names) if phase in one[0].phases]
    chain = [one for one in asked if not _has_side(one[0])]
    alone = iter(worths(workload, scenario, [_alternative(*one) for one in chain]))
    found = []
    for switch, lever in asked:
        worth = _beside(workload, scenario, switch, lever) if _has_side(switch) else next(alone)
        found.append(replace(worth, name=switch.name, section=lever.section))
    return found


def _has_side(switch: SwitchFile) -> bool:
    return bool(switch.against or switch.against_times)


def _alternative(switch: SwitchFile, lever: LeverFile) -> AlternativeFile:
    factors = {path: float(str(factor)) for path, factor in switch.times.items()}
    return AlternativeFile(
        term=switch.term or lever.term, set=switch.set, scale=factors, limit=switch.limit, cite=lever.section
    )


def _beside(workload: Workload, scenario: str, switch: SwitchFile, lever: LeverFile) -> Worth:
    """Return what a switch is worth against a side of its own; `together` of it is null."""
    term = switch.term or lever.term
    try:
        both = AlternativeFile(
            term=term,
            set=switch.against,
            scale={path: float(str(factor)) for path, factor in switch.against_times.items()},
        )
        base = workload.changed(dict(changes_of(workload, scenario, both)), [scenario])
        (worth,) = worths(base, scenario, [_alternative(switch, lever)])
        return replace(worth, against={path: str(value) for path, value in _sides(switch).items()}, together=None)
    except CostModelError as error:
        refused = str(error).splitlines()[0]
        return Worth(term, scenario, "", {}, 0.0, refused=f"against its own side: {refused}", limit=switch.limit)


def _sides(switch: SwitchFile) -> dict[str, Any]:
    return {**switch.against, **{path: f"x {factor:g}" for path, factor in switch.against_times.items()}}
