"""The mixers of a model file: forms of attention, recurrences, and mixers of vision models."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field

from costmodel.declared import Number, Wrong, exceeds
from costmodel.quantities import Quantity
from costmodel.schema.patterns import HeadGroupFile, HeadsFile, LatentGroupFile, PatternFile
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict
from costmodel.workload import mixers as workload_mixers


class KernelTraitsFile(Declared, of=workload_mixers.KernelTraits):
    """How a system's own code computes attention."""

    def _check_permuted(self) -> None:
        if self.permuted and self.materialised:
            raise Wrong("permuted has no effect if scores are materialised", "remove `permuted`, or `materialised`")


class HeadRouteFile(Declared, of=workload_mixers.HeadRoute):
    """Routed heads: active for some tokens only."""

    def _check_choices(self) -> None:
        if (self.top_k is None) == (self.tokens is None):
            raise Wrong("needs either `top_k` or `tokens`", "write one of the two")
        if self.top_k is not None and exceeds(self.top_k, self.routed):
            raise Wrong("top_k must not exceed routed", "write at most the routed heads")


class KvSourceFile(Declared, of=workload_mixers.KvSource):
    """Where keys and values come from, if not from each of the layer's own tokens."""

    def _check_source(self) -> None:
        if self.tokens is None and self.width is not None:
            raise Wrong("`width` is that of another sequence", "write its `tokens`, or remove `width`")
        if self.tokens is not None and np.any(np.asarray(self.share) != 1.0):
            raise Wrong("`share` is of the layer's own tokens", "remove it, or `tokens`")


def _check_groups(groups: Sequence[HeadsFile], heads: Quantity, name: str) -> None:
    """Raise where head groups are not all heads together. name: of the key that states the heads."""
    total = sum(group.share_of(heads) for group in groups)
    if not isinstance(total, float) or math.isclose(total, 1.0, rel_tol=1e-9):
        return
    if all(group.heads is not None for group in groups):
        share_sum = total * float(heads)
        raise Wrong(f"the heads of head_groups sum to {share_sum:g} of {heads:g}", f"make them sum to {name}")
    raise Wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")


class AttentionFile(Declared, of=workload_mixers.Attention, mixer="attention"):
    """Multi-head, grouped-query or multi-query attention."""

    kv_heads: Number | None = Field(default=None, description="key-value heads; null: as q_heads")
    head_dim: Number | None = Field(default=None, description="width of a query and key head; null: hidden / q_heads")
    v_head_dim: Number | None = Field(default=None, description="width of a value head; null: as head_dim")
    head_groups: list[HeadGroupFile] = Field(
        default_factory=lambda: [HeadGroupFile(share=1.0, pattern=PatternFile(kind="full"))],
        min_length=1,
        description="groups of heads with their patterns; together all heads",
    )

    def _check_shares(self) -> None:
        _check_groups(self.head_groups, self.q_heads, "q_heads")

    def _check_route(self) -> None:
        if self.route is not None and np.any(self.route.shared + self.route.routed != self.q_heads):
            raise Wrong("shared and routed heads of `route` do not sum to q_heads", "correct one of them")

    def _check_positions(self) -> None:
        if self.rotary and self.alibi:
            raise Wrong("rotary and alibi exclude each other", "write `rotary: false` with `alibi: true`")
        if self.rotary_dim is not None and not self.rotary:
            raise Wrong("rotary_dim has no effect without rotary", "remove it, or write `rotary: true`")
        if self.rotary_dim is not None and self.head_dim is not None and exceeds(self.rotary_dim, self.head_dim):
            raise Wrong("rotary_dim must not exceed head_dim", "write at most head_dim")

    def _check_shared(self) -> None:
        if self.shared_values and self.v_head_dim is not None and np.any(self.v_head_dim != self.head_dim):
            raise Wrong("shared_values needs values as wide as keys", "remove v_head_dim, or shared_values")
        if self.indexer is not None and any(group.pattern.kind != "full" for group in self.head_groups):
            raise Wrong("an indexer and a pattern of head_groups both select keys", "remove one of them")

    def _check_source(self) -> None:
        if self.kv_source is None:
            return
        if self.causal:
            raise Wrong("keys of `kv_source` have no causal order with the queries", "write `causal: false`")
        if self.shared_values or self.borrowed_kv or self.indexer is not None or self.partial is not None:
            raise Wrong("kv_source excludes shared_values, borrowed_kv, indexer and partial", "remove one of them")

    def _check_scores(self) -> None:
        if self.kernel.one_launch and (len(self.head_groups) < 2 or self.kernel.materialised):
            raise Wrong("one_launch joins the fused kernels of several head groups", "remove it, or add `head_groups`")
        if self.score != "dot" and not self.kernel.materialised:
            raise Wrong(f"no fused kernel has score: {self.score}", "write `kernel: {materialised: true}`")

    def _check_kv_heads(self) -> None:
        if self.kv_heads is not None and exceeds(self.kv_heads, self.q_heads):
            raise Wrong("kv_heads must not exceed q_heads", "write at most q_heads: query heads share key-value heads")
        if self.kv_heads is not None and np.all(np.mod(self.q_heads, self.kv_heads)):
            raise Wrong(
                f"{self.q_heads:g} query heads do not group over {self.kv_heads:g} key-value heads",
                "write a divisor of q_heads as kv_heads",
            )


# Patterns that follow from positions alone.
class MlaFile(Declared, of=workload_mixers.Mla, mixer="mla"):
    """Multi-head latent attention."""

    head_groups: list[LatentGroupFile] = Field(
        default_factory=lambda: [LatentGroupFile(share=1.0, pattern=PatternFile(kind="full"))],
        min_length=1,
        description="groups of heads with their patterns; together all heads. Patterns that select keys by a "
        "computation are the indexer's",
    )

    def _check_patterns(self) -> None:
        _check_groups(self.head_groups, self.heads, "heads")
        if self.indexer is not None and any(group.pattern.kind != "full" for group in self.head_groups):
            raise Wrong("an indexer and a pattern of head_groups both select keys", "remove one of them")


class CompressedFile(Declared, of=workload_mixers.CompressedAttention, mixer="compressed"):
    """Attention on a window of near keys and pooled far ones, with one key, also its value, for all heads."""

    def _check_entries(self) -> None:
        if self.ratio is None and (self.overlap or self.indexer is not None):
            raise Wrong("overlap and indexer need `ratio`", "add it, or remove them")


class MemoriesFile(Declared, of=workload_mixers.Memories):
    """Several states of a head, of which a token visits some (mixture of memories)."""

    def _check_choices(self) -> None:
        if exceeds(self.top_k, self.number):
            raise Wrong("top_k must not exceed number", "write at most the number of states")


class RecurrenceFile(Declared, of=workload_mixers.Recurrence, mixer="linear"):
    """Causal linear attention, with a state of constant size."""

    value_dim: Number | None = Field(default=None, description="width of a value head; null: as key_dim")


class SelectiveScanFile(Declared, of=workload_mixers.SelectiveScan, mixer="selective_scan"):
    """A diagonal state-space layer (Mamba)."""


class NeuralMemoryFile(Declared, of=workload_mixers.NeuralMemory, mixer="memory"):
    """Neural memory: a small MLP whose weights are the state."""


class ConvolutionFile(Declared, of=workload_mixers.Convolution, mixer="conv"):
    """A convolution over a grid."""


class ResidualBlockFile(Declared, of=workload_mixers.ResidualBlock, mixer="residual_block"):
    """Two convolutions, each behind a group norm and an activation, around a residual sum."""


class SpectralFile(Declared, of=workload_mixers.Spectral, mixer="spectral"):
    """A gate between a 2-D Fourier transform and its inverse."""


class GateFile(Declared, of=workload_mixers.Gate, mixer="gate"):
    """Element-wise weighting of features."""


class MilPoolFile(Declared, of=workload_mixers.MilPool, mixer="mil_pool"):
    """Gated attention pooling over a bag of instances (MIL)."""


class PlainProjectionFile(Strict):
    """One square matrix instead of attention."""

    type: Literal["projection"] = Field(description="this mixer")


class NoMixerFile(Strict):
    """No mixer."""

    type: Literal["none"] = Field(description="the layer is an FFN alone")


AnyMixer: TypeAlias = (
    AttentionFile
    | MlaFile
    | CompressedFile
    | RecurrenceFile
    | SelectiveScanFile
    | NeuralMemoryFile
    | ConvolutionFile
    | ResidualBlockFile
    | SpectralFile
    | GateFile
    | MilPoolFile
    | PlainProjectionFile
    | NoMixerFile
)
