"""The attention patterns of a model file: which keys a query attends to."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from costmodel.declared import Integer, Number, NumberOrZero, Share, Wrong, exceeds
from costmodel.quantities import Quantity
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict
from costmodel.workload import patterns as workload_patterns
from costmodel.workload.patterns import Axis


class PatternFile(Strict):
    """All keys, or a sliding window."""

    kind: Literal["full", "window"] = Field(description="all keys, or the last `window` keys")
    window: Number | None = Field(default=None, description="keys per query, for kind window")

    def _check_window(self) -> None:
        if (self.kind == "window") != (self.window is not None):
            message = "`window` is required for kind: window and not allowed otherwise"
            raise Wrong(message, "write {kind: window, window: 4096}")


class SinkRecentFile(Declared, of=workload_patterns.SinkRecent, pattern="sink_recent"):
    """Sink tokens and the most recent ones."""

    sink: NumberOrZero = Field(description="first tokens, always attended to")


class ChunkedFile(Declared, of=workload_patterns.Chunked, pattern="chunked"):
    """The earlier keys of a query's own chunk."""

    def _check_prefix(self) -> None:
        if exceeds(self.prefix + 1.0, self.chunk):
            raise Wrong("prefix must be smaller than chunk", "lower it, or raise `chunk`: it counts the prefix too")


class ElasticWindowFile(Declared, of=workload_patterns.ElasticWindow, pattern="elastic_window"):
    """A window that grows with the sequence length T: alpha + beta*T."""


class StridedBlocksFile(Declared, of=workload_patterns.StridedBlocks, pattern="strided_blocks"):
    """The last blocks of keys, and one in `stride` of the earlier blocks."""


class AxisFile(Declared, of=Axis):
    """One axis of a neighbourhood."""

    dilation: Integer = Field(default=1, description="distance between attended positions")
    stride: Integer = Field(default=1, description="consecutive queries with the same window")

    def _check_window(self) -> None:
        if self.window * self.dilation > self.size:
            raise Wrong("window * dilation exceeds the axis", "write at most `size`")
        if (self.query_tile is None) != (self.key_tile is None):
            raise Wrong("query_tile and key_tile must be set together", "write both or neither")


class NeighbourhoodFile(Strict):
    """Neighbourhood attention: a window around each position of a grid."""

    kind: Literal["neighbourhood"] = Field(description="this pattern")
    axes: list[AxisFile] = Field(min_length=1, max_length=3, description="the axes of the grid, one to three")


class ChunkTopKFile(Declared, of=workload_patterns.ChunkTopK, pattern="chunk_topk"):
    """The chunks whose pooled keys score best (top-k chunks)."""


class KvBudgetFile(Declared, of=workload_patterns.KvBudget, pattern="kv_budget"):
    """KV-cache eviction: full attention over the prompt, of which a share of the keys is kept."""

    def _check_budget(self) -> None:
        if exceeds(self.full_share, self.budget):
            raise Wrong("full_share must not exceed budget", "lower full_share, or raise budget")


class PredictedSparseFile(Declared, of=workload_patterns.PredictedSparse, pattern="predicted_sparse"):
    """The keys that a low-rank predictor selects."""


class SpansFile(Declared, of=workload_patterns.Spans, pattern="spans"):
    """Individual keys, and summaries of spans."""

    scheme: Literal["fixed", "axial", "logsparse"] = Field(description="how tokens are grouped")

    def _check_span(self) -> None:
        if self.span is not None and self.scheme != "fixed":
            raise Wrong("`span` needs scheme: fixed", "remove it, or write `scheme: fixed`")


class QuerySetFile(Strict):
    """Queries with the same number of keys."""

    queries: Number = Field(description="queries of the set")
    keys: Number = Field(description="keys per query")


class MixedFile(Strict):
    """Sets of queries, each with its own number of keys."""

    kind: Literal["mixed"] = Field(description="this pattern")
    sets: list[QuerySetFile] = Field(min_length=1, description="the sets of a whole sequence")
    projected: bool = Field(
        default=True,
        description="a prompt's pass projects keys beyond the sequence's own tokens; false: they are given",
    )


AnyPattern: TypeAlias = (
    PatternFile
    | ChunkedFile
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


# What a query of latents attends to without selecting keys by a computation, which is the indexer's.
LatentPattern: TypeAlias = PatternFile | ChunkedFile | SinkRecentFile | ElasticWindowFile | StridedBlocksFile


class HeadsFile(Strict):
    """A share of all heads, or a number of query heads with their keys and values."""

    share: Share | None = Field(default=None, description="share of the heads, 0 to 1; null: see `heads`")
    heads: Number | None = Field(default=None, description="query heads; null: see `share`")

    def _check_size(self) -> None:
        if (self.share is None) == (self.heads is None):
            raise Wrong("needs either `share` or `heads`", "write one of the two")

    def share_of(self, heads: Quantity) -> Quantity:
        """Return the share of all `heads` query heads."""
        if self.share is not None:
            return self.share
        assert self.heads is not None, "the file's own check"
        return self.heads / heads


class HeadGroupFile(HeadsFile):
    """Heads with one pattern."""

    pattern: Annotated[AnyPattern, Field(discriminator="kind")] = Field(description="which keys they attend to")


class LatentGroupFile(HeadsFile):
    """Heads of latent attention with one pattern."""

    pattern: Annotated[LatentPattern, Field(discriminator="kind")] = Field(description="which latents they attend to")
