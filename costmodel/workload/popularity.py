"""How tokens spread over experts that are not equally popular, and what that means for the most loaded rank."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np

from costmodel.quantities import Array, Count, Indices, Quantity, distinct_rows
from costmodel.records import Record, ValueRecord
from costmodel.workload.order_statistics import expected_maximum


class ExpertLayout(NamedTuple):
    """Sizes that decide where experts are placed. nodes: hold equally many ranks; skew: of the law of popularity."""

    experts: float
    groups: float
    ranks: float
    nodes: float
    redundant: float
    skew: float


_MOST_KEPT = 2**15  # sizes of a layout whose results are remembered
DRAWN = "uniform"  # the load of experts that are equally likely
LEARNED = "lognormal"  # that of a trained router


class RoutingLaw(ValueRecord):
    """How tokens choose experts, whatever the sizes.

    load: `uniform`, `zipf`, `lognormal` or `counts`.
    counts: tokens of each expert.
    placement: `balanced` or `sequential` (null: balanced with replicas).
    group_top_k: groups that a token may use (null: routing is free).
    """

    load: str
    top_k: int
    counts: tuple[float, ...] | None = None
    placement: str | None = None
    group_top_k: int | None = None

    @property
    def is_random(self) -> bool:
        """Tell whether tokens are drawn. Measured counts are exact."""
        return self.load != "counts"


def expert_probabilities(law: RoutingLaw, experts: int, skew: float) -> Array:
    """Return for every expert the probability that a token chooses it. Together `top_k`.

    uniform: k/E.
    counts: k * count / all counts.
    zipf: min(1, c * r^-skew) for the expert of popularity rank r, c such that the sum is k: a token chooses an expert
    at most once.
    lognormal: min(1, c * exp(skew * z)), z the quantile (E + 1/2 - r)/E of the standard normal distribution. Experts
    are numbered so that the popular ones spread over any number of ranks and nodes (van der Corput's sequence).
    """
    if law.counts is not None:
        counts = np.array(law.counts)
        return np.asarray(law.top_k * counts / counts.sum(), dtype=np.float64)
    if law.load not in ("zipf", LEARNED):
        return np.full(experts, law.top_k / experts)
    ranks = np.arange(1.0, experts + 1)
    weights = ranks**-skew if law.load == "zipf" else np.exp(skew * _normal_quantiles(experts))
    remaining, certain = float(law.top_k), 0
    while certain < law.top_k and weights[certain] * remaining >= weights[certain:].sum():
        certain, remaining = certain + 1, remaining - 1
    rest = weights[certain:] * (remaining / weights[certain:].sum()) if certain < experts else weights[:0]
    return np.concatenate([np.ones(certain), rest])[np.argsort(_van_der_corput(experts), kind="stable")]


def _normal_quantiles(count: int) -> Array:
    """Return as many quantiles of the standard normal distribution as lie in the middle of equal shares, descending."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((count - 0.5 - index) / count) for index in range(count)])


def _van_der_corput(count: int) -> Array:
    """Return the first elements of the sequence in base two: the binary digits of 0, 1, 2 … mirrored at the point."""
    numbers, digits = np.arange(count), max(count - 1, 1).bit_length()
    sequence = np.zeros(count)
    for digit in range(digits):
        sequence += ((numbers >> digit) & 1) * 0.5 ** (digit + 1)
    return sequence


class PlacedExperts(Record):
    """Experts on their ranks, equal ranks once.

    probabilities: that a token comes to each slot [ranks, slots per rank].
    kinds: the distinct ranks [kinds, slots].
    multiplicity: ranks of each kind.
    mean, variance: rows of one token on a rank of each kind.
    """

    probabilities: Array
    kinds: Array
    multiplicity: Array
    mean: Array
    variance: Array


@lru_cache(maxsize=1024)
def place_experts(law: RoutingLaw, layout: ExpertLayout) -> PlacedExperts | None:
    """Return the experts on their ranks, null for an impossible layout (experts that do not divide).

    Variance of the rows that a token gives a rank, from the probabilities p of its slots [Hájek, Annals of Mathematical
    Statistics 35(4), 1964; exact for equal probabilities]:

        A = sum over the rank of p*(1-p),   D = sum over all slots,   n slots:   v = (A - A^2/D) * n/(n-1)

    times the ratio for equal experts of limited to free groups.
    """
    experts, groups, ranks, nodes, redundant, skew = layout
    slots = (experts + redundant) / ranks
    if not all(float(size).is_integer() for size in (experts, groups, ranks, redundant, slots)) or experts % groups:
        return None
    if law.counts is not None and len(law.counts) != experts:
        return None
    loads = expert_probabilities(law, int(experts), skew)
    if (law.placement or ("balanced" if redundant else "sequential")) == "balanced":
        whole_nodes = int(nodes) if float(nodes).is_integer() else 1
        placed = balanced(loads, int(ranks), int(redundant), int(groups), whole_nodes)
    elif redundant:
        return None
    else:
        placed = sequential(loads, int(ranks))
    kinds, multiplicity = np.unique(np.sort(placed, axis=1), axis=0, return_counts=True)
    rank_spread, count = (kinds * (1 - kinds)).sum(axis=1), placed.size
    spread = float(multiplicity @ rank_spread)
    varies = spread > 0 and count > 1
    free = (rank_spread - rank_spread**2 / spread) * count / (count - 1) if varies else np.zeros_like(rank_spread)
    variance = np.maximum(free, 0.0) * _variance_in_groups(law, experts, groups, ranks)
    return PlacedExperts(placed, kinds, multiplicity.astype(np.float64), kinds.sum(axis=1), variance)


def _variance_in_groups(law: RoutingLaw, experts: float, groups: float, ranks: float) -> float:
    """Return the variance of a token's rows on a rank with limited groups over that with free choice.

    A token takes M of G groups, then k of their n experts. J of its groups are on the rank, which has q = G/ranks:

        q >= 1    Var[k*J/M] + E[k * J/M * (1 - J/M)] * (n-k)/(n-1),   J hypergeometric
        q < 1     a*v + a*(1-a)*m^2,   a = M/G;   m, v: mean and variance once the rank's group is among them
    """
    if law.group_top_k is None or law.group_top_k >= groups:
        return 1.0
    k, taken, local = law.top_k, law.group_top_k, experts / ranks
    reachable, q = experts * taken / groups, groups / ranks
    share = 1 / ranks
    correction = max(reachable - k, 0.0) / max(reachable - 1, 1.0)  # of draws without replacement
    free = k * share * (1 - share) * (experts - k) / (experts - 1)
    if q >= 1:
        mean = taken / ranks
        spread = mean * (1 - share) * (groups - taken) / (groups - 1)
        inside = mean / taken - (spread + mean**2) / taken**2
        limited = (k / taken) ** 2 * spread + k * correction * inside
    else:
        chosen, part = taken / groups, local / reachable
        inside = k * part * (1 - part) * correction
        limited = chosen * inside + chosen * (1 - chosen) * (k * part) ** 2
    return limited / free if free > 0 else 1.0


class Popularity(Record, kw_only=True):
    """Tokens of all ranks of an expert-parallel group, and the experts that they choose from (as in `ExpertLayout`)."""

    law: RoutingLaw
    experts: Count
    groups: Count
    ranks: Count
    nodes: Count
    redundant: Count
    skew: Count
    tokens: Count

    @property
    def _layout(self) -> tuple[Quantity, ...]:
        return self.experts, self.groups, self.ranks, self.nodes, self.redundant, self.skew

    def most_loaded_rank(self) -> tuple[Count, Count, Count]:
        """Return the most loaded rank's rows, active experts, and standard deviation of the rows of those.

        Rows and active experts are each the expected maximum over ranks: the first sets the time of a full layer, the
        second of one that mostly reads weights.
        """
        rows, active, rows_std = _by_layout(_most_loaded_rank, self.law, self._layout, (self.tokens,), 3)
        return rows, active, rows_std

    def most_loaded_target(self, targets: Count, probability: Quantity) -> Quantity:
        """Return the distinct tokens that reach the most loaded of `targets` (nodes or ranks), over the mean.

        probability: that a token reaches one of them if experts are equal. Unequal ones share the exponent that makes 1
        - prod(1-p)^exponent right for equal p.
        """
        (load,) = _by_layout(_most_loaded_target, self.law, (*self._layout, targets), (self.tokens, probability), 1)
        return load


def _most_loaded_rank(law: RoutingLaw, layout: tuple[float, ...], tokens: Array) -> Array:
    """Return rows, active experts and standard deviation of the most loaded rank [3, points]."""
    placed = place_experts(law, ExpertLayout(*layout))
    if placed is None:
        return np.full((3, len(tokens)), np.nan)
    slots = placed.kinds.shape[1]
    mean_rows = placed.mean[:, None] * tokens
    missed = (1 - np.minimum(placed.kinds[:, :, None], 1.0)) ** tokens
    mean_active = slots - missed.sum(axis=1)
    rows, active = mean_rows.max(axis=0), mean_active.max(axis=0)
    if law.is_random:
        drawn_rows = expected_maximum(mean_rows, placed.variance[:, None] * tokens, placed.multiplicity)
        drawn_active = expected_maximum(mean_active, (missed * (1 - missed)).sum(axis=1), placed.multiplicity)
        rows = np.clip(drawn_rows, rows, np.maximum(tokens * min(law.top_k, slots), rows))
        active = np.clip(drawn_active, active, slots)
    rows = np.maximum(rows, np.minimum(tokens * law.top_k, 1.0))  # each token goes somewhere
    active = np.clip(active, 1.0, np.maximum(rows, 1.0))
    most_loaded = placed.kinds[placed.mean.argmax()]
    share = (most_loaded / max(float(most_loaded.sum()), 1e-300))[:, None]
    squares = ((share * rows) ** 2).sum(axis=0)
    if law.is_random:
        squares = squares + (share * (1 - share) * rows).sum(axis=0)
    variance = squares / active - (rows / active) ** 2
    return np.stack([rows, active, np.sqrt(np.maximum(variance, 0.0))])


def _most_loaded_target(law: RoutingLaw, layout: tuple[float, ...], tokens: Array, probability: Array) -> Array:
    """Return the load of the most loaded target over the mean of equal experts [1, points]."""
    *rest, targets = layout
    placed = place_experts(law, ExpertLayout(*rest))
    if placed is None or not targets > 1:
        return np.full((1, len(tokens)), np.nan if placed is None else 1.0)
    ranks, experts = len(placed.probabilities), rest[0]
    starts = np.arange(0, ranks, max(int(ranks / targets), 1))
    log_missed = np.log1p(-np.minimum(placed.probabilities, 1 - 1e-15)).sum(axis=1)
    kinds, multiplicity = np.unique(np.add.reduceat(log_missed, starts), return_counts=True)
    equal = experts / targets * np.log1p(-min(law.top_k / experts, 1 - 1e-15))
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log1p(-np.minimum(probability, 1 - 1e-15)) / equal
    visited = -np.expm1(kinds[:, None] * exponent)
    mean = visited * tokens
    largest = mean.max(axis=0)
    if law.is_random:
        drawn = expected_maximum(mean, mean * (1 - visited), multiplicity.astype(np.float64))
        largest = np.clip(drawn, largest, tokens)
    load = np.maximum(largest, np.minimum(tokens, 1.0)) / (tokens * probability)
    return np.asarray(load[None], dtype=np.float64)


_Evaluated: TypeAlias = Callable[..., Array]
_Sizes: TypeAlias = "tuple[float, ...]"


def _by_layout(
    function: _Evaluated, law: RoutingLaw, layout: tuple[Quantity, ...], sizes: tuple[Quantity, ...], outputs: int
) -> list[Quantity]:
    """Return what `function` gives at every point. It is called once per distinct layout, for distinct sizes."""
    if not any(isinstance(value, np.ndarray) for value in (*layout, *sizes)):
        return list(_at_one_point(function, law, tuple(map(float, layout)), tuple(map(float, sizes))))
    shape = np.broadcast_shapes(*(np.shape(value) for value in (*layout, *sizes)))
    columns = [np.broadcast_to(np.asarray(value, np.float64), shape).reshape(-1) for value in (*layout, *sizes)]
    first, index = distinct_rows(columns)
    rows = [column[first] for column in columns]
    keys, points = rows[: len(layout)], rows[len(layout) :]
    first_of, member = distinct_rows(keys)
    results = np.empty((outputs, len(first)))
    for number, at in enumerate(first_of.tolist()):
        chosen = np.flatnonzero(member == number)
        layout_at = tuple(float(key[at]) for key in keys)
        known = _kept(function, law, layout_at)
        if len(known) > _MOST_KEPT:
            known.clear()
        asked = list(zip(*(value[chosen].tolist() for value in points), strict=True))
        answers = {size: known[size] for size in asked if size in known}
        new = [size for size in asked if size not in answers]
        if new:
            made = function(law, layout_at, *np.array(new).T)
            fresh: dict[_Sizes, _Sizes] = dict(zip(new, map(tuple, made.T.tolist()), strict=True))
            answers |= fresh
            known.update(fresh)
        results[:, chosen] = np.transpose([answers[size] for size in asked])
    return [row[index].reshape(shape) for row in results]


@lru_cache(maxsize=64)
def _kept(function: _Evaluated, law: RoutingLaw, layout: _Sizes) -> dict[_Sizes, _Sizes]:  # noqa: ARG001
    """Return what a function gave of one layout, by sizes: engines meet the same ones. Filled by the caller."""
    return {}


@lru_cache(maxsize=4096)
def _at_one_point(
    function: _Evaluated, law: RoutingLaw, layout: tuple[float, ...], sizes: tuple[float, ...]
) -> tuple[float, ...]:
    results = function(law, layout, *(np.array([size]) for size in sizes))
    return tuple(float(value) for value in results[:, 0])


# ---- Placement of experts and their replicas: sequential, or balanced by load as DeepSeek's EPLB does ----------------
#
# EPLB: github.com/deepseek-ai/EPLB (hierarchical and global load balancing). Redundant experts: arXiv 2412.19437,
# section 3.4. Both steps are greedy and deterministic.


def sequential(loads: Array, ranks: int) -> Array:
    """Return the loads of the slots of every rank, experts placed in their order [ranks, slots per rank]."""
    return loads.reshape(ranks, -1)


def balanced(loads: Array, ranks: int, redundant: int, groups: int, nodes: int) -> Array:
    """Return the loads of the slots of every rank after replication and packing [ranks, slots per rank].

    Groups are packed on nodes, then each node replicates its experts and packs the replicas on its ranks. Where nodes
    do not divide the groups, all ranks count as one node and all experts as one group.
    """
    if groups % nodes or ranks % nodes or (len(loads) + redundant) % nodes:
        groups = nodes = 1
    by_group = loads.reshape(groups, -1)
    placed = []
    for members in pack(by_group.sum(axis=1), nodes):
        slots = replicate(by_group[members].reshape(-1), (len(loads) + redundant) // nodes)
        placed.append(slots[pack(slots, ranks // nodes)])
    return np.concatenate(placed)


def replicate(loads: Array, slots: int) -> Array:
    """Return the load of each of `slots` replicas. Each further one goes to the expert with most load per replica."""
    replicas = np.ones(len(loads))
    owner = [*range(len(loads))]
    for _ in range(slots - len(loads)):
        most_loaded = int((loads / replicas).argmax())
        replicas[most_loaded] += 1
        owner.append(most_loaded)
    return np.asarray((loads / replicas)[owner])


def pack(loads: Array, packs: int) -> Indices:
    """Return the items of each pack, equally many in all: the largest first, into the least loaded pack.

    [packs, items per pack]. With one item per pack, items stay in their order.
    """
    size = len(loads) // packs
    if size == 1:
        return np.arange(packs).reshape(packs, 1)
    packed: list[list[int]] = [[] for _ in range(packs)]
    open_packs = [(0.0, i) for i in range(packs)]
    for item in np.argsort(-loads, kind="stable"):
        load, i = heapq.heappop(open_packs)
        packed[i].append(int(item))
        if len(packed[i]) < size:
            heapq.heappush(open_packs, (load + float(loads[item]), i))
    return np.array(packed)
