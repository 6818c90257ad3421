"""Requests of a run, or of a part of it, with the engines that served them."""

from __future__ import annotations

import numpy as np

from costmodel.network.sharing import Flags
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.serving.availability import Fleet
from costmodel.serving.rows import Records
from costmodel.serving.state import Engines, Policy
from costmodel.serving.step_times import StepTimes


class Served(Record, kw_only=True):
    """What became of the requests.

    requests: records of `Request`.
    engines: one row for each.
    front_end: what client and front end add to the first token of each request [s].
    fleet: who served when.
    has_priorities: requests have some.
    """

    requests: Records
    engines: Engines
    policy: Policy
    times: StepTimes
    front_end: Array
    fleet: Fleet
    has_priorities: bool = False

    @property
    def done(self) -> Served:
        """Return the requests that were served: all, but for those that were turned away."""
        return self.of(np.isfinite(self.requests["finish"])) if self.fleet.state["rejected"][0] else self

    def of(self, some: Flags) -> Served:
        """Return the same with some of the requests, whose times and counts metrics are of."""
        return replace(self, requests=self.requests[some], front_end=self.front_end[some])
