"""A device: processors with math units, a memory hierarchy, and links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import numpy as np

from costmodel.declared import (
    Bandwidth,
    Energy,
    EnergyPrice,
    Latency,
    LinkBandwidth,
    LoadFactor,
    Money,
    NicBandwidth,
    Nullable,
    Number,
    OneOf,
    Quoted,
    ShareOrZero,
    Size,
    Watts,
    WattsOrZero,
    Whole,
)  # fmt: skip  # fmt: skip
from costmodel.quantities import Bytes, BytesPerSecond, Count, FlopPerSecond, Hertz, Quantity, Seconds
from costmodel.records import Record, field, replace

LEVELS = ("smem", "l1", "l2", "l3", "mall", "hbm", "dram")


class MathUnit(Record):
    """The dense arithmetic of one number format on one processor.

    flop_per_cycle: dense rate of one processor [FLOP/cycle].
    clock: the clock its peak is stated at [Hz].
    scaling: `software` is the kernel's, on CUDA cores; `native` the math unit's.
    """

    flop_per_cycle: Count
    clock: Hertz
    accumulate: Annotated[Literal["fp64", "fp32", "fp22", "fp16", "int32"], "format of the accumulator"] = "fp32"
    scaling: Annotated[Literal["none", "software", "native"], "where block scales are applied"] = "none"


class MemoryLevel(Record):
    """One level of the hierarchy. Both figures are totals of the device, also where the level is per processor.

    bandwidth is null where no source states it: such a level never bounds a kernel.
    """

    name: Annotated[str, OneOf(LEVELS), "name of the level"]
    capacity: Annotated[Size, "capacity"]
    bandwidth: Annotated[Bandwidth | None, "read bandwidth; null: unknown"]
    driver: Annotated[
        Size, Nullable(), "part of the capacity that the driver keeps from programs; null: unknown, as if none"
    ] = 0.0

    @property
    def visible_capacity(self) -> Bytes:
        """Return what programs see of it: capacity - driver [B]."""
        return self.capacity - self.driver


class Link(Record):
    """A connection: bandwidth in one direction per device, and the latency of a small message, null where unsourced."""

    name: str
    bandwidth: Annotated[LinkBandwidth, "one direction, all lanes of one device together"]
    latency: Annotated[Latency | None, "time of a small message; null: unknown"]


class Power(Record):
    """Electrical power of a board, null where no source states it.

    busy, tensor: at the highest clock.
    timed: limit under which kernels were timed, that of the device's file; null: as `tdp` [W].
    """

    tdp: Annotated[Watts | None, "board power limit; null: unknown"] = None
    idle: Annotated[Watts | None, "idle board power; null: unknown"] = None
    busy: Annotated[WattsOrZero, Nullable(), "more than idle while kernels run, whatever they do; null: none"] = 0.0
    tensor: Annotated[
        Energy, Nullable(), "per FLOP of 16-bit operands, others in proportion to their bytes; null: none"
    ] = 0.0
    memory: Annotated[
        Energy, Nullable(),
        "per byte of device memory; null: power stands at the limit, which then sets no clock",
    ] = 0.0  # fmt: skip
    link: Annotated[Energy, Nullable(), "per byte sent to other devices; null: not counted"] = 0.0
    timed: Watts | None = None
    error: Annotated[
        ShareOrZero | None,
        "half of the 80 % interval of a predicted power, over it; null: not known",
    ] = None

    @property
    def states_work(self) -> bool:
        """Tell whether idle power and the energy of a board's work are known."""
        return self.idle is not None and bool(np.any(np.asarray(self.memory) > 0))


class Quote(Record):
    """Where a price is from. kind: of offer, as of `RENTS` and `PURCHASES`; date: of the offer; source: who says so."""

    kind: str
    date: str
    source: str | None = None


RENTS = {
    "on-demand": "on-demand offers of several clouds",
    "one-cloud": "the price of one cloud",
    "spot": "a spot price",
    "reserved": "a price by contract",
    "assumption": "an assumption of a publication",
    "derived": "derived from another device's",
}
PURCHASES = {
    "list": "a list price",
    "street": "a street price",
    "assumption": "an assumption of a publication",
    "derived": "derived from another price",
}
"""Kinds of a rent and of a purchase price -> what they are."""
Rent: TypeAlias = Annotated[Quantity, Quoted("money_rate", zero=True, kinds=tuple(RENTS))]
Purchase: TypeAlias = Annotated[Quantity, Quoted("money", zero=True, kinds=tuple(PURCHASES))]
NOT_AN_OFFER = ("assumption", "derived")  # kinds that nobody sells at


class Price(Record):
    """Money: rental [$/s], purchase [$] and electricity [$/J], null where no source states one.

    rental_quote, purchase_quote: where each is from, null where a person states the bare number.
    """

    rental: Annotated[Rent | None, "rent per device"] = None
    purchase: Annotated[Purchase | None, "purchase price per device"] = None
    electricity: Annotated[EnergyPrice | None, "of electricity where the device runs"] = None
    rental_quote: Quote | None = None
    purchase_quote: Quote | None = None


class Device(Record):
    """One accelerator. `memory` runs from the nearest level to the farthest. The last one is device memory.

    path: where its file is if no name of the search path finds it.
    """

    name: Annotated[str, "name in references"]
    architecture: Annotated[str, "vendor's architecture name, in lower case"]
    processors: Annotated[Number, "usable streaming multiprocessors (SMs)"]
    clock: Hertz  # tensor reference clock
    clock_max: Hertz
    math: Mapping[str, MathUnit]
    memory: tuple[MemoryLevel, ...]
    links: Mapping[str, Link]
    power: Annotated[Power, "electrical power"] = Power()
    price: Annotated[Price, "prices"] = Price()
    path: str | None = None

    def peak(self, dtype: str, processors: Count | None = None) -> FlopPerSecond:
        """Return the dense peak of `dtype` on `processors` (default: all) [FLOP/s].

        peak = processors * flop_per_cycle * clock
        """
        unit = self.math[dtype]
        return (self.processors if processors is None else processors) * unit.flop_per_cycle * unit.clock

    def level(self, name: str) -> MemoryLevel | None:
        """Return the memory level of that name, or None."""
        for level in self.memory:  # every kernel asks: a generator takes several times as long
            if level.name == name:
                return level
        return None

    def clocked(self, ratio: Quantity) -> Device:
        """Return the device at so many times its clocks: those of its processors and of all memory but the farthest."""
        *caches, far = self.memory
        return replace(
            self,
            clock=self.clock * ratio,
            clock_max=self.clock_max * ratio,
            math={name: replace(unit, clock=unit.clock * ratio) for name, unit in self.math.items()},
            memory=(*(replace(each, bandwidth=_times(each.bandwidth, ratio)) for each in caches), far),
        )

    @property
    def device_memory(self) -> MemoryLevel:
        """Return the farthest level: the one whose capacity a ledger is held against."""
        return self.memory[-1]


def _times(bandwidth: BytesPerSecond | None, ratio: Quantity) -> BytesPerSecond | None:
    return None if bandwidth is None else bandwidth * ratio


# ---- Nodes of devices, and clusters of nodes -------------------------------------------------------------------------

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
