"""What-ifs of hardware: NVLink from slow to fast, a gaming card for a data-centre one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from costmodel.analytic.capital import price_facts
from costmodel.analytic.fabrics import facts
from costmodel.analytic.messages import CollectiveRequest as Message
from costmodel.analytic.messages import answer
from costmodel.api import load
from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.report.text import quantity
from costmodel.schema.files import load_cluster, load_device, load_document, load_topology
from costmodel.study.prices import quotes, unlike
from costmodel.units import parse
from reports.what_if.asked import FLAGSHIP, RATIOS, Asked, ratio
from reports.what_if.curves import Curve, Panel, curves_figure

LINK = "hardware.links.nvlink.bandwidth"
H800, H100 = "h800-sxm", "h100-sxm"


def _link(device: str) -> float:
    found: Any = load_document("devices", device)
    return float(found["links"]["nvlink"]["bandwidth"])


def of_nvlink() -> Asked:
    """Return V3's training step, prefill and decoding over NVLink's bandwidth, relative to those on H800."""
    ours, theirs = _link(H800), _link(H100)
    speeds = np.array(sorted({*np.geomspace(50e9, 900e9, 9), ours / 2, ours, theirs}))
    half, double = (int(np.flatnonzero(speeds == speed)[0]) for speed in (ours / 2, theirs))
    curves, says = {}, []
    for scenario in ("training", "prefill", "decode"):
        base = load(FLAGSHIP, scenarios=[scenario])
        value, low, high = np.array([ratio(base, {LINK: float(speed)}) for speed in speeds]).T
        curves[scenario] = Curve(scenario, speeds, value, low, high)
        says.append(
            f"{scenario}: half of H800's NVLink costs {value[half] - 1:+.1%}, that of H100 {value[double] - 1:+.1%} "
            f"({low[double] - 1:+.1%} to {high[double] - 1:+.1%})."
        )
    says.append("Decoding exchanges its tokens by the low-latency kernels, which send across the NICs alone.")
    training = curves["training"].value
    title = (
        f"Halving the H800's NVLink costs {training[half] - 1:.0%} of a DeepSeek-V3 training step; the H100's saves "
        f"{1 - training[double]:.1%}, and nothing in decoding"
    )
    panel = Panel(
        ("NVLink bandwidth per direction", "bandwidth"), ("time relative to H800", "count"),
        list(curves.values()), [(ours, "H800"), (theirs, "H100")], floor=0.9,
    )  # fmt: skip
    command = f"costmodel sweep {FLAGSHIP} --scenario training --vary {LINK}=50GB/s..900GB/s:13:log --output DIR"
    return Asked("nvlink", "NVLink from slow to fast", curves_figure(title, [panel], RATIOS), says, [command])


def of_dollars() -> Asked:
    """Return what a token of Llama 3 8B costs on an A100 over what it costs on an RTX 4090, over the ratio of rents."""
    workload, rents = "llama3_8b_rtx4090", np.linspace(0.5, 3.0, 11)
    cards = {"RTX 4090": "nodes/rtx-4090-x1", "A100 80 GB": "nodes/a100-x1"}
    curves, says, even = [], [], []
    path = "hardware.price.rental"
    for scenario, title in (("batch", "batch of 32"), ("chat", "one user")):
        points = [load(workload, cluster=node, scenarios=[scenario]).points()[scenario] for node in cards.values()]
        rates = [float(point.metrics["tokens_per_second_per_device"] or 0.0) for point in points]
        even.append(rates[1] / rates[0])
        curves.append(Curve(title, rents, rents / even[-1]))
        says.append(
            f"{title}: {rates[1]:,.0f} tokens/s on the A100, {rates[0]:,.0f} on the RTX 4090: the cheaper card wins as "
            f"long as the A100 costs more than {even[-1]:.2f} times its rent."
        )
    devices = ("rtx-4090", "a100-sxm-80gb")
    says += [f"Rents, from the device files: {device}: {_price_source(device)}" for device in devices]
    prices = [{"device": device, "price": price_facts(load_device(device))} for device in devices]
    says += [f"{line[0].upper()}{line[1:]}." for line in unlike(quotes(prices, "rental"))]
    known = [float(load_device(device).price.rental or np.nan) for device in devices]
    marks = [(known[1] / known[0], "rents of the device files")] if np.isfinite(known).all() else []
    panel = Panel(
        ("A100 rent ÷ RTX 4090 rent", "count"), ("cost per token, A100 ÷ RTX 4090", "count"), curves, marks,
        [(1.0, "equal cost")], linear=True,
    )  # fmt: skip
    title = (
        "Llama 3 8B: an RTX 4090 is cheaper per token while an A100 rents for more than "
        f"{' to '.join(f'{one:.2f}' for one in sorted(even))} times as much"
    )
    commands = [
        f"costmodel sweep {workload} --scenario batch --cluster {node} --vary '{path}=0.2 $/h..3.2 $/h:16' --output DIR"
        for node in cards.values()
    ]
    return Asked(
        "rtx4090_a100", "RTX 4090 against A100 per dollar, Llama 3 8B",
        curves_figure(title, [panel], "formula: rent over predicted tokens/s, without an interval"), says, commands,
    )  # fmt: skip


def _price_source(device: str) -> str:
    """Return where a device file has its rent from."""
    found: Mapping[str, Any] = load_document("devices", device)
    cites = [str(one["cite"]) for one in found["sources"] if {"price", "price.rental"} & set(one["fields"])]
    return "; ".join(cites)


# ---- A what-if of the network: how many planes, which routing --------------------------------------------------------

PLANES = (1.0, 2.0, 4.0, 8.0)
POLICIES = ("adaptive", "static", "ecmp")
SEEDS = range(5)
RANKS, GROUPS, STRIDE = 128, 16, 16
SIZE = "1GiB"


def of_planes() -> Asked:
    """Return the bandwidth of an all-to-all, and the endpoints that two layers reach, over planes and routing."""
    size = parse(SIZE, "size")
    adaptive, static, ecmp = (
        np.array([_rates(planes, policy, size) for planes in PLANES]).mean(axis=1) for policy in POLICIES
    )
    network, *rest = load_topology("mpft")
    reached = [facts("mpft", replace(network, planes=planes), *rest) for planes in PLANES]
    deeper = facts("ft3", *load_topology("ft3"))
    ends = Curve("", np.array(PLANES), np.array([one.endpoints for one in reached]))
    what = ("number of planes", "count"), ("endpoints of a two-layer network", "count")
    panel = Panel(*what, [ends], ticks=PLANES)
    title = (
        f"Planes add reach, not bandwidth: {reached[0].endpoints:,.0f} endpoints on one, "
        f"{reached[-1].endpoints:,.0f} on eight"
    )
    note = f"all-to-all: {_shown(adaptive)} per GPU, whatever the number of planes (adaptive routing); exact counts"
    price = {round((one.cost or 0.0) / one.endpoints) for one in reached}
    says = [
        f"{GROUPS} groups of {RANKS} GPUs exchange {SIZE} each at the same time, spread evenly over 2,048 H800: a "
        f"GPU gets "
        f"{_shown(adaptive)} with adaptive routing, {_shown(static)} with static routes, which suit this "
        f"pattern, "
        f"and {_shown(ecmp)} with ECMP in the mean of {len(SEEDS)} seeds, whatever the number of planes.",
        f"What planes buy is reach: {reached[0].endpoints:,.0f} endpoints on one, {reached[-1].endpoints:,.0f} on "
        f"eight, "
        f"with two layers of 64-port switches, at {', '.join(f'{one:,}' for one in price)} $ an endpoint; a third "
        f"layer "
        f"costs {(deeper.cost or 0.0) / deeper.endpoints:,.0f} $ (prices that the paper's table implies).",
        "A lost plane of eight costs 8/7 of the time; with PXN off a change of planes crosses PCIe: "
        "[the network](../network/README.md).",
    ]
    command = (
        f"costmodel collective all_to_all:stride={STRIDE},groups={GROUPS} --cluster h800-2048-mpft --ranks {RANKS} "
        f"--size {SIZE} --engine flow --set hardware.network.planes=4 --set hardware.network.routing=ecmp"
    )
    return Asked("planes", "How many planes, which routing", curves_figure(title, [panel], note), says, [command])


def _rates(planes: float, policy: str, size: float) -> Array:
    """Return the algorithm bandwidth of an all-to-all for each seed; all alike but for ECMP [B/s]."""
    cluster = load_cluster(
        "h800-2048-mpft", changes={"hardware.network.planes": planes, "hardware.network.routing": policy}
    )
    framework = default_framework()
    calibration = load_calibration(cluster.device, framework)
    seeds = SEEDS if policy == "ecmp" else SEEDS[:1]
    asked = (Message("all_to_all", RANKS, size, stride=STRIDE, groups=GROUPS, seed=seed) for seed in seeds)
    times = [answer(one, cluster, calibration, framework, "flow").time for one in asked]
    return np.array([size / times[at % len(times)] for at in SEEDS])


def _shown(rates: Array) -> str:
    """Return the span of some rates."""
    ends = [quantity(float(end), "bandwidth", 3) for end in (rates.min(), rates.max())]
    return " to ".join(dict.fromkeys(ends))
