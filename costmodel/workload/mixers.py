"""What mixes the tokens of a layer: forms of attention, recurrences, and mixers of vision models."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from costmodel.declared import Integer, Number, NumberOrZero, PositiveNumber, Ratio, Share, StoredType
from costmodel.quantities import Bytes, Count, Quantity, ceil, floor, is_single, maximum, sum_of
from costmodel.records import Record, replace
from costmodel.workload.dtypes import ELEMENT_BYTES, SCALE_BYTES
from costmodel.workload.patterns import Pattern, Selected

Decay: TypeAlias = Literal["none", "scalar", "gated", "delta", "channel_delta"]


class HeadGroup(Record):
    """A share of the key-value heads that follow one pattern. The shares of a mixer sum to one."""

    share: Quantity
    pattern: Pattern


class OwnSpans(Pattern):
    """The patterns of several head groups in one kernel: a head on the mean, and the longest thread block of any."""

    kind: str = "own spans"
    groups: tuple[HeadGroup, ...] = ()

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return the mean of the groups' pairs by their shares of the heads."""
        return sum_of(each.share * each.pattern.pairs(q_len, kv_len, causal=causal) for each in self.groups)

    def last_query_keys(self, kv_len: Count) -> Count:
        """Return the keys of the last query of the group that sees the most."""
        return maximum(0.0, *(each.pattern.last_query_keys(kv_len) for each in self.groups))

    def keys_read(self, q_len: Count, kv_len: Count) -> Count:
        """Return the mean of the cached tokens that a decoding step reads."""
        return sum_of(each.share * each.pattern.keys_read(q_len, kv_len) for each in self.groups)

    def held_keys(self, kv_len: Count) -> Count:
        """Return the keys of the group that holds the most."""
        return maximum(0.0, *(each.pattern.held_keys(kv_len) for each in self.groups))

    def selection(self, q_len: Count, kv_len: Count, head_dim: Count) -> tuple[Count, Count]:
        """Return the mean of what selects the groups' keys."""
        parts = [(each.share, *each.pattern.selection(q_len, kv_len, head_dim)) for each in self.groups]
        return sum_of(share * macs for share, macs, _ in parts), sum_of(share * keys for share, _, keys in parts)

    def fetched_keys(self, q_len: Count, kv_len: Count) -> Count:
        """Return the mean of the keys that a decoding step copies from the host."""
        return sum_of(each.share * each.pattern.fetched_keys(q_len, kv_len) for each in self.groups)


class KernelTraits(Record):
    """How a system's own code computes attention."""

    realised: Annotated[
        Literal["fused", "gathered", "masked"],
        "fused: pairs of the pattern only; gathered: after a copy of their keys; masked: all pairs",
    ] = "fused"
    materialised: Annotated[bool, "scores are written to memory, as for edits after softmax"] = False
    rate: Annotated[Ratio, "speed over the device's fused kernel at equal pairs; cite the source"] = 1.0
    permuted: Annotated[
        bool, "tokens are permuted into the order of the kernel's tiles before it, and back after it"
    ] = False
    one_launch: Annotated[bool, "one kernel of all head groups, whose heads have spans of their own"] = False
    head_edit: Annotated[bool, "a separate kernel scales, masks or shifts the outputs of heads"] = False
    channels_first: Annotated[
        bool, "projections are 1 x 1 convolutions of channels-first tensors, transposed before and after"
    ] = False


class KvSource(Record, kw_only=True):
    """Where keys and values come from, if not from each of the layer's own tokens [CvT, arXiv 2103.15808]."""

    tokens: Annotated[
        Number | None, "tokens of another sequence, such as a text or an image; null: the layer's own"
    ] = None
    width: Annotated[Number | None, "width of that sequence; null: the layer's"] = None
    share: Annotated[Share, "share of the own tokens that have keys and values, after a strided convolution"] = 1.0

    def keys(self, own: Count) -> Count:
        """Return the keys of a sequence with `own` tokens."""
        return own * self.share if self.tokens is None else self.tokens


class HeadRoute(Record):
    """Query heads of which some always work, and others for some tokens [MoH, arXiv 2410.11842; UoE]."""

    shared: Annotated[NumberOrZero, "query heads that are always active"]
    routed: Annotated[Number, "routed query heads"]
    top_k: Annotated[Number | None, "routed heads per token; null: see `tokens`"] = None
    router: Annotated[Literal["linear", "query_norm"], "linear layer, or norms of queries"] = "linear"
    tokens: Annotated[
        Share | None, "share of a sequence that each routed head selects and attends to; null: see `top_k`"
    ] = None

    @property
    def active_share(self) -> Quantity:
        """Return (shared + top_k) / (shared + routed). Where heads choose, top_k = tokens*routed."""
        active = self.top_k if self.tokens is None else self.tokens * self.routed
        assert active is not None, "the file's own check"
        return (self.shared + active) / (self.shared + self.routed)


class Indexer(Record, kw_only=True):
    """Small heads that score every earlier key, of which a query then attends to the best [arXiv 2512.02556, 2.1]."""

    heads: Annotated[Number, "query heads of the indexer"]
    head_dim: Annotated[Number, "width of its heads and of the one key that it caches per token"]
    top_k: Annotated[Number, "tokens, or pooled entries, that a query attends to"]
    block: Annotated[Number, "tokens that are selected together"] = 1.0
    weighted: Annotated[bool, "scores of the heads are summed with weights of each token"] = True
    cache: Annotated[
        StoredType | None, "format of its cached keys, with one FP32 scale each; null: as the KV cache"
    ] = None
    reused: Annotated[bool, "the layer uses the selection of an earlier one: no weights, keys or scores"] = False

    def key_bytes(self, element: Bytes) -> Bytes:
        """Return the bytes of one cached key of the indexer. element: of the KV cache, scales included [B]."""
        if self.reused:
            return 0.0
        if self.cache is None:
            return self.head_dim * element
        width = ELEMENT_BYTES[self.cache]
        return self.head_dim * width + (SCALE_BYTES if width <= 1.0 else 0.0)


class Attention(Record):
    """Multi-head attention with `kv_heads` key-value heads (MHA, GQA and MQA)."""

    q_heads: Annotated[Number, "query heads"]
    kv_heads: Count
    head_dim: Count
    v_head_dim: Count
    causal: Annotated[bool, "causal mask"] = True
    rotary: Annotated[bool, "rotary position embedding"] = True
    bias: Annotated[bool, "projections have biases"] = False
    head_groups: tuple[HeadGroup, ...] = (HeadGroup(1.0, Pattern()),)
    output_bias: Annotated[bool | None, "bias of the output projection; null: as `bias`"] = None
    rotary_dim: Annotated[Number | None, "rotated elements of a head; null: all"] = None
    alibi: Annotated[bool, "ALiBi: position slopes on the scores, at no cost"] = False
    qk_norm: Annotated[
        Literal["head", "projection", "plain"] | None,
        "norm of queries and keys: one vector for all heads, over the projection, or without parameters; null: none",
    ] = None
    kernel: Annotated[KernelTraits, "how attention is computed"] = KernelTraits()
    route: Annotated[HeadRoute | None, "routed heads; null: all heads are always active"] = None
    partial: Annotated[
        Number | None, "channels that are projected; the others join before the output projection; null: all"
    ] = None
    keeps: Annotated[bool | None, "inference caches keys and values; null: if causal"] = None
    output_gate: Annotated[
        Literal["head", "element"] | None, "a sigmoid gate on the result, one per head or per element; null: none"
    ] = None
    sinks: Annotated[bool, "a learned logit per head in the softmax (attention sinks)"] = False
    shared_values: Annotated[bool, "values are the projected keys: no projection of their own"] = False
    borrowed_kv: Annotated[bool, "keys and values are those of an earlier layer: neither projected nor cached here"] = (
        False
    )
    indexer: Annotated[Indexer | None, "selects the keys of each query, instead of `head_groups`; null: none"] = None
    kv_source: Annotated[
        KvSource | None, "keys and values of another sequence, or of fewer tokens; null: of every token"
    ] = None
    conv_taps: Annotated[NumberOrZero, "taps of depth-wise convolutions of queries, keys and values; 0: none"] = 0.0
    score: Annotated[
        Literal["dot", "relative", "phase"],
        "relative: a second product with projected positions; phase: a cosine per pair and phase of a key",
    ] = "dot"
    output_activation: Annotated[bool, "an activation before the output projection"] = False
    entering: Count | None = None  # width of what is projected, null: that of the residual stream

    def keys_of(self, tokens: Count) -> Count:
        """Return the keys of a sequence of `tokens`: as many, fewer, or those of another sequence."""
        return tokens if self.kv_source is None else self.kv_source.keys(tokens)

    @property
    def has_kv_cache(self) -> bool:
        """Tell whether the layer caches keys and values in inference."""
        return not self.borrowed_kv and (self.causal if self.keeps is None else self.keeps)

    @property
    def projected_width(self) -> Count:
        """Return the outputs of the key and value projections of one head: q + v, or what of it is not borrowed."""
        if self.borrowed_kv:
            return 0.0
        return self.head_dim if self.shared_values else self.head_dim + self.v_head_dim

    @property
    def gate_width(self) -> Count:
        """Return the outputs of the gate on the result: none, one a head, or one an element."""
        per_head = {None: 0.0, "head": 1.0, "element": self.v_head_dim}[self.output_gate]
        return self.q_heads * per_head

    @property
    def kv_share(self) -> Quantity:
        """Return the share of keys and values that exist: all, unless heads choose their tokens."""
        chooses = self.route is not None and self.route.tokens is not None
        return self.active_share if chooses else 1.0  # of masked heads all

    @property
    def launched_groups(self) -> tuple[HeadGroup, ...]:
        """Return the head groups that have a kernel each: all together where one launch computes them."""
        return (HeadGroup(1.0, OwnSpans(groups=self.head_groups)),) if self.kernel.one_launch else self.head_groups

    def cached_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the device caches (mean of the heads)."""
        keys = self.keys_of(tokens)
        return sum_of(group.share * group.pattern.cached_tokens(keys) for group in self.head_groups)

    def host_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the host caches (mean of the heads)."""
        return sum_of(group.share * group.pattern.host_tokens(tokens) for group in self.head_groups)

    def held_keys(self, kv_len: Count) -> Count:
        """Return the keys that a kernel over a prompt reads of a sequence of `kv_len` tokens (mean of the heads)."""
        return sum_of(group.share * group.pattern.held_keys(kv_len) for group in self.head_groups)

    def foreign_keys(self, kv_len: Count) -> Count:
        """Return the keys that a pass projects besides the sequence's own, in whichever heads has the most."""
        return maximum(0.0, *(group.pattern.foreign_keys(kv_len) for group in self.head_groups))

    @property
    def active_share(self) -> Quantity:
        """Return the share of the query heads that are computed: all, unless routing skips the others."""
        skips = self.route is not None and self.kernel.realised != "masked"
        return self.route.active_share if self.route is not None and skips else 1.0

    @property
    def query_share(self) -> Quantity:
        """Return the share of the queries that are projected: of computed heads, but all where their norms choose."""
        chosen_by_queries = self.route is not None and self.route.router == "query_norm"
        return 1.0 if chosen_by_queries else self.active_share

    @property
    def head_parts(self) -> tuple[tuple[Quantity, Quantity], ...]:
        """Return (share of the query heads, share of a sequence that they attend among) of the computed heads."""
        route = self.route
        if route is None or route.tokens is None or self.kernel.realised == "masked":
            return ((self.active_share, 1.0),)
        routed = route.routed / (route.shared + route.routed)
        choosing = (routed, route.tokens)
        return (choosing,) if is_single(route.shared) and route.shared == 0 else ((1.0 - routed, 1.0), choosing)


class Mla(Record, kw_only=True):
    """Multi-head latent attention: keys and values are cached as one latent of `kv_lora + rope_dim` per token.

    q_lora is null where queries have no low-rank projection (DeepSeek-V2-Lite).
    head_groups: groups of heads with the patterns of their keys. Latents are those that any group attends to.
    """

    heads: Annotated[Number, "heads"]
    q_lora: Annotated[Number | None, "rank of the query projection; null: full rank"]
    kv_lora: Annotated[Number, "width of the cached latent"]
    nope_dim: Annotated[Number, "width of the non-rotary part of a head"]
    rope_dim: Annotated[Number, "width of the rotary part of a head"]
    v_head_dim: Annotated[Number, "width of a value head"]
    causal: Annotated[bool, "causal mask"] = True
    rotary: Annotated[bool, "the rotary part is rotated; false: no positions"] = True
    output_gate: Annotated[bool, "a sigmoid gate on every element of the result"] = False
    head_groups: tuple[HeadGroup, ...] = (HeadGroup(1.0, Pattern()),)
    indexer: Annotated[Indexer | None, "selects the latents of each query, instead of `head_groups`; null: none"] = None

    @property
    def groups(self) -> tuple[HeadGroup, ...]:
        """Return the head groups. With an indexer all heads attend to what it selects."""
        return self.head_groups if self.indexer is None else (HeadGroup(1.0, Selected(top_k=self.indexer.top_k)),)

    def cached_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose latents are cached: those of the widest pattern."""
        return maximum(0.0, *(group.pattern.cached_tokens(tokens) for group in self.groups))


class CompressedAttention(Record, kw_only=True):
    """Queries of many heads on one shared key of `head_dim`, which is its value too: near ones whole, far ones pooled.

    Every query sees the last `window` tokens, and one pooled entry for each `ratio` tokens (null: none): all of these,
    or those that an indexer selects. With `overlap`, an entry pools twice `ratio` tokens.

    [DeepSeek-V4: huggingface/transformers, models/deepseek_v4/modular_deepseek_v4.py; CSA has an indexer, HCA has none]
    """

    heads: Annotated[Number, "query heads"]
    head_dim: Annotated[Number, "width of a head and of the shared key"]
    rotary_dim: Annotated[Number, "rotated elements of a head"]
    q_lora: Annotated[Number, "rank of the query projection"]
    output_groups: Annotated[Number, "groups of heads that the output projection treats apart"]
    output_rank: Annotated[Number, "width to which each group is projected"]
    window: Annotated[Number, "near keys that every query attends to"]
    ratio: Annotated[Number | None, "tokens per pooled entry; null: near keys only"] = None
    overlap: Annotated[bool, "an entry pools twice `ratio` tokens"] = False
    indexer: Annotated[Indexer | None, "selects the entries of each query; null: all"] = None

    @property
    def pools(self) -> float:
        """Return the tokens that an entry pools, over `ratio`: 2 if entries overlap, else 1."""
        return 2.0 if self.overlap else 1.0

    def entries(self, tokens: Count) -> Count:
        """Return the pooled entries of `tokens`: floor(T / ratio)."""
        return 0.0 if self.ratio is None else floor(tokens / self.ratio)

    @property
    def pooling_width(self) -> Count:
        """Return the outputs of the pooled branch's projections: values and gates of keys, and those of the indexer."""
        if self.ratio is None:
            return 0.0
        own = 2.0 * self.pools * self.head_dim
        return own if self.indexer is None else own + 2.0 * self.pools * self.indexer.head_dim

    def pooling_state(self) -> Count:
        """Return the FP32 numbers of a sequence that wait for their entry: of `pools * ratio` tokens."""
        return 0.0 if self.ratio is None else self.pools * self.ratio * self.pooling_width


class Memories(Record):
    """Several states of a recurrence. A token visits `top_k` of `number`, and `shared` ones always [MoM].

    Each has key and value projections of its own.
    """

    number: Annotated[Number, "routed states"]
    top_k: Annotated[Number, "routed states per token"]
    shared: Annotated[NumberOrZero, "additional states that every token visits"] = 0.0


class Recurrence(Record):
    """Causal linear attention: every head carries a state of key_dim x value_dim. No key is cached."""

    heads: Annotated[Number, "heads"]
    key_dim: Annotated[Number, "width of a query and key head"]
    value_dim: Count
    chunk: Annotated[Number, "chunk length of the chunkwise-parallel kernel"]
    decay: Annotated[
        Decay,
        "decay of the state: none, one scalar per head, a gate per token, a gated delta rule, or one with "
        "a decay per channel",
    ] = "none"
    memories: Annotated[Memories | None, "several states per head; null: one"] = None
    short_conv: Annotated[NumberOrZero, "taps of a convolution on q, k and v; 0: none"] = 0.0
    output_gate: Annotated[bool, "a gate on the output"] = False
    chunk_cycles: Annotated[NumberOrZero, "clock cycles per chunk of a thread block; cite the source"] = 0.0
    gradient_cycles: Annotated[
        Number | None, "the same of the backward pass, in forward thread blocks; null: twice chunk_cycles"
    ] = None
    blocks: Annotated[Number, "concurrent thread blocks per processor"] = 1.0
    columns: Annotated[Number | None, "value columns of a state per thread block; null: all"] = None
    key_heads: Annotated[
        Number | None, "heads of queries and keys, each shared by several value heads; null: as heads"
    ] = None
    conv_bias: Annotated[bool, "the convolution has a bias per channel"] = False
    gate_rank: Annotated[Number | None, "rank of the projections to output gate and channel decay; null: full rank"] = (
        None
    )
    decay_rank: Annotated[Number | None, "rank of the projection to the channel decay; null: as gate_rank"] = None
    output_norm: Annotated[
        Literal["head", "projection"] | None,
        "norm of the result: one vector for all heads, or over all of them; null: none",
    ] = None
    head_parameters: Annotated[NumberOrZero, "learned numbers of a head: decay rates, time-step biases, skips"] = 0.0
    state: Annotated[StoredType | None, "format of cached states; null: as the KV cache"] = None

    @property
    def key_width(self) -> Count:
        """Return the elements of all queries, or of all keys, of a token."""
        return (self.heads if self.key_heads is None else self.key_heads) * self.key_dim

    @property
    def channels(self) -> Count:
        """Return the elements that the short convolution sees: queries, and keys and values of every state."""
        return self.key_width + self.states * (self.key_width + self.heads * self.value_dim)

    @property
    def waiting(self) -> Count:
        """Return the inputs of the short convolution that a sequence carries: taps - 1 of each channel."""
        return maximum(self.short_conv - 1.0, 0.0) * self.channels

    def on_ranks(self, ranks: Count) -> Recurrence:
        """Return the layer as `ranks` hold it together: a single key head stands on each of them.

        Source: vllm-project/vllm, MambaStateShapeCalculator.extra_groups_for_head_shards.
        """
        return self if self.key_heads is None else replace(self, key_heads=maximum(self.key_heads, ranks))

    def state_element(self, element: Bytes) -> Bytes:
        """Return the bytes of one number of a state. element: of the KV cache, scales included [B]."""
        return element if self.state is None else ELEMENT_BYTES[self.state]

    @property
    def programs(self) -> Count:
        """Return the thread blocks that share one state: ceil(v / columns)."""
        return 1.0 if self.columns is None else ceil(self.value_dim / self.columns)

    @property
    def visited_states(self) -> Count:
        """Return the states per head that a token reads and writes."""
        return 1.0 if self.memories is None else self.memories.top_k + self.memories.shared

    @property
    def states(self) -> Count:
        """Return the states per head."""
        return 1.0 if self.memories is None else self.memories.number + self.memories.shared


class SelectiveScan(Record, kw_only=True):
    """A diagonal state-space layer: channels with a state each [Mamba, arXiv 2312.00752]."""

    inner: Annotated[Number, "channels"]
    state: Annotated[Number, "numbers of a channel's state"]
    rank: Annotated[Number, "rank of the projection to the channels' time steps"]
    short_conv: Annotated[Number, "taps of the convolution before the scan"]
    conv_bias: Annotated[bool, "the convolution has a bias per channel"] = True
    normed: Annotated[bool, "norms of time step, input and output projections"] = False


class NeuralMemory(Record, kw_only=True):
    """A small MLP whose weights are the state: each chunk of tokens trains it by one step [arXiv 2501.00663]."""

    heads: Annotated[Number, "heads, each with three gates"]
    depth: Annotated[Integer, "matrices of the MLP"]
    width: Annotated[PositiveNumber, "width of its hidden layers relative to the model"] = 1.0
    chunk: Annotated[Number, "tokens per update step"]
    momentum: Annotated[bool, "updates have momentum"] = True

    def weights(self, hidden: Count) -> Count:
        """Return its weights: P = d^2 for one matrix, else (2 + (depth - 2) * width) * width * d^2."""
        if self.depth == 1:
            return hidden * hidden
        return (2.0 + (self.depth - 2.0) * self.width) * self.width * hidden * hidden

    def state(self, hidden: Count) -> Count:
        """Return the numbers that a sequence carries: weights, and momentum."""
        return self.weights(hidden) * (2.0 if self.momentum else 1.0)


class Convolution(Record):
    """A convolution over a grid: frames * kernel^2 taps from `inputs` to `outputs` channels (null: the layer's width).

    A causal one over frames pads before the first frame only, and has as many taps.
    """

    kernel: Annotated[Number, "taps along each of two axes"]
    inputs: Annotated[Number | None, "input channels; null: as outputs"] = None
    outputs: Annotated[Number | None, "output channels; null: the layer's width"] = None
    stride: Annotated[Number, "stride on each axis"] = 1.0
    depthwise: Annotated[bool, "depthwise convolution"] = False
    channels_first: Annotated[bool, "channels-first tensors, transposed before and after the GEMM"] = False
    frames: Annotated[Number, "taps along frames"] = 1.0
    enlarged: Annotated[Number, "places that each place is copied to before it: 4 if two axes double"] = 1.0

    @property
    def taps(self) -> Count:
        """Return the taps of a filter: kernel^2 * frames."""
        return self.kernel * self.kernel * self.frames


class ResidualBlock(Record):
    """Two convolutions to the layer's width, each behind a group norm and an activation, around a residual sum.

    Where the width changes, a 1 x 1 convolution brings the input to it. [Ho et al., arXiv 2006.11239; Rombach et al.,
    arXiv 2112.10752]
    """

    kernel: Annotated[Number, "taps along each of two axes"] = 3.0
    inputs: Annotated[Number | None, "input channels, those of `skip` included; null: the layer's width"] = None
    frames: Annotated[Number, "taps along frames"] = 1.0
    time: Annotated[NumberOrZero, "width of the time step's vector, which a matrix adds to the grid; 0: none"] = 0.0
    skip: Annotated[NumberOrZero, "channels of an earlier layer that are joined with the others; 0: none"] = 0.0


class Spectral(Record):
    """A complex gate between a real 2-D Fourier transform and its inverse [GFNet; SpectFormer, arXiv 2304.06446]."""

    height: Annotated[Number, "rows of the grid"]
    width: Annotated[Number, "columns of the grid"]


class Gate(Record):
    """Element-wise weights from a distribution of the features, `passes` over memory [GAAM, arXiv 2401.11143]."""

    heads: Annotated[Number, "heads, each with two parameters"]
    passes: Annotated[Number, "times that features are read and written"] = 2.0


class MilPool(Record):
    """Gated attention over a bag of instances: two layers of width `inner`, `branches` scores and sums [ACMIL]."""

    branches: Annotated[Number, "weighted sums"]
    inner: Annotated[Number, "width of the two gates"]


class PlainProjection(Record):
    """One d x d matrix instead of attention: tokens do not mix [Puzzle, arXiv 2411.19146]."""


class NoMixer(Record):
    """No mixer: the layer is an FFN alone."""


Mixer: TypeAlias = (
    "Attention | Mla | CompressedAttention | Recurrence | SelectiveScan | NeuralMemory | Convolution | ResidualBlock "
    "| Spectral | Gate | MilPool | PlainProjection | NoMixer"
)
