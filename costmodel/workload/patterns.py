"""Which keys a query may see, one class a pattern, and what follows: pairs, keys read, keys kept.

Notation: S new tokens of a sequence, T tokens after them, prefix T - S. A pattern knows one head of one sequence.
Pairs are those that a kernel computes: patterns of blocks count whole blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from costmodel.quantities import Count, Quantity, ceil, floor, log2, maximum, minimum, where


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """All keys (`full`: those before a query, if causal), or the last `window` of them (`window`).

    A pattern of its own overrides `width`, or `pairs`, `read` and `kept`.
    """

    kind: str = "full"
    window: Count | None = None

    def max_keys(self, keys: Count) -> Count | None:
        """Return the most keys that a query sees of a sequence of `keys` tokens; null: all."""
        return self.window

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return the (query, key) pairs of `new` queries, the last of `keys` tokens.

        causal: prefix*S + S*(S+1)/2; bidirectional: S*T; a width of w: no query sees more than w keys. Queries whose
        whole past is shorter are the first `ramp` of the new ones.
        """
        width, prefix = self.max_keys(keys), keys - new
        if width is None:
            return prefix * new + new * (new + 1) / 2 if causal else new * keys
        width = minimum(width, keys)
        ramp = minimum(maximum(width - prefix, 0.0), new)
        return ramp * prefix + ramp * (ramp + 1) / 2 + (new - ramp) * width if causal else new * width

    def last_query_keys(self, keys: Count) -> Count:
        """Return the keys that the last query sees, for the longest block of a kernel: min(T, w)."""
        width = self.max_keys(keys)
        return keys if width is None else minimum(keys, width)

    def keys_read(self, new: Count, keys: Count) -> Count:
        """Return the cached tokens that `new` queries of a decoding step read.

        Windows of queries that are verified together are shifted against each other: w + S - 1 keys in all.
        """
        width = self.max_keys(keys)
        return keys if width is None else minimum(keys, width + new - 1)

    def cached_tokens(self, tokens: Count) -> Count:
        """Return the tokens of a sequence of `tokens` whose keys and values the cache holds."""
        return self.last_query_keys(tokens)

    def host_tokens(self, tokens: Count) -> Count:
        """Return the tokens of a sequence of `tokens` whose keys and values the host's memory holds; none here."""
        return 0.0

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return the keys that a query sees on the mean, by the usual convention of model FLOP.

        T/2 if causal and T if not; with a width w - w^2/(2*T) and w; other patterns: pairs / T.
        """
        width = self.last_query_keys(sequence)
        return width - width * width / (2 * sequence) if causal else width

    def selection(self, new: Count, keys: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the multiply-adds that choose the keys of `new` queries, and how many keys they read; none here."""
        return 0.0, 0.0

    def fetched_keys(self, new: Count, keys: Count) -> Count:
        """Return the keys that a decoding step copies from the host for every head; none here."""
        return 0.0

    @property
    def breakpoints(self) -> tuple[Count, ...]:
        """Return the lengths at which what a decoding step reads stops growing as before."""
        return () if self.window is None else (self.window,)


@dataclass(frozen=True, slots=True, eq=False)
class SinkRecent(Pattern):
    """The first `sink` tokens and the last `recent` ones: sink + recent keys at most.

    chunk: prompts come in chunks, inside which a query sees all tokens before it, beside sink + recent older ones:
    sum over chunks of c*(c+1)/2 + c*min(sink + recent, older). Null: every query keeps to the pattern.
    [StreamingLLM, arXiv 2309.17453; DuoAttention, arXiv 2410.10819, section 3.4]
    """

    kind: str = "sink_recent"
    sink: Count = 0.0
    recent: Count = 0.0
    chunk: Count | None = None

    def max_keys(self, keys: Count) -> Count:
        """Return sink + recent."""
        return self.sink + self.recent

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return the pairs, chunk by chunk where prompts come in chunks."""
        if self.chunk is None or not causal:
            return Pattern.pairs(self, new, keys, causal=causal)
        return where(new > 1, self._chunked(keys) - self._chunked(keys - new), minimum(keys, self.max_keys(keys)) * new)

    def _chunked(self, tokens: Count) -> Count:
        """Return the pairs of a prompt of `tokens`, in whole chunks and what is left; a <= chunk older keys each."""
        assert self.chunk is not None
        older = self.max_keys(tokens)
        whole = floor(tokens / self.chunk)
        rest = tokens - whole * self.chunk
        # The k-th chunk has k*c older tokens; where older > c, the first few have fewer than it.
        few = minimum(ceil(older / self.chunk), whole)
        before = self.chunk * few * (few - 1) / 2 + (whole - few) * older
        inside = whole * self.chunk * (self.chunk + 1) / 2 + rest * (rest + 1) / 2
        return inside + self.chunk * before + rest * minimum(older, whole * self.chunk)

    @property
    def breakpoints(self) -> tuple[Count, ...]:
        """Return sink + recent."""
        return (self.sink + self.recent,)


@dataclass(frozen=True, slots=True, eq=False)
class ElasticWindow(Pattern):
    """A window that grows with the length: w = alpha + beta*T, from sink + 1 to T [MoA, arXiv 2406.14909].

    rule: `length`, or `length_minus_alpha`: w = alpha + beta*(T - alpha) beyond alpha.
    """

    kind: str = "elastic_window"
    alpha: Count = 0.0
    beta: Count = 0.0
    sink: Count = 0.0
    rule: str = "length"

    def max_keys(self, keys: Count) -> Count:
        """Return min(max(alpha + beta*T, sink + 1), T)."""
        grown = keys if self.rule == "length" else maximum(keys - self.alpha, 0.0)
        return minimum(maximum(self.alpha + self.beta * grown, self.sink + 1.0), keys)

    @property
    def breakpoints(self) -> tuple[Count, ...]:
        """Return no length: a line bends once, which the quadrature over lengths takes."""
        return ()


@dataclass(frozen=True, slots=True, eq=False)
class StridedBlocks(Pattern):
    """The last `local` blocks of keys and one in every `stride` before them [S2-Attention, arXiv 2407.17678].

    Query block i (from 0) computes min(i+1, L) + floor(max(0, i+1-L) / V) whole blocks of b keys; which one of the V it
    is differs from head to head.
    """

    kind: str = "strided_blocks"
    block: Count = 64.0
    local: Count = 1.0
    stride: Count = 1.0

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return the pairs of whole blocks of keys; a bidirectional head sees both sides."""
        if not causal:
            return new * self.last_query_keys(keys)
        return self._below(keys) - self._below(keys - new)

    def _below(self, tokens: Count) -> Count:
        """Return the pairs of the first `tokens` queries: b^2 * sum of the rows' blocks, and the last row's part."""
        rows = floor(tokens / self.block)
        whole = self.block * self.block * self._blocks_of(rows)
        return whole + (tokens - rows * self.block) * self.block * self._row(rows)

    def _blocks_of(self, rows: Count) -> Count:
        """Return the sum over i < rows of min(i+1, L) + floor(max(0, i+1-L) / V)."""
        ramp = minimum(rows, self.local)
        near = ramp * (ramp + 1) / 2 + (rows - ramp) * self.local
        far = rows - ramp
        turns = floor(far / self.stride)
        return near + self.stride * turns * (turns - 1) / 2 + turns * (far - turns * self.stride + 1)

    def _row(self, index: Count) -> Count:
        """Return the blocks that query block `index` computes."""
        return minimum(index + 1.0, self.local) + floor(maximum(index + 1.0 - self.local, 0.0) / self.stride)

    def last_query_keys(self, keys: Count) -> Count:
        """Return the keys of the last query's blocks, at most T."""
        return minimum(keys, self.block * self._row(floor(maximum(keys - 1.0, 0.0) / self.block)))

    def keys_read(self, new: Count, keys: Count) -> Count:
        """Return the keys of the last query's blocks and one more for each query that is verified with it."""
        return minimum(keys, self.last_query_keys(keys) + new - 1)

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return pairs / T."""
        return self.pairs(sequence, sequence, causal=causal) / sequence


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a neighbourhood: n places, w of them in a window, every `dilation`-th, `stride` queries share one.

    query_tile, key_tile: of the kernel; null: pairs are counted one by one.
    """

    size: float
    window: float
    dilation: float = 1.0
    stride: float = 1.0
    causal: bool = False
    query_tile: float | None = None
    key_tile: float | None = None

    def density(self) -> float:
        """Return the share of the axis that a query computes, on the mean.

        Exact: min(w, n/dilation) / n, and if causal the windows of the first queries are shorter. With tiles q and k, a
        tile of queries inside the axis visits k * (floor((q - 1 + ceil(w/2) - 1) / k) - floor(-floor(w/2) / k) + 1)
        keys of the axis in whole tiles; one window for the whole tile (stride a multiple of q): ceil(w/k)*k.
        """
        line = math.ceil(self.size / self.dilation)
        window = min(self.window, line)
        if self.query_tile is None or self.key_tile is None:
            seen = window - window * (window - 1) / (2 * line) if self.causal else window
            return seen / self.size
        key = self.key_tile
        whole = math.ceil(line / key) * key
        if self.stride % self.query_tile == 0:
            visited = math.ceil(window / key) * key
        else:
            after = 0.0 if self.causal else math.ceil(window / 2) - 1
            before = window - 1 if self.causal else math.floor(window / 2)
            last = math.floor((self.query_tile - 1 + after) / key)
            visited = key * (last - math.floor(-before / key) + 1)
        return min(visited, whole) / (whole * self.dilation)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhood(Pattern):
    """A window around each place of a grid of 1 to 3 axes: density = product of the axes' [arXiv 2403.04690].

    At borders windows move inwards, so that each query sees all of w (NATTEN); kernels visit whole tiles, for which the
    interior of the grid stands.
    """

    kind: str = "neighbourhood"
    axes: tuple[Axis, ...] = ()

    def _density(self) -> float:
        return math.prod(axis.density() for axis in self.axes)

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return S * T * density."""
        return new * keys * self._density()

    def last_query_keys(self, keys: Count) -> Count:
        """Return T * density."""
        return keys * self._density()

    def cached_tokens(self, tokens: Count) -> Count:
        """Return all: any place may be a neighbour of a later one."""
        return tokens

    def keys_read(self, new: Count, keys: Count) -> Count:
        """Return what one query sees and a key for each further one."""
        return minimum(keys, self.last_query_keys(keys) + new - 1)

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return T * density."""
        return self.last_query_keys(sequence)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTopK(Pattern):
    """The best chunks of `chunk` tokens, `attend` keys in all, the first and last among them [arXiv 2402.10685].

    A query scores one pooled key a chunk. All keys are kept, with the pooled ones. offload: on the host, from where a
    decoding step copies what it attends to; the pooled keys stay.
    """

    kind: str = "chunk_topk"
    chunk: Count = 256.0
    attend: Count = 4096.0
    offload: bool = False

    def max_keys(self, keys: Count) -> Count:
        """Return the attended keys."""
        return self.attend

    def cached_tokens(self, tokens: Count) -> Count:
        """Return T + T/(2c), since a pooled key has no value; on the device without the T, but the attended keys."""
        held = minimum(tokens, self.attend) if self.offload else tokens
        return held + 0.5 * tokens / self.chunk

    def host_tokens(self, tokens: Count) -> Count:
        """Return all, if they are offloaded."""
        return tokens if self.offload else 0.0

    def selection(self, new: Count, keys: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the scores of pooled keys: pairs / c multiply-adds of a key's width, over T/c keys; none if T <= A."""
        scored = Pattern().pairs(new, keys, causal=True) / self.chunk
        chooses = keys > self.attend
        return where(chooses, scored * head_dim, 0.0), where(chooses, keys / self.chunk, 0.0)

    def fetched_keys(self, new: Count, keys: Count) -> Count:
        """Return what a step attends to, if keys are offloaded and nothing chosen before is still there."""
        return minimum(keys, self.attend) * new if self.offload else 0.0

    @property
    def breakpoints(self) -> tuple[Count, ...]:
        """Return the attended keys."""
        return (self.attend,)


@dataclass(frozen=True, slots=True, eq=False)
class KvBudget(Pattern):
    """A prompt read in full, of which `budget` of the keys stay, at least sink + recent [Task-KV, SnapKV, H2O].

    full_share: heads that keep all keys; the others keep sink, recent and as many middle tokens as the budget leaves.
    """

    kind: str = "kv_budget"
    budget: Quantity = 1.0
    sink: Count = 0.0
    recent: Count = 0.0
    full_share: Quantity = 0.0

    def cached_tokens(self, tokens: Count) -> Count:
        """Return max(budget*T, min(T, sink + recent)) on the mean of the heads."""
        return maximum(self.budget * tokens, minimum(tokens, self.sink + self.recent))

    def middle(self, tokens: Count) -> Count:
        """Return the middle tokens k of a head that does not keep all: (B - full)*T/(1 - full) - sink - recent."""
        rest = (self.budget - self.full_share) * tokens / (1.0 - self.full_share)
        return maximum(rest - self.sink - self.recent, 0.0)

    def keys_read(self, new: Count, keys: Count) -> Count:
        """Return what is kept."""
        return minimum(keys, self.cached_tokens(keys) + new - 1)

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return those of a prompt in full, of one new token those with kept keys."""
        return where(new > 1, Pattern.pairs(self, new, keys, causal=causal), new * self.cached_tokens(keys))


@dataclass(frozen=True, slots=True, eq=False)
class PredictedSparse(Pattern):
    """`keep` of the keys, which a low-rank predictor names for each query [Sparsifiner, arXiv 2303.13755].

    Multiply-adds of the predictor, a head of width d: queries and keys to `rank` (2*N*d*c), keys to `reduced` tokens
    (c*N*n), scores (N*c*n), and their way back over a basis of which `basis` is not zero (basis*n*N*N).
    """

    kind: str = "predicted_sparse"
    keep: Quantity = 1.0
    reduced: Count = 1.0
    rank: Count = 1.0
    basis: Quantity = 1.0

    def max_keys(self, keys: Count) -> Count:
        """Return keep*T."""
        return self.keep * keys

    def cached_tokens(self, tokens: Count) -> Count:
        """Return all."""
        return tokens

    def selection(self, new: Count, keys: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the predictor's multiply-adds; it reads all keys."""
        projected = (new + keys) * head_dim * self.rank + self.rank * keys * self.reduced
        return projected + new * self.rank * self.reduced + self.basis * self.reduced * new * keys, keys


@dataclass(frozen=True, slots=True, eq=False)
class Spans(Pattern):
    """Direct keys and summaries of spans, which together reach all tokens [Combiner, arXiv 2107.05768].

    A query sees s + 2*T/s keys (`fixed`, span s, null: sqrt(T)), m + 2*m for T as an m x m grid (`axial`), or
    log2(T) + 1 (`logsparse`).
    """

    kind: str = "spans"
    scheme: str = "fixed"
    span: Count | None = None

    def max_keys(self, keys: Count) -> Count:
        """Return the keys and summaries that a query sees."""
        if self.scheme == "logsparse":
            return log2(keys) + 1.0
        span: Quantity = keys**0.5 if self.span is None or self.scheme == "axial" else self.span
        return span + 2 * keys / span

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return S times that."""
        return new * minimum(self.max_keys(keys), keys)

    def cached_tokens(self, tokens: Count) -> Count:
        """Return all."""
        return tokens

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return the same for every query."""
        return minimum(self.max_keys(sequence), sequence)


@dataclass(frozen=True, slots=True, eq=False)
class Mixed(Pattern):
    """Sets of queries that each see their own keys: the sum of S_a * T_a [MixFormer, arXiv 2203.11082].

    sets: (queries, keys) of each; they stand for a whole sequence, whatever its length.
    """

    kind: str = "mixed"
    sets: tuple[tuple[Count, Count], ...] = ()

    def pairs(self, new: Count, keys: Count, *, causal: bool) -> Count:
        """Return the sum over the sets."""
        total: Quantity = 0.0
        for queries, visible in self.sets:
            total = total + queries * visible
        return total

    def mean_keys(self, sequence: Count, *, causal: bool) -> Count:
        """Return pairs / T."""
        return self.pairs(sequence, sequence, causal=causal) / sequence
