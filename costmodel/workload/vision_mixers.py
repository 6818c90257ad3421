"""Mixers of images and bags: convolutions, spectral gates, element-wise gates, gated pooling."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Count, is_single, log2
from costmodel.workload.architecture import Convolution, Gate, MilPool, ResidualBlock, Spectral
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.linear import Linear, add_linear, add_transposition, batched_gemm
from costmodel.workload.norms import add_norm
from costmodel.workload.operators import Elementwise, Gemm
from costmodel.workload.work import Parameters, WorkBuilder


def add_convolution(builder: WorkBuilder, context: Context, mixer: Convolution) -> None:
    """Add a convolution: a GEMM of [tokens, t*inputs] x [t*inputs, outputs], or element-wise where depth-wise.

    t: taps, k^2 on two axes and k^2*f over f frames as well. Parameters: t*inputs*outputs, or t*outputs. A grid that is
    enlarged before it is copied: each place is read once and written `enlarged` times.
    """
    tokens, element = context.tokens, context.residual
    outputs = context.architecture.hidden if mixer.outputs is None else mixer.outputs
    inputs = outputs if mixer.inputs is None else mixer.inputs
    taps, area = mixer.taps, mixer.stride * mixer.stride
    if not is_single(mixer.enlarged) or mixer.enlarged != 1.0:
        copied = tokens * inputs * (1.0 + 1.0 / mixer.enlarged) * element
        builder.elementwise("qkv", Elementwise("enlargement", copied, kind="copy"), copied)
    if mixer.depthwise:
        traffic, work = tokens * outputs * (area + 1.0) * element, 2.0 * tokens * taps * outputs
        forward = Elementwise("depth-wise convolution", traffic, work=work)
        builder.elementwise("qkv", forward, 2 * traffic, work=2 * work)
        weights = taps * outputs
    else:
        _add_convolution_gemm(builder, context, mixer, inputs, outputs)
        weights = taps * inputs * outputs
    builder.add_parameters(Parameters.replicated("convolution", weights))
    builder.save("convolution input", "input", tokens * area * inputs * element)


def _add_convolution_gemm(
    builder: WorkBuilder, context: Context, mixer: Convolution, inputs: Count, outputs: Count
) -> None:
    """Add the GEMMs of a convolution, which read every input element once.

    Tensors that lie channel by channel (NCHW) are transposed for it and back: 2*(stride^2*inputs + outputs)*e bytes per
    token [NVIDIA, Convolutional Layers User's Guide, DU-09794: tensor cores need NHWC, others are transposed].
    """
    tokens, element = context.tokens, context.residual
    taps, area = mixer.taps, mixer.stride * mixer.stride
    depth, input_element = taps * inputs, element * area / taps

    def gemm(name: str, shape: tuple[Count, Count, Count], a_bytes: Count, out_bytes: Count) -> Gemm:
        m, n, k = shape
        return Gemm(
            name, m=m, n=n, k=k, dtype=context.precision.linear, a_bytes=a_bytes, b_bytes=element, out_bytes=out_bytes
        )

    if mixer.channels_first:
        add_transposition(builder, context, tokens * (area * inputs + outputs), operator="qkv")
    builder.step(
        "qkv",
        [gemm("convolution", (tokens, outputs, depth), input_element, element)],
        [gemm("convolution input gradient", (tokens, depth, outputs), element, input_element)],
        [gemm("convolution weight gradient", (depth, outputs, tokens), input_element, element)],
    )


def add_residual_block(builder: WorkBuilder, context: Context, mixer: ResidualBlock) -> None:
    """Add norm, activation and convolution twice, the time step's vector between them, and the residual sum.

        convolutions   t*(inputs*d + d*d), and inputs*d of a 1 x 1 one where the width changes
        time           a matrix of time x d for each sequence
        skip           a copy that joins the channels of an earlier layer: 2*inputs*e bytes a token

    Norm and activation are one kernel. Where a framework's operators are kernels of their own, they are two, the sum
    with the time step's vector is one, and tensors lie channel by channel, as PyTorch's do unless it is told otherwise.
    """
    tokens, element, width = context.tokens, context.residual, context.architecture.hidden
    inputs = width if mixer.inputs is None else mixer.inputs
    if np.any(np.greater(mixer.skip, 0)):
        size = 2 * tokens * inputs * element
        builder.elementwise("norm", Elementwise("skip join", size, kind="permute"), size)
    _add_normed_convolution(builder, context, mixer, inputs)
    if np.any(np.greater(mixer.time, 0)):
        time = Linear(
            "time projection", operator="time", producer="time", rows=context.sequences, inputs=mixer.time,
            outputs=width, bias=width,
        )  # fmt: skip
        add_linear(builder, context, time)
        if context.framework.training.is_unfused:
            size = 2 * tokens * width * element
            builder.elementwise("time", Elementwise("time sum", size, kind="add"), size)
    _add_normed_convolution(builder, context, mixer, width)
    if not np.array_equal(inputs, width):
        add_convolution(builder, context, Convolution(1.0, inputs=inputs))
    size = 3 * tokens * width * element
    builder.elementwise("norm", Elementwise("residual sum", size, kind="add"), size)


def _add_normed_convolution(builder: WorkBuilder, context: Context, mixer: ResidualBlock, inputs: Count) -> None:
    """Add a group norm, an activation and a convolution from `inputs` channels to the layer's width."""
    tokens, element = context.tokens, context.residual
    add_norm(builder, context, "group norm", "group", tokens, inputs)
    eager = context.framework.training.is_unfused
    if eager:
        size = 2 * tokens * inputs * element
        builder.elementwise("activation", Elementwise("activation", size, kind="activation"), 1.5 * size)
    add_convolution(
        builder, context, Convolution(mixer.kernel, inputs=inputs, frames=mixer.frames, channels_first=eager)
    )


def add_spectral(builder: WorkBuilder, context: Context, mixer: Spectral) -> None:
    """Add two Fourier transforms around a complex gate, in FP32.

    FLOP: C*(2*2.5*N*log2(N) + 6*h*(w/2 + 1)), N = h*w.
    bytes: 8*N*C*4, two passes per transform. Parameters 2*h*(w/2 + 1)*C.
    """
    channels, cells = context.architecture.hidden, mixer.height * mixer.width
    half = mixer.height * (mixer.width // 2 + 1)
    work = context.sequences * channels * (5.0 * cells * log2(cells) + 6.0 * half)
    traffic = 8.0 * context.sequences * cells * channels * ELEMENT_BYTES["fp32"]
    forward = Elementwise("spectral gate", traffic, calls=4.0, work=work)
    builder.elementwise("qkv", forward, 2 * traffic, calls=8.0, work=2 * work)
    builder.add_parameters(Parameters.replicated("spectral gate", 2.0 * half * channels))
    builder.save("spectrum", "input", 2 * context.sequences * half * channels * ELEMENT_BYTES["fp32"])


def add_gate(builder: WorkBuilder, context: Context, mixer: Gate) -> None:
    """Add element-wise weights: a read and a write per pass, 8 operations per element and head. 2 numbers per head."""
    elements, passes = context.tokens * context.architecture.hidden, mixer.passes
    size, work = 2.0 * passes * elements * context.residual, 8.0 * elements * mixer.heads
    forward = Elementwise("feature gate", size, calls=passes, work=work)
    builder.elementwise("qkv", forward, 2 * size, calls=2 * passes, work=2 * work)
    builder.add_parameters(Parameters.replicated("feature gate", 2.0 * mixer.heads))
    builder.save("feature gate input", "input", elements * context.residual)


def add_pool(builder: WorkBuilder, context: Context, mixer: MilPool) -> None:
    """Add gates of every instance, scores of every branch, their softmax, and the weighted sums.

        gate product    tanh(x V) * sigmoid(x U): 3*L*e bytes an instance, two read and one written
        softmax         over the instances of a bag: 2*branches*e bytes each

    Parameters: 2*d*L + L*branches. [Ilse et al., arXiv 1802.04712, equation 9; ACMIL, arXiv 2311.07125]
    """
    hidden, tokens = context.architecture.hidden, context.tokens
    gates = Linear(
        "instance gates", operator="qkv", producer="norm", rows=tokens, inputs=hidden, outputs=2 * mixer.inner
    )
    scores = Linear(
        "instance scores", operator="output_projection", producer="activation", rows=tokens, inputs=mixer.inner,
        outputs=mixer.branches,
    )  # fmt: skip
    product = 3 * tokens * mixer.inner * context.residual
    softmax = 2 * tokens * mixer.branches * context.residual
    add_linear(builder, context, gates)
    forward = Elementwise("gate product", product, kind="activation", rows=tokens)
    builder.elementwise("activation", forward, 5 / 3 * product)
    builder.save("gate product input", "qkv", 2 / 3 * product)
    add_linear(builder, context, scores)
    builder.elementwise("attention_core", Elementwise("instance softmax", softmax, kind="softmax"), 1.5 * softmax)
    shape = mixer.branches, hidden, context.q_len
    pool = batched_gemm("pooling", shape, context.sequences, context.precision.attention, context.residual)
    builder.step("attention_core", [pool], [pool])
