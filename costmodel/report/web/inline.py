"""Figures that were written as files, as parts of a page."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from costmodel.report.web.markup import Cell, download, table, text

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DROPPED = {"metadata", "style"}  # the page has a style of its own
MOST_ROWS = 500  # of a table on the page; its CSV holds them all
MOST_DATA = 1_000_000  # bytes of CSV that a page holds; what is more stands beside it


@dataclass(slots=True)
class Shown:
    """A figure as files hold it: its SVG, and file name -> CSV. beside: names of those that the page does not hold."""

    drawing: str
    data: dict[str, bytes] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)


def read_figures(made: Iterable[Path]) -> dict[str, Shown]:
    """Return the figures among written files by name; their data follow, of which a page holds the first."""
    found: dict[str, Shown] = {}
    last, held = None, 0
    for path in made:
        if path.suffix == ".svg":
            last = found[path.stem] = Shown(path.read_text("utf-8"))
        elif path.suffix == ".csv" and last is not None:
            last.data[path.name] = data = path.read_bytes()
            held += len(data)
            if held > MOST_DATA:
                held -= len(data)
                last.beside.add(path.name)
    return found


def figure(figures: Mapping[str, Shown], name: str, caption: str) -> str:
    """Return a figure with links to its data, nothing where it was not drawn."""
    if name not in figures:
        return ""
    shown = figures[name]
    prefix = f"f-{name}-"
    links = ", ".join(
        f"{text(file)}, beside the page" if file in shown.beside else download(file, data)
        for file, data in shown.data.items()
    )
    return (
        f'<figure><div class="wide drawing" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"{_inlined(shown.drawing, prefix, caption)}</div>"
        f'<figcaption>{text(caption)}. <span class="files">Data: {links}</span></figcaption></figure>'
    )


def data_table(
    caption: str, data: bytes, columns: Mapping[str, tuple[str, Callable[[float], str]]], most: int = MOST_ROWS
) -> str:
    """Return a CSV table, at most its first rows. columns: of numbers -> heading, how they are written."""
    rows = rows_of(data)
    headings = [f">{columns[name][0]}" if name in columns else name for name in (rows[0] if rows else ())]
    shown = ([_data_cell(row[name], columns.get(name)) for name in row] for row in rows[:most])
    hidden = len(rows) - most
    told = f"<p>{hidden:,} more rows are in the CSV file.</p>" if hidden > 0 else ""
    return table(caption, headings, shown) + told


def rows_of(data: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV table by heading."""
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def _data_cell(written: str, column: tuple[str, Callable[[float], str]] | None) -> Cell:
    if column is None or not written:
        return written
    value = float(written)
    return column[1](value), value


def _inlined(drawing: str, prefix: str, caption: str) -> str:
    """Return an SVG as a part of a page: names of its own for its parts, no namespace, as wide as there is room."""
    root = ElementTree.fromstring(drawing)
    for parent in root.iter():
        for child in [child for child in parent if child.tag.removeprefix(_SVG) in _DROPPED]:
            parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        link = node.attrib.pop(_LINK, None)
        if link is not None:
            node.set("href", f"#{prefix}{link[1:]}" if link.startswith("#") else link)
        for key, value in node.attrib.items():
            if key == "id":
                node.set(key, prefix + value)
            elif "url(#" in value:
                node.set(key, value.replace("url(#", f"url(#{prefix}"))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", caption)
    return ElementTree.tostring(root, encoding="unicode")
