"""The links that messages of a device share, where a scenario asks for contention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodel.analytic.pricing import Priced
from costmodel.event.graph import MESSAGE, Message, Task
from costmodel.quantities import Array
from costmodel.workload.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Links:
    """One link a device, on which its messages between nodes meet; bandwidth: of each, null without contention [B/s].

    A message that alone is on the wire for t seconds moves t * bandwidth: its own time, measured efficiencies included,
    stays what it was, and two at a time share the link.
    """

    bandwidth: float | None

    def sent(self, task: Task, device: int, wire: float) -> Task:
        """Return a message's task with its bytes. wire: the part of its time in which bytes move [s]."""
        if self.bandwidth is None or task.kind != MESSAGE or wire <= 0:
            return task
        size = wire * self.bandwidth
        return task._replace(seconds=max(float(task.seconds) - wire, 0.0), message=Message((device,), size))

    def capacity(self, devices: int) -> Array:
        """Return the capacity of all links [B/s]."""
        return np.full(devices if self.bandwidth is not None else 0, self.bandwidth or 0.0)


def links_of(scenario: Scenario) -> Links:
    """Return the links of a scenario's devices: their NICs, without one the links inside a node."""
    if not scenario.simulation.contention:
        return Links(None)
    node = scenario.cluster.node
    return Links(float(node.intra.bandwidth if node.nic is None else node.nic.bandwidth * node.nic.per_device))


def wire_seconds(priced: Priced, seconds: float) -> float:
    """Return the part of an operator's exposed `seconds` in which bytes move [s]."""
    whole = float(priced.time.seconds)
    return seconds * float(priced.time.network) / whole if whole else 0.0
