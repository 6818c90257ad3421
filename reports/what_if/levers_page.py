"""The page of a publication's mechanisms and recommendations, docs/recommendations.md."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.schema.lever import LeverFile, Levers

COMMAND = "costmodel what-if"


def levers_markdown(file: Levers) -> str:
    """Return the page that lists every mechanism and recommendation of a publication."""
    return "\n".join(_page(file)) + "\n"


def _page(file: Levers) -> Iterator[str]:
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
