"""The request engine's answer for two pools: prompts in one, their caches to the other, which decodes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from costmodel.analytic.serving.pools import PoolsEvaluation, fuller_ledger
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Metrics
from costmodel.serving.evaluation import DEFAULT, Options, RequestEvaluation
from costmodel.serving.simulation import Simulation, decoding_part
from costmodel.serving.summary import Outcome, sums
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario


class PoolsPlayed(RequestEvaluation):
    """Two pools with their requests simulated: of what is of one kind of engines, those that decode."""

    def __init__(self, scenario: Scenario, plan: Pools, calibration: Calibration, options: Options = DEFAULT) -> None:
        super().__init__(*decoding_part(scenario, plan), calibration, options)
        self._both, self._pools = scenario, plan
        self.ledger = fuller_ledger(plan.prefill, plan.decode)

    @cached_property
    def simulation(self) -> Simulation:
        """Return the simulation, the step times of both pools priced."""
        return self._options.simulation(self._both, self._pools, self._calibration)

    @cached_property
    def closed(self) -> PoolsEvaluation:  # type: ignore[override]  # of another plan, asked the same
        """Return the closed form at the rate at which requests were served, of their mean lengths."""
        tally = self.outcome.tally
        plan = replace(
            self._pools, rate=tally.served / tally.duration, concurrency=None,
            input_tokens=max(tally.mean("input_tokens"), 1.0), output_tokens=max(tally.mean("output_tokens"), 2.0),
        )  # fmt: skip
        return PoolsEvaluation(replace(self._both, plan=plan), plan, self._calibration)

    def metrics_of(self, run: Outcome) -> Metrics:
        """Return the metrics of requests that were simulated one by one, blocks and places of those that decode.

        kv_transfer_time := mean of requests, of sending a cache over a link that is free
        prefill_load := share of time in which the engines work that compute prompts
        """
        prompts, elapsed = run.fleet.prefill, run.tally.duration
        first, others = (sums(run.engines.occupancy[part]) for part in (slice(prompts), slice(prompts, None)))
        seats = self.closed.metrics(None)["max_concurrency"]
        return super().metrics_of(run) | {
            "concurrency": others["requests"] / elapsed, "max_concurrency": seats,
            "kv_use": others["blocks"] / max(others["busy"], 1e-300) / run.policy.blocks,
            "kv_transfer_time": run.tally.mean("transfer"), "prefill_load": first["busy"] / elapsed / prompts,
        }  # fmt: skip

    def _bill(self, tokens: float, devices: float, busy: float) -> Metrics:  # noqa: ARG002  each pool has its own
        closed = self.closed
        return closed.spent_at(tokens / self.outcome.tally.mean("output_tokens"), closed.solution(), closed.times())

    def _devices(self, run: Outcome) -> float:  # noqa: ARG002  they serve all the time
        return float(self._pools.devices)

    def _of_tokens(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes in its pool, whose engines work as the run's did."""
        run = self.outcome
        busy = [sums(part)["busy"] / run.tally.duration / len(part) for part in np.split(
            run.engines.occupancy, [run.fleet.prefill]
        )]  # fmt: skip
        return self.closed.bill(run.tally.served / run.tally.duration, (busy[0], busy[1]))

    @property
    def stable_rate(self) -> None:  # one engine's is not both pools'
        """Return nothing: the closed form knows the highest rate of two pools."""
        return None
