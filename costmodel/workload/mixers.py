"""What mixes the tokens of a layer: forms of attention, recurrences, and mixers of vision models."""

from __future__ import annotations

from typing import TypeAlias

from costmodel.quantities import Bytes, Count, Quantity, ceil, floor, is_single, maximum, minimum, sum_of
from costmodel.records import Record
from costmodel.workload.dtypes import ELEMENT_BYTES, SCALE_BYTES
from costmodel.workload.patterns import Pattern, Selected


class HeadGroup(Record):
    """A share of the key-value heads that follow one pattern. The shares of a mixer sum to one."""

    share: Quantity
    pattern: Pattern


class KernelTraits(Record):
    """How a system's own code computes attention.

    realised: `fused` (only the pairs of the pattern), `gathered` (their keys are copied together first) or `masked`
        (all pairs, those outside the pattern discarded).
    materialised: scores pass through memory, as edits after the softmax require.
    rate: speed over that of the device's fused kernel at equal pairs.
    permuted: tokens are permuted into the order of the kernel's tiles before it and back after it.
    head_edit: a kernel of its own scales, masks or shifts the heads' results.
    channels_first: projections are 1 x 1 convolutions of NCHW tensors, transposed before and after.
    """

    realised: str = "fused"
    materialised: bool = False
    rate: Quantity = 1.0
    permuted: bool = False
    head_edit: bool = False
    channels_first: bool = False


class KvSource(Record, kw_only=True):
    """Where keys and values come from, if not from each of the layer's own tokens.

    tokens, width: another sequence, such as a text or an image, and its width (null: the layer's own tokens).
    share: of the own tokens that a strided convolution leaves keys and values of [CvT, arXiv 2103.15808].
    """

    tokens: Count | None = None
    width: Count | None = None
    share: Quantity = 1.0

    def keys(self, own: Count) -> Count:
        """Return the keys of a sequence with `own` tokens."""
        return own * self.share if self.tokens is None else self.tokens


class HeadRoute(Record):
    """Query heads of which some always work, and others for some tokens [MoH, arXiv 2410.11842; UoE].

    top_k: `routed` heads that each token chooses (null: heads choose).
    tokens: share of a sequence that each routed head chooses and attends among (null: tokens choose).
    router: `linear` (hidden x (routed + shared + 2) weights) or `query_norm` (no weights).
    """

    shared: Count
    routed: Count
    top_k: Count | None
    router: str = "linear"
    tokens: Quantity | None = None

    @property
    def active_share(self) -> Quantity:
        """Return (shared + top_k) / (shared + routed). Where heads choose, top_k = tokens*routed."""
        active = self.top_k if self.tokens is None else self.tokens * self.routed
        assert active is not None, "the file's own check"
        return (self.shared + active) / (self.shared + self.routed)


class Indexer(Record, kw_only=True):
    """Small heads that score every earlier key, of which a query then attends to the best [arXiv 2512.02556, 2.1].

    heads, head_dim: of its queries. One key of `head_dim` per token is cached.
    top_k: tokens that a query attends to, in blocks of `block` tokens whose scores are pooled.
    weighted: the heads' scores are summed with weights of the token, d x heads.
    cache: format of its keys, with one FP32 scale each where it has one byte or less (null: as the KV cache).
    reused: the layer attends to what an earlier layer has selected: no weights, keys or scores of its own.
    """

    heads: Count
    head_dim: Count
    top_k: Count
    block: Count = 1.0
    weighted: bool = True
    cache: str | None = None
    reused: bool = False

    def attended(self, keys: Count) -> Count:
        """Return the keys that a query with `keys` earlier ones attends to: min(top_k, keys)."""
        return minimum(self.top_k, keys)

    def key_bytes(self, element: Bytes) -> Bytes:
        """Return the bytes of one cached key of the indexer. element: of the KV cache, scales included [B]."""
        if self.reused:
            return 0.0
        if self.cache is None:
            return self.head_dim * element
        width = ELEMENT_BYTES[self.cache]
        return self.head_dim * width + (SCALE_BYTES if width <= 1.0 else 0.0)


class Attention(Record):
    """Multi-head attention with `kv_heads` key-value heads (MHA, GQA and MQA).

    rotary_dim: rotated elements of a query or key head (null: all).
    alibi: slopes on the scores replace positions. No parameters, part of the kernel.
    bias: of the query, key and value projections.
    output_bias: of the output projection (null: as `bias`).
    qk_norm: queries and keys are normalised after their projection, per head with one shared vector (`head`), without
        parameters (`plain`), or over the whole projection (`projection`).
    kernel: how it is computed.
    route: which heads work for a token (null: all).
    partial: channels that enter the projections. The others join before the output's (SHViT; null: all enter).
    keeps: keys and values are cached (null: if causal; a model that sees later tokens cannot continue token by token).
    output_gate: a sigmoid of the layer's input scales the result of each `head`, or each `element` of it (null: none).
    sinks: every head has a learned logit in its softmax.
    shared_values: values are the keys before norm and rotation: no projection of their own.
    borrowed_kv: keys and values are those of an earlier layer: neither projected nor cached here.
    indexer: selects the keys of each query (null: those of the head groups' patterns).
    kv_source: keys and values are those of another sequence, or of fewer tokens (null: of every token).
    conv_taps: taps of depth-wise convolutions of queries, keys and values (0: none).
    score: `dot`; `relative`: a second product, of queries and projected positions [Transformer-XL, arXiv 1901.02860];
        `phase`: a cosine for every pair and two elements of a key (each amplitude has a phase).
    output_activation: an activation before the output projection.
    """

    q_heads: Count
    kv_heads: Count
    head_dim: Count
    v_head_dim: Count
    causal: bool = True
    rotary: bool = True
    bias: bool = False
    head_groups: tuple[HeadGroup, ...] = (HeadGroup(1.0, Pattern()),)
    output_bias: bool | None = None
    rotary_dim: Count | None = None
    alibi: bool = False
    qk_norm: str | None = None
    kernel: KernelTraits = KernelTraits()
    route: HeadRoute | None = None
    partial: Count | None = None
    keeps: bool | None = None
    output_gate: str | None = None
    sinks: bool = False
    shared_values: bool = False
    borrowed_kv: bool = False
    indexer: Indexer | None = None
    kv_source: KvSource | None = None
    conv_taps: Count = 0.0
    score: str = "dot"
    output_activation: bool = False

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
    rotary: the `rope_dim` part is rotated. Without it all positions are equal (Kimi Linear).
    output_gate: a sigmoid of the layer's input scales each element of the result, d x H*v.
    head_groups: groups of heads with the patterns of their keys. Latents are those that any group attends to.
    indexer: selects the latents of each query (null: those of the head groups' patterns).
    """

    heads: Count
    q_lora: Count | None
    kv_lora: Count
    nope_dim: Count
    rope_dim: Count
    v_head_dim: Count
    causal: bool = True
    rotary: bool = True
    output_gate: bool = False
    head_groups: tuple[HeadGroup, ...] = (HeadGroup(1.0, Pattern()),)
    indexer: Indexer | None = None

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
    q_lora: rank of the query projection.
    output_groups, output_rank: the result is projected in groups of heads, each to `output_rank`, and then together.

    [DeepSeek-V4: huggingface/transformers, models/deepseek_v4/modular_deepseek_v4.py; CSA has an indexer, HCA has none]
    """

    heads: Count
    head_dim: Count
    rotary_dim: Count
    q_lora: Count
    output_groups: Count
    output_rank: Count
    window: Count
    ratio: Count | None = None
    overlap: bool = False
    indexer: Indexer | None = None

    @property
    def pools(self) -> float:
        """Return the tokens that an entry pools, over `ratio`: 2 if entries overlap, else 1."""
        return 2.0 if self.overlap else 1.0

    def entries(self, tokens: Count) -> Count:
        """Return the pooled entries of `tokens`: floor(T / ratio)."""
        return 0.0 if self.ratio is None else floor(tokens / self.ratio)

    def attended_entries(self, tokens: Count) -> Count:
        """Return the entries that the last query of `tokens` attends to."""
        entries = self.entries(tokens)
        return entries if self.indexer is None else self.indexer.attended(entries)

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

    number: Count
    top_k: Count
    shared: Count = 0.0


class Recurrence(Record):
    """Causal linear attention: every head carries a state of key_dim x value_dim. No key is cached.

    key_heads: heads that share a query and key each among heads / key_heads values (null: as `heads`).
    chunk: tokens that are computed at once, by GEMMs.
    decay: `none`, `scalar` (one number per head), `gated` (per head and token), `delta` (gated; each key's old value is
        subtracted) or `channel_delta` (the same, with a decay per channel of a key).
    memories: null for one state per head.
    short_conv: taps of a convolution on queries, keys and values (0: none).
    conv_bias: with one bias a channel.
    output_gate: a d x H*v gate on the result.
    gate_rank: rank of the projections to the channels' decay and to the output gate (null: full rank);
        decay_rank: of the former alone (null: as `gate_rank`).
    output_norm: a norm of the result before the output projection, with v (`head`) or H*v numbers (`projection`).
    head_parameters: learned numbers of a head, such as decay rates, time-step biases and skips.
    state: format in which states are kept (null: as the KV cache).
    chunk_cycles: cycles in which a thread block of the kernel steps from one chunk to the next.
    gradient_cycles: of the backward kernels, per chunk, in thread blocks of the forward one (null: twice these).
    blocks: thread blocks that one processor runs concurrently.
    columns: of a state's values that one thread block carries (null: all).
    """

    heads: Count
    key_dim: Count
    value_dim: Count
    chunk: Count
    decay: str = "none"
    memories: Memories | None = None
    short_conv: Count = 0.0
    output_gate: bool = False
    chunk_cycles: Count = 0.0
    gradient_cycles: Count | None = None
    blocks: Count = 1.0
    columns: Count | None = None
    key_heads: Count | None = None
    conv_bias: bool = False
    gate_rank: Count | None = None
    decay_rank: Count | None = None
    output_norm: str | None = None
    head_parameters: Count = 0.0
    state: str | None = None

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
    """A diagonal state-space layer: `inner` channels, each with a state of `state` numbers [Mamba, arXiv 2312.00752].

    rank: of the projection to the channels' time steps.
    short_conv: taps of the convolution before it.
    normed: norms of time step, input and output projections (Jamba).
    """

    inner: Count
    state: Count
    rank: Count
    short_conv: Count
    conv_bias: bool = True
    normed: bool = False


class NeuralMemory(Record):
    """A small MLP whose weights are the state: each chunk of tokens trains it by one step [Titans, arXiv 2501.00663].

    depth: its matrices.
    width: of its hidden layers over that of the residual stream.
    momentum: the step has a second moving average of the same size.
    """

    heads: Count
    depth: int
    width: Count
    chunk: Count
    momentum: bool = True

    def weights(self, hidden: Count) -> Count:
        """Return its weights: P = d^2 for one matrix, else (2 + (depth - 2) * width) * width * d^2."""
        if self.depth == 1:
            return hidden * hidden
        return (2.0 + (self.depth - 2.0) * self.width) * self.width * hidden * hidden

    def state(self, hidden: Count) -> Count:
        """Return the numbers that a sequence carries: weights, and momentum."""
        return self.weights(hidden) * (2.0 if self.momentum else 1.0)


class Convolution(Record):
    """A convolution over a grid: kernel^2 taps from `inputs` to `outputs` channels (null: the layer's width).

    stride: each token of the result covers stride^2 tokens of the input.
    depthwise: each channel on its own.
    channels_first: NCHW tensors, which tensor-core kernels transpose before and after.
    """

    kernel: Count
    inputs: Count | None = None
    outputs: Count | None = None
    stride: Count = 1.0
    depthwise: bool = False
    channels_first: bool = False


class Spectral(Record):
    """A complex gate between a real 2-D Fourier transform and its inverse [GFNet; SpectFormer, arXiv 2304.06446]."""

    height: Count
    width: Count


class Gate(Record):
    """Element-wise weights from a distribution of the features, `passes` over memory [GAAM, arXiv 2401.11143]."""

    heads: Count
    passes: Count = 2.0


class MilPool(Record):
    """Gated attention over a bag of instances: two layers of width `inner`, `branches` scores and sums [ACMIL]."""

    branches: Count
    inner: Count


class PlainProjection(Record):
    """One d x d matrix instead of attention: tokens do not mix [Puzzle, arXiv 2411.19146]."""


class NoMixer(Record):
    """No mixer: the layer is an FFN alone."""


Mixer: TypeAlias = (
    "Attention | Mla | CompressedAttention | Recurrence | SelectiveScan | NeuralMemory | Convolution | Spectral | Gate "
    "| MilPool | PlainProjection | NoMixer"
)
