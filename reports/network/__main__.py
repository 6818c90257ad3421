"""The published evidence of the network: counts and prices, latencies, planes against rails, routing.

python -m reports.network --output reports/network
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from costmodel.analytic.fabrics import facts
from costmodel.analytic.messages import ENGINES, CollectiveRequest, answer, routing_of
from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.hardware import Cluster
from costmodel.network.group_links import Layout, layout
from costmodel.network.simulation import FlowRun, run_collective
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.report.text import quantity
from costmodel.schema.files import load_cluster, load_model, load_topology
from costmodel.schema.references import package_root
from costmodel.schema.whole_files import write_whole
from costmodel.units import parse
from reports.page import read_rows, rendered, write_folder

WITHIN = 0.03  # of each total, for the range of prices that explain the table
SIZES = ("128MiB", "1GiB", "16GiB")
RANKS = (32, 64, 128)
SEEDS = range(20)


def publish(folder: Path) -> list[Path]:
    """Write the page."""
    page = rendered(
        "network/page", **_prices(), within=WITHIN, latencies=_latencies(), exchanges=_exchanges(), changed=_changed(),
        routing=_routing(), seeds=len(SEEDS), fits=_fits(),
    )  # fmt: skip
    write_whole(folder / "README.md", [page.encode()])
    return [folder / "README.md"]


# ---- prices ---------------------------------------------------------------------------------------------------------


def printed() -> dict[str, dict[str, str]]:
    """Return table 3 as it is printed: topology -> its row, from `workloads/published/topologies.csv`."""
    path = package_root() / "workloads" / "published" / "topologies.csv"
    return {row["topology"]: row for row in read_rows(path)}


def _prices() -> dict[str, Any]:
    """Return table 3 beside our counts, what its totals say of prices, and the tree with cited prices."""
    table = printed()
    rows = {name: facts(name, *load_topology(name)) for name in table}
    totals = {
        name: [parse(row[field], "money") for field in ("cost", "cost_per_endpoint")] for name, row in table.items()
    }
    parts = np.array([[row.switches, row.links, row.endpoints] for row in rows.values()])
    whole = np.array([total for total, _ in totals.values()])
    price = load_topology("ft2")[0].price
    in_use = {
        "a switch": price.switch, "a link between switches": price.link, "a link to an endpoint": price.endpoint_link,
    }  # fmt: skip
    return {
        "topologies": [(name, row, *totals[name]) for name, row in rows.items()],
        "prices": [
            (name, value, *(_extreme(parts, whole, part, sign) for sign in (1.0, -1.0)))
            for part, (name, value) in enumerate(in_use.items())
        ],
        "cited": facts("ft2-cited-prices", *load_topology("ft2-cited-prices")),
    }


def _extreme(parts: Array, totals: Array, part: int, sign: float) -> float:
    """Return the least (sign 1) or largest (-1) of one price with which all totals are met [$]."""
    weights = np.zeros(3)
    weights[part] = sign
    bounds = np.concatenate([parts, -parts])
    limits = np.concatenate([totals * (1 + WITHIN), -totals * (1 - WITHIN)])
    return float(sign * linprog(weights, bounds, limits, bounds=(0, None)).fun)


# ---- latencies ------------------------------------------------------------------------------------------------------


def _latencies() -> Iterator[Sequence[str]]:
    """Yield table 5: a message of 64 bytes, on the flow level."""
    ib, nodes = load_cluster("h800-2048-mpft"), 33
    roce = replace(ib, network=load_topology("roce-ft2")[0])
    published = (
        ("InfiniBand", ib, 8, 1, "2.8 us"), ("InfiniBand", ib, 8, nodes, "3.7 us"), ("RoCE", roce, 1, 1, "3.6 us"),
        ("RoCE", roce, 1, nodes, "5.6 us"), ("NVLink", ib, 8, 0, "3.33 us"),
    )  # fmt: skip
    for link, cluster, count, stride, text in published:
        one = replace(cluster, node=replace(cluster.node, count=1.0 if stride else float(count)), count=2048.0)
        if stride and cluster is ib:
            one = _with(one, planes=1.0)
        time = run_collective("send_recv", 64.0, FlowRun(one, layout(one, 2, stride=max(stride, 1)))).time
        yield link, "device 0", f"device {max(stride, 1)}", quantity(time, "time"), text


# ---- planes and rails -----------------------------------------------------------------------------------------------


def _fabrics() -> list[Cluster]:
    return [load_cluster("h800-2048-mpft"), load_cluster("h800-2048-mrft")]


def _exchanges() -> Iterator[tuple[int, str, float, float]]:
    """Yield the bandwidth of all-to-alls on both fabrics, figures 5 and 6 [GB/s]."""
    for ranks, text in itertools.product(RANKS, SIZES):
        size = parse(text, "size")
        planes, rails = (size / _all_to_all(cluster, ranks, size) / 1e9 for cluster in _fabrics())
        yield ranks, text, planes, rails


def _changed() -> Iterator[tuple[int, str, float, float, str]]:
    """Yield what makes the two topologies differ: times over those of the first table, and the ratio by hand."""
    (mpft, mrft), size = _fabrics(), parse("1GiB", "size")
    for ranks in RANKS:
        base, nodes = _all_to_all(mpft, ranks, size), ranks // 8
        hand = (1 + 7 / 8) * float(mpft.node.nic.bandwidth) / float(mpft.device.links["pcie"].bandwidth)  # type: ignore[union-attr]
        planes, rails = (_all_to_all(_with(cluster, pxn=False), ranks, size) / base for cluster in (mpft, mrft))
        yield ranks, "PXN off", planes, rails, f"MPFT (1 + 7/8) * 50/64 = {hand:.3f}, MRFT 1"
        lost = _all_to_all(_with(mpft, failed=("plane0",)), ranks, size) / base
        nic = _all_to_all(_with(mrft, failed=tuple(f"nic{8 * node}" for node in range(nodes))), ranks, size) / base
        yield ranks, "a plane, or a NIC of each node, failed", lost, nic, f"8/7 = {8 / 7:.3f}"
        in_leaf = max(nodes * 64 // 256, 1)
        spread = {"stride": 256 // nodes, "groups": 2048 // ranks}
        planes, rails = (
            _all_to_all(_with(cluster, oversubscription=2.0, radix=96.0), ranks, size, **spread)
            / _all_to_all(cluster, ranks, size, **spread)
            for cluster in (mpft, mrft)
        )
        by_hand = f"2 * {nodes - in_leaf}/{nodes - 1} = {2 * (nodes - in_leaf) / (nodes - 1):.3f}"
        yield ranks, "2:1 oversubscription", planes, rails, by_hand


def _with(cluster: Cluster, **changes: object) -> Cluster:
    return replace(cluster, network=replace(cluster.network, **changes))  # type: ignore[type-var]


def _all_to_all(cluster: Cluster, ranks: int, size: float, stride: int = 1, groups: int = 1) -> float:
    rank_layout = layout(cluster, ranks, stride=stride, groups=groups)
    return run_collective("all_to_all", size, FlowRun(cluster, rank_layout)).time


# ---- routing --------------------------------------------------------------------------------------------------------


def _routing() -> Iterator[tuple[int, list[float], list[float]]]:
    """Yield rings of all-gathers over the leaves, figure 8: bandwidths by policy, those of ECMP by seed [GB/s]."""
    cluster = load_cluster("h800-2048-mrft")
    network = replace(load_topology("ft2")[0], bandwidth=None)
    one = replace(cluster, node=replace(cluster.node, count=1.0), count=256.0, network=network)
    size = parse("1GiB", "size")
    for members in (2, 4, 8, 16, 32):
        rank_layout = layout(one, members, stride=256 // members, groups=256 // members)

        def speed(policy: str, seed: int = 0, rank_layout: Layout = rank_layout, members: int = members) -> float:
            run = FlowRun(_with(one, routing=policy), rank_layout, seed=seed)
            return size * (members - 1) / members / run_collective("all_gather", size, run, "ring").time / 1e9

        yield members, list(map(speed, ("static", "adaptive", "spray"))), [speed("ecmp", seed) for seed in SEEDS]


# ---- fits -----------------------------------------------------------------------------------------------------------


def _fits() -> Iterator[tuple[str, Sequence[int], Sequence[str], set[str], float]]:
    """Yield how far fitted times are from those of the flow level that takes its links' shares from the fits."""
    framework = default_framework()
    routing = routing_of(load_model("deepseek-v3"))
    collectives = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    for name, ranks, kinds in (
        ("nodes/dgx-a100", (2, 4, 8), collectives), ("nodes/dgx-h100", (2, 4, 8), collectives),
        ("h800-2048-mpft", (16, 32, 64), ("dispatch", "combine")),
    ):  # fmt: skip
        cluster = load_cluster(name)
        calibration = load_calibration(cluster.device, framework)
        worst, bases = 0.0, set[str]()
        for kind, count, text in itertools.product(kinds, ranks, ("1MiB", "32MiB", "1GiB")):
            request = CollectiveRequest(kind, count, parse(text, "size"), routing=routing)
            fitted, flows = (answer(request, cluster, calibration, framework, engine) for engine in ENGINES)
            worst, bases = max(worst, abs(flows.time / fitted.time - 1)), bases | {fitted.basis}
        yield name, ranks, kinds, bases, worst


if __name__ == "__main__":
    write_folder("network", publish)
