"""A page as one file: style, script, figures and data inside it, nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from costmodel.report.web.markup import embedded, text


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page. title: plain text; parts: markup."""

    title: str
    parts: Sequence[str]


def page(title: str, about: str, sections: Sequence[Section], data: Any) -> bytes:
    """Return a page as a file holds it. title, about: plain text; data: the document that it shows, kept as JSON.

    Its policy lets a browser run this one script and load nothing.
    """
    script = _packaged("page.js")
    return Template(_packaged("page.html")).substitute(
        title=text(title), about=text(about), style=_packaged("page.css"), script=script, hash=_hash(script),
        contents=" ".join(f'<a href="#s{at}">{text(one.title)}</a>' for at, one in enumerate(sections)),
        sections="\n".join(_section(at, one) for at, one in enumerate(sections)), data=embedded(data),
    ).encode("utf-8", "replace")  # fmt: skip


def _section(at: int, one: Section) -> str:
    body = "\n".join(part for part in one.parts if part)
    return f'<section aria-labelledby="s{at}"><h2 id="s{at}">{text(one.title)}</h2>\n{body}\n</section>'


def _packaged(name: str) -> str:
    return files("costmodel.report.web").joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """Return the word by which a policy names a script: https://www.w3.org/TR/CSP3, 2.3.1."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
