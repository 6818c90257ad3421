"""What the documentation site holds beside `docs/`: README.md as its first page, and `reports/` with its figures.

Links are written for the repository, where a reader may follow them, too. Here each is turned to where its target
stands on the site; what stands only in the repository becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START = "index.md"
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SHOWN = {".md", ".svg", ".png", ".csv"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the files that stand outside of `docs/`."""
    from mkdocs.structure.files import File

    for name in BESIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, _site(name), content=text))
    for path in sorted((ROOT / "reports").rglob("*")):
        if path.suffix in SHOWN:
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 (the names are those of a hook)
    """Turn the links of a page; code blocks stay as they are."""
    source = _repository(page.file.src_uri)
    known = {file.src_uri for file in files}
    parts = _FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else _turned(part, source, page.file.src_uri, known) for part in parts
    )


def _turned(text: str, source: str, place: str, known: set[str]) -> str:
    def turned(found: re.Match[str]) -> str:
        mark, words, link = found.groups()
        words = words if mark else _LINK.sub(turned, words)
        if "://" in link or link.startswith("#"):
            return f"{mark}[{words}]({link})"
        target, hash_, anchor = link.partition("#")
        wanted = _site(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        for each in (wanted, f"{wanted}/README.md"):
            if each in known:
                return f"{mark}[{words}]({posixpath.relpath(each, posixpath.dirname(place) or '.')}{hash_}{anchor})"
        return words

    return _LINK.sub(turned, text)


def _site(path: str) -> str:
    """Return where a file of the repository stands on the site."""
    return START if path == "README.md" else path.removeprefix("docs/")


def _repository(place: str) -> str:
    """Return where a page of the site stands in the repository."""
    if place == START:
        return "README.md"
    return place if place in BESIDE or place.startswith("reports/") else f"docs/{place}"
