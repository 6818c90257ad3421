"""What a cluster is made of: devices with math units and memory levels, links, nodes, networks."""

from costmodel.hardware.device import (
    Cluster,
    Device,
    FabricPrice,
    Facility,
    Host,
    Link,
    MathUnit,
    MemoryLevel,
    Network,
    Nic,
    Node,
    Power,
    Price,
    Quote,
)

__all__ = [
    "Cluster",
    "Device",
    "FabricPrice",
    "Facility",
    "Host",
    "Link",
    "MathUnit",
    "MemoryLevel",
    "Network",
    "Nic",
    "Node",
    "Power",
    "Price",
    "Quote",
]
