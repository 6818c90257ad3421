"""All shortest paths between switches, as rows of directed links."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

from costmodel.errors import InfeasibleError, InputError
from costmodel.quantities import Indices

MOST_ROWS = 4_000_000  # path rows held at once: about 100 MB


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """The shortest paths of some pairs of switches.

    rows: one path each, links from first to last, -1 where it is shorter; pair p has `count[p]` rows from `first[p]`.
    """

    rows: Indices
    first: Indices
    count: Indices

    @property
    def hops(self) -> Indices:
        """Return the links of each row."""
        number: Indices = (self.rows >= 0).sum(axis=1)
        return number


@dataclass(frozen=True, slots=True, eq=False)
class Switches:
    """Switches and the directed links between them: link i leads from `tail[i]` to `head[i]`."""

    names: tuple[str, ...]
    tail: Indices
    head: Indices

    def link_name(self, link: int) -> str:
        """Return a directed link as `leaf0.3>spine0.1`."""
        return f"{self.names[self.tail[link]]}>{self.names[self.head[link]]}"


def switches_of(graph: nx.MultiGraph) -> Switches:
    """Return the switches of a fabric and a link for each direction of each cable between two of them."""
    names = tuple(name for name, says in graph.nodes(data=True) if not says["endpoint"])
    number = {name: at for at, name in enumerate(names)}
    pairs = [(number[a], number[b]) for a, b in graph.edges() if a in number and b in number]
    ends = np.array(pairs, np.intp).reshape(-1, 2)
    tail, head = np.concatenate([ends[:, 0], ends[:, 1]]), np.concatenate([ends[:, 1], ends[:, 0]])
    order = np.lexsort((head, tail))
    return Switches(names, tail[order], head[order])


def shortest_paths(switches: Switches, sources: Indices, targets: Indices) -> Paths:
    """Return all shortest paths from each source to the target at the same place.

    Paths of a pair are ordered with the first link's choice changing fastest, so that path i of a fat tree leaves by
    spine i modulo their number. Raises InfeasibleError where a pair is not connected.
    """
    count = len(switches.names)
    joined = csr_matrix((np.ones(len(switches.tail)), (switches.tail, switches.head)), (count, count))
    ends, target_row = np.unique(targets, return_inverse=True)
    distance = shortest_path(joined, unweighted=True, indices=ends) if len(ends) else np.zeros((0, count))
    apart = np.isinf(distance[target_row, sources])
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        raise InfeasibleError(
            f"no path leads from {switches.names[sources[at]]} to {switches.names[targets[at]]}: "
            "what has failed parts the network"
        )
    pair, node = np.arange(len(sources)), sources.copy()
    hops: list[Indices] = []
    digits: list[Indices] = []
    while not np.array_equal(node, targets[pair]):
        place, first, count_out, onward = _next_hops(switches, distance, node, target_row[pair])
        width = count_out[place]
        if width.sum() > MOST_ROWS:
            raise InputError.single(
                f"there are more than {MOST_ROWS:,} equal paths",
                hint="use fewer ranks, or a topology with fewer spines",
            )
        row = np.repeat(np.arange(len(node)), width)
        digit = np.arange(len(row)) - np.repeat(np.cumsum(width) - width, width)
        link = onward[first[place[row]] + digit]
        node = np.where(link < 0, node[row], switches.head[link])
        hops = [column[row] for column in hops] + [link]
        digits = [column[row] for column in digits] + [digit]
        pair = pair[row]
    order = np.lexsort((*digits, pair)) if digits else np.arange(len(pair))
    rows = np.stack(hops, axis=1)[order] if hops else np.empty((len(pair), 0), np.intp)
    counts = np.bincount(pair, minlength=len(sources))
    return Paths(rows, np.cumsum(counts) - counts, counts)


def _next_hops(
    switches: Switches, distance: npt.NDArray[np.float64], node: Indices, goal: Indices
) -> tuple[Indices, Indices, Indices, Indices]:
    """Return the links that lead closer to a goal, for each distinct (switch, goal) once.

    (place of each row among the distinct, first link there, how many, the links); at the goal there is one link, -1.
    """
    many = len(switches.names)
    keys, place = np.unique(goal * many + node, return_inverse=True)
    here, end = keys % many, keys // many
    degree = np.bincount(switches.tail, minlength=many)
    first_out = np.cumsum(degree) - degree
    arrived = distance[end, here] == 0
    width = np.where(arrived, 1, degree[here])
    key = np.repeat(np.arange(len(keys)), width)
    offset = np.arange(len(key)) - np.repeat(np.cumsum(width) - width, width)
    link = np.where(arrived[key], -1, first_out[here[key]] + offset)
    kept = (link < 0) | (distance[end[key], switches.head[link]] == distance[end[key], here[key]] - 1)
    count = np.bincount(key[kept], minlength=len(keys))
    return place, np.cumsum(count) - count, count, link[kept]
