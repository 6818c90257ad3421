"""A fabric as a picture: switches in tiers or in a ring, and the links that a collective fills marked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import networkx as nx
from matplotlib.collections import LineCollection

from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, SKY, VERMILLION, canvas, display_name

TIERS = {"gpu": 0, "nic": 0, "leaf": 1, "chip": 1, "switch": 1, "spine": 2, "bridge": 2, "core": 3, "memory": 3}
_COLOURS = {
    "gpu": GREEN, "nic": GREEN, "leaf": BLUE, "chip": BLUE, "switch": BLUE, "router": BLUE, "spine": SKY, "bridge": SKY,
    "core": ORANGE, "memory": ORANGE,
}  # fmt: skip
_NEAR = 0.95  # share of the fullest link's time from which a link counts as a bottleneck, too
Cable = tuple[str, str]


def fabric_figure(graph: nx.Graph, busy: Mapping[Cable, float], caption: str) -> Plot:
    """Return the picture of a fabric. busy: share of the time for which a cable is full; those most so are marked."""
    places = _ring(graph) if any(_kind(node) == "router" for node in graph) else _tiers(graph)
    most = max(busy.values(), default=0.0)
    cables = [(a, b) for a, b in nx.Graph(graph).edges() if a in places and b in places]
    marked = [cable for cable in cables if most and _busy(busy, cable) >= _NEAR * most]
    figure, axes = canvas(2.8)
    for chosen, colour, width in ((cables, PALE, 0.5), (marked, VERMILLION, 1.1)):
        axes.add_collection(
            LineCollection([[places[a], places[b]] for a, b in chosen], colors=colour, linewidths=width)
        )
    for kind in sorted({_kind(node) for node in places}):
        there = [places[node] for node in places if _kind(node) == kind]
        shape = "o" if kind in ("gpu", "nic") else "s"
        size = 7.0 if kind in ("gpu", "nic") else 16.0
        across, along = zip(*there, strict=True)
        axes.scatter(across, along, size, marker=shape, color=_COLOURS[kind], label=kind, zorder=3)
    axes.plot([], [], color=VERMILLION, label=f"full {_NEAR * most:.0%} of the time or more")
    axes.set_title(display_name(caption, 90), fontsize=8.5, color=BLACK)
    axes.set_axis_off()
    if any(_kind(node) == "router" for node in places):
        axes.set_aspect("equal")
    figure.legend(
        loc="outside lower center", ncols=6, labelcolor=GREY, fontsize=7.0, handletextpad=0.4, columnspacing=1.0
    )
    rows = [(a, b, _busy(busy, (a, b)), (a, b) in marked) for a, b in cables]
    return Plot(figure, {"": table(("from", "to", "share of the time full", "bottleneck"), rows)})


def _busy(busy: Mapping[Cable, float], cable: Cable) -> float:
    """Return the share of a cable's fuller direction."""
    return max(busy.get(cable, 0.0), busy.get(cable[::-1], 0.0))


def _kind(node: str) -> str:
    found = re.match(r"[a-z]+", node)
    return found[0] if found else node


def _number(node: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", node))


def _tiers(graph: nx.Graph) -> dict[str, tuple[float, float]]:
    """Return places in rows, one above the other; endpoints stand in the order of their leaves."""
    rows: dict[int, list[str]] = {}
    for node in graph:
        rows.setdefault(TIERS[_kind(node)], []).append(node)
    places: dict[str, tuple[float, float]] = {}
    for tier, nodes in rows.items():
        order = (
            sorted(nodes, key=_number) if tier else sorted(nodes, key=lambda node: (_leaf(graph, node), _number(node)))
        )
        places |= {node: (_spread(at, len(order)), float(tier)) for at, node in enumerate(order)}
    return places


def _leaf(graph: nx.Graph, node: str) -> tuple[int, ...]:
    return min((_number(other) for other in graph[node]), default=())


def _spread(at: int, count: int) -> float:
    return (at + 0.5) / count


def _ring(graph: nx.Graph) -> dict[str, tuple[float, float]]:
    """Return places of routers on a circle, their endpoints left out."""
    routers: Sequence[str] = sorted((node for node in graph if _kind(node) == "router"), key=_number)
    angle = 2 * math.pi / len(routers)
    return {node: (math.cos(at * angle), math.sin(at * angle)) for at, node in enumerate(routers)}
