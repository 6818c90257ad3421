"""The look of figures: one style, colours that colour-blind readers can distinguish, axes in readable units.

Colours: Okabe and Ito, Color Universal Design, jfly.uni-koeln.de/color, 2008.
"""

from __future__ import annotations

import io
import math
import re
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

from costmodel.report.text import setting
from costmodel.units import parse, render

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, PALE = "#7F7F7F", "#D9D9D9"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
BOUNDS = {"compute": BLUE, "memory": ORANGE, "network": GREEN, "latency": PURPLE, "capacity": BLACK}

WIDTH = 5.2  # inches: text of 9 points stays readable at half the width, as in two columns
TICK_DIGITS = 3
LONGEST_NAME = 28  # characters of a name
LONGEST_TOOLTIP = 200  # characters of a tooltip
_TOOLTIP = "tooltip "  # prefix of a group's id, replaced in the SVG
_TOOLTIP_GROUP = re.compile(rb'<g id="tooltip ([^"]*)">')

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],  # the first comes with matplotlib
    "font.size": 9.0,
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
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
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


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


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


def label_rows(axes: Axes, names: Sequence[str], size: float = 9.0, longest: int = LONGEST_NAME) -> None:
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
    axis.set_major_formatter(_formatter(lambda value: f"{value / factor:.6g}"))


def log_axis(axis: Axis, what: str, dimension: str, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis, each tick with its unit. ends: lowest and highest value."""
    decades = math.log10(ends[1] / ends[0])
    axis.set_label_text(what)
    axis.set_major_locator(LogLocator(10, subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=12))
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
