"""What prices of results are: their kind, date and source, and which of them are no comparison of devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from costmodel.hardware import NOT_AN_OFFER, PURCHASES, RENTS
from costmodel.records import ValueRecord
from costmodel.units import render

KINDS = {"rental": RENTS, "purchase": PURCHASES}
_DIMENSIONS = {"rental": "money_rate", "purchase": "money"}
_NAMES = {"rental": "rents", "purchase": "purchase prices"}


class Quoted(ValueRecord):
    """A price of a device: rental [$/s] or purchase [$], its kind of offer, date and source, null where unknown."""

    device: str
    of: str
    value: float
    kind: str
    date: str | None
    source: str | None

    def __str__(self) -> str:
        """Return the price with its kind, date and source."""
        named = KINDS[self.of].get(self.kind, "stated without a source")
        known = ": ".join(part for part in (self.date, self.source) if part)
        return f"{self.device} {render(self.value, _DIMENSIONS[self.of])}, {named}{f' ({known})' if known else ''}"


def quotes(prices: Iterable[Mapping[str, Any]], of: str) -> list[Quoted]:
    """Return the distinct prices of some results. prices: `hardware` of each; of: `rental` or `purchase`."""
    quoted = {}
    for hardware in prices:
        price = (hardware.get("price") or {}).get(of)
        if price is not None:
            quoted[hardware["device"], price["value"], price["kind"]] = Quoted(hardware["device"], of, **price)
    return list(quoted.values())


def unlike(quotes: Iterable[Quoted]) -> Iterator[str]:
    """Yield why costs that rest on some prices do not compare their devices: their kinds differ, or are no offers."""
    known = list(quotes)
    if len({one.device for one in known}) < 2:
        return
    pairs = [  # of different kinds; a price that is no offer is like none
        (one, other) for one, other in combinations(known, 2)
        if one.device != other.device and (one.kind != other.kind or one.kind in NOT_AN_OFFER)
    ]  # fmt: skip
    if not pairs:
        return
    first, second = pairs[0]
    of = first.of
    yield (
        f"{_NAMES[of]} are of different kinds, {_short(first)} and {_short(second)}"
        f"{f' and {len(pairs) - 1} more pairs' if len(pairs) > 1 else ''}: a ratio of costs says as much of the prices "
        f"as of the devices; state prices of one kind with --set hardware.price.{of}"
    )


def _short(one: Quoted) -> str:
    return f"{one.device}'s {KINDS[one.of].get(one.kind, 'stated')}{f' of {one.date}' if one.date else ''}"
