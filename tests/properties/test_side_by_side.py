"""Threads that evaluate at once have the answers of one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import costmodel

BANDWIDTH = "hardware.device.memory.hbm.bandwidth"
FACTORS = (0.5, 1.0, 1.5, 2.0)


@pytest.fixture
def many_turns() -> Iterator[None]:
    """Let threads take turns within a function."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def _metrics(job: tuple[str, float]) -> dict[str, object]:
    scenario, factor = job
    workload = costmodel.load("deepseek_v3", {BANDWIDTH: f"{factor}x"}, scenarios=[scenario])
    return dict(workload.evaluate(scenario).metrics)


@pytest.mark.usefixtures("many_turns")
def test_threads_have_the_answers_of_one_after_the_other() -> None:
    jobs = [(scenario, factor) for scenario in ("decode", "prefill") for factor in FACTORS]
    with ThreadPoolExecutor(len(jobs)) as threads:
        together = list(threads.map(_metrics, jobs))
    assert together == [_metrics(job) for job in jobs]
    assert len({str(each) for each in together}) == len(jobs), "each job has an answer of its own"
