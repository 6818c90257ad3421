"""Mixers with a state of constant size: linear recurrences computed in chunks, and a memory that learns as it reads."""

from __future__ import annotations

from costmodel.quantities import Count, ceil, minimum
from costmodel.workload.architecture import Memories, NeuralMemory, Recurrence
from costmodel.workload.context import Context
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.work import Parameters, WorkBuilder


def add_recurrence(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add projections, short convolution, the scan over chunks, its output gate, and the output projection.

    Parameters: d*H*(q + M*(q + v)) for M states a head, d*H*v of an output gate, d*H for gated decay and again for the
    delta rule of every state, d*n of the router, H*v*d. A token visits `visited` states.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    q, v = mixer.key_dim, mixer.value_dim
    gates = {"none": 0.0, "scalar": 0.0, "gated": 1.0, "delta": 2.0}[mixer.decay]
    each = mixer.heads * (q + v + gates)  # of one state
    fixed = mixer.heads * (q + (v if mixer.output_gate else 0.0))
    computed, whole = fixed + mixer.visited_states * each, fixed + mixer.states * each
    qkv = Linear(
        "qkv projection", "qkv", "norm", tokens, hidden, computed / tp, hidden * whole, gathered=True,
        active=hidden * computed, local_experts=whole / computed,
    )  # fmt: skip
    add_linear(builder, context, qkv)
    if mixer.memories is not None:
        _add_dispatch(builder, context, mixer.memories)
    inputs = mixer.heads * (q + mixer.visited_states * (q + v)) / tp
    size = tokens * inputs * context.residual
    builder.save("query, key, value", "qkv", size)
    if mixer.short_conv:
        taps = mixer.short_conv * mixer.heads * (q + mixer.states * (q + v))
        builder.step(
            "qkv", [Elementwise("short convolution", 2 * size)], [Elementwise("convolution gradient", 3 * size)]
        )
        builder.add_parameters(Parameters("short convolution", taps, taps / tp, taps))
    _add_scan(builder, context, mixer)
    if mixer.output_gate:
        gated = 3 * tokens * mixer.heads * v / tp * context.residual
        builder.step("qkv", [Elementwise("output gate", gated)], [Elementwise("output gate gradient", 5 / 3 * gated)])
    inner = mixer.heads * v
    add_linear(
        builder, context,
        Linear(
            "output projection", "output_projection", "attention_output", tokens, inner / tp, hidden, inner * hidden
        ),
    )  # fmt: skip


def _add_dispatch(builder: WorkBuilder, context: Context, memories: Memories) -> None:
    """Add the router of memories and the sorting of tokens by memory and back: 4*top_k*d elements a token."""
    hidden, tokens = context.architecture.hidden, context.tokens
    router = Linear(
        "memory router", "router", "norm", tokens, hidden, memories.number, hidden * memories.number, cast=False,
        kept=0.0, replicas=context.parallel.tp, dtype=context.precision.router,
    )  # fmt: skip
    add_linear(builder, context, router)
    moved = 4 * tokens * memories.top_k * hidden * context.residual
    sort = Elementwise("memory dispatch", moved, kind="permute")
    builder.step("dispatch", [sort], [Elementwise("memory dispatch gradient", moved)])


def scan_macs(mixer: Recurrence, *, decodes: bool) -> Count:
    """Return the multiply-adds of one token, head and state.

    A chunk of C: C*(q + v) inside it, whole squares, and 2*q*v between query, state and update; the delta rule solves
    for C rows more, C*q + C^2/3. One new token alone: 2*q*v. [Qin et al., arXiv 2401.04658; Yang et al., 2406.06484]
    """
    q, v, chunk = mixer.key_dim, mixer.value_dim, mixer.chunk
    if decodes:
        return 2 * q * v
    solved = chunk * q + chunk * chunk / 3 if mixer.decay == "delta" else 0.0
    return chunk * (q + v) + 2 * q * v + solved


def _add_scan(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add the scan: products in every chunk, and one chunk after the other in each of the sequences' heads.

    A head is ceil(v / columns) programs of the kernel, of which a processor runs `blocks` at a time:

        serial = ceil(B*H*ceil(v/columns) / (processors*blocks)) * ceil(S/C) * chunk_cycles / clock

    Bytes: q, k, v and the result once; a decoding step reads and writes the visited states. Backward: chunks again and
    two gradients of each product, in two scans.
    """
    heads, q, v = mixer.heads / context.parallel.tp, mixer.key_dim, mixer.value_dim
    decodes = context.phase == "decode"
    products = scan_macs(mixer, decodes=decodes)
    rows = context.new_tokens / context.parallel.cp
    row_bytes = context.sequences * heads * rows * (q + v + mixer.visited_states * (q + v)) * context.residual
    state = context.sequences * heads * mixer.visited_states * q * v * context.precision.kv_element
    steps = 0.0 if decodes else ceil(context.new_tokens / mixer.chunk)

    def scan(name: str, times: float) -> AttentionKernel:
        return AttentionKernel(
            name, sequences=context.sequences, heads=heads * mixer.visited_states, q_len=rows, qk_pairs=rows,
            macs_per_pair=times * products, dtype=context.precision.attention,
            traffic=times * row_bytes + (2 * state if decodes else state), family="scan", kv_heads=heads, kv_len=rows,
            serial_cycles=max(times - 1.0, 1.0) * steps * mixer.chunk_cycles, blocks=mixer.blocks / mixer.programs,
        )  # fmt: skip

    builder.step("fused_core", [scan("attention core", 1.0)], [scan("attention core gradient", 3.0)])


def add_memory(builder: WorkBuilder, context: Context, mixer: NeuralMemory) -> None:
    """Add query, key and value projections with three gates a head, retrieval, the update of the memory, the output.

    Retrieval 2*P FLOP a token; update 6*P (forward, and gradients of inputs and weights), by matrix products over the
    chunk, whose weights are each sequence's own. Each chunk's step reads gradient, weights and momentum and writes two.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    outputs = 3 * hidden + 3 * mixer.heads
    add_linear(
        builder, context,
        Linear("qkv projection", "qkv", "norm", tokens, hidden, outputs / tp, hidden * outputs, gathered=True),
    )  # fmt: skip
    builder.save("query, key, value", "qkv", tokens * 3 * hidden / tp * context.residual)
    weights = mixer.weights(hidden) / tp
    begin = mixer.weights(hidden)
    builder.add_parameters(Parameters("memory at the start", begin, begin / tp, begin))
    chunk = memory_step_tokens(context, mixer)
    chunks = context.sequences * ceil(context.q_len / chunk)
    element, dtype = context.residual, context.precision.attention

    def product(name: str, times: float) -> Gemm:
        return Gemm(
            name, m=chunk, n=times * weights / hidden, k=hidden, dtype=dtype, a_bytes=element, b_bytes=element,
            out_bytes=element, groups=chunks, family="bmm"
        )  # fmt: skip

    state = 2 * mixer.state(hidden) / tp * context.precision.kv_element + weights * element
    step = Elementwise("memory step", chunks * state)
    forward: list[Operator] = [product("memory retrieval", 1.0), product("memory update", 3.0), step]
    gradient: list[Operator] = [product("memory retrieval gradient", 2.0), product("memory update gradient", 6.0)]
    builder.step("fused_core", forward, [*gradient, Elementwise("memory step gradient", 2 * chunks * state)])
    builder.save("memory states", "fused_core", chunks * weights * element)
    add_linear(
        builder, context,
        Linear(
            "output projection", "output_projection", "attention_output", tokens, hidden / tp, hidden, hidden * hidden
        ),
    )  # fmt: skip


def memory_step_tokens(context: Context, mixer: NeuralMemory) -> Count:
    """Return the tokens that one step of the memory learns from: a chunk, or the new tokens where there are fewer."""
    return minimum(context.q_len, mixer.chunk)
