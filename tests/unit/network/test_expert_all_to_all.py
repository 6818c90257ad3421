"""The expert all-to-all: expected copies, which link binds, and what the fullest rank adds."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from builders import links_of

from costmodel.network.expert_all_to_all import expert_all_to_all_time
from costmodel.records import replace
from costmodel.workload.expert_targets import distinct_targets
from costmodel.workload.operators import ExpertAllToAll, Group

TOKENS, BYTES = 4096.0, 7168.0


def exchange(
    ranks: float, mode: str = "normal", load: float = 1.0, groups: tuple[float, int] = (8.0, 4)
) -> ExpertAllToAll:
    """Return V3's dispatch: 256 experts in eight groups, of which a token may use four; eight copies."""
    return ExpertAllToAll(
        "dispatch",
        tokens=TOKENS,
        token_bytes=BYTES,
        top_k=8,
        experts=256.0,
        expert_groups=groups[0],
        group_top_k=groups[1],
        group=Group(ranks),
        mode=mode,
        expert_load=load,
        family="moe_dispatch",
    )


def v3_nodes(nodes: int) -> float:
    """Return the expected nodes of a token that picks four of eight groups, then eight of their 128 experts."""
    per_node, total = 8 // nodes, 0.0
    for chosen in combinations(range(8), 4):
        held = [sum(group // per_node == node for group in chosen) for node in range(nodes)]
        total += sum(1 - comb(128 - 32 * count, 8) / comb(128, 8) for count in held)
    return total / comb(8, 4)


def test_v3_s_tokens_reach_3_63_nodes_and_7_36_ranks() -> None:
    assert distinct_targets(8, 128.0, 32.0) == pytest.approx(3.63, abs=0.005)
    assert distinct_targets(8, 128.0, 4.0) == pytest.approx(7.36, abs=0.005)


def test_distinct_targets_are_the_mean_over_all_choices() -> None:
    choices = list(combinations(range(8), 3))
    mean = sum(len({expert // 2 for expert in choice}) for choice in choices) / len(choices)
    assert distinct_targets(3, 8.0, 2.0) == pytest.approx(mean)


def test_one_expert_a_target_means_a_target_each_and_one_target_means_one() -> None:
    assert distinct_targets(8, 128.0, 1.0) == pytest.approx(8)
    assert distinct_targets(8, 128.0, 128.0) == 1
    np.testing.assert_allclose(np.asarray(distinct_targets(8, 128.0, np.array([1.0, 128.0]))), [8, 1])


def test_at_ep64_the_nic_carries_a_copy_for_every_other_node() -> None:
    time = expert_all_to_all_time(exchange(64.0), links_of(64.0, 8.0, inner=1e15))
    assert time == pytest.approx(TOKENS * v3_nodes(8) * 7 / 8 * BYTES / 50e9 + 3e-6, rel=1e-9)


def test_at_ep64_a_slow_inner_link_carries_a_copy_for_every_other_rank() -> None:
    time = expert_all_to_all_time(exchange(64.0), links_of(64.0, 8.0, inner=1e9))
    assert time == pytest.approx(TOKENS * 7.3576 * 7 / 8 * BYTES / 1e9 + 3e-6, rel=1e-3)


def test_at_ep16_forwarding_over_nvlink_binds() -> None:
    """Two nodes: about one copy leaves, but six land on ranks over NVLink (of an H800: 200 GB/s against 50)."""
    plain, faster_nic, faster_link = (
        expert_all_to_all_time(exchange(16.0), links_of(16.0, 8.0, inner, outer))
        for inner, outer in ((200e9, 50e9), (200e9, 500e9), (400e9, 50e9))
    )
    assert faster_nic == plain
    assert faster_link < plain


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_tokens_reach_the_nodes_that_their_groups_stand_on(nodes: int) -> None:
    """Groups are chosen without regard to nodes: with two groups a node, four groups seldom share two nodes."""
    ranks = 8.0 * nodes
    time = expert_all_to_all_time(exchange(ranks), links_of(ranks, 8.0, inner=1e15))
    copies = v3_nodes(nodes) * (1 - 1 / nodes)
    assert time == pytest.approx(TOKENS * copies * BYTES / 50e9 + 3e-6, rel=1e-3)


def test_low_latency_sends_a_copy_to_every_expert() -> None:
    time = expert_all_to_all_time(exchange(128.0, "low_latency"), links_of(128.0, 8.0))
    assert time == pytest.approx((1 - 8 / 128) * TOKENS * 8 * BYTES / 50e9 + 3e-6)


def test_low_latency_in_one_node_uses_the_inner_link() -> None:
    time = expert_all_to_all_time(exchange(8.0, "low_latency"), links_of(8.0, 8.0))
    assert time == pytest.approx(7 / 8 * TOKENS * 8 * BYTES / 200e9 + 1e-6)


@pytest.mark.parametrize("mode", ["normal", "low_latency"])
def test_a_single_rank_sends_nothing(mode: str) -> None:
    assert expert_all_to_all_time(exchange(1.0, mode), links_of(1.0, 1.0)) == 0


def test_the_fullest_rank_s_load_multiplies_the_volume_of_copies_an_expert() -> None:
    group = links_of(64.0, 8.0, latencies=(0.0, 0.0))
    even = expert_all_to_all_time(exchange(64.0, "low_latency"), group)
    assert expert_all_to_all_time(exchange(64.0, "low_latency", load=1.3), group) == pytest.approx(1.3 * even)


def test_the_ranks_of_a_node_share_the_load_of_their_fullest() -> None:
    on_the_nic, inside = (
        links_of(64.0, 8.0, inner=1e15, latencies=(0.0, 0.0)),
        links_of(64.0, 8.0, outer=1e15, latencies=(0.0, 0.0)),
    )
    even, skewed = exchange(64.0), exchange(64.0, load=1.3)
    assert expert_all_to_all_time(skewed, inside) == pytest.approx(1.3 * expert_all_to_all_time(even, inside))
    draws = np.random.default_rng(7).normal(1.0, 1.0, (20_000, 8, 8))
    ranks, nodes = draws.reshape(-1, 64).max(axis=1).mean() - 1, draws.mean(axis=2).max(axis=1).mean() - 1
    found = expert_all_to_all_time(skewed, on_the_nic) / expert_all_to_all_time(even, on_the_nic)
    assert found - 1 == pytest.approx(0.3 * nodes / ranks, rel=0.05)


def test_deduplication_is_never_slower_over_the_nic() -> None:
    for ranks in (16.0, 32.0, 64.0, 128.0):
        group = links_of(ranks, 8.0, inner=1e15)
        assert expert_all_to_all_time(exchange(ranks), group) <= expert_all_to_all_time(
            exchange(ranks, "low_latency"), group
        ) * (1 + 1e-9)


def test_free_routing_reaches_more_nodes() -> None:
    group = links_of(64.0, 8.0, inner=1e15)
    assert expert_all_to_all_time(exchange(64.0, groups=(1.0, 1)), group) > expert_all_to_all_time(
        exchange(64.0), group
    )


def test_an_axis_of_degrees_equals_single_degrees() -> None:
    sizes = np.array([1.0, 8.0, 16.0, 64.0])
    local = np.minimum(sizes, 8.0)
    axis = replace(links_of(64.0, 8.0), size=sizes, ranks_per_node=local, nodes=sizes / local, inter=50e9)
    apart = [
        float(expert_all_to_all_time(exchange(size), links_of(size, min(size, 8.0), latencies=(3e-6, 3e-6))))
        for size in sizes
    ]
    together = np.asarray(expert_all_to_all_time(exchange(64.0), replace(axis, intra_latency=3e-6)))
    np.testing.assert_allclose(together, apart, rtol=1e-12)


@pytest.mark.parametrize("ranks", [4, 16, 64, 128])
def test_tokens_reach_the_ranks_that_their_experts_stand_on(ranks: int) -> None:
    """Groups and experts drawn at random, many times."""
    random, draws = np.random.default_rng(3), 4000
    total = 0
    for _ in range(draws):
        chosen = random.choice(8, 4, replace=False)
        experts = random.choice(np.concatenate([32 * group + np.arange(32) for group in chosen]), 8, replace=False)
        total += len(set(experts // (256 // ranks)))
    assert exchange(float(ranks)).targets(float(ranks)) == pytest.approx(total / draws, rel=0.02)
