"""The node, cluster and topology files."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from costmodel.declared import DType, Latency, NicBandwidth, Number, Peak, Whole, Wrong
from costmodel.hardware import Cluster, Host, Network, Nic, Node
from costmodel.quantities import Quantity
from costmodel.schema.device import PLAUSIBLE, Source
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict

GRIDS = ("mesh", "torus")


class NicFile(Declared, of=Nic):
    """The NICs of a node."""

    per_device: Annotated[Quantity, Whole(1, 64)] = Field(default=1.0, description="NICs per device")


class HostFile(Declared, of=Host):
    """The CPU side of a node. Null: unknown."""

    cpu: str | None = Field(default=None, description="CPU model")
    peak: dict[DType, Peak] | None = Field(default=None, description="format -> dense peak, all sockets; null: unknown")


class NodeFile(Declared, of=Node):
    """Devices in one machine."""

    device: str = Field(description="the device file, `devices/NAME`")
    intra: str = Field(description="name of the link between the devices")
    aliases: list[str] = Field(default=[], description="other names of the node")
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")


class FabricLatencyFile(Strict):
    """End-to-end time of a small message. Null: unknown."""

    same_leaf: Latency | None = Field(default=None, description="between endpoints on the same leaf switch")
    cross_leaf: Latency | None = Field(default=None, description="between endpoints on different leaf switches")


class NetworkFile(Declared, of=Network):
    """The network between nodes."""

    planes: Number = Field(
        default=1.0, description="parallel independent planes; nvlink: switch chips; ocs: optical switches"
    )
    bandwidth: NicBandwidth | None = Field(default=None, description="per port, one direction; null: as the NIC")
    routing: Literal["static", "ecmp", "adaptive", "spray"] = Field(default="static", description="path selection")
    shape: list[Annotated[int, Whole(1, 4096, single=True)]] = Field(
        default=[], description="mesh, torus: routers along each side, the first in which endpoints are numbered first"
    )
    latency: FabricLatencyFile = Field(default_factory=FabricLatencyFile, description="latencies")

    def _check_grid(self) -> None:
        if self.topology != "ocs" and self.reconfiguration is not None:
            raise Wrong(f"a {self.topology} has no circuits", "take reconfiguration out, or write topology: ocs")
        if self.topology not in GRIDS:
            if self.shape:
                raise Wrong(f"a {self.topology} has no shape", f"take shape out, or write {' or '.join(GRIDS)}")
            return
        if not 1 <= len(self.shape) <= 3:
            raise Wrong(f"a {self.topology} needs one to three sides", "write shape: [8, 8]")
        if np.any(np.not_equal(self.planes, 1.0)):
            raise Wrong(f"a {self.topology} has one plane", "take planes out")
        if np.any(np.less_equal(self.radix, 2 * len(self.shape))):
            least = 2 * len(self.shape) + 1
            raise Wrong("no port of a router is left for an endpoint", f"write radix: {least} or more")


class ClusterFile(Declared, of=Cluster):
    """Identical nodes on one network. Inside a scenario, `name` is optional."""

    name: str = Field(default="inline", description="name in references")
    node: str = Field(description="the node file, `nodes/NAME`; a device file is a node of one device")
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")


class TopologyFile(Strict):
    """A network by itself, for part counts and prices. Same keys as the network of a cluster."""

    name: str = Field(description="name for `costmodel topology`")
    network: NetworkFile = Field(description="the network, as in a cluster file")
    endpoints: Number | None = Field(default=None, description="endpoints in use; null: all endpoint ports")
    sources: list[Source] = Field(default=[], description="sources of the values")
