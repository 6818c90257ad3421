"""Pairs, keys read and keys kept of every pattern, against counting them one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from builders import DENSE_MODEL, GQA, context

from costmodel.records import replace
from costmodel.workload.architecture import Attention, HeadGroup, HeadRoute, KernelTraits
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Operator
from costmodel.workload.patterns import (
    Axis,
    ChunkTopK,
    ElasticWindow,
    KvBudget,
    Mixed,
    Neighbourhood,
    Pattern,
    PredictedSparse,
    SinkRecent,
    Spans,
    StridedBlocks,
)

LENGTHS = [(1, 1), (5, 5), (16, 16), (37, 37), (64, 64), (12, 40), (1, 33), (7, 61)]  # (new, all) tokens


def counted(visible: Callable[[int, int], bool], new: int, keys: int) -> int:
    """Return the pairs that a mask shows: visible(query place, key place)."""
    return sum(visible(query, key) for query in range(keys - new, keys) for key in range(keys))


@pytest.mark.parametrize(("new", "keys"), LENGTHS)
@pytest.mark.parametrize("window", [1, 4, 16, 100])
def test_window(new: int, keys: int, window: int) -> None:
    expected = counted(lambda query, key: 0 <= query - key < window, new, keys)
    assert Pattern("window", window).pairs(new, keys, causal=True) == expected


@pytest.mark.parametrize(("new", "keys"), LENGTHS)
@pytest.mark.parametrize(("sink", "recent"), [(0, 4), (2, 5), (8, 8)])
def test_sink_and_recent(new: int, keys: int, sink: int, recent: int) -> None:
    def visible(query: int, key: int) -> bool:
        return key <= query and (key < sink or query - key < recent)

    pattern = SinkRecent(sink=sink, recent=recent)
    assert pattern.pairs(new, keys, causal=True) == counted(visible, new, keys)
    assert pattern.cached_tokens(keys) == sum(visible(keys - 1, key) for key in range(keys))


@pytest.mark.parametrize("keys", [1, 7, 8, 9, 40, 64, 67])
@pytest.mark.parametrize("older", [(1, 2), (4, 4), (5, 11)])
def test_chunks_of_a_prompt_see_themselves_whole(keys: int, older: tuple[int, int]) -> None:
    chunk, width = 8, sum(older)
    expected = sum(query % chunk + 1 + min(width, query - query % chunk) for query in range(keys))
    pattern = SinkRecent(sink=older[0], recent=older[1], chunk=chunk)
    assert pattern.pairs(keys, keys, causal=True) == (expected if keys > 1 else 1)


@pytest.mark.parametrize(("new", "keys"), LENGTHS)
@pytest.mark.parametrize(("alpha", "beta"), [(-8, 0.5), (4, 0.25), (0, 1), (64, 0)])
def test_elastic_window_is_the_window_of_its_length(new: int, keys: int, alpha: int, beta: float) -> None:
    width = min(max(alpha + beta * keys, 3), keys)
    pattern = ElasticWindow(alpha=alpha, beta=beta, sink=2)
    assert pattern.pairs(new, keys, causal=True) == Pattern("window", width).pairs(new, keys, causal=True)
    if float(width).is_integer():
        expected = counted(lambda query, key: 0 <= query - key < width, new, keys)
        assert pattern.pairs(new, keys, causal=True) == expected


def test_elastic_window_rules_differ_beyond_alpha() -> None:
    assert ElasticWindow(alpha=100, beta=0.5, rule="length_minus_alpha").max_keys(300.0) == 200
    assert ElasticWindow(alpha=100, beta=0.5).max_keys(300.0) == 250


@pytest.mark.parametrize(("new", "keys"), [(16, 16), (64, 64), (60, 60), (61, 61), (32, 64), (1, 61), (1, 4)])
@pytest.mark.parametrize(("local", "stride"), [(1, 1), (2, 3), (4, 4), (50, 2)])
def test_strided_blocks(new: int, keys: int, local: int, stride: int) -> None:
    block = 4

    def visible(query: int, key: int) -> bool:
        back = query // block - key // block
        return 0 <= back < local or (back >= local and (back - local + 1) % stride == 0)

    def computed(query: int) -> int:
        return sum(visible(query, block * number) for number in range(query // block + 1)) * block

    pattern = StridedBlocks(block=block, local=local, stride=stride)
    assert pattern.pairs(new, keys, causal=True) == sum(computed(query) for query in range(keys - new, keys))
    assert pattern.keys_read(1, keys) == min(keys, computed(keys - 1))


def inside(size: int, window: int, dilation: int, place: int, *, causal: bool) -> set[int]:
    """Return the places that a place sees on an axis: its window moves inwards at the borders."""
    line = list(range(place % dilation, size, dilation))
    at = line.index(place)
    if causal:
        return set(line[max(0, at - window + 1) : at + 1])
    begin = min(max(at - window // 2, 0), len(line) - window)
    return set(line[begin : begin + window])


@pytest.mark.parametrize(
    "axes",
    [
        [Axis(24, 5)],
        [Axis(24, 3, dilation=4)],
        [Axis(12, 5, causal=True)],
        [Axis(6, 3), Axis(8, 4, dilation=2)],
        [Axis(4, 3, causal=True), Axis(6, 3), Axis(4, 2)],
    ],
)
def test_neighbourhood(axes: list[Axis]) -> None:
    places = list(itertools.product(*(range(int(axis.size)) for axis in axes)))
    expected = sum(
        math.prod(
            len(inside(int(axis.size), int(axis.window), int(axis.dilation), at, causal=axis.causal))
            for axis, at in zip(axes, place, strict=True)
        )
        for place in places
    )
    found = Neighbourhood(axes=tuple(axes)).pairs(float(len(places)), float(len(places)), causal=False)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("size", "window", "query", "key"), [(96, 17, 8, 4), (96, 24, 8, 8), (128, 33, 16, 8)])
def test_tiles_of_a_neighbourhood_are_those_that_an_inner_tile_touches(
    size: int, window: int, query: int, key: int
) -> None:
    middle = size // 2 // query * query
    seen = set().union(*(inside(size, window, 1, middle + at, causal=False) for at in range(query)))
    visited = len({place // key for place in seen}) * key
    assert Axis(size, window, query_tile=query, key_tile=key).density() == visited / size


def test_neighbourhood_densities_of_natten() -> None:
    # SYSTEMS: (2,8,8) tiles, 18x24x24 in 30x48x80 -> 3.60; (16,16)/(16,8), 80^2 in 256^2 -> 6.10
    video = Neighbourhood(axes=tuple(Axis(n, w, query_tile=t, key_tile=t) for n, w, t in
                                     [(30, 18, 2), (48, 24, 8), (80, 24, 8)]))  # fmt: skip
    image = Neighbourhood(axes=(Axis(256, 80, query_tile=16, key_tile=16), Axis(256, 80, query_tile=16, key_tile=8)))
    assert 1 / video.last_query_keys(1.0) == pytest.approx(3.60, rel=1e-3)
    assert 1 / image.last_query_keys(1.0) == pytest.approx(6.10, rel=2e-3)


@pytest.mark.parametrize(("new", "keys"), LENGTHS)
def test_chunk_top_k(new: int, keys: int) -> None:
    chunk, attend = 4, 12
    pattern = ChunkTopK(chunk=chunk, attend=attend)
    expected = sum(min(query + 1, attend) for query in range(keys - new, keys))
    assert pattern.pairs(new, keys, causal=True) == expected
    work, read = pattern.selection(new, keys, 8.0)
    scored = sum(query + 1 for query in range(keys - new, keys)) / chunk
    assert (work, read) == ((scored * 8, keys / chunk) if keys > attend else (0, 0))
    assert pattern.cached_tokens(keys) == keys + keys / chunk / 2  # pooled keys have no values
    assert replace(pattern, offload=True).cached_tokens(keys) == min(keys, attend) + keys / chunk / 2


def test_budget_keeps_its_share() -> None:
    pattern = KvBudget(budget=0.4, sink=16, recent=256, full_share=0.3)
    assert pattern.cached_tokens(30_000.0) == 12_000
    assert pattern.pairs(100, 100, causal=True) == 5_050  # a prompt is read in full
    assert pattern.pairs(1, 30_000, causal=True) == 12_000


def test_predictor_multiply_adds() -> None:
    # SYSTEMS 2.16: 2*N*d*c + 2*c*N*n + basis*n*N*N
    work, _ = PredictedSparse(keep=0.25, reduced=24, rank=32, basis=0.05).selection(197.0, 197.0, 64.0)
    assert work == pytest.approx(2 * 197 * 64 * 32 + 2 * 32 * 197 * 24 + 0.05 * 24 * 197 * 197)


def test_spans_grow_as_their_schemes_say() -> None:
    lengths = 4.0 ** np.arange(5, 9)
    slopes = {
        scheme: np.polyfit(np.log(lengths), np.log(Spans(scheme=scheme).pairs(lengths, lengths, causal=True)), 1)[0]
        for scheme in ("fixed", "axial", "logsparse")
    }
    assert slopes["fixed"] == slopes["axial"] == pytest.approx(1.5)
    assert 1.0 < slopes["logsparse"] < 1.15
    assert Spans(span=64.0).pairs(4096.0, 4096.0, causal=True) == 4096 * (64 + 2 * 64)


def test_mixed_sets_are_summed() -> None:
    symmetric = Mixed(sets=((8448.0, 2112.0),)).pairs(8448.0, 8448.0, causal=False)
    asymmetric = Mixed(sets=((2048.0, 512.0), (6400.0, 2112.0))).pairs(8448.0, 8448.0, causal=False)
    assert 1 - asymmetric / symmetric == pytest.approx(0.1837, abs=1e-4)  # MixFormer, SYSTEMS MX-01


@pytest.mark.parametrize("pattern", [
    Pattern(), Pattern("window", 40.0), SinkRecent(sink=4.0, recent=30.0), ElasticWindow(alpha=-16.0, beta=0.5),
    StridedBlocks(block=8.0, local=2.0, stride=4.0), ChunkTopK(chunk=8.0, attend=32.0), KvBudget(budget=0.5),
    PredictedSparse(keep=0.5, reduced=4.0, rank=2.0), Spans(),
])  # fmt: skip
def test_longer_sequences_never_need_less_nor_more_than_all(pattern: Pattern) -> None:
    lengths = np.arange(2.0, 300.0)
    for series in (pattern.pairs(lengths, lengths, causal=True), pattern.cached_tokens(lengths)):
        assert np.all(np.diff(series) >= -1e-9)
    assert np.all(pattern.keys_read(1.0, lengths) <= lengths)


def forward(groups: tuple[HeadGroup, ...], phase: str, kernel: KernelTraits | None = None) -> tuple[Operator, ...]:
    mixer = replace(GQA, head_groups=groups, kernel=kernel or KernelTraits())
    model = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], mixer=mixer),))
    seen = context(model, phase=phase, new_tokens=64.0 if phase == "prefill" else 1.0, kv_len=64.0)
    return model_work(seen).layers[0].forward


def names(groups: tuple[HeadGroup, ...], phase: str, kernel: KernelTraits) -> list[str]:
    return [each.name for each in forward(groups, phase, kernel)]


def work_of(
    groups: tuple[HeadGroup, ...], phase: str, kernel: KernelTraits | None = None
) -> dict[str, AttentionKernel]:
    return {each.name: each for each in forward(groups, phase, kernel) if isinstance(each, AttentionKernel)}


GROUPS = (HeadGroup(0.5, Pattern("window", 16.0)), HeadGroup(0.25, StridedBlocks(block=4.0, local=2.0, stride=2.0)),
          HeadGroup(0.25, Pattern()))  # fmt: skip


def test_a_mix_of_patterns_is_a_kernel_each_with_its_own_pairs_and_bytes() -> None:
    prefill, decode = work_of(GROUPS, "prefill"), work_of(GROUPS, "decode")
    for group in GROUPS:
        name = f"attention core ({group.pattern.kind})"
        heads, width = group.share * GQA.q_heads, GQA.head_dim + GQA.v_head_dim
        core = prefill[name]
        assert core.flop == 2 * core.sequences * heads * group.pattern.pairs(64.0, 64.0, causal=True) * width
        step = decode[name]
        cache = step.sequences * group.share * GQA.kv_heads * group.pattern.keys_read(1.0, 64.0) * width * 2
        assert step.traffic == cache + step.sequences * heads * width * 2


def test_masked_kernels_compute_all_pairs_and_gathered_ones_copy_keys() -> None:
    window = (HeadGroup(1.0, Pattern("window", 16.0)),)
    masked = work_of(window, "prefill", KernelTraits(realised="masked"))["attention core"]
    assert masked.qk_pairs == 64 * 65 / 2
    assert "key gather" in names(window, "decode", KernelTraits(realised="gathered"))
    assert "softmax" in names(window, "prefill", KernelTraits(materialised=True))
    assert "score edit" in names(window, "decode", KernelTraits(materialised=True))


def test_routed_heads_skip_the_work_of_inactive_ones_only_if_realised() -> None:
    route = HeadRoute(shared=GQA.q_heads / 2, routed=GQA.q_heads / 2, top_k=GQA.q_heads / 4)
    assert route.active_share == 0.75
    routed = replace(GQA, route=route, kernel=KernelTraits(realised="gathered"))
    masked = replace(GQA, route=route, kernel=KernelTraits(realised="masked"))

    by_norms = replace(routed, route=replace(route, router="query_norm"))

    def flop(mixer: Attention, name: str = "attention core") -> float:
        model = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], mixer=mixer),))
        work = model_work(context(model, phase="prefill", new_tokens=64.0, kv_len=64.0)).layers[0]
        return float(sum(getattr(each, "flop", 0.0) for each in work.forward if each.name == name))

    assert flop(routed) == flop(by_norms) == 0.75 * flop(GQA)
    assert flop(masked) == flop(GQA)
    assert (
        flop(routed, "output projection")
        == flop(by_norms, "output projection")
        == 0.75 * flop(GQA, "output projection")
    )
    assert flop(routed, "qkv projection") < flop(GQA, "qkv projection")
    assert flop(by_norms, "qkv projection") == flop(GQA, "qkv projection")  # the router needs all queries
