"""From an architecture to the work of each kind of layer: embedding, the model's layers, MTP module, head."""

from __future__ import annotations

from dataclasses import dataclass

from costmodel.quantities import Count
from costmodel.workload.architecture import Attention, DenseFfn, Layer
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.ffn import add_dense_ffn, add_moe
from costmodel.workload.linear import (
    Linear,
    add_dropout,
    add_linear,
    add_norm,
    add_residual_norm,
    enter_tensor_parallel,
    leave_tensor_parallel,
)
from costmodel.workload.mixers import add_attention, add_mla
from costmodel.workload.operators import Elementwise
from costmodel.workload.work import Parameters, Work, WorkBuilder


@dataclass(frozen=True, slots=True, eq=False)
class ModelWork:
    """The work of every kind of layer; `layers` follows the architecture's layer list; `mtp` is null without one."""

    embedding: Work
    layers: tuple[Work, ...]
    head: Work
    mtp: Work | None


def model_work(context: Context) -> ModelWork:
    """Return the operators of every kind of layer on one rank for one micro-batch."""
    architecture = context.architecture
    return ModelWork(
        _embedding(context),
        tuple(_layer(context, layer, f"layer {index}") for index, layer in enumerate(architecture.layers)),
        _head(context),
        None if architecture.mtp is None or context.phase != "training" else _mtp(context, architecture.layers[-1]),
    )


def _layer(context: Context, layer: Layer, name: str) -> Work:
    """Return one layer: mixer and feed-forward part, each behind its norm."""
    builder = WorkBuilder(name, context.recompute)
    _add_layer(builder, context, layer)
    return builder.build(_layer_input(context))


def _layer_input(context: Context) -> Count:
    """Return the bytes of a layer's input on the residual stream."""
    return context.stream_tokens * context.architecture.hidden * context.residual


def _add_layer(builder: WorkBuilder, context: Context, layer: Layer) -> None:
    """Add a layer's steps to a builder."""
    if isinstance(layer.mixer, Attention):
        add_attention(builder, context, layer.mixer, norm=layer.norm, dropout=layer.dropout)
    else:
        add_mla(builder, context, layer.mixer, norm=layer.norm)
    if layer.dropout:
        add_dropout(builder, context, "attention dropout")
    if isinstance(layer.ffn, DenseFfn):
        add_dense_ffn(builder, context, layer.ffn, norm=layer.norm)
    else:
        add_moe(builder, context, layer.ffn, norm=layer.norm)
    if layer.dropout:
        add_dropout(builder, context, "ffn dropout")


def _embedding(context: Context) -> Work:
    """Return the table look-up; its gradient is a scatter into the gradient's format. Parameters: V*d (+ positions*d).

    A token visits one row a table, which counts as d active parameters only by convention; `active` here is the whole
    table, the usual way of counting, and callers leave the embedding out where the convention says so.
    """
    architecture, element = context.architecture, context.residual
    builder = WorkBuilder("embedding")
    elements = context.tokens * architecture.hidden
    accumulated = 2 * ELEMENT_BYTES[context.precision.gradients]
    builder.step(
        "embedding",
        [Elementwise("embedding", 2 * elements * element)],
        weight=[Elementwise("embedding gradient", elements * (element + accumulated))],
    )
    leave_tensor_parallel(builder, context, "embedding")
    table = architecture.vocabulary * architecture.hidden
    builder.parameter(Parameters("embedding", table, table / context.parallel.tp, table))
    if architecture.positions is not None:
        positions = architecture.positions * architecture.hidden
        builder.parameter(Parameters("position table", positions, positions, positions))
    return builder.build()


def _head(context: Context) -> Work:
    """Return final norm, vocabulary projection and loss (training) or the last token's logits (inference).

    A tied head has no parameters of its own.
    """
    architecture, tp = context.architecture, context.parallel.tp
    builder = WorkBuilder("head")
    tokens = context.tokens if context.phase == "training" else context.sequences
    norm = architecture.layers[-1].norm
    add_residual_norm(builder, context, "final norm", norm)
    _add_vocabulary(builder, context, tokens, architecture.vocabulary / tp, shared=architecture.tied_embeddings)
    return builder.build()


def _add_vocabulary(builder: WorkBuilder, context: Context, tokens: Count, columns: Count, *, shared: bool) -> None:
    """Add the vocabulary projection and, in training, the cross-entropy.

    Logits are read, kept in FP32, and replaced by their gradient.
    """
    hidden = context.architecture.hidden
    # In inference every context-parallel rank has the last tokens' rows and repeats the product.
    replicas = 1.0 if context.phase == "training" else context.parallel.cp
    enter_tensor_parallel(builder, context, "head")
    add_linear(
        builder,
        context,
        Linear(
            "vocabulary projection",
            "head",
            "final_norm",
            tokens,
            hidden,
            columns,
            hidden * context.architecture.vocabulary,
            dtype=context.precision.head,
            gathered=True,
            replicas=replicas,
            stored=not shared,
        ),
    )
    if context.phase == "training":
        logits = tokens * columns
        builder.step("loss", [Elementwise("loss", logits * (context.residual + 2 * ELEMENT_BYTES["fp32"]))])
        builder.save("logits", "head", logits * ELEMENT_BYTES["fp32"])


def _mtp(context: Context, last: Layer) -> Work:
    """Return one multi-token-prediction module: two norms, a 2d -> d projection, a layer, and the shared head.

    Source: DeepSeek-V3 report, arXiv 2412.19437, section 2.2.
    """
    hidden, tokens = context.architecture.hidden, context.tokens
    builder = WorkBuilder("mtp", context.recompute)
    add_norm(builder, context, "mtp hidden norm", last.norm, context.stream_tokens, hidden)
    add_norm(builder, context, "mtp embedding norm", last.norm, context.stream_tokens, hidden)
    add_linear(
        builder,
        context,
        Linear(
            "mtp projection",
            "mtp_projection",
            "norm",
            tokens,
            2 * hidden,
            hidden,
            2 * hidden * hidden,
            replicas=context.parallel.tp,
        ),
    )
    _add_layer(builder, context, last)
    add_residual_norm(builder, context, "mtp final norm", last.norm)
    _add_vocabulary(builder, context, tokens, context.architecture.vocabulary / context.parallel.tp, shared=True)
    return builder.build(_layer_input(context))
