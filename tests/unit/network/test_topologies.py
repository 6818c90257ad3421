"""Parts and prices of full fabrics."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from builders import CLUSTER
from hypothesis import given
from hypothesis import strategies as st

from costmodel.hardware import FabricPrice, Network
from costmodel.network.topologies import (
    Fabric,
    bisection_bandwidth,
    cost,
    full_fabric,
    in_planes,
    share_cost,
    smallest_fat_tree,
    three_level_fat_tree,
    two_level_fat_tree,
)
from costmodel.records import replace

IMPLIED = FabricPrice(15_019.0, 2_599.0, 1_094.0)  # a fit to the totals of arXiv 2505.09343, table 3
NETWORK = CLUSTER.network
assert NETWORK is not None


def counts(fabric: Fabric) -> tuple[float, float, float]:
    return float(fabric.endpoints), float(fabric.switches), float(fabric.links)


def fat_tree(k: int) -> nx.Graph:
    """Return a three-level fat tree of k-port switches, cable by cable: pods of leaves and spines under cores."""
    graph, half = nx.Graph(), k // 2
    for pod in range(k):
        for leaf in range(half):
            for host in range(half):
                graph.add_edge(("host", pod, leaf, host), ("leaf", pod, leaf))
            for spine in range(half):
                graph.add_edge(("leaf", pod, leaf), ("spine", pod, spine))
        for spine in range(half):
            for core in range(half):
                graph.add_edge(("spine", pod, spine), ("core", spine, core))
    return graph


@pytest.mark.parametrize("k", [2, 4, 6])
def test_three_levels_have_the_parts_of_a_tree_that_is_wired_by_hand(k: int) -> None:
    graph = fat_tree(k)
    hosts = [node for node in graph if node[0] == "host"]
    switches = [node for node in graph if node[0] != "host"]
    assert all(graph.degree(switch) == k for switch in switches)
    assert counts(three_level_fat_tree(float(k))) == (len(hosts), len(switches), graph.size() - len(hosts))


@pytest.mark.parametrize(
    ("fabric", "published", "millions"),
    [
        (two_level_fat_tree(64.0), (2_048, 96, 2_048), 9),
        (in_planes(two_level_fat_tree(64.0), 8.0), (16_384, 768, 16_384), 72),
        (three_level_fat_tree(64.0), (65_536, 5_120, 131_072), 491),
    ],
)
def test_counts_are_those_of_the_paper_and_totals_follow_from_the_implied_prices(
    fabric: Fabric, published: tuple[float, float, float], millions: float
) -> None:
    """DeepSeek-AI, arXiv 2505.09343, table 3."""
    assert counts(fabric) == published
    assert cost(fabric, IMPLIED) == pytest.approx(millions * 1e6, rel=0.02)


@given(st.integers(1, 64).map(lambda half: 2.0 * half), st.integers(1, 16).map(float))
def test_every_port_of_every_switch_is_in_use(radix: float, planes: float) -> None:
    for tree in (two_level_fat_tree, three_level_fat_tree):
        fabric = in_planes(tree(radix), planes)
        assert 2 * fabric.links + fabric.endpoints == fabric.switches * radix


def test_an_odd_port_stays_empty() -> None:
    assert counts(two_level_fat_tree(41.0)) == counts(two_level_fat_tree(40.0))


def test_a_fat_tree_has_as_few_levels_as_hold_the_endpoints() -> None:
    endpoints = np.array([1.0, 2048.0, 2049.0])
    assert np.array_equal(np.asarray(smallest_fat_tree(64.0, endpoints).switches), [96, 96, 5_120])
    assert counts(smallest_fat_tree(64.0, 2048.0)) == counts(two_level_fat_tree(64.0))


def test_a_share_costs_as_much_an_endpoint_as_the_whole() -> None:
    network = replace(NETWORK, topology="mpft", planes=8.0, radix=64.0, price=IMPLIED)
    whole, share = share_cost(network, 16_384.0), share_cost(network, 2_048.0)
    assert share == pytest.approx(whole / 8)
    assert share == pytest.approx(cost(two_level_fat_tree(64.0), IMPLIED))


def test_a_fabric_without_enough_ports_has_no_price() -> None:
    network = replace(NETWORK, topology="mrft", planes=1.0, radix=64.0, price=IMPLIED)
    found = np.asarray(share_cost(network, np.array([2_048.0, 2_049.0])))
    assert np.isfinite(found).tolist() == [True, False]


def test_a_topology_without_counts_and_a_missing_price_give_none() -> None:
    assert full_fabric(replace(NETWORK, topology="hypercube"), 8.0) is None
    assert share_cost(replace(NETWORK, topology="hypercube", price=IMPLIED), 8.0) is None
    assert share_cost(replace(NETWORK, topology="ft2", price=replace(IMPLIED, link=None)), 8.0) is None


@pytest.mark.parametrize("part", ["switch", "link", "endpoint_link"])
def test_dearer_parts_make_a_dearer_fabric(part: str) -> None:
    fabric = two_level_fat_tree(64.0)
    dearer = cost(fabric, replace(IMPLIED, **{part: 2 * getattr(IMPLIED, part)}))
    assert dearer > cost(fabric, IMPLIED)


def test_halves_send_each_other_as_much_as_the_links_between_them_carry() -> None:
    """A fat tree of two levels of 8-port switches: 32 endpoints, half of the 32 uplinks in the cut, 50 GB/s each."""
    fabric = full_fabric(Network("ft2", 1.0, 8.0, None, None, None, "static"), 32.0)
    assert fabric is not None
    assert bisection_bandwidth(fabric, 50e9) == 16 * 50e9
