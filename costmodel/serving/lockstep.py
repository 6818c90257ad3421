"""Data-parallel engines that share experts: none of them steps without the others.

A step ends when the engine with most to do ends. An engine without requests takes part with none of its own [vLLM,
docs/serving/data_parallel_deployment.md; DPEngineCoreProc runs a dummy batch].
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.decoding import release
from costmodel.serving.engine import has_place, price, schedule, schedule_alone
from costmodel.serving.loop import idle, run_step, with_starts
from costmodel.serving.prices import host_time
from costmodel.serving.queue import first_waiting, look, see_arrivals
from costmodel.serving.routing import Service, engine_of
from costmodel.serving.state import BUSY_UNTIL, DECODING, MOMENT, PARTIAL, UNALIGNED


@inner
def prompts_wait(service: Service, first: int, number: int, now: float) -> bool:
    """Tell whether the next step starts no prompt, since not every engine has one.

    It does where every engine has one that may start, where one of them has nothing to decode, and after `align_steps`
    steps without a start [TensorRT-LLM, PyExecutor._balance_adp_requests].
    """
    requests, policy, ready, idle_ones = service.requests, service.policy, 0, 0
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        if engine.count[DECODING] == 0:
            idle_ones += 1
        waiting = first_waiting(requests, engine, policy, look(engine, policy, now)) >= 0
        if engine.count[PARTIAL] >= 0 or (waiting and has_place(engine, policy)):
            ready += 1
    count = service.engines.count[first]
    count[UNALIGNED] += 1
    if ready < number and idle_ones == 0 and count[UNALIGNED] < policy.align_steps:
        return True
    count[UNALIGNED] = 0
    return False


@inner
def decide_together(service: Service, first: int, number: int) -> bool:
    """Let engines `first` to `first + number` decide on their next step. Return whether they are stuck."""
    requests, progress, policy = service.requests, service.progress, service.policy
    now, longest, working, behind, host = np.inf, 0.0, 0, 0.0, 0.0
    for replica in range(first, first + number):
        now = min(now, service.engines.clock[replica, MOMENT])
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        behind = max(behind, engine.clock[BUSY_UNTIL])
        release(requests, progress, engine, policy, now)
        see_arrivals(requests, progress, engine, policy, look(engine, policy, now))
    waits = policy.align_steps > 0 and prompts_wait(service, first, number, now)
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        if waits:
            runs = schedule_alone(requests, progress, engine, policy)
        else:
            runs = schedule(requests, progress, engine, policy, look(engine, policy, now))
        if runs:
            longest = max(longest, price(service.tables, engine, policy))
            host = max(host, host_time(service.tables, engine.step))
            working += 1
    if working == 0:
        stuck = True
        for replica in range(first, first + number):
            stuck = idle(requests, engine_of(service.engines, replica), now) and stuck
        return stuck
    start = max(now, behind)
    longest = with_starts(engine_of(service.engines, first), now, start, longest, host)
    end = start + longest
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        engine.clock[BUSY_UNTIL] = behind
        if engine.step[0] + engine.step[2] > 0:
            run_step(requests, progress, engine, policy, now, longest)
        engine.clock[BUSY_UNTIL] = end
        engine.clock[MOMENT] = start if policy.overlapped else end
    return False
