"""The node file and the cluster file: how devices are put together."""

from typing import Literal

from pydantic import Field

from costmodel.schema.device import DType, Source
from costmodel.schema.quantity import Bandwidth, Latency, LoadFactor, Money, NicBandwidth, Number, Peak, Size
from costmodel.schema.strict import Strict


class NicFile(Strict):
    """The network cards of a node."""

    per_device: Number = Field(default=1.0, description="NICs that one device has for itself")
    bandwidth: NicBandwidth = Field(description="one NIC, one direction")
    latency: Latency | None = Field(description="time of a small message; null where no source states it")


class HostFile(Strict):
    """The CPU side of a node; null where no source states a value."""

    memory: Size | None = Field(default=None, description="host memory")
    bandwidth: Bandwidth | None = Field(default=None, description="host memory bandwidth, all sockets together")
    sockets: Number | None = Field(default=None, description="CPU sockets")
    cpu: str | None = Field(default=None, description="CPU model")
    peak: dict[DType, Peak] | None = Field(
        default=None, description="number format -> dense peak of all sockets; null where no source states one"
    )
    link: str = Field(default="pcie", description="name of the device's link that leads to the host")
    price: Money | None = Field(default=None, description="price of a node without its devices; null: no source")
    switches: Number | None = Field(default=None, description="PCIe switches below the sockets; null: none")
    interconnect: Bandwidth | None = Field(default=None, description="one socket to the others, one direction")


class NodeFile(Strict):
    """Devices in one box."""

    name: str = Field(description="name by which other files call it")
    device: str = Field(description="the device file, `devices/NAME`")
    count: Number = Field(description="devices in the node")
    intra: str = Field(description="name of the device's link that joins the devices")
    peer_to_peer: bool = Field(default=True, description="false where traffic between devices goes through host memory")
    nic: NicFile | None = Field(default=None, description="the way out of the node; null where it has none")
    host: HostFile = Field(default_factory=HostFile, description="the CPU side")
    aliases: list[str] = Field(default=[], description="other names of the node")
    sources: list[Source] = Field(default=[], description="where the values come from")


class FabricLatencyFile(Strict):
    """End-to-end time of a small message; null where no source states it."""

    same_leaf: Latency | None = Field(default=None, description="between endpoints on one leaf switch")
    cross_leaf: Latency | None = Field(default=None, description="between endpoints on different leaf switches")


class FabricPriceFile(Strict):
    """What the parts of a fabric cost; null where no source states it."""

    switch: Money | None = Field(default=None, description="one switch")
    link: Money | None = Field(default=None, description="one cable between switches, transceivers included")
    endpoint_link: Money | None = Field(default=None, description="one cable between a NIC and a switch")


class NetworkFile(Strict):
    """The fabric between nodes."""

    topology: str = Field(
        description="kind of fabric: ft2, ft3, fat-tree, mrft, rail, mpft, sf, df, nvlink, pcie; others have no counts"
    )
    planes: Number = Field(default=1.0, description="independent fabrics side by side; of nvlink: switch chips")
    radix: Number = Field(description="ports of one switch; of nvlink: devices; of pcie: devices below one switch")
    groups: Number | None = Field(
        default=None,
        description="groups of a dragonfly, host bridges of a PCIe tree; null: as many as radix allows, one",
    )
    oversubscription: LoadFactor = Field(
        default=1.0, description="a leaf's ports to endpoints over its ports to spines"
    )
    pxn: bool = Field(default=True, description="change rails inside the node, over the link that joins its devices")
    failed: list[str] = Field(
        default=[], description="parts that do not work: plane0, nic12, leaf0.3, leaf0.3-spine0.1 (flow level only)"
    )
    bandwidth: NicBandwidth | None = Field(default=None, description="one port one way; null: as fast as the NIC")
    latency: FabricLatencyFile = Field(default_factory=FabricLatencyFile, description="latencies")
    routing: Literal["static", "ecmp", "adaptive", "spray"] = Field(default="static", description="choice of paths")
    price: FabricPriceFile = Field(default_factory=FabricPriceFile, description="prices of the parts")


class ClusterFile(Strict):
    """Equal nodes on one network. Inline in a scenario, `name` may be left out."""

    name: str = Field(default="inline", description="name by which other files call it")
    node: str = Field(description="the node file, `nodes/NAME`")
    count: Number = Field(description="nodes in the cluster")
    network: NetworkFile | None = Field(
        default=None, description="the fabric; null: several nodes with NICs hang on one switch, at the NIC's latency"
    )
    sources: list[Source] = Field(default=[], description="where the values come from")


class TopologyFile(Strict):
    """A fabric by itself, for counts and prices; the network of a cluster is written alike."""

    name: str = Field(description="name by which `costmodel topology` calls it")
    network: NetworkFile = Field(description="the fabric, as in a cluster file")
    endpoints: Number | None = Field(default=None, description="endpoints in use; null: every port that is for one")
    sources: list[Source] = Field(default=[], description="where the values come from")
