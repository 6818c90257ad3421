"""Exact counts of a model: parameters, active parameters, KV-cache bytes, FLOP per token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from costmodel.quantities import Bytes, Count, Flop, Quantity, maximum, minimum, sum_of
from costmodel.records import Record, replace
from costmodel.workload import architecture as arch
from costmodel.workload.adapters import Adapters, ServedAdapters
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.kv_cache import written_bytes
from costmodel.workload.layers import encoder_parameters, model_work
from costmodel.workload.linear import SERVED
from costmodel.workload.patterns import Pattern, Selected
from costmodel.workload.recurrences import scan_macs
from costmodel.workload.scenario import Communication, Framework, Parallelism, Precision, Tile

COUNTING_LENGTH = 4096.0  # tokens of a sequence where no scenario states one: the length DeepSeek's Table 2 counts at


class ParameterCount(Record):
    """Parameters of a model. `total` and `active` leave MTP modules out, `active` the input embedding too.

    Of networks that share the steps of denoising `total` has all, without encoders of texts and the autoencoder.

    encoder: those of a tower for images or sound, which are part of `total` and are not active for text.
    """

    total: Count
    active: Count
    active_with_embedding: Count
    mtp: Count
    encoder: Count = 0.0


@lru_cache(maxsize=64)
def parameter_count(architecture: arch.Architecture) -> ParameterCount:
    """Return the parameters of a model, summed over its layers.

    A tied head computes with the embedding's matrix, which is then active.
    """
    context = _on_one_rank(architecture)
    work = model_work(context)
    layers = list(zip(map(float, architecture.kinds.values()), work.layers, strict=True))
    total = sum_of(count * item.total for count, layer in layers for item in layer.parameters)
    active = sum_of(count * item.active for count, layer in layers for item in layer.parameters)
    embedding = sum_of(item.total for item in work.embedding.parameters)
    head = sum_of(item.total for item in work.head.parameters)
    tied = architecture.vocabulary * architecture.hidden if architecture.tied_embeddings else 0.0
    mtp: Quantity = 0.0
    if work.mtp is not None and architecture.mtp is not None:
        mtp = architecture.mtp.depth * sum_of(item.total for item in work.mtp.parameters)
    encoder = 0.0 if architecture.encoder is None else encoder_parameters(context, architecture.encoder)
    read = sum_of(item.active for item in work.embedding.parameters)
    networks = 1.0 if architecture.denoiser is None else float(architecture.denoiser.networks)
    return ParameterCount(
        networks * (total + embedding + head), active + head + tied, active + head + read, mtp, encoder
    )


@lru_cache(maxsize=64)
def adapter_parameters(architecture: arch.Architecture, adapters: Adapters) -> tuple[Count, Count]:
    """Return the parameters of a model's adapters, and those that a token visits."""
    work = model_work(replace(_on_one_rank(architecture), adapters=adapters))
    kinds = [*zip(map(float, architecture.kinds.values()), work.layers, strict=True), (1.0, work.head)]
    owned = [(count, item) for count, kind in kinds for item in kind.parameters if item.trains]
    return sum_of(count * item.total for count, item in owned), sum_of(count * item.active for count, item in owned)


@lru_cache(maxsize=256)
def has_linear_layer(architecture: arch.Architecture, target: str) -> bool:
    """Tell whether a model has a linear layer of that name of `adapters.targets`."""
    return bool(np.any(np.greater(adapter_parameters(architecture, Adapters(1.0, (target,)))[0], 0)))


@lru_cache(maxsize=256)
def has_served_layer(architecture: arch.Architecture, target: str) -> bool:
    """Tell whether a model has a linear layer of that name that adapters of requests may have."""
    work = model_work(replace(_on_one_rank(architecture), served=ServedAdapters(1, 1.0, (target,))))
    return any(each.name.startswith(SERVED) for kind in (*work.layers, work.head) for each in kind.parameters)


def _on_one_rank(architecture: arch.Architecture) -> Context:
    """Return a context in which one rank holds the whole model. Formats and batch do not affect a count."""
    dtype: Literal["bf16"] = "bf16"
    tiles = (Tile(1, 1),)
    precision = Precision(
        linear=dtype, attention=dtype, router=dtype, head=dtype, residual=dtype, weights=dtype, master=None,
        gradients=dtype, moments=dtype, kv_cache=dtype, activations=dtype,
    )  # fmt: skip
    framework = Framework(
        "none", gemm_tiles=tiles, attention_tiles=tiles, promotion_interval=1.0, launch=0.0, reserve=0.0
    )
    return Context(
        architecture=architecture, parallel=Parallelism(), precision=precision, communication=Communication(),
        framework=framework, phase="training", sequences=1.0, new_tokens=1.0, kv_len=1.0,
    )  # fmt: skip


def kv_bytes_per_token(architecture: arch.Architecture, dtype: str = "bf16", tp: Count = 1.0) -> Bytes:
    """Return the KV cache that one token writes, over all layers, on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e per layer, split over tp down to one head.
    MLA: (c + r)*e, shared by all heads and never split.
    """
    element = ELEMENT_BYTES[dtype]
    return sum_of(layer.repeat * written_bytes(layer.mixer, element, tp) for layer in architecture.layers)


def kv_breakpoints(architecture: arch.Architecture) -> list[Count]:
    """Return the lengths at which attention reads stop growing as before, ascending at every point."""
    lengths: list[Count] = []
    for layer in architecture.layers:
        for length in _mixer_breakpoints(layer.mixer):
            if not any(np.array_equal(length, other) for other in lengths):
                lengths.append(length)
    for last in range(len(lengths) - 1, 0, -1):
        for i in range(last):
            pair = lengths[i : i + 2]
            lengths[i : i + 2] = [minimum(*pair), maximum(*pair)]
    return lengths


def _mixer_breakpoints(mixer: arch.Mixer) -> Iterator[Count]:
    """Yield the lengths at which a mixer's reads stop growing as before."""
    if isinstance(mixer, arch.Attention):
        for group in mixer.head_groups:
            yield from group.pattern.breakpoints
    elif isinstance(mixer, arch.CompressedAttention):
        yield mixer.window
        if mixer.indexer is not None and mixer.ratio is not None:
            yield mixer.indexer.top_k * mixer.ratio
    elif isinstance(mixer, arch.Mla):
        for group in mixer.groups:
            yield from group.pattern.breakpoints


def attention_flop_per_token(architecture: arch.Architecture, sequence: Count, *, causal: bool) -> Flop:
    """Return the attention FLOP of one token, forward, over all layers.

    2*H*(q + v)*T per layer, with the mean keys T of a query under the layer's pattern.
    """
    return sum_of(
        flop
        for layer in architecture.layers
        for flop in _layer_flop(layer, architecture.hidden, sequence, causal=causal)
    )


def _layer_flop(layer: arch.Layer, hidden: Count, sequence: Count, *, causal: bool) -> Iterator[Flop]:
    """Yield the attention FLOP of one token in the layers of a run, for each part of the heads.

    An indexer adds its scores of all earlier keys.
    """
    mixer = layer.mixer
    yield layer.repeat * _indexer_flop(mixer, sequence)
    if isinstance(mixer, arch.Mla):
        width = mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.v_head_dim)
        for group in mixer.groups:
            yield 2 * layer.repeat * group.share * width * group.pattern.mean_keys(sequence, causal=causal)
    elif isinstance(mixer, arch.CompressedAttention):
        yield 4 * layer.repeat * mixer.heads * mixer.head_dim * _compressed_keys(mixer, sequence)
    elif isinstance(mixer, arch.SelectiveScan):
        yield 6 * layer.repeat * mixer.inner * mixer.state
    elif isinstance(mixer, arch.NeuralMemory):
        yield layer.repeat * (8 * mixer.weights(hidden))  # retrieval and update
    elif isinstance(mixer, arch.Recurrence):
        yield layer.repeat * (2 * mixer.heads * mixer.visited_states * scan_macs(mixer, decodes=False))
    elif isinstance(mixer, arch.Attention):
        for group in mixer.head_groups:
            width = group.share * mixer.q_heads * (mixer.head_dim + mixer.v_head_dim)
            for heads, tokens in mixer.head_parts:
                keys = group.pattern.mean_keys(tokens * sequence, causal=causal and mixer.causal)
                yield 2 * layer.repeat * width * heads * tokens * keys


def _indexer_flop(mixer: arch.Mixer, sequence: Count) -> Flop:
    """Return the FLOP of a token's scores in an indexer: 2*H_i*d_i for each of the T/2 keys or entries before it."""
    if (
        not isinstance(mixer, arch.Attention | arch.Mla | arch.CompressedAttention)
        or mixer.indexer is None
        or mixer.indexer.reused
    ):
        return 0.0
    ratio = mixer.ratio if isinstance(mixer, arch.CompressedAttention) and mixer.ratio is not None else 1.0
    return mixer.indexer.heads * mixer.indexer.head_dim * sequence / ratio


def _compressed_keys(mixer: arch.CompressedAttention, sequence: Count) -> Count:
    """Return the mean keys of a query: those of its window, and its pooled entries or the selected ones."""
    near = Pattern("window", mixer.window).mean_keys(sequence, causal=True)
    if mixer.ratio is None:
        return near
    far = Pattern() if mixer.indexer is None else Selected(top_k=mixer.indexer.top_k * mixer.ratio)
    return near + far.mean_keys(sequence, causal=True) / mixer.ratio


def training_flop_per_token(
    architecture: arch.Architecture, active: Count, sequence: Count, *, causal: bool = True, frozen: Count = 0.0,
    passes: Count = 0.0,
) -> Flop:  # fmt: skip
    """Return the model FLOP of one trained token: 6*active + 3*attention, no recompute, no MTP.

        F = 6*(active - frozen) + 4*frozen + 3*attention + passes*(2*active + attention)

    active: parameters that a token visits, without the input embedding, as in Table 2 of arXiv 2505.09343.
    frozen: of them, those without gradients; passes: forward passes of a reference.
    """
    attention = attention_flop_per_token(architecture, sequence, causal=causal)
    return 6 * active - 2 * frozen + 3 * attention + passes * (2 * active + attention)


def architecture_facts(architecture: arch.Architecture, length: float = COUNTING_LENGTH) -> dict[str, Any]:
    """Return what can be counted of a model: parameters, KV bytes a token at BF16, training FLOP a token."""
    count = parameter_count(architecture)
    return {
        "name": architecture.name,
        "parameters": float(count.total),
        "active_parameters": float(count.active),
        "active_parameters_with_embedding": float(count.active_with_embedding),
        "mtp_parameters": float(count.mtp),
        **({} if architecture.encoder is None else {"encoder_parameters": float(count.encoder)}),
        "kv_cache_bytes_per_token": float(kv_bytes_per_token(architecture)),
        "training_flop_per_token": float(training_flop_per_token(architecture, count.active, length)),
    }
