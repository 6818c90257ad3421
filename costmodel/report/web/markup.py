"""Pieces of a page: text, sortable tables, links to data. Whatever comes from a file is text, never markup."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Cell: TypeAlias = "str | tuple[str, float | None]"  # text, or text and the number that it is sorted by

UNPRINTABLE = "\ufffd"


def text(value: str) -> str:
    """Return text as markup: escaped, what cannot be printed replaced."""
    clean = "".join(letter if letter.isprintable() or letter == "\n" else UNPRINTABLE for letter in value)
    return html.escape(clean)


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table. A heading that begins with `>` stands over numbers, to the right."""
    right = [heading.startswith(">") for heading in headings]
    head = "".join(_heading(heading.removeprefix(">"), number) for heading, number in zip(headings, right, strict=True))
    body = "\n".join(
        f"<tr>{''.join(_cell(cell, number) for cell, number in zip(row, right, strict=True))}</tr>" for row in rows
    )
    label = text(caption)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{label}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _heading(name: str, number: bool) -> str:
    return f'<th scope="col"{_side(number)}><button type="button">{text(name)}</button></th>'


def _cell(cell: Cell, number: bool) -> str:
    shown, value = cell if isinstance(cell, tuple) else (cell, None)
    key = "" if value is None else f' data-value="{value!r}" title="{value!r}"'
    return f"<td{_side(number)}{key}>{text(shown)}</td>"


def _side(number: bool) -> str:
    return ' class="number"' if number else ""


def items(lines: Iterable[str]) -> str:
    """Return lines as a list, nothing for none."""
    listed = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{listed}</ul>" if listed else ""


def download(name: str, data: bytes, kind: str = "text/csv") -> str:
    """Return a link that saves data which the page itself holds."""
    return f'<a download="{text(name)}" href="data:{kind};base64,{base64.b64encode(data).decode()}">{text(name)}</a>'


def embedded(document: Any) -> str:
    """Return a document as JSON that no browser takes for markup: `<`, `>` and `&` are escaped."""
    plain = json.dumps(document, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        plain = plain.replace(letter, f"\\u{ord(letter):04x}")
    return plain
