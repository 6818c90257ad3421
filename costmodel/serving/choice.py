"""Which engine answers a serving scenario: the closed form, with tails of a short run, or its requests one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TypeAlias

from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.paces import Engines, paced
from costmodel.analytic.serving.continuous_batching import ServingEvaluation, only_requests
from costmodel.analytic.serving.open_loop import QUANTILES, OpenLoopEvaluation
from costmodel.analytic.serving.pools import PoolsEvaluation
from costmodel.analytic.serving.sessions import at_means
from costmodel.analytic.stream_times import Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Metrics
from costmodel.serving.distributions import Served
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.serving.simulation import FEW_EVENTS, Simulation, stream_of, unsupported
from costmodel.serving.summary import Outcome, Tally, of_classes, percentiles
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.requests import Replicas, RequestStream
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


REQUESTS = 1000  # of a run, ten of which are slower than the 99th percentile
_OFF = 0.05  # of the mean time of a token, by which so few requests are told to be off
FEWEST = 250  # where outputs are long, of which more would take Python seconds


def without_ramp(served: Served) -> Served:
    """Return the requests that came after the first one ended: before, engines were still filling up."""
    late = served.requests["arrival"] > served.requests["finish"].min()
    return served.of(late) if late.any() else served


class ReplayedServer(OpenLoopEvaluation):
    """A server at a rate whose requests differ: the tails are those of some of them, simulated one by one."""

    @cached_property
    def _replayed(self) -> Outcome | None:
        """Return what became of a few requests of one replica, null where the queue only grows or none is simulated.

        Without those that came before the first of them ended: the engine was still filling up. Of a scenario whose
        requests the closed form knows only at their mean, alike and at random.
        """
        scenario, plan = self._scenario, self._plan
        if self.solution().load >= 1.0 or unsupported(scenario, plan) is not None:
            return None
        if only_requests(plan):
            alike = RequestStream(classes=plan.classes)
            plan = replace(plan, requests=alike, means=None, scheduler=replace(plan.scheduler, policy="fcfs"))
        stream, engines = stream_of(scenario, plan), plan.replicas.serving(scenario.parallel.all_devices)
        if plan.replicas.routing == "round_robin" and stream.arrivals == "poisson":
            stream = replace(stream, arrivals="gamma", cv=engines**-0.5)  # gaps between every n-th of them
        few = min(max(FEW_EVENTS // plan.output_tokens, FEWEST), REQUESTS)
        count = float(few if stream.count is None else min(stream.count, few))
        assert plan.rate is not None, "an open loop"
        own = replace(
            plan, rate=plan.rate / engines, requests=replace(stream, count=count, rate=None), replicas=Replicas()
        )
        served = without_ramp(
            Simulation(replace(scenario, plan=own), own, self._calibration, compiles=False).run().done
        )
        return Outcome.of(served, Tally.of(served, plan.slo, plan.classes))

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the means, and the goodput: of the requests that are served, the share that keeps to the `slo`."""
        metrics = super().metrics(perturbations)
        rate, goodput = metrics["requests_per_second"], None
        if self._replayed is not None and rate is not None:
            goodput = rate * self._replayed.tally.mean("good")
        return {**metrics, "goodput": goodput}

    def details(self) -> Mapping[str, object]:
        """Return the means of each class, with the share of its simulated requests that keep to its objective."""
        details, run, rate = super().details(), self._replayed, self.metrics(None)["requests_per_second"]
        if "classes" not in details or run is None or rate is None:
            return details
        kept, closed = ("attainment", "goodput"), details["classes"]
        assert isinstance(closed, dict)
        for name, played in of_classes(run.tally, float(rate)).items():
            closed[name] |= {key: played[key] for key in kept}
        return details

    def percentiles(self) -> Mapping[str, Mapping[str, float]]:
        """Return quantiles of the times of the requests that were simulated, else the closed form's rough ones."""
        if self._replayed is None:
            return super().percentiles()
        known = percentiles(self._replayed.tally, self._replayed.engines.gaps)
        return {name: {key: each[key] for key in QUANTILES if key in each} for name, each in known.items()}

    def notes(self) -> tuple[str, ...]:
        """Return what the closed form says, and what percentiles are of."""
        notes = super().notes()
        if self._replayed is not None:
            count, seed = self._replayed.tally.served, self._scenario.simulation.seed
            run = (
                f"percentiles and goodput: of {count:,} requests simulated one by one (seed {seed}); all else is means"
            )
            mean, tpot = self._replayed.tally.times["tpot"].mean, self.metrics(None)["tpot"]
            if tpot and abs(off := mean / float(tpot) - 1.0) > _OFF:
                run += (
                    f", {abs(off):.0%} {'above' if off < 0 else 'below'} those of so few: `--engine event` plays more"
                )
            return (*notes, run)
        problem = unsupported(self._scenario, self._plan)
        return notes if problem is None else (*notes, f"percentiles are rough: {problem.problems[0].message}")
