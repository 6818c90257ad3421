"""Numbers and names as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from costmodel.report.page import Number
from costmodel.schema.metrics import dimension_of, unit_of
from costmodel.units import base_unit, parse, render

SHOWN_DIGITS = 4
BILLION = 1e9
_GIB = parse("1 GiB", "size")
NONE = "-"
SHORT = 10  # characters of a quantity

_READABLE = {
    "kv_cache": "KV cache",
    "kv_blocks": "blocks of the KV cache",
    "kv_use": "share of the KV cache in use",
    "mtp_parameters": "MTP parameters",
    "backward_input": "backward (input)",
    "backward_weight": "backward (weight)",
    "forward_backward": "overlapped forward/backward",
    "mfu": "MFU",
    "mfu_noncausal": "MFU (full attention)",
}
_BASES = {"transferred": "borrowed"}
_WORDS = {  # of paths and formats, as axes have them
    **{name: name.upper() for name in ("hbm", "nic", "tp", "pp", "dp", "ep", "cp", "l2", "fp4", "fp8", "bf16", "fp32")},
    "nvlink": "NVLink",
    "pcie": "PCIe",
    "smem": "shared memory",
}
_AXES = {"batch_per_device": "requests per device", "micro_batch": "micro-batch"}
_TITLES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "latency": "request latency",
    "tokens_per_second": "tokens/s",
    "tokens_per_second_per_device": "tokens/s per device",
    "tokens_per_second_per_user": "tokens/s per user",
    "step_time": "training step",
    "requests_per_second": "requests/s",
    "input_tokens_per_second": "input tokens/s",
}


def readable(key: str) -> str:
    """Return a key such as `kv_cache` in words."""
    return _READABLE.get(key, key.replace("_", " "))


def shown_basis(basis: str) -> str:
    """Return the word for what a time rests on: `transferred` is borrowed, from another device or kernel."""
    return _BASES.get(basis, basis)


def title_of(metric: str) -> str:
    """Return the name of a metric in full, as plots and pages have it."""
    return _TITLES.get(metric, readable(metric))


def path_title(path: str) -> str:
    """Return the name of a short path of the resolved document as plots have it: `NIC bandwidth` of `nic.bandwidth`."""
    words = path.removeprefix("parallel.").split(".")
    return _AXES.get(words[-1]) or " ".join(_WORDS.get(word) or readable(word) for word in words)


def quantity(value: float | None, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value in its unit, to a few digits."""
    if value is None:
        return NONE
    if dimension == "money_rate":  # a round price per hour is not round per second
        return Number(f"{count(value / parse('1 $/h', dimension), digits)} $/h", value, _base(dimension))
    if dimension == "energy" and value >= _MWH:
        return Number(render(float(f"{value / _MWH:.{digits}g}") * 1e6, "power") + "h", value, _base(dimension))
    return Number(render(float(f"{value:.{digits}g}"), dimension), value, _base(dimension))


def setting(value: float, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value that a user chose: in full where that is short, as `80 GiB`, else to a few digits."""
    if dimension in ("count", "ratio"):
        return Number(f"{value:,.0f}", value) if value % 1 == 0 and abs(value) < 1e7 else count(value, digits)
    exact = render(value, dimension)
    return Number(exact, value, _base(dimension)) if len(exact) <= SHORT else quantity(value, dimension, digits)


_MWH = 3.6e9  # J, from which on energies are those that power stations sell


@cache
def _base(dimension: str) -> str:
    return _unit_text(base_unit(dimension))


def _unit_text(unit: str) -> str:
    return "" if unit == "1" else unit


def memory_use(used: float, capacity: float) -> str:
    """Return used of available memory, both in GiB."""
    return Number(f"{gib(used)} / {gib(capacity)} GiB", used, _base("size"))


def gib(value: float, digits: int = 1) -> str:
    """Return a size as a number of GiB."""
    return Number(f"{value / _GIB:.{digits}f}", value, _base("size"))


def interval(name: str, low: float, high: float, digits: int = SHOWN_DIGITS) -> str:
    """Return an interval of a metric. The unit is written once where both ends have the same."""
    unit = _unit_text(unit_of(name))
    if low == high:
        return Number("exact", low, unit, high)
    first, last = metric(name, low, digits), metric(name, high, digits)
    number, _, shown_unit = first.partition(" ")
    start = number if shown_unit and last.endswith(f" {shown_unit}") else first
    return Number(f"{start} .. {last}", low, unit, high)


def metric(name: str, value: float | None, digits: int = SHOWN_DIGITS) -> str:
    """Return a metric as people read it: a share as per cent, a time or a size in its unit, a count with separators."""
    if value is None:
        return NONE
    return Number(_metric(name, value, digits), value, _unit_text(unit_of(name)))


def published_value(name: str, unit: str | None, value: float | None) -> str:
    """Return a published value of a metric as people read it, a ratio of two of them as a factor."""
    if value is not None and unit == "1" and (dimension_of(name) or "count") not in ("count", "ratio"):
        return Number(f"{value:.{SHOWN_DIGITS}g}x", value)
    return metric(name, value)


def _metric(name: str, value: float, digits: int) -> str:
    if name.startswith(("memory.", "host_memory.")):
        return f"{gib(value, 2)} GiB"
    dimension = dimension_of(name) or "count"
    if dimension == "ratio":
        return f"{value:.1%}"
    if dimension in ("count", "money"):
        return count(value, digits) + (" $" if dimension == "money" else "")
    return quantity(value, "time" if dimension == "duration" else dimension, digits)


def shortened(text: str, longest: int) -> str:
    """Return a text with as many whole words as fit."""
    if len(text) <= longest:
        return text
    return text[: longest - 1].rpartition(" ")[0].rstrip(",;:") + " …"


def whole(value: float) -> str:
    """Return a whole number with separators."""
    return Number(f"{value:,.0f}", value)


def dollars(value: float | None) -> str:
    """Return a price in whole dollars."""
    return NONE if value is None else Number(f"{value:,.0f} $", value, _base("money"))


def count(value: float, digits: int = SHOWN_DIGITS) -> str:
    """Return a count to a few digits, with separators, or in billions."""
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= BILLION:
        return Number(f"{rounded / BILLION:,.{digits}g} billion", value)
    return Number(f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}", value)


def share(value: float) -> str:
    """Return a share as per cent."""
    return Number(f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}", value)


def percent(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Return a ratio as per cent. sign: `+` to write it of values above zero as well."""
    return NONE if value is None else Number(f"{value:{sign}.{digits}%}", value)


def short_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path its last two words, or as many as distinguish it from the others."""
    words = {path: path.split(".") for path in paths}

    def short(path: str) -> str:
        for length in range(2, len(words[path]) + 1):
            ending = ".".join(words[path][-length:])
            if not any(other != path and f".{other}".endswith(f".{ending}") for other in paths):
                return ending
        return path

    return {path: short(path) for path in paths}
