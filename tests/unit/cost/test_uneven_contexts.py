"""Decoding over contexts of unequal length waits for the thread block of the longest one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.cost.uneven_contexts import uneven_factor
from costmodel.serving.simulation import Simulation
from costmodel.workload.plans import Serving

POSITIVE = st.floats(0.1, 100.0)


def test_equal_contexts_take_what_was_measured() -> None:
    assert uneven_factor(12.0, 64.0, 1.0, 1.75) == 1.0


@given(POSITIVE, POSITIVE, st.floats(1.0, 20.0), st.floats(1.0, 10.0), st.floats(1.0, 8.0))
def test_a_longer_context_is_never_faster(
    filling: float, sequences: float, ratio: float, more: float, p: float
) -> None:
    factors = [uneven_factor(filling, sequences, each, p) for each in (1.0, ratio, ratio * more)]
    assert 1.0 == factors[0] <= factors[1] * (1 + 1e-12) <= factors[2] * (1 + 1e-11)


@given(POSITIVE, st.floats(1.0, 20.0))
def test_among_more_sequences_one_long_context_weighs_less(filling: float, ratio: float) -> None:
    assert uneven_factor(filling, 256.0, ratio, 1.75) <= uneven_factor(filling, 32.0, ratio, 1.75) * (1 + 1e-12)


def simulation(cluster: str, framework: str = "vllm") -> Simulation:
    changes = {
        "scenarios.serving.cluster": cluster, "scenarios.serving.framework": framework,
        "scenarios.serving.scheduler.max_num_seqs": 128,
    }  # fmt: skip
    workload = costmodel.load("llama3_8b_rtx4090", set=changes, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    return Simulation(scenario, scenario.plan, workload.calibration(scenario))


def test_the_table_holds_what_the_equation_says() -> None:
    times = simulation("nodes/rtx-4090-x1").times
    equal, long = times(64, 500.0), times(64, 500.0, longest=2000.0)
    factor = uneven_factor(times.tables.filling, 64, 4.0, times.tables.p)
    place = int(np.searchsorted(times.tables.axes[times.tables.ends[1] : times.tables.ends[2]], 500.0))
    assert long - equal == pytest.approx((factor - 1) * times.tables.uneven[64, place], rel=0.1)
    assert long > equal


def test_where_keys_are_split_the_longest_context_is_no_wait() -> None:
    times = simulation("nodes/rtx-4090-x1").times
    assert times(4, 500.0, longest=1500.0) == times(4, 500.0)


def test_kernels_that_balance_contexts_have_no_wait() -> None:
    assert simulation("nodes/h100-x1").times.tables.filling == 0.0
