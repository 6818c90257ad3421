"""What reports share: pages from templates, tables in Markdown, command lines that write a page or a folder."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from costmodel.schema.whole_files import make_folder, write_whole


def write_page(name: str, page: Callable[[], str]) -> None:
    """Write the page of a report beside its module, or where `--output` says, and print it."""
    chosen = _output(name, page, Path(f"reports/{name}.md"))
    text = page()
    write_whole(chosen, [text.encode()])
    sys.stdout.write(text)


def write_folder(name: str, publish: Callable[[Path], Iterable[Path]]) -> None:
    """Write the page of a report and its files into its folder, or where `--output` says, and print their paths."""
    folder = _output(name, publish, Path(f"reports/{name}"))
    make_folder(folder)
    sys.stdout.writelines(f"{path}\n" for path in publish(folder))


def _output(name: str, makes: Callable[..., object], default: Path) -> Path:
    parser = argparse.ArgumentParser(prog=f"python -m reports.{name}", description=makes.__doc__)
    parser.add_argument("--output", type=Path, default=default, help="what to write")
    output: Path = parser.parse_args().output
    return output


def rendered(template: str, **values: object) -> str:
    """Return a page: a template of this folder, `NAME.md.j2`, with values; a calibration file of `NAME.yaml.j2`.

    Templates have `line` and the filters `percent` and `to`: `{{ 0.5 | to(".1f") }}`.
    """
    file = template if template.endswith(".yaml") else f"{template}.md"
    return _templates().get_template(f"{file}.j2").render(values)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    made.globals |= {"line": line, "zip": zip}
    made.filters |= {"percent": percent, "to": format}
    return made


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, by the names of its columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def line(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def percent(value: float | None, *, sign: bool = False) -> str:
    """Return a share in per cent, blank where it is not known."""
    return "" if value is None else f"{100 * value:{'+' if sign else ''}.1f} %"
