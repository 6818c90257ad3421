"""Whether hardware is such as is built: bands of each field, the order of memory, arithmetic a cycle and a byte.

Bands are learnt from the shipped files by `python -m reports.fits.plausible`, or cited where too few state a value, and
kept as data. Hardware grows, so that
the upper end of a band follows a trend over the years in which devices were presented, up to one generation ahead of
the file's own year (null: of the newest shipped device):

    least   low / reach
    most    high * reach * growth^max(year + generation - year of high, 0)

A value outside may be right: then the file says `plausible: [FIELD]`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache, reduce
from itertools import pairwise
from typing import Any, cast

from costmodel.declared import Measure
from costmodel.errors import Location, Problem, suggest
from costmodel.quantities import is_single
from costmodel.records import ValueRecord
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.loader import MAX_BYTES, read_text
from costmodel.schema.references import package_root
from costmodel.schema.strict import Strict, number_at, validate_tree
from costmodel.schema.tree import Tree
from costmodel.units import parse, render

BANDS = "plausible.json"  # in `hardware/` of the package's data
FORM = "costmodel/plausible@2"
FRAMEWORK = "framework."  # begins the name of a band of frameworks
A_DEVICE = " a device"  # ends the name of a band of what grows with the devices of a node
FABRIC = "links.* of the bandwidth of memory"  # the band of links to other devices; a space begins what is said of it
BALANCE = "flop_per_byte"  # the band of 16-bit peaks over the bandwidth of device memory
_STEPS = (1e3, 1e-3, 8.0, 1 / 8, 1e6, 1e-6, 1e9, 1e-9)  # what a wrong prefix, or bits for bytes, is off by
_CENTS = (0.01, 100.0, 1e-3, 1e3)  # cents for dollars
_STEPS_OF = {"time": (*_STEPS, 60.0, 1 / 60), "money": _CENTS, "money_rate": _CENTS}
_PUBLISHED = {  # path in a scenario -> its band
    "input_tokens": "input_tokens",
    "sequence": "sequence",
    "output_tokens": "output_tokens",
    "requests.prefix.tokens": "prefix_tokens",
    "requests.sessions.first.mean": "prompt_tokens",
    "requests.sessions.think_time.mean": "pause",
    "requests.sessions.agents.share": "agents.share",
    "memory.utilization": "utilization",
    "prefix_hit_rate": "prefix_hit_rate",
    "chunk_tokens": "token_budget",
    "scheduler.token_budget": "token_budget",
} | {f"requests.{side}.{name}": f"{side}_tokens" for side in ("input", "output") for name in ("mean", "high")}
_DRAWN = ("requests.input", "requests.output", "requests.sessions.first", "requests.sessions.think_time")
_SPREAD = "deviation of the mean"  # the band of what is drawn; a space begins what is said of it
_SERVERS = ("serving", "disaggregated", "pools")
_TO_HOSTS = ("pcie", "c2c", "memory")
_WHOLE = (1.0, 3.0)  # FLOP a cycle of a processor are a power of two times one of these


class Band(ValueRecord):
    """The values of a field in shipped files, in SI, and how far beyond them a new one may be: a factor.

    files: that state the field.
    year: in which the device with the largest value was presented.
    growth: of the largest values in a year, a factor.
    of: whose the values are, as a message begins; empty: of shipped files.
    steps: what values in other units are off by, besides prefixes.
    """

    dimension: str
    low: float
    high: float
    reach: float
    files: int = 0
    year: int = 0
    growth: float = 1.0
    of: str = ""
    steps: Sequence[float] = ()

    def trend(self, year: float) -> float:
        """Return the largest value that is expected in a year."""
        return self.high * math.pow(self.growth, max(year - self.year, 0.0))

    def excess(self, value: float, year: float) -> float:
        """Return how far a value lies outside the shipped values and their trend: a factor, 1 inside."""
        return max(self.low / value, value / self.trend(year), 1.0)

    def holds(self, value: float, year: float) -> bool:
        """Tell whether a value lies within the band's reach of the shipped values and their trend."""
        return self.excess(value, year) <= self.reach

    def __str__(self) -> str:
        low, high = _shown(self.low, self.dimension), _shown(self.high, self.dimension)
        return low if low == high else f"{low} to {high}"


class Bands(ValueRecord):
    """What is learnt. fields: path in a kind of file -> band; flop_per_cycle: largest distance from a whole number.

    newest: year of the newest shipped device.
    generation: mean time from one largest value of a field to the next [a].
    """

    fields: Mapping[str, Band]
    flop_per_cycle: float
    newest: int
    generation: float

    def ahead(self, file: Strict) -> float:
        """Return the year up to which trends are followed for a file: one generation ahead of its own."""
        announced = file.announced if isinstance(file, DeviceFile) else None
        return (self.newest if announced is None else announced) + self.generation


def bands() -> Bands:
    """Return the bands of the package's data."""
    path = package_root() / "hardware" / BANDS
    return _bands(read_text(path, str(path), MAX_BYTES))


@lru_cache(maxsize=1)
def _bands(text: str) -> Bands:
    document = json.loads(text)
    fields = {path: Band(**band) for path, band in document.pop("fields").items()}
    return Bands(fields, document["flop_per_cycle"], document["newest"], document["generation"])


def values_of(file: Strict) -> Iterator[tuple[str, str, float]]:
    """Yield (path, path of its band, value) of every number of a hardware file that bands are kept of."""
    if isinstance(file, DeviceFile):
        yield from _device_values(file)
    elif isinstance(file, NodeFile):
        yield from _numbers("count", "count", file.count)
        nic = file.nic
        for name in () if nic is None else ("per_device", "bandwidth", "latency"):
            yield from _numbers(f"nic.{name}", "latency" if name == "latency" else f"nic.{name}", getattr(nic, name))
        for name in ("memory", "bandwidth", "sockets", "price"):
            value = getattr(file.host, name)
            yield from _numbers(f"host.{name}", f"host.{name}{A_DEVICE}", None if value is None else value / file.count)
        yield from _numbers("host.interconnect", "host.interconnect", file.host.interconnect)
        for form, peak in (file.host.peak or {}).items():
            yield from _numbers(f"host.peak.{form}", "host.peak", peak)
    elif isinstance(file, FrameworkFile):
        yield from _quantities(file, "", FRAMEWORK, ())
        share = None if file.engine is None else file.engine.memory.utilization
        yield from _numbers("engine.memory.utilization", "utilization", share)
    elif isinstance(file, ClusterFile) and file.network is not None:
        yield from _numbers("network.bandwidth", "nic.bandwidth", file.network.bandwidth)
        yield from _numbers("network.planes", "network.planes", file.network.planes)
        for name in ("same_leaf", "cross_leaf"):
            yield from _numbers(f"network.latency.{name}", "latency", getattr(file.network.latency, name))
        price = file.network.price
        for name in () if price is None else ("switch", "link", "endpoint_link"):
            yield from _numbers(f"network.price.{name}", f"network.price.{name}", getattr(price, name))


def _device_values(file: DeviceFile) -> Iterator[tuple[str, str, float]]:
    yield from _numbers("processors", "processors", file.processors)
    for name in ("tensor_reference", "max"):
        yield from _numbers(f"clock.{name}", f"clock.{name}", getattr(file.clock, name))
    for form, unit in file.math.items():
        yield from _numbers(f"math.{form}.peak", f"math.{form}.peak", unit.peak)
    for level in file.memory:
        shared = file.processors if level.name == "smem" and level.per == "device" else 1.0
        for name in ("capacity", "bandwidth", "driver"):
            value = getattr(level, name)
            yield from _numbers(
                f"memory.{level.name}.{name}", f"memory.{level.name}.{name}", None if value is None else value / shared
            )
    for link_name, link in file.links.items():
        for name in ("bandwidth", "latency"):
            for band in ("latency",) if name == "latency" else (f"links.*.{name}", f"links.{link_name}.{name}"):
                yield from _numbers(f"links.{link_name}.{name}", band, getattr(link, name))
    yield from _quantities(file.price, "price", "price.", ())
    electricity = file.price.electricity
    yield from _numbers(
        "price.electricity",
        "prices.electricity",
        None if electricity is None else electricity * parse("1 kWh", "energy"),
    )
    for name in ("tdp", "idle", "busy", "tensor", "memory", "link"):
        yield from _numbers(f"power.{name}", f"power.{name}", getattr(file.power, name))
    runs = None if file.calibration is None else file.calibration.whole_runs
    if runs is not None:
        yield from _numbers("calibration.whole_runs.launch", "latency", runs.launch)
    yield from balances(file)


def _quantities(file: Strict, path: str, prefix: str, inside: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    """Yield every quantity with a unit of a mapping of a file. Its band has the name of its path after `prefix`."""
    for name, field in type(file).model_fields.items():
        value, own = getattr(file, name), (*inside, field.alias or name)
        if isinstance(value, Strict):
            yield from _quantities(value, path, prefix, own)
        elif isinstance(value, float):
            number = number_at(type(file), own[-1:])
            if isinstance(number, Measure) and number.dimension not in ("count", "ratio"):
                yield from _numbers(".".join(filter(None, (path, *own))), prefix + ".".join(own), value)


def balances(file: DeviceFile) -> Iterator[tuple[str, str, float]]:
    """Yield (path, name of its band, value) of what follows the bandwidth of memory: 16-bit peaks, links of devices."""
    memory = file.memory[-1].bandwidth
    for name, link in file.links.items():
        if name not in _TO_HOSTS and memory is not None:
            yield from _numbers(f"links.{name}.bandwidth", FABRIC, link.bandwidth / memory)
    for form, unit in file.math.items():
        if form in ("bf16", "fp16") and memory is not None:
            yield from _numbers(f"math.{form}.peak", BALANCE, unit.peak / memory)


def _numbers(path: str, band: str, value: Any) -> Iterator[tuple[str, str, float]]:
    """Yield a value that is one number above zero. Nothing of a grid, of null and of zero, which turns a part off."""
    if value is not None and is_single(value) and value > 0:
        yield path, band, float(value)


def implausible(kind: str, file: Strict, tree: Tree, *, original: Tree | None = None) -> list[Problem]:
    """Return what is unlike all hardware that is known, but for the fields that the file says are meant.

    kind: `device`, `node`, `cluster` or `framework`.
    original: the document before overrides, whose arithmetic a cycle is judged. Raises InputError where `plausible`
    names a field that the file does not have.
    """
    meant, known = _meant(tree), bands()
    problems = dict(_outside(kind, file, known))
    problems |= dict(_bits_for_bytes(file, tree, original))
    if isinstance(file, DeviceFile) and not problems:  # else what follows from a wrong value would be told as well
        problems |= dict(_disordered(file)) or dict(_unbalanced(file, known)) or dict(_in_bits(file, tree, known))
        if original is None or original is tree:
            problems = dict(_not_whole(file, known)) | problems
    return [
        Problem(location, path, message, _hint(hint, path, location))
        for path, (message, hint) in problems.items()
        if not any(path == field or path.startswith(f"{field}.") for field in meant)
        for location in [_place(tree, path)]
    ]


def _hint(hint: str, path: str, location: Location | None) -> str:
    """Return what to do. A change on the command line cannot be marked as meant, and is only a warning."""
    is_change = location is not None and location.line is None
    return hint.rstrip("; ") if is_change else f"{hint}if it is meant, add `plausible: [{path}]`"


def _outside(kind: str, file: Strict, known: Bands) -> Iterator[tuple[str, tuple[str, str]]]:
    year = known.ahead(file)
    for path, name, value in values_of(file):
        odd = None if name in (BALANCE, FABRIC) else unlike(name, value, kind, year)
        if odd is not None:
            yield path, odd


def unlike(name: str, value: float, kind: str = "device", year: float | None = None) -> tuple[str, str] | None:
    """Return what is said of a value that no shipped file has, and a hint; null within the band.

    name: of the band; year: up to which its trend is followed, default: one generation after the newest device.
    """
    known = bands()
    band, year = known.fields.get(name), known.newest + known.generation if year is None else year
    if band is None or value <= 0.0 or band.holds(value, year):
        return None
    steps = (*band.steps, *_STEPS_OF.get(band.dimension, _STEPS))
    near = [step for step in steps if band.holds(value * step, year)]
    meant = min(near, key=lambda step: band.excess(value * step, year), default=None)
    hint = "check the unit; " if meant is None else f"did you mean {_meant_value(value, meant, band.dimension)}? "
    grown = band.trend(year)
    trend = f", and {_shown(grown, band.dimension)} by their trend" if value > band.high < grown else ""
    shown = _shown(value, band.dimension) + name[len(name.split(" ")[0]) :]
    return f"{shown} is implausible: {band.of or f'shipped {kind}s have'} {band}{trend}", hint


def _bits_for_bytes(file: Strict, tree: Tree, original: Tree | None) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield changed bandwidths that are in bits what the file states in bytes: an eighth, with its digits."""
    before = None if original is None or original is tree else validate_tree(type(file), original, [])
    stated = {} if before is None else {
        path: value for path, name, value in values_of(before) if name not in (BALANCE, FABRIC)
    }  # fmt: skip
    for path, _, value in values_of(file):
        written = tree.at(path.split("."))
        if written is not None and "bit" in str(written.value) and math.isclose(8.0 * value, stated.get(path, 0.0)):
            was = _shown(stated[path], "bandwidth")
            yield path, (f"is implausible: an eighth of the {was} that the file states", f"did you mean {was}? ")


def _in_bits(file: DeviceFile, tree: Tree, known: Bands) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield bandwidths in bits that go with no shipped peak or memory, where the same digits in bytes go with some."""
    memory, year = f"memory.{file.memory[-1].name}.bandwidth", known.ahead(file)
    for own, name, value in balances(file):
        path, factor = (memory, 1 / 8) if name == BALANCE else (own, 8.0)
        band, written = known.fields[name], tree.at(path.split("."))
        is_in_bits = written is not None and "bit" in str(written.value)
        if is_in_bits and band.excess(value, year) > 1.0 == band.excess(value * factor, year):
            message = "is implausible: in bits it goes with no shipped device, in bytes it does"
            yield path, (message, "did you mean bytes? ")


def unlike_published(plan: Strict, tree: Tree, field: str) -> Iterator[Problem]:
    """Yield the lengths, shares and budgets of a scenario unlike those that are published. field: of its document."""
    lengths = {"input_tokens": "prompt_tokens"} if tree.text("phase") in _SERVERS else {}
    found = [(key, name, _value(plan, key)) for key, name in (_PUBLISHED | lengths).items()]
    for key in _DRAWN:
        mean, deviation = (_value(plan, f"{key}.{name}") for name in ("mean", "deviation"))
        if mean and deviation is not None:
            found.append((f"{key}.deviation", _SPREAD, deviation / mean))
    for key, name, value in found:
        stated = tree.at(key.split("."))
        if stated is not None and value is not None and (odd := unlike(name, value)) is not None:
            yield Problem(stated.location, f"{field}.{key}", odd[0], odd[1].rstrip("; "))


def _value(plan: Strict, key: str) -> float | None:
    """Return a number that a scenario states, null for none and for a grid."""
    value = reduce(_attribute, key.split("."), cast(object, plan))
    return float(value) if isinstance(value, float | int) else None


def _attribute(part: object, name: str) -> object:
    return getattr(part, name, None)


def _meant_value(value: float, step: float, dimension: str) -> str:
    """Return what was probably meant. Bits for bytes in both."""
    shown = _shown(value * step, dimension)
    is_bits = dimension == "bandwidth" and step == 1 / 8
    return f"{_shown(value, dimension).replace('B/s', 'bit/s')} ({shown})" if is_bits else shown


def _unbalanced(file: DeviceFile, known: Bands) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield peaks and links that the bandwidth of memory does not go with."""
    for path, name, value in balances(file):
        odd = unlike(name, value, year=known.ahead(file))
        if odd is not None and name == BALANCE:
            message = f"{value:.3g} FLOP for each byte of device memory; shipped devices have {known.fields[name]}"
            yield path, (f"is implausible: {message}", "check peak and bandwidth; ")
        elif odd is not None:
            yield path, (odd[0], "check the unit; ")


def _disordered(file: DeviceFile) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield levels that are slower than the next, farther one, and a device memory that is not the largest."""
    levels = [
        (level, file.processors if level.per == "processor" else 1.0) for level in file.memory
        if level.bandwidth is not None
    ]  # fmt: skip
    for (near, number), (far, other) in pairwise(levels):
        one, two = near.bandwidth * number, far.bandwidth * other
        if is_single(one) and is_single(two) and one < two:
            rates = [_shown(float(rate), "bandwidth") for rate in (one, two)]
            message = f"is implausible: {rates[1]}, but {near.name} has {rates[0]}, and no nearer level is slower"
            yield f"memory.{far.name}.bandwidth", (message, "")
    own, host = (getattr(file.links.get(name), "bandwidth", None) for name in ("nvlink", "pcie"))
    if own is not None and host is not None and is_single(own) and is_single(host) and own < host:
        rates = [_shown(float(rate), "bandwidth") for rate in (own, host)]
        message = f"is implausible: {rates[0]}, but pcie has {rates[1]}, and no NVLink is slower"
        yield "links.nvlink.bandwidth", (message, "check the unit; ")
    last = file.memory[-1]
    for level in file.memory[:-1]:
        total = level.capacity * (file.processors if level.per == "processor" else 1.0)
        if is_single(total) and is_single(last.capacity) and total >= last.capacity:
            shown = _shown(float(last.capacity), "size")
            message = f"is implausible: {shown}, no more than {level.name}"
            yield f"memory.{last.name}.capacity", (message, "order the levels from the nearest; ")


def _not_whole(file: DeviceFile, known: Bands) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield peaks that are no whole number of FLOP a cycle: peak / (processors * clock) is 2^k or 3 * 2^k.

    A rounded peak is known to half of its last digit: 4 PFLOP/s are 3.5 to 4.5.
    """
    for name, unit in file.math.items():
        clock = file.clock.max if unit.clock == "max" else file.clock.tensor_reference
        ratio = unit.peak / (file.processors * clock)
        if name == "fp64" or not is_single(ratio):
            continue
        per_cycle = float(ratio)
        if distance_from_whole(per_cycle) > max(known.flop_per_cycle, _rounding(float(unit.peak))):
            nearest = min(_candidates(per_cycle), key=lambda one: abs(math.log(one / per_cycle)))
            shown = f"{per_cycle:.5g} FLOP a cycle of a processor, not {nearest:g}"
            yield f"math.{name}.peak", (f"is implausible: {shown}", "check peak, processors and clock; ")


def distance_from_whole(per_cycle: float) -> float:
    """Return how far FLOP a cycle are from the nearest 2^k or 3 * 2^k, relative to it."""
    return min(abs(per_cycle / one - 1.0) for one in _candidates(per_cycle))


def _rounding(value: float) -> float:
    """Return half a step of a number's last significant digit, relative to it."""
    _, digits, _ = Decimal(f"{value:.12g}").normalize().as_tuple()
    return 0.5 / int("".join(map(str, digits)))


def _candidates(per_cycle: float) -> list[float]:
    return [factor * 2.0 ** (math.floor(math.log2(per_cycle / factor)) + step) for factor in _WHOLE for step in (0, 1)]


def _meant(tree: Tree) -> list[str]:
    """Return the fields that a file calls plausible. Raises InputError where it has no such field."""
    stated = tree.child("plausible")
    items = stated.value if stated is not None and isinstance(stated.value, list) else []
    for item in items:
        path = str(item.value).split(".")
        location: Tree | None = tree
        for part in path:
            known: Sequence[str] = _known(location)
            location = None if location is None else location.child(part)
            if location is None:
                raise item.error(f"names no field of this file: {item.value!r}", suggest(part, known), "plausible")
    return [str(item.value) for item in items]


def _known(tree: Tree | None) -> list[str]:
    if tree is None or not isinstance(tree.value, dict | list):
        return []
    return list(tree.value) if tree.is_mapping else [name for name in tree.names() if name is not None]


def _place(tree: Tree, path: str) -> Location | None:
    """Return where a field is written, or the nearest that holds it."""
    nearest = tree
    for part in path.split("."):
        nearest = nearest.child(part) or nearest
    return nearest.location


def _shown(value: float, dimension: str) -> str:
    if dimension == "count":
        return f"{value:.4g}"
    number, unit = render(value, dimension).split(" ", 1)
    text = f"{float(number):.4g} {unit}"
    return text if parse(text, dimension) else f"{value:g}"
