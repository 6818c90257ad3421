"""The files of hardware: one accelerator by its datasheet, nodes and clusters of them, topologies."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from costmodel.declared import DType, Factor, Frequency, Latency, NicBandwidth, Number, Peak, Watts, Whole, Wrong
from costmodel.hardware import Cluster, Device, Host, Link, MathUnit, MemoryLevel, Network, Nic, Node, Power, Price
from costmodel.quantities import Quantity
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict

NO_SOURCE = "no source"  # cited for what stays null or is taken from another device
PLAUSIBLE = "paths of fields whose values are meant although no known hardware has such"


class Source(Strict):
    """The source of values."""

    fields: list[str] = Field(description="paths of the fields that it covers")
    cite: str = Field(description="title, version, page or address")
    kind: Literal["datasheet", "paper", "measurement", "vendor-page", "derived"] = Field(description="kind of source")
    note: str | None = Field(default=None, description="how the value was read or derived")
    rests_on: list[str] = Field(
        default=[],
        description="measurements and published figures that the value was fitted to or computed from: ids of cases, "
        "names of publications, repositories of measured rows as `owner/name`; written by the program that fits",
    )
    seen: list[str] = Field(
        default=[],
        description="published figures that were in sight when a person chose the value: ids of cases or names of "
        "publications",
    )


class ClockFile(Strict):
    """Clock frequencies."""

    tensor_reference: Frequency = Field(description="clock of the datasheet's tensor peaks")
    max: Frequency = Field(description="highest boost clock")


class MathUnitFile(Declared, of=MathUnit):
    """The dense arithmetic of one number format."""

    peak: Peak = Field(description="dense peak of the device; a multiply-add is two FLOP")
    clock: Literal["reference", "max"] = Field(default="reference", description="clock of the stated peak")


class MemoryLevelFile(Declared, of=MemoryLevel):
    """One level of the memory hierarchy."""

    per: Literal["processor", "device"] = Field(default="device", description="unit of all values")


class LinkFile(Declared, of=Link):
    """A connection of the device to others."""


class PowerFile(Declared, of=Power):
    """Electrical power."""

    limit: Watts | None = Field(default=None, description="limit that the board is set to; null: `tdp`")

    def _check_idle(self) -> None:
        for name in ("tdp", "limit"):
            limit = getattr(self, name)
            if limit is not None and self.idle is not None and not np.all(np.less_equal(self.idle, limit)):
                raise Wrong(
                    f"idle must not exceed {name}", f"write the power limit as {name} and the idle power as idle"
                )


class PriceFile(Declared, of=Price):
    """Prices of the device. Null: unknown."""

    _quotes: dict[str, tuple[str, str]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_quotes(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep the kinds and dates that mappings state. Fields hold the bare prices."""
        file = handler(data)
        entries = data.items() if isinstance(data, dict) else ()
        file._quotes.update(
            {name: (entry["kind"], str(entry["date"])) for name, entry in entries if isinstance(entry, dict)}
        )
        return file

    def quote(self, name: str) -> tuple[str, str] | None:
        """Return the kind and the date of a price, null where only its number is stated."""
        return self._quotes.get(name)


class WholeRunsFile(Strict):
    """What measured whole runs say of kernels that nobody measured on the device, over `calibrations/prior`."""

    launch: Latency = Field(default=0.0, description="added to the start of a kernel")
    compute: Factor = Field(default=1.0, description="factor on the expected share of the arithmetic peaks")
    hbm: Factor = Field(default=1.0, description="factor on the expected share of device memory's bandwidth")


class CalibrationFile(Strict):
    """The fits of this device, and the sibling whose fits it uses where it has none."""

    default: dict[str, str] = Field(
        default={},
        description="operator family or `family/variant` -> implementation under `calibrations/DEVICE`, for frameworks "
        "that name none",
    )
    inherit: str | None = Field(default=None, description="name of the sibling device; null: none")
    without: list[str] = Field(
        default=[],
        description="libraries that a framework names and that do not run here, such as `peers`, whose kernels read "
        "other devices' memory",
    )
    anchor: str | None = Field(
        default=None,
        description="name of a measurement table, `calibrations/DEVICE/NAME.csv`, of rows too few for a fit of their "
        "own: they move and narrow the fits that others lend",
    )
    whole_runs: WholeRunsFile | None = Field(
        default=None, description="of families without any fit; null: those of the sibling device, or none"
    )


class DeviceFile(Declared, of=Device):
    """One accelerator."""

    announced: Annotated[int, Whole(1990, 2100, single=True)] | None = Field(
        default=None, description="year in which the vendor presented it; null: unknown"
    )
    forecast: bool = Field(
        default=False, description="announced, and measured by nobody yet; every result on the device says so"
    )
    die: str | None = Field(default=None, description="chip that the device is cut from, in lower case")
    clock: ClockFile = Field(description="clock frequencies")
    math: dict[DType, MathUnitFile] = Field(min_length=1, description="number format -> arithmetic; fp32: CUDA cores")
    memory: list[MemoryLevelFile] = Field(min_length=1, description="levels, from the nearest to device memory")
    links: dict[str, LinkFile] = Field(default_factory=dict, description="link name -> link")
    aliases: list[str] = Field(default=[], description="names of the device in measurement tables")
    calibration: CalibrationFile | None = Field(default=None, description="fits of the device")
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")

    def _check_device_memory(self) -> None:
        if self.memory[-1].bandwidth is None:
            name = self.memory[-1].name
            hint, at = f"write `memory.{name}.bandwidth`", ("memory", len(self.memory) - 1, "bandwidth")
            raise Wrong(f"{name}, the device memory, lacks a bandwidth", hint, at)

    @classmethod
    def lacks(cls, raw: Mapping[str, Any]) -> Iterator[Wrong]:
        """Yield the rate of the CUDA cores where it is missing."""
        if isinstance(raw.get("math"), dict) and "fp32" not in raw["math"]:
            yield Wrong("math lacks fp32, the rate of the CUDA cores", "add `fp32: {peak: …}`")

    def _check_vector_unit(self) -> None:
        for wrong in self.lacks({"math": self.math}):
            raise wrong


def forecast_notes(device: DeviceFile) -> Iterator[str]:
    """Yield a note on a device that nobody has measured yet: since when it is announced, and what no source states."""
    if device.forecast:
        unknown = [field for source in device.sources if source.cite == NO_SOURCE for field in source.fields]
        since = "announced" if device.announced is None else f"announced in {device.announced}"
        gaps = f"; no source states {', '.join(unknown)}" if unknown else ""
        yield f"{device.name} is a forecast: {since}, its figures are its maker's goals{gaps}"


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
