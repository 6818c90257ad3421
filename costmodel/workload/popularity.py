"""How tokens spread over experts that are not equally full, and what that means for the fullest rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from costmodel.quantities import Array, Count, Quantity
from costmodel.workload.order_statistics import expected_maximum
from costmodel.workload.placement import balanced, sequential

ExpertLayout: TypeAlias = "tuple[float, ...]"  # experts, groups, ranks, nodes, redundant, exponent


@dataclass(frozen=True, slots=True)
class RoutingLaw:
    """What is no size of how tokens choose.

    load: `uniform`, `zipf` or `counts`; counts: tokens of each expert; placement: null is by load where there are
    replicas, else in order; group_top_k: groups that a token may choose from, null where routing is free.
    """

    load: str
    top_k: int
    counts: tuple[float, ...] | None = None
    placement: str | None = None
    group_top_k: int | None = None

    @property
    def is_random(self) -> bool:
        """Tell whether tokens are drawn; counted loads are as counted."""
        return self.load != "counts"


def expert_probabilities(choice: RoutingLaw, experts: int, exponent: float) -> Array:
    """Return for every expert the chance that a token chooses it; together `top_k`.

    uniform: k/E; counts: k * count / all counts; zipf: min(1, c * r^-exponent) for the expert of popularity r = 1, 2 …,
    where c makes the sum k: a token chooses an expert once at most. Experts are numbered such that the popular ones are
    spread over any number of ranks and nodes (van der Corput's sequence).
    """
    if choice.counts is not None:
        counted = np.array(choice.counts)
        return np.asarray(choice.top_k * counted / counted.sum(), dtype=np.float64)
    if choice.load != "zipf":
        return np.full(experts, choice.top_k / experts)
    weights = np.arange(1.0, experts + 1) ** -exponent
    wanted, certain = float(choice.top_k), 0
    while certain < choice.top_k and weights[certain] * wanted >= weights[certain:].sum():
        certain, wanted = certain + 1, wanted - 1
    rest = weights[certain:] * (wanted / weights[certain:].sum()) if certain < experts else weights[:0]
    return np.concatenate([np.ones(certain), rest])[np.argsort(_van_der_corput(experts), kind="stable")]


def _van_der_corput(count: int) -> Array:
    """Return the first elements of the sequence in base two: the binary digits of 0, 1, 2 … mirrored at the point."""
    numbers, digits = np.arange(count), max(count - 1, 1).bit_length()
    found = np.zeros(count)
    for digit in range(digits):
        found += ((numbers >> digit) & 1) * 0.5 ** (digit + 1)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class PlacedExperts:
    """Ranks with their experts: chances [ranks, slots a rank] that a token comes to each; what is alike stands once.

    kinds: the distinct ranks [kinds, slots]; alike: how many of each; mean, variance: rows of one token on a rank.
    """

    probabilities: Array
    kinds: Array
    multiplicity: Array
    mean: Array
    variance: Array


@lru_cache(maxsize=1024)
def place_experts(choice: RoutingLaw, structure: ExpertLayout) -> PlacedExperts | None:
    """Return the experts where they stand; null for a structure that cannot be (experts that do not divide).

    variance of the rows that a token gives a rank, from the chances p of its slots [Hájek, Annals of Mathematical
    Statistics 35(4), 1964; exact for equal chances]:

        A = sum over the rank of p*(1-p),   D = sum over all slots,   n slots:   v = (A - A^2/D) * n/(n-1)

    times that of equal experts in limited groups over that in free ones.
    """
    experts, groups, ranks, nodes, redundant, exponent = structure
    slots = (experts + redundant) / ranks
    if not all(float(each).is_integer() for each in (experts, groups, ranks, redundant, slots)) or experts % groups:
        return None
    if choice.counts is not None and len(choice.counts) != experts:
        return None
    each = expert_probabilities(choice, int(experts), exponent)
    if (choice.placement or ("balanced" if redundant else "sequential")) == "balanced":
        on_nodes = int(nodes) if float(nodes).is_integer() else 1
        found = balanced(each, int(ranks), int(redundant), int(groups), on_nodes)
    elif redundant:
        return None
    else:
        found = sequential(each, int(ranks))
    kinds, alike = np.unique(np.sort(found, axis=1), axis=0, return_counts=True)
    uncertain = kinds * (1 - kinds)
    own, count = uncertain.sum(axis=1), found.size
    everything = float(alike @ own)
    varies = everything > 0 and count > 1
    free = (own - own**2 / everything) * count / (count - 1) if varies else np.zeros_like(own)
    limited = _variance_in_groups(choice, experts, groups, ranks)
    return PlacedExperts(found, kinds, alike.astype(np.float64), kinds.sum(axis=1), np.maximum(free, 0.0) * limited)


def _variance_in_groups(choice: RoutingLaw, experts: float, groups: float, ranks: float) -> float:
    """Return the variance of a token's rows on a rank under limited groups over that under free choice.

    A token takes M of G groups, then k of their n experts. J of its groups stand on the rank, which holds q = G/ranks:

        q >= 1    Var[k*J/M] + E[k * J/M * (1 - J/M)] * (n-k)/(n-1),   J hypergeometric
        q < 1     a*v + a*(1-a)*m^2,   a = M/G;   m, v: mean and variance once the rank's group is among them
    """
    if choice.group_top_k is None or choice.group_top_k >= groups:
        return 1.0
    k, taken, held = choice.top_k, choice.group_top_k, experts / ranks
    reachable, q = experts * taken / groups, groups / ranks
    share = 1 / ranks
    open_choices = max(reachable - k, 0.0) / max(reachable - 1, 1.0)  # none where a token takes all that it can reach
    free = k * share * (1 - share) * (experts - k) / (experts - 1)
    if q >= 1:
        mean = taken / ranks
        spread = mean * (1 - share) * (groups - taken) / (groups - 1)
        inside = mean / taken - (spread + mean**2) / taken**2
        limited = (k / taken) ** 2 * spread + k * open_choices * inside
    else:
        chosen, part = taken / groups, held / reachable
        inside = k * part * (1 - part) * open_choices
        limited = chosen * inside + chosen * (1 - chosen) * (k * part) ** 2
    return limited / free if free > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Popularity:
    """Tokens of all ranks of an expert-parallel group, and the experts that they choose from.

    nodes: over which the ranks stand evenly; redundant: replicas beside the experts; exponent: of a Zipf law.
    """

    law: RoutingLaw
    experts: Count
    groups: Count
    ranks: Count
    nodes: Count
    redundant: Count
    exponent: Count
    tokens: Count

    @property
    def _structure(self) -> tuple[Quantity, ...]:
        return self.experts, self.groups, self.ranks, self.nodes, self.redundant, self.exponent

    def most_loaded_rank(self) -> tuple[Count, Count, Count]:
        """Return of the fullest rank: rows, experts that are hit, standard deviation of the rows of those.

        Rows and hit experts are each the expected maximum over ranks: the first sets the time of a full layer, the
        second of one that mostly reads weights.
        """
        rows, hit, deviation = _by_structure(_fullest_rank, self.law, self._structure, (self.tokens,), 3)
        return rows, hit, deviation

    def most_loaded_target(self, places: Count, chance: Quantity) -> Quantity:
        """Return the tokens that come to the fullest of `places` (nodes or ranks), each once, over those of the mean.

        chance: that a token comes to one of them if experts are alike; skewed ones share the exponent that makes
        1 - prod(1-p)^exponent right for equal p.
        """
        (load,) = _by_structure(_fullest_place, self.law, (*self._structure, places), (self.tokens, chance), 1)
        return load


def _fullest_rank(choice: RoutingLaw, structure: ExpertLayout, tokens: Array) -> Array:
    """Return rows, hit experts and deviation of the fullest rank [3, points]."""
    at = place_experts(choice, structure)
    if at is None:
        return np.full((3, len(tokens)), np.nan)
    slots = at.kinds.shape[1]
    mean = at.mean[:, None] * tokens
    missed = (1 - np.minimum(at.kinds[:, :, None], 1.0)) ** tokens
    hit = slots - missed.sum(axis=1)
    most_rows, most_hit = mean.max(axis=0), hit.max(axis=0)
    if choice.is_random:
        rows = expected_maximum(mean, at.variance[:, None] * tokens, at.multiplicity)
        full = expected_maximum(hit, (missed * (1 - missed)).sum(axis=1), at.multiplicity)
        most_rows = np.clip(rows, most_rows, np.maximum(tokens * min(choice.top_k, slots), most_rows))
        most_hit = np.clip(full, most_hit, slots)
    some = np.minimum(tokens * choice.top_k, 1.0)  # somewhere each token goes
    most_rows = np.maximum(most_rows, some)
    most_hit = np.clip(most_hit, 1.0, np.maximum(most_rows, 1.0))
    fullest = at.kinds[at.mean.argmax()]
    share = (fullest / max(float(fullest.sum()), 1e-300))[:, None]
    squares = ((share * most_rows) ** 2).sum(axis=0)
    if choice.is_random:
        squares = squares + (share * (1 - share) * most_rows).sum(axis=0)
    variance = squares / most_hit - (most_rows / most_hit) ** 2
    return np.stack([most_rows, most_hit, np.sqrt(np.maximum(variance, 0.0))])


def _fullest_place(choice: RoutingLaw, structure: ExpertLayout, tokens: Array, chance: Array) -> Array:
    """Return the load of the fullest place over the mean of equal experts [1, points]."""
    *rest, places = structure
    at = place_experts(choice, tuple(rest))
    if at is None or not places > 1:
        return np.full((1, len(tokens)), np.nan if at is None else 1.0)
    ranks, experts = len(at.probabilities), rest[0]
    starts = np.arange(0, ranks, max(int(ranks / places), 1))
    missed = np.add.reduceat(np.log1p(-np.minimum(at.probabilities, 1 - 1e-15)).sum(axis=1), starts)
    kinds, alike = np.unique(missed, return_counts=True)
    equal = experts / places * np.log1p(-min(choice.top_k / experts, 1 - 1e-15))
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log1p(-np.minimum(chance, 1 - 1e-15)) / equal
    visited = -np.expm1(kinds[:, None] * exponent)
    mean = visited * tokens
    most = mean.max(axis=0)
    if choice.is_random:
        drawn = expected_maximum(mean, mean * (1 - visited), alike.astype(np.float64))
        most = np.clip(drawn, most, tokens)
    return np.asarray((np.maximum(most, np.minimum(tokens, 1.0)) / (tokens * chance))[None], dtype=np.float64)


_Evaluated: TypeAlias = Callable[..., Array]


def _by_structure(
    function: _Evaluated, choice: RoutingLaw, structure: tuple[Quantity, ...], sizes: tuple[Quantity, ...], outputs: int
) -> list[Quantity]:
    """Return what `function` gives at every point; it is called once for each distinct structure."""
    if not any(isinstance(each, np.ndarray) for each in (*structure, *sizes)):
        return list(_at_one_point(function, choice, tuple(map(float, structure)), tuple(map(float, sizes))))
    shape = np.broadcast_shapes(*(np.shape(each) for each in (*structure, *sizes)))
    keys = np.stack([np.broadcast_to(each, shape).reshape(-1) for each in structure])
    points = [np.broadcast_to(np.asarray(each, dtype=np.float64), shape).reshape(-1) for each in sizes]
    distinct, member = np.unique(keys, axis=1, return_inverse=True)
    found = np.empty((outputs, keys.shape[1]))
    for number, key in enumerate(distinct.T):
        here = np.flatnonzero(member.reshape(-1) == number)
        found[:, here] = function(choice, tuple(map(float, key)), *(each[here] for each in points))
    return [row.reshape(shape) for row in found]


@lru_cache(maxsize=4096)
def _at_one_point(
    function: _Evaluated, choice: RoutingLaw, structure: ExpertLayout, sizes: tuple[float, ...]
) -> tuple[float, ...]:
    found = function(choice, structure, *(np.array([each]) for each in sizes))
    return tuple(float(each) for each in found[:, 0])
