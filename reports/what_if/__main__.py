"""The published what-ifs: a page, and its figures with their data.

python -m reports.what_if --output reports/what_if
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.schema.whole_files import write_whole
from reports.page import write_folder
from reports.what_if.asked import Asked
from reports.what_if.hardware import of_dollars, of_nvlink
from reports.what_if.model import of_cache, of_experts, of_formats
from reports.what_if.network import of_planes
from reports.what_if.recommendations import of_recommendations

COMMAND = "python -m reports.what_if --output reports/what_if"
QUESTIONS = (of_nvlink, of_formats, of_experts, of_planes, of_dollars, of_cache, of_recommendations)


def publish(folder: Path) -> list[Path]:
    """Write all figures, their data and the page; return the files."""
    with styled():
        asked = [each() for each in QUESTIONS]
    made = write_plots(((one.name, one.drawn) for one in asked), folder)
    write_whole(folder / "README.md", ["\n".join(_page(asked)).encode()])
    return [*made, folder / "README.md"]


def _page(asked: Sequence[Asked]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# What if"
    yield ""
    yield (
        "Questions that the shipped files answer, each with its figure, the data beside it as CSV, and a command that "
        "asks the same. Bands and lines at bars are 80 % intervals: of a comparison they are those of the difference, "
        "in which errors that both sides share cancel."
    )
    for one in asked:
        yield from ("", f"## {one.title}", "", f"![{one.title}]({one.name}.svg)", "")
        yield from (f"- {line}" for line in one.says)
        yield from ("", f"Data: [{one.name}.csv]({one.name}.csv)", "", "```text", *one.commands, "```")
    yield from ("", f"Regenerate: `{COMMAND}`", "")


if __name__ == "__main__":
    write_folder("what_if", publish)
