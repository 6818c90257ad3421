"""How many distinct nodes or ranks a token meets that goes to several experts."""

from __future__ import annotations

import functools

from costmodel.quantities import Count, Quantity, maximum, minimum, where


def targets_of(top_k: int, group_top_k: int, experts: Count, groups: Count, places: Count) -> Count:
    """Return the expected number of `places` that hold the `top_k` experts of a token, within `group_top_k` groups."""
    reachable, groups_per_place = experts * group_top_k / groups, groups / places
    visited: Quantity = 0.0
    for used in range(1, group_top_k + 1):
        ways = _binomial(groups_per_place, used) * _binomial(groups - groups_per_place, group_top_k - used)
        share = ways / _binomial(groups, group_top_k)
        visited = visited + share * (1 - _miss_probability(top_k, reachable, used * reachable / group_top_k))
    within_group = distinct_targets(top_k, reachable, minimum(experts / places, reachable))
    return where(groups_per_place >= 1, places * visited, within_group)


targets_of_point = functools.lru_cache(maxsize=1024)(targets_of)


def distinct_targets(choices: int, reachable: Count, per_target: Count) -> Count:
    """Return the expected number of distinct targets (nodes or ranks) that hold `choices` distinct experts.

        E = R/g * (1 - C(R-g, k) / C(R, k)),   C(R-g, k)/C(R, k) = prod_i (R-g-i)/(R-i)

    reachable: R equally likely experts.
    per_target: g experts per target. With V3's R = 128, k = 8: 3.63 nodes of 32 experts, 7.36 ranks of 4.
    """
    return reachable / per_target * (1 - _miss_probability(choices, reachable, per_target))


def _miss_probability(choices: int, reachable: Count, local: Count) -> Quantity:
    """Return the probability that none of `choices` distinct experts is among `local` of the `reachable` ones."""
    missed: Quantity = 1.0
    for i in range(choices):
        missed = missed * maximum(reachable - local - i, 0.0) / (reachable - i)
    return missed


def _binomial(items: Count, choices: int) -> Quantity:
    """Return items choose `choices`, zero where there are fewer items than choices."""
    ways: Quantity = 1.0
    for i in range(choices):
        ways = ways * maximum(items - i, 0.0) / (i + 1)
    return ways
