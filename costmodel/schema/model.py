"""The model file: a list of layers, each a mixer and a feed-forward part."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from costmodel.schema.device import Source
from costmodel.schema.mixers import AnyMixer, AttentionFile
from costmodel.schema.quantity import (
    Integer,
    Number,
    NumberOrZero,
    PositiveNumber,
    ShareOrZero,
    exceeds,
    wrong,
)
from costmodel.schema.strict import Strict

MAX_LAYERS = 10_000  # published transformers end at 1,000 (DeepNet, arXiv 2203.00555); each layer gets a stage
NormKind: TypeAlias = Literal["rms", "layer", "layer_no_bias"]


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
        default=1.0,
        description="tokens here for each of the input, where stages shrink a grid or tokens are dropped",
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
    features: bool = Field(
        default=False, description="the input are vectors such as patches of an image, not rows of an embedding"
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
    def _features_have_no_table(self) -> Self:
        if self.features and (self.tied_embeddings or self.positions is not None or self.embedding_norm is not None):
            raise wrong(
                "a model of features has no embedding to tie, to add positions to or to normalise",
                "remove tied_embeddings, positions and embedding_norm, or `features`",
            )
        return self

    @model_validator(mode="after")
    def _depth_is_sane(self) -> Self:
        depth = sum(count for count, _ in self.kinds())
        if depth > MAX_LAYERS:
            raise wrong(
                f"the model has {depth:,} layers, more than the {MAX_LAYERS:,} that can be laid out on stages",
                "check `repeat`",
            )
        return self
