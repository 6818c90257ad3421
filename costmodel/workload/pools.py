"""Two pools of engines under a load: one computes prompts, the other decodes what it gets from there."""

from __future__ import annotations

from typing import ClassVar

from costmodel.quantities import Count
from costmodel.workload.plans import PlanOfParts, Serving
from costmodel.workload.requests import Replicas, RequestStream, Slo
from costmodel.workload.scenario import Scenario


class Pools(PlanOfParts):
    """Serving from two pools of engines, each with its own layout, devices, scheduler and memory.

    prefill, decode: scenarios of phase `serving` whose `replicas.count` are the engines of the pool.
    rate: requests that arrive [1/s], or null; concurrency: those in flight in a closed loop, or null. Of all engines.
    shared: both pools are in the scenario's cluster, else they meet over their NICs alone.
    router: how requests find an engine of either pool, and how caches move.
    """

    phase: ClassVar[str] = "serving"
    kind: ClassVar[str] = "pools"
    prefill: Scenario
    decode: Scenario
    input_tokens: Count
    output_tokens: Count
    rate: Count | None = None
    concurrency: Count | None = None
    requests: RequestStream | None = None
    slo: Slo = Slo()
    router: Replicas = Replicas()
    shared: bool = True

    @property
    def devices(self) -> Count:
        """Return the devices of all engines of both pools."""
        return self.prefill.devices + self.decode.devices

    @property
    def parts(self) -> tuple[Scenario, ...]:
        """Return the scenarios of the pools, the one whose hardware stands for both first."""
        return self.decode, self.prefill

    @property
    def engines(self) -> tuple[Serving, Serving]:
        """Return the plans of the prefilling and of the decoding engines."""
        prefill, decode = self.prefill.plan, self.decode.plan
        assert isinstance(prefill, Serving), "the file was checked"
        assert isinstance(decode, Serving), "the file was checked"
        return prefill, decode
