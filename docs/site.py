"""Builds the documentation site: `docs/`, README.md as its first page, and `reports/` with its figures.

python docs/site.py FOLDER    gathers the pages in FOLDER/docs and writes the site, FOLDER/site

Links are written for the repository, where a reader may follow them, too. Here each is turned to where its target
stands on the site; what stands only in the repository becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "mkdocs.yml"
START = "index.md"
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SHOWN = {".md", ".svg", ".png", ".csv"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def build(folder: Path) -> int:
    """Gather the pages in a folder and build the site there, under `site`. Return zensical's exit code.

    A link that leads nowhere ends it with an error.
    """
    shutil.rmtree(folder / "docs", ignore_errors=True)
    files = {_site(path): path for path in _shown()}
    for place, path in files.items():
        target = folder / "docs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(_page(path, place, set(files)), encoding="utf-8")
        else:
            shutil.copy(path, target)
    shutil.copy(ROOT / SETTINGS, folder / SETTINGS)
    line = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(line, cwd=folder, check=False).returncode


def _shown() -> list[Path]:
    """Return the files of the repository that the site shows."""
    folders = (path for folder in ("docs", "reports") for path in sorted((ROOT / folder).rglob("*")))
    return [*(ROOT / name for name in BESIDE), *(path for path in folders if path.suffix in SHOWN)]


def _site(path: Path) -> str:
    """Return where a file of the repository stands on the site."""
    name = path.relative_to(ROOT).as_posix()
    return START if name == "README.md" else name.removeprefix("docs/")


def _page(path: Path, place: str, known: set[str]) -> str:
    """Return a page with its links turned; code blocks stay as they are."""
    parts = _FENCE.split(path.read_text(encoding="utf-8"))
    return "".join(part if part.startswith("```") else _turned(part, path, place, known) for part in parts)


def _turned(text: str, path: Path, place: str, known: set[str]) -> str:
    """Return text of a page whose links lead to where their targets stand on the site."""

    def turned(found: re.Match[str]) -> str:
        mark, words, link = found.groups()
        words = words if mark else _LINK.sub(turned, words)
        if "://" in link or link.startswith("#"):
            return f"{mark}[{words}]({link})"
        target, hash_, anchor = link.partition("#")
        wanted = path.parent.joinpath(target).resolve()
        for each in (wanted, wanted / "README.md"):
            if each.is_relative_to(ROOT) and (stands := _site(each)) in known:
                return f"{mark}[{words}]({posixpath.relpath(stands, posixpath.dirname(place) or '.')}{hash_}{anchor})"
        return words

    return _LINK.sub(turned, text)


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
