"""A number as people read it, which still knows its value."""

from __future__ import annotations

from typing import Self


class Number(str):
    """Text that carries a number: low is the value in SI, or the lower end of an interval whose upper one is high."""

    __slots__ = ("high", "low", "unit")

    low: float
    high: float | None
    unit: str

    def __new__(cls, text: str, low: float, unit: str = "", high: float | None = None) -> Self:
        """Return the text with its number."""
        made = super().__new__(cls, text)
        made.low, made.high, made.unit = float(low), None if high is None else float(high), unit
        return made
