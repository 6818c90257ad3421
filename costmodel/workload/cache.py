"""What one layer keeps of a sequence: keys and values of every head, or the latent that all heads share."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, Quantity, minimum
from costmodel.workload.architecture import Mixer, Mla


def cached_bytes(mixer: Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of `tokens` tokens of a sequence in one layer on one tensor-parallel rank [B].

    MHA/GQA: G*(q + v)*e a token, split over tp down to one head, as far as windows keep it; MLA: (c + r)*e, shared by
    all heads and never split. element: bytes of one cached element, scales included.
    """
    if isinstance(mixer, Mla):
        return tokens * (mixer.kv_lora + mixer.rope_dim) * element
    width = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim) * element / minimum(tp, mixer.kv_heads)
    total: Quantity = 0.0
    for group in mixer.head_groups:
        window = group.pattern.window
        total = total + group.share * (tokens if window is None else minimum(tokens, window)) * width
    return total
