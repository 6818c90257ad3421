"""What a model is: a list of layers, each a mixer (attention in some form) and a feed-forward part."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from costmodel.quantities import Count, Quantity, ceil, is_single
from costmodel.workload.patterns import Pattern as Pattern


@dataclass(frozen=True, slots=True, eq=False)
class HeadGroup:
    """A share of the key-value heads that follow one pattern; the shares of a mixer sum to one."""

    share: Quantity
    pattern: Pattern


@dataclass(frozen=True, slots=True, eq=False)
class KernelTraits:
    """How a system's own code computes attention.

    realised: `fused` (only the pairs of the pattern), `gathered` (their keys are copied together first) or `masked`
        (all pairs, those outside the pattern discarded).
    materialised: scores pass through memory, as edits after the softmax require.
    rate: speed over that of the device's fused kernel at equal pairs.
    permuted: tokens are permuted into the order of the kernel's tiles before it and back after it.
    head_edit: a kernel of its own scales, masks or shifts the heads' results.
    """

    realised: str = "fused"
    materialised: bool = False
    rate: Quantity = 1.0
    permuted: bool = False
    head_edit: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class HeadRoute:
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
        """Return (shared + top_k) / (shared + routed); where heads choose, top_k = tokens*routed."""
        active = self.top_k if self.tokens is None else self.tokens * self.routed
        assert active is not None, "the file's own check"
        return (self.shared + active) / (self.shared + self.routed)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Multi-head attention with `kv_heads` key-value heads (MHA, GQA and MQA).

    rotary_dim: rotated elements of a query or key head (null: all).
    alibi: slopes on the scores replace positions; no parameters, part of the kernel.
    bias: of the query, key and value projections; output_bias: of the output projection (null: as `bias`).
    qk_norm: queries and keys are normalised after their projection, per head with one shared vector (`head`), or over
        the whole projection (`projection`).
    kernel: how it is computed; route: which heads work for a token (null: all).
    partial: channels that enter the projections; the others join before the output's (SHViT; null: all enter).
    keeps: keys and values are cached (null: if causal; a model that sees later tokens cannot continue token by token).
    """

    q_heads: Count
    kv_heads: Count
    head_dim: Count
    v_head_dim: Count
    _: KW_ONLY
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

    @property
    def has_kv_cache(self) -> bool:
        """Tell whether inference caches keys and values."""
        return self.causal if self.keeps is None else self.keeps

    @property
    def kv_share(self) -> Quantity:
        """Return the share of keys and values that exist: all, unless heads choose their tokens."""
        chooses = self.route is not None and self.route.tokens is not None
        return self.active_share if chooses else 1.0  # of masked heads all

    def cached_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the device caches (mean of the heads)."""
        total: Quantity = 0.0
        for group in self.head_groups:
            total = total + group.share * group.pattern.cached_tokens(tokens)
        return total

    def host_tokens(self, tokens: Count) -> Count:
        """Return the tokens, of a sequence of `tokens`, whose keys and values the host caches (mean of the heads)."""
        total: Quantity = 0.0
        for group in self.head_groups:
            total = total + group.share * group.pattern.host_tokens(tokens)
        return total

    @property
    def active_share(self) -> Quantity:
        """Return the share of the query heads that are computed: all, unless routing skips the others."""
        skips = self.route is not None and self.kernel.realised != "masked"
        return self.route.active_share if self.route is not None and skips else 1.0

    @property
    def head_parts(self) -> tuple[tuple[Quantity, Quantity], ...]:
        """Return (share of the query heads, share of a sequence that they attend among) of the computed heads."""
        route = self.route
        if route is None or route.tokens is None or self.kernel.realised == "masked":
            return ((self.active_share, 1.0),)
        routed = route.routed / (route.shared + route.routed)
        choosing = (routed, route.tokens)
        return (choosing,) if is_single(route.shared) and route.shared == 0 else ((1.0 - routed, 1.0), choosing)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mla:
    """Multi-head latent attention: keys and values are cached as one latent of `kv_lora + rope_dim` per token.

    q_lora is null where queries have no low-rank projection (DeepSeek-V2-Lite).
    """

    heads: Count
    q_lora: Count | None
    kv_lora: Count
    nope_dim: Count
    rope_dim: Count
    v_head_dim: Count
    causal: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Memories:
    """Several states of a recurrence. A token visits `top_k` of `number`, and `shared` ones always [MoM].

    Each has key and value projections of its own.
    """

    number: Count
    top_k: Count
    shared: Count = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    """Causal linear attention: every head carries a state of key_dim x value_dim; no key is cached.

    chunk: tokens that are computed at once, by GEMMs.
    decay: `none`, `scalar` (one number per head), `gated` (per head and token) or `delta` (gated; each key's old value
        is subtracted).
    memories: null for one state per head.
    short_conv: taps of a convolution on queries, keys and values (0: none).
    output_gate: a d x H*v gate on the result.
    chunk_cycles: cycles in which a thread block of the kernel steps from one chunk to the next.
    blocks: thread blocks that one processor runs concurrently.
    columns: of a state's values that one thread block carries (null: all).
    """

    heads: Count
    key_dim: Count
    value_dim: Count
    chunk: Count
    _: KW_ONLY
    decay: str = "none"
    memories: Memories | None = None
    short_conv: Count = 0.0
    output_gate: bool = False
    chunk_cycles: Count = 0.0
    blocks: Count = 1.0
    columns: Count | None = None

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


@dataclass(frozen=True, slots=True, eq=False)
class NeuralMemory:
    """A small MLP whose weights are the state: each chunk of tokens trains it by one step [Titans, arXiv 2501.00663].

    depth: its matrices; width: of its hidden layers over that of the residual stream.
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


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
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


@dataclass(frozen=True, slots=True, eq=False)
class Spectral:
    """A complex gate between a real 2-D Fourier transform and its inverse [GFNet; SpectFormer, arXiv 2304.06446]."""

    height: Count
    width: Count


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Element-wise weights from a distribution of the features, `passes` over memory [GAAM, arXiv 2401.11143]."""

    heads: Count
    passes: Count = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class MilPool:
    """Gated attention over a bag of instances: two layers of width `inner`, `branches` scores and sums [ACMIL]."""

    branches: Count
    inner: Count


@dataclass(frozen=True, slots=True, eq=False)
class NoFfn:
    """No feed-forward part: the layer is a mixer alone, such as a memory before attention."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseFfn:
    """Two matrices around an activation, or three with a gate (`gated`: SwiGLU and kin)."""

    intermediate: Count
    gated: bool
    bias: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MoeFfn:
    """Routed experts, each an FFN, of which a token visits `top_k`, plus `shared` experts that it always visits.

    shared_intermediate: width of one shared expert (null: as a routed one).
    groups, group_top_k: equal groups of experts, and how many a token may use: node-limited routing (null: free).
    gated, bias: as of a dense FFN; router_bias: one number per expert.
    shared_gate: one more output in the router's format weighs the shared experts.
    masked: share of the routed experts that are off and get no tokens (MoTE).
    router_extra: `token_similarity` (S^2*d: scores are smoothed by the similarity of tokens) or `attention_matrix`
        (S^2*E: by the layer's attention); null: neither.
    """

    experts: Count
    intermediate: Count
    top_k: int
    shared: Count = 0.0
    shared_intermediate: Count | None = None
    groups: Count | None = None
    group_top_k: int | None = None
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    masked: Quantity = 0.0
    router_extra: str | None = None


Mixer: TypeAlias = "Attention | Mla | Recurrence | NeuralMemory | Convolution | Spectral | Gate | MilPool"
Ffn: TypeAlias = "DenseFfn | MoeFfn | NoFfn"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """`repeat` equal layers in a row.

    norm: `rms` (a scale), `layer` (scale and bias) or `layer_no_bias` (a scale).
    norm_position: `before` mixer and FFN, `after` them (before the residual add), or `both`.
    block: `sequential`, or `parallel`: mixer and FFN read the same input; shared_norm: through one norm.
    width: of the residual stream here (null: the model's).
    scale: tokens here per token of the input, for stages that shrink a grid.
    plain: no residual sum; the mixer's norm is folded into it, and an activation follows.
    """

    repeat: int
    mixer: Mixer
    ffn: Ffn
    _: KW_ONLY
    norm: str = "rms"
    dropout: bool = False
    norm_position: str = "before"
    block: str = "sequential"
    shared_norm: bool = False
    width: Count | None = None
    scale: Quantity = 1.0
    plain: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mtp:
    """Multi-token prediction: `depth` modules, each one more layer like the last plus a 2*hidden -> hidden GEMM."""

    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A transformer. `layers` are its runs of equal layers in order; a run that recurs is the same object.

    vocabulary: rows of the embedding as stored, padding included.
    positions: length of a learned position table (null: rotary or none).
    final_norm: the norm before the head (`none`: none; null: as of the last layer).
    embedding_norm: a norm on the embedding's output (null: none).
    features: inputs are vectors instead of rows of a table, such as image patches; the head sees the last layer's
        tokens.
    """

    name: str
    hidden: Count
    vocabulary: Count
    layers: tuple[Layer, ...]
    _: KW_ONLY
    tied_embeddings: bool = False
    positions: Count | None = None
    mtp: Mtp | None = None
    head_bias: bool = False
    final_norm: str | None = None
    embedding_norm: str | None = None
    features: bool = False

    @property
    def depth(self) -> int:
        """Return the number of layers, MTP modules not counted."""
        return sum(layer.repeat for layer in self.layers)

    @property
    def kinds(self) -> dict[Layer, int]:
        """Return the distinct runs, in order of first occurrence, and how many layers each has in all."""
        counts: dict[Layer, int] = {}
        for layer in self.layers:
            counts[layer] = counts.get(layer, 0) + layer.repeat
        return counts
