"""Fits of attention kernels to times made with known parameters: these come back, and unseen shapes are predicted."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DEVICE, FRAMEWORK

from costmodel.cost.calibration import Calibration
from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import build, parameters
from costmodel.cost.residual import Nearness, Residual
from costmodel.cost.time import Machine
from costmodel.fitting.family_fit import Recipe, Samples, fit_family, fold_numbers
from costmodel.measurements.row_group import OperatorRows
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, MixedAttention, Operator

CONSTANTS = {
    "prefill": {"pack_gqa": False, "split_kv_rule": "never", "tiles": ((64, 128),)},
    "decode": {"pack_gqa": True, "split_kv_rule": "fa3", "q_tile": 64, "kv_tile_elements": 32_768, "occupancy": 1},
    "varlen": {"tile": (64, 128), "occupancy": 2},
}
TRUTH = {
    "prefill": {
        "launch": 5e-6, "compute_efficiency": 0.6, "hbm_efficiency": 0.8, "cta_overhead": 3000.0,
        "single_cta_efficiency": 0.7,
    },
    "decode": {
        "launch": 5e-6, "compute_efficiency": 0.5, "hbm_efficiency": 0.9, "combine_latency": 4e-6,
        "cta_overhead": 3000.0,
    },
    "varlen": {"launch": 5e-6, "compute_efficiency": 0.6, "hbm_efficiency": 0.8, "cta_overhead": 3000.0},
}  # fmt: skip
ROWS = 150


def core(family: str, sequences: Array, heads: Array, rows: Array, keys: Array, kv_heads: Array) -> AttentionKernel:
    pairs = rows * (keys - rows) + rows * (rows + 1) / 2
    traffic = sequences * (heads * rows + kv_heads * keys) * 512.0
    return AttentionKernel(
        "core",
        sequences=sequences,
        heads=heads,
        q_len=rows,
        qk_pairs=pairs,
        macs_per_pair=256.0,
        dtype="bf16",
        traffic=traffic,
        family=family,
        kv_heads=kv_heads,
        kv_len=keys,
        kv_token_bytes=512.0,
    )


def shapes(kind: str, draw: np.random.Generator) -> Operator:
    """Return `ROWS` shapes of a kind."""

    def powers(low: int, high: int) -> Array:
        return np.exp2(draw.integers(low, high, ROWS)).astype(np.float64)

    kv_heads, keys = powers(0, 4), np.exp2(draw.uniform(4, 14, ROWS)).round()
    heads = kv_heads * powers(0, 4)
    if kind == "decode":
        return core("attention_decode", powers(0, 8), heads, np.ones(ROWS), keys, kv_heads)
    chunk = core("attention_prefill", powers(0, 4), heads, keys, keys, kv_heads)
    if kind == "prefill":
        return chunk
    decode = core("attention_decode", powers(0, 7), heads, np.ones(ROWS), np.exp2(draw.uniform(4, 13, ROWS)), kv_heads)
    return MixedAttention("mixed", (replace(chunk, sequences=np.ones(ROWS)), decode))


def made(kind: str, *, noise: float = 0.0) -> tuple[Samples, dict[str, float]]:
    """Return times that a form with known parameters gives, with normal scatter of its logarithm."""
    draw = np.random.default_rng(7)
    operator = shapes(kind, draw)
    values = {name: parameter.start for name, parameter in parameters(FORMS[kind]).items()} | TRUTH[kind]
    form = build(FORMS[kind], values | CONSTANTS[kind])
    seconds = np.asarray(form.time(operator, Machine(DEVICE, FRAMEWORK, DEVICE.processors)).seconds)
    part = OperatorRows(operator.family, np.arange(ROWS), DEVICE, (operator,))
    parts = operator.parts[0] if isinstance(operator, MixedAttention) else operator
    groups = np.array([f"{a:g}x{b:g}" for a, b in zip(parts.heads, parts.kv_heads, strict=True)], dtype=np.object_)
    times = seconds * np.exp(noise * draw.standard_normal(ROWS))
    return Samples(operator.family, (part,), times, groups, Calibration(), FRAMEWORK), values


@pytest.mark.parametrize("kind", ["prefill", "varlen"])  # of decoding: with noise, below
def test_known_parameters_come_back(kind: str) -> None:
    samples, values = made(kind)
    fitted = fit_family(samples, Recipe(kind, CONSTANTS[kind]))
    assert fitted.errors["form"].mean < 0.02
    assert fitted.errors["residual"].mean < 0.02
    for name in ("launch", "compute_efficiency"):
        assert fitted.estimate.values[name] == pytest.approx(values[name], rel=0.1), name


def test_head_configurations_that_were_held_out_are_predicted_within_the_noise() -> None:
    samples, values = made("decode", noise=0.03)
    fitted = fit_family(samples, Recipe("decode", CONSTANTS["decode"]))
    for name in ("launch", "compute_efficiency", "hbm_efficiency"):
        assert fitted.estimate.values[name] == pytest.approx(values[name], rel=0.1), name
    assert 0.015 < fitted.errors["residual"].mean < 0.045
    assert fitted.errors["roofline"].mean > 5 * fitted.errors["residual"].mean
    assert abs(fitted.errors["residual"].bias) < 0.02


@pytest.mark.usefixtures("five_folds")
def test_a_residual_learns_what_the_form_leaves_out() -> None:
    samples, _ = made("decode")
    operator = samples.parts[0].operators[0]
    assert isinstance(operator, AttentionKernel)
    wavy = replace(samples, seconds=samples.seconds * np.exp(0.3 * np.sin(np.log2(operator.kv_len) / 2)))
    fitted = fit_family(wavy, Recipe("decode", CONSTANTS["decode"]))
    assert fitted.errors["residual"].mean < 0.5 * fitted.errors["form"].mean
    assert len(fitted.residual.weights) <= 64


def test_rows_of_a_head_configuration_are_held_out_together() -> None:
    samples, _ = made("prefill")
    folds = fold_numbers(samples.groups)
    assert all(len(set(folds[samples.groups == group])) == 1 for group in set(samples.groups))


@pytest.mark.usefixtures("five_folds")
def test_as_many_groups_as_folds_are_held_out_whole_and_fewer_row_by_row() -> None:
    five, four = (np.repeat(np.array(list(names), dtype=np.object_), 30) for names in ("abcde", "abcd"))
    folds = fold_numbers(five)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    assert all(len(set(folds[five == group])) == 1 for group in "abcde")
    rows = fold_numbers(four)
    assert np.bincount(rows).tolist() == [24] * 5
    assert all(len(set(rows[four == group])) > 1 for group in "abcd")


def test_some_rows_of_a_mixed_kernel_keep_their_own_parts() -> None:
    samples, _ = made("varlen")
    some = samples.take(samples.groups == samples.groups[0])
    (part,) = some.parts
    (operator,) = part.operators
    assert isinstance(operator, MixedAttention)
    assert all(len(np.atleast_1d(each.kv_len)) == len(some) for each in operator.parts)


def test_the_spread_is_narrow_near_a_support_and_whole_far_from_all() -> None:
    at_128_keys = Residual(("kv_len",), np.array([2.0]), np.array([[7.0]]), np.array([0.1]))
    nearness = Nearness(near=0.5, far=1.5, share=0.4)
    distances = np.asarray(at_128_keys.distance((np.array([7.0, 8.0, 9.0, 15.0]),)))
    assert nearness.width(distances).tolist() == pytest.approx([0.4, 0.4, 0.7, 1.0])
