"""The patterns of a model file: which keys a query may see."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from costmodel.quantities import Quantity
from costmodel.schema.quantity import Integer, Number, NumberOrZero, Offset, Share, ShareOrZero, exceeds, wrong
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
    """Heads that follow one pattern: a share of them, or so many query heads with their keys and values."""

    share: Share | None = Field(default=None, description="share of the heads, 0 to 1; null: see `heads`")
    heads: Number | None = Field(default=None, description="query heads; null: see `share`")
    pattern: Annotated[AnyPattern, Field(discriminator="kind")] = Field(description="which keys they see")

    @model_validator(mode="after")
    def _size_is_stated_once(self) -> Self:
        if (self.share is None) == (self.heads is None):
            raise wrong("a group of heads has either a `share` or a number of `heads`", "write one of the two")
        return self

    def share_of(self, heads: Quantity) -> Quantity:
        """Return the share of all `heads` query heads."""
        if self.share is not None:
            return self.share
        assert self.heads is not None, "the file's own check"
        return self.heads / heads
