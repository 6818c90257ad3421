"""The model file: a list of layers, each a mixer and a feed-forward part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from costmodel.schema.device import Source
from costmodel.schema.quantity import (
    Integer,
    Number,
    NumberOrZero,
    Offset,
    PositiveNumber,
    Ratio,
    Share,
    ShareOrZero,
    exceeds,
    wrong,
)
from costmodel.schema.strict import Strict

MOST_LAYERS = 10_000  # published transformers end at 1,000 (DeepNet, arXiv 2203.00555); each layer gets a stage
NormKind: TypeAlias = Literal["rms", "layer", "layer_no_bias"]


class PatternFile(Strict):
    """Which keys a query may see."""

    kind: Literal["full", "window"] = Field(description="all keys, or the last `window` of them")
    window: Number | None = Field(default=None, description="keys that a query sees, for kind window")

    @model_validator(mode="after")
    def _window_fits_kind(self) -> Self:
        if (self.kind == "window") != (self.window is not None):
            raise wrong(
                "kind window needs its `window`, and only that kind has one", "write {kind: window, window: 4096}"
            )
        return self


class SinkRecentFile(Strict):
    """The first tokens and the last ones."""

    kind: Literal["sink_recent"] = Field(description="this pattern")
    sink: NumberOrZero = Field(description="first tokens that stay visible")
    recent: Number = Field(description="last tokens that a query sees")
    chunk: Number | None = Field(
        default=None, description="prompts come in chunks, inside which all earlier tokens are seen; null: they do not"
    )


class ElasticWindowFile(Strict):
    """A window that grows with the length: alpha + beta*T."""

    kind: Literal["elastic_window"] = Field(description="this pattern")
    alpha: Offset = Field(description="tokens at length zero, may be negative")
    beta: ShareOrZero = Field(description="tokens for each token of the length")
    sink: NumberOrZero = Field(default=0.0, description="first tokens that stay visible; the window is larger")
    rule: Literal["length", "length_minus_alpha"] = Field(
        default="length", description="beta counts all tokens, or those beyond alpha"
    )


class StridedBlocksFile(Strict):
    """The last blocks of keys and one in every `stride` before them."""

    kind: Literal["strided_blocks"] = Field(description="this pattern")
    block: Number = Field(description="tokens of a block")
    local: Number = Field(description="last blocks that are all seen")
    stride: Number = Field(description="of how many earlier blocks one is seen")


class AxisFile(Strict):
    """One axis of a neighbourhood."""

    size: Integer = Field(description="places")
    window: Integer = Field(description="places that a query sees")
    dilation: Integer = Field(default=1, description="distance of two of them")
    stride: Integer = Field(default=1, description="queries that share a window")
    causal: bool = Field(default=False, description="places before the query only")
    query_tile: Integer | None = Field(default=None, description="queries of a kernel's tile; null: counted one by one")
    key_tile: Integer | None = Field(default=None, description="keys of a kernel's tile; null: counted one by one")

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.window * self.dilation > self.size:
            raise wrong("window * dilation is longer than the axis", "write at most `size`")
        if (self.query_tile is None) != (self.key_tile is None):
            raise wrong("query_tile and key_tile go together", "write both or neither")
        return self


class NeighbourhoodFile(Strict):
    """A window around each place of a grid."""

    kind: Literal["neighbourhood"] = Field(description="this pattern")
    axes: list[AxisFile] = Field(min_length=1, max_length=3, description="the axes of the grid, one to three")


class ChunkTopKFile(Strict):
    """The chunks whose pooled keys score best."""

    kind: Literal["chunk_topk"] = Field(description="this pattern")
    chunk: Number = Field(description="tokens of a chunk")
    attend: Number = Field(description="keys that a query sees in all")
    offload: bool = Field(default=False, description="keys lie on the host, chosen ones are copied in every step")


class KvBudgetFile(Strict):
    """A prompt read in full, of which a share of the keys stays."""

    kind: Literal["kv_budget"] = Field(description="this pattern")
    budget: Share = Field(description="share of the keys that stay, mean of the heads")
    sink: NumberOrZero = Field(default=0.0, description="first tokens that stay at least")
    recent: NumberOrZero = Field(default=0.0, description="last tokens that stay at least")
    full_share: ShareOrZero = Field(default=0.0, description="share of the heads that keep all keys")

    @model_validator(mode="after")
    def _budget_holds_full_heads(self) -> Self:
        if exceeds(self.full_share, self.budget):
            raise wrong("heads that keep all keys take more than the budget", "lower full_share, or raise budget")
        return self


class PredictedSparseFile(Strict):
    """The keys that a low-rank predictor names."""

    kind: Literal["predicted_sparse"] = Field(description="this pattern")
    keep: Share = Field(description="share of the keys that a query sees")
    reduced: Number = Field(description="tokens that keys are reduced to for the prediction")
    rank: Number = Field(description="width of a head in the prediction")
    basis: Share = Field(default=1.0, description="share of the basis that is not zero on the way back")


class SpansFile(Strict):
    """Direct keys and summaries of spans."""

    kind: Literal["spans"] = Field(description="this pattern")
    scheme: Literal["fixed", "axial", "logsparse"] = Field(description="how tokens are grouped")
    span: Number | None = Field(default=None, description="tokens of a span, for scheme fixed; null: sqrt(length)")

    @model_validator(mode="after")
    def _span_fits_scheme(self) -> Self:
        if self.span is not None and self.scheme != "fixed":
            raise wrong(f"scheme {self.scheme} has no `span`", "remove it, or write `scheme: fixed`")
        return self


class QuerySetFile(Strict):
    """Queries that see the same number of keys."""

    queries: Number = Field(description="queries of the set")
    keys: Number = Field(description="keys that each of them sees")


class MixedFile(Strict):
    """Sets of queries, each with keys of its own."""

    kind: Literal["mixed"] = Field(description="this pattern")
    sets: list[QuerySetFile] = Field(min_length=1, description="the sets of a whole sequence")


AnyPattern: TypeAlias = (
    PatternFile
    | SinkRecentFile
    | ElasticWindowFile
    | StridedBlocksFile
    | NeighbourhoodFile
    | ChunkTopKFile
    | KvBudgetFile
    | PredictedSparseFile
    | SpansFile
    | MixedFile
)


class HeadGroupFile(Strict):
    """A share of the key-value heads that follow one pattern."""

    share: Share = Field(description="share of the heads, 0 to 1")
    pattern: Annotated[AnyPattern, Field(discriminator="kind")] = Field(description="which keys they see")


class CoreKernelFile(Strict):
    """How a system's own code computes its attention cores."""

    realised: Literal["fused", "gathered", "masked"] = Field(
        default="fused",
        description="only the pattern's pairs; after a copy of their keys; or all pairs, most of them thrown away",
    )
    materialised: bool = Field(default=False, description="scores go through memory, as edits after the softmax ask")
    rate: Ratio = Field(
        default=1.0, description="speed over that of the device's fused kernel at equal pairs; cite where from"
    )


class HeadRouteFile(Strict):
    """Heads that work for some tokens only."""

    shared: NumberOrZero = Field(description="query heads that always work")
    routed: Number = Field(description="query heads to choose from")
    top_k: Number = Field(description="routed heads that work for a token")
    router: Literal["linear", "query_norm"] = Field(default="linear", description="a layer, or the norms of queries")

    @model_validator(mode="after")
    def _choices_exist(self) -> Self:
        if exceeds(self.top_k, self.routed):
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
        default_factory=_one_full_group, min_length=1, description="groups of heads; shares sum to 1"
    )
    kernel: CoreKernelFile = Field(default_factory=CoreKernelFile, description="how the cores are computed")
    partial: Number | None = Field(
        default=None, description="channels that enter the projections; the others join before the output's; null: all"
    )
    route: HeadRouteFile | None = Field(default=None, description="routed heads; null: all heads work for all tokens")

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        total = sum(group.share for group in self.head_groups)
        if isinstance(total, float) and not math.isclose(total, 1.0, rel_tol=1e-9):
            raise wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")
        return self

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


class MemoryFile(Strict):
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


class NoFfnFile(Strict):
    """No feed-forward part."""

    type: Literal["none"] = Field(description="the layer is a mixer alone")


class DenseFile(Strict):
    """A feed-forward part that every token visits; `glu` has a gate, `mlp` has none."""

    type: Literal["glu", "mlp"] = Field(description="this feed-forward part")
    intermediate: Number | None = Field(default=None, description="inner width; null: 4 * hidden, for mlp only")
    bias: bool = Field(default=False, description="matrices have biases")

    @model_validator(mode="after")
    def _gated_width_is_stated(self) -> Self:
        if self.intermediate is None and self.type == "glu":
            raise wrong("`intermediate` is missing", "add it: only an mlp is four times as wide as hidden by default")
        return self


class MoeFile(Strict):
    """Routed experts, plus shared ones."""

    type: Literal["moe"] = Field(description="this feed-forward part")
    experts: Number = Field(description="routed experts")
    intermediate: Number = Field(description="inner width of a routed expert")
    top_k: Integer = Field(description="routed experts that a token visits")
    shared: NumberOrZero = Field(default=0.0, description="experts that every token visits")
    shared_intermediate: Number | None = Field(default=None, description="inner width of one; null: as a routed expert")
    groups: Number | None = Field(default=None, description="equal groups of experts; null where routing is free")
    group_top_k: Integer | None = Field(default=None, description="groups that a token may choose from")
    gated: bool = Field(default=True, description="experts have a gate, as `glu` has")
    bias: bool = Field(default=False, description="the experts' matrices have biases")
    router_bias: bool = Field(default=False, description="the router has a bias")
    shared_gate: bool = Field(default=False, description="a gate of its own weighs the shared experts")
    masked: ShareOrZero = Field(
        default=0.0, description="share of the routed experts that are off, no token visits them"
    )
    router_extra: Literal["token_similarity", "attention_matrix"] | None = Field(
        default=None, description="the scores are smoothed by how alike tokens are, or by the layer's attention"
    )

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if (self.groups is None) != (self.group_top_k is None):
            raise wrong("groups and group_top_k go together", "write both or neither")
        return self

    @model_validator(mode="after")
    def _choices_exist(self) -> Self:
        if exceeds(self.top_k, self.experts):
            raise wrong("top_k is larger than experts", "write at most the number of experts")
        if self.groups is not None and self.group_top_k is not None and exceeds(self.group_top_k, self.groups):
            raise wrong("group_top_k is larger than groups", "write at most the number of groups")
        if exceeds(self.top_k, (1.0 - self.masked) * self.experts):
            raise wrong("fewer experts are on than a token visits", "lower `masked`")
        if self.shared_gate and isinstance(self.shared, float) and self.shared == 0:
            raise wrong("shared_gate without shared experts gates nothing", "remove it, or write `shared`")
        return self


AnyMixer: TypeAlias = (
    AttentionFile | MlaFile | RecurrenceFile | MemoryFile | ConvolutionFile | SpectralFile | GateFile | MilPoolFile
)


class LayerFile(Strict):
    """Equal layers in a row."""

    repeat: Integer = Field(default=1, description="how many of them")
    norm: NormKind = Field(default="rms", description="kind of normalisation; `layer` has a bias")
    norm_position: Literal["before", "after", "both"] = Field(
        default="before", description="norms stand before mixer and FFN, after them (before the residual add), or both"
    )
    block: Literal["sequential", "parallel"] = Field(
        default="sequential", description="the FFN reads the mixer's result, or both read the same input"
    )
    shared_norm: bool = Field(default=False, description="the two branches of a parallel block share one norm")
    dropout: bool = Field(default=False, description="dropout masks are kept in training")
    mixer: Annotated[AnyMixer, Field(discriminator="type")] = Field(
        description="attention in some form, a recurrence, or a mixer of grids"
    )
    width: Number | None = Field(default=None, description="width of the residual stream here; null: the model's")
    scale: PositiveNumber = Field(
        default=1.0, description="tokens here for each token of the input, where stages shrink a grid"
    )
    plain: bool = Field(
        default=False, description="no sum around the mixer, its norm folded into it, an activation behind it"
    )
    ffn: Annotated[DenseFile | MoeFile | NoFfnFile, Field(discriminator="type")] = Field(
        description="feed-forward part"
    )

    @model_validator(mode="after")
    def _norms_fit_block(self) -> Self:
        if self.shared_norm and self.block != "parallel":
            raise wrong("shared_norm is for a parallel block", "remove it, or write `block: parallel`")
        if self.plain and (self.block == "parallel" or not isinstance(self.ffn, NoFfnFile)):
            raise wrong("a plain layer is a mixer alone", "write `ffn: {type: none}`, or remove `plain`")
        if self.block == "parallel" and isinstance(self.ffn, NoFfnFile):
            raise wrong("a parallel block needs an FFN", "remove `block`, or write an FFN")
        if self.block == "parallel" and self.norm_position != "before":
            raise wrong("a parallel block has its norms before", "remove norm_position, or `block`")
        return self


class LayerGroupFile(Strict):
    """Layers that repeat together, such as one with a window and one without."""

    repeat: Integer = Field(description="how often the list below stands in the model")
    layers: list[LayerFile] = Field(min_length=1, description="the layers of one turn, as above")


def _layer_or_group(value: Any) -> str:
    is_group = "layers" in value if isinstance(value, dict) else isinstance(value, LayerGroupFile)
    return "group" if is_group else "layer"


class MtpFile(Strict):
    """Multi-token prediction."""

    depth: Integer = Field(description="modules, each one more layer")


class ModelFile(Strict):
    """A transformer."""

    name: str = Field(description="name by which other files call it")
    hidden: Number = Field(description="width of the residual stream")
    vocabulary: Number = Field(description="rows of the embedding as it is stored, padding included")
    positions: Number | None = Field(default=None, description="rows of a learned position table; null: none")
    tied_embeddings: bool = Field(default=False, description="the LM head is the embedding")
    head_bias: bool = Field(default=False, description="the LM head has a bias")
    embedding_norm: NormKind | None = Field(default=None, description="norm on the embedding's output; null: none")
    final_norm: NormKind | Literal["none"] | None = Field(
        default=None, description="norm before the LM head; null: as the last layer's"
    )
    mtp: MtpFile | None = Field(default=None, description="multi-token prediction; null where there is none")
    layers: list[
        Annotated[
            Annotated[LayerFile, Tag("layer")] | Annotated[LayerGroupFile, Tag("group")], Discriminator(_layer_or_group)
        ]
    ] = Field(min_length=1, description="the layers in order, each a layer or {repeat, layers}")
    aliases: list[str] = Field(default=[], description="other names of the model")
    sources: list[Source] = Field(default=[], description="where the values come from")

    def kinds(self) -> Iterator[tuple[int, LayerFile]]:
        """Yield every run of layers with the number of layers in it."""
        for each in self.layers:
            inner = each.layers if isinstance(each, LayerGroupFile) else [each]
            turns = each.repeat if isinstance(each, LayerGroupFile) else 1
            yield from ((turns * one.repeat, one) for one in inner)

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Self:
        for _, layer in self.kinds():
            mixer = layer.mixer
            width = self.hidden if layer.width is None else layer.width
            if isinstance(mixer, AttentionFile) and mixer.head_dim is None and np.all(width % mixer.q_heads):
                raise wrong(
                    f"hidden of {width:g} is no multiple of {mixer.q_heads:g} q_heads",
                    "write `head_dim`, or correct one of them",
                )
        return self

    @model_validator(mode="after")
    def _depth_is_sane(self) -> Self:
        depth = sum(count for count, _ in self.kinds())
        if depth > MOST_LAYERS:
            raise wrong(
                f"the model has {depth:,} layers, more than the {MOST_LAYERS:,} that can be laid out on stages",
                "check `repeat`",
            )
        return self
