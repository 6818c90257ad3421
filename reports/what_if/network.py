"""A what-if of the network: how many planes, which routing."""

from __future__ import annotations

import numpy as np

from costmodel.analytic.fabrics import facts
from costmodel.analytic.messages import CollectiveRequest as Message
from costmodel.analytic.messages import answer
from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.report.text import quantity
from costmodel.schema.files import load_cluster, load_topology
from costmodel.units import parse
from reports.what_if.asked import Asked
from reports.what_if.curves import Curve, Panel, curves_figure

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
