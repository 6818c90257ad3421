"""From an architecture to the work of each kind of layer: embedding, the model's layers, MTP module, head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from costmodel.quantities import Count, Seconds, anywhere, divides, is_single, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload import architecture as arch
from costmodel.workload.architecture import Layer, Recurrence, SelectiveScan
from costmodel.workload.attention import add_attention, add_joint_core, add_joint_inputs, add_joint_result
from costmodel.workload.context import Context
from costmodel.workload.denoising import (
    add_branch_join,
    add_modulation,
    denoiser_input,
    denoiser_output,
    runs_eager_denoising,
)
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.ffn import add_dense_ffn, add_moe
from costmodel.workload.host_offload import add_host_transfers
from costmodel.workload.linear import Linear, add_linear
from costmodel.workload.mla import add_compressed_attention, add_mla
from costmodel.workload.norms import add_dropout, add_norm, add_norm_after, add_residual_norm, norm_vectors
from costmodel.workload.operators import Elementwise, HostTime
from costmodel.workload.output_head import (
    add_block_attention,
    add_embedding_of_layers,
    add_final_norm,
    add_layer_embedding,
    add_stream_copies,
    add_stream_reads,
    add_stream_writes,
    add_vocabulary,
    enter_tensor_parallel,
    has_streams,
    leave_tensor_parallel,
    overlap_tensor_parallel,
)
from costmodel.workload.recurrences import add_memory, add_recurrence, add_selective_scan
from costmodel.workload.scenario import Parallelism
from costmodel.workload.split_rules import heads_of
from costmodel.workload.vision_mixers import add_convolution, add_gate, add_pool, add_residual_block, add_spectral
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
    architecture = context.architecture
    return ModelWork(
        _embedding(context),
        tuple(_layer(context, layer, f"layer {index}") for index, layer in enumerate(architecture.kinds)),
        _head(context),
        None if architecture.mtp is None or context.phase != "training" else _mtp(context, context.tokens),
    )


def draft_work(context: Context) -> LayerWork:
    """Return one MTP module that drafts: over all new tokens, with logits of the last token of each sequence.

    It covers all new tokens because its own layer has to cache their keys and values.
    """
    return _mtp(context, last_tokens(context))


def last_tokens(context: Context) -> Count:
    """Return the last tokens of the sequences of a rank: of requests that decode a share over cp, of prompts all."""
    return context.sequences / context.parallel.cp if context.phase == "decode" else context.sequences


def _layer(context: Context, layer: arch.Layer, name: str) -> LayerWork:
    builder = WorkBuilder(name, context.recompute, context.is_frozen)
    if layer.wide:  # of weights in a format of their own, which nothing casts
        context = context.unquantised
        context = replace(context, precision=replace(context.precision, of_part=True))
    context = layer_context(context, layer)
    add_host_time(builder, context, layer)
    add_layer(builder, context, layer)
    if context.phase != "training":
        add_host_transfers(builder, context, layer)
    overlap_tensor_parallel(builder, context)
    return builder.build(_layer_input(context))


def layer_context(context: Context, layer: arch.Layer) -> Context:
    """Return the context of a layer, which may have its own width, other tokens than the input, or those of a text.

    tokens = scale * (1 + frame_scale * (frames - 1)) / frames * tokens of the input + tokens of the text
    """
    scaled = not all(is_single(each) and each == 1.0 for each in (layer.scale, layer.frame_scale))
    joined = layer.text == "joined"
    if layer.width is None and not scaled and not joined:
        return context
    hidden = context.architecture.hidden if layer.width is None else layer.width
    frames = 1.0 + (context.frames - 1.0) * layer.frame_scale  # the first frame stands for itself
    scale, text = layer.scale * (frames / context.frames), context.text_tokens if joined else 0.0
    return replace(
        context,
        architecture=replace(context.architecture, hidden=hidden),
        new_tokens=context.new_tokens * scale + text,
        kv_len=context.kv_len * scale + text,
    )


def _layer_input(context: Context) -> Count:
    return context.residual_tokens * context.architecture.hidden * context.residual


def add_layer(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add a layer's steps to a builder."""
    if layer.two_streams:
        _add_two_streams(builder, context, layer)
    elif layer.block == "parallel":
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
    add_mixer(builder, context, layer)
    size = _layer_input(context)
    forward = Elementwise("activation", 2 * size)  # of a grid, not of rows with a thread block each
    builder.elementwise("activation", forward, 3 * size)
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
    add_modulation(builder, context, layer, f"{name} modulation")
    inner = _enter_branch(builder, context, name)
    around = inner if name == "attention" else _tensor_parallel_ffn(inner, layer.ffn)
    enter_tensor_parallel(builder, around, name)
    if name == "attention":
        add_mixer(builder, inner, layer)
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


def _add_two_streams(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add a layer whose tokens of latents and of text have matrices of their own around one attention core.

    [Esser et al., arXiv 2403.03206, figure 2b: MM-DiT]
    """
    mixer = layer.mixer
    assert isinstance(mixer, arch.Attention), "the file's own check"
    text = replace(context, new_tokens=context.text_tokens, kv_len=context.text_tokens)
    both = replace(context, new_tokens=context.new_tokens + text.new_tokens, kv_len=context.kv_len + text.kv_len)
    before, after = (WorkBuilder("text", builder.recompute, builder.is_frozen) for _ in range(2))
    for stream, tokens in ((builder, context), (before, text)):
        add_residual_norm(stream, tokens, "attention norm", layer.norm)
        add_modulation(stream, tokens, layer, "attention modulation")
        enter_tensor_parallel(stream, tokens, "attention")
        add_joint_inputs(stream, tokens.part("attention"), mixer, norm=layer.norm)
    builder.add_stream(before, "text")
    add_joint_core(builder, both.part("attention"), mixer)
    for stream, tokens in ((builder, context), (after, text)) if layer.text == "own" else ((builder, context),):
        add_joint_result(stream, tokens.part("attention"), mixer)
        leave_tensor_parallel(stream, tokens, "attention")
        if not isinstance(layer.ffn, arch.NoFfn):
            _add_branch(stream, tokens, layer, "ffn")
    builder.add_stream(after, "text")


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
    add_modulation(builder, context, layer, "block modulation")
    inner = _enter_branch(builder, context, "block")
    enter_tensor_parallel(builder, inner, "block" if layer.shared_norm else "attention")
    add_mixer(builder, inner, layer)
    if not layer.shared_norm:
        enter_tensor_parallel(builder, inner, "ffn")
    _add_ffn(builder, inner, layer, owns_input=not layer.shared_norm)
    if runs_eager_denoising(context):
        add_branch_join(builder, context, layer)
    leave_tensor_parallel(builder, inner, "block")
    if layer.dropout:
        add_dropout(builder, context, "attention dropout")
        add_dropout(builder, context, "ffn dropout")


def add_mixer(builder: WorkBuilder, context: Context, layer: arch.Layer) -> None:
    """Add what mixes the tokens of a layer, without the norms around it and the messages of its ranks."""
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
    arch.Convolution: add_convolution, arch.ResidualBlock: add_residual_block, arch.Spectral: add_spectral,
    arch.Gate: add_gate, arch.MilPool: add_pool,
}  # fmt: skip


def _add_plain_projection(builder: WorkBuilder, context: Context) -> None:
    """Add a d x d matrix instead of attention. Parameters: d^2."""
    width = context.architecture.hidden
    add_linear(builder, context, Linear(
        "plain projection", operator="output_projection", producer="norm", rows=context.tokens, inputs=width,
        outputs=width, split="rows",
    ))  # fmt: skip


def _add_ffn(builder: WorkBuilder, context: Context, layer: arch.Layer, *, owns_input: bool = True) -> None:
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
    if architecture.denoiser is not None:
        return denoiser_input(context, architecture.denoiser)
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
    if architecture.denoiser is not None:
        return denoiser_output(builder, context, architecture.denoiser)
    add_final_norm(builder, layer_context(context, architecture.layers[-1]) if architecture.features else context)
    if architecture.headless:
        return builder.build()
    logits = context.sequences if context.phase == "prefill" else context.tokens
    bias = architecture.vocabulary if architecture.head_bias else 0.0
    add_vocabulary(builder, context, logits, tied=architecture.tied_embeddings, bias=bias)
    overlap_tensor_parallel(builder, context)
    return builder.build()


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
    add_linear(builder, context, Linear(
        "mtp projection", operator="mtp_projection", producer="norm", rows=context.tokens, inputs=2 * hidden,
        outputs=hidden, replicas=context.parallel.tp,
    ))  # fmt: skip
    for layer in mtp_layers(context.architecture):
        for _ in range(layer.repeat):
            add_host_time(builder, context, layer)
            add_layer(builder, context, layer)
    add_residual_norm(builder, context, "mtp final norm", last.norm)
    add_vocabulary(builder, context, logits, tied=True)
    return builder.build(_layer_input(context))


# ---- Time of the host's program in passes of an inference engine, during kernels -------------------------------------


def add_host_time(builder: WorkBuilder, context: Context, layer: Layer | None = None) -> None:
    """Add what the host's program adds to a layer of an inference step, or to the step itself."""
    if context.phase == "training":
        return
    host, floor = context.framework.host, context.framework.eager_prompts.layer
    is_recurrent = layer is not None and isinstance(layer.mixer, Recurrence | SelectiveScan)
    if context.phase == "prefill" and is_recurrent:  # a CUDA graph ends, where one holds the pass
        _add(builder, "graph break", where(np.asarray(floor) == 0.0, host.recurrence, 0.0))
    _add(builder, "host", host.step if layer is None else host.layer)


def _add(builder: WorkBuilder, name: str, seconds: Seconds) -> None:
    if anywhere(seconds):
        builder.step("host", [HostTime(name, seconds)])
