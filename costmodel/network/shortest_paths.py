"""All shortest paths between switches, as rows of directed links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from costmodel.errors import InfeasibleError, InputError
from costmodel.quantities import Indices
from costmodel.records import Record

if TYPE_CHECKING:
    import networkx as nx

MAX_ROWS = 4_000_000  # path rows held at once: about 100 MB


class Paths(Record):
    """The shortest paths of some pairs of switches.

    rows: one path each, links from first to last, -1 where it is shorter. Pair p has `count[p]` rows from `first[p]`.
    """

    rows: Indices
    first: Indices
    count: Indices

    @property
    def hops(self) -> Indices:
        """Return the links of each row."""
        number: Indices = (self.rows >= 0).sum(axis=1)
        return number


class Switches(Record):
    """Switches and the directed links between them: link i leads from `tail[i]` to `head[i]`."""

    names: tuple[str, ...]
    tail: Indices
    head: Indices

    def link_name(self, link: int) -> str:
        """Return a directed link as `leaf0.3>spine0.1`."""
        return f"{self.names[self.tail[link]]}>{self.names[self.head[link]]}"


def switches_of(graph: nx.MultiGraph) -> Switches:
    """Return the switches of a fabric and a link for each direction of each cable between two of them."""
    names = tuple(name for name, is_endpoint in graph.nodes(data="endpoint") if not is_endpoint)
    number = {name: i for i, name in enumerate(names)}
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
    from scipy.sparse import csr_matrix  # loads for a third of the time of a command that walks no paths
    from scipy.sparse.csgraph import shortest_path

    count = len(switches.names)
    adjacency = csr_matrix((np.ones(len(switches.tail)), (switches.tail, switches.head)), (count, count))
    ends, target_row = np.unique(targets, return_inverse=True)
    distance = shortest_path(adjacency, unweighted=True, indices=ends) if len(ends) else np.zeros((0, count))
    disconnected = np.flatnonzero(np.isinf(distance[target_row, sources]))
    if len(disconnected):
        source, target = (switches.names[side[disconnected[0]]] for side in (sources, targets))
        raise InfeasibleError(f"the failures disconnect the network: no path from {source} to {target}")
    pair, node = np.arange(len(sources)), sources.copy()
    hops: list[Indices] = []
    choices: list[Indices] = []
    while not np.array_equal(node, targets[pair]):
        case, first, width, onward = _next_hops(switches, distance, node, target_row[pair])
        ways = width[case]
        if ways.sum() > MAX_ROWS:
            raise InputError.single(
                f"there are more than {MAX_ROWS:,} equal paths",
                hint="use fewer ranks, or a topology with fewer spines",
            )
        row = np.repeat(np.arange(len(node)), ways)
        choice = np.arange(len(row)) - np.repeat(np.cumsum(ways) - ways, ways)
        link = onward[first[case[row]] + choice]
        node = np.where(link < 0, node[row], switches.head[link])
        hops = [column[row] for column in hops] + [link]
        choices = [column[row] for column in choices] + [choice]
        pair = pair[row]
    order = np.lexsort((*choices, pair)) if choices else np.arange(len(pair))
    rows = np.stack(hops, axis=1)[order] if hops else np.empty((len(pair), 0), np.intp)
    counts = np.bincount(pair, minlength=len(sources))
    return Paths(rows, np.cumsum(counts) - counts, counts)


def _next_hops(
    switches: Switches, distance: npt.NDArray[np.float64], node: Indices, goal: Indices
) -> tuple[Indices, Indices, Indices, Indices]:
    """Return the links that lead closer to a goal, for each distinct (switch, goal) once.

    (distinct case of each row, its first link, how many, the links). At the goal there is one link, -1.
    """
    count = len(switches.names)
    keys, case = np.unique(goal * count + node, return_inverse=True)
    here, end = keys % count, keys // count
    degree = np.bincount(switches.tail, minlength=count)
    first_out = np.cumsum(degree) - degree
    arrived = distance[end, here] == 0
    width = np.where(arrived, 1, degree[here])
    key = np.repeat(np.arange(len(keys)), width)
    offset = np.arange(len(key)) - np.repeat(np.cumsum(width) - width, width)
    link = np.where(arrived[key], -1, first_out[here[key]] + offset)
    closer = (link < 0) | (distance[end[key], switches.head[link]] == distance[end[key], here[key]] - 1)
    widths = np.bincount(key[closer], minlength=len(keys))
    return case, np.cumsum(widths) - widths, widths, link[closer]
