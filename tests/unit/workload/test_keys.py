"""Keys cost what they are: time, bytes and memory grow with a pattern's keys, also beyond a sequence's own tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from builders import DENSE_MODEL, FRAMEWORK, GQA, MACHINE, UNFUSED, context

from costmodel.cost.attention import PrefillForm
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.kernels import attention_time
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Attention, HeadGroup, Layer, NoFfn, Pattern, Recurrence
from costmodel.workload.context import Context, per_rank
from costmodel.workload.kv_cache import cached_bytes, state_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.mixers import OwnSpans
from costmodel.workload.operators import AttentionKernel, Gemm, Operator
from costmodel.workload.patterns import (
    Axis,
    Chunked,
    ChunkTopK,
    ElasticWindow,
    KvBudget,
    Mixed,
    Neighbourhood,
    PredictedSparse,
    Selected,
    SinkRecent,
    Spans,
    StridedBlocks,
)
from costmodel.workload.scenario import Parallelism

TOKENS = 1024.0
HEADS, GROUPS, WIDTH = GQA.q_heads, GQA.kv_heads, GQA.head_dim + GQA.v_head_dim
CROSS = Mixed(sets=((TOKENS, 65536.0),))
OWN = Mixed(sets=((TOKENS, TOKENS),))
FORM = PrefillForm(
    launch=1e-6, compute_efficiency=0.5, single_cta_efficiency=1.0, hbm_efficiency=1.0, cta_overhead=1.0,
    cta_overhead_per_dim=1.0, wave_tail_loss=1.0, critical_path_p=12.0, overlap_p=12.0, paged_kv_penalty=0.0,
    combine_latency=5e-6, pack_gqa=False, split_kv_rule="never", tiles=((128, 128),),
)  # fmt: skip


def mixer(pattern: Pattern) -> Attention:
    return replace(GQA, causal=False, keeps=True, head_groups=(HeadGroup(1.0, pattern),))


def model(pattern: Pattern) -> Architecture:
    return replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], mixer=mixer(pattern)),))


def seen(pattern: Pattern, phase: str = "prefill", tokens: float = TOKENS) -> Context:
    new = 1.0 if phase == "decode" else tokens
    return context(model(pattern), phase=phase, sequences=1.0, new_tokens=new, kv_len=tokens)


def forward(pattern: Pattern, phase: str = "prefill", tokens: float = TOKENS) -> tuple[Operator, ...]:
    return model_work(seen(pattern, phase, tokens)).layers[0].forward


def kernel(pattern: Pattern, phase: str = "prefill", tokens: float = TOKENS) -> AttentionKernel:
    (found,) = (each for each in forward(pattern, phase, tokens) if isinstance(each, AttentionKernel))
    return found


def total_traffic(pattern: Pattern, phase: str, tokens: float) -> float:
    return sum(float(getattr(each, "traffic", 0.0)) for each in forward(pattern, phase, tokens))


def test_keys_of_other_tokens_are_read_multiplied_and_projected() -> None:
    """1,024 queries on 65,536 keys: 64 times the pairs; K and V of all keys are read, those of 64,512 projected."""
    core = kernel(CROSS)
    assert core.qk_pairs == 1024 * 65536
    assert core.kv_len == 65536
    assert core.traffic == (HEADS * 1024 + GROUPS * 65536) * WIDTH * 2
    (projection,) = (each for each in forward(CROSS) if each.name == "foreign key projection")
    assert isinstance(projection, Gemm)
    assert (projection.m, projection.n, projection.k) == (65536 - 1024, GROUPS * WIDTH, 1024)
    assert not [each for each in forward(OWN) if "foreign" in each.name]
    assert not [each for each in forward(replace(CROSS, projected=False)) if "foreign" in each.name]


@pytest.mark.parametrize("seconds", [
    lambda core: attention_time(core, MACHINE, FamilyFit()).seconds, lambda core: FORM.time(core, MACHINE).seconds,
])  # fmt: skip
def test_a_kernel_of_64_times_the_keys_takes_64_times_as_long(seconds: Callable[[AttentionKernel], float]) -> None:
    assert seconds(kernel(CROSS)) > 0.9 * 64 * (seconds(kernel(OWN)) - FRAMEWORK.launch)


def test_unfused_scores_span_all_keys() -> None:
    scores = {}
    for pattern in (OWN, CROSS):
        work = model_work(replace(seen(pattern), framework=UNFUSED)).layers[0]
        (gemm,) = (each for each in work.forward if each.name == "attention scores")
        assert isinstance(gemm, Gemm)
        scores[pattern] = gemm.n
    assert (scores[OWN], scores[CROSS]) == (1024, 65536)


def test_the_cache_holds_foreign_keys_and_a_decoding_step_reads_them() -> None:
    one_token = GROUPS * WIDTH * 2
    assert cached_bytes(mixer(CROSS), TOKENS, 2.0, 1.0) == 65536 * one_token
    assert cached_bytes(mixer(OWN), TOKENS, 2.0, 1.0) == 1024 * one_token
    step = kernel(CROSS, "decode")
    assert step.qk_pairs == step.kv_len == 65536
    assert step.traffic == 65536 * one_token + HEADS * WIDTH * 2
    assert not [each for each in forward(CROSS, "decode") if "foreign" in each.name]


def test_training_saves_foreign_keys() -> None:
    def saved(pattern: Pattern) -> float:
        return sum(float(each.size) for each in model_work(seen(pattern, "training")).layers[0].saved)

    foreign = (65536 - 1024) * GROUPS * WIDTH * 2
    inputs = (65536 - 1024) * 1024 * 2
    assert saved(CROSS) - saved(OWN) == foreign + inputs


def test_the_more_frequent_set_weighs_more_and_the_largest_is_held() -> None:
    """MixFormer: 2,048 template queries on 512 keys, 6,400 search queries on 2,112."""
    pattern = Mixed(sets=((2048.0, 512.0), (6400.0, 2112.0)))
    core = kernel(pattern, tokens=8448.0)
    assert core.qk_pairs == 2048 * 512 + 6400 * 2112
    assert core.kv_len == 2112
    half = pattern.pairs(4224.0, 8448.0, causal=False)
    assert half == core.qk_pairs / 2


# each pattern with few keys, and with more
GROWING = {
    "window": (Pattern("window", 128.0), Pattern("window", 512.0)),
    "sink_recent": (SinkRecent(sink=4.0, recent=124.0), SinkRecent(sink=4.0, recent=508.0)),
    "sink_recent in chunks": (
        SinkRecent(sink=4.0, recent=124.0, chunk=128.0), SinkRecent(sink=4.0, recent=508.0, chunk=128.0)
    ),
    "selected": (Selected(top_k=128.0), Selected(top_k=512.0)),
    "chunked": (Chunked(chunk=128.0), Chunked(chunk=512.0)),
    "elastic_window": (ElasticWindow(alpha=0.0, beta=0.125), ElasticWindow(alpha=0.0, beta=0.5)),
    "strided_blocks": tuple(StridedBlocks(block=64.0, local=2.0, stride=stride) for stride in (16.0, 2.0)),
    "neighbourhood": (Neighbourhood(axes=(Axis(1024, 128),)), Neighbourhood(axes=(Axis(1024, 512),))),
    "chunk_topk": (ChunkTopK(chunk=64.0, attend=128.0), ChunkTopK(chunk=64.0, attend=512.0)),
    "kv_budget": (KvBudget(budget=0.125), KvBudget(budget=0.5)),
    "predicted_sparse": tuple(PredictedSparse(keep=keep, reduced=8.0, rank=1.0) for keep in (0.125, 0.5)),
    "spans": (Spans(span=64.0), Spans(span=2.0)),
    "mixed": (Mixed(sets=((1024.0, 1024.0),)), Mixed(sets=((1024.0, 4096.0),))),
}  # fmt: skip
READS_ALL = {"selected", "neighbourhood", "predicted_sparse", "spans"}  # whose caches keep every key


@pytest.mark.parametrize("name", GROWING)
def test_more_keys_take_more_time_bytes_and_memory(name: str) -> None:
    few, more = GROWING[name]
    phases = ("prefill", "decode") if name not in ("kv_budget",) else ("decode",)  # a budget applies after the prompt
    for phase in phases:
        cores = [kernel(pattern, phase) for pattern in (few, more)]
        times = [float(attention_time(core, MACHINE, FamilyFit()).seconds) for core in cores]
        assert cores[1].qk_pairs > 1.5 * cores[0].qk_pairs, phase
        assert times[1] > times[0], phase
    assert total_traffic(more, "decode", TOKENS) > total_traffic(few, "decode", TOKENS)
    caches = [float(cached_bytes(mixer(pattern), TOKENS, 2.0, 1.0)) for pattern in (few, more)]
    if name in READS_ALL or name in ("strided_blocks", "chunk_topk"):
        assert caches[1] >= caches[0]
    else:
        assert caches[1] > caches[0]


def test_fewer_key_heads_than_ranks_are_repeated_on_each() -> None:
    """16 query and 4 key heads of 64 on eight ranks: two queries' heads and one whole key head each, 2*64 + 128."""
    assert [per_rank(4.0, degree) for degree in (1.0, 4.0, 8.0)] == [4.0, 1.0, 1.0]
    eight = context(DENSE_MODEL, Parallelism(tp=8.0), phase="prefill", new_tokens=TOKENS)
    (projection,) = (each for each in model_work(eight).layers[0].forward if each.name == "qkv projection")
    assert isinstance(projection, Gemm)
    assert projection.n == 2 * 64 + 128


@pytest.mark.parametrize("degree", [2.0, 8.0])
def test_every_rank_has_a_copy_of_a_single_key_head_of_a_recurrence(degree: float) -> None:
    """16 heads of 64 with one group of keys of 32: of gate and values a part each, of queries and keys all."""
    mixer = Recurrence(16.0, 32.0, 64.0, 64.0, key_heads=1.0, decay="gated", short_conv=4.0, output_gate=True)
    alone = replace(DENSE_MODEL, layers=(Layer(1, mixer, NoFfn()),))

    def parts(ranks: float) -> tuple[Gemm, float, float]:
        work = model_work(context(alone, Parallelism(tp=ranks), phase="prefill", new_tokens=TOKENS)).layers[0]
        (projection,) = (each for each in work.forward if each.name == "qkv projection")
        assert isinstance(projection, Gemm)
        (taps,) = (each for each in work.parameters if each.name == "short convolution")
        return projection, float(sum(each.total for each in work.parameters)), float(taps.local)

    projection, total, taps = parts(degree)
    assert projection.n == 2 * 32 + (16 + 2 * 16 * 64) / degree
    assert total == parts(1.0)[1]
    assert taps == 4 * (2 * 32 + 16 * 64 / degree)
    assert float(state_bytes(mixer, 1024.0, 2.0, degree)) == (16 * 32 * 64 / degree + 3 * taps / 4) * 2


def test_only_inference_writes_foreign_keys_into_a_cache_and_only_where_there_is_one() -> None:
    def writes(pattern: Pattern, phase: str) -> list[str]:
        return [each.name for each in forward(pattern, phase) if each.name == "foreign kv cache write"]

    assert len(writes(CROSS, "prefill")) == 1
    assert not writes(CROSS, "training")
    assert not writes(OWN, "prefill")
    uncached = replace(model(CROSS), layers=(replace(DENSE_MODEL.layers[0], mixer=replace(mixer(CROSS), keeps=False)),))
    work = model_work(context(uncached, phase="prefill", sequences=1.0, new_tokens=TOKENS, kv_len=TOKENS))
    assert not [each for each in work.layers[0].forward if each.name == "foreign kv cache write"]


def launched(phase: str, *, one_launch: bool) -> list[AttentionKernel]:
    """Return the attention kernels of a layer whose heads see 256, or a chosen half, of 1,024 tokens."""
    groups = (
        HeadGroup(0.25, Pattern("window", 256.0)),
        HeadGroup(0.75, PredictedSparse(keep=0.5, reduced=8.0, rank=4.0)),
    )
    own = replace(GQA, keeps=True, head_groups=groups, kernel=replace(GQA.kernel, one_launch=one_launch))
    architecture = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], mixer=own),))
    new = 1.0 if phase == "decode" else TOKENS
    found = (
        model_work(context(architecture, phase=phase, sequences=1.0, new_tokens=new, kv_len=TOKENS)).layers[0].forward
    )
    return [each for each in found if isinstance(each, AttentionKernel)]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_launch_of_several_spans_has_the_work_of_all_and_the_longest_of_any(phase: str) -> None:
    apart, (joined,) = launched(phase, one_launch=False), launched(phase, one_launch=True)
    assert len(apart) == 2
    assert joined.heads == sum(each.heads for each in apart)
    assert joined.flop == pytest.approx(sum(each.flop for each in apart))
    assert joined.traffic == pytest.approx(sum(each.traffic for each in apart))
    if phase == "prefill":
        assert joined.last_query_kv_len == max(each.last_query_kv_len for each in apart) == 512.0  # type: ignore[type-var]
    else:
        assert joined.kv_len == 0.25 * 256.0 + 0.75 * 512.0


def test_one_launch_selects_and_fetches_what_its_groups_do() -> None:
    chosen, near = ChunkTopK(chunk=16.0, attend=64.0, offload=True), Pattern("window", 64.0)
    joined = OwnSpans(groups=(HeadGroup(0.25, chosen), HeadGroup(0.75, near)))
    assert joined.selection(1.0, TOKENS, 128.0) == tuple(0.25 * each for each in chosen.selection(1.0, TOKENS, 128.0))
    assert joined.fetched_keys(1.0, TOKENS) == 0.25 * 64.0
    assert joined.held_keys(TOKENS) == TOKENS
