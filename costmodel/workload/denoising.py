"""What denoising adds to a transformer: patches, texts and time steps that enter, and the modulation by these."""

from __future__ import annotations

from costmodel.quantities import Count
from costmodel.workload.architecture import Denoiser, DenseFfn, Layer
from costmodel.workload.context import Context
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.norms import add_residual_norm
from costmodel.workload.operators import Elementwise
from costmodel.workload.work import LayerWork, Parameters, WorkBuilder

_OF_A_BRANCH = 3.0  # vectors: scale and shift behind the norm, gate before the sum [Peebles and Xie, arXiv 2212.09748]
_OF_THE_OUTPUT = 2.0  # scale and shift


# Passes over 16-bit elements, and kernels, of what is applied to the tokens of a branch where operators are kernels of
# their own. A matrix: products and sums in 16 bits, 2 passes each. A table: in FP32. Tokens are widened (3), and what
# the norm reads and writes is wider (2 more), then product (4), sum (4) and narrowed result (3) are; behind the branch
# tokens (3), product with the gate (3), sum (3 more than in 16 bits) and narrowed result (3) [huggingface/diffusers,
# models/transformers/transformer_flux.py and transformer_wan.py].
_EAGER = {"matrix": (6.0, 3.0), "table": (28.0, 8.0)}


def runs_eager_denoising(context: Context) -> bool:
    """Tell whether a network denoises under a program whose operators are kernels of their own."""
    return context.architecture.denoiser is not None and context.framework.training.is_unfused


def denoiser_input(context: Context, denoiser: Denoiser) -> LayerWork:
    """Return the matrices before the first layer: of vectors of a sequence, of the text's features, of patches.

    embedders         a row for each sequence
    text projectors   a row for each token of the text
    patch projection  a row for each token of latents: inputs x d
    """
    builder = WorkBuilder("embedding", is_frozen=context.is_frozen)
    text = context.sequences * context.text_tokens / context.parallel.cp
    for number, (inputs, outputs) in enumerate(denoiser.embedders):
        add_linear(builder, context, _matrix(f"embedder {number}", context.sequences, inputs, outputs))
    for number, (inputs, outputs) in enumerate(denoiser.text_projectors):
        add_linear(builder, context, _matrix(f"text projector {number}", text, inputs, outputs))
    if denoiser.patch is not None:
        width = context.architecture.hidden
        add_linear(builder, context, _matrix("patch projection", context.tokens, denoiser.token_inputs, width))
    return builder.build()


def denoiser_output(builder: WorkBuilder, context: Context, denoiser: Denoiser) -> LayerWork:
    """Return the norm, its modulation and the projection d x outputs of every token of latents."""
    if denoiser.patch is None:
        return builder.build()
    width, last = context.architecture.hidden, context.architecture.layers[-1]
    add_residual_norm(builder, context, "final norm", last.norm, branches=2 if last.block == "parallel" else 1)
    _add_vectors(builder, context, last.modulation, "final modulation", _OF_THE_OUTPUT)
    add_linear(builder, context, _matrix("pixel projection", context.tokens, width, denoiser.token_outputs))
    return builder.build()


def _matrix(name: str, rows: Count, inputs: Count, outputs: Count) -> Linear:
    return Linear(name, operator="embedding", producer="input", rows=rows, inputs=inputs, outputs=outputs, bias=outputs)


def add_modulation(builder: WorkBuilder, context: Context, layer: Layer, name: str) -> None:
    """Add scale, shift and gate of a branch, x + g * F(s * N(x) + b), by vectors of each sequence.

    The vectors are a matrix's, d x 3*d, or a table's, 3*d, which is added to what all layers share. They are applied in
    the kernels of norm and residual sum, or in those of their own.
    """
    if layer.modulation == "none":
        return
    _add_vectors(builder, context, layer.modulation, name, _OF_A_BRANCH)
    if runs_eager_denoising(context):
        passes, kernels = _EAGER[layer.modulation]
        size = passes * context.residual_tokens * context.architecture.hidden * context.residual
        applied = Elementwise(name, size, kind="add", rows=context.residual_tokens, calls=kernels)
        gradient = Elementwise(f"{name} gradient", 1.5 * size, kind="add", rows=context.residual_tokens)
        builder.step("norm", [applied], [gradient])


def _add_vectors(builder: WorkBuilder, context: Context, kind: str, name: str, vectors: float) -> None:
    """Add what makes `vectors` of the layer's width for each sequence."""
    width = context.architecture.hidden
    if kind == "matrix":
        add_linear(builder, context, _matrix(f"{name} matrix", context.sequences, width, vectors * width))
    elif kind == "table":
        builder.add_parameters(Parameters.replicated(f"{name} table", vectors * width))


def add_branch_join(builder: WorkBuilder, context: Context, layer: Layer) -> None:
    """Add the copies of a parallel block between its branches and their one output matrix: 2*e an element.

    The result of attention is brought into the order of tokens, and joined with the activations of the FFN
    [huggingface/diffusers, models/transformers/transformer_flux.py, FluxSingleTransformerBlock].
    """
    assert isinstance(layer.ffn, DenseFfn), "a denoising network has no experts"
    width = (2.0 * context.architecture.hidden + layer.ffn.intermediate) / context.parallel.tp
    size = 2 * context.tokens * width * context.residual
    join = Elementwise("branch join", size, kind="permute", rows=context.tokens, calls=2.0)
    builder.elementwise("activation", join, size, kind="permute", calls=2.0)
