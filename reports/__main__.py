"""Makes the pages and figures of this folder and of README anew: python -m reports [NAME …]

Each page is made by a program of its own. `made.yaml` keeps what predicted when a page was made: a digest of the
predictions that the tests hold (`tests/golden`). A page whose digest is not today's is older than its numbers, and a
test says so. `python -m reports --stale` makes those alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import yaml

from costmodel.schema.whole_files import write_whole

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "reports" / "made.yaml"
PAGES: Mapping[str, tuple[str, ...]] = {  # name -> program and arguments; README last, which shows what others made
    "v3_gap": ("reports.v3_gap",),
    "devices": ("reports.devices",),
    "systems": ("reports.systems",),
    "network": ("reports.network",),
    "kernels": ("reports.kernels",),
    "tour": ("reports.tour",),
    "validation": ("reports.validation", "--output", "reports/validation"),
    "front": ("reports.front", "README.md", "--validation", "reports/validation", "--output", "reports/front"),
}
DIGITS = 4  # of a prediction: what pages show


def today() -> str:
    """Return a digest of the predictions that tests hold, to four digits: what pages would show if made now."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "tests" / "golden").glob("*.json")):
        numbers = sorted(json.loads(path.read_text(encoding="utf-8")).items())
        digest.update(json.dumps([path.name, *([key, _rounded(value)] for key, value in numbers)]).encode())
    return digest.hexdigest()[:12]


def _rounded(value: object) -> object:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def made() -> dict[str, str]:
    """Return the digest with which each page was made, by its name."""
    return dict(yaml.safe_load(MADE.read_text(encoding="utf-8"))) if MADE.exists() else {}


def stale() -> list[str]:
    """Return the pages that are older than today's predictions."""
    kept, now = made(), today()
    return [name for name in PAGES if kept.get(name) != now]


def data_of(figure: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of the tables that a figure shows, each with the digest that the figure carries of it."""
    content = figure.read_bytes().decode("latin-1")
    yield from re.findall(r"data:([\w.-]+\.csv)=([0-9a-f]{12})", content)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--stale", "only_stale", is_flag=True, help="Make the pages that are older than today's predictions.")
def main(names: tuple[str, ...], *, only_stale: bool) -> None:
    """Make pages anew: those named, else all."""
    unknown = [name for name in names if name not in PAGES]
    if unknown:
        raise click.BadParameter(f"no page {unknown[0]!r}; there are {', '.join(PAGES)}", param_hint="NAME")
    for name in stale() if only_stale else names or PAGES:
        begin, (module, *arguments) = time.monotonic(), PAGES[name]
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise
        write_whole(MADE, [yaml.safe_dump({**made(), name: today()}).encode()])
        click.echo(f"{name}: made in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
