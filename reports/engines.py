"""Both engines side by side on the shipped workloads, and why they differ where they do.

python -m reports.engines --output reports/engines.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from costmodel.api import load
from costmodel.event.engine import Timeline
from costmodel.event.evaluation import EventEngine
from costmodel.event.graph import MESSAGE
from costmodel.records import ValueRecord, field
from costmodel.result import Point
from costmodel.workload.plans import Decode, Prefill, Training
from reports.page import rendered, write_page

WORKLOADS = (
    "deepseek_v3", "deepseek_v2", "gpt3_175b_a100", "llama2_70b_a100", "llama3_8b_rtx4090", "mixtral_8x7b_h100",
)  # fmt: skip
FLAGSHIP, MPFT, MRFT = WORKLOADS[0], "clusters/h800-2048-mpft", "clusters/h800-2048-mrft"
WORTH_WORDS = 0.02  # a difference of more than this is explained
NARROW = {"hardware.network.oversubscription": "2"}
HASHED = {"hardware.network.routing": "ecmp"}


class Case(ValueRecord):
    """A scenario on both engines. simulation: what the event engine is told; changes: of the rest, for both."""

    workload: str
    scenario: str
    cluster: str | None = None
    simulation: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    told: str = ""

    def point(self, engine: str, simulation: EventEngine | None = None) -> Point:
        """Return the scenario in full. The closed form neither knows failures nor hashed paths."""
        asked = {f"scenarios.{self.scenario}.simulation.{name}": text for name, text in self.simulation.items()}
        changes = {**asked, **self.changes} if engine == "event" else {}
        workload = load(self.workload, set=changes, cluster=self.cluster, scenarios=[self.scenario])
        return workload.points(engine=engine, simulation=simulation)[self.scenario]


CONTENTION = {"contention": "true"}
SHARED = (
    *(Case(FLAGSHIP, "training", fabric, CONTENTION, told="all links shared") for fabric in (MPFT, MRFT)),
    Case(FLAGSHIP, "training", MPFT, CONTENTION, NARROW, "and half as many uplinks as NICs"),
    Case(FLAGSHIP, "training", MPFT, CONTENTION, HASHED, "and paths by hash (ECMP)"),
    Case(
        FLAGSHIP, "training", MPFT, CONTENTION, {"hardware.network.failed": "[plane3]"}, "and one of eight planes lost"
    ),
    Case(FLAGSHIP, "prefill", MPFT, CONTENTION, told="all links shared"),
    Case("deepseek_v2", "training", None, CONTENTION, told="all links shared"),
    Case("gpt3_175b_a100", "selective", None, CONTENTION, told="all links shared"),
)
DISTURBED = (
    Case(FLAGSHIP, "training", None, {"shares_processors": "true"}, told="idle communication lends its processors"),
    Case(FLAGSHIP, "training", None, {"jitter": "3 %"}, told="jitter of 3 %, one replica"),
    Case(FLAGSHIP, "training", None, {"slowdowns": "[{rank: 3, slows: compute, speed: 0.9}]"}, told="rank 3 at 90 %"),
    Case(FLAGSHIP, "decode", None, {"jitter": "3 %"}, told="jitter of 3 %, one replica"),
    Case(FLAGSHIP, "decode", None, {"jitter": "3 %", "replicas": "128"}, told="jitter of 3 %, all 128 replicas"),
    Case(FLAGSHIP, "decode", None,
         {"replicas": "128", "slowdowns": "[{rank: 3, slows: compute, speed: 0.9}]"}, told="one of 128 at 90 %"),
)  # fmt: skip
SHORT = {"scenarios.training.global_batch": "4096"}
INTERVALS = (
    Case(FLAGSHIP, "prefill", None), Case(FLAGSHIP, "decode", None, {"jitter": "5 %"}, told="jitter of 5 %"),
    Case(FLAGSHIP, "training", None, {}, SHORT),
    Case(FLAGSHIP, "training", None, {"jitter": "3 %"}, SHORT, "jitter of 3 %"),
    Case(FLAGSHIP, "training", None, CONTENTION, SHORT, "all links shared"),
)  # fmt: skip


class Difference(ValueRecord):
    """One scenario on both engines [s]. waits: what its messages take longer because others share their links.

    exposed, bubble: by how much exposed communication and bubble differ, null for phases without them.
    """

    case: Case
    cluster: str
    metric: str
    closed: float
    event: float
    waits: float
    exposed: float | None
    bubble: float | None

    @property
    def relative(self) -> float:
        """Return the event engine's time over the closed form's, less one."""
        return self.event / self.closed - 1

    @property
    def reason(self) -> str:
        """Return what a difference that is worth words comes from, in the simulation's own seconds."""
        if abs(self.relative) <= WORTH_WORDS:
            return ""
        told = [f"on a rank messages wait {1e3 * self.waits:,.0f} ms for others"] if self.waits > 0 else []
        if self.exposed is None or self.bubble is None:
            count = self.case.simulation.get("replicas")
            slowest = [] if count is None else [f"exchanges wait for the slowest of {count} replicas"]
            return "; ".join([*told, *slowest])
        kernels = self.event - self.closed - self.exposed - self.bubble
        parts = {
            "exposed communication": self.exposed,
            "bubble": self.bubble,
            "kernels and the end of the step": kernels,
        }
        told += [f"{name} {1e3 * seconds:+,.0f} ms" for name, seconds in parts.items() if abs(seconds) > 1e-3]
        return "; ".join(told)


def compared(case: Case) -> Difference | None:
    """Return both engines' times of a scenario; null where it cannot run."""
    engine = EventEngine()
    closed, event = case.point("analytic"), case.point("event", engine)
    if not (closed.fits and event.fits):
        return None
    metrics = closed.headline, "exposed_communication_time", "bubble_time"
    time, exposed, bubble = ((closed.metrics.get(name), event.metrics.get(name)) for name in metrics)
    assert time[0] is not None
    assert time[1] is not None
    return Difference(
        case=case, cluster=event.cluster, metric=closed.headline, closed=time[0], event=time[1],
        waits=waits_of(engine.timelines[case.scenario]),
        exposed=_change(exposed), bubble=_change(bubble),
    )  # fmt: skip


def _change(pair: tuple[float | None, float | None]) -> float | None:
    before, after = pair
    return None if before is None or after is None else after - before


def waits_of(timeline: Timeline) -> float:
    """Return how much longer messages take than by themselves, the mean over devices [s]."""
    graph = timeline.graph
    longer = [
        float(finish - start) - float(task.seconds) - task.message.size / task.message.limit
        for task, start, finish in zip(graph.tasks, timeline.start, timeline.finish, strict=True)
        if task.kind == MESSAGE and task.message is not None
    ]
    return max(sum(longer), 0.0) / (1 + max(stream.device for stream in graph.streams))


def plain_cases() -> Iterator[Case]:
    """Yield every shipped training, prefill and decode scenario without noise or contention, and V3 on both fabrics."""
    for name in WORKLOADS:
        workload = load(name)
        for scenario in workload.scenarios:
            if isinstance(workload.scenario(scenario).plan, Training | Prefill | Decode):
                yield Case(name, scenario)
    yield Case(FLAGSHIP, "training", MRFT)


def intervals(cases: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    """Yield intervals that are moved as far as the closed form's beside those of perturbed simulations."""
    for case in cases:
        both = [case.point("event", EventEngine(perturbed=own)) for own in (False, True)]
        for metric in (both[0].headline, "bubble_time", "exposed_communication_time"):
            spans = [point.intervals.get(metric) for point in both]
            if spans[0] is None or spans[1] is None:
                continue
            farthest = float(np.max(np.abs(np.array(spans[0]) / np.array(spans[1]) - 1)))
            ends = [f"{1e3 * low:,.2f} .. {1e3 * high:,.2f} ms" for low, high in (spans[0], spans[1])]
            yield case.workload, case.scenario, case.told, f"`{metric}`", *ends, f"{farthest:.3%}"


def page() -> str:
    """Return the whole report."""
    tables = {
        name: list(filter(None, map(compared, cases)))
        for name, cases in (("plain", plain_cases()), ("shared", SHARED), ("disturbed", DISTURBED))
    }
    return rendered("engines", **tables, intervals=intervals(INTERVALS), worth_words=WORTH_WORDS)


if __name__ == "__main__":
    write_page("engines", page)
