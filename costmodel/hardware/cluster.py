"""Nodes of devices, and clusters of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from costmodel.declared import (
    Bandwidth,
    Latency,
    LoadFactor,
    Money,
    NicBandwidth,
    Nullable,
    Number,
    OneOf,
    Size,
    Watts,
    WattsOrZero,
    Whole,
)  # fmt: skip
from costmodel.hardware.device import Device, Link
from costmodel.quantities import BytesPerSecond, Count, FlopPerSecond, Quantity, Seconds
from costmodel.records import Record, field

TOPOLOGIES = (
    "ft2", "ft3", "fat-tree", "mrft", "rail", "mpft", "sf", "df", "mesh", "torus", "ocs", "nvlink", "pcie",
    "unspecified",
)  # fmt: skip


class Nic(Record):
    """The way out of a node: bandwidth of one NIC in one direction, how many a device has, and latency."""

    bandwidth: Annotated[NicBandwidth, "one NIC, one direction"]
    per_device: Count
    latency: Annotated[Latency | None, "time of a small message; null: unknown"]


class Host(Record):
    """The node's CPU side, all sockets together. Null, and a format that `peak` leaves out: no source."""

    memory: Annotated[Size | None, "host memory"] = None
    bandwidth: Annotated[Bandwidth | None, "host memory bandwidth of all sockets"] = None
    sockets: Annotated[Number | None, "CPU sockets"] = None
    peak: Annotated[Mapping[str, FlopPerSecond], Nullable()] = field(default_factory=dict)  # by number format
    link: Annotated[str, "name of the device's link to the host"] = "pcie"
    price: Annotated[Money | None, "price of a node without its devices; null: unknown"] = None
    switches: Annotated[Number | None, "PCIe switches below the sockets; null: none"] = None
    interconnect: Annotated[Bandwidth | None, "one-way bandwidth from a socket to the others"] = None
    power: Annotated[Watts | None, "power of a node without its devices; null: not counted"] = None


class Facility(Record):
    """Power around the devices."""

    network: Annotated[WattsOrZero, Nullable(), "switches, NICs and optics per device; null: not counted"] = 0.0
    pue: Annotated[
        LoadFactor, Nullable(), "power of the building over that of its machines (PUE); null: not counted"
    ] = 1.0


class Node(Record):
    """`count` devices joined by the link `intra`. Without `peer_to_peer` their traffic goes through host memory."""

    name: Annotated[str, "name in references"]
    device: Device
    count: Annotated[Number, "devices in the node"]
    intra: Link
    peer_to_peer: Annotated[bool, "false: traffic between devices goes through host memory"] = True
    nic: Annotated[Nic | None, "NICs; null: none"] = None
    host: Annotated[Host, "the CPU side"] = field(default_factory=Host)
    facility: Annotated[Facility, "power of network and building"] = Facility()


class FabricPrice(Record):
    """What the parts of a fabric cost [$], null where no source states it."""

    switch: Annotated[Money | None, "per switch"] = None
    link: Annotated[Money | None, "per cable between switches, transceivers included"] = None
    endpoint_link: Annotated[Money | None, "per cable between a NIC and a switch"] = None


class Network(Record):
    """The fabric between nodes.

    latencies: small message, end to end, null where no source states one.
    """

    topology: Annotated[str, OneOf(TOPOLOGIES), "how switches are wired; `unspecified` has no part counts"]
    planes: Count
    radix: Annotated[
        Number,
        "ports per switch; nvlink: devices; pcie: devices per switch; mesh, torus: two a dimension, and "
        "endpoints of a router; ocs: endpoints",
    ]
    bandwidth: BytesPerSecond | None
    latency_same_leaf: Seconds | None
    latency_cross_leaf: Seconds | None
    routing: str
    price: Annotated[FabricPrice, "prices of parts"] = field(default_factory=FabricPrice)
    groups: Annotated[
        Number | None, "groups of a dragonfly (null: as many as radix allows), host bridges of a PCIe tree (null: one)"
    ] = None
    oversubscription: Annotated[LoadFactor, "leaf ports to endpoints over leaf ports to spines"] = 1.0
    pxn: Annotated[bool, "change rails inside the node, over the link between its devices"] = True
    failed: Annotated[tuple[str, ...], "failed parts: plane0, nic12, leaf0.3, leaf0.3-spine0.1 (flow engine only)"] = ()
    shape: tuple[float, ...] = ()
    reconfiguration: Annotated[Latency, Nullable(), "ocs: time in which the optical circuits change; null: none"] = 0.0


class Cluster(Record):
    """`count` equal nodes on one network. A single node has none."""

    name: str
    node: Node
    count: Annotated[Quantity, Whole(1, 10**6), "nodes in the cluster"]
    network: Annotated[
        Network | None, "the network; null: several nodes with NICs share one switch, at the NIC's latency"
    ] = None

    @property
    def device(self) -> Device:
        """Return the one kind of device in the cluster."""
        return self.node.device

    @property
    def devices(self) -> Count:
        """Return how many devices the cluster has."""
        return self.count * self.node.count
