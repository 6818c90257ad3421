"""The ledger: what one device holds, on the fullest rank."""

from __future__ import annotations

import pytest
from builders import (
    BF16,
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    FP8,
    GPT_22B,
    GPT_LAYER,
    MOE_MODEL,
    PREFILL,
    STEP,
    UNFUSED,
    scenario,
    with_device,
    with_level,
)

import costmodel
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.training.step_model import training_context
from costmodel.cost.calibration import Calibration
from costmodel.records import fields, replace
from costmodel.workload.architecture import Attention, DenseFfn
from costmodel.workload.counting import kv_bytes_per_token
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import SETS
from costmodel.workload.scenario import Communication, Parallelism, Scenario
from costmodel.workload.schedules.catalogue import folded_order

GIB = 2**30


def held(of: Scenario) -> Ledger:
    ledger = ledger_of(of)
    assert ledger is not None
    return ledger


def parts(ledger: Ledger) -> dict[str, float]:
    return {name: float(getattr(ledger, name)) for name in fields(ledger) if name != "capacity"}


# ---- the flagship ---------------------------------------------------------------------------------------------------


def test_v3_takes_about_73_gb_of_a_device_in_training(v3: costmodel.Workload) -> None:
    memory = v3.evaluate("training").point().memory
    assert memory is not None
    assert sum(memory.values()) == pytest.approx(73e9, rel=0.1)


def test_v3_does_not_fit_in_80_gb_without_recomputation() -> None:
    point = costmodel.load("deepseek_v3", set={"scenarios.training.recompute": "none"}).evaluate("training").point()
    assert point.memory is not None
    assert sum(point.memory.values()) > 80e9


@pytest.mark.parametrize(
    ("recompute", "sequence_parallel", "published"), [("none", False, 59.2), ("selective", True, 9.56)]
)
def test_megatron_22b_keeps_the_published_activations(
    recompute: str, sequence_parallel: bool, published: float
) -> None:
    """Korthikanti et al., arXiv 2205.05198: 48 layers, TP 8, micro-batch 4, the embedding's and head's own aside."""
    parallel = Parallelism(tp=8.0, sequence_parallel=sequence_parallel)
    step = replace(STEP, global_batch=4.0, micro_batch=4.0, recompute=SETS[recompute])
    of = scenario(step, GPT_22B, parallel, framework=UNFUSED)
    ends = 2 * 4 * 2048 * 6144 * 2 + 4 * 4 * 2048 * 51_200 / 8  # final norm and head input, logits in FP32
    assert held(of).activations / GIB == pytest.approx(published, abs=ends / GIB + 0.06)


@pytest.mark.parametrize(
    ("recompute", "sequence_parallel", "published"), [("none", False, 66.84), ("selective", True, 12.35)]
)
def test_megatron_175b_keeps_the_published_memory_under_an_interleaved_schedule(
    recompute: str, sequence_parallel: bool, published: float
) -> None:
    """Figure 1 of the same: 96 layers of 12,288, TP 8, PP 8, three virtual stages, 45.56 GiB of parameters and states.

    The first rank, which is the fullest, has the embedding beside its twelve layers.
    """
    layer = replace(
        GPT_LAYER, repeat=96, mixer=Attention(96.0, 96.0, 128.0, 128.0, rotary=False, bias=True),
        ffn=DenseFfn(49_152.0, gated=False, bias=True),
    )  # fmt: skip
    model = replace(GPT_22B, hidden=12_288.0, layers=(layer,))
    parallel = Parallelism(tp=8.0, pp=8.0, virtual=3.0, sequence_parallel=sequence_parallel)
    step = replace(STEP, schedule="interleaved", recompute=SETS[recompute], zero=0)
    ledger = held(scenario(step, model, parallel, framework=UNFUSED))
    assert ledger.activations / GIB == pytest.approx(published, abs=0.01)
    assert (ledger.weights + ledger.gradients + ledger.optimizer) / GIB == pytest.approx(45.56, rel=0.05)


# ---- training -------------------------------------------------------------------------------------------------------

LAYOUT = Parallelism(dp=8.0, ep=8.0)


def test_parts_are_nonnegative_and_add_up() -> None:
    for plan in (STEP, PREFILL, DECODE):
        ledger = held(scenario(plan, MOE_MODEL, LAYOUT, communication=Communication(dispatch="fp8")))
        assert min(parts(ledger).values()) >= 0
        assert ledger.total == pytest.approx(sum(parts(ledger).values()))


def test_zero_stages_split_states_then_gradients_then_weights() -> None:
    ledgers = [held(scenario(replace(STEP, zero=zero), DENSE_MODEL, Parallelism(dp=8.0))) for zero in range(4)]
    weights, gradients, states = (
        [parts(ledger)[name] for ledger in ledgers] for name in ("weights", "gradients", "optimizer")
    )
    assert weights == pytest.approx([weights[0], weights[0], weights[0], weights[0] / 8])
    assert gradients == pytest.approx([gradients[0], gradients[0], gradients[0] / 8, gradients[0] / 8])
    assert states == pytest.approx([states[0], states[0] / 8, states[0] / 8, states[0] / 8])
    totals = [float(ledger.total) for ledger in ledgers]
    assert totals == sorted(totals, reverse=True)


def test_states_of_bf16_training_take_18_bytes_a_parameter() -> None:
    ledger = held(scenario(replace(STEP, zero=0), DENSE_MODEL))
    parameters = ledger.weights / 2
    assert ledger.gradients == 4 * parameters
    assert ledger.optimizer == 12 * parameters


def test_fully_split_weights_of_experts_are_shared_by_fewer_ranks() -> None:
    """A routed expert stands on dp/ep ranks, everything else on all dp."""
    plain, split = (held(scenario(replace(STEP, zero=zero), MOE_MODEL, LAYOUT)) for zero in (2, 3))
    experts = 6 * 64 / 8 * 3 * 1024 * 512 * 2 + 64 / 8 * 3 * 1024 * 512 * 2  # six layers, and the one of MTP
    assert split.weights == pytest.approx((plain.weights - experts) / 8 + experts, rel=1e-9)


def test_the_first_rank_of_1f1b_keeps_a_chunk_for_every_stage() -> None:
    even = replace(DENSE_MODEL, vocabulary=64.0)
    one, four = (
        held(scenario(replace(STEP, global_batch=8.0), even, Parallelism(pp=pp))).activations for pp in (1.0, 4.0)
    )
    assert four == pytest.approx(one, rel=0.02)  # four chunks of a quarter of the layers


@pytest.mark.parametrize(
    ("schedule", "virtual", "published"),
    [
        ("gpipe", 1.0, 16 / 4),  # every micro-batch
        ("interleaved", 2.0, 1 + 3 / (4 * 2)),  # 1 + (p-1)/(p*v)
        ("combined-1f1b", 2.0, 1 + 1 / 2),  # 1 + 1/v
        ("zb-h1", 1.0, 1.0),
        ("zb-v", 2.0, 1.0),
        ("dualpipe", 1.0, 5 / 4),  # PP + 1 chunks
        ("dualpipe-v", 2.0, 9 / 8),  # 2*PP + 1 chunks of half a stage
    ],
)
def test_activations_compare_with_those_of_1f1b_as_published(schedule: str, virtual: float, published: float) -> None:
    even = replace(DENSE_MODEL, vocabulary=64.0, layers=(replace(DENSE_MODEL.layers[0], repeat=80),))
    plain = replace(STEP, global_batch=16.0)
    once = held(scenario(plain, even, Parallelism(pp=4.0))).activations
    other = held(scenario(replace(plain, schedule=schedule), even, Parallelism(pp=4.0, virtual=virtual))).activations
    assert other / once == pytest.approx(published, rel=0.02)  # the ends keep a little


def test_dualpipe_holds_every_stage_twice() -> None:
    step = replace(STEP, global_batch=16.0, zero=0)
    once = held(scenario(step, DENSE_MODEL, Parallelism(pp=4.0)))
    twice = held(scenario(replace(step, schedule="dualpipe"), DENSE_MODEL, Parallelism(pp=4.0)))
    layers = 8 * (1024 * 1536 + 1024 * 1024 + 3 * 1024 * 2816 + 2048) * 2
    ends = 32_000 * 1024 * 2
    assert once.weights == pytest.approx(layers / 4 + ends, rel=1e-3)  # a quarter of the layers, and one end
    assert twice.weights == pytest.approx(2 * layers / 4 + 2 * ends, rel=1e-3)


@pytest.mark.parametrize(("schedule", "virtual"), [("interleaved", 2.0), ("zb-v", 2.0), ("dualpipe-v", 2.0)])
def test_virtual_stages_hold_the_model_once(schedule: str, virtual: float) -> None:
    """Four ranks of two stages with a layer each; the fullest has the embedding, under a V also the head."""
    plan = replace(STEP, schedule=schedule, global_batch=16.0, zero=0)
    layers = 8 * (1024 * 1536 + 1024 * 1024 + 3 * 1024 * 2816 + 2048) * 2
    ends = (1 if schedule == "interleaved" else 2) * 32_000 * 1024 * 2
    ledger = held(scenario(plan, DENSE_MODEL, Parallelism(pp=4.0, virtual=virtual)))
    assert ledger.weights == pytest.approx(layers / 4 + ends, rel=1e-3)


def test_chunks_of_unequal_stages_weigh_what_their_layers_keep() -> None:
    step = replace(STEP, schedule="dualpipe", global_batch=16.0, stages=(3, 2, 2, 1))
    even = replace(DENSE_MODEL, vocabulary=64.0)
    of = scenario(step, even, Parallelism(pp=4.0))
    work, schedule = model_work(training_context(of, step)), folded_order("dualpipe", 4, 1, 16)
    layer = sum(float(item.size) for item in work.layers[0].saved)
    ends = sum(float(item.size) for item in (*work.embedding.saved, *work.head.saved))
    # Rank 0 holds stages 0 and 3 (three layers and one, with the head), rank 1 the two in the middle.
    outer = max(3 * first * layer + last * (layer + ends) for first, last in schedule.in_flight(0))
    inner = max(2 * layer * sum(state) for state in schedule.in_flight(1))
    assert outer > inner
    assert held(of).activations == pytest.approx(max(outer, inner))


def test_the_head_keeps_its_input_and_its_logits_in_fp32() -> None:
    """After the final norm's input come the projection's input and one FP32 logit a token and word."""
    saved = model_work(training_context(scenario(STEP, DENSE_MODEL, Parallelism(tp=2.0)), STEP)).head.saved
    assert {item.name: item.size for item in saved} == {
        "final norm input": 2048 * 1024 * 2,
        "vocabulary projection input": 2048 * 1024 * 2,
        "logits": 2048 * 32_000 / 2 * 4,
    }


def test_the_fullest_rank_is_reported() -> None:
    front = replace(STEP, stages=(5, 1, 1, 1), global_batch=8.0)
    even = replace(STEP, stages=(2, 2, 2, 2), global_batch=8.0)
    loaded, balanced = (held(scenario(plan, DENSE_MODEL, Parallelism(pp=4.0))) for plan in (front, even))
    assert loaded.total > balanced.total


def test_one_rank_without_expert_parallelism_needs_no_landing_buffers() -> None:
    assert held(scenario(STEP, MOE_MODEL)).communication == 0
    assert held(scenario(STEP, MOE_MODEL, LAYOUT)).communication > 0


def test_a_tied_head_on_another_stage_needs_its_own_copy() -> None:
    """With one stage the table is kept once; with two the last stage multiplies by a copy of it."""
    tied = replace(DENSE_MODEL, tied_embeddings=True, vocabulary=1_000_000.0)
    step = replace(STEP, stages=(1, 7), global_batch=8.0)
    table = 1_000_000 * 1024 * 2
    layer = (1024 * 1536 + 1024 * 1024 + 3 * 1024 * 2816 + 2048) * 2
    ledger = held(scenario(step, tied, Parallelism(pp=2.0)))
    assert ledger.weights == pytest.approx(table + 7 * layer, rel=0.01)


# ---- inference ------------------------------------------------------------------------------------------------------


def test_the_cache_holds_the_mean_context_of_every_request() -> None:
    ledger = held(scenario(DECODE, DENSE_MODEL))
    assert ledger.kv_cache == 32 * (1024 + 128) * kv_bytes_per_token(DENSE_MODEL)
    assert ledger.gradients == ledger.optimizer == 0


def test_tensor_parallel_ranks_serve_their_requests_together_and_split_only_caches_of_heads() -> None:
    heads, latent = (
        [float(held(scenario(DECODE, model, Parallelism(tp=tp))).kv_cache) for tp in (1.0, 4.0)]
        for model in (DENSE_MODEL, MOE_MODEL)
    )
    assert heads[1] == heads[0]  # four times the requests, a quarter of each
    assert latent[1] == 4 * latent[0]


def test_activations_of_decoding_do_not_hold_the_cache_a_second_time() -> None:
    short, long = (
        held(scenario(replace(DECODE, input_tokens=tokens), DENSE_MODEL)).activations for tokens in (1024.0, 65_536.0)
    )
    assert short == long


def test_weights_in_a_narrow_format_carry_a_scale_a_square_block_and_norms_stay_wide() -> None:
    narrow = replace(FP8, weights="fp8", master=None)
    wide, small = (held(scenario(DECODE, DENSE_MODEL, precision=precision)).weights for precision in (BF16, narrow))
    matrices = 8 * (1024 * 1536 + 1024 * 1024 + 3 * 1024 * 2816)
    assert wide - small == pytest.approx(matrices * (2 - 1 - 4 / 128**2))


def test_the_largest_batch_fits_and_one_more_pair_does_not() -> None:
    base = scenario(DECODE, DENSE_MODEL)
    most = evaluate_point(base, Calibration()).metrics["max_batch_per_device"]
    assert most is not None
    even = most - most % 2

    def fits(batch: float) -> bool:
        return evaluate_point(replace(base, plan=replace(DECODE, batch_per_device=batch)), Calibration()).fits

    assert fits(even)
    assert not fits(even + 2)


@pytest.mark.parametrize("plan", [STEP, PREFILL, DECODE], ids=["training", "prefill", "decode"])
def test_a_scenario_fits_up_to_the_last_byte(plan: object) -> None:
    chosen = next(each for each in (STEP, PREFILL, DECODE) if each is plan)
    base = scenario(chosen, DENSE_MODEL)
    total = float(held(base).total)

    def point(capacity: float) -> tuple[bool, float | None]:
        small = with_device(CLUSTER, with_level(DEVICE, "hbm", 2e12, capacity))
        result = evaluate_point(replace(base, cluster=small), Calibration())
        return result.fits, next(iter(result.metrics.values()))

    fits, headline = point(total)
    assert fits
    assert headline is not None
    assert point(total - 1) == (False, None)
