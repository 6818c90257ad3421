"""Context parallelism: ranks gather each other's keys, pass them around a ring, or swap heads (Ulysses)."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, maximum, where
from costmodel.records import Record
from costmodel.workload.context import Context, per_rank
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import Collective, Elementwise, Operator
from costmodel.workload.work import WorkBuilder


class AttentionShard(Record):
    """The part of an attention kernel that one rank computes.

    q_len: its queries of one head and sequence.
    qk_pairs: their (query, key) pairs.
    calls: kernels in sequence, each over its share of the keys.
    """

    heads: Count
    kv_heads: Count
    q_len: Count
    qk_pairs: Count
    calls: Count = 1.0


class ContextExchange(Record):
    """The operators around the forward and the backward pass of an attention kernel."""

    before: tuple[Operator, ...] = ()
    after: tuple[Operator, ...] = ()
    before_gradient: tuple[Operator, ...] = ()
    after_gradient: tuple[Operator, ...] = ()


def attention_shard(context: Context, heads: Count, kv_heads: Count, pairs: Count) -> AttentionShard:
    """Return this rank's part of a kernel of `heads` heads, `pairs` of whose pairs belong to its own queries.

    Ulysses: all queries of heads/cp heads, hence cp times the pairs. Fewer key-value heads than ranks are replicated.
    Ring: its own queries, one block of keys after the other. The work is the same in all schemes.
    """
    cp = context.parallel.cp
    if context.parallel.context == "ulysses":
        return AttentionShard(heads / cp, per_rank(kv_heads, cp), context.new_tokens, pairs * cp)
    return AttentionShard(heads, kv_heads, context.q_len, pairs, cp if context.parallel.context == "ring" else 1.0)


def kv_replicas(context: Context, kv_heads: Count) -> Count:
    """Return the copies of a rank's saved keys: more than one under Ulysses with fewer key-value heads than ranks."""
    return maximum(context.parallel.cp / kv_heads, 1.0) if context.parallel.context == "ulysses" else 1.0


def gather_kv(builder: WorkBuilder, context: Context, width: Count) -> None:
    """Add the gathering of all keys and values, `width` elements per token, unless ranks use a ring or Ulysses.

    All-gather forward. All-gather and reduce-scatter backward [Llama 3, arXiv 2407.21783, section 3.3.2; Transformer
    Engine, context_parallel.py, `cp_comm_type: all_gather`]. Each rank holds one layer's keys of the whole sequence. In
    every scheme the cached keys of earlier tokens are exchanged too.
    """
    if context.parallel.context != "gather":
        return
    size = context.sequences * context.kv_len * width * context.residual
    builder.step(
        "fused_core",
        [Collective("key-value gather", "all_gather", size, context.cp_group)],
        [
            Collective("key-value gather again", "all_gather", size, context.cp_group),
            Collective("key-value gradient scatter", "reduce_scatter", size, context.cp_group),
        ],
    )
    _add_receive_buffers(builder, context, size)


def ulysses_exchange(
    builder: WorkBuilder, context: Context, shard: AttentionShard, dims: tuple[Count, Count]
) -> ContextExchange:
    """Return the all-to-alls that swap a rank's queries of all heads for all queries of its heads, and back.

    Four each way: q, k, v and the output forward, the gradients of the output and of q, k, v backward. Of each local
    tensor (cp-1)/cp leaves the rank [Jacobs et al., arXiv 2309.14509]. Key-value heads that are fewer than the ranks
    are sent once to each [verl, models/transformers/monkey_patch.py].
    """
    if context.parallel.context != "ulysses":
        return ContextExchange()
    element = context.sequences * context.residual

    def swap(rows: Count, width: Count) -> Collective:
        return Collective("head all-to-all", "all_to_all", element * rows * width, context.cp_group)

    queries, results = (swap(context.new_tokens, shard.heads * width) for width in dims)
    keys, values = (swap(context.kv_len, shard.kv_heads * width) for width in dims)
    _add_receive_buffers(builder, context, queries.size + keys.size + values.size)
    return ContextExchange((queries, keys, values), (results,), (results,), (queries, keys, values))


def ring_exchange(
    builder: WorkBuilder, context: Context, shard: AttentionShard, dims: tuple[Count, Count]
) -> ContextExchange:
    """Return the ring messages that overlap the blocks' attention, and the merging of the blocks' results.

    Each of cp steps computes one block while keys and values move on to the next rank. The last step sends nothing.
    Backward, the first step sends keys and values, the last one their gradients, all others both [Liu et al., arXiv
    2310.01889, section 3; Transformer Engine, context_parallel.py, `cp_comm_type: p2p`]:

        forward (cp-1) * block,  backward 2*(cp-1) * block,  block = B * kv_len/cp * G*(q + v) * e

    Ranks hold one early and one late part of the sequence (zigzag), so all blocks of a causal kernel cost the same.
    Merging reads a block's result, and reads and writes the FP32 sum [ring-flash-attention, utils.py].
    """
    if context.parallel.context != "ring":
        return ContextExchange()
    cp, (q, v) = context.parallel.cp, dims
    block = context.sequences * context.kv_len / cp * shard.kv_heads * (q + v) * context.residual

    def send(name: str, size: Bytes, count: Count) -> Collective:
        return Collective(name, "send_recv", size, context.cp_group, "send_recv", count, attention_overlap=count / cp)

    merge = context.tokens * shard.heads * v * (context.residual + 2 * ELEMENT_BYTES["fp32"])
    _add_receive_buffers(builder, context, 2 * block)  # one in use, one arriving
    return ContextExchange(
        after=(send("key-value ring", block, cp - 1), Elementwise("attention merge", (cp - 1) * merge, calls=cp - 1)),
        after_gradient=(
            send("key-value ring again", block, 2.0),
            send("key-value ring gradient", 2 * block, maximum(cp - 2, 0.0)),
        ),
    )


def _add_receive_buffers(builder: WorkBuilder, context: Context, size: Bytes) -> None:
    """Add the buffers of an exchange of `size` bytes, in training those of its gradients too."""
    passes = 2.0 if context.phase == "training" else 1.0
    builder.add_receive_buffers(where(context.parallel.cp > 1, passes * size, 0.0))
