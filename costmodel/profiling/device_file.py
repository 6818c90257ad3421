"""The device file of what was measured: peaks, bandwidths and capacities, each with the measurement as its source."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from costmodel import units
from costmodel.profiling.shapes import FP4
from costmodel.records import ValueRecord
from costmodel.schema.whole_files import make_folder, write_whole

_INSIDE = 4  # parts of a cache that a copy has to fit into to be one of the cache
_KEPT = re.compile(r"^calibration:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_SCALING = {"fp8": ", scaling: software", "fp4": ", scaling: native"}
_PRODUCTS = ("gemm", "gemm_wgrad")
_DIGITS = 4


class Facts(ValueRecord):
    """What the system says of a device.

    clock, clock_max: [Hz], null where nobody states them.
    memory, cache: capacities [B].
    power: limit [W].
    link: the name of what leads to other devices.
    """

    product: str
    architecture: str
    processors: int
    clock: float | None
    clock_max: float | None
    memory: int
    cache: int
    driver: str
    link: str
    power: float | None = None


class Rates(ValueRecord):
    """What rows say of a device: the highest rate of a product by number format [FLOP/s], and of copies [B/s].

    host: of copies from and to the host, one direction, null where there is none of a kind.
    """

    peaks: Mapping[str, float]
    memory: float | None
    cache: float | None
    host: float | None


def file_of(kind: str, facts: Facts, names: Callable[[str], str | None]) -> str | None:
    """Return the device file that describes a GPU, null where none does. A CPU always gets a file of its own.

    names: the device file that a product's name or alias means.
    """
    return names(facts.product) if kind == "cuda" else None


def unit_of(dtype: str) -> str:
    """Return the math unit of a number format as tables spell it."""
    return "fp8" if dtype.startswith("fp8") else "fp4" if dtype == FP4 else dtype


def rates_of(rows: Iterable[Mapping[str, str]], cache: int) -> Rates:
    """Return the highest rates among some rows.

    peak      = max 2*m*n*k / t              over products of a number format
    bandwidth = max (2*bytes - cache) / t    over copies of a cache or more: what it may hold proves nothing;
                                             of the cache, max 2*bytes / t of those of at most a quarter of it,
                                             on a GPU between the same two buffers, since others are cold
    link      = max bytes / t                over copies from and to the host
    """
    peaks: dict[str, float] = {}
    copied: list[tuple[float, float]] = []
    inner: list[float] = []
    host: list[float] = []
    for row in rows:
        if row.get("load"):
            continue
        seconds = float(row["time_us"]) * 1e-6
        if row["op"] in _PRODUCTS:
            rate = 2.0 * float(row["m"]) * float(row["n"]) * float(row["k"]) / seconds
            unit = unit_of(row["dtype_in"])
            peaks[unit] = max(peaks.get(unit, 0.0), rate)
        elif row["op"] == "host_copy":
            host.append(float(row["bytes"]) / seconds)
        elif row["sub_op"] in ("copy", "copy_again"):
            size = float(row["n"]) * 4.0  # copies are of FP32
            rate = 2.0 * size / seconds
            if size >= cache and row["sub_op"] == "copy":
                copied.append((size, (2.0 * size - cache) / seconds))
            elif size <= cache / _INSIDE:
                inner.append(rate)
    # Of a device that does not state its cache only the largest copy is sure to miss it.
    least = 0.0 if cache else max((size for size, _ in copied), default=0.0)
    memory = max((rate for size, rate in copied if size >= least), default=None)
    return Rates(peaks, memory, max(inner, default=None), max(host, default=None))


def write_device(root: Path, name: str, facts: Facts, rates: Rates, table: str) -> Path | None:
    """Write `devices/NAME` and `nodes/NAME` below a search root. Return the device file.

    Nothing is written before a product in FP32 and a copy of the memory were measured. A `calibration` that the file
    has stays. table: the name of the measurements, for the sources.
    """
    if rates.memory is None or "fp32" not in rates.peaks:
        return None
    folder = root / "hardware"
    path = folder / "devices" / f"{name}.yaml"
    kept = _KEPT.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    lines = list(_device(name, facts, rates, table))
    text = "\n".join(lines) + "\n" + ("" if kept is None else kept.group().rstrip("\n") + "\n")
    for target, content in ((path, text), (folder / "nodes" / f"{name}.yaml", _node(name, facts.link))):
        make_folder(target.parent)
        write_whole(target, [content.encode("utf-8")])
    return path


def _device(name: str, facts: Facts, rates: Rates, table: str) -> Iterator[str]:
    yield "schema: costmodel/device@1"
    yield f"name: {name}"
    yield f"architecture: {facts.architecture}"
    if facts.link == "pcie":
        yield f'aliases: ["{_plain(facts.product)}"]'
    yield f"processors: {facts.processors}"
    assert facts.clock is not None, "asked before"
    assert facts.clock_max is not None, "asked before"
    yield f"clock: {{tensor_reference: {_in(facts.clock, 'frequency')}, max: {_in(facts.clock_max, 'frequency')}}}"
    yield "math:"
    for name, rate in sorted(rates.peaks.items()):
        scaling = _SCALING.get(name, "")
        yield f"  {name}: {{peak: {_in(rate, 'flop_rate')}{scaling}}}"
    yield "memory:"
    if facts.cache:
        speed = "null" if rates.cache is None else _in(rates.cache, "bandwidth")
        yield f"  - {{name: l2, capacity: {_in(facts.cache, 'size')}, bandwidth: {speed}}}"
    assert rates.memory is not None, "asked before"
    yield f"  - {{name: hbm, capacity: {_in(facts.memory, 'size')}, bandwidth: {_in(rates.memory, 'bandwidth')}}}"
    # What crosses from one rank on a CPU to another is read from memory and written to it.
    link = rates.memory / 2.0 if rates.host is None else rates.host
    yield f"links: {{{facts.link}: {{bandwidth: {_in(link, 'bandwidth')}, latency: null}}}}"
    if facts.power is not None:
        yield f"power: {{tdp: {_in(facts.power, 'power')}}}"
    if facts.link != "pcie":
        peaks = [f"math.{each}.peak" for each in sorted(rates.peaks)]
        levels = [f"memory.{level}.{what}" for level in ("l2", "hbm") for what in ("capacity", "bandwidth")]
        fields = ["processors", *peaks, *levels, f"links.{facts.link}.bandwidth"]
        yield f"plausible: [{', '.join(fields)}]             # those of a CPU; bands are learnt from GPUs"
    yield "sources:"
    yield "  - fields: [math, memory.hbm.bandwidth, memory.l2.bandwidth, links]"
    yield f'    cite: "costmodel profile, {table}: the fastest products of each format, the fastest copies"'
    yield "    kind: measurement"
    yield "    note: A copy counts what it reads and what it writes; a link has one direction of those that cross it."
    yield "  - fields: [processors, clock, memory.hbm.capacity, memory.l2.capacity, power]"
    yield f'    cite: "{_plain(facts.product)}, as the operating system and its driver state it"'
    yield "    kind: measurement"


def _node(name: str, link: str) -> str:
    """Return a node of one such device by itself."""
    return f"schema: costmodel/node@1\nname: {name}\ndevice: devices/{name}\ncount: 1\nintra: {link}\nnic: null\n"


def _in(value: float, dimension: str) -> str:
    """Return a value to a few digits, rounded up: no row may be faster than what it has shown."""
    step = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
    return units.render(float(f"{math.ceil(value / step) * step:.{_DIGITS}g}"), dimension)


def _plain(text: str) -> str:
    return re.sub(r'["\\\n]', " ", text)
