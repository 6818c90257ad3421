"""Mixers with a state of constant size: linear recurrences computed in chunks, and a memory trained as it reads."""

from __future__ import annotations

from costmodel.quantities import Count, ceil, minimum
from costmodel.workload.architecture import Memories, NeuralMemory, Recurrence
from costmodel.workload.context import Context
from costmodel.workload.linear import Linear, add_linear, batched_gemm
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.work import Parameters, WorkBuilder


def add_recurrence(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add projections, short convolution, the scan over chunks, its output gate, and the output projection.

    Parameters: d*H*(q + M*(q + v)) for M states per head, d*H*v of an output gate, d*H for gated decay and again for
    the delta rule of every state, d*n of the router, H*v*d. A token visits `visited_states`.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    q, v, visited = mixer.key_dim, mixer.value_dim, mixer.visited_states
    gates = {"none": 0.0, "scalar": 0.0, "gated": 1.0, "delta": 2.0}[mixer.decay]
    per_state = mixer.heads * (q + v + gates)
    fixed = mixer.heads * (q + (v if mixer.output_gate else 0.0))
    computed, whole = fixed + visited * per_state, fixed + mixer.states * per_state
    qkv = Linear(
        "qkv projection", operator="qkv", producer="norm", rows=tokens, inputs=hidden, outputs=computed,
        split="columns", total=hidden * whole, active=hidden * computed, stored_ratio=whole / computed, gathered=True,
    )  # fmt: skip
    add_linear(builder, context, qkv)
    if mixer.memories is not None:
        _add_memory_dispatch(builder, context, mixer.memories)
    size = tokens * (mixer.heads * (q + visited * (q + v)) / tp) * context.residual
    builder.save("query, key, value", "qkv", size)
    if mixer.short_conv:
        taps = mixer.short_conv * mixer.heads * (q + mixer.states * (q + v))
        convolution = Elementwise("short convolution", 2 * size)
        builder.step("qkv", [convolution], [Elementwise("convolution gradient", 3 * size)])
        builder.add_parameters(Parameters("short convolution", taps, taps / tp, taps))
    _add_scan(builder, context, mixer)
    if mixer.output_gate:
        gate = 3 * tokens * mixer.heads * v / tp * context.residual
        builder.step("qkv", [Elementwise("output gate", gate)], [Elementwise("output gate gradient", 5 / 3 * gate)])
    _add_output_projection(builder, context, mixer.heads * v)


def _add_output_projection(builder: WorkBuilder, context: Context, inputs: Count) -> None:
    output = Linear(
        "output projection", operator="output_projection", producer="attention_output", rows=context.tokens,
        inputs=inputs, outputs=context.architecture.hidden, split="rows",
    )  # fmt: skip
    add_linear(builder, context, output)


def _add_memory_dispatch(builder: WorkBuilder, context: Context, memories: Memories) -> None:
    """Add the router of memories and the sorting of tokens by memory and back: 4*top_k*d elements per token."""
    hidden, tokens = context.architecture.hidden, context.tokens
    router = Linear(
        "memory router", operator="router", producer="norm", rows=tokens, inputs=hidden, outputs=memories.number,
        cast_input=False, saved_element=0.0, replicas=context.parallel.tp, dtype=context.precision.router,
    )  # fmt: skip
    add_linear(builder, context, router)
    size = 4 * tokens * memories.top_k * hidden * context.residual
    sort = Elementwise("memory dispatch", size, kind="permute")
    builder.step("dispatch", [sort], [Elementwise("memory dispatch gradient", size)])


def scan_macs(mixer: Recurrence, *, decodes: bool) -> Count:
    """Return the multiply-adds of one token, head and state.

    A chunk of C: C*(q + v) inside it, whole squares, and 2*q*v between query, state and update. The delta rule solves
    for C more rows, C*q + C^2/3. One new token alone: 2*q*v. [Qin et al., arXiv 2401.04658; Yang et al., 2406.06484]
    """
    q, v, chunk = mixer.key_dim, mixer.value_dim, mixer.chunk
    if decodes:
        return 2 * q * v
    delta_rule = chunk * q + chunk * chunk / 3 if mixer.decay == "delta" else 0.0
    return chunk * (q + v) + 2 * q * v + delta_rule


def _add_scan(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add the scan: GEMMs in every chunk, chunk after chunk in each head of each sequence.

    A head takes ceil(v / columns) thread blocks, of which a processor runs `blocks` at a time:

        serial = ceil(B*H*ceil(v/columns) / (processors*blocks)) * ceil(S/C) * chunk_cycles / clock

    Bytes: q, k, v and the result once; a decoding step reads and writes the visited states. Backward: chunks again and
    two gradients of each GEMM, in two scans.
    """
    heads, q, v = mixer.heads / context.parallel.tp, mixer.key_dim, mixer.value_dim
    decodes, visited = context.phase == "decode", mixer.visited_states
    macs, q_len = scan_macs(mixer, decodes=decodes), context.q_len
    row_bytes = context.sequences * heads * q_len * (q + v + visited * (q + v)) * context.residual
    state = context.sequences * heads * visited * q * v * context.precision.kv_element
    chunks = 0.0 if decodes else ceil(context.new_tokens / mixer.chunk)

    def scan(name: str, times: float) -> AttentionKernel:
        return AttentionKernel(
            name, sequences=context.sequences, heads=heads * visited, q_len=q_len, qk_pairs=q_len,
            macs_per_pair=times * macs, dtype=context.precision.attention,
            traffic=times * row_bytes + (2 * state if decodes else state), family="scan", kv_heads=heads, kv_len=q_len,
            serial_cycles=max(times - 1.0, 1.0) * chunks * mixer.chunk_cycles, blocks=mixer.blocks / mixer.programs,
        )  # fmt: skip

    builder.step("fused_core", [scan("attention core", 1.0)], [scan("attention core gradient", 3.0)])


def add_memory(builder: WorkBuilder, context: Context, mixer: NeuralMemory) -> None:
    """Add query, key and value projections with three gates per head, retrieval, the memory's update, the output.

    Retrieval 2*P FLOP per token; update 6*P (forward, and gradients of inputs and weights), as GEMMs over a chunk with
    each sequence's own weights. Each chunk's step reads gradient, weights and momentum and writes two.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    qkv = Linear(
        "qkv projection", operator="qkv", producer="norm", rows=tokens, inputs=hidden,
        outputs=3 * hidden + 3 * mixer.heads, split="columns", gathered=True,
    )  # fmt: skip
    add_linear(builder, context, qkv)
    builder.save("query, key, value", "qkv", tokens * 3 * hidden / tp * context.residual)
    initial = mixer.weights(hidden)
    weights = initial / tp
    builder.add_parameters(Parameters("memory at the start", initial, weights, initial))
    chunk = memory_step_tokens(context, mixer)
    chunks = context.sequences * ceil(context.q_len / chunk)
    element, dtype = context.residual, context.precision.attention

    def gemm(name: str, times: float) -> Gemm:
        shape = chunk, times * weights / hidden, hidden
        return batched_gemm(name, shape, chunks, dtype, element)

    state = 2 * mixer.state(hidden) / tp * context.precision.kv_element + weights * element
    step = Elementwise("memory step", chunks * state)
    forward: list[Operator] = [gemm("memory retrieval", 1.0), gemm("memory update", 3.0), step]
    gradient: list[Operator] = [gemm("memory retrieval gradient", 2.0), gemm("memory update gradient", 6.0)]
    builder.step("fused_core", forward, [*gradient, Elementwise("memory step gradient", 2 * chunks * state)])
    builder.save("memory states", "fused_core", chunks * weights * element)
    _add_output_projection(builder, context, hidden)


def memory_step_tokens(context: Context, mixer: NeuralMemory) -> Count:
    """Return the tokens of one training step of the memory: a chunk, or all new tokens where there are fewer."""
    return minimum(context.q_len, mixer.chunk)
