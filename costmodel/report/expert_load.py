"""The load of expert layers as one line, and what an even one hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from costmodel.analytic.evaluation import evaluate
from costmodel.records import replace
from costmodel.report.text import metric, readable, share
from costmodel.workload.plans import Decode, Generate, Prefill
from costmodel.workload.popularity import DRAWN

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.result import Point

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


def drawn_line(workload: Workload, name: str, point: Point, least: float = 0.0) -> str | None:
    """Return how much longer a pass takes whose experts are drawn at random, where even ranks are assumed.

    Nothing where ranks do not share experts, where the scenario states their load, or where it is less than a share
    `least` longer.
    """
    scenario = workload.scenario(name)
    is_pass = isinstance(scenario.plan, Prefill | Decode | Generate) and scenario.parallel.ep > 1
    assumed = scenario.routing.load == "balanced" and scenario.communication.expert_load is None
    if not (is_pass and assumed and point.fits) or point.routing is None or not is_even(point.routing):
        return None
    drawn = replace(scenario, routing=replace(scenario.routing, load=DRAWN))
    even, uneven = (
        each[point.headline] for each in (point.metrics, evaluate(drawn, workload.calibration(scenario)).metrics(None))
    )
    if even is None or uneven is None or abs(float(uneven) - float(even)) < least * float(even):
        return None
    return (
        f"even ranks are assumed; experts drawn at random for each token give {readable(point.headline)} "
        f"{metric(point.headline, float(uneven))} ({float(uneven) / even - 1.0:+.1%}): "
        f"--set scenarios.{name}.routing.load={DRAWN}"
    )


def load_phrase(facts: Mapping[str, float]) -> str:
    """Return in a few words what is not even: the busiest rank's load, experts without tokens, what is dropped."""
    parts = [_busiest(facts)] if facts["expert_load"] >= _EVEN else []
    if not _all_hit(facts):
        parts.append(f"{facts['experts_hit']:.3g} of {facts['experts_held']:.3g} experts receive tokens")
    if facts["dropped_share"]:
        parts.append(f"{share(facts['dropped_share'])} of token copies are dropped")
    return ", ".join(parts)


def _busiest(facts: Mapping[str, float]) -> str:
    if facts["expert_load"] < _EVEN:
        return "all ranks get the same number of tokens"
    return f"the busiest rank gets {facts['expert_load']:.3g} times the average tokens"


def _all_hit(facts: Mapping[str, float]) -> bool:
    return facts["experts_hit"] >= facts["experts_held"] * (2 - _EVEN)
