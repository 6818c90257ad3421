"""How many endpoints, switches and cables a full fabric has, how far and how wide it is, and what a part of it costs.

Closed forms. Fat trees of k-port switches: Leiserson, IEEE Trans. Computers C-34(10), 1985. Al-Fares, Loukissas,
Vahdat, SIGCOMM 2008. Planes and rails: DeepSeek-AI, arXiv 2505.09343, section 5.1 and table 3. Slim Fly: Besta,
Hoefler, SC 2014. Dragonfly: Kim, Dally, Scott, Abts, ISCA 2008.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import FabricPrice, Network
from costmodel.network import grids
from costmodel.quantities import BytesPerSecond, Count, Dollars, ceil, floor, maximum, where
from costmodel.records import Record


class Fabric(Record):
    """The parts of a fabric with every port in use. `links` join switches, one more cable leads to each endpoint.

    diameter: links between the two switches with endpoints that are farthest apart.
    cut: links that a cut into two halves of the endpoints severs, as few as can be, in units of an endpoint's port.
    """

    endpoints: Count
    switches: Count
    links: Count
    diameter: Count
    cut: Count


class Ports(Record):
    """How a leaf switch divides its ports: `down` to endpoints, `up` to spines."""

    down: Count
    up: Count


def leaf_ports(radix: Count, oversubscription: Count = 1.0) -> Ports:
    """Return the ports of a leaf: up = floor(k / (1 + o)), down = floor(o * up). What is left over stays empty."""
    up = floor(radix / (1.0 + oversubscription))
    return Ports(floor(oversubscription * up), up)


def two_level_fat_tree(radix: Count, oversubscription: Count = 1.0) -> Fabric:
    """Return a full two-level fat tree of k-port switches. An odd port stays empty.

    k leaves with d endpoints each under u spines (d = u = k/2 without oversubscription): endpoints k*d, switches k + u,
    links k*u, two links between leaves, half of all links in the cut that severs least: k*u/2.
    """
    ports, leaves = leaf_ports(radix, oversubscription), 2.0 * floor(radix / 2)
    return Fabric(leaves * ports.down, leaves + ports.up, leaves * ports.up, 2.0, leaves * ports.up / 2)


def three_level_fat_tree(radix: Count, oversubscription: Count = 1.0) -> Fabric:
    """Return a full three-level fat tree of k-port switches. An odd port stays empty.

    k pods of h = k/2 leaves with d endpoints and u spines, u*h cores: endpoints k*h*d, switches k*(h + u) + u*h, links
    2*k*h*u, cut k*h*u/2.
    """
    ports, half = leaf_ports(radix, oversubscription), floor(radix / 2)
    pods = 2.0 * half
    uplinks = pods * half * ports.up
    return Fabric(pods * half * ports.down, pods * (half + ports.up) + half * ports.up, 2 * uplinks, 4.0, uplinks / 2)


def in_planes(plane: Fabric, planes: Count) -> Fabric:
    """Return `planes` equal fabrics side by side. Each has endpoints of its own."""
    return Fabric(
        planes * plane.endpoints, planes * plane.switches, planes * plane.links, plane.diameter, planes * plane.cut
    )


def smallest_fat_tree(radix: Count, endpoints: Count, oversubscription: Count = 1.0) -> Fabric:
    """Return the full fat tree of fewest levels, two or three, that has a port for each endpoint."""
    two, three = two_level_fat_tree(radix, oversubscription), three_level_fat_tree(radix, oversubscription)
    enough = endpoints <= two.endpoints
    return Fabric(
        where(enough, two.endpoints, three.endpoints),
        where(enough, two.switches, three.switches),
        where(enough, two.links, three.links),
        where(enough, two.diameter, three.diameter),
        where(enough, two.cut, three.cut),
    )


class SlimFly(Record):
    """The numbers of a Slim Fly on McKay-Miller-Siran graphs: q = 4w + delta. 2q^2 routers."""

    q: Count
    delta: Count

    @property
    def degree(self) -> Count:
        """Return a router's links to others: (3q - delta)/2."""
        return (3 * self.q - self.delta) / 2

    @property
    def hosts(self) -> Count:
        """Return a router's endpoints, half as many as its links, rounded up."""
        return ceil(self.degree / 2)


def slim_fly_numbers(radix: Count) -> SlimFly:
    """Return the largest q = 4w + delta, delta in -1, 0, 1, whose routers fit k ports. Counts need no prime power."""
    best = SlimFly(0.0 * radix, 0.0 * radix)
    for q in range(3, int(np.max(radix)) + 1):
        delta = {0: 0.0, 1: 1.0, 3: -1.0}.get(q % 4)
        if delta is None:
            continue
        candidate = SlimFly(float(q), delta)
        has_ports = candidate.degree + candidate.hosts <= radix
        best = SlimFly(where(has_ports, float(q), best.q), where(has_ports, delta, best.delta))
    return best


def slim_fly(radix: Count) -> Fabric:
    """Return a Slim Fly of k-port routers.

    2q^2 routers of degree (3q - delta)/2: links q^2*(3q - delta)/2. Diameter 2. Cut q^3/2: half the routers times the
    gap q between degree and second eigenvalue (q - delta)/2, halved. Exact for even q, a lower bound for odd q.
    """
    numbers = slim_fly_numbers(radix)
    routers = 2 * numbers.q**2
    return Fabric(routers * numbers.hosts, routers, routers * numbers.degree / 2, 2.0, numbers.q**3 / 2)


class Dragonfly(Record):
    """A balanced dragonfly: h global links and h endpoints a router, 2h routers a group, `groups` of them."""

    per_router: Count
    groups: Count

    @property
    def routers(self) -> Count:
        """Return the routers of a group, each joined to all others."""
        return 2 * self.per_router


def dragonfly_numbers(radix: Count, groups: Count | None) -> Dragonfly:
    """Return h = floor((k + 1)/4), from k >= h + h + 2h - 1. Without stated groups the most: 2h*h + 1."""
    h = floor((radix + 1) / 4)
    return Dragonfly(h, 2 * h * h + 1 if groups is None else groups)


def dragonfly(radix: Count, groups: Count | None = None) -> Fabric:
    """Return a balanced dragonfly of k-port routers with every port in use.

    a = 2h routers a group: a*(a-1)/2 links inside, a*h out; g groups: endpoints g*a*h, switches g*a, links g*a*(a-1)/2
    + g*a*h/2. Local, global, local: diameter 3. The cut keeps groups whole. That is a*h*g^2 / (4*(g-1)) links, the mean
    over all ways to halve them, and all ways where every two groups share as many.
    """
    numbers = dragonfly_numbers(radix, groups)
    a, h, g = numbers.routers, numbers.per_router, numbers.groups
    out = a * h
    return Fabric(g * out, g * a, g * (a * (a - 1) + out) / 2, 3.0, out * g**2 / (4 * maximum(g - 1, 1.0)))


def nvlink_domain(network: Network) -> Fabric:
    """Return endpoints on switches, each joined to each: endpoints k, switches `planes`, no link between.

    Devices on NVLink's chips, or on optical circuit switches.
    """
    return Fabric(network.radix, network.planes, 0.0 * network.radix, 0.0, network.radix / 2)


def pcie_tree(network: Network, endpoints: Count) -> Fabric:
    """Return a PCIe tree: switches of `radix` devices below `groups` host bridges, which are joined to each other.

    With no more switches than bridges the devices hang on the bridges. On one bridge where none is stated. Cut: the
    links of bridges in one half to the others, or with one bridge the uplinks of half of its switches.
    """
    bridges: Count = 1.0 if network.groups is None else network.groups
    switches = ceil(endpoints / network.radix)
    has_switches = switches > bridges
    between = bridges * (bridges - 1) / 2
    links = where(has_switches, switches, 0.0) + between
    halves = floor(bridges / 2) * ceil(bridges / 2)
    diameter = where(has_switches, 2.0, 0.0) + where(bridges > 1, 1.0, 0.0)
    cut = where(bridges > 1, halves, where(has_switches, floor(switches / 2), endpoints / 2))
    return Fabric(endpoints, where(has_switches, switches, 0.0) + bridges, links, diameter, cut)


def grid(network: Network, endpoints: Count) -> Fabric:  # noqa: ARG001  one signature for all
    """Return a mesh or torus of routers: endpoints routers*h, and links, diameter and cut of its sides."""
    routers = float(np.prod(network.shape))
    return Fabric(
        routers * grids.endpoints_per_router(network), routers, grids.link_count(network), grids.diameter(network),
        grids.cut(network),
    )  # fmt: skip


def _two_levels(network: Network, endpoints: Count) -> Fabric:  # noqa: ARG001  one signature for all
    """Return the tree of each plane. Rails are leaves of one tree."""
    return in_planes(two_level_fat_tree(network.radix, network.oversubscription), network.planes)


def _smallest(network: Network, endpoints: Count) -> Fabric:
    plane = smallest_fat_tree(network.radix, endpoints / network.planes, network.oversubscription)
    return in_planes(plane, network.planes)


TOPOLOGIES: dict[str, Callable[[Network, Count], Fabric]] = {
    "ft2": _two_levels,
    "mrft": _two_levels,
    "rail": _smallest,
    "mpft": _two_levels,
    "ft3": lambda network, _: in_planes(three_level_fat_tree(network.radix, network.oversubscription), network.planes),
    "fat-tree": _smallest,
    "sf": lambda network, _: in_planes(slim_fly(network.radix), network.planes),
    "df": lambda network, _: in_planes(dragonfly(network.radix, network.groups), network.planes),
    "mesh": grid,
    "torus": grid,
    "ocs": lambda network, _: nvlink_domain(network),
    "nvlink": lambda network, _: nvlink_domain(network),
    "pcie": pcie_tree,
}
"""Topology -> the whole of it, from the network and the endpoints that it has to hold."""


def full_fabric(network: Network, endpoints: Count) -> Fabric | None:
    """Return the full fabric that a network of `endpoints` is a part of, null where its topology has no counts."""
    build = TOPOLOGIES.get(network.topology)
    return None if build is None else build(network, endpoints)


def has_three_levels(network: Network, endpoints: Count) -> bool:
    """Tell whether the tree that holds `endpoints` has three levels of switches."""
    two = two_level_fat_tree(network.radix, network.oversubscription)
    grows = network.topology in ("fat-tree", "rail")
    return network.topology == "ft3" or (grows and bool(endpoints > two.endpoints * network.planes))


def named_fabric(network: Network, endpoints: Count | None) -> Fabric:
    """Return the full fabric of a topology by itself. Raises InputError where it cannot be counted.

    A PCIe tree and trees of as many levels as they need (`fat-tree`, `rail`) need the endpoints.
    """
    if endpoints is None and network.topology in ("pcie", "fat-tree", "rail"):
        raise InputError.single(f"a {network.topology} has no size of its own", hint="state `endpoints`")
    fabric = full_fabric(network, 1.0 if endpoints is None else endpoints)
    if fabric is None:
        raise InputError.single(
            f"topology {network.topology!r} has no counts", hint=f"write one of {', '.join(TOPOLOGIES)}"
        )
    if not np.all(np.greater(fabric.endpoints, 0)):
        raise InputError.single(f"a {network.topology} cannot be made of {network.radix:g}-port switches")
    if endpoints is not None and np.any(np.greater(endpoints, fabric.endpoints)):
        text = f"the fabric has {fabric.endpoints:,.0f} ports for endpoints, {endpoints:,.0f} are stated"
        raise InputError.single(text)
    return fabric


def bisection_bandwidth(fabric: Fabric, port: BytesPerSecond) -> BytesPerSecond:
    """Return what the halves of a fabric can send to each other, one direction [B/s]: cut * bandwidth of a port."""
    return fabric.cut * port


def cost(fabric: Fabric, price: FabricPrice) -> Dollars | None:
    """Return switches, links and cables to endpoints, each times its price [$], null where a price is missing."""
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
