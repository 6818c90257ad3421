"""The levers of a publication in a workload: its switches as single changes, those with a side of their own too.

A switch says with `against` what it replaces. Where the scenario has that, it is a change like any other. Where the
scenario has the new part already, or where it is neither, both sides are evaluated with `against`. Such a switch stays
out of the chain that `together` follows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from costmodel.api import Workload
from costmodel.errors import CostModelError, ImplausibleInput, InputError, suggest
from costmodel.records import replace
from costmodel.schema.references import FOLDERS, Library
from costmodel.schema.what_if import AlternativeFile, LeverFile, Levers, SwitchFile, load_levers, load_what_if
from costmodel.study import what_if
from costmodel.study.what_if import Worth, changes_of, reason_of, same, worths
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Disaggregated, Scenario

_FOLDER = "levers"


def levers_of(name: str, search_path: Sequence[str] = ()) -> Levers:
    """Return the levers of a file, of a name under workloads/levers, or of a what-if file: each of its changes one."""
    folders = tuple(search_path)
    if _is_lever_file(name, folders):
        return load_levers(name, folders)
    file = load_what_if(name, folders).file
    levers = [
        LeverFile(term=one.term, section=one.cite or "", kind="recommendation", switches=[_switch(one)])
        for one in file.alternatives
        if (one.set or one.scale) and one.message is None
    ]
    return Levers(title=file.title, cite=name, levers=levers)


def _switch(one: AlternativeFile) -> SwitchFile:
    return SwitchFile(
        name=one.term, scenarios=one.scenarios, set=one.set, times={**one.scale}, against=one.against, limit=one.limit
    )


def _is_lever_file(name: str, search_path: tuple[str, ...]) -> bool:
    library = Library(search_path)
    if Path(name).exists():
        return library.schema_of(Path(name)) == "lever"
    assert _FOLDER in FOLDERS, "a folder of data"
    return name in library.names(_FOLDER)


def switches(file: Levers, names: Sequence[str] = ()) -> list[tuple[SwitchFile, LeverFile]]:
    """Return the switches of all levers, or all of the names given. Raises InputError on an unknown name."""
    pairs = [(switch, lever) for lever in file.levers for switch in lever.switches]
    known = [switch.name for switch, _ in pairs]
    for name in names:
        if name not in known:
            raise InputError.single(f"no lever is named {name!r}", hint=suggest(name, known), field="--lever")
    return [one for one in pairs if not names or one[0].name in names]


@contextmanager
def hypothetical(workload: Workload, name: str) -> Iterator[None]:
    """Let levers state what no shipped hardware has: each such value of a file of one's own is said once, of shipped
    lists none.

    name: of the levers, as for `levers_of`.
    """
    known = {str(problem).partition(": ")[2] for problem in workload.resolved.warnings}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        message = str(one.message).partition(": ")[2]  # behind the path, which names a scenario
        is_lever = issubclass(one.category, ImplausibleInput)
        if not is_lever or (Path(name).exists() and message not in known):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        known |= {message} if is_lever else set()


def worths_of(
    workload: Workload, scenario: str, file: Levers, names: Sequence[str] = (),
    on_progress: Callable[[float], None] = lambda _: None,
) -> list[Worth]:  # fmt: skip
    """Return what each switch of a scenario's phase is worth, in the order of the file."""
    phase = workload.scenario(scenario).plan.phase
    asked = [one for one in switches(file, names) if _changes(one[0], scenario, phase)]
    own = []
    for number, one in enumerate(asked):
        own.append(_against(workload, scenario, *one))
        on_progress(number / len(asked))
    chain = [_alternative(*one) for one, worth in zip(asked, own, strict=True) if worth is None]
    alone = iter(worths(workload, scenario, chain))
    return [
        replace(worth or next(alone), name=switch.name, section=lever.section, against=_sides(switch) or None)
        for worth, (switch, lever) in zip(own, asked, strict=True)
    ]


def _changes(switch: SwitchFile, scenario: str, phase: str) -> bool:
    return phase in switch.phases and (not switch.scenarios or bool({scenario, phase} & set(switch.scenarios)))


def _alternative(switch: SwitchFile, lever: LeverFile) -> AlternativeFile:
    factors = {path: float(str(factor)) for path, factor in switch.times.items()}
    return AlternativeFile(
        term=switch.term or lever.term, set=switch.set, scale=factors, limit=switch.limit, cite=lever.section
    )


def _against(workload: Workload, scenario: str, switch: SwitchFile, lever: LeverFile) -> Worth | None:
    term = switch.term or lever.term

    def refused(why: str) -> Worth:
        return Worth(term, scenario, "", {}, 0.0, refused=why, limit=switch.limit, base="another")

    if switch.across_nodes and not _spans_nodes(workload.scenario(scenario)):
        return refused("the scenario stays inside a node")
    if not switch.against and not switch.against_times:
        return None
    factors = {path: float(str(factor)) for path, factor in switch.against_times.items()}
    change = _alternative(switch, lever)
    try:
        sides = dict(changes_of(workload, scenario, AlternativeFile(term=term, set=switch.against, scale=factors)))
        base = workload.changed(sides, [scenario])
        if same(workload, base, sides):
            return None
        if what_if.exchanges_otherwise(workload, base, scenario, sides):
            return refused(what_if.no_all_to_all(base.scenario(scenario)))
        changes = dict(changes_of(base, scenario, change))
        changed = base.changed(changes, [scenario])
        has_it = same(workload, changed, {**sides, **changes})
        worth = what_if.worth_between(base, workload if has_it else changed, scenario, change, changes)
    except CostModelError as error:
        return refused(f"against its own side: {reason_of(error, scenario)}")
    return replace(worth, base="without" if has_it else "another", together=None)


def _spans_nodes(scenario: Scenario) -> bool:
    """Tell whether a group of devices that exchanges messages is larger than a node."""
    plan = scenario.plan
    pools = (plan.prefill, plan.decode) if isinstance(plan, Disaggregated | Pools) else (scenario,)
    return any(bool(pool.parallel.all_devices > scenario.cluster.node.count) for pool in pools)


def _sides(switch: SwitchFile) -> dict[str, str]:
    factors = {path: f"x {factor:g}" for path, factor in switch.against_times.items()}
    return {**{path: str(value) for path, value in switch.against.items()}, **factors}
