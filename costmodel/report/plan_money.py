"""Money of a plan as text: when the choice turns, own servers, an API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.report.page import show, table
from costmodel.report.text import NONE


def show_money(document: Mapping[str, Any]) -> None:
    """Print the rents at which another cluster is the cheapest, and what owning the best servers of each
    cluster would cost."""
    for turn in document["turns"]:
        way = "above" if turn["turns_at"] > turn["rent"] else "below"
        show(
            f"price: {turn['other']} is cheaper where a device of {turn['cluster']} rents for {way} "
            f"{turn['turns_at']:.3g} $/h (now {turn['rent']:.3g})"
        )
    of_each = {plan["cluster"]: plan for plan in reversed(document["plans"]) if plan.get("money")}
    if not of_each:
        return
    rows = table(
        "buy or rent", ">rent, $/h", ">servers, $", ">bought, $/h", ">break-even, days", ">API, $/h", ">API / rent"
    )
    for plan in list(of_each.values())[::-1]:
        money, rent = plan["money"], plan["cost_rate"]
        ratio = money["api_rate"] / rent if money["api_rate"] and rent else None
        rows.add(
            plan["cluster"].rpartition("/")[2], _number(rent), _number(money["capital"], ",.0f"),
            _number(money["owning_rate"]), _number(money["break_even"], ",.0f"), _number(money["api_rate"]),
            _number(ratio, ".2f"),
        )  # fmt: skip
    show(rows)
    show("bought: with electricity, over the life of the servers; break-even: of what they cost, against their rent")
    for lack in dict.fromkeys(lack for plan in of_each.values() for lack in plan["money"]["lacks"]):
        show(f"not known: {lack}", "dim")


def _number(value: float | None, form: str = ",.4g") -> str:
    return NONE if value is None else f"{value:{form}}"
