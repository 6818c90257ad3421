"""Pieces of a page: text, sortable tables, links to data. Whatever comes from a file is text, never markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from costmodel.records import ValueRecord
from costmodel.report.page import Cell, Number, Table, cell_text

UNPRINTABLE = "\ufffd"
NUMBER = ' class="number"'  # attribute of right-aligned cells


def text(value: str) -> str:
    """Return text as markup: escaped, unprintable letters replaced."""
    clean = "".join(letter if letter.isprintable() or letter == "\n" else UNPRINTABLE for letter in value)
    return html.escape(clean)


def html_table(caption: str, content: Table) -> str:
    """Return a table that can be sorted: a `Number` by its value, an interval by its width. No rows give nothing."""
    if not content.rows:
        return ""
    classes = [NUMBER if right else "" for right in content.right_aligned]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{text(name)}</button></th>'
        for name, kind in zip(content.names, classes, strict=True)
    )
    body = "\n".join(
        f"<tr>{''.join(_cell(cell, kind) for cell, kind in zip(row, classes, strict=True))}</tr>"
        for row in content.rows
    )
    label = text(caption)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell, kind: str) -> str:
    key = ""
    if isinstance(cell, Number):
        value = cell.low if cell.high is None else cell.high - cell.low
        key = f' data-value="{value!r}" title="{value!r}"'
    return f"<td{kind}{key}>{text(cell_text(cell))}</td>"


def items(lines: Iterable[str]) -> str:
    """Return lines as a list, nothing for none."""
    listed = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{listed}</ul>" if listed else ""


def download(name: str, data: bytes) -> str:
    """Return a link that saves a CSV table embedded in the page."""
    return f'<a download="{text(name)}" href="data:text/csv;base64,{base64.b64encode(data).decode()}">{text(name)}</a>'


def embedded(document: Any) -> str:
    """Return a document as JSON that no browser takes for markup: `<`, `>` and `&` are escaped."""
    plain = json.dumps(document, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        plain = plain.replace(letter, f"\\u{ord(letter):04x}")
    return plain


# ---- A page as one self-contained file: style, script, plots and data ------------------------------------------------


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
