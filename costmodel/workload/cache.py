"""What one layer keeps of a sequence: keys and values of every head, or the latent that all heads share."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, Quantity, minimum
from costmodel.workload.architecture import Attention, Mixer, Mla, NeuralMemory, Recurrence


def state_bytes(mixer: Mixer, hidden: Count, element: Bytes, tp: Count) -> Bytes:
    """Return what a layer carries of a sequence whatever its length is, on one tensor-parallel rank [B].

    Recurrence: M states a head of q*v; neural memory: its weights, and momentum. Attention: nothing.
    """
    if isinstance(mixer, Recurrence):
        return mixer.states * mixer.heads * mixer.key_dim * mixer.value_dim * element / tp
    return mixer.state(hidden) * element / tp if isinstance(mixer, NeuralMemory) else 0.0


def cached_bytes(mixer: Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of `tokens` tokens of a sequence in one layer on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e a token, split over tp down to one head, as far as patterns keep it; MLA: (c + r)*e, shared by
    all heads and never split; states do not grow with tokens. element: bytes of one cached element, scales included.
    """
    if not isinstance(mixer, Attention | Mla):
        return 0.0
    if isinstance(mixer, Mla):
        return tokens * (mixer.kv_lora + mixer.rope_dim) * element
    width = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim) * element / minimum(tp, mixer.kv_heads)
    total: Quantity = 0.0
    for group in mixer.head_groups:
        total = total + group.share * group.pattern.kept(tokens) * width
    return total
