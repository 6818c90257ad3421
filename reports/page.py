"""What reports share: tables in Markdown, shares in per cent, command lines that write one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from costmodel.schema.whole_files import write_whole


def write_page(name: str, page: Callable[[], str], arguments: Sequence[str] | None = None) -> None:
    """Write the page of a report beside its module, or where `--output` says, and print it."""
    parser = argparse.ArgumentParser(prog=f"python -m reports.{name}", description=page.__doc__)
    parser.add_argument("--output", type=Path, default=Path(f"reports/{name}.md"), help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    text = page()
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


def line(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield a table under its heading; nothing for no rows."""
    lines = [line(*cells) for cells in rows]
    if lines:
        yield from ("", f"## {title}", "", line(*headings), f"|{'---|' * len(headings)}", *lines)


def percent(value: float | None, *, sign: bool = False) -> str:
    """Return a share in per cent, blank where it is not known."""
    return "" if value is None else f"{100 * value:{'+' if sign else ''}.1f} %"
