"""What one layer caches of a sequence: keys and values of every head, or the latent that all heads share."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, minimum
from costmodel.workload.architecture import Attention, Mixer, Mla, NeuralMemory, Recurrence


def state_bytes(mixer: Mixer, hidden: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the state of a sequence, whatever its length, of one layer on one tensor-parallel rank [B].

    Recurrence: M states per head of q*v; neural memory: its weights, and momentum. Attention: nothing.
    """
    if isinstance(mixer, Recurrence):
        return mixer.states * mixer.heads * mixer.key_dim * mixer.value_dim * element / tp
    return mixer.state(hidden) * element / tp if isinstance(mixer, NeuralMemory) else 0.0


def cached_bytes(mixer: Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of a sequence of `tokens` in one layer on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e per token within its pattern, split over tp down to one head; MLA: (c + r)*e, shared by all
    heads and never split; other mixers, and attention without a cache: nothing. element: one cached element, scales
    included [B].
    """
    if isinstance(mixer, Mla):
        return tokens * (mixer.kv_lora + mixer.rope_dim) * element
    if not isinstance(mixer, Attention) or not mixer.has_kv_cache:
        return 0.0
    return mixer.cached_tokens(tokens) * _token_bytes(mixer, element, tp)


def host_cached_bytes(mixer: Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return what the host's memory caches of a sequence of `tokens` in one layer, for one rank [B]."""
    if not isinstance(mixer, Attention) or not mixer.has_kv_cache:
        return 0.0
    return mixer.host_tokens(tokens) * _token_bytes(mixer, element, tp)


def _token_bytes(mixer: Attention, element: Bytes, tp: Count) -> Bytes:
    """Return the keys and values of one token in all heads of one rank [B]."""
    width = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim) * element
    return mixer.kv_share * width / minimum(tp, mixer.kv_heads)
