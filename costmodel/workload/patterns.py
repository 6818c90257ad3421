"""Which keys a query attends to, one class per pattern, and what follows: pairs, keys read, tokens cached.

Notation: S new tokens of a sequence (`q_len`), T tokens after them (`kv_len`), prefix T - S. A pattern describes one
head of one sequence. Pairs are those that a kernel computes: patterns of blocks count whole blocks.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from costmodel.declared import Integer, Number, NumberOrZero, Offset, Share, ShareOrZero
from costmodel.quantities import Count, Quantity, ceil, floor, log2, maximum, minimum, sum_of, where
from costmodel.records import Record


class Pattern(Record):
    """All keys (`full`: if causal those before a query), or the last `window` of them (`window`).

    Subclasses override `max_keys`, and `pairs` where these are counted otherwise.
    """

    kind: str = "full"
    window: Count | None = None
    caches_all: ClassVar[bool] = False  # any token may be selected later
    uniform: ClassVar[bool] = False  # every query attends to equally many keys, causal or not
    is_bounded: ClassVar[bool] = False  # `max_keys` is the same at all lengths

    def max_keys(self, kv_len: Count) -> Count | None:
        """Return the most keys that a query of a sequence of `kv_len` tokens attends to (null: all)."""
        return self.window

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the (query, key) pairs of the last `q_len` of `kv_len` tokens.

        causal: prefix*S + S*(S+1)/2.
        bidirectional: S*T. Window w: at most w keys per query. The first `ramp` new queries have a shorter past than w.
        """
        width, prefix = self.max_keys(kv_len), kv_len - q_len
        causal = causal and not self.uniform
        if width is None:
            return prefix * q_len + q_len * (q_len + 1) / 2 if causal else q_len * kv_len
        width = minimum(width, kv_len)
        ramp = minimum(maximum(width - prefix, 0.0), q_len)
        return ramp * prefix + ramp * (ramp + 1) / 2 + (q_len - ramp) * width if causal else q_len * width

    def last_query_keys(self, kv_len: Count) -> Count:
        """Return the keys of the last query, the longest thread block of a kernel: min(T, w)."""
        width = self.max_keys(kv_len)
        return kv_len if width is None else minimum(kv_len, width)

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return the cached tokens that `q_len` queries of a decoding step read.

        The windows of queries that are verified together are shifted: w + S - 1 keys in all.
        """
        width = self.max_keys(kv_len)
        return kv_len if width is None else minimum(kv_len, width + q_len - 1)

    def held_keys(self, kv_len: Count) -> Count:
        """Return the keys and values of a sequence that a kernel over its prompt reads: those of all its tokens."""
        return kv_len

    def foreign_keys(self, kv_len: Count) -> Count:
        """Return the keys that a pass projects besides those of the sequence's own tokens."""
        return 0.0

    def cached_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the device caches."""
        return tokens if self.caches_all else self.last_query_keys(tokens)

    def host_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the host caches."""
        return 0.0

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return the mean keys of a query, by the usual convention of model FLOP.

        T/2 if causal, else T. With a window w - w^2/(2*T), else w.
        """
        width = self.last_query_keys(sequence)
        return width - width * width / (2 * sequence) if causal and not self.uniform else width

    def selection(self, q_len: Count, kv_len: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the multiply-adds that select the keys of `q_len` queries, and the keys that this reads."""
        return 0.0, 0.0

    def fetched_keys(self, q_len: Count, kv_len: Count) -> Count:
        """Return the keys that a decoding step copies from the host for each head."""
        return 0.0

    @property
    def breakpoints(self) -> tuple[Count, ...]:
        """Return the lengths at which the reads of a decoding step stop growing as before."""
        most = self.max_keys(0.0) if self.is_bounded else self.window
        return () if most is None else (most,)


class SinkRecent(Pattern, kw_only=True):
    """The first `sink` tokens and the last `recent` ones: at most sink + recent keys.


        pairs = sum over chunks of c*(c+1)/2 + c*min(sink + recent, older)

    [StreamingLLM, arXiv 2309.17453; DuoAttention, arXiv 2410.10819, section 3.4]
    """

    kind: str = "sink_recent"
    sink: Count = 0.0
    recent: Annotated[Number, "most recent tokens"]
    chunk: Annotated[
        Number | None, "prompts are processed in chunks with full causal attention inside; null: not chunked"
    ] = None
    is_bounded: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return sink + recent."""
        return self.sink + self.recent

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the pairs, chunk by chunk where prompts come in chunks."""
        if self.chunk is None or not causal:
            return Pattern.pairs(self, q_len, kv_len, causal=causal)
        prompt = self._chunked_pairs(kv_len) - self._chunked_pairs(kv_len - q_len)
        return where(q_len > 1, prompt, minimum(kv_len, self.max_keys(kv_len)) * q_len)

    def _chunked_pairs(self, tokens: Count) -> Count:
        """Return the pairs of a prompt of `tokens`, in whole chunks and the rest of at most `chunk` tokens."""
        assert self.chunk is not None
        older = self.max_keys(tokens)
        chunks = floor(tokens / self.chunk)
        rest = tokens - chunks * self.chunk
        # The k-th chunk has k*c older tokens; where older > c, the first few have fewer than it.
        few = minimum(ceil(older / self.chunk), chunks)
        before = self.chunk * few * (few - 1) / 2 + (chunks - few) * older
        inside = chunks * self.chunk * (self.chunk + 1) / 2 + rest * (rest + 1) / 2
        return inside + self.chunk * before + rest * minimum(older, chunks * self.chunk)


class Selected(Pattern):
    """The `top_k` best keys of each query, whichever these are: all keys are cached [arXiv 2512.02556, section 2.1].

    pairs = sum over queries of min(top_k, earlier keys). Queries that are verified together select on their own.
    """

    kind: str = "selected"
    top_k: Count = 2048.0
    caches_all: ClassVar[bool] = True
    is_bounded: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return top_k."""
        return self.top_k

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return min(T, S*top_k)."""
        return minimum(kv_len, q_len * self.top_k)


class Chunked(Pattern, kw_only=True):
    """The earlier keys of a query's own chunk of `chunk` tokens [Llama 4: attention_chunk_size].

        pairs of T tokens = floor(T/c) * c*(c+1)/2 + r*(r+1)/2,    r = T mod c

    A decoding step reads, on the mean of the places in a chunk, (c + p + 1)/2 keys beyond the first chunk.
    """

    kind: str = "chunked"
    chunk: Annotated[Number, "tokens per chunk"]
    prefix: Annotated[
        NumberOrZero, "first tokens of every chunk that are no text, so that no decoded query is among them"
    ] = 0.0
    is_bounded: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return the chunk."""
        return self.chunk

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the pairs inside chunks. Those of one decoding query on the mean of its places."""
        if not causal:
            return q_len * minimum(self.chunk, kv_len)
        prompt = self._first_pairs(kv_len) - self._first_pairs(kv_len - q_len)
        return where(q_len > 1, prompt, q_len * self._mean_place(kv_len))

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return the keys of a query at the mean place of its chunk, and of the queries behind it."""
        return minimum(kv_len, self._mean_place(kv_len) + q_len - 1)

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return pairs / T, of which the usual convention drops the diagonal's half key."""
        if not causal:
            return minimum(self.chunk, sequence)
        return maximum(self._first_pairs(sequence) / sequence - 0.5, 0.0)

    def _first_pairs(self, tokens: Count) -> Count:
        chunks = floor(tokens / self.chunk)
        rest = tokens - chunks * self.chunk
        return chunks * self.chunk * (self.chunk + 1) / 2 + rest * (rest + 1) / 2

    def _mean_place(self, tokens: Count) -> Count:
        """Return the keys that a query after `tokens` sees: all of the first chunk, then half a chunk on the mean."""
        return where(tokens <= self.chunk, tokens, (self.chunk + self.prefix + 1) / 2)


class ElasticWindow(Pattern, kw_only=True):
    """A window that grows with the length: w = alpha + beta*T, from sink + 1 to T [MoA, arXiv 2406.14909]."""

    kind: str = "elastic_window"
    alpha: Annotated[Offset, "tokens at length zero, may be negative"]
    beta: Annotated[ShareOrZero, "tokens per token of the length"]
    sink: Annotated[NumberOrZero, "first tokens, always attended to; the window exceeds them"] = 0.0
    rule: Annotated[Literal["length", "length_minus_alpha"], "beta applies to all tokens, or to those beyond alpha"] = (
        "length"
    )

    def max_keys(self, kv_len: Count) -> Count:
        """Return min(max(alpha + beta*T, sink + 1), T)."""
        grown = kv_len if self.rule == "length" else maximum(kv_len - self.alpha, 0.0)
        return minimum(maximum(self.alpha + self.beta * grown, self.sink + 1.0), kv_len)


class StridedBlocks(Pattern, kw_only=True):
    """The last `local` blocks of keys and one in every `stride` before them [S2-Attention, arXiv 2407.17678].

    Query block i (from 0) computes min(i+1, L) + floor(max(0, i+1-L) / V) whole blocks of b keys. Which one of each V
    blocks it is differs from head to head.
    """

    kind: str = "strided_blocks"
    block: Annotated[Number, "tokens per block"]
    local: Annotated[Number, "last blocks, all attended to"]
    stride: Annotated[Number, "distance between attended earlier blocks"]

    def max_keys(self, kv_len: Count) -> Count:
        """Return the keys of the last query's blocks."""
        return self.block * self._blocks(floor(maximum(kv_len - 1.0, 0.0) / self.block))

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the pairs of whole blocks of keys. A bidirectional head sees both sides."""
        if not causal:
            return q_len * self.last_query_keys(kv_len)
        return self._first_pairs(kv_len) - self._first_pairs(kv_len - q_len)

    def _first_pairs(self, tokens: Count) -> Count:
        rows = floor(tokens / self.block)
        whole = self.block * self.block * self._blocks_before(rows)
        return whole + (tokens - rows * self.block) * self.block * self._blocks(rows)

    def _blocks_before(self, rows: Count) -> Count:
        """Return the sum over i < rows of min(i+1, L) + floor(max(0, i+1-L) / V)."""
        ramp = minimum(rows, self.local)
        near = ramp * (ramp + 1) / 2 + (rows - ramp) * self.local
        far = rows - ramp
        turns = floor(far / self.stride)
        return near + self.stride * turns * (turns - 1) / 2 + turns * (far - turns * self.stride + 1)

    def _blocks(self, row: Count) -> Count:
        """Return the blocks of keys that one query block computes."""
        return minimum(row + 1.0, self.local) + floor(maximum(row + 1.0 - self.local, 0.0) / self.stride)

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return pairs / T."""
        return self.pairs(sequence, sequence, causal=causal) / sequence


class ChunkTopK(Pattern, kw_only=True):
    """The best chunks of `chunk` tokens, `attend` keys in all, the first and last among them [arXiv 2402.10685].

    A query scores one pooled key per chunk. All keys are cached, and the pooled ones. offload: on the host, from where
    a decoding step copies those that it attends to. The pooled keys stay.
    """

    kind: str = "chunk_topk"
    chunk: Annotated[Number, "tokens per chunk"]
    attend: Annotated[Number, "keys per query"]
    offload: Annotated[bool, "keys are in host memory; selected ones are copied in every step"] = False
    is_bounded: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return the attended keys."""
        return self.attend

    def cached_tokens(self, tokens: Count) -> Count:
        """Return T + T/(2c), as a pooled key has no value. With offload the attended keys and T/(2c)."""
        local = minimum(tokens, self.attend) if self.offload else tokens
        return local + 0.5 * tokens / self.chunk

    def host_tokens(self, tokens: Count) -> Count:
        """Return all tokens, if they are offloaded."""
        return tokens if self.offload else 0.0

    def selection(self, q_len: Count, kv_len: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the scores of pooled keys: pairs / c multiply-adds of a key's width, over T/c keys, none if T <= A."""
        scored = Pattern().pairs(q_len, kv_len, causal=True) / self.chunk
        selects = kv_len > self.attend
        return where(selects, scored * head_dim, 0.0), where(selects, kv_len / self.chunk, 0.0)

    def fetched_keys(self, q_len: Count, kv_len: Count) -> Count:
        """Return the attended keys if they are offloaded. Those of earlier steps are not reused."""
        return minimum(kv_len, self.attend) * q_len if self.offload else 0.0


class KvBudget(Pattern, kw_only=True):
    """A prompt read in full, of which `budget` of the keys stay, at least sink + recent [Task-KV, SnapKV, H2O]."""

    kind: str = "kv_budget"
    budget: Annotated[Share, "share of the keys kept, mean over heads"]
    sink: Annotated[NumberOrZero, "first tokens, always kept"] = 0.0
    recent: Annotated[NumberOrZero, "most recent tokens, always kept"] = 0.0
    full_share: Annotated[ShareOrZero, "share of the heads that keep all keys"] = 0.0

    def cached_tokens(self, tokens: Count) -> Count:
        """Return max(budget*T, min(T, sink + recent)), the mean of the heads."""
        return maximum(self.budget * tokens, minimum(tokens, self.sink + self.recent))

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return the cached keys and one more for each further query."""
        return minimum(kv_len, self.cached_tokens(kv_len) + q_len - 1)

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the pairs of a full prompt, or those of one new token with the cached keys."""
        return where(q_len > 1, Pattern.pairs(self, q_len, kv_len, causal=causal), q_len * self.cached_tokens(kv_len))


class PredictedSparse(Pattern, kw_only=True):
    """A share `keep` of the keys, which a low-rank predictor selects for each query [Sparsifiner, arXiv 2303.13755].

    Multiply-adds of the predictor, per head of width d: queries and keys to `rank` (2*N*d*c), keys to `reduced` tokens
    (c*N*n), scores (N*c*n), and their way back over a basis of which a share `basis` is not zero (basis*n*N*N).
    """

    kind: str = "predicted_sparse"
    keep: Annotated[Share, "share of the keys per query"]
    reduced: Annotated[Number, "tokens that keys are reduced to for the prediction"]
    rank: Annotated[Number, "width of a head in the prediction"]
    basis: Annotated[Share, "nonzero share of the basis of the back-projection"] = 1.0
    caches_all: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return keep*T."""
        return self.keep * kv_len

    def selection(self, q_len: Count, kv_len: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the predictor's multiply-adds. It reads all keys."""
        projected = (q_len + kv_len) * head_dim * self.rank + self.rank * kv_len * self.reduced
        return projected + q_len * self.rank * self.reduced + self.basis * self.reduced * q_len * kv_len, kv_len


class Spans(Pattern, kw_only=True):
    """Direct keys and summaries of spans, which together reach all tokens [Combiner, arXiv 2107.05768].

    A query attends to s + 2*T/s keys (`fixed`, span s, null: sqrt(T)), m + 2*m for T as an m x m grid (`axial`), or
    log2(T) + 1 (`logsparse`).
    """

    kind: str = "spans"
    scheme: str = "fixed"
    span: Annotated[Number | None, "tokens per span, for scheme fixed; null: sqrt(length)"] = None
    caches_all: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def max_keys(self, kv_len: Count) -> Count:
        """Return the keys and summaries of a query."""
        if self.scheme == "logsparse":
            return log2(kv_len) + 1.0
        span: Quantity = kv_len**0.5 if self.span is None or self.scheme == "axial" else self.span
        return span + 2 * kv_len / span


class Mixed(Pattern):
    """Sets of queries with as many keys each, whichever tokens these are of [MixFormer, arXiv 2203.11082].

        pairs = S * sum of S_a*T_a / sum of S_a;    keys held = the most that a set has: a smaller set's are among them

    Keys may be fewer than the sequence's tokens (a pooled grid) or more (reference images, an encoder's states,
    retrieved passages). projected: of the latter, a prompt's pass projects max(T_a) - T from their hidden states. Else
    they are given. They are cached, and a decoding step reads them, in either case.
    """

    kind: str = "mixed"
    sets: tuple[tuple[Count, Count], ...] = ()
    projected: bool = True
    uniform: ClassVar[bool] = True

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the pairs of `q_len` queries, of each set its share of them."""
        return q_len * self.mean_keys(kv_len, causal=causal)

    def last_query_keys(self, kv_len: Count) -> Count:
        """Return the keys of the largest set."""
        return maximum(*(keys for _, keys in self.sets), 0.0)

    def held_keys(self, kv_len: Count) -> Count:
        """Return the keys of the largest set."""
        return self.last_query_keys(kv_len)

    def foreign_keys(self, kv_len: Count) -> Count:
        """Return the keys of the largest set beyond the sequence's own tokens, if they are projected."""
        return maximum(self.last_query_keys(kv_len) - kv_len, 0.0) if self.projected else 0.0

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return the keys of the largest set."""
        return self.last_query_keys(kv_len)

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return pairs / S."""
        return sum_of(queries * keys for queries, keys in self.sets) / sum_of(queries for queries, _ in self.sets)


class Axis(Record):
    """One axis of a neighbourhood: windows of `window` places among `size`, every `dilation`-th.

    stride: queries that share a window.
    """

    size: Annotated[Integer, "positions"]
    window: Annotated[Integer, "positions that a query attends to"]
    dilation: float = 1.0
    stride: float = 1.0
    causal: Annotated[bool, "causal: positions before the query only"] = False
    query_tile: Annotated[
        Integer | None, "queries per kernel tile; null: 64 of all axes together; 1: pairs one by one"
    ] = None
    key_tile: Annotated[Integer | None, "keys per kernel tile; null: 64 of all axes together; 1: pairs one by one"] = (
        None
    )

    def density(self) -> float:
        """Return the mean share of the axis that a query computes.

        Exact: min(w, n/dilation) / n. If causal the windows of the first queries are shorter. With tiles q and k, a
        tile of queries inside the axis visits k * (floor((q - 1 + ceil(w/2) - 1) / k) - floor(-floor(w/2) / k) + 1)
        keys in whole tiles. With one window per query tile (stride a multiple of q): ceil(w/k)*k.
        """
        line = math.ceil(self.size / self.dilation)
        window = min(self.window, line)
        if self.query_tile is None or self.key_tile is None:
            keys = window - window * (window - 1) / (2 * line) if self.causal else window
            return keys / self.size
        tile = self.key_tile
        whole = math.ceil(line / tile) * tile
        if self.stride % self.query_tile == 0:
            visited = math.ceil(window / tile) * tile
        else:
            after = 0.0 if self.causal else math.ceil(window / 2) - 1
            before = window - 1 if self.causal else math.floor(window / 2)
            last = math.floor((self.query_tile - 1 + after) / tile)
            visited = tile * (last - math.floor(-before / tile) + 1)
        return min(visited, whole) / (whole * self.dilation)


class Neighbourhood(Pattern):
    """A window around each place of a grid of 1 to 3 axes: density = product of the axes' [arXiv 2403.04690].

    At borders windows move inwards, so that each query sees all of w (NATTEN). Kernels visit whole tiles, counted as in
    the interior of the grid.
    """

    kind: str = "neighbourhood"
    axes: tuple[Axis, ...] = ()
    caches_all: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def _density(self) -> float:
        return math.prod(axis.density() for axis in self.axes)

    def max_keys(self, kv_len: Count) -> Count:
        """Return T * density."""
        return kv_len * self._density()

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return S * T * density."""
        return q_len * kv_len * self._density()
