"""The terminal view of what changes are worth, and of a publication's proposals with how each is stated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from costmodel.report.page import Number, show, table
from costmodel.report.text import NONE, metric
from costmodel.schema.lever import LeverFile, LeversFile
from costmodel.study.what_if import Worth

COMMAND = "costmodel what-if"


def show_worths(scenarios: Mapping[str, Sequence[Worth]]) -> None:
    """Print what each change of each scenario saves, the largest first; then those that cannot be had, and why."""
    for scenario, rows in scenarios.items():
        had = sorted((row for row in rows if row.saved is not None), key=lambda row: -(row.saved or 0.0))
        first = next((row for row in rows if row.against is None and row.metric), None)
        headline = next((row.metric for row in rows if row.metric), "")
        before = NONE if first is None else metric(headline, first.before)
        show(f"{scenario}: what each change saves of {before}", "bold")
        together = f">{headline} with those above it in the list"
        view = table("?lever", "change", ">alone", ">80 % interval", ">at most", together, "?")
        for row in had:
            note = "" if row.keeps_to_its_ceiling else "beyond its ceiling: a fault of the model"
            view.add(
                row.name or "", row.term, _share(row.saved), _interval(row), _share(row.ceiling),
                metric(headline, row.together), note,
            )  # fmt: skip
        show(view)
        for row in had:
            if (row.saved or 0.0) > (row.ceiling or 1.0):
                show(f"{row.term}: more than its share, as kernels need whole waves of tiles fewer", "dim")
        for row in rows:
            if row.refused is not None:
                show(f"{row.name or row.term}: {row.refused}", "dim")
    for limit, names in _limits(scenarios).items():
        show(f"{', '.join(names)}: {limit}", "dim")


def _limits(scenarios: Mapping[str, Sequence[Worth]]) -> dict[str, list[str]]:
    """Return what the numbers do not include, with the levers that it is said of."""
    limits: dict[str, list[str]] = {}
    for rows in scenarios.values():
        for row in rows:
            name = row.name or row.term
            if row.saved is not None and row.limit and name not in limits.setdefault(row.limit, []):
                limits[row.limit].append(name)
    return limits


def _share(value: float | None) -> str:
    return NONE if value is None else Number(f"{100 * value:.2f} %", value)


def _interval(row: Worth) -> str:
    return NONE if row.ratio is None else f"{100 * (1 - row.ratio[1]):.2f} .. {100 * (1 - row.ratio[0]):.2f} %"


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
        "that applies to a workload, alone and after those above it, `--lever NAME` one of them; "
        f"`{COMMAND}` alone prints this list. A switch that a workload has nothing for says so. Generated from "
        "`workloads/levers/insights_deepseek_v3.yaml`."
    )
    for kind, title in (("mechanism", "Mechanisms"), ("recommendation", "Recommendations")):
        yield from ("", f"## {title}", "", "| section | what | switches | path | reason |", "|---|---|---|---|---|")
        yield from (_row(lever) for lever in file.levers if lever.kind == kind)


def _row(lever: LeverFile) -> str:
    names = ", ".join(f"`{switch.name}`" for switch in lever.switches)
    cells = [cell.replace("|", "\\|") for cell in (lever.term, lever.path or "", lever.why or "")]
    return f"| {lever.section} | {cells[0]} | {names} | {cells[1]} | {cells[2]} |"
