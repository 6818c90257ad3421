"""What one layer caches of a sequence: keys and values of every head, or the latent that all heads share."""

from __future__ import annotations

from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, minimum
from costmodel.workload import architecture as arch
from costmodel.workload.dtypes import ELEMENT_BYTES


def state_bytes(mixer: arch.Mixer, hidden: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the state of a sequence, whatever its length, of one layer on one tensor-parallel rank [B].

    Recurrence: M states per head of q*v, and the convolution's last inputs. Selective scan: n FP32 numbers a channel
    and the same. Neural memory: its weights, and momentum. Compressed attention: what waits for its pooled entry, in
    FP32 on every rank. Others: nothing. element: one cached element [B].
    """
    if isinstance(mixer, arch.Recurrence):
        states = mixer.states * mixer.heads * mixer.key_dim * mixer.value_dim * mixer.state_element(element)
        return (states + mixer.on_ranks(tp).waiting * element) / tp
    if isinstance(mixer, arch.SelectiveScan):
        waiting = (mixer.short_conv - 1.0) * element
        return mixer.inner * (mixer.state * ELEMENT_BYTES["fp32"] + waiting) / tp
    if isinstance(mixer, arch.CompressedAttention):
        return mixer.pooling_state() * ELEMENT_BYTES["fp32"]
    return mixer.state(hidden) * element / tp if isinstance(mixer, arch.NeuralMemory) else 0.0


@equation
def cached_bytes(mixer: arch.Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of a sequence of `tokens` in one layer on one tensor-parallel rank [B].

        layer_cache = kept_tokens * token_bytes + tokens * index_bytes       kept: within the pattern

    MHA/GQA: `_token_bytes`.
    MLA: c + r elements, shared by all heads and never split. Compressed attention: h elements for each token of the
    window and each pooled entry, never split. An indexer's keys besides them, whole on every rank. Other mixers, and
    attention without a cache: nothing. element: one cached element, scales included [B].
    """
    if isinstance(mixer, arch.Mla):
        token_bytes = (mixer.kv_lora + mixer.rope_dim) * element
    elif isinstance(mixer, arch.CompressedAttention):
        entry = mixer.head_dim * element
        index = 0.0 if mixer.indexer is None else mixer.indexer.key_bytes(element)
        return minimum(tokens, mixer.window) * entry + mixer.entries(tokens) * (entry + index)
    elif isinstance(mixer, arch.Attention) and mixer.has_kv_cache:
        token_bytes = _token_bytes(mixer, element, tp)
    else:
        return 0.0
    kept_tokens = mixer.cached_tokens(tokens)
    index_bytes = 0.0 if mixer.indexer is None else mixer.indexer.key_bytes(element)
    return kept_tokens * token_bytes + tokens * index_bytes


def written_bytes(mixer: arch.Mixer, element: Bytes, tp: Count) -> Bytes:
    """Return what one token adds to the cache of one layer on one tensor-parallel rank [B].

    Of compressed attention a key of the window, and the token's share of a pooled entry.
    """
    if not isinstance(mixer, arch.CompressedAttention) or mixer.ratio is None:
        return cached_bytes(mixer, 1.0, element, tp)
    entry = mixer.head_dim * element
    index = 0.0 if mixer.indexer is None else mixer.indexer.key_bytes(element)
    return entry + (entry + index) / mixer.ratio


def host_cached_bytes(mixer: arch.Mixer, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return what the host's memory caches of a sequence of `tokens` in one layer, for one rank [B]."""
    if not isinstance(mixer, arch.Attention) or not mixer.has_kv_cache:
        return 0.0
    return mixer.host_tokens(tokens) * _token_bytes(mixer, element, tp)


@equation
def _token_bytes(mixer: arch.Attention, element: Bytes, tp: Count) -> Bytes:
    """Return the keys and values of one token in all heads of one rank [B], split over ranks down to one head.

    token_bytes = mixer.kv_share * width / min(tp, mixer.kv_heads)
    width = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim) * element
    """
    width = mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim) * element
    return mixer.kv_share * width / minimum(tp, mixer.kv_heads)
