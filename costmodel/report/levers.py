"""The terminal view of levers: what each is worth, and how a publication's proposals are stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodel.report.page import show, table
from costmodel.report.text import NONE, metric, percent
from costmodel.schema.lever import LeverFile, LeversFile
from costmodel.study.levers import LeverEffect

COMMAND = "costmodel what-if"


def show_effects(effects: Sequence[LeverEffect], *, is_cumulative: bool = False) -> None:
    """Print what levers save in each scenario, then those that do not apply, with the reason."""
    for scenario in dict.fromkeys(one.scenario for one in effects):
        rows = [one for one in effects if one.scenario == scenario and one.reason is None]
        name = next((one.metric for one in rows), "")
        show(f"{scenario}: what each lever saves of {name}{', one after the other' if is_cumulative else ''}", "bold")
        shown = table("lever", "what", "?section", ">before", ">after", ">saves", "?>80 %", ">at most", "?")
        for one in rows:
            assert one.saving is not None, "it applies"
            ends = "" if one.interval is None else " to ".join(percent(end, sign="+") for end in one.interval)
            shown.add(
                one.name, one.term, one.section, metric(name, one.before), metric(name, one.after),
                percent(one.saving, sign="+"), ends, NONE if one.ceiling is None else percent(one.ceiling),
                "" if one.holds else "beyond its ceiling: a fault of the model",
            )  # fmt: skip
        show(shown if rows else "no lever applies")
        for one in effects:
            if one.scenario == scenario and one.reason is not None:
                show(f"{one.name}: {one.reason}", "dim")
    for limit, names in _limits(effects).items():
        show(f"{', '.join(names)}: {limit}", "dim")


def _limits(effects: Sequence[LeverEffect]) -> dict[str, list[str]]:
    limits: dict[str, list[str]] = {}
    for one in effects:
        if one.reason is None and one.limit and one.name not in limits.setdefault(one.limit, []):
            limits[one.limit].append(one.name)
    return limits


def show_levers(file: LeversFile) -> None:
    """Print every mechanism and recommendation: its switches, its path, or why it has none."""
    shown = table("section", "kind", "what", "switches", "?path", "?why")
    for lever in file.levers:
        names = ", ".join(switch.name for switch in lever.switches)
        shown.add(lever.section, lever.kind, lever.term, names or NONE, lever.path or "", lever.why or "")
    show(shown)


def levers_markdown(file: LeversFile) -> str:
    """Return the page that lists every mechanism and recommendation of a publication."""
    return "\n".join(_page(file)) + "\n"


def _page(file: LeversFile) -> Iterator[str]:
    switches = [switch for lever in file.levers for switch in lever.switches]
    yield f'# The mechanisms and recommendations of "{file.title}"'
    yield ""
    yield (
        f"{len(file.levers)} in all [{file.cite}]; {len(switches)} switches. `{COMMAND} WORKLOAD` runs every switch "
        "that applies to a workload, `--lever NAME` one of them, `--cumulative` one after the other; "
        f"`{COMMAND}` alone prints this list. A switch that a workload has nothing for says so. Generated from "
        "`workloads/levers/insights_deepseek_v3.yaml`."
    )
    for kind, title in (("mechanism", "Mechanisms"), ("recommendation", "Recommendations")):
        yield from ("", f"## {title}", "", "| section | what | switches | path | reason |", "|---|---|---|---|---|")
        yield from (_row(lever) for lever in file.levers if lever.kind == kind)


def _row(lever: LeverFile) -> str:
    names = ", ".join(f"`{switch.name}`" for switch in lever.switches)
    path = (lever.path or "").replace("|", "\\|")
    return f"| {lever.section} | {lever.term} | {names} | {path} | {(lever.why or '').replace('|', chr(92) + '|')} |"
