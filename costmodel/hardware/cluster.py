"""Nodes of devices, and clusters of nodes."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.hardware.device import Device, Link
from costmodel.quantities import Bytes, BytesPerSecond, Count, Dollars, FlopPerSecond, Quantity, Seconds, Watts
from costmodel.records import Record, field


class Nic(Record):
    """The way out of a node: bandwidth of one NIC in one direction, how many a device has, and latency."""

    bandwidth: BytesPerSecond
    per_device: Count
    latency: Seconds | None


class Host(Record):
    """The node's CPU side, all sockets together. Null, and a format that `peak` leaves out: no source.

    memory: its capacity [B].
    bandwidth: of that memory [B/s].
    sockets: how many share both.
    peak: dense arithmetic by number format [FLOP/s].
    link: name of the link of each device that leads to the host.
    price: the node without its devices [$].
    switches: PCIe switches between the devices and the sockets, none where null.
    interconnect: of a socket to the others, one direction [B/s].
    power: of a node without its devices, not counted where null [W].
    """

    memory: Bytes | None
    bandwidth: BytesPerSecond | None
    sockets: Count | None
    peak: Mapping[str, FlopPerSecond] = field(default_factory=dict)
    link: str = "pcie"
    price: Dollars | None = None
    switches: Count | None = None
    interconnect: BytesPerSecond | None = None
    power: Watts | None = None


class Facility(Record):
    """What a device's power costs around it: of switches and optics [W], and the building's over the machines' [-]."""

    network: Watts = 0.0
    pue: Quantity = 1.0


class Node(Record):
    """`count` devices joined by the link `intra`. Without `peer_to_peer` their traffic goes through host memory."""

    name: str
    device: Device
    count: Count
    intra: Link
    peer_to_peer: bool
    nic: Nic | None
    host: Host
    facility: Facility = Facility()


class FabricPrice(Record):
    """What the parts of a fabric cost [$], null where no source states it.

    switch: one switch.
    link: a cable between two switches with its transceivers.
    endpoint_link: one between a NIC and a switch.
    """

    switch: Dollars | None = None
    link: Dollars | None = None
    endpoint_link: Dollars | None = None


class Network(Record):
    """The fabric between nodes.

    bandwidth: one endpoint port in one direction, null where ports are as fast as the NIC.
    latencies: small message, end to end, null where no source states one.
    groups: of a dragonfly, or host bridges of a PCIe tree, null for as many as the radix allows.
    oversubscription: ports of a leaf to endpoints over those to spines.
    pxn: messages between rails change rail inside the node, over the link that joins its devices.
    failed: names of parts that do not work.
    shape: routers along each side of a mesh or torus.
    reconfiguration: time in which optical circuits change [s].
    """

    topology: str
    planes: Count
    radix: Count
    bandwidth: BytesPerSecond | None
    latency_same_leaf: Seconds | None
    latency_cross_leaf: Seconds | None
    routing: str
    price: FabricPrice = field(default_factory=FabricPrice)
    groups: Count | None = None
    oversubscription: Count = 1.0
    pxn: bool = True
    failed: tuple[str, ...] = ()
    shape: tuple[float, ...] = ()
    reconfiguration: Seconds = 0.0


class Cluster(Record):
    """`count` equal nodes on one network. A single node has none."""

    name: str
    node: Node
    count: Count
    network: Network | None

    @property
    def device(self) -> Device:
        """Return the one kind of device in the cluster."""
        return self.node.device

    @property
    def devices(self) -> Count:
        """Return how many devices the cluster has."""
        return self.count * self.node.count
