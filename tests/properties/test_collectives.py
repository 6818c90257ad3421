"""No algorithm of a collective beats the fastest: in closed form, with and without fits, by flows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import FRAMEWORK
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.messages import CollectiveRequest, answer
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.network.collectives import CLOSED_FORMS, IN_SWITCHES, collective_time, fastest_time, nccl_time
from costmodel.network.group_links import GroupLinks
from costmodel.records import replace
from costmodel.schema.files import load_cluster
from costmodel.schema.references import Library

SLACK = 1 + 1e-12
KINDS = tuple(CLOSED_FORMS)
SIZES = st.sampled_from([0.0, 1.0, 4e3, 1e6, 64e6, 1e9])
SHIPPED = (
    "h800-2048-mpft", "h800-2048-mrft", "h100-superpod", "a100-superpod", "nodes/hgx-a800", "nodes/dgx-a100",
    "nodes/mi300x-x8", "nodes/l40s-x8", "nodes/gb200-nvl72",
)  # fmt: skip


def software(kind: str) -> list[str]:
    """Return the algorithms of a collective that need no switches which add up or copy."""
    return [name for name in CLOSED_FORMS[kind] if name not in IN_SWITCHES]


@st.composite
def groups(draw: st.DrawFn) -> GroupLinks:
    """Return groups of any number of nodes and ranks on each, over links of any speed."""
    local, nodes = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bandwidths, latencies = (
        draw(st.tuples(values, values))
        for values in (st.sampled_from([1e9, 25e9, 50e9, 200e9, 900e9]), st.sampled_from([0.0, 1e-6, 2e-5]))
    )
    return GroupLinks(float(local * nodes), float(local), float(nodes), *bandwidths, *latencies)


@given(links=groups(), size=SIZES, kind=st.sampled_from(KINDS))
def test_no_algorithm_beats_the_fastest(links: GroupLinks, size: float, kind: str) -> None:
    times = [float(CLOSED_FORMS[kind][name](size, links)) for name in software(kind)]
    fastest = float(fastest_time(kind, size, links))
    assert fastest == (min(times) if links.size > 1 else 0.0)
    assert fastest <= collective_time(kind, size, links)


@given(links=st.lists(groups(), min_size=2, max_size=5), size=SIZES, kind=st.sampled_from(KINDS))
def test_an_axis_of_groups_equals_single_groups(links: list[GroupLinks], size: float, kind: str) -> None:
    names = ("size", "ranks_per_node", "nodes", "intra", "inter", "intra_latency", "inter_latency")
    axis = GroupLinks(*(np.array([getattr(group, name) for group in links]) for name in names))
    for form in (collective_time, fastest_time, nccl_time):
        apart = [float(form(kind, size, group)) for group in links]
        np.testing.assert_allclose(np.asarray(form(kind, size, axis)), apart, rtol=1e-12)


@given(links=groups(), size=SIZES, kind=st.sampled_from(KINDS))
def test_faster_links_never_slow_a_collective_down(links: GroupLinks, size: float, kind: str) -> None:
    for faster in (replace(links, intra=1.3 * links.intra), replace(links, inter=1.3 * links.inter)):
        for form in (collective_time, fastest_time, nccl_time):
            assert form(kind, size, faster) <= form(kind, size, links) * SLACK


def _ranks(cluster: Cluster) -> list[int]:
    """Return groups inside a node, of one node and of some."""
    node, nodes = int(cluster.node.count), int(cluster.count)
    return sorted({2, node, *(count * node for count in (2, 3, 8, 64) if count <= nodes)})


@pytest.mark.parametrize("name", SHIPPED)
def test_the_command_s_fastest_is_no_slower_than_any_algorithm(name: str) -> None:
    """With fits; without them it is the fastest of the closed forms, as above."""
    cluster = load_cluster(name)
    fits = load_calibration(cluster.device, FRAMEWORK)
    for kind in KINDS:
        for ranks in _ranks(cluster):
            for size in (1e3, 1e6, 2.0**30):
                request = CollectiveRequest(kind, ranks, size)
                fastest = answer(request, cluster, fits, FRAMEWORK, "analytic").time
                for algorithm in software(kind):
                    if algorithm == "bucket" or (algorithm == "halving_doubling" and ranks & (ranks - 1)):
                        continue  # none of these is a torus
                    alone = answer(replace(request, algorithm=algorithm), cluster, fits, FRAMEWORK, "analytic").time
                    assert fastest <= alone * SLACK, (kind, ranks, size, algorithm)


@pytest.mark.parametrize(("ranks", "fitted"), [(8, True), (16, False), (24, True)])
def test_the_flow_level_chooses_the_fastest_too(ranks: int, *, fitted: bool) -> None:
    cluster = load_cluster("h800-2048-mpft")
    fits = load_calibration(cluster.device, FRAMEWORK) if fitted else Calibration()
    for kind in ("all_reduce", "all_gather", "broadcast"):
        for size in (1e3, 1e6, 2.0**30):
            request = CollectiveRequest(kind, ranks, size)
            fastest = answer(request, cluster, fits, FRAMEWORK, "flow").time
            for algorithm in software(kind):
                if algorithm == "bucket" or (algorithm == "halving_doubling" and ranks & (ranks - 1)):
                    continue
                alone = answer(replace(request, algorithm=algorithm), cluster, fits, FRAMEWORK, "flow").time
                assert fastest <= alone * SLACK, (kind, size, algorithm)


NODES = sorted(Library(()).names("nodes"))
DIP = 0.6  # eight B200 take 26 us for 512 KiB and 17 us for 1 MiB (measured): libraries change their protocol
LEAST = 1e-6  # of a kernel on two devices [s]


@pytest.mark.parametrize("name", NODES)
def test_a_message_of_any_size_takes_a_launch_and_grows(name: str) -> None:
    cluster = load_cluster(f"nodes/{name}")
    ranks = [count for count in (2, 4, 8) if count <= int(cluster.node.count)]
    fits = load_calibration(cluster.device, "vllm")
    for kind in KINDS:
        for count in ranks if kind != "send_recv" else ranks[:1]:
            requests = [CollectiveRequest(kind, count, 2.0**power) for power in range(10, 31, 4)]
            times = [float(answer(request, cluster, fits, FRAMEWORK, "analytic").time) for request in requests]
            assert times[0] > LEAST, (kind, count)
            assert all(later > DIP * sooner for sooner, later in pairwise(times)), (kind, count, times)
