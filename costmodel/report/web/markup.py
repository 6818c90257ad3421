"""Pieces of a page: text, sortable tables, links to data. Whatever comes from a file is text, never markup."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import html
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

from costmodel.records import MutableRecord, ValueRecord, field
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
    body = "\n".join(_section(i, section) for i, section in enumerate(sections))
    script = _packaged("figures.js") + _packaged("page.js")
    packed = _plotly() if f'<div class="{PLOT}"' in body and len(body) < MOST_MARKUP else ""
    return Template(_packaged("page.html")).substitute(
        title=text(title), about=text(about), style=_packaged("page.css"), script=script, hash=_hash(script),
        contents=" ".join(f'<a href="#s{i}">{text(section.title)}</a>' for i, section in enumerate(sections)),
        sections=body, data=embedded(data), packed=packed, blobs=" blob:" if packed else "",
    ).encode("utf-8", "replace")  # fmt: skip


def _section(i: int, section: Section) -> str:
    body = "\n".join(part for part in section.parts if part)
    return f'<section aria-labelledby="s{i}"><h2 id="s{i}">{text(section.title)}</h2>\n{body}\n</section>'


@cache
def _plotly() -> str:
    """Return the script of Plotly's package as markup, packed; nothing where the package is not installed."""
    if find_spec("plotly") is None:
        return ""
    script = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return f'<template id="plotly">{base64.b64encode(gzip.compress(script, mtime=0)).decode()}</template>\n'


def _packaged(name: str) -> str:
    return files("costmodel.report.web").joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """Return the hash by which a policy allows a script: https://www.w3.org/TR/CSP3, 2.3.1."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


# ---- Plots that were written as files, as parts of a page ------------------------------------------------------------

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DROPPED = {"metadata", "style"}  # the page has its own style
MOST_ROWS = 500  # of a table on the page; its CSV has them all
MOST_MARKUP = 2_900_000  # characters of a page that still gets Plotly's script, which is 1.9 MB packed
PLOT = "plot"  # class of a figure that a script draws
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


def figure(plots: Mapping[str, EmbeddedPlot], name: str, caption: str, drawn: Mapping[str, Any] | None = None) -> str:
    """Return a plot with links to its data, nothing where it was not drawn. drawn: the same as Plotly's JSON."""
    if name not in plots:
        return ""
    plot = plots[name]
    links = ", ".join(
        f"{text(file)}, beside the page" if file in plot.beside else download(file, data)
        for file, data in plot.data.items()
    )
    label = f'aria-label="{text(caption)}"'
    return (
        f'<figure>{_plot(drawn, label)}<div class="wide drawing" tabindex="0" role="region" {label}>'
        f"{_inlined(plot.svg, f'f-{name}-', caption)}</div>"
        f'<figcaption>{text(caption)}. <span class="files">Data: {links}</span></figcaption></figure>'
    )


def _plot(drawn: Mapping[str, Any] | None, label: str) -> str:
    """Return the place of a figure that the page's script draws, which is out of sight until it does."""
    if drawn is None or find_spec("plotly") is None:
        return ""
    return f'<div class="{PLOT}" hidden role="img" {label} data-figure="{text(json.dumps(drawn))}"></div>'


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
