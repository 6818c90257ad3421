"""The look of figures: one style, colours that colour-blind readers can distinguish, axes in readable units.

Colours: Okabe and Ito, Color Universal Design, jfly.uni-koeln.de/color, 2008.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from typing import Any, Literal, cast

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from costmodel.records import Record
from costmodel.report.page import harmless
from costmodel.report.text import setting
from costmodel.units import parse, render

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, PALE, QUIET = "#7F7F7F", "#D9D9D9", "#595959"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
BOUNDS = {"compute": BLUE, "memory": ORANGE, "network": GREEN, "latency": PURPLE, "capacity": BLACK}

SIZE = (10.667, 6.0)  # inches: a slide of 1,600 x 900 pixels
SMALL = 10.0  # points: of notes and of texts next to marks
TITLE, TITLE_LINE, NOTE_LINE = 16.0, 76, 118  # points of a title, characters of its line and of a note's
BETWEEN = 0.045  # of an axis' height: between the names of two curves, at least
TICK_DIGITS = 3
LONGEST_NAME = 34  # characters of a name
INTERVALS = "line or band: 80 % interval"
LONGEST_TOOLTIP = 200  # characters of a tooltip
_TOOLTIP = "tooltip "  # prefix of a group's id, replaced in the SVG
_TOOLTIP_GROUP = re.compile(rb'<g id="tooltip ([^"]*)">')

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],  # the first comes with matplotlib
    "font.size": 12.0,
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "costmodel",
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "lines.linewidth": 2.0,
    "hatch.linewidth": 0.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside in the project's style, whatever the user's own settings are."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _STYLE))
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script; the SVG has it
        yield


def canvas(title: str, note: str = "") -> tuple[Figure, Axes]:
    """Return a slide with one plot: what it shows as its title, how to read it at its foot."""
    figure, (axes,) = panels(title, 1, note)
    return figure, axes


def panels(title: str, count: int, note: str = "", *, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a slide with plots side by side, in as many rows. options: of `Figure.subplots`."""
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.04)  # type: ignore[call-arg, union-attr]
    lines = textwrap.wrap(display_name(title, 2 * TITLE_LINE), TITLE_LINE)
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=TITLE, fontweight="bold")
    if note:
        foot = "\n".join(textwrap.wrap(display_name(note, 2 * NOTE_LINE), NOTE_LINE))
        figure.supxlabel(foot, x=0.012, ha="left", fontsize=SMALL, color=QUIET)
    axes = figure.subplots(rows, -(-count // rows), squeeze=False, **options).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])


def name_curves(axes: Axes, curves: Iterable[tuple[float, float, str, str]]) -> None:
    """Write the name of each curve at its right end, none over another. curves: x and y of the end, name, colour."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [(*to_axes.transform((x, y)), name, colour) for x, y, name, colour in curves if name]
    heights: list[float] = []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        heights.append(max([y, *(height + BETWEEN for height in heights[-1:])]))
        axes.annotate(
            display_name(name), (x, heights[-1]), (7, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", color=colour, fontsize=SMALL + 1.0, annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip


def figure_bytes(figure: Figure, form: Literal["svg", "png"], data: Mapping[str, bytes] | None = None) -> bytes:
    """Return a figure as a file without date and versions: the same figure gives the same bytes.

    data: tables that it shows, by file name. The file carries a digest of each, `data:NAME=DIGEST`.
    """
    shown = " ".join(f"data:{name}={sha256(table).hexdigest()[:12]}" for name, table in (data or {}).items())
    metadata: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None, "Identifier": shown or None},
        "png": {"Software": None, **({"Comment": shown} if shown else {})},
    }[form]
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=metadata)
    content = file.getvalue()
    return _TOOLTIP_GROUP.sub(rb"<g><title>\1</title>", content) if form == "svg" else content


def add_tooltip(artists: Iterable[Artist], text: str) -> None:
    """Let an SVG show a text where a pointer hovers over the artists."""
    for artist in artists:
        artist.set_gid(f"{_TOOLTIP}{display_name(text, LONGEST_TOOLTIP)}")


def display_name(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line, printable, shortened to `longest` characters."""
    clean = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def label_rows(axes: Axes, names: Sequence[str], size: float = 12.0, longest: int = LONGEST_NAME) -> None:
    """Label the rows of a bar chart, the first one on top. size: of the text [points]."""
    axes.set_yticks(range(len(names)), [display_name(name, longest) for name in names], fontsize=size)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def unit_for(value: float, dimension: str) -> tuple[str, float]:
    """Return the unit in which a value is short, and that unit in SI."""
    if dimension == "ratio":
        return "%", parse("1 %", "ratio")
    unit = render(float(f"{value:.3g}"), dimension).partition(" ")[2] if value else ""
    return unit, parse(f"1 {unit}", dimension) if unit else 1.0


def linear_axis(axis: Axis, what: str, dimension: str, highest: float) -> None:
    """Label a linear axis with its unit."""
    unit, factor = unit_for(highest, dimension)
    axis.set_label_text(f"{what} ({unit})" if unit else what)
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(_formatter(lambda value: f"{value / factor:,.6g}"))


def log_axis(axis: Axis, what: str, dimension: str, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis, each tick with its unit. ends: lowest and highest value."""
    decades = math.log10(ends[1] / ends[0])
    axis.set_label_text(what)
    axis.set_major_locator(
        LogLocator(10, subs=(1.0,) if decades > 3.5 else (1.0, 3.0) if decades > 2 else (1.0, 2.0, 5.0), numticks=12)
    )
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(_formatter(lambda value: tick(value, dimension)))


def marked_axis(
    axis: Axis, what: str, dimension: str, values: Sequence[float], positions: Sequence[float] | None = None
) -> None:
    """Label an axis with its unit and ticks at some values. positions: of these ticks (default: the values)."""
    unit, factor = unit_for(max(values), dimension)
    axis.set_label_text(f"{what} ({unit})" if unit else what)
    axis.set_ticks(positions or values, [_short(value / factor) for value in values])
    axis.set_minor_locator(NullLocator())


@cache
def tick(value: float, dimension: str) -> str:
    """Return a tick's value in its unit: `10 us`, `1 TFLOP/s`."""
    return setting(value, dimension, TICK_DIGITS)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _formatter(text: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _: text(float(value)))


# ---- A figure with its data ------------------------------------------------------------------------------------------


class Plot(Record):
    """A figure and its data. data: suffix of the file name -> table as CSV."""

    figure: Figure
    data: Mapping[str, bytes]


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Return a CSV table: numbers to full precision, nothing for none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(harmless, headings))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else harmless(str(value))
