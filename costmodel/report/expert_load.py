"""The load of expert layers as one line."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.report.text import share

_EVEN = 1.0005  # a load that reads as 1 with three digits


def is_even(facts: Mapping[str, float]) -> bool:
    """Tell whether all ranks have the same load, run all of their experts and drop nothing."""
    return facts["expert_load"] < _EVEN and _all_hit(facts) and facts["dropped_share"] == 0


def routing_line(facts: Mapping[str, float]) -> str:
    """Return the load of the busiest rank, how many of its experts receive tokens, and the share that is dropped."""
    text = (
        f"expert load: {_busiest(facts)}; "
        f"{facts['experts_hit']:.3g} of its {facts['experts_held']:.3g} experts receive tokens"
    )
    dropped = facts["dropped_share"]
    return f"{text}; {share(dropped)} of token copies are dropped" if dropped else text


def load_phrase(facts: Mapping[str, float]) -> str:
    """Return in a few words what is not even: the busiest rank's load, experts without tokens, what is dropped."""
    parts = [_busiest(facts)] if facts["expert_load"] >= _EVEN else []
    if not _all_hit(facts):
        parts.append(f"{facts['experts_hit']:.3g} of {facts['experts_held']:.3g} experts receive tokens")
    if facts["dropped_share"]:
        parts.append(f"{share(facts['dropped_share'])} of token copies are dropped")
    return ", ".join(parts)


def _busiest(facts: Mapping[str, float]) -> str:
    return f"the busiest rank gets {facts['expert_load']:.3g} times the average rows"


def _all_hit(facts: Mapping[str, float]) -> bool:
    return facts["experts_hit"] >= facts["experts_held"] * (2 - _EVEN)
