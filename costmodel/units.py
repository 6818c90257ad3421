"""Quantity strings to SI floats and back: one function each way.

A unit has to be spelt exactly as in the table of its dimension. Its prefix is a power of ten or of 1,024.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterator

from costmodel.errors import InputError
from costmodel.records import ValueRecord, field

_SMALL = ("", "m", "u", "µ", "μ", "n", "p")  # both code points that keyboards give for micro
_LARGE = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi")
_POWERS = {"": 0, "m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9, "p": -12} | {
    prefix: 3 * i for i, prefix in enumerate(_LARGE)
}
_SCALES = {prefix: float(f"1e{power}") for prefix, power in _POWERS.items()} | {
    prefix: 1024.0**i for i, prefix in enumerate(_BINARY, 1)
}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+))?\s*(\S.*)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?\.?(?:nan|inf|infinity)\b.*", re.IGNORECASE)


class Dimension(ValueRecord):
    """The spellings of one dimension.

    base: the SI unit of its values.
    prefixes: those the base unit takes.
    other: further units as `spelling -> (prefix, how many base units it is without)`.
    shown: prefixes that `render` uses.
    example: the unit that error messages suggest.
    """

    base: str
    prefixes: tuple[str, ...]
    example: str
    shown: tuple[str, ...]
    other: dict[str, tuple[str, float]] = field(default_factory=dict)


def _bits(suffix: str) -> dict[str, tuple[str, float]]:
    return {f"{prefix}bit{suffix}": (prefix, 1 / 8) for prefix in _LARGE}


_DIMENSIONS: dict[str, Dimension] = {
    "time": Dimension("s", _SMALL, "us", ("", "m", "u", "n", "p")),
    "duration": Dimension(
        "s", _SMALL, "s", ("", "m", "u", "n", "p"),
        {"min": ("", 60.0), "h": ("", 3600.0), "d": ("", 86400.0), "day": ("", 86400.0)},
    ),
    "size": Dimension("B", _LARGE + _BINARY, "GiB", _LARGE + _BINARY),
    "bandwidth": Dimension("B/s", _LARGE + _BINARY, "GB/s", _LARGE, _bits("/s")),
    "flop": Dimension("FLOP", _LARGE, "GFLOP", _LARGE),
    "flop_rate": Dimension("FLOP/s", _LARGE, "TFLOP/s", _LARGE),
    "frequency": Dimension("Hz", ("", "k", "M", "G"), "MHz", ("", "k", "M", "G")),
    "power": Dimension("W", ("m", "", "k", "M", "G"), "W", ("", "k", "M", "G")),
    "energy": Dimension(
        "J", ("", *_SMALL, *_LARGE), "J", ("", "m", "u", "n", "p", "k", "M", "G", "T"),
        {f"{prefix}Wh": (prefix, 3600.0) for prefix in ("", "k", "M", "G")},
    ),
    "rate": Dimension(
        "1/s", (), "/s", (),
        {"/s": ("", 1.0), "/min": ("", 1 / 60), "/h": ("", 1 / 3600)} | dict.fromkeys(("/d", "/day"), ("", 1 / 86400)),
    ),
    "money": Dimension("$", ("", "k", "M"), "$", ("",)),
    "money_rate": Dimension("$/s", ("",), "$/h", (), {"$/h": ("", 1 / 3600)}),
    "energy_price": Dimension("$/J", ("",), "$/kWh", (), {"$/kWh": ("", 1 / 3.6e6)}),
    "ratio": Dimension("", ("",), "%", (), {"%": ("", 0.01)}),
    "count": Dimension("", ("",), "", ()),
}  # fmt: skip

DIMENSIONS = tuple(_DIMENSIONS)


@functools.cache
def spellings(dimension: str) -> dict[str, tuple[str, float]]:
    """Return the accepted units of `dimension` as `spelling -> (prefix, factor of the rest to the SI unit)`."""
    known = _DIMENSIONS[dimension]
    return {f"{prefix}{known.base}": (prefix, 1.0) for prefix in known.prefixes} | known.other


def example_unit(dimension: str) -> str:
    """Return the unit that people usually write for `dimension`."""
    return _DIMENSIONS[dimension].example


def base_unit(dimension: str) -> str:
    """Return the SI unit of a dimension's values. `1` for a ratio or a count."""
    return _DIMENSIONS[dimension].base or "1"


@functools.lru_cache(maxsize=4096)
def whole(text: str) -> int | None:
    """Return the whole number that plain digits state, at most 18 of them; null where a text is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def parse(text: str, dimension: str) -> float:
    """Return the SI value of a quantity string such as `3.35 TB/s`. Raises InputError that shows the fix."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise _not_a_number(text, dimension)
    mantissa, exponent, unit = match.groups()
    known = spellings(dimension).get(unit or "")
    if known is None:
        raise _wrong_unit(text, mantissa + (f"e{exponent}" if exponent else ""), unit or "", dimension)
    prefix, factor = known
    scale = float(f"1e{exponent}") if exponent else 1.0
    value = _prefixed(mantissa, prefix) * scale * factor
    if not math.isfinite(value):
        raise InputError.single(f"{text!r} is too large for a number")
    return value


def _prefixed(mantissa: str, prefix: str) -> float:
    """Return a mantissa with a prefix, rounded once."""
    power = _POWERS.get(prefix)
    return float(mantissa) * _SCALES[prefix] if power is None else float(f"{mantissa}e{power}")


def render(value: float, dimension: str) -> str:
    """Return `value` (SI) for people, in the unit that is shortest to read. `parse` gives it back to 1e-12."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no finite quantity to render")
    known = _DIMENSIONS[dimension]
    if not known.shown:
        factor = spellings(dimension)[known.example][1]
        return f"{value / factor:.15g} {known.example}".strip()
    decimal = _scaled(value, known.base, [prefix for prefix in known.shown if prefix not in _BINARY])
    if dimension != "size":
        return decimal
    binary = _scaled(value, known.base, ["", *_BINARY])
    return binary if len(binary.rstrip("B")) < len(decimal) and value % 1024 == 0 else decimal


def _scaled(value: float, base: str, prefixes: list[str]) -> str:
    scales = sorted((_SCALES[prefix], prefix) for prefix in prefixes)
    fitting = [pair for pair in scales if abs(value) >= pair[0] * (1 - 1e-15)]
    scale, prefix = fitting[-1] if fitting else (scales[0] if value else (1.0, ""))
    return f"{value / scale:.15g} {prefix}{base}"


def _not_a_number(text: str, dimension: str) -> InputError:
    example = f'"{f"10 {example_unit(dimension)}".strip()}"'
    if _NOT_FINITE.fullmatch(text.strip()):
        return InputError.single(f"{text!r} is not a finite number", hint=f"write a finite quantity such as {example}")
    return InputError.single(f"{text!r} is not a quantity", hint=f"write a number and a unit such as {example}")


def _wrong_unit(text: str, number: str, unit: str, dimension: str) -> InputError:
    if not unit:
        positive = number.lstrip("-")
        are_bytes = dimension == "size" and float(positive) >= 1024.0  # nobody writes thousands of GiB
        unit = base_unit(dimension) if are_bytes else example_unit(dimension)
        fix = f'"{positive} s", "{positive} ms" or "{positive} us"' if dimension == "time" else f'"{positive} {unit}"'
        return InputError.single(f"{text!r} has no unit", hint=f"write {fix}")
    if re.match(r"[,_\d]", unit):
        plain = re.sub(r"(?<=\d)[,_ ]+(?=\d)", "", text.strip())
        return InputError.single(f"{text!r} has separators between digits", hint=f'write "{plain}"')
    fixes = list(dict.fromkeys(_fixes(float(number), unit, dimension)))
    if fixes:
        hint = "write " + " or ".join(f'"{fix}"' for fix in fixes)
    elif other := [name for name in _DIMENSIONS if unit in spellings(name) and name not in ("count", dimension)]:
        long = "duration" in other and dimension == "time"
        reason = "only s, ms, us, ns and ps fit here" if long else f"that is a {other[0].replace('_', ' ')}"
        return InputError.single(
            f"{text!r} has the wrong unit: {reason}", hint=f"write {dimension.replace('_', ' ')} as {_known(dimension)}"
        )
    else:
        hint = f"write one of {_known(dimension)}" if _known(dimension) else "write the number without a unit"
        hint = "several values are an axis: `costmodel sweep … --vary PATH=A,B --output runs`" if "," in unit else hint
    return InputError.single(f"{text!r} has an unknown unit {unit!r}", hint=hint)


def _known(dimension: str) -> str:
    shown = [unit for unit in spellings(dimension) if unit and not unit.startswith(("µ", "μ", "E", "P"))]
    return ", ".join(shown[:9])


def _fixes(number: float, unit: str, dimension: str) -> Iterator[str]:
    """Yield what the writer of a misspelt unit may have meant."""
    bits = re.fullmatch(r"([kKMGTP]?)i?b(?:it|its)?(ps|/s|/sec)", unit)
    if dimension == "bandwidth" and bits:
        prefix = bits[1].replace("K", "k")
        yield f"{number:g} {prefix}bit/s"
        yield f"{number / 8:g} {prefix}B/s"
        return
    octets = re.fullmatch(r"([kKmMgGtTpP]?)(i?)[bB](?:ytes?)?(ps|/s|/S|/sec)?", unit)
    rate = {"size": "", "bandwidth": "/s"}.get(dimension)
    if octets and rate is not None and bool(octets[3]) == bool(rate):
        prefix = octets[1].upper()
        if not octets[2]:
            yield f"{number:g} {prefix.replace('K', 'k')}B{rate}"
        if prefix and (octets[2] or not rate):
            yield f"{number:g} {prefix}iB{rate}"
        return
    flops = re.fullmatch(r"([kKMGTPE]?)(?i:flops?)(/s|/sec)?", unit)
    if dimension in ("flop", "flop_rate") and flops:
        yield f"{number:g} {flops[1].replace('K', 'k')}FLOP{'/s' if dimension == 'flop_rate' else ''}"
        return
    known = [name for name in spellings(dimension) if name]
    yield from (f"{number:g} {name}" for name in known if name.casefold() == unit.casefold())
    yield from (f"{number:g} {name}" for name in difflib.get_close_matches(unit, known, n=1, cutoff=0.75))


SLIPS = {60.0: "minutes for seconds", 3600.0: "hours for seconds", 8.0: "bits for bytes", 1e3: "a wrong prefix",
         1e6: "a wrong prefix", 100.0: "cents for dollars"}  # fmt: skip
FAR = 5.0  # a number so many times another, or that part of it, is a slip where one explains it


def slip(ratio: float) -> str:
    """Return which slip of units explains that a number is `ratio` times what was expected: ` (WORDS?)`, or nothing.

    One does where it leads nearer than any other, and within a factor of two.
    """
    off = max(ratio, 1.0 / ratio)
    near = min(SLIPS, key=lambda each: abs(math.log(off / each)))
    return f" ({SLIPS[near]}?)" if off > FAR and 0.5 < off / near < 2.0 else ""
