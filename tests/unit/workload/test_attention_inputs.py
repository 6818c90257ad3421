"""Attention with keys of another sequence, convolutions, relative scores and joined channels: against hand counts."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, context

from costmodel.records import replace
from costmodel.workload.architecture import Attention, DenseFfn, KernelTraits, KvSource, Layer, NoFfn
from costmodel.workload.kv_cache import cached_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.mixers import MilPool
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.patterns import Chunked
from costmodel.workload.scenario import Parallelism
from costmodel.workload.work import LayerWork

HEADS, WIDTH, HIDDEN, TOKENS = 4.0, 8.0, 32.0, 10.0
PLAIN = Attention(HEADS, HEADS, WIDTH, WIDTH, causal=False, rotary=False)


def work(mixer: Attention | MilPool, phase: str = "prefill", norm: str = "rms", kv_len: float = TOKENS) -> LayerWork:
    model = replace(DENSE_MODEL, hidden=HIDDEN, layers=(Layer(1, mixer, NoFfn(), norm=norm),))
    tokens = 1.0 if phase == "decode" else TOKENS
    return model_work(context(model, phase=phase, new_tokens=tokens, kv_len=kv_len, sequences=2.0)).layers[0]


def named(found: LayerWork, name: str) -> Operator:
    (operator,) = (one for one in found.forward if one.name == name)
    return operator


def parameters(found: LayerWork, name: str) -> float:
    return float(sum(one.total for one in found.parameters if one.name == name))


def test_keys_of_another_sequence_are_projected_from_their_own_width_and_attended_to() -> None:
    found = work(replace(PLAIN, kv_source=KvSource(tokens=7.0, width=20.0)))
    query, pair = named(found, "query projection"), named(found, "key and value projection")
    assert isinstance(query, Gemm)
    assert isinstance(pair, Gemm)
    assert (query.m, query.k, query.n) == (2 * 10, 32, 4 * 8)
    assert (pair.m, pair.k, pair.n) == (2 * 7, 20, 4 * (8 + 8))
    assert parameters(found, "key and value projection") == 20 * 4 * 16
    core = named(found, "attention core")
    assert isinstance(core, AttentionKernel)
    assert core.qk_pairs == 10 * 7
    assert core.kv_len == 7


def test_a_decoding_step_reads_them_and_projects_none() -> None:
    mixer = replace(PLAIN, keeps=True, kv_source=KvSource(tokens=7.0, width=20.0))
    found = work(mixer, phase="decode", kv_len=100.0)
    assert not any(one.name in ("key and value projection", "kv cache write") for one in found.forward)
    assert parameters(found, "key and value projection") == 20 * 4 * 16  # they are there all the same
    core = named(found, "attention core")
    assert isinstance(core, AttentionKernel)
    assert (core.qk_pairs, core.kv_len) == (7, 7)
    assert cached_bytes(mixer, 100.0, 2.0, 1.0) == 7 * 4 * 16 * 2


def test_a_quarter_of_the_tokens_has_keys_and_values() -> None:
    found = work(replace(PLAIN, kv_source=KvSource(share=0.25)), kv_len=40.0)
    pair, core = named(found, "key and value projection"), named(found, "attention core")
    assert isinstance(pair, Gemm)
    assert isinstance(core, AttentionKernel)
    assert pair.m == 2 * 10 * 0.25
    assert core.qk_pairs == 10 * 40 * 0.25


def test_convolutions_read_and_write_queries_keys_and_values_once() -> None:
    found = work(replace(PLAIN, conv_taps=9.0))
    convolution = named(found, "query, key, value convolution")
    elements = 2 * 10 * 3 * 4 * 8
    assert isinstance(convolution, Elementwise)
    assert convolution.traffic == 2 * elements * 2
    assert convolution.flop == 2 * 9 * elements
    assert parameters(found, "query, key, value convolution") == 9 * 3 * 32


def test_relative_positions_are_a_second_product_a_shift_and_a_sum() -> None:
    mixer = replace(PLAIN, score="relative", kernel=KernelTraits(materialised=True))
    found, plain = work(mixer), work(replace(mixer, score="dot"))
    product, positions = named(found, "position scores"), named(found, "position projection")
    assert isinstance(product, Gemm)
    assert isinstance(positions, Gemm)
    assert (product.m, product.n, product.k, product.groups) == (10, 10, 8, 2 * 4)
    assert (positions.m, positions.k, positions.n) == (10, 32, 32)  # once for both sequences
    assert parameters(found, "position projection") == 32 * 32 + 2 * 32
    pairs = 2 * 4 * 10 * 10
    more = sum(one.traffic for one in found.forward if isinstance(one, Elementwise))
    less = sum(one.traffic for one in plain.forward if isinstance(one, Elementwise))
    assert more - less == (2 + 3) * pairs * 2


def test_phases_take_a_cosine_for_every_pair_and_two_elements() -> None:
    found = work(replace(PLAIN, score="phase", kernel=KernelTraits(materialised=True)))
    cosines = named(found, "score phases")
    assert isinstance(cosines, Elementwise)
    assert cosines.flop == cosines.special == 2 * 4 * 10 * 10 * (8 / 2)
    assert cosines.traffic == 2 * (2 * 4 * 10 * 10) * 2


def test_attended_channels_join_the_others_and_pass_an_activation() -> None:
    mixer = Attention(1.0, 1.0, 4.0, 12.0, causal=False, rotary=False, partial=12.0, output_activation=True)
    found = work(mixer)
    assert named(found, "channel join").traffic == 2 * 20 * 32 * 2
    assert named(found, "output activation").traffic == 2 * 20 * 32 * 2


def test_one_by_one_convolutions_of_channels_first_tensors_are_transposed() -> None:
    mixer = Attention(1.0, 1.0, 4.0, 12.0, causal=False, rotary=False, partial=12.0)
    first = replace(mixer, kernel=KernelTraits(channels_first=True))
    found = [one for one in work(first).forward if one.name == "channel transposition"]
    assert [one.traffic for one in found if isinstance(one, Elementwise)] == [
        2 * 20 * (12 + 4 + 4 + 12) * 2, 2 * 20 * (32 + 32) * 2,
    ]  # fmt: skip
    assert not any(one.name == "channel transposition" for one in work(mixer).forward)


def test_so_are_those_of_an_ffn() -> None:
    layer = Layer(1, PLAIN, DenseFfn(64.0, gated=False, channels_first=True))
    model = replace(DENSE_MODEL, hidden=HIDDEN, layers=(layer,))
    for tp in (1.0, 2.0):  # ranks split the inner channels, and each has all of the input and of the result
        parts = context(model, Parallelism(tp=tp), phase="prefill", new_tokens=TOKENS, kv_len=TOKENS, sequences=2.0)
        found = model_work(parts).layers[0].forward
        sizes = [one.traffic for one in found if one.name == "channel transposition"]
        assert sizes == [2 * 20 * (32 + 64 / tp) * 2] * 2


def test_a_layer_without_norms_has_no_residual_sums() -> None:
    found = work(PLAIN, norm="none")
    assert not any("norm" in one.name for one in found.forward)
    assert not any("norm" in one.name for one in found.parameters)


def test_a_gated_pool_multiplies_its_gates_and_takes_a_softmax_over_the_bag() -> None:
    found = work(MilPool(branches=5.0, inner=16.0), norm="none")
    assert named(found, "gate product").traffic == 3 * 20 * 16 * 2
    assert named(found, "instance softmax").traffic == 2 * 20 * 5 * 2


@pytest.mark.parametrize(("prefix", "mean"), [(0.0, 74.5), (20.0, 84.5)])
def test_a_decoding_query_stands_behind_the_prefix_of_its_chunk(prefix: float, mean: float) -> None:
    """Places prefix + 1 to 148 of a chunk, one by one."""
    places = [place for place in range(1, 149) if place > prefix]
    assert sum(places) / len(places) == mean
    assert Chunked(chunk=148.0, prefix=prefix).keys_read(1.0, 10_000.0) == mean
