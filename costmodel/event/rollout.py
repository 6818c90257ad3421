"""Answers of a step of reinforcement learning whose requests are simulated one by one."""

from __future__ import annotations

from collections.abc import Callable

from costmodel.analytic.evaluation import Evaluation
from costmodel.analytic.serving.burst import BurstRollout, Rollout, RolloutTimes, rollout_of, scaled
from costmodel.analytic.stream_times import Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.result import Entry
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Scenario

_Requests = Callable[[Scenario, Serving, Calibration], Evaluation]


class SimulatedRollout(BurstRollout):
    """Answers of engines to which all prompts come at once, with the closed form's uncertainty."""

    def __init__(
        self, scenario: Scenario, plan: Serving, calibration: Calibration, answers: Count, requests: _Requests
    ) -> None:  # fmt: skip
        super().__init__(scenario, plan, calibration, answers)
        stream = plan.requests or RequestStream()
        burst = replace(plan, rate=None, concurrency=None, requests=replace(stream, arrivals="burst", count=answers))
        served = requests(replace(scenario, plan=burst), burst, calibration)
        rate = served.metrics(None)["requests_per_second"]
        assert rate is not None
        self._whole = float(answers) / float(rate)
        totals = served.details()["requests"]
        assert isinstance(totals, dict)
        self._busy = self._whole * float(totals["busy_share"])

    def _evaluate(self, perturbations: Perturbations) -> RolloutTimes:
        closed, usual = super()._evaluate(perturbations), super()._evaluate(None)
        factor = closed.seconds / usual.seconds
        return replace(closed, seconds=self._whole * factor, busy=self._busy * factor)

    def breakdown(self) -> list[Entry]:
        """Return the operators of the closed form, which here sum to the simulated time."""
        listed = super().breakdown()
        return [scaled(each, self._whole / sum(one.time for one in listed)) for each in listed]


def rollout_of_requests(
    requests: _Requests | None, scenario: Scenario, calibration: Calibration, answers: Count
) -> Rollout:  # fmt: skip
    """Return what generates answers, request by request where engines have continuous batching."""
    if requests is None or not isinstance(scenario.plan, Serving):
        return rollout_of(scenario, calibration, answers)
    return SimulatedRollout(scenario, scenario.plan, calibration, answers, requests)
