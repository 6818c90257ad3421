"""Rows of files of requests, and the checks of what stands in them."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from costmodel.errors import InputError, Location
from costmodel.records import ValueRecord
from costmodel.schema.serving import LARGEST

MAX_TOKENS = 100_000_000  # of one request: more is a mistake
LARGEST_BLOCK = 2**63 - 1
MILLI = 1e-3
LATEST = 1e10  # [s]: a moment after it, in the year 2286, is a mistake
PRIORITY = "priority"  # column of a table; the least is served first
_FRACTION = re.compile(r"\.(\d+)")


class Row(ValueRecord):
    """One request of a file.

    line: where it stands.
    arrival: [s], infinite where it waits for others.
    prompt, output: tokens.
    blocks: of its prompt, equal numbers for equal beginnings.
    priority: if any.
    name: by which others wait for it.
    after: names of requests whose ends it waits for, and how long from then [s].
    earliest: before which it does not arrive [s].
    size: tokens of a block, 0: what all prompts and their blocks show
    """

    line: int
    arrival: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()
    priority: int | None = None
    name: str = ""
    after: tuple[tuple[str, float], ...] = ()
    earliest: float = 0.0
    size: int = 0


def parsed(text: str, shown: str, line: int) -> dict[str, Any]:
    """Return the JSON object of a line."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise problem(shown, line, f"is no JSON: {str(error)[:200]}", "write one object a line") from None
    if not isinstance(entry, dict):
        raise problem(shown, line, "is no object", "write one object a line")
    return entry


def moment_of(value: Any, shown: str, line: int, name: str, scale: float = 1.0) -> float:
    """Return a moment in seconds: a number of `scale`, or a date and time, which is of UTC where it names no zone."""
    moment = number_of(value)
    if moment is None and isinstance(value, str):
        moment = _date(value)
        if moment is not None:
            return moment
    if moment is None or not math.isfinite(moment) or not 0.0 <= moment * scale <= LATEST:
        raise problem(shown, line, f"{name} {str(value)[:40]!r} is no time", "write seconds from 0 on")
    return moment * scale


def _date(text: str) -> float | None:
    """Return a date and time in seconds. Digits beyond microseconds count too."""
    fraction = _FRACTION.search(text)
    try:
        moment = datetime.fromisoformat(_FRACTION.sub("", text.strip(), count=1))
    except ValueError:
        return None
    whole = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return whole + (float(f"0.{fraction[1]}") if fraction else 0.0)


def tokens_of(value: Any, shown: str, line: int, name: str, least: int = 1) -> int:
    """Return a whole number of tokens."""
    number = number_of(value)
    if number is None or not math.isfinite(number) or number != math.floor(number):
        raise problem(shown, line, f"{name} {str(value)[:40]!r} is no whole number", "write tokens")
    if not least <= number <= MAX_TOKENS:
        raise problem(shown, line, f"{name} {number:g} is out of range", f"write {least} to {MAX_TOKENS:,}")
    return int(number)


def priority_of(value: str, shown: str, line: int) -> int:
    """Return a priority."""
    number = number_of(value)
    if number is None or not math.isfinite(number) or number != math.floor(number):
        raise problem(shown, line, f"{PRIORITY} {value[:40]!r} is no whole number", "write 0 for all that are alike")
    if abs(number) > LARGEST:
        raise problem(shown, line, f"{PRIORITY} {number:g} is out of range", f"write -{LARGEST:,} to {LARGEST:,}")
    return int(number)


def number_of(value: Any) -> float | None:
    """Return a number, null where a value is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def blocks_of(values: Any, shown: str, line: int) -> tuple[int, ...]:
    """Return numbers of blocks."""
    try:
        blocks = tuple(int(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise problem(shown, line, "has a block that is no whole number", "write numbers of blocks") from None
    if any(not 0 <= block <= LARGEST_BLOCK for block in blocks):
        raise problem(shown, line, "has a block that is negative or has more than 63 bits", "number blocks from 0 on")
    return blocks


def problem(shown: str, line: int | None, message: str, hint: str) -> InputError:
    """Return the error of a line of a trace."""
    return InputError.single(message, field="requests.trace", hint=hint, location=Location(shown, line))
