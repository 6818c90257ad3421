"""Command lines of reports that write one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
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
