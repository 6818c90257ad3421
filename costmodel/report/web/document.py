"""A page as one self-contained file: style, script, plots and data."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from costmodel.records import ValueRecord
from costmodel.report.web.markup import embedded, text


class Section(ValueRecord):
    """A section of a page. title: plain text; parts: markup."""

    title: str
    parts: Sequence[str]


def page(title: str, about: str, sections: Sequence[Section], data: Any) -> bytes:
    """Return a page as a file. title, about: plain text; data: the document that it shows, embedded as JSON.

    Its policy lets a browser run this one script and load nothing.
    """
    script = _packaged("page.js")
    return Template(_packaged("page.html")).substitute(
        title=text(title), about=text(about), style=_packaged("page.css"), script=script, hash=_hash(script),
        contents=" ".join(f'<a href="#s{i}">{text(section.title)}</a>' for i, section in enumerate(sections)),
        sections="\n".join(_section(i, section) for i, section in enumerate(sections)), data=embedded(data),
    ).encode("utf-8", "replace")  # fmt: skip


def _section(i: int, section: Section) -> str:
    body = "\n".join(part for part in section.parts if part)
    return f'<section aria-labelledby="s{i}"><h2 id="s{i}">{text(section.title)}</h2>\n{body}\n</section>'


def _packaged(name: str) -> str:
    return files("costmodel.report.web").joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """Return the hash by which a policy allows a script: https://www.w3.org/TR/CSP3, 2.3.1."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
