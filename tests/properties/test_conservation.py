"""However a model is sharded, its ranks together do the work, and hold the parameters, of one rank that has it all."""

from __future__ import annotations

from collections import defaultdict

import pytest
from builders import FRAMEWORK, UNFUSED, context
from hypothesis import given
from hypothesis import strategies as st

from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    DenseFfn,
    Ffn,
    HeadGroup,
    Layer,
    Mixer,
    Mla,
    MoeFfn,
    Mtp,
    Pattern,
    stage_layout,
)
from costmodel.workload.context import Context
from costmodel.workload.layers import model_work
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import AttentionKernel, Gemm
from costmodel.workload.scenario import Framework, Parallelism

FRAMEWORKS = (FRAMEWORK, UNFUSED)
PHASES = ("training", "prefill", "decode")

# Every tensor-parallel rank repeats these products in full; all others are split.
REPLICATED = frozenset({"latent projection", "router", "mtp projection"})
# ... and keeps these parameters in full.
KEPT_WHOLE = REPLICATED | {"position table"}


@st.composite
def mixers(draw: st.DrawFn) -> Mixer:
    if draw(st.booleans()):
        return Mla(
            heads=16.0, q_lora=draw(st.sampled_from([None, 96.0])), kv_lora=64.0, nope_dim=32.0, rope_dim=16.0,
            v_head_dim=draw(st.sampled_from([32.0, 48.0])),
        )  # fmt: skip
    groups = draw(
        st.sampled_from(
            [(HeadGroup(1.0, Pattern()),), (HeadGroup(0.5, Pattern()), HeadGroup(0.5, Pattern("window", 100.0)))]
        )
    )
    kv_heads = draw(st.sampled_from([2.0, 8.0, 16.0]))
    return Attention(
        16.0, kv_heads, 32.0, 48.0, causal=draw(st.booleans()), bias=draw(st.booleans()), head_groups=groups
    )


@st.composite
def ffns(draw: st.DrawFn) -> Ffn:
    if draw(st.booleans()):
        return DenseFfn(384.0, gated=draw(st.booleans()), bias=draw(st.booleans()))
    return MoeFfn(
        experts=32.0, intermediate=64.0, top_k=draw(st.integers(1, 6)), shared=draw(st.sampled_from([1.0, 2.0]))
    )


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    layers = draw(
        st.lists(
            st.builds(Layer, st.integers(1, 5), mixers(), ffns(), norm=st.sampled_from(["rms", "layer"])),
            min_size=1,
            max_size=3,
        )
    )
    return Architecture(
        "random",
        256.0,
        4096.0,
        tuple(layers),
        tied_embeddings=draw(st.booleans()),
        positions=draw(st.sampled_from([None, 512.0])),
        mtp=draw(st.sampled_from([None, Mtp(1)])),
    )


@st.composite
def layouts(draw: st.DrawFn) -> Parallelism:
    """Draw degrees that divide everything above."""
    tp, dp, cp, pp = (float(draw(st.sampled_from(choices))) for choices in ([1, 2, 4, 8], [1, 2, 4], [1, 2], [1, 2, 3]))
    ep = float(draw(st.sampled_from([degree for degree in (1, 2, 4, 8, 16) if tp * dp * cp % degree == 0])))
    slices = [None, *(float(degree) for degree in (1, 2, 4) if tp * dp * cp % (ep * degree) == 0)]
    context = draw(st.sampled_from(["gather", "ring", "ulysses"]))
    return Parallelism(
        tp=tp, pp=pp, dp=dp, ep=ep, cp=cp,
        expert_tensor=draw(st.sampled_from(slices)), sequence_parallel=draw(st.booleans()), context=context,
    )  # fmt: skip


def view(architecture: Architecture, parallel: Parallelism, phase: str, dp: Quantity) -> Context:
    """Return what one rank sees of eight sequences over `dp` data-parallel ranks."""
    length, keys = (1.0, 512.0) if phase == "decode" else (512.0, 512.0)
    return context(architecture, parallel, phase, 8.0 / dp, length, keys)


def flop_by_operator(seen: Context, pipeline: int) -> dict[str, float]:
    """Return the FLOP of one rank of every pipeline stage, by operator; what several ranks repeat is counted once."""
    work = model_work(seen)
    totals: dict[str, float] = defaultdict(float)
    for stage in stage_layout(seen.architecture, pipeline):
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if isinstance(operator, Gemm | AttentionKernel):
                    totals[operator.name] += count * float(operator.flop / operator.replicas)
    return totals


@pytest.mark.parametrize("phase", PHASES)
@given(framework=st.sampled_from(FRAMEWORKS), architecture=architectures(), parallel=layouts())
def test_flop_summed_over_ranks_equal_the_unsharded_count(
    phase: str, framework: Framework, architecture: Architecture, parallel: Parallelism
) -> None:
    ranks = parallel.tp * parallel.cp * parallel.dp
    whole = replace(view(architecture, Parallelism(), phase, 1.0), framework=framework)
    split = replace(view(architecture, parallel, phase, parallel.dp), framework=framework)
    unsharded = flop_by_operator(whole, 1)
    sharded = flop_by_operator(split, int(parallel.pp))
    assert sharded.keys() == unsharded.keys()
    for name, flop in unsharded.items():
        assert sharded[name] * ranks == pytest.approx(flop, rel=1e-9), name


@given(architecture=architectures(), parallel=layouts())
def test_only_named_products_are_repeated(architecture: Architecture, parallel: Parallelism) -> None:
    work = model_work(view(architecture, parallel, "training", parallel.dp))
    parts = [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]
    for part in parts:
        for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
            if not isinstance(operator, Gemm) or operator.replicas == 1.0:
                continue
            name = operator.name.removesuffix(" input gradient").removesuffix(" weight gradient")
            assert name in REPLICATED | {"qkv projection"}
            if name == "qkv projection":  # key-value heads are repeated where there are fewer than ranks
                assert parallel.tp > 2
            else:
                assert operator.replicas == parallel.tp


@given(architecture=architectures(), parallel=layouts())
def test_parameters_summed_over_ranks_equal_the_model_s(architecture: Architecture, parallel: Parallelism) -> None:
    work = model_work(view(architecture, parallel, "training", parallel.dp))
    etp = parallel.etp
    for layer, part in zip((None, *architecture.layers, None), (work.embedding, *work.layers, work.head), strict=True):
        for item in part.parameters:
            if item.expert:
                assert item.local * parallel.ep * etp == pytest.approx(item.total), item.name
            elif item.name in KEPT_WHOLE or item.name.endswith("norm"):
                assert item.local == item.total, item.name
            elif item.name in {"output projection", "ffn down"}:
                bias = 256.0 if item.total % parallel.tp or _has_bias(layer, item.name) else 0.0
                assert item.local - bias == pytest.approx((item.total - bias) / parallel.tp), item.name
            elif item.name == "qkv projection":
                assert layer is not None
                assert isinstance(layer.mixer, Attention)
                assert item.local == pytest.approx(_qkv_parameters(layer.mixer, parallel.tp)), item.name
            else:
                assert item.local * parallel.tp == pytest.approx(item.total), item.name


def _has_bias(layer: Layer | None, name: str) -> bool:
    if layer is None:
        return False
    if name == "ffn down":
        return isinstance(layer.ffn, DenseFfn) and layer.ffn.bias
    return isinstance(layer.mixer, Attention) and layer.mixer.bias


def _qkv_parameters(mixer: Attention, tp: Quantity) -> float:
    """Return the query, key and value projection of one rank: at least one key-value head each."""
    kv_heads = max(float(mixer.kv_heads / tp), 1.0)
    columns = float(mixer.q_heads / tp * mixer.head_dim + kv_heads * (mixer.head_dim + mixer.v_head_dim))
    return columns * (256.0 + mixer.bias)


@given(architecture=architectures(), pipeline=st.integers(1, 6))
def test_pipeline_stages_hold_every_layer_once(architecture: Architecture, pipeline: int) -> None:
    stages = stage_layout(architecture, pipeline)
    held = [sum(stage.layers[index] for stage in stages) for index in range(len(architecture.layers))]
    assert held == [layer.repeat for layer in architecture.layers]
    assert [sum(end) for end in zip(*((stage.embedding, stage.head) for stage in stages), strict=True)] == [1, 1]
    assert sum(stage.mtp for stage in stages) == (0 if architecture.mtp is None else architecture.mtp.depth)
