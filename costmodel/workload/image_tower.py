"""An encoder of images in front of a language model: the operators of a pass over the images of its prompts.

    patches [inputs] -> [h] + positions -> layers, in which a patch sees its whole image -> norm -> tokens [d]

It computes in the format of the residual stream: checkpoints leave towers unquantised.
"""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.quantities import is_single
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Encoder
from costmodel.workload.context import Context
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.layers import add_layer, tower_parallelism
from costmodel.workload.linear import Linear, add_linear, add_norm
from costmodel.workload.operators import Elementwise, Operator
from costmodel.workload.scenario import Precision
from costmodel.workload.work import WorkBuilder


def tower_operators(context: Context) -> tuple[Operator, ...]:
    """Return the operators of the encoder on one rank, none without images. context: of a micro-batch of prompts."""
    encoder = context.architecture.encoder
    if encoder is None or context.patches is None:
        return ()
    tower = _tower_context(context, encoder)
    operators = (*_patches(tower, encoder), *_layers(tower, encoder), *_projectors(tower, encoder))
    return tuple(replace(operator, name=f"encoder: {operator.name}") for operator in operators)


def _tower_context(context: Context, encoder: Encoder) -> Context:
    """Return a rank's view of the images: each is a sequence of its patches."""
    assert context.patches is not None
    return replace(
        context,
        architecture=Architecture("encoder", encoder.hidden, 1.0, encoder.layers),
        parallel=tower_parallelism(context, encoder),
        precision=_unquantised(context.precision),
        sequences=context.images / context.parallel.cp,
        new_tokens=context.patches,
        kv_len=context.patches,
        co_batched_tokens=0.0,
    )


def _unquantised(precision: Precision) -> Precision:
    """Return all GEMMs and attention in the residual stream's format."""
    wide = precision.residual
    return replace(
        precision, linear=wide, attention=wide, weights=wide, activations=wide, branches=None, scale_block=None,
        weight_scaling=GroupScaling(), weight_bits=None, parts={},
    )  # fmt: skip


def _patches(context: Context, encoder: Encoder) -> tuple[Operator, ...]:
    """Return the projection of patches, and the sum with their positions where these are learned."""
    builder = WorkBuilder("patches")
    projection = Linear(
        "patch projection", operator="patch_projection", producer="input", rows=context.tokens, inputs=encoder.inputs,
        outputs=encoder.hidden,
    )  # fmt: skip
    add_linear(builder, context, projection)
    if not is_single(encoder.positions) or encoder.positions > 0:
        builder.step("embedding", [Elementwise("positions", 3 * context.tokens * encoder.hidden * context.residual)])
    return builder.build().forward


def _layers(context: Context, encoder: Encoder) -> Iterator[Operator]:
    """Yield the layers' operators, those of equal layers again and again."""
    for layer in encoder.layers:
        builder = WorkBuilder("encoder")
        add_layer(builder, context, layer)
        yield from builder.build().forward * layer.repeat
    if encoder.final_norm is not None:
        builder = WorkBuilder("norm")
        add_norm(builder, context, "final norm", encoder.final_norm, context.residual_tokens, encoder.hidden)
        yield from builder.build().forward


def _projectors(context: Context, encoder: Encoder) -> tuple[Operator, ...]:
    """Return the matrices from `merge` patches to a token."""
    builder = WorkBuilder("projectors")
    for matrix in encoder.projectors:
        projection = Linear(
            "projector", operator="projector", producer="norm", rows=context.tokens / encoder.merge,
            inputs=matrix[0], outputs=matrix[1],
        )  # fmt: skip
        add_linear(builder, context, projection)
    return builder.build().forward
