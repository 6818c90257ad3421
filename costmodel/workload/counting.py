"""What can be counted exactly: parameters, active parameters, KV-cache bytes, FLOP of a token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from costmodel.quantities import Bytes, Count, Flop, Quantity, maximum, minimum
from costmodel.workload.architecture import Architecture, Attention, Mla, NeuralMemory, Recurrence
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
    """Return the parameters of a model, summed over the layers' own lists.

    A tied output head works with the embedding's matrix, which is then active.
    """
    work = model_work(_on_one_rank(architecture))
    bodies = list(zip(map(float, architecture.kinds.values()), work.layers, strict=True))
    total = sum_of(times * item.total for times, body in bodies for item in body.parameters)
    active = sum_of(times * item.active for times, body in bodies for item in body.parameters)
    embedding = sum_of(item.total for item in work.embedding.parameters)
    head = sum_of(item.total for item in work.head.parameters)
    used_again = architecture.vocabulary * architecture.hidden if architecture.tied_embeddings else 0.0
    mtp: Quantity = 0.0
    if work.mtp is not None and architecture.mtp is not None:
        mtp = architecture.mtp.depth * sum_of(item.total for item in work.mtp.parameters)
    return ParameterCount(total + embedding + head, active + head + used_again, active + head + embedding, mtp)


def _on_one_rank(architecture: Architecture) -> Context:
    """Return a context in which one rank holds the whole model; formats and batch do not enter a count."""
    half = "bf16"
    formats = Precision(
        linear=half,
        attention=half,
        router=half,
        head=half,
        residual=half,
        weights=half,
        master=None,
        gradients=half,
        moments=half,
        kv_cache=half,
        activations=half,
    )
    tiles = (Tile(1, 1),)
    framework = Framework("none", tiles, tiles, 1.0, 0.0, 0.0)
    return Context(
        architecture=architecture,
        parallel=Parallelism(),
        precision=formats,
        communication=Communication(),
        framework=framework,
        phase="training",
        sequences=1.0,
        new_tokens=1.0,
        kv_len=1.0,
    )


def sum_of(values: Iterable[Quantity]) -> Quantity:
    """Return the sum of quantities that may be arrays of different shapes."""
    total: Quantity = 0.0
    for value in values:
        total = total + value
    return total


def kv_bytes_per_token(architecture: Architecture, dtype: str = "bf16", tp: Count = 1.0) -> Bytes:
    """Return the KV cache of one token over all layers on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e a layer, split over tp down to one head; MLA: (c + r)*e, shared by all heads and never split.
    Windows bound what is kept of a sequence, not what a token writes.
    """
    return kv_bytes_per_sequence(architecture, 1.0, ELEMENT_BYTES[dtype], tp)


def kv_bytes_per_sequence(architecture: Architecture, keys: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of a sequence of `keys` tokens on one tensor-parallel rank, as far as windows keep it [B].

    element: bytes of one cached element, scales included.
    """
    return sum_of(layer.repeat * cached_bytes(layer.mixer, keys, element, tp) for layer in architecture.layers)


def kv_breakpoints(architecture: Architecture) -> list[Count]:
    """Return the distinct windows of a model's attention, at every point in ascending order."""
    windows: list[Count] = []
    for layer in architecture.layers:
        for group in layer.mixer.head_groups if isinstance(layer.mixer, Attention) else ():
            for window in group.pattern.breakpoints:
                if not any(np.array_equal(window, known) for known in windows):
                    windows.append(window)
    for last in range(len(windows) - 1, 0, -1):
        for place in range(last):
            pair = windows[place : place + 2]
            windows[place : place + 2] = [minimum(*pair), maximum(*pair)]
    return windows


def attention_flop_per_token(architecture: Architecture, sequence: Count, *, causal: bool) -> Flop:
    """Return the attention FLOP of one token, forward, over all layers.

    2*H*(q + v)*T a layer, with the T keys that a query sees on the mean, as its pattern says.
    """
    total: Quantity = 0.0
    for layer in architecture.layers:
        mixer = layer.mixer
        if isinstance(mixer, Mla):
            width = mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.v_head_dim)
            total = total + 2 * layer.repeat * width * (sequence / 2 if causal else sequence)
            continue
        if not isinstance(mixer, Attention):
            if isinstance(mixer, Recurrence | NeuralMemory):
                total = total + layer.repeat * _recurrent_flop(mixer, architecture.hidden)
            continue
        for group in mixer.head_groups:
            width = group.share * mixer.q_heads * (mixer.head_dim + mixer.v_head_dim)
            for heads, tokens in mixer.head_parts:
                seen = group.pattern.mean_keys(tokens * sequence, causal=causal and mixer.causal)
                total = total + 2 * layer.repeat * width * heads * tokens * seen
    return total


def _recurrent_flop(mixer: Recurrence | NeuralMemory, hidden: Count) -> Flop:
    """Return the FLOP of a token in a state: those of the scan, or retrieval and update of a memory, 8*P."""
    if isinstance(mixer, NeuralMemory):
        return 8 * mixer.weights(hidden)
    return 2 * mixer.heads * mixer.visited_states * scan_macs(mixer, decodes=False)


def training_flop_per_token(architecture: Architecture, active: Count, sequence: Count, *, causal: bool = True) -> Flop:
    """Return the model FLOP of one trained token: 6*active + 3*attention, no recompute, no MTP.

    active: parameters that a token visits, without the input embedding. So counts Table 2 of arXiv
    2505.09343 for V2 and V3.
    """
    return 6 * active + 3 * attention_flop_per_token(architecture, sequence, causal=causal)
