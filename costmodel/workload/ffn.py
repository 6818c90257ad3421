"""Feed-forward parts: dense, and mixture of experts with its all-to-all."""

from __future__ import annotations

from collections.abc import Callable

from costmodel.quantities import Bytes, Count, is_single
from costmodel.records import Record, replace
from costmodel.workload import linear
from costmodel.workload.architecture import DenseFfn, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.expert_exchange import (
    FusedExperts,
    Messages,
    exchange_messages,
    gathered_tokens,
    is_gathered,
    own_rows,
    pool_messages,
    slice_collectives,
    travelling_element,
)
from costmodel.workload.expert_load import ExpertLoad, expert_load, routed_tokens, served_tokens
from costmodel.workload.norms import add_norm
from costmodel.workload.operators import Elementwise, HostTransfer, Operator
from costmodel.workload.scenario import Parallelism
from costmodel.workload.work import WorkBuilder


def add_dense_ffn(builder: WorkBuilder, context: Context, ffn: DenseFfn, *, owns_input: bool = True) -> None:
    """Add up projection (with its gate), activation, down projection. Parameters: 2 or 3 * d * f.

    owns_input: it casts and saves its input. Otherwise the parallel mixer does.
    """
    mlp = _Mlp(
        "ffn", width=ffn.intermediate, gated=ffn.gated, bias=ffn.bias, casts_input=owns_input, saves_input=owns_input
    )
    if ffn.channels_first:
        hidden, inner = context.architecture.hidden, ffn.intermediate / context.parallel.tp
        up = (2.0 if ffn.gated else 1.0) * inner
        linear.add_transposition(builder, context, context.tokens * (hidden + up), operator="ffn_up")
        linear.add_transposition(builder, context, context.tokens * (inner + hidden), operator="ffn_down")
    _add_mlp(builder, context, mlp)


class _Mlp(Record):
    """Up projection, activation and down projection on every token, for `count` experts in parallel."""

    name: str
    width: Count
    gated: bool
    bias: bool
    casts_input: bool
    saves_input: bool
    count: Count = 1.0


def _add_mlp(builder: WorkBuilder, context: Context, mlp: _Mlp) -> None:
    hidden, tokens = context.architecture.hidden, context.tokens
    up_width = (2.0 if mlp.gated else 1.0) * mlp.width
    up = linear.Linear(
        f"{mlp.name} up", operator="ffn_up", producer="norm", rows=tokens, inputs=hidden, outputs=up_width,
        split="columns", gathered=True, bias=up_width if mlp.bias else 0.0, cast_input=mlp.casts_input,
        saved_element=None if mlp.saves_input else 0.0, parts=_halves(gated=mlp.gated),
    )  # fmt: skip
    down = linear.Linear(
        f"{mlp.name} down", operator="ffn_down", producer="activation", rows=tokens, inputs=mlp.width, outputs=hidden,
        split="rows", bias=mlp.count * hidden if mlp.bias else 0.0,
    )  # fmt: skip
    linear.add_linear(builder, context, up)
    _add_activation(
        builder, context, f"{mlp.name} activation", tokens, mlp.width / context.parallel.tp, gated=mlp.gated
    )
    linear.add_linear(builder, context, down)


def _halves(*, gated: bool) -> tuple[tuple[str, float], ...]:
    """Return the layers that an up projection joins, with their shares of its outputs."""
    return (("gate", 0.5), ("up", 0.5)) if gated else (("up", 1.0),)


def _add_activation(
    builder: WorkBuilder, context: Context, name: str, rows: Count, width: Count, *, gated: bool
) -> None:
    """Add the activation between two GEMMs. Saved: its inputs, in the format of saved activations.

    Forward reads its one or two inputs and writes one. Backward reads them and dy, writes one or two gradients.
    Unfused, the product with the gate is a kernel of its own, which reads two inputs and writes one. Backward two.
    """
    inputs = 2.0 if gated else 1.0
    size = rows * width * context.residual
    if gated and context.framework.training.is_unfused:
        forward = [
            Elementwise(name, 2 * size, kind="activation", rows=rows),
            Elementwise(f"{name} gate", 3 * size, kind="add", rows=rows),
        ]
        backward = [
            Elementwise(f"{name} gate gradient", 6 * size, kind="add", rows=rows, calls=2.0),
            Elementwise(f"{name} gradient", 3 * size, rows=rows),
        ]
    else:
        forward = [Elementwise(name, (inputs + 1) * size, kind="activation", rows=rows)]
        backward = [Elementwise(f"{name} gradient", (2 * inputs + 1) * size, rows=rows)]
    builder.step("activation", forward, backward)
    builder.save(f"{name} input", "ffn_up", rows * width * inputs * context.saved_element)


def add_moe(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, owns_input: bool = True) -> None:
    """Add router, dispatch, routed and shared experts, combine.

    Parameters: (E + n_s)*3*d*f + d*(E + z), 2 for 3 without gates and z experts without weights. A token visits k
    routed and n_s shared experts. With a latent width l, routed experts are l wide instead of d, and there are 2*d*l
    more. owns_input: as of a dense FFN.
    """
    hidden, tokens = context.architecture.hidden, context.residual_tokens
    choices = ffn.experts + ffn.zero
    _add_router(builder, context, "router", choices, bias=choices if ffn.router_bias else 0.0)
    if ffn.router_extra is not None:
        _add_score_smoothing(builder, context, ffn)
    routed, is_fused = context.part("experts"), _is_fused(context)
    has_shared = _may_exist(ffn.shared)
    if routed.casts_inputs and owns_input and (has_shared or not (is_fused or routed.casts_rows)):
        # One cast serves the dispatched tokens and the shared expert.
        size = tokens * hidden * (routed.residual + routed.gemm_element)
        builder.step("norm", [Elementwise("expert input cast", size, kind="cast", rows=tokens)])
    _add_experts(builder, context, ffn, owns_input=owns_input)
    size = tokens * hidden * context.residual
    if not is_fused:
        builder.elementwise("combine", Elementwise("expert sum", 4 * size, kind="permute"), 4 * size)
    elif has_shared or _may_exist(ffn.zero):
        builder.step("combine", [Elementwise("shared expert sum", 3 * size, kind="add", rows=tokens)])


def _may_exist(count: Count) -> bool:
    """Tell whether some point of a grid has more than none."""
    return not (is_single(count) and count == 0)


def _add_router(builder: WorkBuilder, context: Context, name: str, outputs: Count, bias: Count = 0.0) -> None:
    """Add a small GEMM in the router's format over the tokens of the residual stream."""
    linear.add_linear(builder, context, linear.Linear(
        name, operator="router", producer="norm", rows=context.residual_tokens, inputs=context.architecture.hidden,
        outputs=outputs, dtype=context.precision.router, saved_element=0.0, bias=bias,
        replicas=1.0 if context.parallel.sequence_parallel else context.parallel.tp,
    ))  # fmt: skip


def _add_score_smoothing(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add the smoothing of router scores over the tokens of a sequence: [S, d] x [d, T], or [S, T] x [T, E]."""
    if ffn.router_extra == "attention_matrix":
        m, n, k = context.q_len, ffn.experts, context.kv_len
    else:
        m, n, k = context.q_len, context.kv_len, context.architecture.hidden
    name, dtype = "score smoothing", context.precision.router
    forward, dx, dw = (
        linear.batched_gemm(title, shape, context.sequences, dtype, ELEMENT_BYTES[dtype])
        for title, shape in ((name, (m, n, k)), (f"{name} gradient", (m, k, n)), (f"{name} gradient", (k, n, m)))
    )
    builder.step("router", [forward], [dx, dw])


def _add_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, owns_input: bool) -> None:
    """Add shared and routed experts, one after the other. Concurrently where the host computes the routed ones."""
    has_shared = _may_exist(ffn.shared)
    on_host = context.offload.hosts_experts
    if context.parallel.expert_pool is not None:
        if has_shared:
            _add_shared_experts(builder, context.part("shared_experts"), ffn, owns_input=owns_input)
        _add_latent(builder, context.part("experts"), ffn, _add_pooled_experts)
        return
    if on_host:
        _add_latent(builder, context.part("experts"), ffn, _add_host_experts)
    first = builder.position
    if has_shared:
        _add_shared_experts(builder, context.part("shared_experts"), ffn, owns_input=owns_input)
    if on_host:
        builder.overlap_host_work(first)
    else:
        _add_latent(builder, context.part("experts"), ffn, _add_routed_experts)


def _add_latent(
    builder: WorkBuilder, context: Context, ffn: MoeFfn, add: Callable[[WorkBuilder, Context, MoeFfn], None]
) -> None:
    """Add routed experts by `add`, between the projections to a latent width and back where the model has one.

    Both are of every token on every rank of a tensor-parallel group [NVIDIA, Nemotron 3 white paper: LatentMoE].
    """
    if ffn.latent is None:
        add(builder, context, ffn)
        return
    hidden, rows = context.architecture.hidden, context.residual_tokens
    replicas = 1.0 if context.parallel.sequence_parallel else context.parallel.tp
    linear.add_linear(builder, context, linear.Linear(
        "latent down", operator="ffn_up", producer="norm", rows=rows, inputs=hidden, outputs=ffn.latent,
        replicas=replicas, saved_element=0.0,
    ))  # fmt: skip
    narrow = replace(context, architecture=replace(context.architecture, hidden=ffn.latent))
    add(builder, narrow, ffn)
    if ffn.latent_norm:
        add_norm(builder, context, "latent norm", "rms", rows, ffn.latent)
    linear.add_linear(builder, context, linear.Linear(
        "latent up", operator="ffn_down", producer="combine", rows=rows, inputs=ffn.latent, outputs=hidden,
        replicas=replicas,
    ))  # fmt: skip


def _add_shared_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, owns_input: bool) -> None:
    """Add the shared experts as one dense FFN on every token. Their input is cast with the dispatched tokens.

    A gate is a GEMM with one column. Its factor is applied in the expert sum, and its gradient needs their result.
    """
    width = ffn.intermediate if ffn.shared_intermediate is None else ffn.shared_intermediate
    mlp = _Mlp(
        "shared expert", width=ffn.shared * width, gated=ffn.gated, bias=ffn.bias, casts_input=False,
        saves_input=owns_input, count=ffn.shared,
    )  # fmt: skip
    _add_mlp(builder, context, mlp)
    if ffn.shared_gate:
        _add_router(builder, context, "shared expert gate", 1.0)
        size = context.residual_tokens * context.architecture.hidden * context.residual
        builder.save("shared expert output", "ffn_down", size)


def _add_pooled_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add routed experts that devices of their own hold: P of them, for the tokens of D data-parallel groups.

    They are what P expert-parallel ranks of D*T/P tokens each have. A message carries tokens there, another one back.
    [MegaScale-Infer, Zhu et al., arXiv 2504.02263, section 3; Step-3, arXiv 2507.19427, section 5]
    """
    parallel = context.parallel
    assert parallel.expert_pool is not None, "the caller has looked"
    share = parallel.dp / parallel.expert_pool
    pool = replace(
        context, parallel=Parallelism(ep=parallel.expert_pool, dp=parallel.expert_pool),
        sequences=context.sequences * share, co_batched_tokens=context.co_batched_tokens * share,
    )  # fmt: skip
    first, parameters = builder.position, len(builder.parameters)
    load = expert_load(pool, ffn)
    _add_expert_kernels(builder, pool, ffn, load, pool_messages(context, pool, ffn, load))
    builder.put_on_expert_pool(first, parameters)


def _add_routed_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add the routed experts between dispatch and combine.

    Rows on the most loaded rank: T*k*etp/tp * load, over those of its experts, of width f/etp each, that get any. A
    rank sends its own T/tp tokens. Ranks with slices of one expert gather what arrived at each, and scatter the sums of
    their results. Ranks with fewer tokens than this one load them less (`peers`).
    """
    context = context.of_mean_rank
    load = expert_load(context, ffn)
    add = _add_fused_experts if _is_fused(context) else _add_expert_kernels
    add(builder, context, ffn, load, exchange_messages(context, ffn, load))


def _is_fused(context: Context) -> bool:
    """Tell whether routed experts are an inference engine's fused layer: where its ranks gather tokens."""
    elsewhere = context.parallel.expert_pool is not None or context.offload.hosts_experts
    return is_gathered(context) and not elsewhere and not context.framework.training.is_unfused


def _add_fused_experts(
    builder: WorkBuilder, context: Context, ffn: MoeFfn, load: ExpertLoad, messages: tuple[Messages, Messages]
) -> None:
    """Add a fused layer of a rank's experts: two GEMMs, and what it was measured with (`FusedExperts`)."""
    (first, last), rows = messages, own_rows(context, load)
    up, down = _expert_gemms(context, ffn, load)
    product, narrow = linear.forward_product(context, up), travelling_element(context)
    fused = FusedExperts(
        f"{product.family}/{product.variant}", tokens=gathered_tokens(context), rows=rows, top_k=ffn.top_k,
        hidden=context.architecture.hidden, width=ffn.intermediate / context.parallel.etp,
        inputs=2.0 if ffn.gated else 1.0, wide=context.residual, narrow=narrow,
    )  # fmt: skip
    permute, activation, total = fused.either()
    builder.step("dispatch", first[0])
    builder.step("permute", [permute])
    linear.add_linear(builder, context, up)
    builder.step("activation", [activation])
    linear.add_linear(builder, context, replace(down, cast_input=False))
    builder.step("permute", [total])
    builder.step("combine", last[0])


def _add_expert_kernels(
    builder: WorkBuilder, context: Context, ffn: MoeFfn, load: ExpertLoad, messages: tuple[Messages, Messages]
) -> None:
    """Add the kernels of a rank's experts. messages: that bring tokens to them, and results back.

    Low-latency messages write tokens where their expert reads them, and add up results as they arrive, with the
    router's weights: nothing is permuted. [deepseek-ai/DeepEP, deep_ep/buffer.py: low_latency_dispatch and _combine]
    """
    is_packed = context.communication.mode == "low_latency"
    hidden, (first, last) = context.architecture.hidden, messages
    rows = own_rows(context, load)
    elements = rows * hidden
    up, down = _expert_gemms(context, ffn, load)
    narrow, wide = travelling_element(context), context.residual
    gather, scatter = slice_collectives(context, elements, narrow, wide)
    builder.step("dispatch", *first)
    builder.step("dispatch", gather[:1], scatter[1:])
    if not is_packed:
        builder.step("permute", *_sort("expert permute", elements, 2 * narrow, 2 * wide))
    linear.add_linear(builder, context, up)
    width = ffn.intermediate / context.parallel.etp
    has_passes = context.casts_rows and not context.fuses(ffn)
    if has_passes and ffn.clamped:
        _add_clamps(builder, context, rows * width)
    _add_activation(builder, context, "expert activation", rows, width, gated=ffn.gated)
    linear.add_linear(builder, context, down)
    if has_passes and ffn.bias:
        _add_expert_bias(builder, context, load, elements)
    if not is_packed:
        builder.step("permute", *_sort("expert unpermute", elements, 2 * wide, 2 * narrow))
    builder.step("combine", scatter[:1], gather[1:])
    builder.step("combine", *last)


def _add_clamps(builder: WorkBuilder, context: Context, elements: Count) -> None:
    """Add the clamps of the two halves of an activation's inputs, and the copy that joins them: `elements` each.

        forward    2*e a clamp, 2*e joined            bytes an element
        backward   3*e a clamp, 2*e joined

    [NVIDIA/Megatron-LM, core/fusions/fused_bias_geglu.py, weighted_bias_quick_geglu_impl]
    """
    both = 2.0 * elements * context.residual
    builder.step(
        "activation",
        [Elementwise("expert clamps", 4 * both, kind="add", calls=3.0)],
        [Elementwise("expert clamps gradient", 5 * both, kind="add", calls=3.0)],
    )


def _add_expert_bias(builder: WorkBuilder, context: Context, load: ExpertLoad, elements: Count) -> None:
    """Add the biases of the down projections times the router's weights, in FP32 as these are, expert by expert.

        forward    product 4, sum e + 2*4, joined 2*4, cast 4 + e                     bytes an element
        backward   two casts, joined 2*e, gradients of biases 3*4 and of weights 3*4

    [NVIDIA/Megatron-LM, core/transformer/moe/experts.py, TEGroupedMLP._apply_bias; token_dispatcher.py: DeepEP and
    HybridEP take FP32 weights; PyTorch, promotion of formats]
    """
    wide, element, experts = ELEMENT_BYTES["fp32"], context.residual, load.active_experts
    forward = Elementwise("expert bias", elements * (6 * wide + 2 * element), kind="add", calls=2 * experts + 1)
    size = elements * (8 * wide + 4 * element)
    backward = Elementwise("expert bias gradient", size, kind="add", calls=4 * experts + 1)
    builder.step("ffn_down", [forward], [backward])


def _add_host_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add the routed experts where the host computes them: tokens there, two GEMMs, and each token's sum back.

    The host reads the experts that tokens visit. Activations stay in its caches. The shared experts run on the device
    meanwhile [KTransformers, github.com/kvcache-ai/ktransformers].
    """
    size = served_tokens(context) * context.architecture.hidden * context.residual
    devices = context.parallel.devices
    gemms = _expert_gemms(context, ffn, expert_load(context, ffn))
    up, down = (replace(gemm, cast_input=False, host_computed=True) for gemm in gemms)
    builder.step("dispatch", [HostTransfer("expert input to the host", size, "out", devices)])
    linear.add_linear(builder, context, up)
    linear.add_linear(builder, context, down)
    builder.step("combine", [HostTransfer("expert output from the host", size, "in", devices)])


def _expert_gemms(context: Context, ffn: MoeFfn, load: ExpertLoad) -> tuple[linear.Linear, linear.Linear]:
    hidden, width = context.architecture.hidden, ffn.intermediate / context.parallel.etp
    matrices, matrix = (2.0 if ffn.gated else 1.0), ffn.experts * hidden * ffn.intermediate
    up_bias, down_bias = (ffn.experts * size if ffn.bias else 0.0 for size in (matrices * ffn.intermediate, hidden))
    active = ffn.top_k / ffn.experts
    experts = linear.ExpertGroups(
        active=load.active_experts, local=load.local_experts, rows_std=load.rows_std, load=load.imbalance,
        masked=context.communication.mode == "low_latency", experts=ffn.experts + context.routing.redundant,
        tokens=routed_tokens(context) * context.parallel.ep, width=width, streams=context.streams(ffn),
    )  # fmt: skip
    up = linear.Linear(
        "expert up", operator="ffn_up", producer="dispatch", rows=own_rows(context, load) / load.active_experts,
        inputs=hidden, outputs=matrices * width, total=matrices * matrix, active=(matrices * matrix + up_bias) * active,
        cast_input=context.casts_rows, cast_gradient=not context.fuses(ffn), bias=up_bias, experts=experts,
        parts=_halves(gated=ffn.gated),
    )  # fmt: skip
    down = replace(
        up, name="expert down", operator="ffn_down", producer="activation", inputs=width, outputs=hidden, total=matrix,
        active=(matrix + down_bias) * active, cast_input=not context.fuses(ffn), cast_gradient=context.casts_rows,
        bias=down_bias,
    )  # fmt: skip
    return up, down


def _sort(name: str, elements: Count, forward: Bytes, backward: Bytes) -> tuple[list[Operator], list[Operator]]:
    """Return the pass that orders rows by expert, and its gradient.

    forward, backward: bytes that one reads and writes per element.
    """
    return (
        [Elementwise(name, elements * forward, kind="permute")],
        [Elementwise(f"{name} gradient", elements * backward, kind="permute")],
    )
