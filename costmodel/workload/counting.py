"""Exact counts of a model: parameters, active parameters, KV-cache bytes, FLOP per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from costmodel.quantities import Bytes, Count, Flop, Quantity, maximum, minimum, sum_of
from costmodel.workload.architecture import Architecture, Attention, Layer, Mla, NeuralMemory, Recurrence
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.kv_cache import cached_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.recurrences import scan_macs
from costmodel.workload.scenario import Communication, Framework, Parallelism, Precision, Tile


@dataclass(frozen=True, slots=True, eq=False)
class ParameterCount:
    """Parameters of a model. `total` and `active` leave MTP modules out, `active` the input embedding too."""

    total: Count
    active: Count
    active_with_embedding: Count
    mtp: Count


@lru_cache(maxsize=64)
def parameter_count(architecture: Architecture) -> ParameterCount:
    """Return the parameters of a model, summed over its layers.

    A tied head computes with the embedding's matrix, which is then active.
    """
    work = model_work(_on_one_rank(architecture))
    layers = list(zip(map(float, architecture.kinds.values()), work.layers, strict=True))
    total = sum_of(count * item.total for count, layer in layers for item in layer.parameters)
    active = sum_of(count * item.active for count, layer in layers for item in layer.parameters)
    embedding = sum_of(item.total for item in work.embedding.parameters)
    head = sum_of(item.total for item in work.head.parameters)
    tied = architecture.vocabulary * architecture.hidden if architecture.tied_embeddings else 0.0
    mtp: Quantity = 0.0
    if work.mtp is not None and architecture.mtp is not None:
        mtp = architecture.mtp.depth * sum_of(item.total for item in work.mtp.parameters)
    return ParameterCount(total + embedding + head, active + head + tied, active + head + embedding, mtp)


def _on_one_rank(architecture: Architecture) -> Context:
    """Return a context in which one rank holds the whole model; formats and batch do not affect a count."""
    dtype, tiles = "bf16", (Tile(1, 1),)
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


def kv_bytes_per_token(architecture: Architecture, dtype: str = "bf16", tp: Count = 1.0) -> Bytes:
    """Return the KV cache that one token writes, over all layers, on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e per layer, split over tp down to one head; MLA: (c + r)*e, shared by all heads and never split.
    """
    return kv_bytes_per_sequence(architecture, 1.0, ELEMENT_BYTES[dtype], tp)


def kv_bytes_per_sequence(architecture: Architecture, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of a sequence of `tokens` on one tensor-parallel rank, within windows [B].

    element: bytes of one cached element, scales included.
    """
    return sum_of(layer.repeat * cached_bytes(layer.mixer, tokens, element, tp) for layer in architecture.layers)


def kv_breakpoints(architecture: Architecture) -> list[Count]:
    """Return the lengths at which attention reads stop growing as before, ascending at every point."""
    lengths: list[Count] = []
    for layer in architecture.layers:
        for group in layer.mixer.head_groups if isinstance(layer.mixer, Attention) else ():
            for length in group.pattern.breakpoints:
                if not any(np.array_equal(length, other) for other in lengths):
                    lengths.append(length)
    for last in range(len(lengths) - 1, 0, -1):
        for i in range(last):
            pair = lengths[i : i + 2]
            lengths[i : i + 2] = [minimum(*pair), maximum(*pair)]
    return lengths


def attention_flop_per_token(architecture: Architecture, sequence: Count, *, causal: bool) -> Flop:
    """Return the attention FLOP of one token, forward, over all layers.

    2*H*(q + v)*T per layer, with the mean keys T of a query under the layer's pattern.
    """
    return sum_of(
        flop
        for layer in architecture.layers
        for flop in _layer_flop(layer, architecture.hidden, sequence, causal=causal)
    )


def _layer_flop(layer: Layer, hidden: Count, sequence: Count, *, causal: bool) -> Iterator[Flop]:
    """Yield the attention FLOP of one token in the layers of a run, for each part of the heads."""
    mixer = layer.mixer
    if isinstance(mixer, Mla):
        width = mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.v_head_dim)
        yield 2 * layer.repeat * width * (sequence / 2 if causal else sequence)
    elif isinstance(mixer, NeuralMemory):
        yield layer.repeat * (8 * mixer.weights(hidden))  # retrieval and update
    elif isinstance(mixer, Recurrence):
        yield layer.repeat * (2 * mixer.heads * mixer.visited_states * scan_macs(mixer, decodes=False))
    elif isinstance(mixer, Attention):
        for group in mixer.head_groups:
            width = group.share * mixer.q_heads * (mixer.head_dim + mixer.v_head_dim)
            for heads, tokens in mixer.head_parts:
                keys = group.pattern.mean_keys(tokens * sequence, causal=causal and mixer.causal)
                yield 2 * layer.repeat * width * heads * tokens * keys


def training_flop_per_token(architecture: Architecture, active: Count, sequence: Count, *, causal: bool = True) -> Flop:
    """Return the model FLOP of one trained token: 6*active + 3*attention, no recompute, no MTP.

    active: parameters that a token visits, without the input embedding, as in Table 2 of arXiv 2505.09343.
    """
    return 6 * active + 3 * attention_flop_per_token(architecture, sequence, causal=causal)
