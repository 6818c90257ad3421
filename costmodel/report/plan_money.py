"""Money of a plan as text: when the choice turns, own servers, an API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodel.report.page import show


def show_money(document: Mapping[str, Any]) -> None:
    """Print the rents at which another cluster is the cheapest, and what owning the first plan's servers would cost."""
    for turn in document["turns"]:
        way = "above" if turn["turns_at"] > turn["rent"] else "below"
        show(
            f"price: {turn['other']} is cheaper where a device of {turn['cluster']} rents for {way} "
            f"{turn['turns_at']:.3g} $/h (now {turn['rent']:.3g})"
        )
    money = document["plans"][0].get("money") if document["plans"] else None
    if money is None:
        return
    if money["break_even"] is not None:
        after = f"{money['break_even']:,.0f} days"
        show(f"buy or rent: {money['capital']:,.0f} $ of servers cost less than their rent after {after}")
    if money["owning_rate"] is not None:
        show(f"bought: {money['owning_rate']:.4g} $/h with electricity, over their life")
    if money["api_rate"] is not None:
        rent = document["plans"][0]["cost_rate"]
        show(f"API: the same tokens cost {money['api_rate']:.4g} $/h, {money['api_rate'] / rent:.2f} times the rent")
    for lack in money["lacks"]:
        show(f"not known: {lack}", "dim")
