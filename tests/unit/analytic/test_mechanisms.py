"""What systems add to plain layers: copied caches, tokens that are moved, heads that choose, repeated passes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from builders import BF16, DENSE_MODEL, FRAMEWORK, GQA, LATENT, PREFILL, context, scenario, spreads

from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.records import replace
from costmodel.study.published.predictions import counted_work
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    Convolution,
    HeadGroup,
    HeadRoute,
    KernelTraits,
    Layer,
    Mixer,
    NoFfn,
)
from costmodel.workload.counting import attention_flop_per_token, kv_bytes_per_token, parameter_count
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm, Operator
from costmodel.workload.patterns import ChunkTopK, SinkRecent
from costmodel.workload.plans import Decode, Denoising
from costmodel.workload.scenario import Framework, Parallelism
from costmodel.workload.validity import rules

E, D = 2, 1024  # bytes of an element, width of the stream
H, G, Q = 16, 4, 64  # query heads, key-value heads, width of a head
CONCAT = replace(FRAMEWORK, kv_layout="concat")
CALIBRATION = spreads(1.0, 1.5, 2.0)


def model(mixer: Mixer, **words: object) -> Architecture:
    layer = replace(DENSE_MODEL.layers[0], mixer=mixer)
    return replace(DENSE_MODEL, layers=(layer,), **words)  # type: ignore[arg-type]


def work(architecture: Architecture, **view: object) -> ModelWork:
    return model_work(replace(context(architecture, phase="prefill"), **view))  # type: ignore[arg-type]


def forward(mixer: Mixer, **view: object) -> tuple[Operator, ...]:
    return work(model(mixer), **view).layers[0].forward


def traffic(operators: Iterable[Operator], name: str) -> float:
    return float(sum(one.traffic for one in operators if isinstance(one, Elementwise) and one.name == name))


def flop(operators: Iterable[Operator], name: str) -> float:
    return float(sum(one.flop for one in operators if isinstance(one, Gemm | AttentionKernel) and one.name == name))


# ---- caches ---------------------------------------------------------------------------------------------------------


def decoding(mixer: Mixer, framework: Framework = FRAMEWORK, **view: object) -> tuple[Operator, ...]:
    step = {"phase": "decode", "new_tokens": 1.0, "kv_len": 100.0, "sequences": 3.0, "framework": framework}
    return forward(mixer, **step | view)


def test_a_concatenated_cache_is_read_and_written_whole_in_every_step() -> None:
    copied = 0
    for _sequence in range(3):
        for _token in range(99):  # those before the new one
            copied += 2 * G * 2 * Q * E  # a key and a value of each head: read, and written elsewhere
    assert traffic(decoding(GQA, CONCAT), "kv cache concatenation") == copied
    assert traffic(decoding(LATENT, CONCAT), "kv cache concatenation") == 3 * 99 * 2 * (128 + 32) * E


def test_only_decoding_steps_copy_and_only_what_patterns_keep() -> None:
    assert traffic(decoding(GQA), "kv cache concatenation") == 0
    assert traffic(forward(GQA, framework=CONCAT), "kv cache concatenation") == 0
    short = replace(GQA, head_groups=(HeadGroup(1.0, SinkRecent(sink=2.0, recent=8.0)),))
    assert traffic(decoding(short, CONCAT), "kv cache concatenation") == 3 * 10 * 2 * G * 2 * Q * E


def test_ranks_copy_their_own_heads_and_share_of_the_context() -> None:
    whole = traffic(decoding(GQA, CONCAT), "kv cache concatenation")
    for parallel in (Parallelism(tp=2.0), Parallelism(cp=2.0)):
        assert traffic(decoding(GQA, CONCAT, parallel=parallel), "kv cache concatenation") == whole / 2


def test_attention_to_later_tokens_keeps_no_cache_unless_told() -> None:
    both = replace(GQA, causal=False)
    assert traffic(forward(GQA), "kv cache write") > 0
    assert traffic(forward(both), "kv cache write") == 0
    assert kv_bytes_per_token(model(both)) == 0
    kept = replace(both, keeps=True)
    assert kv_bytes_per_token(model(kept)) == kv_bytes_per_token(model(GQA)) > 0
    assert traffic(forward(kept), "kv cache write") == traffic(forward(GQA), "kv cache write")


def test_offloaded_keys_are_in_the_host_s_ledger() -> None:
    """All tokens' keys and values lie on the host; the device has those attended to, and half a token a chunk."""

    def ledger(*, offload: bool) -> tuple[float, float]:
        mixer = replace(GQA, head_groups=(HeadGroup(1.0, ChunkTopK(chunk=64.0, attend=256.0, offload=offload)),))
        plan = Decode(batch_per_device=2.0, input_tokens=4096.0, output_tokens=0.0)
        found = ledger_of(scenario(plan, model(mixer)))
        assert found is not None
        return float(found.kv_cache), float(found.host_cache)

    token = 8 * 2 * G * 2 * Q * E  # of two sequences, in eight layers
    assert ledger(offload=True) == (token * (256 + 4096 / 128), token * 4096)
    assert ledger(offload=False) == (token * (4096 + 4096 / 128), 0)


# ---- tokens that are moved, results that are edited -----------------------------------------------------------------


def test_a_permutation_reads_and_writes_queries_keys_values_and_results() -> None:
    mixer = replace(GQA, causal=False, kernel=KernelTraits(permuted=True))
    found = work(model(mixer), new_tokens=64.0, kv_len=64.0).layers[0]
    once = 64 * (H * Q + G * Q + G * Q + H * Q) * E
    assert traffic(found.forward, "token permutation") == 2 * once
    assert traffic(found.input_gradient, "token permutation gradient") == 2 * once
    assert traffic(decoding(mixer), "token permutation") == 0


def test_an_edit_of_heads_is_a_pass_over_their_results_in_every_phase() -> None:
    mixer = replace(GQA, kernel=KernelTraits(head_edit=True))
    assert traffic(forward(mixer, new_tokens=64.0, kv_len=64.0), "head edit") == 2 * 64 * H * Q * E
    assert traffic(decoding(mixer), "head edit") == 2 * 3 * H * Q * E
    assert flop(forward(mixer), "attention core") == flop(forward(GQA), "attention core")


def test_convolutions_on_channels_first_are_transposed_before_and_after() -> None:
    """16 results of 8 channels, each of 2 x 2 places of 4 channels: all are read and written once."""
    first = Convolution(kernel=3.0, inputs=4.0, outputs=8.0, stride=2.0, channels_first=True)
    found = forward(first, new_tokens=16.0, kv_len=16.0)
    assert traffic(found, "channel transposition") == 2 * 16 * (4 * 4 + 8) * E
    last = forward(replace(first, channels_first=False), new_tokens=16.0, kv_len=16.0)
    assert traffic(last, "channel transposition") == 0
    assert flop(last, "convolution") == flop(found, "convolution") == 2 * 16 * 9 * 4 * 8


# ---- heads that choose their tokens ---------------------------------------------------------------------------------

CHOOSING = replace(
    GQA, kv_heads=16.0, route=HeadRoute(0.0, 16.0, None, tokens=0.5), kernel=KernelTraits(realised="gathered")
)


def test_a_head_that_chooses_half_of_the_tokens_sees_a_quarter_of_the_pairs() -> None:
    plain = replace(GQA, kv_heads=16.0)
    pairs = sum(1 for query in range(32) for key in range(32) if key <= query)
    found = forward(CHOOSING, new_tokens=64.0, kv_len=64.0)
    assert flop(found, "attention core") == 2 * H * pairs * 2 * Q
    assert flop(found, "qkv projection") == flop(forward(plain, new_tokens=64.0, kv_len=64.0), "qkv projection") / 2
    assert traffic(found, "patch gather") == traffic(found, "patch scatter") == 2 * 32 * H * D * E
    assert kv_bytes_per_token(model(CHOOSING)) == kv_bytes_per_token(model(plain)) / 2
    assert parameter_count(model(CHOOSING)).total == parameter_count(model(plain)).total + 8 * D * (16 + 2)
    assert attention_flop_per_token(model(CHOOSING), 64.0, causal=False) == (
        attention_flop_per_token(model(plain), 64.0, causal=False) / 4
    )


def test_heads_for_all_tokens_are_a_core_beside_those_that_choose() -> None:
    mixer = replace(CHOOSING, route=HeadRoute(4.0, 12.0, None, tokens=0.25))
    found = {one.name: one for one in forward(mixer, new_tokens=64.0, kv_len=64.0) if isinstance(one, AttentionKernel)}
    assert found["attention core (shared)"].heads == 4
    assert found["attention core (shared)"].qk_pairs == 64 * 65 / 2
    assert found["attention core"].heads == 12
    assert found["attention core"].qk_pairs == 16 * 17 / 2


def test_masked_heads_compute_all() -> None:
    masked = replace(CHOOSING, kernel=KernelTraits(realised="masked"))
    plain = replace(GQA, kv_heads=16.0)
    assert flop(forward(masked), "attention core") == flop(forward(plain), "attention core")


# ---- models of features, formats of branches ------------------------------------------------------------------------


def test_features_are_not_looked_up_and_the_head_sees_the_last_layer_s_tokens() -> None:
    shrunk = Layer(1, Attention(4.0, 4.0, 64.0, 64.0, causal=False), NoFfn(), scale=0.25)
    layers = (DENSE_MODEL.layers[0], shrunk)
    words, pixels = (work(replace(DENSE_MODEL, layers=layers, features=of)) for of in (False, True))
    assert not pixels.embedding.forward
    assert not pixels.embedding.parameters
    assert traffic(pixels.head.forward, "final norm") == traffic(words.head.forward, "final norm") / 4
    gone = DENSE_MODEL.vocabulary * D
    counts = [parameter_count(replace(DENSE_MODEL, layers=layers, features=of)).total for of in (False, True)]
    assert counts[0] - counts[1] == gone


def test_branches_of_another_format_cast_their_input_and_are_narrow_inside() -> None:
    """Under autocast norms read and write FP32, one cast follows, and what products pass on has two bytes."""
    wide = replace(BF16, residual="fp32")
    auto = replace(wide, branches="bf16")
    narrow, cast = forward(GQA, precision=BF16), forward(GQA, precision=auto)
    assert traffic(cast, "attention input cast") == traffic(cast, "ffn input cast") == 1024 * D * (4 + 2)
    assert traffic(cast, "attention norm") == 2 * traffic(narrow, "attention norm")
    for name in ("rotary", "ffn activation", "kv cache write"):
        assert traffic(cast, name) == traffic(narrow, name)
    casts = [one.name for one in cast if isinstance(one, Elementwise) and one.name.endswith("cast")]
    assert casts == ["attention input cast", "ffn input cast"]
    split = forward(GQA, precision=auto, parallel=Parallelism(tp=2.0))
    assert {one.size for one in split if isinstance(one, Collective) and one.kind == "all_reduce"} == {1024 * D * 2}


# ---- diffusion ------------------------------------------------------------------------------------------------------


def headline(denoising: Denoising | None, tokens: float = 4096.0) -> float:
    plan = replace(PREFILL, micro_batches=1, tokens_per_device=tokens, denoising=denoising)
    return float(evaluate(scenario(plan), CALIBRATION).metrics(None)["ttft"])  # type: ignore[arg-type]


def test_steps_repeat_a_pass() -> None:
    assert headline(Denoising(20.0)) == pytest.approx(20 * headline(None))
    plan = replace(PREFILL, micro_batches=1, denoising=Denoising(20.0))
    found = evaluate(scenario(plan), CALIBRATION)
    assert sum(line.time for line in found.breakdown()) == pytest.approx(headline(Denoising(20.0)))
    once = counted_work(scenario(replace(plan, denoising=None)))["total"]
    assert counted_work(scenario(plan))["total"]["flop"] == pytest.approx(20 * once["flop"])


def test_branches_are_more_sequences_and_images_are_counted_once() -> None:
    assert headline(Denoising(1.0, branches=2.0)) == pytest.approx(headline(None, 2 * 4096.0))
    plan = replace(PREFILL, micro_batches=1, denoising=Denoising(10.0, branches=2.0))
    rate = evaluate(scenario(plan), CALIBRATION).metrics(None)["tokens_per_second_per_device"]
    assert rate == pytest.approx(4096 / headline(plan.denoising))


def test_what_is_not_denoised_is_read_and_not_computed() -> None:
    plan = replace(PREFILL, micro_batches=1)
    half = counted_work(scenario(replace(plan, denoising=Denoising(1.0, active=0.5))))
    cached = counted_work(scenario(replace(plan, prefix_hit_rate=0.5)))
    assert half == cached


def test_steps_may_be_an_axis() -> None:
    plan = replace(PREFILL, micro_batches=1, denoising=Denoising(np.array([1.0, 4.0])))
    times = evaluate(scenario(plan), CALIBRATION).metrics(None)["ttft"]
    assert times == pytest.approx(headline(None) * np.array([1.0, 4.0]))


def test_decoding_needs_keys_that_are_kept() -> None:
    plan = Decode(batch_per_device=2.0, input_tokens=512.0, output_tokens=0.0)
    both = replace(GQA, causal=False)
    broken = [rule.message for rule in rules(scenario(plan, model(both))) if not rule.holds]
    assert ["keeps no keys" in message for message in broken] == [True]
    assert all(rule.holds for rule in rules(scenario(plan, model(replace(both, keeps=True)))))


def test_a_norm_that_is_made_again_reads_the_sum_that_was_kept_and_writes_its_result() -> None:
    again = model_work(replace(context(), recompute=frozenset(["norm"]))).layers[0].input_gradient
    assert traffic(again, "attention norm") == 2 * 1024 * DENSE_MODEL.hidden * E
