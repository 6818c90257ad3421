"""Mixers of images and bags: convolutions, spectral gates, element-wise gates, gated pooling."""

from __future__ import annotations

from costmodel.quantities import Count, log2
from costmodel.workload.architecture import Convolution, Gate, MilPool, Spectral
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.operators import Elementwise, Gemm
from costmodel.workload.work import Parameters, WorkBuilder


def add_convolution(builder: WorkBuilder, context: Context, mixer: Convolution) -> None:
    """Add a convolution: a product of [tokens, k^2*inputs] x [k^2*inputs, outputs], or a stream where depth-wise.

    Parameters: k^2*inputs*outputs, or k^2*outputs. The product reads every input element once. Tensors that lie channel
    by channel (NCHW) are transposed for it and back: 2*(stride^2*inputs + outputs)*e bytes a token [NVIDIA,
    Convolutional Layers User's Guide, DU-09794: tensor cores need NHWC, others are transposed].
    """
    hidden, tokens, element = context.architecture.hidden, context.tokens, context.residual
    outputs = hidden if mixer.outputs is None else mixer.outputs
    inputs = outputs if mixer.inputs is None else mixer.inputs
    taps, area = mixer.kernel * mixer.kernel, mixer.stride * mixer.stride
    if mixer.depthwise:
        traffic = tokens * outputs * (area + 1.0) * element
        work = 2.0 * tokens * taps * outputs
        once = Elementwise("depth-wise convolution", traffic, work=work)
        twice = Elementwise("depth-wise convolution gradient", 2 * traffic, work=2 * work)
        builder.step("qkv", [once], [twice])
        own = taps * outputs
    else:
        depth = taps * inputs
        read = element * area / taps
        dtype = context.precision.linear

        def product(name: str, shape: tuple[Count, Count, Count], left: float | Count, out: float | Count) -> Gemm:
            return Gemm(name, *shape, dtype, left, element, out)

        if mixer.channels_first:
            moved = 2 * tokens * (area * inputs + outputs) * element
            turn = Elementwise("channel transposition", moved, calls=2.0, kind="permute")
            builder.step("qkv", [turn], [Elementwise("channel transposition gradient", moved, calls=2.0)])
        builder.step(
            "qkv",
            [product("convolution", (tokens, outputs, depth), read, element)],
            [product("convolution input gradient", (tokens, depth, outputs), element, read)],
            [product("convolution weight gradient", (depth, outputs, tokens), read, element)],
        )
        own = depth * outputs
    builder.add_parameters(Parameters("convolution", own, own, own))
    builder.save("convolution input", "input", tokens * area * inputs * element)


def add_spectral(builder: WorkBuilder, context: Context, mixer: Spectral) -> None:
    """Add two Fourier transforms around a complex gate, in FP32.

    FLOP: C*(2*2.5*N*log2(N) + 6*h*(w/2 + 1)), N = h*w; bytes: 8*N*C*4, two passes a transform; parameters
    2*h*(w/2 + 1)*C.
    """
    channels, cells = context.architecture.hidden, mixer.height * mixer.width
    half = mixer.height * (mixer.width // 2 + 1)
    work = context.sequences * channels * (5.0 * cells * log2(cells) + 6.0 * half)
    traffic = 8.0 * context.sequences * cells * channels * ELEMENT_BYTES["fp32"]
    forward = Elementwise("spectral gate", traffic, calls=4.0, work=work)
    builder.step("qkv", [forward], [Elementwise("spectral gate gradient", 2 * traffic, calls=8.0, work=2 * work)])
    own = 2.0 * half * channels
    builder.add_parameters(Parameters("spectral gate", own, own, own))
    builder.save("spectrum", "input", 2 * context.sequences * half * channels * ELEMENT_BYTES["fp32"])


def add_gate(builder: WorkBuilder, context: Context, mixer: Gate) -> None:
    """Add element-wise weights: a read and a write in each pass, 8 operations an element and head; 2 numbers a head."""
    elements = context.tokens * context.architecture.hidden
    moved = 2.0 * mixer.passes * elements * context.residual
    work = 8.0 * elements * mixer.heads
    once = Elementwise("feature gate", moved, calls=mixer.passes, work=work)
    builder.step(
        "qkv", [once], [Elementwise("feature gate gradient", 2 * moved, calls=2 * mixer.passes, work=2 * work)]
    )
    own = 2.0 * mixer.heads
    builder.add_parameters(Parameters("feature gate", own, own, own))
    builder.save("feature gate input", "input", elements * context.residual)


def add_pool(builder: WorkBuilder, context: Context, mixer: MilPool) -> None:
    """Add gates of every instance, scores of every branch, and the weighted sums. Parameters: 2*d*L + L*branches."""
    hidden, tokens = context.architecture.hidden, context.tokens
    inner, branches = mixer.inner, mixer.branches
    gates = Linear("instance gates", "qkv", "norm", tokens, hidden, 2 * inner, 2 * hidden * inner)
    scores = Linear("instance scores", "output_projection", "activation", tokens, inner, branches, inner * branches)
    add_linear(builder, context, gates)
    add_linear(builder, context, scores)
    element, rows = context.residual, context.q_len
    shape = branches, hidden, rows
    pool = Gemm(
        "pooling", *shape, context.precision.attention, element, element, element, context.sequences, family="bmm"
    )
    builder.step("attention_core", [pool], [pool])
