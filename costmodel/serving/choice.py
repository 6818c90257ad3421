"""Which engine answers a serving scenario: the closed form, with tails of a short run, or its requests one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.paces import Engines, paced
from costmodel.analytic.serving.continuous_batching import ServingEvaluation, only_requests
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.analytic.serving.pools import PoolsEvaluation
from costmodel.analytic.serving.sessions import at_means
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.serving.replay import ReplayedServer
from costmodel.serving.simulation import unsupported
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario

Requests: TypeAlias = "Callable[[Scenario, Serving | Pools, Calibration], Evaluation]"


def answering(scenario: Scenario, calibration: Calibration, requests: Requests) -> Evaluation:
    """Return the closed form of a scenario, or its requests where these alone answer it, which then say so.

    requests: evaluates them. Scenarios whose requests cannot be simulated stay with the closed form and its notes.
    """
    if scenario.anchor is not None and isinstance(scenario.plan, Serving):
        asked, measured = (partial(each, requests=requests) for each in (answering, _by_means))
        return paced(scenario, calibration, Engines(asked, measured, evaluate))
    if scenario.unlike and (problem := unsupported(scenario, scenario.plan)) is not None:  # type: ignore[arg-type]
        raise problem
    closed = with_tails(scenario.alone, calibration)
    why, plan = why_requests(scenario, closed), scenario.plan
    if why is None or not isinstance(plan, Serving | Pools):
        return closed
    served = requests(scenario, plan, calibration)
    assert isinstance(served, RequestEvaluation), "the engine that simulates requests"
    served.why = why
    return served


def _by_means(scenario: Scenario, calibration: Calibration, requests: Requests) -> Evaluation:
    """Return as `answering`, without percentiles."""
    closed, plan = evaluate(scenario, calibration), scenario.plan
    simulates = isinstance(plan, Serving) and why_requests(scenario, closed) is not None
    return requests(scenario, plan, calibration) if simulates and isinstance(plan, Serving) else closed


def why_requests(scenario: Scenario, closed: Evaluation) -> str | None:
    """Return why a scenario's requests alone answer it where no engine is asked for; null where `closed` form does."""
    plan = scenario.plan
    if not isinstance(plan, Serving | Pools) or unsupported(scenario, plan) is not None:
        return None
    keys = only_requests(plan) if isinstance(plan, Serving) else ()
    if keys:
        return f"the closed form takes no notice of {', '.join(keys)}"
    return closed.beyond() if isinstance(closed, OpenLoopEvaluation | ServingEvaluation | PoolsEvaluation) else None


def with_tails(scenario: Scenario, calibration: Calibration) -> Evaluation:
    """Return the closed form of a scenario, at a rate with percentiles and goodput of a short run of its requests."""
    plan = scenario.plan
    if isinstance(plan, Serving) and scenario.anchor is not None:
        return paced(scenario, calibration, Engines(with_tails, evaluate, evaluate))
    if isinstance(plan, Serving) and plan.rate is not None and not scenario.unlike:
        plan = at_means(scenario, plan)
        return ReplayedServer(replace(scenario, plan=plan), plan, calibration)
    return evaluate(scenario, calibration)


def by_requests(scenario: Scenario, calibration: Calibration) -> bool:
    """Tell whether a scenario's requests one by one answer it where no engine is asked for."""
    return why_requests(scenario, evaluate(scenario.alone, calibration)) is not None
