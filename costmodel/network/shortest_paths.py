"""All shortest paths between switches, as rows of directed links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.quantities import Array, Indices
from costmodel.records import Record

if TYPE_CHECKING:
    import networkx as nx

MAX_ROWS = 4_000_000  # path rows held at once: about 100 MB


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


class Paths(Record):
    """The shortest paths of some pairs of switches, one by one.

    rows: one path each, links from first to last, -1 where it is shorter. Pair p has `count[p]` rows from `first[p]`.
    """

    rows: Indices
    first: Indices
    count: Indices

    @property
    def hops(self) -> Indices:
        """Return the links of a path of each pair."""
        number: Indices = (self.rows[self.first] >= 0).sum(axis=1)
        return number

    def links(self, pair: Indices, number: Indices) -> Indices:
        """Return the links of the path of some number of each of some pairs, by [pair, hop]."""
        rows: Indices = self.rows[self.first[pair] + number]
        return rows

    def listed(self) -> Paths:
        """Return all paths one by one."""
        return self


class NextHops(Record):
    """Shortest paths of some pairs of switches, by the links from each switch that lead closer to a goal.

    All paths of a pair have as many links to choose from after as many hops, so that a path follows from its number.

    source, goal: of each pair, the goal by its number among `goals`.
    hops: links of each path of a pair.
    case: of each (goal, switch) that a path passes, its number, else -1.
    ways: paths from each case to its goal.
    first, width: links of each case: `width` of `onward` from `first` on, none at the goal.
    after: the case at the end of each link of `onward`.
    """

    switches: Switches
    goals: Indices
    source: Indices
    goal: Indices
    hops: Indices
    case: Indices
    ways: Indices
    first: Indices
    width: Indices
    onward: Indices
    after: Indices

    @property
    def count(self) -> Indices:
        """Return the paths of each pair."""
        number: Indices = self.ways[self.case[self.goal, self.source]]
        return number

    def links(self, pair: Indices, number: Indices) -> Indices:
        """Return the links of the path of some number of each of some pairs, by [pair, hop], -1 behind its last.

        The first link's choice changes fastest from one number to the next.
        """
        case, rest = self.case[self.goal, self.source][pair], number
        rows = np.full((len(pair), int(self.hops.max(initial=0))), -1, np.intp)
        for hop in range(rows.shape[1]):
            width = self.width[case]
            rest, choice = np.divmod(rest, np.maximum(width, 1))
            on_way = width > 0
            link = (self.first[case] + choice)[on_way]
            rows[on_way, hop], case = self.onward[link], case.copy()
            case[on_way] = self.after[link]
        return rows

    def listed(self) -> Paths:
        """Return all paths one by one. Raises InputError where they are too many to hold."""
        count = self.count
        check_number(count)
        rows = self.links(np.repeat(np.arange(len(count)), count), places_within(count))
        return Paths(rows, np.cumsum(count) - count, count)


def check_number(count: Indices) -> None:
    """Raise InputError where there are too many paths to hold. count: of each pair."""
    if count.sum() > MAX_ROWS:
        raise InputError.single(
            f"there are more than {MAX_ROWS:,} equal paths", hint="use fewer ranks, or a topology with fewer spines"
        )


def shortest_paths(switches: Switches, sources: Indices, targets: Indices) -> Paths | NextHops:
    """Return all shortest paths from each source to the target of the same index.

    Paths of a pair are ordered with the first link's choice changing fastest, so that path i of a fat tree leaves by
    spine i modulo their number. Raises InfeasibleError where a pair is not connected, and InputError where paths differ
    in their choices, as around failures, and are too many to hold.
    """
    from scipy.sparse import csr_matrix  # loads for a third of the time of a command that walks no paths
    from scipy.sparse.csgraph import shortest_path

    count = len(switches.names)
    adjacency = csr_matrix((np.ones(len(switches.tail)), (switches.tail, switches.head)), (count, count))
    goals, goal = np.unique(targets, return_inverse=True)
    distance = shortest_path(adjacency, unweighted=True, indices=goals) if len(goals) else np.zeros((0, count))
    disconnected = np.flatnonzero(np.isinf(distance[goal, sources]))
    if len(disconnected):
        source, target = (switches.names[side[disconnected[0]]] for side in (sources, targets))
        raise InfeasibleError(f"the failures disconnect the network: no path from {source} to {target}")
    keys, width, onward = _onward(switches, distance, goal * count + sources)
    case, first = np.full(distance.size, -1), np.cumsum(width) - width
    case[keys] = np.arange(len(keys))
    after = case[np.repeat(keys // count, width) * count + switches.head[onward]]
    ways, is_regular = _ways(distance.ravel()[keys], first, width, after)
    hops = distance[goal, sources].astype(np.intp)
    links_of = NextHops(
        switches, goals, sources, goal, hops, case.reshape(distance.shape), ways, first, width, onward, after
    )
    return links_of if is_regular else _one_by_one(links_of)


def _onward(switches: Switches, distance: Array, starts: Indices) -> tuple[Indices, Indices, Indices]:
    """Return each (goal, switch) that a path passes, how many links lead closer to the goal there, and these links.

    starts: (goal, switch) where paths begin. Both are one number: goal * switches + switch.
    """
    count = len(switches.names)
    degree = np.bincount(switches.tail, minlength=count)
    first_out = np.cumsum(degree) - degree
    passed, reached = np.zeros(distance.size, bool), np.zeros(distance.size, bool)
    reached[starts] = True
    parts: list[tuple[Indices, Indices, Indices]] = []
    while (keys := np.flatnonzero(reached & ~passed)).size:
        passed[keys] = True
        goal, here = np.divmod(keys, count)
        owner = np.repeat(np.arange(len(keys)), degree[here])
        link = np.arange(len(owner)) - np.repeat(np.cumsum(degree[here]) - degree[here], degree[here])
        link += first_out[here[owner]]
        closer = distance[goal[owner], switches.head[link]] == distance[goal, here][owner] - 1
        owner, link = owner[closer], link[closer]
        reached[goal[owner] * count + switches.head[link]] = True
        parts.append((keys, np.bincount(owner, minlength=len(keys)), link))
    empty = np.empty(0, np.intp)
    keys, width, onward = (
        (np.concatenate([empty, *each]) for each in zip(*parts, strict=True)) if parts else (empty,) * 3
    )
    return keys, width, onward


def _ways(distance: Array, first: Indices, width: Indices, after: Indices) -> tuple[Indices, bool]:
    """Return the paths from each case to its goal, and whether there are as many whichever link comes first.

    distance: of each case to its goal.
    first, width: links of each case.
    after: the case at the end of each link.
    """
    ways, is_regular = np.ones(len(distance), np.intp), True
    for hops in range(1, int(distance.max(initial=0.0)) + 1):
        cases = np.flatnonzero(distance == hops)
        link = np.repeat(first[cases], width[cases]) + places_within(width[cases])
        onward, starts = ways[after[link]], np.cumsum(width[cases]) - width[cases]
        if len(cases):
            ways[cases] = np.add.reduceat(onward, starts)
            is_regular &= bool((np.maximum.reduceat(onward, starts) == np.minimum.reduceat(onward, starts)).all())
    return ways, is_regular


def places_within(counts: Indices) -> Indices:
    """Return 0, 1, ... for each of some groups, one after the other. counts: of each group."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _one_by_one(links_of: NextHops) -> Paths:
    """Return all paths one by one, where their choices differ."""
    count = links_of.count
    check_number(count)
    pair, node = np.arange(len(count)), links_of.source
    hops: list[Indices] = []
    choices: list[Indices] = []
    for _ in range(int(links_of.hops.max(initial=0))):
        case = links_of.case[links_of.goal[pair], node]
        ways = np.maximum(links_of.width[case], 1)  # at the goal there is one link, -1
        row, choice = np.repeat(np.arange(len(node)), ways), places_within(ways)
        on_way = links_of.width[case[row]] > 0
        link = np.full(len(row), -1)
        link[on_way] = links_of.onward[(links_of.first[case[row]] + choice)[on_way]]
        node, pair = np.where(on_way, links_of.switches.head[link], node[row]), pair[row]
        hops, choices = ([*(column[row] for column in each), new] for each, new in ((hops, link), (choices, choice)))
    order = np.lexsort((*choices, pair)) if choices else np.arange(len(pair))
    rows = np.stack(hops, axis=1)[order] if hops else np.empty((len(pair), 0), np.intp)
    return Paths(rows, np.cumsum(count) - count, count)
