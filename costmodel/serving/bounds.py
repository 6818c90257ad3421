"""What a run of requests may take: too much of anything is refused before anything runs, with what to write instead."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel import units
from costmodel.errors import InputError
from costmodel.serving.deployment import engine_count, replica_count
from costmodel.serving.draw import comes_in_parts
from costmodel.serving.state import PROMPT, Policy, Requests, engine_bytes
from costmodel.serving.step_times import StepTimes
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Scenario

MOST_BYTES = 2**30  # of what engines keep: their places, blocks and runs
MOST_ENGINES = 100_000
MOST_MOMENTS = 1_000_000  # at which an autoscaler decides or an engine fails: some seconds, compiled
LONGEST = 1e9  # between the first arrival and the last [s], 30 years: times of steps get lost in the digits of more

Ints: TypeAlias = "npt.NDArray[np.int32]"


def check_requests(scenario: Scenario, plan: Serving, stream: RequestStream, most: int) -> None:
    """Raise InputError where there are more requests than can be kept, before they are drawn, or too many engines.

    most: that are kept at once.
    """
    if not comes_in_parts(stream) and stream.count is not None and stream.count > most:
        hint = f"write at most {most:,}, or arrivals at a rate without sessions, which come in parts"
        raise _wrong(scenario, "requests.count", f"{int(stream.count):,} requests that wait for others", hint)
    if engine_count(scenario, plan) > MOST_ENGINES:
        hint = f"at most {MOST_ENGINES:,} are simulated; divide `rate` and replicas by the same number"
        raise _wrong(scenario, "replicas", f"{engine_count(scenario, plan):,} engines", hint)


def check_run(scenario: Scenario, plan: Serving, requests: Requests, policy: Policy, sizes: Ints, total: int) -> None:
    """Raise InputError where engines need more memory than there should be, or where time brings too many events.

    requests: all `total` of them, or the first. sizes: of their runs, as of `new_engines`.

    Over a time T of arrivals an autoscaler decides T / interval times, and replicas fail T * replicas * devices / MTBF
    times.
    """
    engines, count = engine_count(scenario, plan), total if total == len(requests.arrival) else None
    size = engines * engine_bytes(policy, sizes, count)
    if size > MOST_BYTES:
        hint = f"{units.render(MOST_BYTES, 'size')} are the most; simulate fewer replicas at a part of the rate"
        raise _wrong(scenario, "replicas", f"{engines:,} engines need {size / 1e9:.3g} GB of tables", hint)
    comes = requests.arrival[np.isfinite(requests.arrival)]
    lasts = (float(np.ptp(comes)) if len(comes) else 0.0) * (total / len(requests.arrival))
    if lasts > LONGEST:
        hint = "write a higher rate, or fewer requests"
        raise _wrong(scenario, "requests", f"the requests come over {lasts / 31.6e6:,.0f} years", hint)
    scale, random = plan.replicas.autoscale, plan.replicas.breakdowns
    if scale is not None and lasts / float(scale.interval) > MOST_MOMENTS:
        hint = f"write at least {lasts / MOST_MOMENTS:.3g} s"
        raise _wrong(
            scenario, "replicas.autoscale.interval", f"decides {lasts / float(scale.interval):.3g} times", hint
        )
    if random is not None:
        between = float(random.device_mtbf) / float(scenario.parallel.all_devices) / replica_count(plan)
        if lasts / between > MOST_MOMENTS:
            hint = f"write at least {float(random.device_mtbf) * lasts / between / MOST_MOMENTS:.3g} s"
            raise _wrong(scenario, "replicas.breakdowns.device_mtbf", f"fails {lasts / between:.3g} times", hint)


def slowest_alone(requests: Requests, policy: Policy, times: StepTimes, share: float) -> float:
    """Return a time that the first tokens of a share of the requests take at least, on any number of engines [s].

    Of those with the most tokens to compute the shortest: each alone, after an engine that has computed all prompts
    before it, of which it has every run of blocks that they share. Zero where an end calls others: these come in no
    order that is known beforehand.
    """
    if len(requests.calls.called):
        return 0.0
    prompt, (first, runs, blocks, sizes) = requests.length[:, PROMPT], requests.paths
    computed = prompt
    if policy.caching and len(runs):
        again = np.ones(len(runs), dtype=bool)
        again[np.unique(runs, return_index=True)[1]] = False
        known = np.concatenate([[0], np.cumsum(np.where(again, sizes[runs], 0), dtype=np.int64)])
        computed = np.maximum(prompt - np.minimum(known[first[1:]] - known[first[:-1]], blocks) * policy.block, 1)
    seconds = []
    for request in np.argsort(computed)[-1 - int(share * len(prompt)) :].tolist():
        end, done = int(prompt[request]), int(prompt[request] - computed[request])
        ends = [*range(done + policy.budget, end, policy.budget), end]
        rows = np.diff([done, *ends]).tolist()
        seconds.append(sum(times(0.0, 0.0, 1.0, own, keys) for own, keys in zip(rows, ends, strict=True)))
    return float(min(seconds))


def _wrong(scenario: Scenario, key: str, message: str, hint: str) -> InputError:
    return InputError.single(message, field=f"scenarios.{scenario.name}.{key}", hint=hint)
