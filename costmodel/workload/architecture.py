"""What a model is: a list of layers, each a mixer (attention in some form) and a feed-forward part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from costmodel.quantities import Count


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Which keys a query may see. `full`: all (before it, if causal); `window`: the last `window` of them."""

    kind: str = "full"
    window: Count | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HeadGroup:
    """A share of the key-value heads that follow one pattern; the shares of a mixer sum to one."""

    share: float
    pattern: Pattern


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Multi-head attention with `kv_heads` key-value heads (MHA, GQA and MQA)."""

    q_heads: Count
    kv_heads: Count
    head_dim: Count
    v_head_dim: Count
    causal: bool = True
    rotary: bool = True
    bias: bool = False
    head_groups: tuple[HeadGroup, ...] = (HeadGroup(1.0, Pattern()),)


@dataclass(frozen=True, slots=True, eq=False)
class Mla:
    """Multi-head latent attention: keys and values are kept as one latent of `kv_lora + rope_dim` per token.

    q_lora is null where queries have no low-rank projection (DeepSeek-V2-Lite).
    """

    heads: Count
    q_lora: Count | None
    kv_lora: Count
    nope_dim: Count
    rope_dim: Count
    v_head_dim: Count
    causal: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class DenseFfn:
    """Two matrices around an activation, or three with a gate (`gated`: SwiGLU and kin)."""

    intermediate: Count
    gated: bool
    bias: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MoeFfn:
    """Routed experts, each a gated FFN, of which a token visits `top_k`, plus `shared` experts that it always visits.

    groups, group_top_k: the experts stand in equal groups and a token may choose from `group_top_k` of them
    (node-limited routing); both null where routing is free.
    """

    experts: Count
    intermediate: Count
    top_k: int
    shared: Count = 0.0
    shared_intermediate: Count | None = None  # of one shared expert; the routed width where null
    groups: Count | None = None
    group_top_k: int | None = None


Mixer: TypeAlias = "Attention | Mla"
Ffn: TypeAlias = "DenseFfn | MoeFfn"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """`repeat` equal layers in a row. norm: `rms` (one vector) or `layer` (scale and bias)."""

    repeat: int
    mixer: Mixer
    ffn: Ffn
    norm: str = "rms"
    dropout: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mtp:
    """Multi-token prediction: `depth` modules, each one more layer like the last plus a 2*hidden -> hidden product."""

    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A transformer. positions: length of a learned position table, null for rotary or none."""

    name: str
    hidden: Count
    vocabulary: Count
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    positions: Count | None = None
    mtp: Mtp | None = None

    @property
    def depth(self) -> int:
        """Return the number of layers, MTP modules not counted."""
        return sum(layer.repeat for layer in self.layers)
