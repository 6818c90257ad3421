"""What a cluster is made of: devices with math units and memory levels, links, nodes, networks."""

from costmodel.hardware.cluster import Cluster, FabricPrice, Facility, Host, Network, Nic, Node
from costmodel.hardware.device import Device, Link, MathUnit, MemoryLevel, Power, Price, Quote

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
