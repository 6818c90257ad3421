"""Plots that were written as files, as parts of a page."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from costmodel.records import MutableRecord, field
from costmodel.report.page import Table
from costmodel.report.web.markup import download, html_table, text

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DROPPED = {"metadata", "style"}  # the page has its own style
MOST_ROWS = 500  # of a table on the page; its CSV has them all
MOST_DATA = 1_000_000  # bytes of CSV that a page embeds; further files are next to it


class EmbeddedPlot(MutableRecord):
    """A plot for a page. data: file name -> CSV; beside: names of the files that the page does not embed."""

    svg: str
    data: dict[str, bytes] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)


def read_plots(files: Iterable[Path]) -> dict[str, EmbeddedPlot]:
    """Return the plots among written files by name, each with the CSV files that follow it."""
    plots: dict[str, EmbeddedPlot] = {}
    last, embedded = None, 0
    for path in files:
        if path.suffix == ".svg":
            last = plots[path.stem] = EmbeddedPlot(path.read_text("utf-8"))
        elif path.suffix == ".csv" and last is not None:
            last.data[path.name] = data = path.read_bytes()
            if embedded + len(data) > MOST_DATA:
                last.beside.add(path.name)
            else:
                embedded += len(data)
    return plots


def figure(plots: Mapping[str, EmbeddedPlot], name: str, caption: str) -> str:
    """Return a plot with links to its data, nothing where it was not drawn."""
    if name not in plots:
        return ""
    plot = plots[name]
    links = ", ".join(
        f"{text(file)}, beside the page" if file in plot.beside else download(file, data)
        for file, data in plot.data.items()
    )
    return (
        f'<figure><div class="wide drawing" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"{_inlined(plot.svg, f'f-{name}-', caption)}</div>"
        f'<figcaption>{text(caption)}. <span class="files">Data: {links}</span></figcaption></figure>'
    )


def data_table(
    caption: str, data: bytes, columns: Mapping[str, tuple[str, Callable[[float], str]]], most: int = MOST_ROWS
) -> str:
    """Return the first rows of a CSV table. columns: of numbers -> heading, formatter."""
    rows = rows_of(data)
    names = list(rows[0]) if rows else []
    shown = Table(tuple(f">{columns[name][0]}" if name in columns else name for name in names))
    for row in rows[:most]:
        cells = row.items()
        shown.add(*(columns[name][1](float(cell)) if name in columns and cell else cell for name, cell in cells))
    hidden = len(rows) - most
    more = f"<p>{hidden:,} more rows are in the CSV file.</p>" if hidden > 0 else ""
    return html_table(caption, shown) + more


def rows_of(data: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV table by heading."""
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def _inlined(svg: str, prefix: str, caption: str) -> str:
    """Return an SVG as a part of a page: prefixed ids, no namespace, as wide as there is room."""
    root = ElementTree.fromstring(svg)
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
