"""Layers of networks that denoise: convolutions, residual blocks, streams of text, modulation, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from builders import FRAMEWORK, context

from costmodel.records import replace
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    Convolution,
    Denoiser,
    DenseFfn,
    KvSource,
    Layer,
    Mixer,
    NoFfn,
    PlainProjection,
    ResidualBlock,
)
from costmodel.workload.context import Context
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.layers import layer_context, model_work
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm
from costmodel.workload.scenario import Framework, Parallelism
from costmodel.workload.work import LayerWork

D, H, F = 256.0, 4.0, 1024.0  # width, heads, width of the FFN
PLACES, TEXT = 300.0, 77.0
EAGER = replace(FRAMEWORK, training=TrainingProgram(eager="layers"))
MIXER = Attention(q_heads=H, kv_heads=H, head_dim=D / H, v_head_dim=D / H, causal=False, rotary=False)
LATENTS = Denoiser(channels=16.0, compression=8.0, patch=2.0, text_tokens=TEXT)
STREAMS = Layer(1, MIXER, DenseFfn(F, gated=False), norm="plain", text="own", modulation="matrix")


def network(*layers: Layer, denoiser: Denoiser = LATENTS) -> Architecture:
    return Architecture("denoiser", D, 1.0, layers, features=True, denoiser=denoiser)


def view(model: Architecture, framework: Framework = FRAMEWORK, **words: object) -> Context:
    whole = {"sequences": 2.0, "new_tokens": PLACES, "kv_len": PLACES, "text_tokens": TEXT} | words
    return replace(context(model, phase="prefill"), framework=framework, **whole)


def layer(one: Layer, framework: Framework = FRAMEWORK, **words: object) -> LayerWork:
    return model_work(view(network(one), framework, **words)).layers[0]


def flop(work: LayerWork, kind: type = Gemm) -> float:
    return float(sum(each.flop for each in work.forward if isinstance(each, kind)))


def parameters(work: LayerWork) -> float:
    return float(sum(each.total for each in work.parameters))


def traffic(work: LayerWork, *names: str) -> float:
    return float(sum(each.traffic for each in work.forward if isinstance(each, Elementwise) and each.name in names))


def only(mixer: Mixer, **words: object) -> Layer:
    return Layer(1, mixer, NoFfn(), norm="none", **words)  # type: ignore[arg-type]


def test_a_convolution_over_frames_multiplies_every_tap() -> None:
    """3 x 3 x 3 taps from 8 to 16 channels at 2 * 300 places; a causal one pads before the first frame only."""
    work = layer(only(Convolution(3.0, inputs=8.0, frames=3.0), width=16.0))
    counted = 0
    for _ in range(2 * 300):
        for _ in range(3 * 3 * 3):
            counted += 8 * 16
    assert flop(work) == 2 * counted
    assert parameters(work) == 27 * 8 * 16
    (product,) = (each for each in work.forward if isinstance(each, Gemm))
    assert (product.m, product.n, product.k) == (600, 16, 27 * 8)
    assert product.traffic == pytest.approx(2 * (600 * 8 + 27 * 8 * 16 + 600 * 16))  # each element once


def test_one_tap_is_a_linear_layer() -> None:
    convolution = layer(only(Convolution(1.0, inputs=D)))
    linear = layer(only(PlainProjection()))
    assert flop(convolution) == flop(linear)
    assert parameters(convolution) == parameters(linear)


def test_a_convolution_of_one_frame_is_that_of_an_image() -> None:
    image, video = (layer(only(Convolution(3.0, inputs=8.0, frames=each))) for each in (1.0, 3.0))
    assert 3 * flop(image) == flop(video)


def test_an_enlarged_grid_is_read_once_and_written_four_times() -> None:
    work = layer(only(Convolution(3.0, enlarged=4.0)))
    assert traffic(work, "enlargement") == 600 * D * (1 + 1 / 4) * 2
    assert flop(work) == flop(layer(only(Convolution(3.0))))


def test_a_residual_block_has_two_convolutions_a_shortcut_and_a_time_step() -> None:
    """From 96 + 32 channels to 64, with a vector of 320 for each of two sequences."""
    work = layer(only(ResidualBlock(inputs=128.0, time=320.0, skip=32.0), width=64.0))
    assert flop(work) == 2 * 600 * (9 * 128 * 64 + 9 * 64 * 64 + 128 * 64) + 2 * 2 * 320 * 64
    assert parameters(work) == 9 * 128 * 64 + 9 * 64 * 64 + 128 * 64 + 321 * 64 + 2 * 128 + 2 * 64
    assert traffic(work, "skip join") == 2 * 600 * 128 * 2
    assert traffic(work, "group norm") == 3 * 600 * (128 + 64) * 2  # a group's statistics read the grid once more


def test_a_residual_block_that_keeps_its_width_has_no_shortcut() -> None:
    assert parameters(layer(only(ResidualBlock()))) == 2 * 9 * D * D + 4 * D


def test_two_streams_have_matrices_of_their_own_and_one_core() -> None:
    """d: width, f: of the FFN; n image and t text tokens; S sequences. Modulation has a row for each sequence."""
    work = layer(STREAMS)
    matrices = 4 * D * D + 2 * D * F  # query, key, value and output; up and down
    modulation = 6 * D * D
    assert flop(work) == 2 * 2 * (PLACES + TEXT) * matrices + 2 * 2 * (2 * modulation)
    assert flop(work, AttentionKernel) == 2 * 2 * 2 * D * (PLACES + TEXT) ** 2
    assert parameters(work) == 2 * (matrices + modulation + 6 * D)
    cores = [each for each in work.forward if isinstance(each, AttentionKernel)]
    assert [each.q_len for each in cores] == [PLACES + TEXT]
    assert {each.name for each in work.forward} >= {"qkv projection", "text: qkv projection", "text: ffn down"}


def test_a_text_that_is_only_read_has_no_result() -> None:
    own, read = layer(STREAMS), layer(replace(STREAMS, text="read"))
    assert parameters(own) - parameters(read) == D * D + 2 * D * F + 3 * D * D + 3 * D
    assert flop(own, AttentionKernel) == flop(read, AttentionKernel)


def test_a_joined_text_is_more_tokens_of_the_same_matrices() -> None:
    joined = layer(replace(STREAMS, text="joined"))
    alone = layer(replace(STREAMS, text="none"), new_tokens=PLACES + TEXT, kv_len=PLACES + TEXT)
    assert flop(joined) == flop(alone)
    assert parameters(joined) == parameters(alone)


def test_no_text_is_no_stream() -> None:
    assert flop(layer(replace(STREAMS, text="joined"), text_tokens=0.0)) == flop(layer(replace(STREAMS, text="none")))


def test_modulation_by_a_table_has_no_matrix() -> None:
    none, table = (layer(replace(STREAMS, text="none", modulation=kind)) for kind in ("none", "table"))
    assert parameters(table) - parameters(none) == 6 * D
    assert flop(table) == flop(none)


def test_fused_kernels_apply_the_modulation_and_eager_ones_read_the_tokens_again() -> None:
    one = replace(STREAMS, text="none")
    assert traffic(layer(one), "attention modulation") == 0
    assert traffic(layer(one, EAGER), "attention modulation") == 6 * 600 * D * 2  # product, sum and gate, 2 each


def test_rotation_and_norms_of_queries_and_keys_are_many_kernels_where_each_operator_is_one() -> None:
    one = replace(STREAMS, text="none", mixer=replace(MIXER, rotary=True, qk_norm="head"))
    both = 600 * 2 * D * 2  # bytes of queries and keys
    assert traffic(layer(one), "rotary") == traffic(layer(one), "query-key norm") == 2 * both
    assert traffic(layer(one, EAGER), "rotary") == 26 * both
    assert traffic(layer(one, EAGER), "query-key norm") == 18 * both
    assert traffic(layer(one, replace(EAGER, fused_norms=True)), "query-key norm") == 2 * both


def test_frames_behind_the_first_are_more() -> None:
    """A latent of 9 frames stands for 33, one of 1 frame for one."""
    one = Layer(1, MIXER, NoFfn(), scale=64.0, frame_scale=4.0)
    for frames, ratio in ((9.0, 33 / 9), (1.0, 1.0)):
        found = layer_context(view(network(one), frames=frames), one)
        assert found.new_tokens == pytest.approx(PLACES * 64 * ratio)


def test_ranks_exchange_no_keys_of_a_text_that_each_of_them_has() -> None:
    cross = replace(MIXER, kv_source=KvSource(tokens=TEXT))
    for scheme in ("gather", "ring", "ulysses"):
        parallel = Parallelism(cp=2.0, context=scheme)  # type: ignore[arg-type]
        work = layer(replace(STREAMS, text="none", mixer=cross), parallel=parallel)
        assert all(np.all(each.group.size == 1) for each in work.forward if isinstance(each, Collective))
        (core,) = (each for each in work.forward if isinstance(each, AttentionKernel))
        assert (core.heads, core.q_len, core.qk_pairs, core.kv_len) == (H, PLACES / 2, PLACES / 2 * TEXT, TEXT)


def test_degree_one_of_context_parallelism_moves_nothing() -> None:
    messages = [each for each in layer(STREAMS).forward if isinstance(each, Collective)]
    assert all(each.group.size == 1 for each in messages)


def test_the_work_of_two_ranks_is_that_of_one() -> None:
    whole = layer(STREAMS)
    for scheme in ("gather", "ring", "ulysses"):
        half = layer(STREAMS, parallel=Parallelism(cp=2.0, context=scheme))  # type: ignore[arg-type]
        rows = 2 * 2 * 2 * 6 * D * D  # modulation, which each rank computes
        assert 2 * (flop(half) - rows) == pytest.approx(flop(whole) - rows)
        assert 2 * flop(half, AttentionKernel) == pytest.approx(flop(whole, AttentionKernel))


def test_patches_enter_and_leave() -> None:
    """A token of 2 x 2 latents with 16 channels is 64 numbers; more may enter, such as those of a masked image."""
    work = model_work(view(network(STREAMS)))
    assert sum(float(each.total) for each in work.embedding.parameters) == 64 * D + D
    assert sum(float(each.total) for each in work.head.parameters) == 64 * D + 64 + 2 * D * D + 2 * D
    filled = model_work(view(network(STREAMS, denoiser=replace(LATENTS, inputs=384.0))))
    assert sum(float(each.total) for each in filled.embedding.parameters) == 384 * D + D
