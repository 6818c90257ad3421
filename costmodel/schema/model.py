"""The model file: a list of layers, each a mixer and a feed-forward part."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from costmodel.schema.device import Source
from costmodel.schema.quantity import Integer, Number, NumberOrZero, Share, wrong
from costmodel.schema.strict import Strict


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


class HeadGroupFile(Strict):
    """A share of the key-value heads that follow one pattern."""

    share: Share = Field(description="share of the heads, 0 to 1")
    pattern: PatternFile = Field(description="which keys they see")


def _one_full_group() -> list[HeadGroupFile]:
    return [HeadGroupFile(share=1.0, pattern=PatternFile(kind="full"))]


class AttentionFile(Strict):
    """Multi-head, grouped-query or multi-query attention."""

    type: Literal["attention"] = Field(description="this mixer")
    q_heads: Number = Field(description="query heads")
    kv_heads: Number = Field(description="key-value heads")
    head_dim: Number = Field(description="width of a query and key head")
    v_head_dim: Number | None = Field(default=None, description="width of a value head; null: as head_dim")
    causal: bool = Field(default=True, description="queries see earlier keys only")
    rotary: bool = Field(default=True, description="rotary position embedding")
    bias: bool = Field(default=False, description="projections have biases")
    head_groups: list[HeadGroupFile] = Field(
        default_factory=_one_full_group, min_length=1, description="groups of heads; shares sum to 1"
    )

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        total = sum(group.share for group in self.head_groups)
        if isinstance(total, float) and not math.isclose(total, 1.0, rel_tol=1e-9):
            raise wrong(f"the shares of head_groups sum to {total:g}", "make them sum to 1")
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


class DenseFile(Strict):
    """A feed-forward part that every token visits; `glu` has a gate, `mlp` has none."""

    type: Literal["glu", "mlp"] = Field(description="this feed-forward part")
    intermediate: Number = Field(description="inner width")
    bias: bool = Field(default=False, description="matrices have biases")


class MoeFile(Strict):
    """Routed experts, each gated, plus shared ones."""

    type: Literal["moe"] = Field(description="this feed-forward part")
    experts: Number = Field(description="routed experts")
    intermediate: Number = Field(description="inner width of a routed expert")
    top_k: Integer = Field(description="routed experts that a token visits")
    shared: NumberOrZero = Field(default=0.0, description="experts that every token visits")
    shared_intermediate: Number | None = Field(default=None, description="inner width of one; null: as a routed expert")
    groups: Number | None = Field(default=None, description="equal groups of experts; null where routing is free")
    group_top_k: Integer | None = Field(default=None, description="groups that a token may choose from")

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if (self.groups is None) != (self.group_top_k is None):
            raise wrong("groups and group_top_k go together", "write both or neither")
        return self


class LayerFile(Strict):
    """Equal layers in a row."""

    repeat: Integer = Field(default=1, description="how many of them")
    norm: Literal["rms", "layer"] = Field(default="rms", description="kind of normalisation")
    dropout: bool = Field(default=False, description="dropout masks are kept in training")
    mixer: Annotated[AttentionFile | MlaFile, Field(discriminator="type")] = Field(description="attention in some form")
    ffn: Annotated[DenseFile | MoeFile, Field(discriminator="type")] = Field(description="feed-forward part")


class MtpFile(Strict):
    """Multi-token prediction."""

    depth: Integer = Field(description="modules, each one more layer")


class ModelFile(Strict):
    """A transformer."""

    name: str = Field(description="name by which other files call it")
    hidden: Number = Field(description="width of the residual stream")
    vocabulary: Number = Field(description="rows of the embedding")
    positions: Number | None = Field(default=None, description="rows of a learned position table; null: none")
    tied_embeddings: bool = Field(default=False, description="the LM head is the embedding")
    mtp: MtpFile | None = Field(default=None, description="multi-token prediction; null where there is none")
    layers: list[LayerFile] = Field(min_length=1, description="the layers in order")
    aliases: list[str] = Field(default=[], description="other names of the model")
    sources: list[Source] = Field(default=[], description="where the values come from")
