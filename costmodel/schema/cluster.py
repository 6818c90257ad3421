"""The node, cluster and topology files."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import (
    Bandwidth,
    Latency,
    LoadFactor,
    Money,
    NicBandwidth,
    Number,
    OneOf,
    Peak,
    Size,
    Watts,
    WattsOrZero,
    Whole,
    Wrong,
)
from costmodel.quantities import Quantity
from costmodel.schema.device import PLAUSIBLE, DType, Source
from costmodel.schema.strict import Strict

TOPOLOGIES = (
    "ft2", "ft3", "fat-tree", "mrft", "rail", "mpft", "sf", "df", "mesh", "torus", "ocs", "nvlink", "pcie",
    "unspecified",
)  # fmt: skip
GRIDS = ("mesh", "torus")


class NicFile(Strict):
    """The NICs of a node."""

    per_device: Annotated[Quantity, Whole(1, 64)] = Field(default=1.0, description="NICs per device")
    bandwidth: NicBandwidth = Field(description="one NIC, one direction")
    latency: Latency | None = Field(description="time of a small message; null: unknown")


class HostFile(Strict):
    """The CPU side of a node. Null: unknown."""

    memory: Size | None = Field(default=None, description="host memory")
    bandwidth: Bandwidth | None = Field(default=None, description="host memory bandwidth of all sockets")
    sockets: Number | None = Field(default=None, description="CPU sockets")
    cpu: str | None = Field(default=None, description="CPU model")
    peak: dict[DType, Peak] | None = Field(default=None, description="format -> dense peak, all sockets; null: unknown")
    link: str = Field(default="pcie", description="name of the device's link to the host")
    price: Money | None = Field(default=None, description="price of a node without its devices; null: unknown")
    switches: Number | None = Field(default=None, description="PCIe switches below the sockets; null: none")
    interconnect: Bandwidth | None = Field(default=None, description="one-way bandwidth from a socket to the others")
    power: Watts | None = Field(default=None, description="power of a node without its devices; null: not counted")


class FacilityFile(Strict):
    """Power around the devices."""

    network: WattsOrZero | None = Field(
        default=None, description="switches, NICs and optics per device; null: not counted"
    )
    pue: LoadFactor | None = Field(
        default=None, description="power of the building over that of its machines (PUE); null: not counted"
    )


class NodeFile(Strict):
    """Devices in one machine."""

    name: str = Field(description="name in references")
    device: str = Field(description="the device file, `devices/NAME`")
    count: Number = Field(description="devices in the node")
    intra: str = Field(description="name of the link between the devices")
    peer_to_peer: bool = Field(default=True, description="false: traffic between devices goes through host memory")
    nic: NicFile | None = Field(default=None, description="NICs; null: none")
    host: HostFile = Field(default_factory=HostFile, description="the CPU side")
    facility: FacilityFile = Field(default_factory=FacilityFile, description="power of network and building")
    aliases: list[str] = Field(default=[], description="other names of the node")
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")


class FabricLatencyFile(Strict):
    """End-to-end time of a small message. Null: unknown."""

    same_leaf: Latency | None = Field(default=None, description="between endpoints on the same leaf switch")
    cross_leaf: Latency | None = Field(default=None, description="between endpoints on different leaf switches")


class FabricPriceFile(Strict):
    """Prices of network parts. Null: unknown."""

    switch: Money | None = Field(default=None, description="per switch")
    link: Money | None = Field(default=None, description="per cable between switches, transceivers included")
    endpoint_link: Money | None = Field(default=None, description="per cable between a NIC and a switch")


class NetworkFile(Strict):
    """The network between nodes."""

    topology: Annotated[str, OneOf(TOPOLOGIES)] = Field(
        description="how switches are wired; `unspecified` has no part counts"
    )
    planes: Number = Field(
        default=1.0, description="parallel independent planes; nvlink: switch chips; ocs: optical switches"
    )
    radix: Number = Field(
        description="ports per switch; nvlink: devices; pcie: devices per switch; mesh, torus: two a dimension, and "
        "endpoints of a router; ocs: endpoints"
    )
    shape: list[Annotated[int, Whole(1, 4096, single=True)]] = Field(
        default=[], description="mesh, torus: routers along each side, the first in which endpoints are numbered first"
    )
    reconfiguration: Latency | None = Field(
        default=None, description="ocs: time in which the optical circuits change; null: none"
    )
    groups: Number | None = Field(
        default=None,
        description="groups of a dragonfly (null: as many as radix allows), host bridges of a PCIe tree (null: one)",
    )
    oversubscription: LoadFactor = Field(default=1.0, description="leaf ports to endpoints over leaf ports to spines")
    pxn: bool = Field(default=True, description="change rails inside the node, over the link between its devices")
    failed: list[str] = Field(
        default=[], description="failed parts: plane0, nic12, leaf0.3, leaf0.3-spine0.1 (flow engine only)"
    )
    bandwidth: NicBandwidth | None = Field(default=None, description="per port, one direction; null: as the NIC")
    latency: FabricLatencyFile = Field(default_factory=FabricLatencyFile, description="latencies")
    routing: Literal["static", "ecmp", "adaptive", "spray"] = Field(default="static", description="path selection")
    price: FabricPriceFile = Field(default_factory=FabricPriceFile, description="prices of parts")

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        if self.topology != "ocs" and self.reconfiguration is not None:
            raise Wrong(f"a {self.topology} has no circuits", "take reconfiguration out, or write topology: ocs")
        if self.topology not in GRIDS:
            if self.shape:
                raise Wrong(f"a {self.topology} has no shape", f"take shape out, or write {' or '.join(GRIDS)}")
            return self
        if not 1 <= len(self.shape) <= 3:
            raise Wrong(f"a {self.topology} needs one to three sides", "write shape: [8, 8]")
        if np.any(np.not_equal(self.planes, 1.0)):
            raise Wrong(f"a {self.topology} has one plane", "take planes out")
        if np.any(np.less_equal(self.radix, 2 * len(self.shape))):
            least = 2 * len(self.shape) + 1
            raise Wrong("no port of a router is left for an endpoint", f"write radix: {least} or more")
        return self


class ClusterFile(Strict):
    """Identical nodes on one network. Inside a scenario, `name` is optional."""

    name: str = Field(default="inline", description="name in references")
    node: str = Field(description="the node file, `nodes/NAME`")
    count: Annotated[Quantity, Whole(1, 10**6)] = Field(description="nodes in the cluster")
    network: NetworkFile | None = Field(
        default=None, description="the network; null: several nodes with NICs share one switch, at the NIC's latency"
    )
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")


class TopologyFile(Strict):
    """A network by itself, for part counts and prices. Same keys as the network of a cluster."""

    name: str = Field(description="name for `costmodel topology`")
    network: NetworkFile = Field(description="the network, as in a cluster file")
    endpoints: Number | None = Field(default=None, description="endpoints in use; null: all endpoint ports")
    sources: list[Source] = Field(default=[], description="sources of the values")
