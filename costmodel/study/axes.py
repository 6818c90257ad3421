"""The axes of a sweep, as `--vary PATH=VALUES` writes them.

VALUES are values and ranges, with commas between: `200GB/s,400GB/s`, `200GB/s..900GB/s:8` (evenly spaced, both ends
included), `1..256:9:log` (equal ratios). Each value is read as `--set` reads it. `PATH=VALUES; PATH=VALUES` varies
paths together. A path that holds no size (a model, a schedule) takes names: each is a structure of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from costmodel.declared import Measure, Positive, Whole
from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.strict import NumberType, read_number
from costmodel.units import base_unit, render

MOST_VALUES = 100_000  # of one axis: study.json holds them all
DIGITS = 12  # of the values inside a range: 1e-06, not 1.0000000000000002e-06
_RANGE = re.compile(r"(?P<low>.*?\S)\s*\.\.\s*(?P<high>[^:]*[^:\s])\s*(?::(?P<count>[^:]*))?(?::(?P<scale>.*))?")
_DASH = re.compile(r"(?P<low>\d[\d.]*\s*[A-Za-z/]*)\s*-\s*(?P<high>\d[\d.]*\s*[A-Za-z/]*)")  # a range elsewhere
_SPACINGS: dict[str, Callable[[float, float, int], Array]] = {"linear": np.linspace, "log": np.geomspace}
_EXAMPLE = "--vary hardware.links.nvlink.bandwidth=200GB/s..900GB/s:8"


class Request(Record):
    """A path and the text of its values. label: how the user wrote it; link: which argument it is a part of."""

    path: str
    values: str
    label: Location
    link: int = 0


class Axis(Record):
    """One path of a sweep: its values in SI, in their order. whole: they are counts.

    texts: the values of a structural axis, whose `values` are then positions.
    link: axes of one link vary together.
    """

    path: str
    values: Array
    dimension: str
    whole: bool
    texts: tuple[str, ...] = ()
    link: int = 0

    @property
    def unit(self) -> str | None:
        """Return the SI unit of the values, `1` for counts and ratios, null for text."""
        return None if self.texts else base_unit(self.dimension)

    def plain(self) -> list[Any]:
        """Return the values as Python numbers, counts as ints. Text as it is."""
        if self.texts:
            return list(self.texts)
        return [int(value) if self.whole else float(value) for value in self.values]

    def document(self, *, linked: bool) -> dict[str, Any]:
        """Return the axis as `study.json` holds it."""
        link = {"link": self.link} if linked else {}
        dimension = None if self.texts else self.dimension
        return {"path": self.path, "dimension": dimension, "unit": self.unit, "values": self.plain(), **link}


def read_requests(arguments: Sequence[str]) -> list[Request]:
    """Return `PATH=VALUES` arguments, linked ones one after the other.

    Raises InputError where there is none, on one without `=`, or on a path twice.
    """
    if not arguments:
        raise InputError.single("nothing varies", hint=f"add {_EXAMPLE}")
    requests: dict[str, Request] = {}
    for link, argument in enumerate(arguments):
        label = Location(f"--vary {argument}")
        for part in argument.split(";"):
            path, separator, values = (piece.strip() for piece in part.partition("="))
            if not separator or not path:
                raise InputError.single("is not PATH=VALUES", hint=f"write {_EXAMPLE}", location=label)
            if path in requests:
                raise InputError.single(
                    "is varied twice", hint="write all its values in one --vary", field=path, location=label
                )
            requests[path] = Request(path, values, label, link)
    return list(requests.values())


def is_structural(number: NumberType | None) -> bool:
    """Tell whether what stands at a path changes which operators there are, not how large they are."""
    return number is None or (isinstance(number, Whole) and number.single)


def read_axis(request: Request, number: NumberType | None, *, linked: bool = False) -> Axis:
    """Return the axis that a request asks for. number: what stands at its path, as the file model says.

    Values of ranges over counts are rounded to whole numbers, and each is kept once. So are those between whole numbers
    of what may be a part of one. Values of linked axes may repeat. Raises InputError with the place and the fix.
    """
    if is_structural(number):
        return _choices(request, linked=linked)
    assert number is not None, "sizes are numbers"
    if not request.values:
        raise _wrong(request, "has no values", f"write {_EXAMPLE}")
    values: list[float] = []
    for item in request.values.split(","):
        values.extend(_item(request, number, item.strip()))
    if len(values) > MOST_VALUES:
        raise _wrong(request, f"has {len(values):,} values, {MOST_VALUES:,} are the most", "write a coarser range")
    value, times = Counter(values).most_common(1)[0]
    if times > 1 and not linked:
        shown = render(value, number.dimension) if isinstance(number, Measure) else f"{value:g}"
        raise _wrong(request, f"holds {shown} twice", "write every value once")
    whole = _counts(number, values)
    dimension = number.dimension if isinstance(number, Measure) else "count"
    return Axis(request.path, np.array(values), dimension, whole, link=request.link)


def _choices(request: Request, *, linked: bool) -> Axis:
    texts = tuple(text.strip() for text in request.values.split(",")) if request.values else ()
    if not texts:
        raise _wrong(request, "has no values", "write names with commas between")
    if "" in texts:
        raise _wrong(request, "has an empty value", "remove the comma, or write a value beside it")
    if len(set(texts)) < len(texts) and not linked:
        raise _wrong(request, "holds a value twice", "write every value once")
    return Axis(request.path, np.arange(float(len(texts))), "count", whole=True, texts=texts, link=request.link)


def _item(request: Request, number: NumberType, item: str) -> list[float]:
    if not item:
        raise _wrong(request, "has an empty value", "remove the comma, or write a value beside it")
    match = _RANGE.fullmatch(item)
    if match is None and ".." in item:
        raise _wrong(request, f"{item} is no range", "write LOW..HIGH:COUNT, as in 200GB/s..900GB/s:8")
    if match is None and (ends := _DASH.fullmatch(item)) is not None:
        raise _wrong(request, f"{item} is no number", f"a range is {ends['low']}..{ends['high']}:8, both ends included")
    if match is None:
        return [read_number(number, item, request.label, request.path)]
    count, spacing = _count(request, item, match["count"]), _spacing(request, match["scale"])
    low, high = (read_number(number, match[end], request.label, request.path) for end in ("low", "high"))
    if low == high:
        raise _wrong(request, f"{item} begins where it ends", f"write {match['low']}")
    if spacing == "log" and min(low, high) <= 0.0:
        raise _wrong(request, f"{item} reaches zero, which has no logarithm", "begin above zero, or leave out `:log`")
    values = _SPACINGS[spacing](low, high, count)
    if _counts(number, (low, high)):
        return list(dict.fromkeys(np.rint(values).tolist()))
    return [low, *(float(f"{value:.{DIGITS}g}") for value in values[1:-1]), high]


def _counts(number: NumberType, values: Sequence[float]) -> bool:
    """Tell whether values are counts: what stands there is one, or may be a part of one and is none here."""
    return isinstance(number, Whole) or (
        isinstance(number, Positive) and all(float(value).is_integer() for value in values)
    )


def _count(request: Request, item: str, text: str | None) -> int:
    if text is None:
        raise _wrong(request, f"{item} does not say how many values", f"write {item}:8")
    if not re.fullmatch(r"\s*\d{1,18}\s*", text) or int(text) < 2:
        raise _wrong(request, f"{text.strip()!r} is no number of values", "write how many, at least 2, not a step")
    if int(text) > MOST_VALUES:
        raise _wrong(request, f"has {int(text):,} values, {MOST_VALUES:,} are the most", "write a coarser range")
    return int(text)


def _spacing(request: Request, text: str | None) -> str:
    spacing = "linear" if text is None else text.strip()
    if spacing not in _SPACINGS:
        raise _wrong(request, f"{spacing!r} is no spacing", "write `:log` for equal ratios, nothing for equal steps")
    return spacing


def _wrong(request: Request, message: str, hint: str) -> InputError:
    return InputError.single(message, hint=hint, field=request.path, location=request.label)
