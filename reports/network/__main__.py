"""The published evidence of the network: counts and prices, latencies, planes against rails, routing.

python -m reports.network --output reports/network
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

from costmodel.analytic.fabrics import facts
from costmodel.analytic.messages import ENGINES, CollectiveRequest, answer, routing_of
from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.hardware import Cluster
from costmodel.network.layout import Layout, layout
from costmodel.network.simulation import FlowRun, run_collective
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.report.text import quantity
from costmodel.schema.files import load_cluster, load_model, load_topology
from costmodel.schema.references import package_root
from costmodel.schema.whole_files import write_whole
from costmodel.units import parse
from reports.page import line, write_folder

COMMAND = "python -m reports.network --output reports/network"
PAPER = "DeepSeek-AI, Insights into DeepSeek-V3, arXiv 2505.09343"
WITHIN = 0.03  # of each total, for the range of prices that explain the table
SIZES = ("128MiB", "1GiB", "16GiB")
RANKS = (32, 64, 128)
SEEDS = range(20)


def publish(folder: Path) -> list[Path]:
    """Write the page."""
    page = [*_head(), *_prices(), *_latencies(), *_planes_and_rails(), *_routing(), *_fits(), ""]
    write_whole(folder / "README.md", ["\n".join(page).encode()])
    return [folder / "README.md"]


def _head() -> Iterator[str]:
    yield "# Network topologies: check against the paper"
    yield ""
    yield f"Against {PAPER}. Times are wire times at full bandwidth, without launch overhead, unless a fit is named."
    yield ""
    yield f"Regenerate: `{COMMAND}`"


def _heading(*cells: str) -> Iterator[str]:
    yield ""
    yield line(*cells)
    yield line(*["---"] * len(cells))


# ---- prices ---------------------------------------------------------------------------------------------------------


def printed() -> dict[str, dict[str, str]]:
    """Return table 3 as it is printed: topology -> its row, from `workloads/published/topologies.csv`."""
    path = package_root() / "workloads" / "published" / "topologies.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["topology"]: row for row in csv.DictReader(file)}


def _prices() -> Iterator[str]:
    """Yield table 3 and what its totals say of prices."""
    table = printed()
    rows = {name: facts(name, *load_topology(name)) for name in table}
    yield ""
    yield "## Parts and prices (table 3)"
    yield from _heading(
        "topology", "endpoints", "switches", "links", "cost", "published", "error", "cost per endpoint", "published"
    )
    for name, row in rows.items():
        total, each = (parse(table[name][field], "money") for field in ("cost", "cost_per_endpoint"))
        cost = row.cost or 0.0
        yield line(
            f"`{name}`", f"{row.endpoints:,.0f}", f"{row.switches:,.0f}", f"{row.links:,.0f}", f"{cost / 1e6:,.1f} M$",
            f"{total / 1e6:,.0f} M$", f"{cost / total - 1:+.1%}", f"{cost / row.endpoints:,.0f} $", f"{each:,.0f} $",
        )  # fmt: skip
    yield ""
    yield (
        "Counts are the paper's, each of them. Its Slim Fly has q = 28, which is no prime power, so that this graph "
        "cannot be built; its dragonfly has 511 groups of the 513 that 64 ports reach."
    )
    yield ""
    yield (
        "The prices are implied, not published. `ft2` and `mpft` are proportional, so that there are four equations "
        f"for three prices. All of these explain every total within {WITHIN:.0%}, each price alone at its ends:"
    )
    parts = np.array([[row.switches, row.links, row.endpoints] for row in rows.values()])
    totals = np.array([parse(row["cost"], "money") for row in table.values()])
    yield from _heading("price", "in use", "least", "most")
    price = load_topology("ft2")[0].price
    in_use = (price.switch, price.link, price.endpoint_link)
    names = ("a switch", "a link between switches", "a link to an endpoint")
    for part, (name, value) in enumerate(zip(names, in_use, strict=True)):
        low, high = (_extreme(parts, totals, part, sign) for sign in (1.0, -1.0))
        yield line(name, f"{value or 0:,.0f} $", f"{low:,.0f} $", f"{high:,.0f} $")
    yield ""
    cited = facts("ft2-cited-prices", *load_topology("ft2-cited-prices"))
    yield (
        "With cited prices (`ft2-cited-prices`: its sources) the two-level tree costs "
        f"{(cited.cost or 0) / 1e6:.1f} M$, {(cited.cost or 0) / cited.endpoints:,.0f} $ an endpoint."
    )


def _extreme(parts: Array, totals: Array, part: int, sign: float) -> float:
    """Return the least (sign 1) or largest (-1) of one price with which all totals are met [$]."""
    weights = np.zeros(3)
    weights[part] = sign
    bounds = np.concatenate([parts, -parts])
    limits = np.concatenate([totals * (1 + WITHIN), -totals * (1 - WITHIN)])
    return float(sign * linprog(weights, bounds, limits, bounds=(0, None)).fun)


# ---- latencies ------------------------------------------------------------------------------------------------------


def _latencies() -> Iterator[str]:
    """Yield table 5: a message of 64 bytes, on the flow level."""
    ib, nodes = load_cluster("h800-2048-mpft"), 33
    roce = replace(ib, network=load_topology("roce-ft2")[0])
    yield ""
    yield "## Latency of 64 B (table 5)"
    yield ""
    yield "Each extra switch adds half of the difference between cross-leaf and same-leaf latency."
    yield from _heading("link", "from", "to", "predicted", "published")
    published = (
        ("InfiniBand", ib, 8, 1, "2.8 us"), ("InfiniBand", ib, 8, nodes, "3.7 us"), ("RoCE", roce, 1, 1, "3.6 us"),
        ("RoCE", roce, 1, nodes, "5.6 us"), ("NVLink", ib, 8, 0, "3.33 us"),
    )  # fmt: skip
    for link, cluster, count, stride, text in published:
        one = replace(cluster, node=replace(cluster.node, count=1.0 if stride else float(count)), count=2048.0)
        if stride and cluster is ib:
            one = replace(one, network=replace(ib.network, planes=1.0))  # type: ignore[type-var]
        time = run_collective("send_recv", 64.0, FlowRun(one, layout(one, 2, stride=max(stride, 1)))).time
        yield line(link, "device 0", f"device {max(stride, 1)}", quantity(time, "time"), text)


# ---- planes and rails -----------------------------------------------------------------------------------------------


def _planes_and_rails() -> Iterator[str]:
    """Yield figures 5 and 6, and what makes the two topologies differ."""
    mpft, mrft = load_cluster("h800-2048-mpft"), load_cluster("h800-2048-mrft")
    yield ""
    yield "## Planes against rails (figures 5 and 6)"
    yield ""
    yield "All-to-all, algorithm bandwidth in GB/s, on nodes side by side."
    yield from _heading("GPUs", "size", "MPFT", "MRFT", "difference")
    for ranks in RANKS:
        for text in SIZES:
            size = parse(text, "size")
            times = [_all_to_all(cluster, ranks, size) for cluster in (mpft, mrft)]
            yield line(ranks, text, *(f"{size / time / 1e9:.2f}" for time in times), f"{times[0] / times[1] - 1:+.2%}")
    yield ""
    yield "The same with one thing changed, time over that of the first table, for 1 GiB:"
    yield from _heading("GPUs", "what", "MPFT", "MRFT", "by hand")
    size = parse("1GiB", "size")
    for ranks in RANKS:
        base = _all_to_all(mpft, ranks, size)
        nodes = ranks // 8
        hand = (1 + 7 / 8) * float(mpft.node.nic.bandwidth) / float(mpft.device.links["pcie"].bandwidth)  # type: ignore[union-attr]
        without = [_all_to_all(_with(cluster, pxn=False), ranks, size) / base for cluster in (mpft, mrft)]
        yield line(
            ranks, "PXN off", *(f"{ratio:.3f}" for ratio in without), f"MPFT (1 + 7/8) * 50/64 = {hand:.3f}, MRFT 1"
        )  # fmt: skip
        lost = _all_to_all(_with(mpft, failed=("plane0",)), ranks, size)
        nic = _all_to_all(_with(mrft, failed=tuple(f"nic{8 * node}" for node in range(nodes))), ranks, size)
        yield line(
            ranks,
            "a plane, or a NIC of each node, failed",
            f"{lost / base:.3f}",
            f"{nic / base:.3f}",
            f"8/7 = {8 / 7:.3f}",
        )
        in_leaf = max(nodes * 64 // 256, 1)
        by_hand = 2 * (nodes - in_leaf) / (nodes - 1)
        spread = {"stride": 256 // nodes, "groups": 2048 // ranks}
        over = [
            _all_to_all(_with(cluster, oversubscription=2.0, radix=96.0), ranks, size, **spread)
            / _all_to_all(cluster, ranks, size, **spread)
            for cluster in (mpft, mrft)
        ]
        yield line(
            ranks, "2:1 oversubscription", *(f"{ratio:.3f}" for ratio in over),
            f"2 * {nodes - in_leaf}/{nodes - 1} = {by_hand:.3f}",
        )  # fmt: skip
    yield ""
    yield (
        "PXN off: what changes planes leaves over PCIe to another device and from there to its NIC, so that a device's "
        "64 GB/s carry its own bytes once and 7/8 of them again for others, where its NIC has 50 GB/s; rails meet "
        "in the spine instead. A failed plane leaves seven NICs for eight devices. Oversubscription counts only where "
        "leaves are full: all 2,048 devices exchange at the same time in groups whose nodes are spread evenly over "
        "the cluster, with 64 nodes on a leaf (96-port switches, 32 ports up); what leaves the leaf has half the "
        "bandwidth. On nodes side by side nothing leaves it, and 2:1 costs nothing."
    )


def _with(cluster: Cluster, **changes: object) -> Cluster:
    return replace(cluster, network=replace(cluster.network, **changes))  # type: ignore[type-var]


def _all_to_all(cluster: Cluster, ranks: int, size: float, stride: int = 1, groups: int = 1) -> float:
    rank_layout = layout(cluster, ranks, stride=stride, groups=groups)
    return run_collective("all_to_all", size, FlowRun(cluster, rank_layout)).time


# ---- routing --------------------------------------------------------------------------------------------------------


def _routing() -> Iterator[str]:
    """Yield figure 8: rings of all-gathers over the leaves under each policy."""
    yield ""
    yield "## Routing (figure 8)"
    yield ""
    yield (
        "Ring all-gathers of 1 GiB in groups of N, all at once, on 256 endpoints of a two-level tree with 32 on a "
        "leaf; the members of a group are spread evenly over the leaves. Bandwidth of an endpoint in GB/s; ECMP over "
        f"{len(SEEDS)} seeds."
    )
    yield from _heading("N", "static", "adaptive", "spray", "ECMP, mean", "ECMP, least and most")
    cluster = load_cluster("h800-2048-mrft")
    network = replace(load_topology("ft2")[0], bandwidth=None)
    one = replace(cluster, node=replace(cluster.node, count=1.0), count=256.0, network=network)
    size = parse("1GiB", "size")
    for members in (2, 4, 8, 16, 32):
        rank_layout = layout(one, members, stride=256 // members, groups=256 // members)

        def speed(policy: str, seed: int = 0, rank_layout: Layout = rank_layout, members: int = members) -> float:
            run = FlowRun(_with(one, routing=policy), rank_layout, seed=seed)
            return size * (members - 1) / members / run_collective("all_gather", size, run, "ring").time / 1e9

        ecmp = [speed("ecmp", seed) for seed in SEEDS]
        yield line(
            members, *(f"{speed(policy):.1f}" for policy in ("static", "adaptive", "spray")), f"{np.mean(ecmp):.1f}",
            f"{min(ecmp):.1f} .. {max(ecmp):.1f}",
        )  # fmt: skip
    yield ""
    yield (
        "By hand: 32 flows of a leaf fall on 32 uplinks at random, so that the fullest of some hundred links gets four "
        "to six, and a ring waits for its slowest hop: 50 GB/s over that number."
    )


# ---- fits -----------------------------------------------------------------------------------------------------------


def _fits() -> Iterator[str]:
    """Yield how far fitted times are from those of the flow level that takes its links' shares from the fits."""
    framework = default_framework()
    yield ""
    yield "## Measured links"
    yield ""
    yield (
        "The flow level takes the share of the links' bandwidth and the fixed time from the fits of NCCL and DeepEP, "
        "so that what meets nothing keeps their accuracy. Largest difference from the fit over 1 MiB to 1 GiB:"
    )
    yield from _heading("cluster", "devices", "operations", "basis", "largest difference")
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
        yield line(f"`{name}`", ", ".join(map(str, ranks)), ", ".join(kinds), ", ".join(sorted(bases)), f"{worst:.1e}")


if __name__ == "__main__":
    write_folder("network", publish)
