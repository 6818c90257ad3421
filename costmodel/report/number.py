"""Text of a number that still knows its value."""

from __future__ import annotations

from typing import Self


class Number(str):
    """Text with its value in SI: low is the value, or the lower end of an interval whose upper end is high."""

    __slots__ = ("high", "low", "unit")

    low: float
    high: float | None
    unit: str

    def __new__(cls, text: str, low: float, unit: str = "", high: float | None = None) -> Self:
        """Return the text with its value."""
        number = super().__new__(cls, text)
        number.low, number.high, number.unit = float(low), None if high is None else float(high), unit
        return number
