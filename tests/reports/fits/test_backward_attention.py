"""The share of the forward rate that backward attention reaches, and how a backward core is priced by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from small_world import write

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import operator_time
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import AttentionKernel
from reports.fits.backward_attention import FAMILY, fit, main, pairs

SIZES = {"batch": 1, "q_heads": 8, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "q_len": 4096, "kv_len": 4096}
FORWARD, BACKWARD = {"op": "attention_prefill"}, {"op": "attention_backward"}
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
        forward, macs_per_pair=640.0, traffic=2 * forward.traffic, family=FAMILY, forward_macs_per_pair=256.0
    )


def seconds_of(core: AttentionKernel) -> float:
    return float(np.asarray(operator_time(core, MACHINE, None, HOPPER.fit(core)).seconds))


def test_a_backward_kernel_of_the_same_rate_takes_two_and_a_half_times_as_long(table):
    found = pairs(table(SIZES | FORWARD | {"time_us": 100}, SIZES | BACKWARD | {"time_us": 250}))
    assert found.share == pytest.approx([1.0])


def test_heads_of_two_widths_count_three_times_the_keys_and_twice_the_values(table):
    sizes = SIZES | {"head_dim": 192}
    found = pairs(table(sizes | FORWARD | {"time_us": 100}, sizes | BACKWARD | {"time_us": 260}))
    assert found.share == pytest.approx([1.0])


def test_rows_of_other_shapes_or_without_a_time_are_no_pairs(table):
    other = SIZES | {"q_heads": 4} | BACKWARD | {"time_us": 250}
    untimed = SIZES | BACKWARD | {"time_us": -1, "achieved_tflops": 100}
    assert len(pairs(table(SIZES | FORWARD | {"time_us": 100}, other, untimed)).share) == 0


def test_the_command_writes_the_median_share(tmp_path, capsys):
    columns = "device,op,dtype_in,batch,q_heads,kv_heads,head_dim,v_head_dim,q_len,kv_len,causal,time_us\n"
    rows = "".join(
        f"A100_SXM4_80GB,{op},bf16,1,{heads},{heads},128,128,2048,2048,1,{time}\n"
        for heads, slower in ((8, 3.125), (16, 3.125), (32, 2.5))
        for op, time in (("attention_prefill", 10 * heads), ("attention_backward", 10 * heads * slower))
    )
    write(tmp_path, "tables/a.csv", columns + rows)
    output = tmp_path / "backward.yaml"
    main([str(tmp_path / "tables"), "--output", str(output)])
    assert capsys.readouterr().out == output.read_text()
    family = yaml.safe_load(output.read_text())["families"]["attention_backward"]
    assert (family["backward_rate"], family["rows"]) == ("80 %", 3)


@pytest.mark.parametrize("calls", [1.0, 4.0])
def test_a_backward_core_is_as_much_longer_as_its_products_at_the_share_of_the_rate(calls):
    calibration = load_calibration("a100-sxm-80gb", "default")
    machine = Machine(load_device("a100-sxm-80gb"), default_framework(), 108.0)
    forward = replace(CORE, calls=calls)
    backward = replace(
        forward,
        macs_per_pair=5 * 128.0,
        traffic=2 * CORE.traffic,
        family="attention_backward",
        forward_macs_per_pair=256.0,
    )
    fit = calibration.fit(backward)
    assert fit.basis == "transferred"
    assert 0.5 < fit.backward_rate < 1.0
    seconds = [operator_time(core, machine, None, calibration.fit(core)).seconds for core in (forward, backward)]
    assert seconds[1] == pytest.approx(2.5 * np.asarray(seconds[0]) / fit.backward_rate)


def test_what_a_query_costs_is_told_apart_from_the_share_of_long_sequences(table):
    rows = []
    for length in (1024, 2048, 4096, 8192):
        sizes = SIZES | {"q_len": length, "kv_len": length, "causal": 0}
        forward = length * (length + 300)  # short sequences take longer a key
        backward = 2.5 * (forward + length * 500 * (8192 + 300) / 8192) / 0.9
        rows += [sizes | FORWARD | {"time_us": forward}, sizes | BACKWARD | {"time_us": backward}]
    found = fit(pairs(table(*rows)))
    assert (found.compute, found.query) == (pytest.approx(0.9, rel=0.01), pytest.approx(500, rel=0.01))


def test_a_causal_query_sees_half_of_the_keys_in_the_mean(table):
    sizes = SIZES | {"causal": 1}
    assert pairs(table(sizes | FORWARD | {"time_us": 1}, sizes | BACKWARD | {"time_us": 2})).keys == [2048.5]


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
    terms, time = HOPPER.fit(backward).fitted_terms(HOPPER.fit(backward).form, backward, MACHINE)
    assert "t(keys + extra_keys_per_query) * " in time
    assert terms["extra_keys_per_query"] == extra


def test_a_backward_core_of_a_window_takes_less_than_that_of_all_keys():
    short, whole = (seconds_of(backward_of(causal_core(4096.0, window))) for window in (128.0, None))
    assert 0.2 * whole < short < 0.7 * whole


def test_the_shipped_share_of_hopper_is_what_its_rows_give(tmp_path):
    rows = Path(__file__).parents[3] / "hardware" / "calibrations" / "h100-sxm"
    output = tmp_path / "backward.yaml"
    main([str(rows / "fa3-backward.csv"), "--device", "h100-sxm", "--output", str(output)])
    made, shipped = (yaml.safe_load(path.read_text())["families"][FAMILY] for path in (output, rows / "backward.yaml"))
    assert made == shipped


def test_a_device_without_rows_is_refused(tmp_path):
    rows = Path(__file__).parents[3] / "hardware" / "calibrations" / "h100-sxm" / "fa3-backward.csv"
    with pytest.raises(InputError, match="a40"):
        main([str(rows), "--device", "a40", "--output", str(tmp_path / "x.yaml")])
