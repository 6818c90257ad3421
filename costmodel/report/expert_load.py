"""The load of expert layers as one line."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.report.text import share

_EVEN = 1.0005  # a load that reads as 1 with three digits


def is_even(facts: Mapping[str, float]) -> bool:
    """Tell whether all ranks have the same load, run all of their experts and drop nothing."""
    all_hit = facts["experts_hit"] >= facts["experts_held"] * (2 - _EVEN)
    return facts["expert_load"] < _EVEN and all_hit and facts["dropped_share"] == 0


def routing_line(facts: Mapping[str, float]) -> str:
    """Return the load of the busiest rank, how many of its experts receive tokens, and the share that is dropped."""
    text = (
        f"expert load: the busiest rank gets {facts['expert_load']:.3g} times the average rows; "
        f"{facts['experts_hit']:.3g} of its {facts['experts_held']:.3g} experts receive tokens"
    )
    dropped = facts["dropped_share"]
    return f"{text}; {share(dropped)} of token copies are dropped" if dropped else text
