"""The mixers of a model file: forms of attention, recurrences, and mixers of vision models."""

import math
from collections.abc import Sequence
from typing import Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import Integer, Number, NumberOrZero, PositiveNumber, Ratio, Share, Wrong, exceeds
from costmodel.quantities import Quantity
from costmodel.schema.device import StoredType
from costmodel.schema.patterns import HeadGroupFile, HeadsFile, LatentGroupFile, PatternFile
from costmodel.schema.strict import Strict


class KernelTraitsFile(Strict):
    """How a system's own code computes attention."""

    realised: Literal["fused", "gathered", "masked"] = Field(
        default="fused",
        description="fused: pairs of the pattern only; gathered: after a copy of their keys; masked: all pairs",
    )
    materialised: bool = Field(default=False, description="scores are written to memory, as for edits after softmax")
    rate: Ratio = Field(default=1.0, description="speed over the device's fused kernel at equal pairs; cite the source")
    permuted: bool = Field(
        default=False,
        description="tokens are permuted into the order of the kernel's tiles before it, and back after it",
    )
    head_edit: bool = Field(default=False, description="a separate kernel scales, masks or shifts the outputs of heads")
    channels_first: bool = Field(
        default=False,
        description="projections are 1 x 1 convolutions of channels-first tensors, transposed before and after",
    )

    @model_validator(mode="after")
    def _check_permuted(self) -> Self:
        if self.permuted and self.materialised:
            raise Wrong("permuted has no effect if scores are materialised", "remove `permuted`, or `materialised`")
        return self


class HeadRouteFile(Strict):
    """Routed heads: active for some tokens only."""

    shared: NumberOrZero = Field(description="query heads that are always active")
    routed: Number = Field(description="routed query heads")
    top_k: Number | None = Field(default=None, description="routed heads per token; null: see `tokens`")
    tokens: Share | None = Field(
        default=None, description="share of a sequence that each routed head selects and attends to; null: see `top_k`"
    )
    router: Literal["linear", "query_norm"] = Field(default="linear", description="linear layer, or norms of queries")

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if (self.top_k is None) == (self.tokens is None):
            raise Wrong("needs either `top_k` or `tokens`", "write one of the two")
        if self.top_k is not None and exceeds(self.top_k, self.routed):
            raise Wrong("top_k must not exceed routed", "write at most the routed heads")
        return self


class KvSourceFile(Strict):
    """Where keys and values come from, if not from each of the layer's own tokens."""

    tokens: Number | None = Field(
        default=None, description="tokens of another sequence, such as a text or an image; null: the layer's own"
    )
    width: Number | None = Field(default=None, description="width of that sequence; null: the layer's")
    share: Share = Field(
        default=1.0, description="share of the own tokens that have keys and values, after a strided convolution"
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.tokens is None and self.width is not None:
            raise Wrong("`width` is that of another sequence", "write its `tokens`, or remove `width`")
        if self.tokens is not None and np.any(np.asarray(self.share) != 1.0):
            raise Wrong("`share` is of the layer's own tokens", "remove it, or `tokens`")
        return self


class IndexerFile(Strict):
    """Small heads that score every earlier key. A query attends to the best (DeepSeek sparse attention)."""

    heads: Number = Field(description="query heads of the indexer")
    head_dim: Number = Field(description="width of its heads and of the one key that it caches per token")
    top_k: Number = Field(description="tokens, or pooled entries, that a query attends to")
    block: Number = Field(default=1.0, description="tokens that are selected together")
    weighted: bool = Field(default=True, description="scores of the heads are summed with weights of each token")
    cache: StoredType | None = Field(
        default=None, description="format of its cached keys, with one FP32 scale each; null: as the KV cache"
    )
    reused: bool = Field(
        default=False, description="the layer uses the selection of an earlier one: no weights, keys or scores"
    )


def _one_full_group() -> list[HeadGroupFile]:
    return [HeadGroupFile(share=1.0, pattern=PatternFile(kind="full"))]


def _one_full_latent_group() -> list[LatentGroupFile]:
    return [LatentGroupFile(share=1.0, pattern=PatternFile(kind="full"))]


def _check_groups(groups: Sequence[HeadsFile], heads: Quantity, name: str) -> None:
    """Raise where head groups are not all heads together. name: of the key that states the heads."""
    total = sum(group.share_of(heads) for group in groups)
    if not isinstance(total, float) or math.isclose(total, 1.0, rel_tol=1e-9):
        return
    if all(group.heads is not None for group in groups):
        found = total * float(heads)
        raise Wrong(f"the heads of head_groups sum to {found:g} of {heads:g}", f"make them sum to {name}")
    raise Wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")


class AttentionFile(Strict):
    """Multi-head, grouped-query or multi-query attention."""

    type: Literal["attention"] = Field(description="this mixer")
    q_heads: Number = Field(description="query heads")
    kv_heads: Number | None = Field(default=None, description="key-value heads; null: as q_heads")
    head_dim: Number | None = Field(default=None, description="width of a query and key head; null: hidden / q_heads")
    v_head_dim: Number | None = Field(default=None, description="width of a value head; null: as head_dim")
    causal: bool = Field(default=True, description="causal mask")
    rotary: bool = Field(default=True, description="rotary position embedding")
    rotary_dim: Number | None = Field(default=None, description="rotated elements of a head; null: all")
    alibi: bool = Field(default=False, description="ALiBi: position slopes on the scores, at no cost")
    bias: bool = Field(default=False, description="projections have biases")
    output_bias: bool | None = Field(default=None, description="bias of the output projection; null: as `bias`")
    qk_norm: Literal["head", "projection", "plain"] | None = Field(
        default=None,
        description="norm of queries and keys: one vector for all heads, over the projection, or without parameters; "
        "null: none",
    )
    head_groups: list[HeadGroupFile] = Field(
        default_factory=_one_full_group,
        min_length=1,
        description="groups of heads with their patterns; together all heads",
    )
    kernel: KernelTraitsFile = Field(default_factory=KernelTraitsFile, description="how attention is computed")
    partial: Number | None = Field(
        default=None, description="channels that are projected; the others join before the output projection; null: all"
    )
    keeps: bool | None = Field(default=None, description="inference caches keys and values; null: if causal")
    route: HeadRouteFile | None = Field(default=None, description="routed heads; null: all heads are always active")
    output_gate: Literal["head", "element"] | None = Field(
        default=None, description="a sigmoid gate on the result, one per head or per element; null: none"
    )
    sinks: bool = Field(default=False, description="a learned logit per head in the softmax (attention sinks)")
    shared_values: bool = Field(default=False, description="values are the projected keys: no projection of their own")
    borrowed_kv: bool = Field(
        default=False, description="keys and values are those of an earlier layer: neither projected nor cached here"
    )
    indexer: IndexerFile | None = Field(
        default=None, description="selects the keys of each query, instead of `head_groups`; null: none"
    )
    kv_source: KvSourceFile | None = Field(
        default=None, description="keys and values of another sequence, or of fewer tokens; null: of every token"
    )
    conv_taps: NumberOrZero = Field(
        default=0.0, description="taps of depth-wise convolutions of queries, keys and values; 0: none"
    )
    score: Literal["dot", "relative", "phase"] = Field(
        default="dot",
        description="relative: a second product with projected positions; phase: a cosine per pair and phase of a key",
    )
    output_activation: bool = Field(default=False, description="an activation before the output projection")

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        _check_groups(self.head_groups, self.q_heads, "q_heads")
        return self

    @model_validator(mode="after")
    def _check_route(self) -> Self:
        if self.route is not None and np.any(self.route.shared + self.route.routed != self.q_heads):
            raise Wrong("shared and routed heads of `route` do not sum to q_heads", "correct one of them")
        return self

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        if self.rotary and self.alibi:
            raise Wrong("rotary and alibi exclude each other", "write `rotary: false` with `alibi: true`")
        if self.rotary_dim is not None and not self.rotary:
            raise Wrong("rotary_dim has no effect without rotary", "remove it, or write `rotary: true`")
        if self.rotary_dim is not None and self.head_dim is not None and exceeds(self.rotary_dim, self.head_dim):
            raise Wrong("rotary_dim must not exceed head_dim", "write at most head_dim")
        return self

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if self.shared_values and self.v_head_dim is not None and np.any(self.v_head_dim != self.head_dim):
            raise Wrong("shared_values needs values as wide as keys", "remove v_head_dim, or shared_values")
        if self.indexer is not None and any(group.pattern.kind != "full" for group in self.head_groups):
            raise Wrong("an indexer and a pattern of head_groups both select keys", "remove one of them")
        return self

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.kv_source is None:
            return self
        if self.causal:
            raise Wrong("keys of `kv_source` have no causal order with the queries", "write `causal: false`")
        if self.shared_values or self.borrowed_kv or self.indexer is not None or self.partial is not None:
            raise Wrong("kv_source excludes shared_values, borrowed_kv, indexer and partial", "remove one of them")
        return self

    @model_validator(mode="after")
    def _check_scores(self) -> Self:
        if self.score != "dot" and not self.kernel.materialised:
            raise Wrong(f"no fused kernel has score: {self.score}", "write `kernel: {materialised: true}`")
        return self

    @model_validator(mode="after")
    def _check_kv_heads(self) -> Self:
        if self.kv_heads is not None and exceeds(self.kv_heads, self.q_heads):
            raise Wrong("kv_heads must not exceed q_heads", "write at most q_heads: query heads share key-value heads")
        if self.kv_heads is not None and np.all(np.mod(self.q_heads, self.kv_heads)):
            raise Wrong(
                f"{self.q_heads:g} query heads do not group over {self.kv_heads:g} key-value heads",
                "write a divisor of q_heads as kv_heads",
            )
        return self


# Patterns that follow from positions alone.
class MlaFile(Strict):
    """Multi-head latent attention."""

    type: Literal["mla"] = Field(description="this mixer")
    heads: Number = Field(description="heads")
    q_lora: Number | None = Field(description="rank of the query projection; null: full rank")
    kv_lora: Number = Field(description="width of the cached latent")
    nope_dim: Number = Field(description="width of the non-rotary part of a head")
    rope_dim: Number = Field(description="width of the rotary part of a head")
    v_head_dim: Number = Field(description="width of a value head")
    causal: bool = Field(default=True, description="causal mask")
    rotary: bool = Field(default=True, description="the rotary part is rotated; false: no positions")
    output_gate: bool = Field(default=False, description="a sigmoid gate on every element of the result")
    head_groups: list[LatentGroupFile] = Field(
        default_factory=_one_full_latent_group,
        min_length=1,
        description="groups of heads with their patterns; together all heads. Patterns that select keys by a "
        "computation are the indexer's",
    )
    indexer: IndexerFile | None = Field(
        default=None, description="selects the latents of each query, instead of `head_groups`; null: none"
    )

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        _check_groups(self.head_groups, self.heads, "heads")
        if self.indexer is not None and any(group.pattern.kind != "full" for group in self.head_groups):
            raise Wrong("an indexer and a pattern of head_groups both select keys", "remove one of them")
        return self


class CompressedFile(Strict):
    """Attention on a window of near keys and pooled far ones, with one key, also its value, for all heads."""

    type: Literal["compressed"] = Field(description="this mixer")
    heads: Number = Field(description="query heads")
    head_dim: Number = Field(description="width of a head and of the shared key")
    rotary_dim: Number = Field(description="rotated elements of a head")
    q_lora: Number = Field(description="rank of the query projection")
    output_groups: Number = Field(description="groups of heads that the output projection treats apart")
    output_rank: Number = Field(description="width to which each group is projected")
    window: Number = Field(description="near keys that every query attends to")
    ratio: Number | None = Field(default=None, description="tokens per pooled entry; null: near keys only")
    overlap: bool = Field(default=False, description="an entry pools twice `ratio` tokens")
    indexer: IndexerFile | None = Field(default=None, description="selects the entries of each query; null: all")

    @model_validator(mode="after")
    def _check_entries(self) -> Self:
        if self.ratio is None and (self.overlap or self.indexer is not None):
            raise Wrong("overlap and indexer need `ratio`", "add it, or remove them")
        return self


class MemoriesFile(Strict):
    """Several states of a head, of which a token visits some (mixture of memories)."""

    number: Number = Field(description="routed states")
    top_k: Number = Field(description="routed states per token")
    shared: NumberOrZero = Field(default=0.0, description="additional states that every token visits")

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if exceeds(self.top_k, self.number):
            raise Wrong("top_k must not exceed number", "write at most the number of states")
        return self


class RecurrenceFile(Strict):
    """Causal linear attention, with a state of constant size."""

    type: Literal["linear"] = Field(description="this mixer")
    heads: Number = Field(description="heads")
    key_dim: Number = Field(description="width of a query and key head")
    value_dim: Number | None = Field(default=None, description="width of a value head; null: as key_dim")
    chunk: Number = Field(description="chunk length of the chunkwise-parallel kernel")
    key_heads: Number | None = Field(
        default=None, description="heads of queries and keys, each shared by several value heads; null: as heads"
    )
    decay: Literal["none", "scalar", "gated", "delta", "channel_delta"] = Field(
        default="none",
        description="decay of the state: none, one scalar per head, a gate per token, a gated delta rule, or one with "
        "a decay per channel",
    )
    memories: MemoriesFile | None = Field(default=None, description="several states per head; null: one")
    short_conv: NumberOrZero = Field(default=0.0, description="taps of a convolution on q, k and v; 0: none")
    conv_bias: bool = Field(default=False, description="the convolution has a bias per channel")
    output_gate: bool = Field(default=False, description="a gate on the output")
    gate_rank: Number | None = Field(
        default=None, description="rank of the projections to output gate and channel decay; null: full rank"
    )
    decay_rank: Number | None = Field(
        default=None, description="rank of the projection to the channel decay; null: as gate_rank"
    )
    output_norm: Literal["head", "projection"] | None = Field(
        default=None, description="norm of the result: one vector for all heads, or over all of them; null: none"
    )
    head_parameters: NumberOrZero = Field(
        default=0.0, description="learned numbers of a head: decay rates, time-step biases, skips"
    )
    state: StoredType | None = Field(default=None, description="format of cached states; null: as the KV cache")
    chunk_cycles: NumberOrZero = Field(
        default=0.0, description="clock cycles per chunk of a thread block; cite the source"
    )
    gradient_cycles: Number | None = Field(
        default=None, description="the same of the backward pass, in forward thread blocks; null: twice chunk_cycles"
    )
    blocks: Number = Field(default=1.0, description="concurrent thread blocks per processor")
    columns: Number | None = Field(default=None, description="value columns of a state per thread block; null: all")


class SelectiveScanFile(Strict):
    """A diagonal state-space layer (Mamba)."""

    type: Literal["selective_scan"] = Field(description="this mixer")
    inner: Number = Field(description="channels")
    state: Number = Field(description="numbers of a channel's state")
    rank: Number = Field(description="rank of the projection to the channels' time steps")
    short_conv: Number = Field(description="taps of the convolution before the scan")
    conv_bias: bool = Field(default=True, description="the convolution has a bias per channel")
    normed: bool = Field(default=False, description="norms of time step, input and output projections")


class NeuralMemoryFile(Strict):
    """Neural memory: a small MLP whose weights are the state."""

    type: Literal["memory"] = Field(description="this mixer")
    heads: Number = Field(description="heads, each with three gates")
    depth: Integer = Field(description="matrices of the MLP")
    width: PositiveNumber = Field(default=1.0, description="width of its hidden layers relative to the model")
    chunk: Number = Field(description="tokens per update step")
    momentum: bool = Field(default=True, description="updates have momentum")


class ConvolutionFile(Strict):
    """A convolution over a grid."""

    type: Literal["conv"] = Field(description="this mixer")
    kernel: Number = Field(description="taps along each of two axes")
    inputs: Number | None = Field(default=None, description="input channels; null: as outputs")
    outputs: Number | None = Field(default=None, description="output channels; null: the layer's width")
    stride: Number = Field(default=1.0, description="stride on each axis")
    depthwise: bool = Field(default=False, description="depthwise convolution")
    channels_first: bool = Field(
        default=False, description="channels-first tensors, transposed before and after the GEMM"
    )


class SpectralFile(Strict):
    """A gate between a 2-D Fourier transform and its inverse."""

    type: Literal["spectral"] = Field(description="this mixer")
    height: Number = Field(description="rows of the grid")
    width: Number = Field(description="columns of the grid")


class GateFile(Strict):
    """Element-wise weighting of features."""

    type: Literal["gate"] = Field(description="this mixer")
    heads: Number = Field(description="heads, each with two parameters")
    passes: Number = Field(default=2.0, description="times that features are read and written")


class MilPoolFile(Strict):
    """Gated attention pooling over a bag of instances (MIL)."""

    type: Literal["mil_pool"] = Field(description="this mixer")
    branches: Number = Field(description="weighted sums")
    inner: Number = Field(description="width of the two gates")


class PlainProjectionFile(Strict):
    """One square matrix in place of attention."""

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
    | SpectralFile
    | GateFile
    | MilPoolFile
    | PlainProjectionFile
    | NoMixerFile
)
