"""Changes that are relative to what a document says: `2x`, `+10%`, `-10%`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from costmodel.declared import SI, Measure, Whole
from costmodel.errors import InputError, Location
from costmodel.records import replace
from costmodel.schema.fields import NumberType, number_at
from costmodel.schema.overrides import Override, apply_overrides, entry
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import Tree
from costmodel.units import base_unit

_RELATIVE = re.compile(r"\s*(?:(?P<times>-?\d+(?:\.\d+)?)\s*x|(?P<percent>[+-]\s*\d+(?:\.\d+)?)\s*%)\s*")


def factor_of(text: object) -> float | None:
    """Return what `2x`, `+10%` or `-10%` multiplies by: 2, 1.1 or 0.9. Null for anything else."""
    match = _RELATIVE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    return float(match["times"]) if match["times"] else 1.0 + float(match["percent"].replace(" ", "")) / 100.0


def multiplied(number: NumberType, value: object, factor: float, source: tuple[str, Location | None]) -> float:
    """Return a value times a factor in SI, a whole number where the field takes these alone.

    source: field and location for the error of a value that is not known.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError.single(
            "is relative to a value that is not known", hint="write the value itself", field=source[0],
            location=source[1],
        )  # fmt: skip
    product = float(value) * factor
    return float(round(product)) if isinstance(number, Whole) else product


def absolute(model: type[Strict], tree: Tree, overrides: Sequence[Override], field: str = "") -> Sequence[Override]:
    """Return overrides of a document with values instead of factors.

    A factor is of what the document, checked as `model` and with the other overrides, has: its defaults are values too.
    Raises InputError where it has none. A document with problems is left to whoever checks it.
    """
    relative = {override: factor_of(override.value.value) for override in overrides}
    if not any(factor is not None for factor in relative.values()):
        return overrides
    plain = [override for override, factor in relative.items() if factor is None]
    file = validate_tree(model, apply_overrides(tree, plain, field), [], field)
    if file is None:
        return overrides
    document = file.model_dump(by_alias=True)
    return [
        override if factor is None else _multiplied(model, document, override, factor)
        for override, factor in relative.items()
    ]


def _multiplied(model: type[Strict], document: dict[str, object], override: Override, factor: float) -> Override:
    path, location = override.target.path, override.value.location
    number = number_at(model, path)
    if number is None:
        return override
    name = ".".join(path)
    value = multiplied(number, entry(document, path, name), factor, (name, location))
    return replace(override, value=replace(override.value, value=SI(value)))


def absolute_text(text: str, number: NumberType, value: Callable[[], object], source: tuple[str, Location]) -> str:
    """Return values and ranges of an axis, `0.5x..2x:8`, with a number and its unit instead of each factor.

    value: returns what the factors multiply.
    """

    def of(part: str) -> str:
        factor = factor_of(part)
        if factor is None:
            return part
        unit = base_unit(number.dimension) if isinstance(number, Measure) else "1"
        return f"{multiplied(number, value(), factor, source)!r}{'' if unit == '1' else f' {unit}'}"

    items = []
    for item in text.split(","):
        ends, colon, spacing = item.partition(":") if ".." in item else (item, "", "")
        items.append("..".join(map(of, ends.split(".."))) + colon + spacing)
    return ",".join(items)
