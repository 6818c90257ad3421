"""Speculative decoding: expected tokens, what verifying and drafting cost, and when it pays."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DECODE, DENSE_MODEL, FP8, MOE_MODEL, context, scenario
from hypothesis import given
from hypothesis import strategies as st

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture, Mtp
from costmodel.workload.layers import draft_work, model_work
from costmodel.workload.operators import AttentionKernel, Gemm
from costmodel.workload.passes import Pass, pass_work
from costmodel.workload.plans import Decode, Speculative, tokens_per_step
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

LAYOUT = Parallelism(dp=16.0, ep=16.0)
DENSE_WITH_MTP = replace(DENSE_MODEL, mtp=Mtp(1))


def of(speculative: Speculative | None, model: Architecture = MOE_MODEL, batch: float = 32.0) -> Scenario:
    layout = LAYOUT if model is MOE_MODEL else Parallelism()
    return scenario(replace(DECODE, speculative=speculative, batch_per_device=batch), model, layout, FP8)


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def tpot(chosen: Scenario) -> float:
    value = point(chosen).metrics["tpot"]
    assert value is not None
    return value


@given(depth=st.integers(1, 8), acceptance=st.floats(0.0, 0.999))
def test_expected_tokens_are_leviathan_s(depth: int, acceptance: float) -> None:
    expected = (1 - acceptance ** (depth + 1)) / (1 - acceptance)
    assert Speculative(float(depth), acceptance).tokens_per_step == pytest.approx(expected, rel=1e-9)


def test_expected_tokens_at_the_ends_and_on_a_grid() -> None:
    assert Speculative(3.0, 1.0).tokens_per_step == 4.0
    assert Speculative(3.0, 0.0).tokens_per_step == 1.0
    assert tokens_per_step(None) == 1.0
    grid = Speculative(np.array([1.0, 2.0, 3.0]), 0.5).tokens_per_step
    np.testing.assert_allclose(grid, [1.5, 1.75, 1.875])


def test_simulated_acceptance_agrees_with_the_expectation() -> None:
    """Draw which drafts are kept: a step gives those before the first refused one, and one more."""
    kept = np.random.default_rng(0).random((200_000, 4)) < 0.7
    tokens = 1 + np.cumprod(kept, axis=1).sum(axis=1)
    assert float(tokens.mean()) == pytest.approx(Speculative(4.0, 0.7).tokens_per_step, rel=5e-3)


def test_verifying_takes_the_rows_of_all_drafted_tokens_and_reads_the_cache_once() -> None:
    plain = context(DENSE_MODEL, phase="decode", sequences=8.0, new_tokens=1.0, kv_len=1000.0)
    verify = replace(plain, new_tokens=3.0, kv_len=1002.0)
    one, three = (model_work(each) for each in (plain, verify))
    for before, after in zip(one.layers[0].forward, three.layers[0].forward, strict=True):
        if isinstance(before, Gemm):
            assert isinstance(after, Gemm)
            assert after.m == 3 * before.m
    core, wide = (
        next(each for each in work.layers[0].forward if isinstance(each, AttentionKernel)) for work in (one, three)
    )
    assert wide.q_len == 3.0
    assert wide.qk_pairs == 1000 + 1001 + 1002
    query = 8 * 16 * 128 * 2  # bytes of q and o, a new token
    assert wide.traffic - 3 * query == pytest.approx((core.traffic - query) * 1.002)
    head = [next(each for each in work.head.forward if isinstance(each, Gemm)) for work in (one, three)]
    assert [each.m for each in head] == [8.0, 24.0]


def test_drafts_run_over_all_verified_tokens_first_and_over_one_token_then() -> None:
    verify = context(MOE_MODEL, phase="decode", sequences=8.0, new_tokens=4.0, kv_len=1003.0)
    work = pass_work(Pass((verify,), 1, drafts=(1.0, 1.0, 1.0)))
    assert [count for count, _ in work.drafts] == [1, 2]
    rows = [
        [each.m for each in draft.forward if isinstance(each, Gemm) and each.name.endswith("mtp projection")]
        for _, draft in work.drafts
    ]
    assert rows == [[32.0], [8.0]]
    logits = [
        [each.m for each in draft.forward if isinstance(each, Gemm) and each.name.endswith("vocabulary projection")]
        for _, draft in work.drafts
    ]
    assert logits == [[8.0], [8.0]]
    assert {each.name.partition(": ")[0] for _, draft in work.drafts for each in draft.forward} == {"draft"}
    assert draft_work(verify).parameters


def test_a_step_with_prompts_alone_drafts_for_them_also_as_one_point_of_many() -> None:
    """One request in flight: its prompt has no other that decodes beside it, and a module's experts have its token."""

    def rows(decodes: float | np.ndarray) -> list[list[float]]:
        decode = context(MOE_MODEL, phase="decode", sequences=decodes, new_tokens=4.0, kv_len=1003.0)
        prompt = context(MOE_MODEL, phase="prefill", sequences=2.0, new_tokens=500.0, kv_len=500.0)
        _, (count, further) = pass_work(Pass((decode, prompt), 1, drafts=(1.0, 1.0, 1.0))).drafts
        assert count == 2
        found = [each.m for each in further.forward if isinstance(each, Gemm) and each.name.endswith("mtp projection")]
        cores = [each for each in further.forward if isinstance(each, AttentionKernel)]
        return [np.asarray(each).tolist() for each in (*found, *(core.qk_pairs for core in cores))]

    assert rows(0.0)[0] == 2.0
    assert rows(8.0)[0] == 8.0
    many = rows(np.array([0.0, 8.0]))
    assert [[each[place] for each in many] for place in (0, 1)] == [rows(0.0), rows(8.0)]


def test_a_draft_that_is_never_kept_only_costs() -> None:
    for batch in (2.0, 256.0):
        assert tpot(of(Speculative(1.0, 0.0), batch=batch)) > tpot(of(None, batch=batch))


def test_time_per_token_falls_with_acceptance_and_steps_grow_with_depth() -> None:
    by_acceptance = [tpot(of(Speculative(2.0, rate))) for rate in (0.0, 0.3, 0.9, 1.0)]
    assert by_acceptance == sorted(by_acceptance, reverse=True)
    steps = [
        tpot(of(drafts)) * float(drafts.tokens_per_step)
        for drafts in (Speculative(float(depth), 0.5) for depth in (1, 2, 4))
    ]
    assert steps == sorted(steps)


def test_drafting_pays_most_where_weights_bind() -> None:
    """With short contexts: a large batch is bound by arithmetic, of which verifying two tokens takes twice as much."""
    gains = []
    for batch in (2.0, 8192.0):
        short = Decode(batch, 16.0, 16.0)
        drafting = replace(short, speculative=Speculative(1.0, 0.9))
        gains.append(tpot(scenario(short, DENSE_WITH_MTP)) / tpot(scenario(drafting, DENSE_WITH_MTP)))
    assert 1.0 < gains[0] < 1.9
    assert gains[1] < 1.0


def test_a_model_without_a_module_cannot_draft() -> None:
    broken = [rule for rule in rules(of(Speculative(1.0, 0.8), DENSE_MODEL)) if not rule.holds]
    assert [rule.field for rule in broken] == ["speculative"]
    assert "no MTP module" in broken[0].message


def test_the_ledger_has_the_module_s_weights_and_cache() -> None:
    plain, drafting = (point(of(each)).memory for each in (None, Speculative(3.0, 0.8)))
    assert plain is not None
    assert drafting is not None
    assert drafting["weights"] > plain["weights"]
    keys = 1024 + 128
    assert drafting["kv_cache"] / plain["kv_cache"] == pytest.approx(9 / 8 * (keys + 3) / keys)


def test_the_breakdown_with_drafts_sums_to_the_time_per_token() -> None:
    result = point(of(Speculative(2.0, 0.8)))
    assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["tpot"], rel=1e-12)
    assert any(line.name.startswith("draft: ") for line in result.breakdown)


def test_deepseek_s_claim_of_1_8_times_the_tokens_is_the_bound_that_overheads_approach(v3: costmodel.Workload) -> None:
    """One module, kept in 80 to 90 % of cases: 1.8 to 1.9 tokens a step, less what drafting and verifying cost."""
    chosen = v3.scenario("decode")
    assert isinstance(chosen.plan, Decode)
    # A small batch, as when a user waits: weights are read once for both tokens.
    few = replace(chosen, plan=replace(chosen.plan, batch_per_device=8.0))
    for acceptance in (0.8, 0.9):
        drafting = replace(few, plan=replace(few.plan, speculative=Speculative(1.0, acceptance)))
        gain = tpot(few) / tpot(drafting)
        assert 1.5 < gain < 1 + acceptance
