"""The value types of fields: quantities with a unit, counts, and whole numbers that fix a structure.

Each checks a raw value once and returns it in SI. A value from Python may be `SI(number or array)`, already in SI
units. Every element of an array must be within the field's bounds.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel import units
from costmodel.errors import InputError, available, kind_of, suggest
from costmodel.quantities import Array, Quantity
from costmodel.records import Record, ValueRecord

MOST = 10**12  # of anything counted, unless a field says less
_CENTURIES = 1e10  # seconds: three of them, of anything that goes on
_MAX = 1e30  # SI units of anything; its inverse is the least: beyond, arithmetic under- and overflows


class SI(Record):
    """A number or an array in the SI unit of its field."""

    value: float | npt.NDArray[Any]

    def __str__(self) -> str:
        has_ends = np.size(self.value) > 0 and np.result_type(self.value).kind in "biuf"
        ends = (np.min(self.value), np.max(self.value)) if has_ends else ()
        return " .. ".join(dict.fromkeys(f"{float(end):g}" for end in ends))


class Wrong(ValueError):
    """What a field's check raises: what is wrong, and what to write instead.

    at: the field below it that is wrong.
    """

    def __init__(self, message: str, hint: str = "", at: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.hint, self.at = message, hint, at


class FieldType(ValueRecord):
    """Base of the field types: pydantic calls `check` and nothing else."""

    def check(self, value: Any) -> Any:
        """Return the value of the field in SI. Raises `Wrong`."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return what to write, for the documentation of the format."""
        raise NotImplementedError

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of what to write."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return {"type": "function-plain", "function": {"type": "no-info", "function": self.check}}

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return self.json_schema()


class Key(ValueRecord):
    """The name that a field has in files, where that is no name in Python."""

    name: str


class Nullable(ValueRecord):
    """Of a key that may be null in files: the field's default then stands for it."""


class Measure(FieldType):
    """A quantity of one dimension, written as a string with its unit.

    unit: the one that error messages suggest.
    low: lower bound, itself allowed only with `zero`.
    two_way: `{bidirectional: …}` is accepted too, and counts half.
    """

    dimension: str
    unit: str = ""
    low: float = 0.0
    high: float = math.inf
    zero: bool = False
    two_way: bool = False

    def check(self, value: Any) -> Quantity:
        """Return the quantity in SI."""
        if self.two_way and isinstance(value, dict):
            return self._half(value)
        if isinstance(value, SI):
            return self._bounded(value.value, str(value))
        if isinstance(value, str):
            return self._parsed(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and self.dimension in ("ratio", "count"):
            return self._bounded(float(value), str(value))
        if isinstance(value, np.ndarray):
            raise Wrong("is an array without a unit", "pass SI(array), in SI units")
        if is_number:
            raise Wrong(f"{value} has no unit", f'write "{self._suggest(value)}"')
        raise Wrong(f"must be a quantity, not {kind_of(value)}", f'write a quantity such as "{self._suggest(10)}"')

    def _parsed(self, text: str) -> Quantity:
        try:
            return self._bounded(units.parse(text, self.dimension), repr(text))
        except InputError as error:
            problem = error.problems[0]
            hint = "write a plain number" if self.dimension == "count" else problem.hint
            raise Wrong(problem.message, hint) from None

    def _suggest(self, value: float) -> str:
        """Return `value` in the field's usual unit, or in SI if it is so large or small that it must be that.

        For a value that the field cannot have in any unit, return another one.
        """
        unit = self.unit or units.example_unit(self.dimension)
        if not math.isfinite(value) or value < 0 or (value == 0 and not self.zero):
            return f"10 {unit}"
        if 1e-3 <= abs(value) < 1e5 or value == 0:
            return f"{value:g} {unit}"
        return units.render(value, self.dimension)

    def _half(self, value: dict[str, Any]) -> Quantity:
        if list(value) != ["bidirectional"]:
            raise Wrong(
                "must be a one-way value or {bidirectional: …}, not a mapping with "
                f"{', '.join(map(str, value)) or 'no key'}",
                f'write "{self._suggest(50)}" or {{bidirectional: {self._suggest(100)}}}',
            )
        return self.check(value["bidirectional"]) / 2

    def _bounded(self, value: float | npt.NDArray[Any], written: str) -> Quantity:
        checked = _finite(value, written)
        low, high = _range(checked)
        if low < self.low or (low == self.low and not self.zero):
            bound = units.render(self.low, self.dimension) if self.low else "zero"
            example = "" if self.low or self.dimension in ("ratio", "count") else f', such as "{self._suggest(0.0)}"'
            hint = f"write a value {'of at least' if self.zero else 'above'} {bound}{example}"
            raise Wrong(f"{written} is too small", hint)
        if high > self.high:
            raise Wrong(f"{written} is too large", f"write at most {units.render(self.high, self.dimension)}")
        if high > _MAX or 0.0 < low < 1.0 / _MAX:
            raise Wrong(f"{written} is implausible", "check the exponent and the unit")
        return checked

    def describe(self) -> str:
        """Return the dimension and an example."""
        if self.dimension == "ratio":
            bounded = f"number, at most {self.high:g}" if self.high < math.inf else "number"
            return f"number, at least {self.low:g}" if self.low else f"{bounded}, or percentage as `10 %`"
        if self.dimension == "count":
            return f"number, {self.low:g} to {self.high:g}"
        names = {
            "duration": "time", "flop_rate": "FLOP rate", "money_rate": "money rate",
            "energy_price": "price of energy",
        }  # fmt: skip
        text = f"{names.get(self.dimension, self.dimension)}, as `{self._suggest(10)}`"
        return f"{text} or `{{bidirectional: {self._suggest(20)}}}`" if self.two_way else text

    def json_schema(self) -> dict[str, Any]:
        """Return text with a unit, or a number where there is none."""
        if self.dimension == "count":
            return {"type": "number", "minimum": self.low, "maximum": self.high}
        text: dict[str, Any] = {"type": "string", "description": self.describe(), "examples": [self._suggest(10)]}
        if self.dimension == "ratio":
            return {"anyOf": [text, {"type": "number"}]}
        if self.two_way:
            both = {"type": "object", "properties": {"bidirectional": text}, "required": ["bidirectional"]}
            return {"anyOf": [text, both | {"additionalProperties": False}]}
        return text


_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


class Quoted(Measure):
    """A price: a quantity, or `{price: …, kind: …, date: …}`, which says what kind of offer it was and when.

    kinds: of offers.
    """

    kinds: tuple[str, ...] = ()

    def check(self, value: Any) -> Quantity:
        """Return the price in SI."""
        if not isinstance(value, dict):
            return Measure.check(self, value)
        if set(value) != {"price", "kind", "date"}:
            raise Wrong(
                "must be a price or a mapping of price, kind and date, not a mapping with "
                f"{', '.join(map(str, value)) or 'no key'}",
                f'write "{self._suggest(2)}" or {self._example()}',
            )
        if value["kind"] not in self.kinds:
            raise Wrong(f"unknown kind of price {value['kind']!r}", suggest(str(value["kind"]), self.kinds))
        if not _DATE.fullmatch(str(value["date"])):
            raise Wrong(f"{value['date']!r} is no date", "write the year, `2026-05` or `2026-05-18`")
        return Measure.check(self, value["price"])

    def _example(self) -> str:
        return f"{{price: {self._suggest(2)}, kind: {self.kinds[0]}, date: 2026-05}}"

    def describe(self) -> str:
        """Return the dimension, an example, and the mapping."""
        return f"{Measure.describe(self)} or `{self._example()}` with a kind of {', '.join(self.kinds)}"

    def json_schema(self) -> dict[str, Any]:
        """Return text with a unit, or the mapping."""
        amount = Measure.json_schema(self)
        date = {"anyOf": [{"type": "string", "pattern": f"^{_DATE.pattern}$"}, {"type": "integer"}]}
        keys = {"price": amount, "kind": {"enum": [*self.kinds]}, "date": date}
        whole = {"type": "object", "properties": keys, "required": [*keys], "additionalProperties": False}
        return {"anyOf": [amount, whole]}


class Whole(FieldType):
    """A count of at least `low`. `single`: it fixes a structure, so it is one int and never an array."""

    low: int = 1
    high: int | None = None
    single: bool = False

    @property
    def most(self) -> int:
        """Return the largest count: nothing that is counted here has more than a trillion."""
        return MOST if self.high is None else self.high

    def check(self, value: Any) -> Any:
        """Return the count."""
        written = str(value)
        value = value.value if isinstance(value, SI) else value
        if isinstance(value, np.ndarray) and not self.single and value.dtype.kind in "iuf":
            return self._bounded(_finite(value, "the array"), "the array")
        if isinstance(value, np.ndarray):
            raise Wrong("cannot be an array", "write one whole number")
        checked = self._bounded(_finite(_number(value, "a whole number", str(max(self.low, 8))), written), written)
        return int(checked) if self.single else checked

    def _bounded(self, value: Quantity, written: str) -> Quantity:
        low, high = _range(value)
        if low < self.low:
            raise Wrong(f"{written} is too small", f"write at least {self.low}")
        if high > self.most:
            raise Wrong(f"{written} is too large", f"write at most {self.most}")
        if value % 1 if isinstance(value, float) else np.any(np.mod(value, 1)):
            raise Wrong(f"{written} is not a whole number", f"write {max(self.low, math.floor(low))}")
        return value

    def describe(self) -> str:
        """Return the bounds."""
        return f"whole number, {self.low} to {self.high}" if self.high else f"whole number, at least {self.low}"

    def json_schema(self) -> dict[str, Any]:
        """Return an integer with its bounds."""
        bounds = {"minimum": self.low} | ({} if self.high is None else {"maximum": self.high})
        return {"type": "integer", **bounds}


class Positive(FieldType):
    """A positive number that need not be whole: one device's part of something shared."""

    def check(self, value: Any) -> Quantity:
        """Return the number."""
        written = str(value)
        if isinstance(value, np.ndarray):
            raise Wrong("is an array without a unit", "pass SI(array)")
        raw = value.value if isinstance(value, SI) else value
        if isinstance(raw, np.ndarray):
            checked = _finite(raw, "the array")
        else:
            checked = _finite(_number(raw, "a number", "8 or 0.125"), written)
        least, largest = _range(checked)
        if least <= 0:
            raise Wrong(f"{written} is too small", "write a number above zero")
        if largest > MOST or least < 1.0 / MOST:
            raise Wrong(f"{written} is implausible", f"write a number between {1.0 / MOST:g} and {MOST:g}")
        return checked

    def describe(self) -> str:
        """Return the bound."""
        return "number above 0"

    def json_schema(self) -> dict[str, Any]:
        """Return a number with its bound."""
        return {"type": "number", "exclusiveMinimum": 0}


class Named(FieldType):
    """A reference to a file of `folder`, or its content inline as a mapping. Kept as written."""

    folder: str

    def check(self, value: Any) -> Any:
        """Return the reference or mapping."""
        if isinstance(value, (str, dict)) and value:
            return value
        raise Wrong(f"must be a file name or a mapping, not {kind_of(value)}", f"write `{self.folder}/NAME`")

    def describe(self) -> str:
        """Return the form of the reference."""
        return f"`{self.folder}/NAME`, or a mapping"

    def json_schema(self) -> dict[str, Any]:
        """Return text or an object."""
        return {"anyOf": [{"type": "string"}, {"type": "object"}]}


class Verbatim(FieldType):
    """A value kept as written, and checked by what uses it."""

    def check(self, value: Any) -> Any:
        """Return the value."""
        return value

    def describe(self) -> str:
        """Return that anything goes."""
        return "any value"

    def json_schema(self) -> dict[str, Any]:
        """Return the schema of everything."""
        return {}


class OneOf(FieldType):
    """One of the names in a table of the program."""

    names: tuple[str, ...]

    def check(self, value: Any) -> str:
        """Return the name."""
        if value in self.names:
            return str(value)
        given = repr(value) if isinstance(value, str) else kind_of(value)
        raise Wrong(f"unknown value {given}", suggest(str(value), self.names))

    def describe(self) -> str:
        """Return the names."""
        return ", ".join(f"`{name}`" for name in self.names)

    def json_schema(self) -> dict[str, Any]:
        """Return the names."""
        return {"enum": [*self.names]}


class NameSet(FieldType):
    """A named set, or a list of members. Becomes a frozen set of the names written, empty for `none`."""

    sets: tuple[str, ...]
    members: tuple[str, ...]

    def check(self, value: Any) -> frozenset[str]:
        """Return the names."""
        known = (*self.sets, *self.members)
        if not isinstance(value, (str, list)):
            raise Wrong(f"must be a named set or a list of names, not {kind_of(value)}", available(known))
        names = [value] if isinstance(value, str) else value
        for name in names:
            if name not in known:
                raise Wrong(f"unknown name {name!r}", suggest(str(name), known))
        return frozenset(names) - {"none"}

    def describe(self) -> str:
        """Return the sets and their members."""
        return f"{', '.join(self.sets)}, or a list of {', '.join(self.members)}"

    def json_schema(self) -> dict[str, Any]:
        """Return a name or a list of names."""
        known = {"enum": [*self.sets, *self.members]}
        return {"anyOf": [known, {"type": "array", "items": known}]}


def _number(value: Any, expected: str, example: str) -> float:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        given = repr(value) if isinstance(value, str) else kind_of(value)
        thousands = value[:-1] if isinstance(value, str) and value[-1:] in ("k", "K") and value[:-1].isdigit() else ""
        counts = [str(int(thousands) * each) for each in (1000, 1024) if thousands]
        raise Wrong(f"must be {expected}, not {given}", f"write {' or '.join(counts) or f'a number such as {example}'}")
    return value


def _finite(value: float | npt.NDArray[Any], written: str) -> Quantity:
    """Return `value` as float or float array, every element finite."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iuf" or value.size == 0:
            raise Wrong("must be an array of numbers, with at least one")
        array: Array = value.astype(np.float64)
        if not np.isfinite(array).all():
            raise Wrong("has an element that is not finite", "remove NaN and infinity")
        return array
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"{written} is out of range") from None
    if not math.isfinite(number):
        raise Wrong(f"{written} is not a finite number", "write a finite number")
    return number


def exceeds(value: Quantity, limit: Quantity) -> bool:
    """Tell whether a number is larger than another. For grids, whether it is at every point."""
    return bool(np.all(np.greater(value, limit)))


def _range(value: Quantity) -> tuple[float, float]:
    return (value, value) if isinstance(value, float) else (float(value.min()), float(value.max()))


Time: TypeAlias = Annotated[Quantity, Measure("time")]
Latency: TypeAlias = Annotated[Quantity, Measure("time", zero=True)]
Duration: TypeAlias = Annotated[Quantity, Measure("duration", high=_CENTURIES)]
Moment: TypeAlias = Annotated[Quantity, Measure("duration", high=_CENTURIES, zero=True)]
Size: TypeAlias = Annotated[Quantity, Measure("size")]
SizeOrZero: TypeAlias = Annotated[Quantity, Measure("size", zero=True)]
Bandwidth: TypeAlias = Annotated[Quantity, Measure("bandwidth")]
LinkBandwidth: TypeAlias = Annotated[Quantity, Measure("bandwidth", two_way=True)]
NicBandwidth: TypeAlias = Annotated[Quantity, Measure("bandwidth", unit="Gbit/s", two_way=True)]
Peak: TypeAlias = Annotated[Quantity, Measure("flop_rate")]
Frequency: TypeAlias = Annotated[Quantity, Measure("frequency")]
EventRate: TypeAlias = Annotated[Quantity, Measure("rate", low=1.0 / _CENTURIES, high=MOST)]
Watts: TypeAlias = Annotated[Quantity, Measure("power")]
WattsOrZero: TypeAlias = Annotated[Quantity, Measure("power", zero=True)]
Energy: TypeAlias = Annotated[Quantity, Measure("energy")]
EnergyPrice: TypeAlias = Annotated[Quantity, Measure("energy_price", zero=True)]
Money: TypeAlias = Annotated[Quantity, Measure("money", zero=True)]
Share: TypeAlias = Annotated[Quantity, Measure("ratio", high=1.0)]
ShareOrZero: TypeAlias = Annotated[Quantity, Measure("ratio", high=1.0, zero=True)]
Ratio: TypeAlias = Annotated[Quantity, Measure("ratio")]
RatioOrZero: TypeAlias = Annotated[Quantity, Measure("ratio", zero=True)]
Weight: TypeAlias = Annotated[float, Measure("ratio", zero=True)]
LoadFactor: TypeAlias = Annotated[Quantity, Measure("ratio", low=1.0, zero=True)]
Exponent: TypeAlias = Annotated[Quantity, Measure("count", high=10.0, zero=True)]
Offset: TypeAlias = Annotated[Quantity, Measure("count", low=-1e12, high=1e12, zero=True)]
Factor: TypeAlias = Annotated[Quantity, Measure("ratio", low=1e-4, high=100.0)]
Bits: TypeAlias = Annotated[Quantity, Measure("count", low=1.0, high=64.0, zero=True)]
Number: TypeAlias = Annotated[Quantity, Whole(1)]
PositiveNumber: TypeAlias = Annotated[Quantity, Positive()]
NumberOrZero: TypeAlias = Annotated[Quantity, Whole(0)]
Integer: TypeAlias = Annotated[int, Whole(1, single=True)]

DType = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "e5m6", "fp8", "fp8_fp16", "fp4", "int8", "int4"]
"""Number formats. `X_Y` is a math unit for format X that accumulates in Y, where a device has several."""

LinearType = Literal[DType, "mxfp4", "mxfp8", "nvfp4"]
"""Number formats of linear layers: block-scaled formats run on the math units `fp4` and `fp8`."""

StoredType = Literal[LinearType, "nf4", "q4_0", "q8_0", "q4_k", "q5_k", "q6_k"]
"""Number formats of stored tensors, including the blocks of GGUF files."""
