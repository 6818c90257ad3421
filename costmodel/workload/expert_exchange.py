"""What carries tokens to the routed experts and results back: exchanges of ranks, gathers, messages to a pool."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from costmodel.quantities import Bytes, Count, maximum
from costmodel.records import Record, replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.dtypes import LOGARITHMIC, payload_element
from costmodel.workload.expert_load import ExpertLoad, routed_tokens, sent_tokens, served_tokens
from costmodel.workload.operators import (
    Collective,
    Elementwise,
    ExpertAllToAll,
    Group,
    Operator,
    expert_all_to_all_family,
)

Messages: TypeAlias = "tuple[list[Operator], list[Operator]]"  # forward, backward


def own_rows(context: Context, load: ExpertLoad) -> Count:
    """Return the rows of this work on the rank's experts. A pass reads their weights once for all its work."""
    return load.rows * served_tokens(context) / routed_tokens(context)


def travelling_element(context: Context) -> Bytes:
    """Return the bytes of an element on the way to the experts: cast before, or by their products."""
    cast_before = context.casts_inputs and not context.casts_rows
    return context.gemm_element if cast_before else context.residual


def gathered_tokens(context: Context) -> Count:
    """Return the tokens that reach every rank where ranks gather them: D*T, as of `exchange_messages`."""
    return _gathered_groups(context) * context.tokens


def is_gathered(context: Context) -> bool:
    """Tell whether ranks gather each other's tokens, as inference engines do without an all-to-all backend."""
    return context.phase != "training" and context.communication.exchange == "gather"


def _gathered_groups(context: Context) -> Count:
    """Return the groups of ranks that have tokens of their own, of those that share experts."""
    return maximum(context.parallel.ep * context.parallel.etp / context.parallel.tp, 1.0)


def exchange_messages(context: Context, ffn: MoeFfn, load: ExpertLoad) -> tuple[Messages, Messages]:
    """Return what carries tokens to the experts and results back, each forward and backward.

    Gathered: D = R*etp/tp groups of the R expert-parallel ranks have T tokens each of their own. All ranks get all of
    them, and the sums of their results go back where the tokens came from:

        all-gather D*T*d*e,   reduce-scatter D*T*d*e_residual      over ranks `tp` apart; nothing where D is one

    [vLLM, `allgather_reducescatter`; SGLang, attention data parallelism without an all-to-all backend]. Ranks of one
    tensor-parallel group have the same tokens. Their results are added up by its own all-reduce.
    """
    hidden, parallel = context.architecture.hidden, context.parallel
    narrow, wide = travelling_element(context), context.residual
    if is_gathered(context):
        tokens, ranks = gathered_tokens(context) * hidden, Group(_gathered_groups(context), parallel.tp)
        gather = Collective("dispatch", "all_gather", tokens * narrow, ranks)
        return ([gather], []), ([Collective("combine", "reduce_scatter", tokens * wide, ranks)], [])
    dispatch, combine, combine_gradient, dispatch_gradient = _expert_all_to_alls(context, ffn, load)
    backward: list[Operator] = [combine_gradient]
    if context.casts_inputs and not context.casts_rows:
        # The gradient is cast before it is dispatched, and arrives in the format of the GEMMs.
        size = sent_tokens(context) * hidden * (wide + narrow)
        backward.insert(0, Elementwise("combine gradient cast", size, kind="cast"))
    return ([dispatch], [dispatch_gradient]), ([combine], backward)


def pool_messages(context: Context, pool: Context, ffn: MoeFfn, load: ExpertLoad) -> tuple[Messages, Messages]:
    """Return the messages to and from devices that hold experts only, as their busiest link sees them.

        tokens = max(T/tp * k, rows of the most loaded of them)          sent by one device, received by another

    One copy for each expert of a token. Messages to all devices of the pool start together.
    """
    parallel, plan = context.parallel, context.communication
    copies = maximum(context.tokens / parallel.tp * ffn.top_k, own_rows(pool, load))
    pair = Group(2.0, parallel.devices)

    def message(name: str, dtype: str) -> Collective:
        size = copies * context.architecture.hidden * payload_element(dtype, context.precision.scale_block)
        return Collective(name, "send_recv", size, pair, family="send_recv")

    return ([message("dispatch", plan.dispatch)], []), ([message("combine", plan.combine)], [])


def slice_collectives(
    context: Context, elements: Count, narrow: Bytes, wide: Bytes
) -> tuple[list[Operator], list[Operator]]:
    """Return the gathers and the scatters of rows that slices of one expert share, forward and backward.

    Tokens are gathered after the dispatch and results scattered before the combine. Backward, gradients of results are
    gathered and those of tokens scattered [Megatron-LM, transformer/moe/token_dispatcher.py, expert tensor
    parallelism]. Nothing unless `expert_tensor` is stated or the framework slices experts, nor where the tokens of all
    ranks are gathered anyway (`exchange_messages`).
    """
    if (context.parallel.expert_tensor is None and not context.parallel.slices_experts) or is_gathered(context):
        return [], []
    group = context.expert_slice_group
    gathers = ("expert slice gather", "expert slice gather gradient")
    scatters = ("expert slice scatter", "expert slice scatter gradient")
    return (
        [Collective(name, "all_gather", elements * narrow, group) for name in gathers],
        [Collective(name, "reduce_scatter", elements * wide, group) for name in scatters],
    )


def _expert_all_to_alls(
    context: Context, ffn: MoeFfn, load: ExpertLoad
) -> tuple[ExpertAllToAll, ExpertAllToAll, ExpertAllToAll, ExpertAllToAll]:
    """Return dispatch, combine, the combine's gradient (a dispatch) and the dispatch's gradient (a combine).

    Where the network replicates and reduces, the directions with the narrower payload count once.
    """
    plan = context.communication

    def payload(dtype: str) -> Bytes:
        return payload_element(dtype, context.precision.scale_block)

    def all_to_all(name: str, direction: str, *, in_network: bool) -> ExpertAllToAll:
        dtype = plan.dispatch if direction == "dispatch" else plan.combine
        return ExpertAllToAll(
            name, tokens=sent_tokens(context), token_bytes=context.architecture.hidden * payload(dtype),
            top_k=ffn.top_k, experts=ffn.experts, expert_groups=1.0 if ffn.groups is None else ffn.groups,
            group_top_k=1 if ffn.group_top_k is None else ffn.group_top_k, group=context.ep_group, mode=plan.mode,
            expert_load=load.load, family=expert_all_to_all_family(f"moe_{direction}", plan.mode),
            popularity=load.popularity, padded=load.padded, in_network=in_network, fences=plan.fences,
            codec=plan.checksum + (plan.codec if dtype in LOGARITHMIC else 0.0),
        )  # fmt: skip

    narrow = bool(np.all(np.asarray(payload(plan.dispatch)) <= np.asarray(payload(plan.combine))))
    replicates, reduces = plan.replicates_and_reduces and narrow, plan.replicates_and_reduces and not narrow
    return (
        all_to_all("dispatch", "dispatch", in_network=replicates),
        all_to_all("combine", "combine", in_network=reduces),
        all_to_all("combine gradient", "dispatch", in_network=replicates),
        all_to_all("dispatch gradient", "combine", in_network=reduces),
    )


# ---- The streams of a fused layer of experts, as inference engines run it and tables time it -------------------------


class FusedExperts(Record):
    """What streams around the two grouped GEMMs of a rank's experts, from tokens to one sum a token.

        first       (rows or tokens)*d*(e + e_operand)     + zeros to the rows of other ranks' experts
        activation  copies*f*(inputs*e + e_operand)
        sum         (copies + tokens)*d*e                  each token's results, weighted: one kernel

    Kernels that copy together have copies = rows, those of this rank's experts, and read a row for each. Kernels in
    place (Triton, Marlin) read tokens where they are and keep a row for each of the top_k copies of every token. zeros
    = (copies - rows)*(inputs*f + d)*e. [vllm-project/vllm, fused_moe.py: moe_align_block_size, moe_sum;
    NVIDIA/TensorRT-LLM, moe_kernels.cu: expandInputRows, finalizeMoeRouting]

    tokens: that the rank sees, whichever experts they choose.
    rows: on its own experts.
    top_k: experts of a token.
    hidden, width: d and f on this rank.
    inputs: of the activation, 2 with a gate.
    wide, narrow: bytes of an element, and of one as the GEMMs read it.
    product: `family/variant` of the GEMMs.
    """

    product: str
    tokens: Count
    rows: Count
    top_k: Count
    hidden: Count
    width: Count
    inputs: float
    wide: Bytes
    narrow: Bytes

    def streams(self, *, in_place: bool) -> tuple[Elementwise, Elementwise, Elementwise]:
        """Return what runs before the GEMMs, between and after them."""
        copies = self.tokens * self.top_k if in_place else self.rows
        zeros = maximum(copies - self.rows, 0.0) * (self.inputs * self.width + self.hidden) * self.wide
        moved = (self.tokens if in_place else self.rows) * self.hidden * (self.wide + self.narrow)
        activated = copies * self.width * (self.inputs * self.wide + self.narrow)
        summed = (copies + self.tokens) * self.hidden * self.wide

        def stream(name: str, size: Bytes, kind: str) -> Elementwise:
            return Elementwise(name, size, kind=kind, rows=copies, product=self.product)

        return (
            stream("expert permute", zeros + moved, "permute"),
            stream("expert activation", activated, "activation"),
            stream("expert sum", summed, "permute"),
        )

    def either(self) -> tuple[Elementwise, Elementwise, Elementwise]:
        """Return the streams of kernels that copy, each with that of kernels in place: which of them run, fits know."""
        first, activation, last = (
            replace(copying, in_place=placed)
            for copying, placed in zip(self.streams(in_place=False), self.streams(in_place=True), strict=True)
        )
        return first, activation, last
