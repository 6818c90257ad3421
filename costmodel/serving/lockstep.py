"""Data-parallel engines that share experts: none of them steps without the others.

A step ends when the engine with most to do ends; an engine without requests takes part with none of its own
[vLLM, docs/serving/data_parallel_deployment.md; DPEngineCoreProc runs a dummy batch].
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.decoding import release
from costmodel.serving.engine import price, schedule
from costmodel.serving.loop import idle, run_step
from costmodel.serving.queue import look, see_arrivals
from costmodel.serving.routing import Service, engine_of
from costmodel.serving.state import BUSY_UNTIL, MOMENT


@inner
def decide_together(service: Service, first: int, number: int) -> bool:
    """Let engines `first` to `first + number` decide on their next step; return whether they are stuck."""
    requests, progress, policy = service.requests, service.progress, service.policy
    now, longest, working, behind = np.inf, 0.0, 0, 0.0
    for replica in range(first, first + number):
        now = min(now, service.engines.clock[replica, MOMENT])
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        behind = max(behind, engine.clock[BUSY_UNTIL])
        release(requests, progress, engine, policy, now)
        seen = look(engine, policy, now)
        see_arrivals(requests, progress, engine, policy, seen)
        if schedule(requests, progress, engine, policy, seen):
            longest = max(longest, price(service.tables, engine, policy))
            working += 1
    if working == 0:
        stuck = True
        for replica in range(first, first + number):
            stuck = idle(requests, engine_of(service.engines, replica), now) and stuck
        return stuck
    end = max(now, behind) + longest
    for replica in range(first, first + number):
        engine = engine_of(service.engines, replica)
        engine.clock[BUSY_UNTIL] = behind
        if engine.step[0] + engine.step[2] > 0:
            run_step(requests, progress, engine, policy, now, longest)
        engine.clock[BUSY_UNTIL] = end
        engine.clock[MOMENT] = max(now, behind) if policy.overlapped else end
    return False
