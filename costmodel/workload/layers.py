"""From an architecture to the work of each kind of layer: embedding, the model's layers, MTP module, head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from costmodel.quantities import Count, divides, is_single, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload import architecture as arch
from costmodel.workload.attention import add_attention
from costmodel.workload.compressed import add_compressed_attention
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.ffn import add_dense_ffn, add_moe
from costmodel.workload.host_offload import add_host_transfers
from costmodel.workload.host_time import add_host_time
from costmodel.workload.linear import (
    Linear,
    add_dropout,
    add_linear,
    add_norm,
    add_norm_after,
    add_residual_norm,
    norm_vectors,
)
from costmodel.workload.mla import add_mla
from costmodel.workload.operators import Elementwise
from costmodel.workload.recurrences import add_memory, add_recurrence, add_selective_scan
from costmodel.workload.residual_streams import (
    add_block_attention,
    add_embedding_of_layers,
    add_layer_embedding,
    add_stream_copies,
    add_stream_reads,
    add_stream_writes,
    has_streams,
)
from costmodel.workload.scenario import Parallelism
from costmodel.workload.split_rules import heads_of
from costmodel.workload.tensor_parallel import enter_tensor_parallel, leave_tensor_parallel, overlap_tensor_parallel
from costmodel.workload.vision_mixers import add_convolution, add_gate, add_pool, add_spectral
from costmodel.workload.work import LayerWork, Parameters, WorkBuilder


class ModelWork(Record):
    """The work of every kind of layer. `layers` follows the architecture's `kinds`. `mtp` is null without one."""

    embedding: LayerWork
    layers: tuple[LayerWork, ...]
    head: LayerWork
    mtp: LayerWork | None

    @property
    def kinds(self) -> tuple[LayerWork, ...]:
        """Return all of them: embedding, layers, head and the MTP module."""
        return (self.embedding, *self.layers, self.head, *(() if self.mtp is None else (self.mtp,)))


def model_work(context: Context) -> ModelWork:
    """Return the operators of every kind of layer on one rank for one micro-batch.

    A reference's forward pass follows the model's own, layer by layer. A copy has parameters of its own.
    """
    work = _model_work(context)
    if context.reference == "none":
        return work
    reference, has_copy = _model_work(context.of_reference), context.reference == "copy"
    pairs = zip(work.layers, reference.layers, strict=True)
    return ModelWork(
        _with_reference(work.embedding, reference.embedding, has_copy=has_copy),
        tuple(_with_reference(own, other, has_copy=has_copy) for own, other in pairs),
        _with_reference(work.head, reference.head, has_copy=has_copy),
        work.mtp,
    )


def _with_reference(work: LayerWork, reference: LayerWork, *, has_copy: bool) -> LayerWork:
    """Return a layer's work with the forward pass of the same layer of a frozen model."""
    further = tuple(replace(each, name=f"reference: {each.name}") for each in reference.forward)
    copies = reference.parameters if has_copy else ()
    return replace(work, forward=(*work.forward, *further), parameters=(*work.parameters, *copies))


def _model_work(context: Context) -> ModelWork:
    """Return the operators of every kind of layer of the model itself."""
    architecture = context.architecture
    return ModelWork(
        _embedding(context),
        tuple(_layer(context, layer, f"layer {index}") for index, layer in enumerate(architecture.kinds)),
        _head(context),
        None if architecture.mtp is None or context.phase != "training" else _mtp(context, context.tokens),
    )


def draft_work(context: Context) -> LayerWork:
    """Return one MTP module that drafts: over all new tokens, with logits of the last token of each sequence.

    It covers all new tokens because its own layer has to cache their keys and values. Decoding requests are split over
    context-parallel ranks. All ranks have a prompt's last token.
    """
    return _mtp(context, context.sequences / context.parallel.cp if context.phase == "decode" else context.sequences)


def _layer(context: Context, layer: arch.Layer, name: str) -> LayerWork:
    """Return one layer: mixer and feed-forward part, each behind its norm."""
    builder = WorkBuilder(name, context.recompute, context.is_frozen)
    context = layer_context(context, layer)
    add_host_time(builder, context, layer)
    add_layer(builder, context, layer)
    if context.phase != "training":
        add_host_transfers(builder, context, layer)
    overlap_tensor_parallel(builder, context)
    return builder.build(_layer_input(context))


def layer_context(context: Context, layer: arch.Layer) -> Context:
    """Return the context of a layer, which may have its own width or fewer tokens than the input."""
    scaled = not (is_single(layer.scale) and layer.scale == 1.0)
    if layer.width is None and not scaled:
        return context
    hidden = context.architecture.hidden if layer.width is None else layer.width
    return replace(
        context,
        architecture=replace(context.architecture, hidden=hidden),
        new_tokens=context.new_tokens * layer.scale,
        kv_len=context.kv_len * layer.scale,
    )


def _layer_input(context: Context) -> Count:
    """Return the bytes of a layer's input on the residual stream."""
    return context.residual_tokens * context.architecture.hidden * context.residual


def add_layer(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add a layer's steps to a builder."""
    if layer.block == "parallel":
        _add_parallel_block(builder, context, layer)
    elif layer.plain:
        _add_plain_block(builder, context, layer)
    else:
        if not isinstance(layer.mixer, arch.NoMixer):
            _add_branch(builder, context, layer, "attention")
        if not isinstance(layer.ffn, arch.NoFfn):
            _add_branch(builder, context, layer, "ffn")
    if context.architecture.layer_embedding is not None:
        add_layer_embedding(builder, context, context.architecture.layer_embedding, layer.norm)


def _add_plain_block(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add a mixer and the activation behind it, one pass. Its norm has parameters but is folded into the GEMM."""
    context = context.in_branch
    _add_mixer(builder, context, layer)
    size = _layer_input(context)
    forward = Elementwise("activation", 2 * size)  # of a grid, not of rows with a thread block each
    builder.step("activation", [forward], [Elementwise("activation gradient", 3 * size)])
    builder.save("activation input", "activation", size)
    builder.add_parameters(Parameters.replicated("folded norm", norm_vectors(layer.norm) * context.architecture.hidden))


def _add_branch(builder: WorkBuilder, context: Context, layer: arch.Layer, name: str) -> None:
    """Add mixer or FFN with the norms around it: x + F(N(x)), x + N(F(x)), or x + N(F(N(x))).

    Hyper-connections replace the residual sum: they join the streams before the norm, and mix them after.
    """
    hidden, rows = context.architecture.hidden, context.residual_tokens
    if context.architecture.residual_block is not None:
        add_block_attention(builder, context, name)
    if has_streams(context):
        streams = context.architecture.streams
        add_stream_reads(builder, context, f"{name} hyper-connection", outputs=streams * (streams + 2.0))
        add_norm(builder, context, f"{name} norm", layer.norm, rows, hidden)
    elif layer.norm != "none" and layer.norm_position != "after":
        add_residual_norm(builder, context, f"{name} norm", layer.norm)
    inner = _enter_branch(builder, context, name)
    around = inner if name == "attention" else _tensor_parallel_ffn(inner, layer.ffn)
    enter_tensor_parallel(builder, around, name)
    if name == "attention":
        _add_mixer(builder, inner, layer)
    else:
        _add_ffn(builder, inner, layer)
    leave_tensor_parallel(builder, around, name)
    if layer.dropout:
        add_dropout(builder, context, f"{name} dropout")
    if has_streams(context):
        add_stream_writes(builder, context, f"{name} hyper-connection")
    elif layer.norm_position == "after":
        add_norm_after(builder, context, f"{name} norm", layer.norm)
    elif layer.norm_position == "both":
        add_norm(builder, context, f"{name} output norm", layer.norm, rows, hidden)


def _tensor_parallel_ffn(context: Context, ffn: arch.Ffn) -> Context:
    """Return the context of the messages of a tensor-parallel group around an FFN.

    Under sequence parallelism each rank routes the tokens that it holds: only shared experts, or slices of experts
    that the group computes on the same tokens, ask for the others' [Megatron-LM, core/transformer/moe/router.py,
    shared_experts.py].
    """
    if not isinstance(ffn, arch.MoeFfn) or not context.parallel.sequence_parallel:
        return context
    if not (is_single(ffn.shared) and ffn.shared == 0.0):
        return context
    tp = where(context.experts_share_tokens, context.parallel.tp, 1.0)
    return replace(context, parallel=replace(context.parallel, tp=tp))


def _enter_branch(builder: WorkBuilder, context: Context, name: str) -> Context:
    """Return the context inside a branch. Add the cast of its input where the branch has a format of its own.

    bytes = tokens * d * (e + e_branch)          and of its gradient on the way back
    """
    inner = context.in_branch
    if inner is not context:
        size = context.residual_tokens * context.architecture.hidden * (context.residual + inner.residual)
        cast = Elementwise(f"{name} input cast", size, kind="cast", rows=context.residual_tokens)
        builder.step("norm", [cast], [Elementwise(f"{name} input gradient cast", size, kind="cast")])
    return inner


def _add_parallel_block(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add mixer and FFN side by side: x + A(N(x)) + F(N'(x)), where N and N' may be one norm.

    They enter a tensor-parallel region once per norm, and leave it with one sum of both results.
    """
    add_residual_norm(builder, context, "block norm", layer.norm, branches=2, norms=1 if layer.shared_norm else 2)
    inner = _enter_branch(builder, context, "block")
    enter_tensor_parallel(builder, inner, "block" if layer.shared_norm else "attention")
    _add_mixer(builder, inner, layer)
    if not layer.shared_norm:
        enter_tensor_parallel(builder, inner, "ffn")
    _add_ffn(builder, inner, layer, owns_input=not layer.shared_norm)
    leave_tensor_parallel(builder, inner, "block")
    if layer.dropout:
        add_dropout(builder, context, "attention dropout")
        add_dropout(builder, context, "ffn dropout")


def _add_mixer(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add a layer's mixer between norm and residual add."""
    mixer, context = layer.mixer, context.part("attention")
    if isinstance(mixer, arch.Attention):
        add_attention(builder, context, mixer, norm=layer.norm, dropout=layer.dropout)
    elif isinstance(mixer, arch.Mla):
        add_mla(builder, context, mixer, norm=layer.norm)
    elif isinstance(mixer, arch.CompressedAttention):
        add_compressed_attention(builder, context, mixer, norm=layer.norm)
    elif isinstance(mixer, arch.PlainProjection):
        _add_plain_projection(builder, context)
    elif not isinstance(mixer, arch.NoMixer):
        _ADD[type(mixer)](builder, context, mixer)


_ADD: Mapping[type, Callable[[WorkBuilder, Context, Any], None]] = {
    arch.Recurrence: add_recurrence, arch.SelectiveScan: add_selective_scan, arch.NeuralMemory: add_memory,
    arch.Convolution: add_convolution, arch.Spectral: add_spectral, arch.Gate: add_gate, arch.MilPool: add_pool,
}  # fmt: skip


def _add_plain_projection(builder: WorkBuilder, context: Context) -> None:
    """Add a d x d matrix instead of attention. Parameters: d^2."""
    width = context.architecture.hidden
    projection = Linear(
        "plain projection", operator="output_projection", producer="norm", rows=context.tokens, inputs=width,
        outputs=width, split="rows",
    )  # fmt: skip
    add_linear(builder, context, projection)


def _add_ffn(builder: WorkBuilder, context: Context, layer: arch.Layer, *, owns_input: bool = True) -> None:
    """Add a layer's feed-forward part between norm and residual add."""
    if isinstance(layer.ffn, arch.DenseFfn):
        add_dense_ffn(builder, context.part("ffn"), layer.ffn, owns_input=owns_input)
    elif isinstance(layer.ffn, arch.MoeFfn):
        add_moe(builder, context, layer.ffn, owns_input=owns_input)


def _embedding(context: Context) -> LayerWork:
    """Return the table look-up. Its gradient is a scatter into the gradient's format. Parameters: V*d (+ positions*d).

    A token reads one row. `active` is the whole table, the usual way of counting. Callers leave the embedding out where
    the convention says so. Inputs that are features are in memory already.
    """
    architecture, element = context.architecture, context.residual
    builder = WorkBuilder("embedding", is_frozen=context.is_frozen)
    if architecture.features:
        return builder.build()
    elements = context.tokens * architecture.hidden
    accumulated = 2 * ELEMENT_BYTES[context.precision.gradients]
    builder.step(
        "embedding",
        [Elementwise("embedding", 2 * elements * element, kind="embedding", rows=context.tokens)],
        weight=[Elementwise("embedding gradient", elements * (element + accumulated))],
    )
    leave_tensor_parallel(builder, context, "embedding")
    if architecture.embedding_norm is not None:
        kind, width = architecture.embedding_norm, architecture.hidden
        add_norm(builder, context, "embedding norm", kind, context.residual_tokens, width)
    table = architecture.vocabulary * architecture.hidden
    # A tied head reads this very table, in the format that it is stored in for that.
    tied = architecture.tied_embeddings and context.precision.head_weights is not None
    element_bytes = context.head_weight if tied else None
    builder.add_parameters(
        Parameters("embedding", table, table / context.parallel.tp, table, element_bytes=element_bytes)
    )
    if architecture.positions is not None:
        builder.add_parameters(Parameters.replicated("position table", architecture.positions * architecture.hidden))
    if architecture.layer_embedding is not None:
        add_embedding_of_layers(builder, context, architecture.layer_embedding, float(architecture.depth))
    if has_streams(context):
        add_stream_copies(builder, context)
    if architecture.encoder is not None:
        total = encoder_parameters(context, architecture.encoder)
        tp = tower_parallelism(context, architecture.encoder).tp
        builder.add_parameters(Parameters("encoder", total, total / tp, 0.0))
    return builder.build()


def tower_parallelism(context: Context, encoder: arch.Encoder) -> Parallelism:
    """Return the layout of an encoder: split over tp as the model is if its heads divide, else every rank has it whole.

    Context-parallel ranks share out the images instead.
    """
    tp: Count = context.parallel.tp
    for layer in encoder.layers:
        tp = where(divides(tp, heads_of(layer.mixer)), tp, 1.0)
    return replace(context.parallel, tp=tp, cp=1.0, sequence_parallel=False)


def encoder_parameters(context: Context, encoder: arch.Encoder) -> Count:
    """Return the parameters of a tower for images or sound: patches, positions, layers, norm, projectors.

    inputs*h + p*h + layers + norm + sum over projectors of inputs*outputs, with biases where there are any
    """
    return sum_of(_encoder_parts(context, encoder))


def _encoder_parts(context: Context, encoder: arch.Encoder) -> Iterator[Count]:
    hidden = encoder.hidden
    yield (encoder.inputs + encoder.positions + (1.0 if encoder.bias else 0.0)) * hidden
    tower = arch.Architecture("encoder", hidden, 1.0, encoder.layers)
    for layer in encoder.layers:
        builder = WorkBuilder("encoder")
        add_layer(builder, replace(context, architecture=tower), layer)
        yield layer.repeat * sum_of(parameters.total for parameters in builder.parameters)
    if encoder.final_norm is not None:
        yield norm_vectors(encoder.final_norm) * hidden
    yield encoder.projector_norms
    for inputs, outputs in encoder.projectors:
        yield inputs * outputs + (outputs if encoder.projector_bias else 0.0)


def _head(context: Context) -> LayerWork:
    """Return final norm, vocabulary projection and loss (training) or logits (inference).

    Logits are those of a prompt's last token, or of every token that a decoding step verifies, split over
    context-parallel ranks. A tied head has no matrix of its own.
    """
    architecture = context.architecture
    builder = WorkBuilder("head", is_frozen=context.is_frozen)
    add_host_time(builder, context)
    _add_final_norm(builder, layer_context(context, architecture.layers[-1]) if architecture.features else context)
    logits = context.sequences if context.phase == "prefill" else context.tokens
    bias = architecture.vocabulary if architecture.head_bias else 0.0
    _add_vocabulary(builder, context, logits, tied=architecture.tied_embeddings, bias=bias)
    overlap_tensor_parallel(builder, context)
    return builder.build()


def _add_final_norm(builder: WorkBuilder, context: Context) -> None:
    """Add the norm before the head, with the last residual add where the last layer has not done it."""
    last = context.architecture.layers[-1]
    kind, branches = context.architecture.final_norm or last.norm, 2 if last.block == "parallel" else 1
    rows, width = context.residual_tokens, context.architecture.hidden
    if context.architecture.residual_block is not None:
        add_block_attention(builder, context, "final")
    if has_streams(context):
        add_stream_reads(builder, context, "final hyper-connection", outputs=context.architecture.streams)
        if kind != "none":
            add_norm(builder, context, "final norm", kind, rows, width)
    elif last.norm_position == "after":
        if kind != "none":
            add_norm(builder, context, "final norm", kind, rows, width)
    elif last.norm == "none" and kind == "none":
        return
    elif kind == "none":
        size = (2 + branches) * rows * width * context.residual
        builder.step("norm", [Elementwise("final residual add", size, kind="add")])
    else:
        add_residual_norm(builder, context, "final norm", kind, branches=branches)


def _add_vocabulary(builder: WorkBuilder, context: Context, tokens: Count, *, tied: bool, bias: Count = 0.0) -> None:
    """Add the vocabulary projection of `tokens` and, in training, the cross-entropy.

    Logits are read, kept in FP32, and replaced by their gradient. tied: another layer owns the matrix.
    """
    vocabulary = context.architecture.vocabulary
    enter_tensor_parallel(builder, context, "head")
    projection = Linear(
        "vocabulary projection", operator="head", producer="final_norm", rows=tokens, split="columns",
        inputs=context.architecture.hidden, outputs=vocabulary, dtype=context.precision.head,
        weight_bytes=None if context.precision.head_weights is None else context.head_weight, gathered=True,
        # Every context-parallel rank has the last tokens of a prompt and repeats the GEMM.
        replicas=context.parallel.cp if context.phase == "prefill" else 1.0, tied=tied, bias=bias,
    )  # fmt: skip
    add_linear(builder, context, projection)
    if context.phase == "training":
        logits = tokens * (vocabulary / context.parallel.tp)
        _add_loss(builder, context, tokens, logits)
        kept = logits / context.loss_chunks * ELEMENT_BYTES["fp32"]
        builder.save("logits", "head", kept)
        builder.add_working_memory(kept * _loss_tensors(context))


def _loss_tensors(context: Context) -> Count:
    """Return how many FP32 tensors of logits the loss's backward pass holds besides the logarithms that were kept.

    Of PyTorch's own kernels a gradient filled with zeros, and its own. With a vocabulary split by DTensor the zeros,
    exponentials and their sum [PyTorch, nn/functional.py; distributed/tensor/parallel/loss.py,
    _nll_loss_and_log_softmax_backward]. A fused one, or Megatron's, writes the gradient over what was kept.
    """
    return where(context.parallel.tp > 1, 3.0, 2.0) if context.framework.training.has_eager_loss else 0.0


def _add_loss(builder: WorkBuilder, context: Context, tokens: Count, logits: Count) -> None:
    """Add the cross-entropy of `tokens` with `logits` in all on this rank: e + 8 bytes per logit, fused.

    Unfused: cast, log-softmax, a gradient filled with zeros, the softmax gradient and its cast: e + 12 bytes per logit
    forward, e + 20 backward [PyTorch, torch/nn/functional.py, cross_entropy under autocast]. With a split vocabulary:
    cast, maximum, difference, exponential, sum and quotient, e + 36. Backward product and cast, e + 12. 16 kernels and
    8 look up the targets and mask and average their losses, FP32 numbers per token in and out [NVIDIA Megatron-LM,
    core/tensor_parallel/cross_entropy.py; pretrain_gpt.py].
    """
    element, fp32 = context.residual, ELEMENT_BYTES["fp32"]
    if context.framework.fused_masked_softmax:
        size = 2 * tokens * fp32
        forward = [
            Elementwise("loss", logits * (element + 9 * fp32), kind="softmax", calls=6.0),
            Elementwise("loss of targets", 16 * size, calls=16.0),
        ]
        gradients = [
            Elementwise("loss gradient", logits * (element + 3 * fp32), kind="softmax", calls=2.0),
            Elementwise("loss gradient of targets", 8 * size, calls=8.0),
        ]
    elif context.framework.training.eager != "none":
        forward = [Elementwise("loss", logits * (element + 3 * fp32), kind="softmax", calls=2.0)]
        gradients = [Elementwise("loss gradient", logits * (element + 5 * fp32), kind="softmax", calls=3.0)]
    else:
        forward, gradients = [Elementwise("loss", logits * (element + 2 * fp32))], []
    builder.step("loss", forward, gradients)


def mtp_layers(architecture: arch.Architecture) -> tuple[arch.Layer, ...]:
    """Return the layers of one MTP module: those that the model states, else one more like its last."""
    if architecture.mtp is not None and architecture.mtp.layers is not None:
        return architecture.mtp.layers
    return (replace(architecture.layers[-1], repeat=1),)


def _mtp(context: Context, logits: Count) -> LayerWork:
    """Return one multi-token-prediction module: two norms, a 2d -> d projection, its layers, and the shared head.

    logits: tokens that the head is applied to. Source: DeepSeek-V3 report, arXiv 2412.19437, section 2.2.
    """
    last, hidden = context.architecture.layers[-1], context.architecture.hidden
    builder = WorkBuilder("mtp", context.recompute, context.is_frozen)
    add_norm(builder, context, "mtp hidden norm", last.norm, context.residual_tokens, hidden)
    add_norm(builder, context, "mtp embedding norm", last.norm, context.residual_tokens, hidden)
    projection = Linear(
        "mtp projection", operator="mtp_projection", producer="norm", rows=context.tokens, inputs=2 * hidden,
        outputs=hidden, replicas=context.parallel.tp,
    )  # fmt: skip
    add_linear(builder, context, projection)
    for layer in mtp_layers(context.architecture):
        for _ in range(layer.repeat):
            add_layer(builder, context, layer)
    add_residual_norm(builder, context, "mtp final norm", last.norm)
    _add_vocabulary(builder, context, logits, tied=True)
    return builder.build(_layer_input(context))
