"""Kernels beside expert exchanges: processors and interference are two losses, and freeing one keeps the other."""

from __future__ import annotations

import pytest
from builders import FP8, FRAMEWORK, MOE_MODEL, PREFILL, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import stage_contention
from costmodel.analytic.training.overlapped_comm import message_contention
from costmodel.api import load
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.workload.plans import Prefill, Training
from costmodel.workload.scenario import Communication, Parallelism

SLOW = replace(FRAMEWORK, moe_comm_slowdown=1.5)


def test_interference_is_of_exchanges_of_whole_chunks_whoever_sends_them() -> None:
    assert SLOW.comm_slowdown(Communication(processors=20.0)) == 1.5
    assert SLOW.comm_slowdown(Communication(processors=0.0)) == 1.5
    assert SLOW.comm_slowdown(Communication(mode="low_latency")) == 1.0


@pytest.mark.parametrize("plan", [replace(STEP, schedule="dualpipe", global_batch=256.0), PREFILL])
def test_freed_processors_save_at_most_their_share(plan: Training | Prefill) -> None:
    """20 of 100 processors: at most a fifth, of a device that is all kernels."""
    parallel = Parallelism(pp=2.0 if isinstance(plan, Training) else 1.0, dp=8.0, ep=8.0)

    def seconds(processors: float) -> float:
        chosen = scenario(plan, MOE_MODEL, parallel, FP8, Communication(processors), framework=SLOW)
        point = evaluate_point(chosen, Calibration())
        value = point.metrics[point.headline]
        assert value is not None, point.reason
        return value

    saved = 1.0 - seconds(0.0) / seconds(20.0)
    assert 0.0 <= saved <= 0.2


def test_the_flagship_saves_no_more_than_20_of_132_processors() -> None:
    for name, metric in (("training", "step_time"), ("prefill", "ttft")):
        path = f"scenarios.{name}.communication.processors"
        values = [
            load("deepseek_v3", set={path: count}, scenarios=[name]).evaluate(name).metrics[metric] for count in (20, 0)
        ]
        held, freed = (float(value) for value in values if value is not None)
        assert 0.0 < 1.0 - freed / held < 20 / 132


def test_contention_of_a_pair_lasts_while_both_run() -> None:
    """2 s of kernels, 1.5 times as long beside exchanges: 3 s, a third of it contention; less beside short ones."""
    for exchanges, expected in ((100.0, 1.0), (3.0, 1.0), (1.5, 0.5), (0.0, 0.0)):
        assert message_contention(2.0, exchanges, 1.5) == pytest.approx(expected)


def test_a_stage_s_idle_time_absorbs_contention_first() -> None:
    """Span 10 s, kernels 8: 2 s idle. Exchanges of 8 s run 6 beside them, of 6 s 4: half is lost."""
    assert stage_contention(10.0, 8.0, 8.0, 2.0) == pytest.approx(6.0 / 2 - 2.0)
    assert stage_contention(10.0, 8.0, 6.0, 2.0) == 0.0
    assert stage_contention(10.0, 10.0, 6.0, 2.0) == pytest.approx(3.0)
