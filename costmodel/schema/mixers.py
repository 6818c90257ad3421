"""The mixers of a model file: forms of attention, recurrences, and mixers of vision models."""

import math
from typing import Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from costmodel.schema.patterns import HeadGroupFile, PatternFile
from costmodel.schema.quantity import Integer, Number, NumberOrZero, PositiveNumber, Ratio, Share, exceeds, wrong
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

    @model_validator(mode="after")
    def _check_permuted(self) -> Self:
        if self.permuted and self.materialised:
            raise wrong("permuted has no effect if scores are materialised", "remove `permuted`, or `materialised`")
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
            raise wrong("needs either `top_k` or `tokens`", "write one of the two")
        if self.top_k is not None and exceeds(self.top_k, self.routed):
            raise wrong("top_k must not exceed routed", "write at most the routed heads")
        return self


def _one_full_group() -> list[HeadGroupFile]:
    return [HeadGroupFile(share=1.0, pattern=PatternFile(kind="full"))]


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
    qk_norm: Literal["head", "projection"] | None = Field(
        default=None,
        description="norm of queries and keys: one vector for all heads, or over the projection; null: none",
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

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        total = sum(group.share_of(self.q_heads) for group in self.head_groups)
        if not isinstance(total, float) or math.isclose(total, 1.0, rel_tol=1e-9):
            return self
        if all(group.heads is not None for group in self.head_groups):
            heads = total * float(self.q_heads)
            raise wrong(f"the heads of head_groups sum to {heads:g} of {self.q_heads:g}", "make them sum to q_heads")
        raise wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")

    @model_validator(mode="after")
    def _check_route(self) -> Self:
        if self.route is not None and np.any(self.route.shared + self.route.routed != self.q_heads):
            raise wrong("shared and routed heads of `route` do not sum to q_heads", "correct one of them")
        return self

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        if self.rotary and self.alibi:
            raise wrong("rotary and alibi exclude each other", "write `rotary: false` with `alibi: true`")
        if self.rotary_dim is not None and not self.rotary:
            raise wrong("rotary_dim has no effect without rotary", "remove it, or write `rotary: true`")
        if self.rotary_dim is not None and self.head_dim is not None and exceeds(self.rotary_dim, self.head_dim):
            raise wrong("rotary_dim must not exceed head_dim", "write at most head_dim")
        return self

    @model_validator(mode="after")
    def _check_kv_heads(self) -> Self:
        if self.kv_heads is not None and exceeds(self.kv_heads, self.q_heads):
            raise wrong("kv_heads must not exceed q_heads", "write at most q_heads: query heads share key-value heads")
        return self


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


class MemoriesFile(Strict):
    """Several states of a head, of which a token visits some (mixture of memories)."""

    number: Number = Field(description="routed states")
    top_k: Number = Field(description="routed states per token")
    shared: NumberOrZero = Field(default=0.0, description="additional states that every token visits")

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if exceeds(self.top_k, self.number):
            raise wrong("top_k must not exceed number", "write at most the number of states")
        return self


class RecurrenceFile(Strict):
    """Causal linear attention, with a state of constant size."""

    type: Literal["linear"] = Field(description="this mixer")
    heads: Number = Field(description="heads")
    key_dim: Number = Field(description="width of a query and key head")
    value_dim: Number | None = Field(default=None, description="width of a value head; null: as key_dim")
    chunk: Number = Field(description="chunk length of the chunkwise-parallel kernel")
    decay: Literal["none", "scalar", "gated", "delta"] = Field(
        default="none",
        description="decay of the state: none, one scalar per head, a gate per token, or a gated delta rule",
    )
    memories: MemoriesFile | None = Field(default=None, description="several states per head; null: one")
    short_conv: NumberOrZero = Field(default=0.0, description="taps of a convolution on q, k and v; 0: none")
    output_gate: bool = Field(default=False, description="a gate on the output")
    chunk_cycles: NumberOrZero = Field(
        default=0.0, description="clock cycles per chunk of a thread block; cite the source"
    )
    blocks: Number = Field(default=1.0, description="concurrent thread blocks per processor")
    columns: Number | None = Field(default=None, description="value columns of a state per thread block; null: all")


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


AnyMixer: TypeAlias = (
    AttentionFile
    | MlaFile
    | RecurrenceFile
    | NeuralMemoryFile
    | ConvolutionFile
    | SpectralFile
    | GateFile
    | MilPoolFile
)
