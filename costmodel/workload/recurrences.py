"""Mixers with a state of constant size: linear recurrences computed in chunks, and a memory trained as it reads."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, ceil, is_single, minimum, sum_of
from costmodel.workload.architecture import Memories, NeuralMemory, Recurrence, SelectiveScan
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, batched_gemm
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator
from costmodel.workload.work import Parameters, WorkBuilder


def add_recurrence(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add projections, short convolution, the scan over chunks, its output gate, and the output projection.

    Parameters, with K = key_heads*q: d*(K + M*(K + H*v)) for M states per head, d*H*v of an output gate, d*H for gated
    decay and again for the delta rule of every state, d*H*q for a decay per channel, d*n of the router, H*v*d. A gate
    of rank r has d*r + r*H*v instead, and so the channels' decay. A token visits `visited_states`.
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    (active, total), channels = _projected(mixer), mixer.channels
    mixer = mixer.on_ranks(tp)
    values, visited = mixer.heads * mixer.value_dim, mixer.visited_states
    computed, whole = _projected(mixer)
    qkv = Linear(
        "qkv projection", operator="qkv", producer="norm", rows=tokens, inputs=hidden, outputs=computed,
        split="columns", total=hidden * total, active=hidden * active, stored_ratio=whole / computed, gathered=True,
    )  # fmt: skip
    add_linear(builder, context, qkv)
    for outputs, rank in _ranked_gates(mixer):
        if rank is not None:
            _add_ranked_gate(builder, context, outputs, rank)
    if mixer.memories is not None:
        _add_memory_dispatch(builder, context, mixer.memories)
    size = tokens * ((mixer.key_width + visited * (mixer.key_width + values)) / tp) * context.residual
    builder.save("query, key, value", "qkv", size)
    if mixer.short_conv:
        _add_short_convolution(builder, context, mixer, size, channels)
    if not (is_single(mixer.head_parameters) and mixer.head_parameters == 0):
        own = mixer.head_parameters * mixer.heads
        builder.add_parameters(Parameters("head parameters", own, own / tp, own))
    _add_scan(builder, context, mixer)
    _add_output_norm(builder, context, mixer)
    if mixer.output_gate:
        gate = 3 * tokens * values / tp * context.residual
        builder.elementwise("qkv", Elementwise("output gate", gate), 5 / 3 * gate)
    _add_output_projection(builder, context, values)


def _projected(mixer: Recurrence) -> tuple[Count, Count]:
    """Return the outputs of the first projection: for the states that a token visits, and for all."""
    gates = {"none": 0.0, "scalar": 0.0, "gated": 1.0, "delta": 2.0, "channel_delta": 1.0}[mixer.decay]
    per_state = mixer.key_width + mixer.heads * mixer.value_dim + gates * mixer.heads
    fixed = mixer.key_width + sum_of(outputs for outputs, rank in _ranked_gates(mixer) if rank is None)
    return fixed + mixer.visited_states * per_state, fixed + mixer.states * per_state


def _ranked_gates(mixer: Recurrence) -> list[tuple[Count, Count | None]]:
    """Return (outputs, rank) of the projections to the output gate and to the channels' decay. Rank null: full."""
    gates: list[tuple[Count, Count | None]] = []
    if mixer.output_gate:
        gates.append((mixer.heads * mixer.value_dim, mixer.gate_rank))
    if mixer.decay == "channel_delta":
        rank = mixer.gate_rank if mixer.decay_rank is None else mixer.decay_rank
        gates.append((mixer.heads * mixer.key_dim, rank))
    return gates


def _add_ranked_gate(builder: WorkBuilder, context: Context, outputs: Count, rank: Count) -> None:
    """Add a projection of low rank: d x r on every rank, and r x outputs over the tensor-parallel group."""
    down = Linear(
        "gate down", operator="qkv", producer="norm", rows=context.tokens, inputs=context.architecture.hidden,
        outputs=rank, cast_input=False, saved_element=0.0, replicas=context.parallel.tp,
    )  # fmt: skip
    up = Linear(
        "gate up", operator="qkv", producer="qkv", rows=context.tokens, inputs=rank, outputs=outputs, split="columns"
    )
    add_linear(builder, context, down)
    add_linear(builder, context, up)


def _add_short_convolution(
    builder: WorkBuilder, context: Context, mixer: Recurrence, size: Bytes, channels: Count
) -> None:
    """Add the convolution of queries, keys and values over a few tokens: `size` bytes in and out, taps per channel.

    A decoding step reads and writes the inputs that still wait, taps - 1 of each channel. A channel of a prompt is a
    row. Layers whose channels decay each by itself have three convolutions of a prompt [moonshotai/Kimi-Linear,
    modeling_kimi.py: q_conv1d, k_conv1d, v_conv1d]. channels: of the model, of which ranks may hold copies.
    """
    tp = context.parallel.tp
    waiting = context.sequences * mixer.waiting / tp * context.residual if context.phase == "decode" else 0.0
    rows = 0.0 if context.phase == "decode" else context.sequences * mixer.channels / tp
    kind = "conv_update" if context.phase == "decode" else "conv"
    count = 3 if mixer.decay == "channel_delta" and context.phase != "decode" else 1
    convolution = Elementwise("short convolution", 2 * (size + waiting) / count, kind=kind, rows=rows / count)
    builder.step("qkv", [convolution] * count, [Elementwise("convolution gradient", 3 * size)])
    taps = mixer.short_conv + (1.0 if mixer.conv_bias else 0.0)
    total = taps * channels
    builder.add_parameters(Parameters("short convolution", total, taps * mixer.channels / tp, total))


def _add_output_norm(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add the norm of the result, if there is one: v numbers that heads share, or H*v."""
    if mixer.output_norm is None:
        return
    values, tp = mixer.heads * mixer.value_dim, context.parallel.tp
    size = context.tokens * values / tp * context.residual
    builder.elementwise("norm", Elementwise("output norm", 2 * size, kind="norm", rows=context.tokens), 3 * size)
    builder.save("output norm input", "fused_core", size)
    shared = mixer.output_norm == "head"
    total = mixer.value_dim if shared else values
    builder.add_parameters(Parameters("output norm", total, total if shared else total / tp, total))


def _add_output_projection(builder: WorkBuilder, context: Context, inputs: Count) -> None:
    add_linear(builder, context.part("attention_output"), Linear(
        "output projection", operator="output_projection", producer="attention_output", rows=context.tokens,
        inputs=inputs, outputs=context.architecture.hidden, split="rows",
    ))  # fmt: skip


def _add_memory_dispatch(builder: WorkBuilder, context: Context, memories: Memories) -> None:
    """Add the router of memories and the sorting of tokens by memory and back: 4*top_k*d elements per token."""
    hidden, tokens = context.architecture.hidden, context.tokens
    add_linear(builder, context, Linear(
        "memory router", operator="router", producer="norm", rows=tokens, inputs=hidden, outputs=memories.number,
        cast_input=False, saved_element=0.0, replicas=context.parallel.tp, dtype=context.precision.router,
    ))  # fmt: skip
    size = 4 * tokens * memories.top_k * hidden * context.residual
    builder.elementwise("dispatch", Elementwise("memory dispatch", size, kind="permute"), size)


def scan_macs(mixer: Recurrence, *, decodes: bool) -> Count:
    """Return the multiply-adds of one token, head and state.

    A chunk of C: C*(q + v) inside it, whole squares, and 2*q*v between query, state and update. The delta rule solves
    for C more rows, C*q + C^2/3. One new token alone: 2*q*v. [Qin et al., arXiv 2401.04658; Yang et al., 2406.06484]
    """
    q, v, chunk = mixer.key_dim, mixer.value_dim, mixer.chunk
    if decodes:
        return 2 * q * v
    delta_rule = chunk * q + chunk * chunk / 3 if mixer.decay in ("delta", "channel_delta") else 0.0
    return chunk * (q + v) + 2 * q * v + delta_rule


def _add_scan(builder: WorkBuilder, context: Context, mixer: Recurrence) -> None:
    """Add the scan: GEMMs in every chunk, chunk after chunk in each head of each sequence.

    A head takes ceil(v / columns) thread blocks, of which a processor runs `blocks` at a time:

        serial = ceil(B*H*ceil(v/columns) / (processors*blocks)) * ceil(S/C) * chunk_cycles / clock

    Bytes: q, k, v and the result once, and what Mamba-2's kernels leave between them. A decoding step reads and writes
    the visited states. Backward: chunks again and two gradients of each GEMM, in two scans, unless the kernels' own
    cycles of a chunk were measured.
    """
    heads, q, v = mixer.heads / context.parallel.tp, mixer.key_dim, mixer.value_dim
    keys, decodes, visited = mixer.key_width / context.parallel.tp, context.phase == "decode", mixer.visited_states
    macs, q_len = scan_macs(mixer, decodes=decodes), context.q_len
    row_bytes = context.sequences * q_len * (keys + heads * v + visited * (keys + heads * v)) * context.residual
    state = context.sequences * heads * visited * q * v * mixer.state_element(context.precision.kv_element)
    chunks = 0.0 if decodes else ceil(context.new_tokens / mixer.chunk)

    is_chunked = mixer.decay == "gated" and not decodes
    between = _between_kernels(context, mixer) if is_chunked else (0.0, 0.0)
    cycles = mixer.chunk_cycles
    gradient_cycles = 2.0 * cycles if mixer.gradient_cycles is None else mixer.gradient_cycles

    def scan(name: str, times: float, chunk_cycles: Count, extra: Bytes) -> AttentionKernel:
        return AttentionKernel(
            name, sequences=context.sequences, heads=heads * visited, q_len=q_len, qk_pairs=q_len,
            macs_per_pair=times * macs, dtype=context.precision.attention,
            traffic=times * row_bytes + (2 * state if decodes else state) + extra,
            family=f"linear_attention_{'decode' if decodes else 'prefill'}", kind=mixer.decay, kv_heads=heads,
            kv_len=q_len,
            serial_cycles=chunks * chunk_cycles, blocks=mixer.blocks / mixer.programs,
        )  # fmt: skip

    gradient = scan("attention core gradient", 3.0, gradient_cycles, between[1])
    builder.step("fused_core", [scan("attention core", 1.0, cycles, between[0])], [gradient])


def _between_kernels(context: Context, mixer: Recurrence) -> tuple[Bytes, Bytes]:
    """Return what Mamba-2's kernels move beyond q, k, v and the result of a scan, forward and backward [B].

    A token has x = H*v numbers, b = G*q of B or C, s = H*q*v/C of the states of its chunk, g = G*C of its products:

        forward     e*(x + 2*b) + (8 + 2*e)*s + 8*g               states in FP32, passed on in e; products in FP32
        backward    e*(5*x + 4*b) + 16*b + (24 + 5*e)*s + 24*g    states again, their gradients, those of B, C in FP32

    beyond e*(2*x + 2*b) forward, and three times that backward. [Dao and Gu, arXiv 2405.21060; state-spaces/mamba,
    mamba_ssm/ops/triton/ssd_combined.py, _mamba_chunk_scan_combined_fwd and _bwd]
    """
    tp, e, fp32 = context.parallel.tp, context.residual, ELEMENT_BYTES["fp32"]
    x, b = mixer.heads * mixer.value_dim, mixer.key_width
    s, g = x * mixer.key_dim / mixer.chunk, b / mixer.key_dim * mixer.chunk
    forward = e * (x + 2 * b) + (2 * fp32 + 2 * e) * s + 2 * fp32 * g
    backward = e * (5 * x + 4 * b) + 4 * fp32 * b + (6 * fp32 + 5 * e) * s + 6 * fp32 * g
    tokens = context.sequences * context.q_len * mixer.visited_states / tp
    return tokens * forward, tokens * backward


def add_selective_scan(builder: WorkBuilder, context: Context, mixer: SelectiveScan) -> None:
    """Add a diagonal state-space layer: projection to channels and gate, convolution, scan, output projection.

    Parameters: d*2*I + I*taps + I*(r + 2*n) + r*I + I + I*n + I + I*d for I channels with n numbers each and time steps
    of rank r, I of the convolution's bias, r + 2*n of norms. The scan takes 3 multiply-adds per channel, number and
    token (decay, input, output) on the CUDA cores: it streams, and is counted by its bytes.

    [Gu and Dao, Mamba, arXiv 2312.00752, algorithm 2; Lieber et al., Jamba, arXiv 2403.19887]
    """
    hidden, tp, tokens = context.architecture.hidden, context.parallel.tp, context.tokens
    inner, state, rank = mixer.inner, mixer.state, mixer.rank
    add_linear(builder, context, Linear(
        "channel projection", operator="qkv", producer="norm", rows=tokens, inputs=hidden, outputs=2.0 * inner,
        split="columns", gathered=True,
    ))  # fmt: skip
    size = tokens * inner / tp * context.residual
    builder.step(
        "qkv",
        [Elementwise("short convolution", 2 * size, kind="conv", rows=context.sequences * inner / tp)],
        [Elementwise("convolution gradient", 3 * size)],
    )
    steps = Linear(
        "time step, input and output", operator="qkv", producer="qkv", rows=tokens, inputs=inner,
        outputs=rank + 2.0 * state, split="rows",
    )  # fmt: skip
    widening = Linear(
        "time step up", operator="qkv", producer="qkv", rows=tokens, inputs=rank, outputs=inner, split="columns",
        bias=inner,
    )  # fmt: skip
    add_linear(builder, context, steps)
    add_linear(builder, context, widening)
    states = context.sequences * inner / tp * state * ELEMENT_BYTES["fp32"]
    traffic = 4 * size + 2 * tokens * state * context.residual + (2 * states if context.phase == "decode" else states)
    work = 6.0 * tokens * inner / tp * state
    scan = Elementwise("selective scan", traffic, kind="selective_scan", rows=tokens, work=work)
    gradient = Elementwise("selective scan gradient", 3 * traffic, kind="selective_scan", work=2 * work)
    builder.step("fused_core", [scan], [gradient])
    builder.save("channels and time steps", "qkv", 3 * size)
    taps = mixer.short_conv + (1.0 if mixer.conv_bias else 0.0)
    own = inner * (taps + state + 1.0)
    builder.add_parameters(Parameters("convolution, decay and skip", own, own / tp, own))
    if mixer.normed:
        builder.add_parameters(Parameters.replicated("time step, input and output norms", rank + 2.0 * state))
    _add_output_projection(builder, context, inner)


def add_memory(builder: WorkBuilder, context: Context, mixer: NeuralMemory) -> None:
    """Add query, key and value projections with three gates per head, retrieval, the memory's update, the output.

    Retrieval 2*P FLOP per token. Update 6*P (forward, and gradients of inputs and weights), as GEMMs over a chunk with
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
    chunk = minimum(context.q_len, mixer.chunk)  # tokens of one training step of the memory
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
