"""How many endpoints, switches and cables a full fabric has, and what a part of it costs; all in closed form.

Fat trees of k-port switches with as many ports up as down: Leiserson, IEEE Trans. Computers C-34(10), 1985; Al-Fares,
Loukissas, Vahdat, SIGCOMM 2008. Planes: DeepSeek-AI, arXiv 2505.09343, section 5.1 and table 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodel.hardware import FabricPrice, Network
from costmodel.quantities import Count, Dollars, where


@dataclass(frozen=True, slots=True, eq=False)
class Fabric:
    """The parts of a fabric with every port in use; `links` join switches, one more cable leads to each endpoint."""

    endpoints: Count
    switches: Count
    links: Count


def two_level_fat_tree(radix: Count) -> Fabric:
    """Return a full two-level fat tree of k-port switches; an odd port stays empty.

    endpoints k^2/2; switches 3k/2: k leaves with k/2 endpoints each and k/2 spines; links k^2/2.
    """
    half = radix // 2
    return Fabric(2 * half**2, 3 * half, 2 * half**2)


def three_level_fat_tree(radix: Count) -> Fabric:
    """Return a full three-level fat tree of k-port switches; an odd port stays empty.

    endpoints k^3/4; switches 5k^2/4: k pods of k/2 leaves and k/2 spines, and k^2/4 cores; links k^3/2.
    """
    half = radix // 2
    return Fabric(2 * half**3, 5 * half**2, 4 * half**3)


def in_planes(plane: Fabric, planes: Count) -> Fabric:
    """Return `planes` equal fabrics side by side; each has endpoints of its own."""
    return Fabric(planes * plane.endpoints, planes * plane.switches, planes * plane.links)


def smallest_fat_tree(radix: Count, endpoints: Count) -> Fabric:
    """Return the full fat tree of fewest levels, two or three, that has a port for each endpoint."""
    two, three = two_level_fat_tree(radix), three_level_fat_tree(radix)
    enough = endpoints <= two.endpoints
    return Fabric(
        where(enough, two.endpoints, three.endpoints),
        where(enough, two.switches, three.switches),
        where(enough, two.links, three.links),
    )


TOPOLOGIES: dict[str, Callable[[Count, Count], Fabric]] = {
    "ft2": lambda radix, _: two_level_fat_tree(radix),
    "mrft": lambda radix, _: two_level_fat_tree(radix),  # rails are leaves of one tree
    "mpft": lambda radix, _: two_level_fat_tree(radix),  # the planes are counted by themselves
    "ft3": lambda radix, _: three_level_fat_tree(radix),
    "fat-tree": smallest_fat_tree,
}
"""Topology -> one plane of it, from the radix of its switches and the endpoints that it has to hold."""


def full_fabric(network: Network, endpoints: Count) -> Fabric | None:
    """Return the full fabric that a network of `endpoints` is a part of, null where its topology has no counts."""
    made = TOPOLOGIES.get(network.topology)
    return None if made is None else in_planes(made(network.radix, endpoints / network.planes), network.planes)


def cost(fabric: Fabric, price: FabricPrice) -> Dollars | None:
    """Return switches, links and cables to endpoints, each times its price [$]; null where a price is missing."""
    if price.switch is None or price.link is None or price.endpoint_link is None:
        return None
    return fabric.switches * price.switch + fabric.links * price.link + fabric.endpoints * price.endpoint_link


def share_cost(network: Network, endpoints: Count) -> Dollars | None:
    """Return what a share of the full fabric costs: cost * endpoints / endpoints of the full fabric [$].

    Null without prices or counts, NaN where the fabric has fewer ports than that.
    """
    fabric = full_fabric(network, endpoints)
    whole = None if fabric is None else cost(fabric, network.price)
    if fabric is None or whole is None:
        return None
    return where(endpoints <= fabric.endpoints, whole * endpoints / fabric.endpoints, np.nan)
