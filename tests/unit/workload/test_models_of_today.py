"""Selected and pooled keys, recurrences with shared keys, latent experts, residual streams: against plain counting."""

from __future__ import annotations

from itertools import product

import pytest
from builders import DENSE_MODEL, GQA, context

from costmodel.records import replace
from costmodel.schema.mixers import MlaFile
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    CompressedAttention,
    DenseFfn,
    Encoder,
    HeadGroup,
    Indexer,
    Layer,
    LayerEmbedding,
    Mixer,
    Mla,
    MoeFfn,
    Mtp,
    NoFfn,
    NoMixer,
    Recurrence,
    SelectiveScan,
)
from costmodel.workload.counting import kv_bytes_per_token, parameter_count
from costmodel.workload.kv_cache import cached_bytes, state_bytes, written_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.patterns import Chunked, Pattern, Selected

HIDDEN = 1024
INDEXER = Indexer(heads=4.0, head_dim=16.0, top_k=32.0, cache="fp8")
LATENT = Mla(heads=8.0, q_lora=64.0, kv_lora=32.0, nope_dim=16.0, rope_dim=8.0, v_head_dim=16.0)
SPARSE = replace(LATENT, indexer=INDEXER)
COMPRESSED = CompressedAttention(
    heads=8.0, head_dim=32.0, rotary_dim=8.0, q_lora=64.0, output_groups=4.0, output_rank=16.0, window=8.0
)
SELECTED = replace(COMPRESSED, ratio=4.0, overlap=True, indexer=replace(INDEXER, top_k=4.0))
POOLED = replace(COMPRESSED, ratio=16.0)
DELTA = Recurrence(
    8.0, 16.0, 32.0, 64.0, key_heads=4.0, decay="delta", short_conv=4.0, output_gate=True, output_norm="head",
    head_parameters=2.0, state="fp32",
)  # fmt: skip
MAMBA = Recurrence(
    16.0, 8.0, 4.0, 16.0, key_heads=2.0, decay="gated", short_conv=4.0, conv_bias=True, output_gate=True,
    output_norm="projection", head_parameters=3.0,
)  # fmt: skip


def model(*layers: Layer, **more: object) -> Architecture:
    return replace(DENSE_MODEL, layers=layers, **more)  # type: ignore[arg-type]


def alone(mixer: Mixer) -> Architecture:
    """Return a model of one layer that is a mixer alone."""
    return model(Layer(1, mixer, NoFfn()))


def own_parameters(mixer: Mixer) -> float:
    """Return the parameters of a mixer: those of its layer without the norm before it."""
    work = model_work(context(alone(mixer))).layers[0]
    return float(sum(item.total for item in work.parameters)) - HIDDEN  # type: ignore[arg-type]


def forward(mixer: Mixer, phase: str, new: float, kv_len: float, sequences: float = 1.0) -> tuple[Operator, ...]:
    seen = context(alone(mixer), phase=phase, new_tokens=new, kv_len=kv_len, sequences=sequences)
    return model_work(seen).layers[0].forward


def named(operators: tuple[Operator, ...], name: str) -> AttentionKernel:
    return next(each for each in operators if isinstance(each, AttentionKernel) and each.name == name)


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "total"), list(product((1, 5, 16), (16, 37, 64))))
def test_a_selecting_query_meets_its_best_keys(new: int, total: int) -> None:
    counted = sum(min(8, position + 1) for position in range(total - new, total))
    assert Selected(top_k=8.0).pairs(float(new), float(total), causal=True) == counted
    assert Selected(top_k=8.0).keys_read(float(new), float(total)) == min(total, 8 * new)
    assert Selected(top_k=8.0).cached_tokens(float(total)) == total


@pytest.mark.parametrize(("new", "total"), list(product((2, 5, 16), (16, 37, 64))))
def test_a_query_sees_the_earlier_keys_of_its_chunk(new: int, total: int) -> None:
    counted = sum(position % 10 + 1 for position in range(total - new, total))
    assert Chunked(chunk=10.0).pairs(float(new), float(total), causal=True) == counted


def test_a_decoding_query_reads_half_a_chunk_on_the_mean() -> None:
    places = [Chunked(chunk=10.0).keys_read(1.0, float(tokens)) for tokens in range(101, 111)]
    assert sum(places) / len(places) == sum(place + 1 for place in range(10)) / 10
    assert [Chunked(chunk=10.0).keys_read(1.0, float(tokens)) for tokens in (1, 7, 10)] == [1, 7, 10]
    assert Chunked(chunk=10.0).cached_tokens(64.0) == 10


# ---- DeepSeek sparse attention ---------------------------------------------------------------------------------------


def test_an_indexer_adds_its_projections_to_latent_attention() -> None:
    weights = 64 * 4 * 16 + HIDDEN * 16 + HIDDEN * 4 + 2 * 16  # W_q of the latent, W_k, weights of heads, norm of keys
    assert own_parameters(SPARSE) - own_parameters(LATENT) == weights
    assert own_parameters(replace(SPARSE, indexer=replace(INDEXER, reused=True))) == own_parameters(LATENT)


def test_an_indexer_scores_all_keys_and_attention_meets_the_selected_ones() -> None:
    """Loops over heads, queries and earlier keys: 2*d_i FLOP each; then over the selected ones in the latent space."""
    new, total = 16, 64
    scores = sum(2 * 16 for _ in range(4) for query in range(total - new, total) for _ in range(query + 1))
    core = sum(2 * (40 + 32) * min(32, query + 1) for _ in range(8) for query in range(total - new, total))
    work = forward(SPARSE, "prefill", float(new), float(total))
    assert named(work, "indexer scores").flop == scores
    assert named(work, "attention core").flop == core
    assert named(work, "attention core").family == "sparse_mla_prefill"


def test_the_scores_of_a_decoding_step_grow_with_the_context_and_its_attention_does_not() -> None:
    short, long = (forward(SPARSE, "decode", 1.0, length) for length in (64.0, 6400.0))
    assert named(long, "indexer scores").flop == 100 * named(short, "indexer scores").flop
    assert named(long, "attention core").flop == named(short, "attention core").flop
    assert named(short, "attention core").kv_len == 32
    keys = 6400 * (16 + 4)  # one FP8 key and its FP32 scale for each token
    assert named(long, "indexer scores").traffic == keys + 4 * 16 * 2 + 6400 * 4  # queries in, one score a key out
    below = forward(SPARSE, "decode", 1.0, 20.0)
    assert named(below, "attention core").qk_pairs == 20


def test_a_reused_selection_has_no_scores_of_its_own() -> None:
    work = forward(replace(SPARSE, indexer=replace(INDEXER, reused=True)), "decode", 1.0, 640.0)
    assert [each.name for each in work if "indexer" in each.name or "selection" in each.name] == []
    assert named(work, "attention core").qk_pairs == 32


def test_grouped_queries_may_select_blocks() -> None:
    mixer = replace(
        GQA, head_groups=(HeadGroup(1.0, Selected(top_k=64.0)),),
        indexer=Indexer(heads=2.0, head_dim=16.0, top_k=64.0, block=16.0, weighted=False),
    )  # fmt: skip
    assert own_parameters(mixer) - own_parameters(GQA) == HIDDEN * 2 * 16 + HIDDEN * 16 + 2 * 16
    work = forward(mixer, "decode", 1.0, 640.0)
    assert named(work, "attention core").qk_pairs == 64
    selection = next(each for each in work if each.name == "key selection")
    assert isinstance(selection, Elementwise)
    assert selection.traffic == 640 * 4 + 64 / 16 * 4


# ---- near and pooled keys --------------------------------------------------------------------------------------------


def test_parameters_of_compressed_attention() -> None:
    own = HIDDEN * (64 + 32) + 64 * 8 * 32 + 8 * 32 * 16 + 4 * 16 * HIDDEN + 8 + 64 + 32
    pooled = 2 * HIDDEN * 32 + 16 * 32 + 32
    selected = 2 * HIDDEN * 64 + 4 * 64 + 32  # overlapping entries have two sets of values and gates
    index = 2 * HIDDEN * 32 + 4 * 32 + 16 + 64 * 4 * 16 + HIDDEN * 4
    assert own_parameters(COMPRESSED) == own
    assert own_parameters(POOLED) == own + pooled
    assert own_parameters(SELECTED) == own + selected + index


def test_queries_meet_near_keys_and_pooled_ones() -> None:
    total = 64
    near = sum(min(8, query + 1) for query in range(total))
    pooled = sum((query + 1) / 16 for query in range(total))
    selected = sum(min(4, (query + 1) / 4) for query in range(total))
    for mixer, far in ((COMPRESSED, 0.0), (POOLED, pooled), (SELECTED, selected)):
        core = named(forward(mixer, "prefill", float(total), float(total)), "attention core")
        assert core.flop == pytest.approx(2 * 8 * (near + far) * 2 * 32)
    step = named(forward(SELECTED, "decode", 1.0, 640.0), "attention core")
    assert step.qk_pairs == 8 + 4
    assert named(forward(SELECTED, "decode", 1.0, 640.0), "indexer scores").qk_pairs == 4 * 640 / 4


def test_a_few_queries_behind_a_long_cache_read_what_they_may_attend_to() -> None:
    """A key of 32 elements, 2 bytes: the window and 3 more, entries that 4 queries may select; 8 heads in and out."""
    queries, results = 4 * 8 * 32 * 2, 4 * 8 * 32 * 2
    for mixer, keys in ((COMPRESSED, 11), (POOLED, 11 + 6400 / 16), (SELECTED, 11 + 4 * 4)):
        core = named(forward(mixer, "prefill", 4.0, 6400.0), "attention core")
        assert core.traffic == pytest.approx(keys * 32 * 2 + queries + results)
    latents = named(forward(SPARSE, "prefill", 4.0, 6400.0), "attention core")
    assert latents.traffic == 4 * 32 * (32 + 8) * 2 + 4 * 8 * (32 + 8 + 32) * 2


def test_a_tile_of_pooled_keys_holds_the_heads_of_a_query() -> None:
    core = named(forward(SELECTED, "prefill", 4.0, 6400.0), "attention core")
    assert (core.heads, core.q_len) == (1, 8 * 4)
    step = named(forward(SELECTED, "decode", 4.0, 6400.0), "attention core")
    assert (step.heads, step.q_len) == (8, 4)


def test_compressed_attention_caches_a_window_and_entries() -> None:
    assert cached_bytes(COMPRESSED, 640.0, 2.0, 1.0) == 8 * 32 * 2
    assert cached_bytes(POOLED, 640.0, 2.0, 1.0) == 8 * 32 * 2 + 640 // 16 * 32 * 2
    assert cached_bytes(SELECTED, 643.0, 2.0, 4.0) == 8 * 32 * 2 + 160 * (32 * 2 + 16 + 4)
    assert state_bytes(POOLED, 1024.0, 2.0, 1.0) == 16 * 2 * 32 * 4  # values and gates of 16 tokens, FP32
    assert kv_bytes_per_token(alone(POOLED)) == 32 * 2 + 32 * 2 / 16


def moved(operators: tuple[Operator, ...], name: str) -> float:
    """Return the bytes of an element-wise kernel."""
    return float(next(each.traffic for each in operators if isinstance(each, Elementwise) and each.name == name))


def test_pooling_moves_new_values_and_gates_their_entry_and_what_waits() -> None:
    """Values and gates of 32 channels a token, an entry of 32 for each 16 tokens; FP32 in and out of what waits."""
    decoding = forward(POOLED, "decode", 1.0, 640.0, sequences=3.0)
    assert moved(decoding, "key pooling") == 3 * 64 * 2 + 3 / 16 * 32 * 2 + 2 * 3 * 64 * 4
    assert moved(forward(POOLED, "prefill", 64.0, 64.0), "key pooling") == 64 * 64 * 2 + 4 * 32 * 2


def test_queries_of_all_heads_are_normed() -> None:
    assert moved(forward(COMPRESSED, "prefill", 64.0, 64.0), "query norm") == 2 * 64 * 8 * 32 * 2


def test_an_indexer_turns_its_queries_and_its_one_key_head() -> None:
    assert moved(forward(SPARSE, "decode", 1.0, 64.0), "indexer rotary") == 2 * (4 + 1) * 16 * 2
    assert moved(forward(SPARSE, "prefill", 64.0, 64.0), "indexer rotary") == 64 * 2 * (4 + 1) * 16 * 2


# ---- recurrences -----------------------------------------------------------------------------------------------------


def test_parameters_of_a_gated_delta_net() -> None:
    keys, values = 4 * 16, 8 * 32
    projections = HIDDEN * (2 * keys + values + values + 2 * 8) + values * HIDDEN
    assert own_parameters(DELTA) == projections + 4 * (2 * keys + values) + 2 * 8 + 32


def test_parameters_of_a_delta_net_with_a_decay_per_channel() -> None:
    kimi = replace(
        DELTA, key_heads=None, value_dim=16.0, decay="channel_delta", gate_rank=12.0, head_parameters=1.0 + 16.0
    )
    inner = 8 * 16
    gates = 2 * (HIDDEN * 12 + 12 * inner) + HIDDEN * 8
    own = HIDDEN * 3 * inner + gates + inner * HIDDEN + 4 * 3 * inner + 8 * 17 + 16
    assert own_parameters(kimi) == own
    full = replace(kimi, gate_rank=None, decay_rank=12.0)
    assert own_parameters(full) == own - (HIDDEN * 12 + 12 * inner) + HIDDEN * inner


def test_parameters_of_a_state_space_layer() -> None:
    inner, groups = 16 * 4, 2 * 8
    convolved = inner + 2 * groups
    entry = HIDDEN * (2 * inner + 2 * groups + 16)
    assert own_parameters(MAMBA) == entry + 5 * convolved + 3 * 16 + inner + inner * HIDDEN


def test_parameters_of_a_selective_scan() -> None:
    mixer = SelectiveScan(inner=64.0, state=4.0, rank=8.0, short_conv=4.0, normed=True)
    own = HIDDEN * 128 + 64 * 5 + 64 * (8 + 8) + 8 * 64 + 64 + 64 * 4 + 64 + 64 * HIDDEN + 8 + 8
    assert own_parameters(mixer) == own
    assert state_bytes(mixer, 1024.0, 2.0, 1.0) == 64 * (4 * 4 + 3 * 2)


def test_a_state_has_its_own_format_and_the_inputs_that_a_convolution_waits_for() -> None:
    assert state_bytes(DELTA, 1024.0, 1.0, 1.0) == 8 * 16 * 32 * 4 + 3 * (2 * 4 * 16 + 8 * 32) * 1
    step = named(forward(DELTA, "decode", 1.0, 640.0, sequences=3.0), "attention core")
    assert step.traffic == 3 * (2 * 8 * 16 * 32 * 4 + (2 * 4 * 16 + 2 * 8 * 32) * 2)
    assert (step.family, step.variant) == ("linear_attention_decode", "delta")


def test_the_cache_of_a_hybrid_is_that_of_its_layers() -> None:
    """By hand, for 1,000 tokens: 3 delta nets, 1 full layer, 2 windows of 100, 1 latent layer with an indexer."""
    window = replace(
        GQA, head_groups=(HeadGroup(1.0, replace(GQA.head_groups[0].pattern, kind="window", window=100.0)),)
    )
    ffn = DenseFfn(256.0, gated=True)
    hybrid = model(Layer(3, DELTA, ffn), Layer(1, GQA, ffn), Layer(2, window, ffn), Layer(1, SPARSE, ffn))
    token = float(GQA.kv_heads) * (float(GQA.head_dim) + float(GQA.v_head_dim)) * 2  # type: ignore[arg-type]
    by_kind = [cached_bytes(layer.mixer, 1000.0, 2.0, 1.0) for layer in hybrid.kinds]
    assert by_kind == [0.0, 1000 * token, 100 * token, 1000 * (40 * 2 + 16 + 4)]
    assert [state_bytes(layer.mixer, 1024.0, 2.0, 1.0) for layer in hybrid.kinds][1:] == [0.0, 0.0, 0.0]


# ---- attention, experts, residual streams, towers --------------------------------------------------------------------


def test_a_gate_sinks_and_shared_or_borrowed_keys_change_the_projections() -> None:
    heads, groups, width = 8, 2, 64
    mixer = Attention(float(heads), float(groups), float(width), float(width))
    base = HIDDEN * (heads + 2 * groups) * width + heads * width * HIDDEN
    assert own_parameters(mixer) == base
    assert own_parameters(replace(mixer, output_gate="element")) == base + HIDDEN * heads * width
    assert own_parameters(replace(mixer, output_gate="head", sinks=True)) == base + HIDDEN * heads + heads
    assert own_parameters(replace(mixer, shared_values=True)) == base - HIDDEN * groups * width
    borrowed = replace(mixer, borrowed_kv=True)
    assert own_parameters(borrowed) == base - 2 * HIDDEN * groups * width
    assert cached_bytes(borrowed, 100.0, 2.0, 1.0) == 0.0
    core = named(forward(borrowed, "decode", 1.0, 640.0), "attention core")
    assert (
        core.traffic == named(forward(mixer, "decode", 1.0, 640.0), "attention core").traffic
    )  # it reads all the same


def test_latent_experts_work_on_a_narrower_stream() -> None:
    ffn = MoeFfn(experts=8.0, intermediate=64.0, top_k=2, shared=1.0, gated=False)
    narrow = replace(ffn, latent=256.0, latent_norm=True)
    layer, base = Layer(1, NoMixer(), narrow), Layer(1, NoMixer(), ffn)
    routed = 8 * 2 * 64
    difference = parameter_count(model(layer)).total - parameter_count(model(base)).total
    assert difference == routed * (256 - HIDDEN) + 2 * HIDDEN * 256 + 256
    choices = replace(ffn, zero=4.0)
    assert parameter_count(model(Layer(1, NoMixer(), choices))).total - parameter_count(model(base)).total == 4 * HIDDEN


def test_a_layer_without_a_mixer_is_its_ffn() -> None:
    work = model_work(context(model(Layer(1, NoMixer(), DenseFfn(256.0, gated=True))))).layers[0]
    assert sum(item.total for item in work.parameters) == 3 * HIDDEN * 256 + HIDDEN
    assert not any(isinstance(each, AttentionKernel) for each in work.forward)


def test_hyper_connections_mix_streams_around_every_branch() -> None:
    layer = Layer(1, GQA, DenseFfn(256.0, gated=True))
    plain, mixed = (parameter_count(model(layer, streams=streams)).total for streams in (1.0, 4.0))
    site = (4 * HIDDEN + 1) * 4 * 6 + 3
    assert mixed - plain == 2 * site + (4 * HIDDEN + 1) * 4 + 3
    work = model_work(context(model(layer, streams=4.0), phase="prefill", new_tokens=16.0, kv_len=16.0)).layers[0]
    weights = [each for each in work.forward if isinstance(each, Gemm) and "hyper-connection" in each.name]
    assert [each.flop for each in weights] == [2 * 16 * 24 * 4 * HIDDEN] * 2
    moved = [each.traffic for each in work.forward if isinstance(each, Elementwise) and "hyper-connection" in each.name]
    assert moved == [16 * HIDDEN * 2 * times for times in (5, 9, 5, 9)]  # 4 read, 1 written; 5 read, 4 written


def test_attention_over_blocks_reads_the_sums_of_earlier_blocks() -> None:
    layers = Layer(8, GQA, DenseFfn(256.0, gated=True))
    base, blocks = (parameter_count(model(layers, residual_block=block)).total for block in (None, 2.0))
    assert blocks - base == (2 * 8 + 1) * 2 * HIDDEN


def test_per_layer_embeddings() -> None:
    layer = Layer(3, GQA, DenseFfn(256.0, gated=True))
    base = parameter_count(model(layer)).total
    more = parameter_count(model(layer, layer_embedding=LayerEmbedding(100.0, 16.0))).total - base
    assert more == 100 * 3 * 16 + HIDDEN * 3 * 16 + 16 + 3 * (2 * HIDDEN * 16 + HIDDEN)


def test_a_module_of_prediction_may_have_layers_of_its_own() -> None:
    layer, light = Layer(2, GQA, DenseFfn(256.0, gated=True)), Layer(1, GQA, DenseFfn(64.0, gated=True))
    same = parameter_count(model(layer, mtp=Mtp(3))).mtp
    own = parameter_count(model(layer, mtp=Mtp(3, (light,)))).mtp
    assert same - own == 3 * 3 * HIDDEN * (256 - 64)


def test_an_encoder_is_part_of_the_weights_and_no_text_visits_it() -> None:
    layer = Layer(2, replace(GQA, causal=False), DenseFfn(512.0, gated=False), norm="layer")
    tower = Encoder(
        hidden=256.0, inputs=48.0, layers=(layer,), merge=4.0, projectors=((1024.0, 1024.0),), bias=True, positions=9.0,
        final_norm="layer", projector_bias=True, projector_norms=2.0,
    )  # fmt: skip
    text, both = (
        parameter_count(model(Layer(1, GQA, DenseFfn(256.0, gated=True)), encoder=each)) for each in (None, tower)
    )
    heads = float(GQA.q_heads) + 2 * float(GQA.kv_heads)  # type: ignore[arg-type]
    attention = 256 * heads * float(GQA.head_dim) + 256 * float(GQA.q_heads) * float(GQA.head_dim)  # type: ignore[arg-type]
    own = (48 + 9 + 1) * 256 + 2 * (attention + 2 * 256 * 512 + 4 * 256) + 2 * 256 + 1024 * 1024 + 1024 + 2
    assert both.encoder == own
    assert both.total - text.total == own
    assert (both.active, both.active_with_embedding) == (text.active, text.active_with_embedding)


# ---- latent attention by groups of heads -----------------------------------------------------------------------------

NEAR = replace(LATENT, head_groups=(HeadGroup(0.75, Pattern("window", 8.0)), HeadGroup(0.25, Pattern())))


def test_groups_of_heads_meet_their_own_latents() -> None:
    """Six heads see the last eight latents, two see all: by loops over heads and queries."""
    new, total = 16, 64
    pairs = {
        "attention core (window)": sum(min(8, query + 1) for _ in range(6) for query in range(total - new, total)),
        "attention core (full)": sum(query + 1 for _ in range(2) for query in range(total - new, total)),
    }
    expanded = forward(NEAR, "prefill", float(new), float(total))
    for name, count in pairs.items():
        assert named(expanded, name).flop == 2 * (24 + 16) * count  # keys of 16 + 8, values of 16
    decoding = forward(NEAR, "decode", 1.0, 64.0)
    window, full = (named(decoding, name) for name in pairs)
    assert (window.flop, full.flop) == (2 * (40 + 32) * 6 * 8, 2 * (40 + 32) * 2 * 64)
    assert (window.kv_len, full.kv_len) == (8, 64)
    assert window.traffic == 8 * 40 * 2 + 6 * (40 + 32) * 2  # its latents once, its queries and results
    assert own_parameters(NEAR) == own_parameters(LATENT)


def test_latents_stay_as_long_as_some_head_attends_to_them() -> None:
    windows = replace(
        LATENT, head_groups=(HeadGroup(0.5, Pattern("window", 8.0)), HeadGroup(0.5, Pattern("window", 32.0)))
    )
    assert cached_bytes(windows, 64.0, 2.0, 1.0) == 32 * 40 * 2
    assert cached_bytes(NEAR, 64.0, 2.0, 1.0) == cached_bytes(LATENT, 64.0, 2.0, 1.0) == 64 * 40 * 2


def test_head_groups_of_latents_are_checked() -> None:
    file = {"type": "mla", "heads": 8, "q_lora": 64, "kv_lora": 32, "nope_dim": 16, "rope_dim": 8, "v_head_dim": 16}
    whole, narrow = (
        {"share": 1.0, "pattern": {"kind": "full"}},
        {"share": 0.5, "pattern": {"kind": "window", "window": 8}},
    )
    chosen = {"share": 1.0, "pattern": {"kind": "chunk_topk", "chunk": 4, "attend": 8}}
    for groups, text in (([narrow], "sum to 0.5"), ([chosen], "chunk_topk.*does not match")):
        with pytest.raises(ValueError, match=text):
            MlaFile(**file, head_groups=groups)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="both select keys"):
        MlaFile(**file, head_groups=[narrow, narrow], indexer={"heads": 4, "head_dim": 16, "top_k": 8})  # type: ignore[arg-type]
    assert MlaFile(**file, head_groups=[whole]).head_groups[0].share == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", [POOLED, SELECTED])
def test_a_token_writes_its_own_key_and_its_share_of_what_the_cache_grows_by(mixer: CompressedAttention) -> None:
    assert mixer.ratio is not None
    ratio, own = float(mixer.ratio), float(mixer.head_dim) * 2.0
    grown = cached_bytes(mixer, 640.0 + ratio, 2.0, 1.0) - cached_bytes(mixer, 640.0, 2.0, 1.0)
    assert written_bytes(mixer, 2.0, 1.0) == own + grown / ratio
    assert written_bytes(COMPRESSED, 2.0, 1.0) == cached_bytes(COMPRESSED, 1.0, 2.0, 1.0) == own
