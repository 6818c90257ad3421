"""Feed-forward parts: dense, and mixture of experts with its exchange."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodel.quantities import Bytes, Count, is_single
from costmodel.workload.architecture import DenseFfn, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES, LOGARITHMIC, payload_element
from costmodel.workload.expert_load import ExpertLoad, expert_load, routed_tokens, sent_tokens, served_tokens
from costmodel.workload.linear import (
    Linear,
    add_linear,
)
from costmodel.workload.operators import (
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostTransfer,
    Operator,
    expert_all_to_all_family,
)
from costmodel.workload.work import WorkBuilder


def add_dense_ffn(builder: WorkBuilder, context: Context, ffn: DenseFfn, *, fresh: bool = True) -> None:
    """Add up projection (with its gate), activation, down projection. Parameters: 2 or 3 * d * f.

    fresh: its input is its own; else the mixer beside it has cast and keeps that tensor.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    width = (2.0 if ffn.gated else 1.0) * ffn.intermediate
    add_linear(
        builder,
        context,
        Linear(
            "ffn up",
            "ffn_up",
            "norm",
            tokens,
            hidden,
            width / tp,
            hidden * width,
            gathered=True,
            bias=width if ffn.bias else 0.0,
            cast=fresh,
            kept=None if fresh else 0.0,
        ),
    )
    add_activation(builder, context, "ffn activation", tokens, ffn.intermediate / tp, gated=ffn.gated)
    add_linear(
        builder,
        context,
        Linear(
            "ffn down",
            "ffn_down",
            "activation",
            tokens,
            ffn.intermediate / tp,
            hidden,
            ffn.intermediate * hidden,
            bias=hidden if ffn.bias else 0.0,
        ),
    )


def add_activation(
    builder: WorkBuilder, context: Context, name: str, rows: Count, width: Count, *, gated: bool
) -> None:
    """Add the activation between two products.

    Forward reads its one or two inputs and writes one; backward reads them and dy and writes one or two gradients.
    Saved: the inputs, in the format that the precision keeps products' inputs in. Eager frameworks multiply with the
    gate in a kernel of its own, which reads two inputs and writes one; backwards two such kernels.
    """
    element, inputs = context.residual, 2.0 if gated else 1.0
    size = rows * width * element
    if gated and context.framework.unfused_elementwise:
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


def add_moe(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, fresh: bool = True) -> None:
    """Add router, dispatch, routed and shared experts, combine.

    Parameters: (E + n_s)*3*d*f + d*E, 2 for 3 without gates; a token visits k routed and n_s shared experts.
    fresh: as of a dense FFN.
    """
    hidden = context.architecture.hidden
    add_linear(
        builder,
        context,
        Linear(
            "router",
            "router",
            "norm",
            context.residual_tokens,
            hidden,
            ffn.experts,
            hidden * ffn.experts,
            dtype=context.precision.router,
            kept=0.0,
            replicas=1.0 if context.parallel.sequence_parallel else context.parallel.tp,
            bias=ffn.experts if ffn.router_bias else 0.0,
        ),
    )
    if ffn.router_extra is not None:
        _add_smoothing(builder, context, ffn)
    if context.casts_inputs and fresh:
        # One cast serves the dispatched tokens and the shared expert.
        passes = context.residual + context.gemm_element
        tokens = context.residual_tokens
        builder.step("norm", [Elementwise("expert input cast", tokens * hidden * passes, kind="cast", rows=tokens)])
    _add_experts(builder, context, ffn, fresh=fresh)
    summed = 4 * context.residual_tokens * hidden * context.residual
    builder.step(
        "combine", [Elementwise("expert sum", summed, kind="permute")], [Elementwise("expert sum gradient", summed)]
    )


def _add_smoothing(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add what smooths a router's scores over the tokens of a sequence: [S, d] x [d, T], or [S, T] x [T, E]."""
    hidden, dtype = context.architecture.hidden, context.precision.router
    size, element = (context.q_len, context.kv_len, hidden), ELEMENT_BYTES[dtype]
    if ffn.router_extra == "attention_matrix":
        size = (context.q_len, ffn.experts, context.kv_len)
    m, n, k = size

    def product(name: str, rows: Count, columns: Count, depth: Count) -> Gemm:
        width = element, element, element
        return Gemm(name, rows, columns, depth, dtype, *width, groups=context.sequences, family="bmm")

    name = "score smoothing"
    back = [product(f"{name} gradient", m, k, n), product(f"{name} gradient", k, n, m)]
    builder.step("router", [product(name, m, n, k)], back)


def _add_experts(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, fresh: bool) -> None:
    """Add shared and routed experts, one after the other, or beside each other where the host computes the routed."""
    has_shared = not (is_single(ffn.shared) and ffn.shared == 0)
    hosted = context.offload.hosts_experts
    if hosted:
        _add_hosted(builder, context, ffn)
    first = builder.position
    if has_shared:
        _add_shared(builder, context, ffn, fresh=fresh)
    if hosted:
        builder.overlap_host_work(first)
    else:
        _add_routed(builder, context, ffn)


def _add_shared(builder: WorkBuilder, context: Context, ffn: MoeFfn, *, fresh: bool) -> None:
    """Add the shared experts as one dense FFN on every token; their input is cast with the dispatched tokens.

    A gate is a product with one column; its factor is applied in the sum of the experts, and its gradient needs their
    result.
    """
    one = ffn.intermediate if ffn.shared_intermediate is None else ffn.shared_intermediate
    width, hidden, tp = ffn.shared * one, context.architecture.hidden, context.parallel.tp
    matrices = 2.0 if ffn.gated else 1.0
    add_linear(
        builder,
        context,
        Linear(
            "shared expert up",
            "ffn_up",
            "norm",
            context.tokens,
            hidden,
            matrices * width / tp,
            matrices * hidden * width,
            gathered=True,
            cast=False,
            bias=matrices * width if ffn.bias else 0.0,
            kept=None if fresh else 0.0,
        ),
    )
    add_activation(builder, context, "shared expert activation", context.tokens, width / tp, gated=ffn.gated)
    add_linear(
        builder,
        context,
        Linear(
            "shared expert down",
            "ffn_down",
            "activation",
            context.tokens,
            width / tp,
            hidden,
            width * hidden,
            bias=ffn.shared * hidden if ffn.bias else 0.0,
        ),
    )
    if ffn.shared_gate:
        _add_shared_gate(builder, context)


def _add_shared_gate(builder: WorkBuilder, context: Context) -> None:
    """Add the gate of the shared experts: a number for every token. Parameters: d."""
    hidden, tokens = context.architecture.hidden, context.residual_tokens
    replicas = 1.0 if context.parallel.sequence_parallel else context.parallel.tp
    add_linear(
        builder,
        context,
        Linear(
            "shared expert gate",
            "router",
            "norm",
            tokens,
            hidden,
            1.0,
            hidden,
            dtype=context.precision.router,
            kept=0.0,
            replicas=replicas,
        ),
    )
    builder.save("shared expert output", "ffn_down", tokens * hidden * context.residual)


def _add_routed(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add the routed experts between dispatch and combine.

    Rows on the fullest rank: T*k*etp/tp * load, over those of its experts, of width f/etp each, that get any. A
    rank sends its own T/tp tokens; ranks with slices of one expert gather what arrived at each, and scatter the sums of
    their results.
    """
    hidden, width = context.architecture.hidden, ffn.intermediate / context.parallel.etp
    sent, share = sent_tokens(context), expert_load(context, ffn)
    rows = _own_rows(context, share)
    up, down = _expert_gemms(context, ffn, share)
    exchange = _expert_all_to_alls(context, ffn, share)
    narrow, wide = context.gemm_element if context.casts_inputs else context.residual, context.residual
    builder.step("dispatch", [exchange[0]], [exchange[3]])
    gather, scatter = _slices(context, rows * hidden, narrow, wide)
    builder.step("dispatch", gather[:1], scatter[1:])
    builder.step("permute", *_permute_operators("expert permute", rows * hidden, 2 * narrow, 2 * wide))
    add_linear(builder, context, up)
    add_activation(builder, context, "expert activation", rows, width, gated=ffn.gated)
    add_linear(builder, context, down)
    builder.step("permute", *_permute_operators("expert unpermute", rows * hidden, 2 * wide, 2 * narrow))
    builder.step("combine", scatter[:1], gather[1:])
    back: list[Operator] = [exchange[2]]
    if context.casts_inputs:
        # The gradient is cast before it is dispatched, and arrives in the format of the products.
        back.insert(0, Elementwise("combine gradient cast", sent * hidden * (wide + narrow), kind="cast"))
    builder.step("combine", [exchange[1]], back)


def _add_hosted(builder: WorkBuilder, context: Context, ffn: MoeFfn) -> None:
    """Add the routed experts where the host computes them: tokens there, two products, and each token's sum back.

    The host reads the experts that tokens hit. Their activation stays in its caches. The shared experts run on the
    device meanwhile [KTransformers, github.com/kvcache-ai/ktransformers].
    """
    message = served_tokens(context) * context.architecture.hidden * context.residual
    devices = context.parallel.devices
    products = _expert_gemms(context, ffn, expert_load(context, ffn))
    up, down = (replace(each, cast=False, host_computed=True) for each in products)
    builder.step("dispatch", [HostTransfer("expert input to the host", message, "out", devices)])
    add_linear(builder, context, up)
    add_linear(builder, context, down)
    builder.step("combine", [HostTransfer("expert output from the host", message, "in", devices)])


def _own_rows(context: Context, share: ExpertLoad) -> Count:
    """Return the rows of this work on the rank's experts; their weights are read once for all of a pass."""
    return share.rows * served_tokens(context) / routed_tokens(context)


def _expert_gemms(context: Context, ffn: MoeFfn, share: ExpertLoad) -> tuple[Linear, Linear]:
    """Return the up projections (with their gates) and the down projections of a rank's experts that get any rows."""
    hidden, width = context.architecture.hidden, ffn.intermediate / context.parallel.etp
    matrices, matrix = (2.0 if ffn.gated else 1.0), ffn.experts * hidden * ffn.intermediate
    up_bias, down_bias = (ffn.experts * each if ffn.bias else 0.0 for each in (matrices * ffn.intermediate, hidden))
    active = ffn.top_k / ffn.experts
    up = Linear(
        "expert up",
        operator="ffn_up",
        producer="dispatch",
        rows=_own_rows(context, share) / share.active_experts,
        inputs=hidden,
        outputs=matrices * width,
        total=matrices * matrix,
        active=(matrices * matrix + up_bias) * active,
        groups=share.active_experts,
        cast=False,
        family="grouped_gemm",
        bias=up_bias,
        local_experts=share.local_experts,
        m_std=share.rows_std,
        expert_load=share.imbalance,
        masked=context.communication.mode == "low_latency",
        routed=(
            share.local_experts,
            ffn.experts + context.routing.redundant,
            routed_tokens(context) * context.parallel.ep,
        ),
    )
    down = replace(
        up,
        name="expert down",
        operator="ffn_down",
        producer="activation",
        inputs=width,
        outputs=hidden,
        total=matrix,
        active=(matrix + down_bias) * active,
        cast=True,
        cast_gradient=False,
        bias=down_bias,
    )
    return up, down


def _permute_operators(
    name: str, elements: Count, forward: Bytes, backward: Bytes
) -> tuple[list[Operator], list[Operator]]:
    """Return a gather or scatter of rows, forward and backward, each reading and writing every row."""
    return (
        [Elementwise(name, elements * forward, kind="permute")],
        [Elementwise(f"{name} gradient", elements * backward, kind="permute")],
    )


def _slices(context: Context, elements: Count, narrow: Bytes, wide: Bytes) -> tuple[list[Operator], list[Operator]]:
    """Return two gathers and two scatters of the rows that slices of one expert share: of tokens, then of gradients.

    Tokens are gathered after the dispatch and results scattered before the combine; backward, the gradients of results
    are gathered and those of tokens scattered [Megatron-LM, transformer/moe/token_dispatcher.py, expert tensor
    parallelism]. Nothing where no expert is stated to be sliced.
    """
    if context.parallel.expert_tensor is None:
        return [], []
    group = context.expert_slice_group

    def gather(name: str) -> Collective:
        return Collective(name, "all_gather", elements * narrow, group)

    def scatter(name: str) -> Collective:
        return Collective(name, "reduce_scatter", elements * wide, group)

    return (
        [gather("expert slice gather"), gather("expert slice gather gradient")],
        [scatter("expert slice scatter"), scatter("expert slice scatter gradient")],
    )


def _expert_all_to_alls(
    context: Context, ffn: MoeFfn, share: ExpertLoad
) -> tuple[ExpertAllToAll, ExpertAllToAll, ExpertAllToAll, ExpertAllToAll]:
    """Return dispatch, combine, the combine's gradient (a dispatch) and the dispatch's gradient (a combine).

    Where the network copies and adds up, the directions with the narrower payload are those that count once.
    """
    plan, hidden = context.communication, context.architecture.hidden
    groups = 1.0 if ffn.groups is None else ffn.groups
    group_top_k = 1 if ffn.group_top_k is None else ffn.group_top_k

    def width(dtype: str) -> Bytes:
        return payload_element(dtype, context.precision.scale_block)

    def one(name: str, dtype: str, family: str, *, once: bool) -> ExpertAllToAll:
        return ExpertAllToAll(
            name,
            tokens=sent_tokens(context),
            token_bytes=hidden * width(dtype),
            top_k=ffn.top_k,
            experts=ffn.experts,
            expert_groups=groups,
            group_top_k=group_top_k,
            group=context.ep_group,
            mode=plan.mode,
            expert_load=share.load,
            family=family,
            popularity=share.popularity,
            padded=share.padded,
            codec=plan.codec if dtype in LOGARITHMIC else 0.0,
            in_network=once,
        )

    narrow = bool(np.all(np.asarray(width(plan.dispatch)) <= np.asarray(width(plan.combine))))
    sent, summed = (plan.in_network and each for each in (narrow, not narrow))
    dispatch, combine = (
        expert_all_to_all_family("moe_dispatch", plan.mode),
        expert_all_to_all_family("moe_combine", plan.mode),
    )
    return (
        one("dispatch", plan.dispatch, dispatch, once=sent),
        one("combine", plan.combine, combine, once=summed),
        one("combine gradient", plan.dispatch, dispatch, once=sent),
        one("dispatch gradient", plan.combine, combine, once=summed),
    )
