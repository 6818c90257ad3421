"""The published what-ifs: a page, its figures with their data, and what the paper's recommendations are worth.

python -m reports.what_if --output reports/what_if
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from costmodel.records import replace
from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.schema.what_if import load_what_if
from costmodel.schema.whole_files import write_whole
from reports.waterfall import waterfall
from reports.what_if.alternatives import alternatives
from reports.what_if.alternatives_page import markdown
from reports.what_if.asked import Asked
from reports.what_if.hardware import of_dollars, of_h100, of_nvlink
from reports.what_if.model import of_cache, of_experts, of_formats
from reports.what_if.network import of_planes
from reports.what_if.recommendations import of_recommendations

COMMAND = "python -m reports.what_if --output reports/what_if"
RANKED = ("insights_deepseek_v3", "ep_decode_bound")  # files of workloads/what_ifs
SHOWN = ("h800_h100", "nvlink", "insights_deepseek_v3", "rtx4090_a100")  # as PNG, too: the README's


def publish(folder: Path) -> list[Path]:
    """Write all figures, their data, the page, and a page for each file of recommendations; return the files."""
    made: list[Path] = []
    asked: list[Asked] = []
    with styled():
        for each in (of_h100, of_nvlink, of_formats, of_experts, of_planes, of_dollars, of_cache):
            asked.append(each())
        for name in RANKED:
            what_if = load_what_if(name)
            found = alternatives(what_if)
            asked.append(replace(of_recommendations(found, name), title=what_if.file.title))
            ladder = waterfall(name) if what_if.file.steps else None
            again = f"\nRegenerate: `{COMMAND}`\n"
            made.append(folder / f"{name}.md")
            write_whole(made[-1], [(markdown(what_if, found, ladder) + again).encode()])
        for one in asked:
            forms = ("svg", "png") if one.name in SHOWN else ("svg",)
            made += write_plots(iter([(one.name, one.drawn)]), folder, forms)  # type: ignore[arg-type]
    write_whole(folder / "README.md", ["\n".join(_page(asked)).encode()])
    return [*made, folder / "README.md"]


def _page(asked: Sequence[Asked]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# What if"
    yield ""
    yield (
        "Questions that the shipped files answer, each with its figure, the data beside it as CSV, and a command "
        "that asks "
        "the same. Bands and lines at bars are 80 % intervals: of two sides that share their kernels most of it is "
        "common, "
        "so that the difference is surer than each side."
    )
    for one in asked:
        yield from ("", f"## {one.title}", "", f"![{one.title}]({one.name}.svg)", "")
        yield from (f"- {line}" for line in one.says)
        yield from ("", f"Data: [{one.name}.csv]({one.name}.csv)", "", "```text", *one.commands, "```")
    yield from ("", f"Regenerate: `{COMMAND}`", "")


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def main(output: Path) -> None:
    """Write the published what-ifs."""
    from costmodel.schema.whole_files import make_folder

    make_folder(output)
    for path in publish(output):
        click.echo(path)


if __name__ == "__main__":
    main()
