"""The mixers of a model file: attention in its forms, recurrences, and mixers of grids and bags."""

import math
from typing import Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from costmodel.schema.patterns import HeadGroupFile, PatternFile
from costmodel.schema.quantity import Integer, Number, NumberOrZero, PositiveNumber, Ratio, Share, exceeds, wrong
from costmodel.schema.strict import Strict


class KernelTraitsFile(Strict):
    """How a system's own code computes its attention cores."""

    realised: Literal["fused", "gathered", "masked"] = Field(
        default="fused",
        description="only the pattern's pairs; after a copy of their keys; or all pairs, most of them thrown away",
    )
    materialised: bool = Field(default=False, description="scores go through memory, as edits after the softmax ask")
    rate: Ratio = Field(
        default=1.0, description="speed over that of the device's fused kernel at equal pairs; cite where from"
    )
    permuted: bool = Field(
        default=False, description="tokens are brought into the order of the kernel's tiles before it, and back after"
    )
    head_edit: bool = Field(default=False, description="a kernel of its own scales, masks or shifts the heads' results")

    @model_validator(mode="after")
    def _only_fused_kernels_have_tiles(self) -> Self:
        if self.permuted and self.materialised:
            raise wrong("scores in memory have no tiles to permute tokens for", "remove `permuted`, or `materialised`")
        return self


class HeadRouteFile(Strict):
    """Heads that work for some tokens only."""

    shared: NumberOrZero = Field(description="query heads that always work")
    routed: Number = Field(description="query heads to choose from")
    top_k: Number | None = Field(default=None, description="routed heads that work for a token; null: see `tokens`")
    tokens: Share | None = Field(
        default=None,
        description="share of a sequence that each routed head chooses and attends among; null: see `top_k`",
    )
    router: Literal["linear", "query_norm"] = Field(default="linear", description="a layer, or the norms of queries")

    @model_validator(mode="after")
    def _choices_exist(self) -> Self:
        if (self.top_k is None) == (self.tokens is None):
            raise wrong("either tokens choose `top_k` heads or heads choose a share `tokens`", "write one of the two")
        if self.top_k is not None and exceeds(self.top_k, self.routed):
            raise wrong("top_k is larger than routed", "write at most the routed heads")
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
    causal: bool = Field(default=True, description="queries see earlier keys only")
    rotary: bool = Field(default=True, description="rotary position embedding")
    rotary_dim: Number | None = Field(default=None, description="elements of a head that are rotated; null: all")
    alibi: bool = Field(default=False, description="position slopes on the scores; no parameters, no cost of their own")
    bias: bool = Field(default=False, description="projections have biases")
    output_bias: bool | None = Field(default=None, description="the output projection has one; null: as `bias`")
    qk_norm: Literal["head", "projection"] | None = Field(
        default=None,
        description="queries and keys are normalised: with one vector for all heads, or over the projection",
    )
    head_groups: list[HeadGroupFile] = Field(
        default_factory=_one_full_group, min_length=1, description="groups of heads, which are all heads together"
    )
    kernel: KernelTraitsFile = Field(default_factory=KernelTraitsFile, description="how the cores are computed")
    partial: Number | None = Field(
        default=None, description="channels that enter the projections; the others join before the output's; null: all"
    )
    keeps: bool | None = Field(
        default=None, description="inference keeps keys and values for later steps; null: if causal"
    )
    route: HeadRouteFile | None = Field(default=None, description="routed heads; null: all heads work for all tokens")

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        total = sum(group.share_of(self.q_heads) for group in self.head_groups)
        if not isinstance(total, float) or math.isclose(total, 1.0, rel_tol=1e-9):
            return self
        if all(group.heads is not None for group in self.head_groups):
            listed = total * float(self.q_heads)
            raise wrong(f"the heads of head_groups sum to {listed:g} of {self.q_heads:g}", "make them sum to q_heads")
        raise wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")

    @model_validator(mode="after")
    def _routed_heads_are_all(self) -> Self:
        if self.route is not None and np.any(self.route.shared + self.route.routed != self.q_heads):
            raise wrong("shared and routed heads of `route` do not sum to q_heads", "correct one of them")
        return self

    @model_validator(mode="after")
    def _positions_are_one(self) -> Self:
        if self.rotary and self.alibi:
            raise wrong("rotary and alibi are two kinds of positions", "write `rotary: false` beside `alibi: true`")
        if self.rotary_dim is not None and not self.rotary:
            raise wrong("rotary_dim without rotary rotates nothing", "remove it, or write `rotary: true`")
        if self.rotary_dim is not None and self.head_dim is not None and exceeds(self.rotary_dim, self.head_dim):
            raise wrong("rotary_dim is larger than head_dim", "write at most head_dim")
        return self

    @model_validator(mode="after")
    def _heads_share_keys(self) -> Self:
        if self.kv_heads is not None and exceeds(self.kv_heads, self.q_heads):
            raise wrong("kv_heads is larger than q_heads", "write at most q_heads: query heads share key-value heads")
        return self


class MlaFile(Strict):
    """Multi-head latent attention."""

    type: Literal["mla"] = Field(description="this mixer")
    heads: Number = Field(description="heads")
    q_lora: Number | None = Field(description="rank of the query projection; null where it is not factored")
    kv_lora: Number = Field(description="width of the cached latent")
    nope_dim: Number = Field(description="width of a head without position")
    rope_dim: Number = Field(description="width of the rotary part")
    v_head_dim: Number = Field(description="width of a value head")
    causal: bool = Field(default=True, description="queries see earlier keys only")


class MemoriesFile(Strict):
    """Several states, of which a token visits some."""

    number: Number = Field(description="states to choose from")
    top_k: Number = Field(description="states that a token visits")
    shared: NumberOrZero = Field(default=0.0, description="states that every token visits, beside those")

    @model_validator(mode="after")
    def _choices_exist(self) -> Self:
        if exceeds(self.top_k, self.number):
            raise wrong("top_k is larger than number", "write at most the number of states")
        return self


class RecurrenceFile(Strict):
    """Causal linear attention, whose state has a constant size."""

    type: Literal["linear"] = Field(description="this mixer")
    heads: Number = Field(description="heads")
    key_dim: Number = Field(description="width of a query and key head")
    value_dim: Number | None = Field(default=None, description="width of a value head; null: as key_dim")
    chunk: Number = Field(description="tokens that the kernel computes by products at once")
    decay: Literal["none", "scalar", "gated", "delta"] = Field(
        default="none", description="of the state: none, a number a head, a gate a token, or a gated delta rule"
    )
    memories: MemoriesFile | None = Field(default=None, description="several states a head; null: one")
    short_conv: NumberOrZero = Field(default=0.0, description="taps of a convolution on queries, keys and values")
    output_gate: bool = Field(default=False, description="a gate on the result")
    chunk_cycles: NumberOrZero = Field(
        default=0.0, description="clock cycles from one chunk to the next in one block of the kernel; cite where from"
    )
    blocks: Number = Field(default=1.0, description="blocks of the kernel that one processor runs side by side")
    columns: Number | None = Field(
        default=None, description="columns of a state's values that one block of the kernel carries; null: all"
    )


class NeuralMemoryFile(Strict):
    """A small network whose weights are the state."""

    type: Literal["memory"] = Field(description="this mixer")
    heads: Number = Field(description="heads, each with three gates")
    depth: Integer = Field(description="matrices of the network")
    width: PositiveNumber = Field(default=1.0, description="width of its hidden layers, over that of the model")
    chunk: Number = Field(description="tokens of one learning step")
    momentum: bool = Field(default=True, description="steps have a momentum")


class ConvolutionFile(Strict):
    """A convolution over a grid."""

    type: Literal["conv"] = Field(description="this mixer")
    kernel: Number = Field(description="taps along each of two axes")
    inputs: Number | None = Field(default=None, description="channels of the input; null: as outputs")
    outputs: Number | None = Field(default=None, description="channels of the result; null: the layer's width")
    stride: Number = Field(default=1.0, description="places of the input from one result to the next, on each axis")
    depthwise: bool = Field(default=False, description="each channel by itself")
    channels_first: bool = Field(
        default=False, description="tensors lie channel by channel: products are transposed before and after"
    )


class SpectralFile(Strict):
    """A gate between a Fourier transform and its inverse."""

    type: Literal["spectral"] = Field(description="this mixer")
    height: Number = Field(description="rows of the grid")
    width: Number = Field(description="columns of the grid")


class GateFile(Strict):
    """Element-wise weights of features."""

    type: Literal["gate"] = Field(description="this mixer")
    heads: Number = Field(description="heads, each with two numbers")
    passes: Number = Field(default=2.0, description="times that features are read and written")


class MilPoolFile(Strict):
    """Gated attention that pools a bag of instances."""

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
