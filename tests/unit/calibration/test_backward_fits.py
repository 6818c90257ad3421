"""How a backward attention kernel is timed by the forward one: its rate, and the keys that a query costs beside."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.operator_time import operator_time
from costmodel.cost.time import Machine
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import AttentionKernel

CORE = AttentionKernel(
    "core", sequences=1.0, heads=32.0, q_len=4096.0, qk_pairs=4096.0 * 4097 / 2, macs_per_pair=256.0, dtype="bf16",
    traffic=4 * 4096.0 * 32 * 128 * 2, family="attention_prefill",
    kv_heads=32.0, kv_len=4096.0, kv_token_bytes=512.0,
)  # fmt: skip
HOPPER = load_calibration("h100-sxm", "default")
MACHINE = Machine(load_device("h100-sxm"), default_framework(), 132.0)


def causal_core(length: float, window: float | None = None) -> AttentionKernel:
    """Return a forward core of H100 over one sequence, its queries seeing at most `window` keys."""
    pairs_ = length * (length + 1) / 2 if window is None else length * window - window * (window - 1) / 2
    return replace(CORE, q_len=length, kv_len=length, qk_pairs=pairs_, last_query_kv_len=window)


def backward_of(forward: AttentionKernel) -> AttentionKernel:
    return replace(
        forward, macs_per_pair=640.0, traffic=2 * forward.traffic, family="attention_backward",
        forward_macs_per_pair=256.0,
    )  # fmt: skip


def seconds_of(core: AttentionKernel) -> float:
    return float(np.asarray(operator_time(core, MACHINE, None, HOPPER.fit(core)).seconds))


def test_hopper_has_a_share_of_its_own_and_its_siblings_take_it():
    core = backward_of(CORE)
    ampere, hopper, sibling = (
        load_calibration(name, "default").fit(core) for name in ("a100-sxm-80gb", "h100-sxm", "h800-sxm")
    )
    assert (hopper.backward_rate, hopper.extra_keys_per_query) == (sibling.backward_rate, sibling.extra_keys_per_query)
    assert ampere.extra_keys_per_query == 0 < hopper.extra_keys_per_query


@pytest.mark.parametrize(("length", "window"), [(2048.0, None), (8192.0, None), (4096.0, 128.0)])
def test_the_queries_of_a_backward_core_cost_as_much_as_some_keys_more_each(length, window):
    forward = causal_core(length, window)
    backward = backward_of(forward)
    extra = HOPPER.fit(backward).extra_keys_per_query
    last = None if window is None else window + extra
    longer = replace(forward, qk_pairs=forward.qk_pairs + extra * length, kv_len=length + extra, last_query_kv_len=last)
    seconds = 2.5 / HOPPER.fit(backward).backward_rate * np.asarray(seconds_of(longer))
    assert seconds_of(backward) == pytest.approx(seconds, rel=0.05)  # fits and corrections go by the shape itself
    terms, of_forward = HOPPER.fit(backward).call_terms(backward, MACHINE), HOPPER.fit(forward)
    assert terms == of_forward.call_terms(longer, MACHINE) != of_forward.call_terms(forward, MACHINE)


def test_a_backward_core_of_a_window_takes_less_than_that_of_all_keys():
    short, whole = (seconds_of(backward_of(causal_core(4096.0, window))) for window in (128.0, None))
    assert 0.2 * whole < short < 0.7 * whole
