"""How figures look: one style, colours that a colour-blind reader tells apart, axes in human units, the same bytes.

Colours: Okabe and Ito, Color Universal Design, jfly.uni-koeln.de/color, 2008.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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

WIDTH = 5.2  # inches: at half of it, as in two columns, text of 9 points stays readable
TICK_DIGITS = 3
LONGEST_NAME = 28  # characters of a name that a figure shows
LONGEST_TOLD = 200  # characters of what a figure tells under the pointer
_TELLING = "tells "  # what a group's name begins with until the file is made
_TOLD = re.compile(rb'<g id="tells ([^"]*)">')

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
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script; the SVG holds it
        yield


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def rendered(figure: Figure, form: Literal["svg", "png"]) -> bytes:
    """Return a figure as a file holds it: no date, no versions, so that the same figure gives the same bytes."""
    nothing: dict[str, Any] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[form]
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=nothing)
    return _TOLD.sub(rb"<g><title>\1</title>", file.getvalue()) if form == "svg" else file.getvalue()


def tell(artists: Iterable[Artist], told: str) -> None:
    """Let an SVG tell something where a pointer rests on the artists."""
    for artist in artists:
        artist.set_gid(f"{_TELLING}{name_of(told, LONGEST_TOLD)}")


def name_of(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a name as a figure shows it: on one line, printable, not longer than the figure can bear."""
    clean = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def unit_for(value: float, dimension: str) -> tuple[str, float]:
    """Return the unit in which a value of a dimension is short to read, and how many SI units that is."""
    if dimension == "ratio":
        return "%", parse("1 %", "ratio")
    unit = render(float(f"{value:.3g}"), dimension).partition(" ")[2] if value else ""
    return unit, parse(f"1 {unit}", dimension) if unit else 1.0


def linear_axis(axis: Axis, what: str, dimension: str, highest: float) -> None:
    """Label a linear axis with its unit, ticks in that unit."""
    unit, factor = unit_for(highest, dimension)
    axis.set_label_text(f"{what} ({unit})" if unit else what)
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(_formatter(lambda value: f"{value / factor:.6g}"))


def log_axis(axis: Axis, what: str, dimension: str, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis; each tick carries its unit. ends: lowest and highest value on it."""
    decades = math.log10(ends[1] / ends[0])
    axis.set_label_text(what)
    axis.set_major_locator(LogLocator(10, subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(_formatter(lambda value: tick(value, dimension)))


def marked_axis(
    axis: Axis, what: str, dimension: str, values: Sequence[float], places: Sequence[float] | None = None
) -> None:
    """Label an axis with its unit, ticks at the given values. places: where these stand (default: at the values)."""
    unit, factor = unit_for(max(values), dimension)
    axis.set_label_text(f"{what} ({unit})" if unit else what)
    axis.set_ticks(places or values, [_short(value / factor) for value in values])
    axis.set_minor_locator(NullLocator())


@cache
def tick(value: float, dimension: str) -> str:
    """Return a tick's value in its unit: `10 us`, `1 TFLOP/s`."""
    return setting(value, dimension, TICK_DIGITS)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _formatter(text: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _: text(float(value)))
