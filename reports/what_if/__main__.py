"""The published what-ifs: a page, and its figures with their data.

python -m reports.what_if --output reports/what_if
"""

from __future__ import annotations

from pathlib import Path

from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.schema.whole_files import write_whole
from reports.page import rendered, write_folder
from reports.what_if.hardware import of_dollars, of_nvlink, of_planes
from reports.what_if.model import of_cache, of_experts, of_formats, of_recommendations

QUESTIONS = (of_nvlink, of_formats, of_experts, of_planes, of_dollars, of_cache, of_recommendations)


def publish(folder: Path) -> list[Path]:
    """Write all figures, their data and the page; return the files."""
    with styled():
        asked = [each() for each in QUESTIONS]
    made = write_plots(((one.name, one.drawn) for one in asked), folder)
    write_whole(folder / "README.md", [rendered("what_if/page", asked=asked).encode()])
    return [*made, folder / "README.md"]


if __name__ == "__main__":
    write_folder("what_if", publish)
