"""Data-parallel engines that share experts: none of them steps without the others.

A step ends when the engine with most to do ends: each computes what is its own, and all of them the experts, which
serve the tokens of all together. An engine without requests takes part with none of its own [vLLM,
docs/serving/data_parallel_deployment.md; DPEngineCoreProc runs a dummy batch].
"""

from __future__ import annotations

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.decoding import release
from costmodel.serving.engine import has_place, schedule, schedule_alone, step_rows
from costmodel.serving.loop import idle, run_step, with_starts
from costmodel.serving.prices import device_time, host_floor, host_time, shared_time
from costmodel.serving.queue import first_waiting, look, see_arrivals
from costmodel.serving.routing import Service, engine_of


@inner
def prompts_wait(service: Service, first: int, number: int, now: float) -> bool:
    """Tell whether the next step starts no prompt, since not every engine has one.

    It does where every engine has one that may start, where one of them has nothing to decode, and after `align_steps`
    steps without a start [TensorRT-LLM, PyExecutor._balance_adp_requests].
    """
    ready, idle_ones = 0, 0
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        if engine.state.decoding == 0:
            idle_ones += 1
        waiting = first_waiting(engine, look(engine, now)) >= 0
        if engine.state.partial >= 0 or (waiting and has_place(engine)):
            ready += 1
    state = service.engines.state[first]
    state.unaligned += 1
    policy = service.policies[service.fleet.members[first].kind]
    if ready < number and idle_ones == 0 and state.unaligned < policy.align_steps:
        return True
    state.unaligned = 0
    return False


@inner
def decide_together(service: Service, first: int, number: int) -> bool:
    """Let engines `first` to `first + number` decide on their next step. Return whether they are stuck."""
    kind = service.fleet.members[first].kind
    policy, tables, now, behind = service.policies[kind], service.tables[kind], np.inf, 0.0
    for replica in range(first, first + number):
        now = min(now, service.engines.state[replica].moment)
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        behind = max(behind, engine.state.busy_until)
        release(engine, now)
        see_arrivals(engine, look(engine, now))
    waits = policy.align_steps > 0 and prompts_wait(service, first, number, now)
    longest, working, host = 0.0, 0, 0.0
    tokens, most, floor = 0.0, 0.0, 0.0
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        runs = schedule_alone(engine) if waits else schedule(engine, look(engine, now))
        if runs:
            rows = step_rows(engine, tables)
            own = device_time(tables, engine.step, rows) - shared_time(tables, rows) + engine.step.copies
            longest, tokens, most = max(longest, own), tokens + rows, max(most, rows)
            if not tables.ahead:
                floor = max(floor, host_floor(tables, engine.step))
            host = max(host, host_time(tables, engine.step))
            working += 1
    if working == 0:
        stuck = True
        for replica in range(first, first + number):
            stuck = idle(engine_of(service, replica), now) and stuck
        return stuck
    start = max(now, behind)
    longest = max(longest + shared_time(tables, most if tables.padded else tokens / number), floor)
    longest = with_starts(engine_of(service, first), now, start, longest, host)
    end = start + longest
    for replica in range(first, first + number):
        engine = engine_of(service, replica)
        engine.state.busy_until = behind
        if engine.step.decodes + engine.step.chunks > 0:
            run_step(engine, now, longest)
        engine.state.busy_until = end
        engine.state.moment = start if policy.overlapped else end
    return False
