"""What is asked: a model on a cluster in one phase, and how the work is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import numpy as np

from costmodel.hardware import Cluster
from costmodel.quantities import Bytes, Count, Quantity, Seconds, is_single, where
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import ELEMENT_BYTES, grouped_bytes
from costmodel.workload.operators import WEIGHT_ONLY
from costmodel.workload.simulation import PLAIN, Simulation

UNFUSED = "unfused"  # the implementation of attention whose scores go through device memory
MASKED = "masked-softmax"  # the same, with scale, causal mask and softmax in one kernel


@dataclass(frozen=True, slots=True, eq=False)
class Parallelism:
    """Degrees of parallelism. Ranks are laid out tp fastest, then cp, dp, pp; ep spans tp*cp*dp ranks in that order.

    expert_tensor: tensor parallelism inside an expert; null: `tp` where `ep` is one, else one.
    sequence_parallel: activations outside the tensor-parallel region are split over tp as well. context: how the ranks
    of `cp` see each other's keys: `gather`, `ring` or `ulysses`; decoding splits the cache over them, whichever it is.
    """

    tp: Count = 1.0
    pp: Count = 1.0
    dp: Count = 1.0
    ep: Count = 1.0
    cp: Count = 1.0
    virtual: Count = 1.0
    expert_tensor: Count | None = None
    sequence_parallel: bool = False
    context: str = "gather"

    @property
    def tensor_of_expert(self) -> Count:
        """Return the tensor parallelism inside an expert: as stated, else tp without expert parallelism, else one."""
        return where(self.ep == 1, self.tp, 1.0) if self.expert_tensor is None else self.expert_tensor

    @property
    def devices(self) -> Count:
        """Return how many devices the layout takes: tp * cp * dp * pp."""
        return self.tp * self.cp * self.dp * self.pp


@dataclass(frozen=True, slots=True, eq=False)
class Precision:
    """The number format of each operator family and of each kind of stored tensor.

    activations: what the backward pass keeps of a matrix product's input; attention_output: of the core's output, which
    is the next product's input too (null: as `activations`); scale_block: elements that share one FP32 scale in an FP8
    activation, null: one scale a tensor. weights, head_weights: as linear layers and the head store them (null: as
    `head`); narrower than the products, they are expanded inside the kernel. weight_group: weights along K that share a
    scale and a zero point (null: of `scale_block` squared, or none; zero point null: symmetric); weight_bits: bits of a
    stored weight on average, scales and all, where a mixture of formats makes them (null: by the format).
    kv_group: the same of cached elements of one token and head (null: one scale a tensor). branches: what mixers and
    FFNs pass on between a norm and the sum behind them, as under autocast (null: as `residual`).
    """

    linear: str  # projections and FFN matrix products
    attention: str
    router: str
    head: str
    residual: str
    weights: str
    master: str | None
    gradients: str
    moments: str
    kv_cache: str
    activations: str
    attention_output: str | None = None
    scale_block: Count | None = None
    head_weights: str | None = None
    weight_group: Count | None = None
    weight_scale: str = "fp16"
    weight_zero: str | None = None
    weight_bits: Quantity | None = None
    kv_group: Count | None = None
    kv_scale: str = "fp16"
    kv_zero: str | None = None
    branches: str | None = None

    @property
    def weight_only(self) -> bool:
        """Tell whether linear layers multiply in a wider format than the one their weights are stored in."""
        return ELEMENT_BYTES[self.weights] < ELEMENT_BYTES[self.linear]

    @property
    def cached_element(self) -> Bytes:
        """Return the bytes of one cached key or value element, its share of scale and zero point included."""
        return grouped_bytes(self.kv_cache, self.kv_group, self.kv_scale, self.kv_zero)


@dataclass(frozen=True, slots=True, eq=False)
class Communication:
    """How ranks talk: processors that communication kernels take from compute, and what all-to-alls carry.

    mode: `normal` (deduplicated per node, forwarded over the intra-node link) or `low_latency` (one copy per expert).
    expert_load: tokens of the fullest rank over the mean, whatever the routing; null: as the routing has it.
    split_attention: micro-batches take turns within the attention of a layer too, before its core, the second one turn
    behind the first. codec: how much longer exchanges in a logarithmic format take where their kernels encode and
    decode it. in_network: switches copy what is dispatched and add up what is combined, and both run at once.
    """

    processors: Count = 0.0
    dispatch: str = "bf16"
    combine: str = "bf16"
    mode: str = "normal"
    expert_load: Count | None = None
    split_attention: bool = False
    codec: Quantity = 0.0
    in_network: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """How tokens spread over experts, and where these stand.

    load: `balanced` (all ranks alike), `uniform` (experts equally likely), `zipf` (popularity r^-exponent) or `counts`
    (tokens of each expert as counted); redundant: replicas beside the experts; placement: `sequential` or `balanced`,
    null: balanced where there are replicas; capacity: room of an expert over its mean share, null: nothing is dropped.
    """

    load: str = "balanced"
    exponent: Count = 0.0
    counts: tuple[float, ...] | None = None
    redundant: Count = 0.0
    placement: str | None = None
    capacity: Quantity | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Offload:
    """Shares, 0 to 1, of what is kept in the host's memory in place of the device's.

    optimizer: states, which the host then updates itself; weights: those that layers compute with; activations: what
    the backward pass waits for; kv_cache: keys and values, which decoding copies to the device in every pass. overlap:
    transfers run beside computation; without, computation waits for each. experts: `device`, or `host`, whose
    processors then compute the routed experts from its memory.
    """

    optimizer: Quantity = 0.0
    weights: Quantity = 0.0
    activations: Quantity = 0.0
    overlap: bool = True
    kv_cache: Quantity = 0.0
    experts: str = "device"

    @property
    def hosts_experts(self) -> bool:
        """Tell whether the host computes the routed experts."""
        return self.experts == "host"

    @property
    def is_used(self) -> bool:
        """Tell whether the host keeps anything, at any point of a grid."""
        shares = (self.optimizer, self.weights, self.activations, self.kv_cache)
        return self.hosts_experts or any(not (is_single(share) and share == 0) for share in shares)


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A kernel's output tile `m` x `n`, and over how many blocks its K loop is split."""

    m: int
    n: int
    split: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class HostTimes:
    """What the host's program adds to a step [s].

    step: to each; of an inference engine also sequence: for each sequence of a rank; layer: for each layer, `parallel`
    more where tensor parallelism splits it, `experts` more where it has experts, `group` more for each group of heads
    beyond the first. operator: to start one kernel or message of a training pass, which takes at least as long as all
    of its starts.
    """

    step: Seconds = 0.0
    sequence: Seconds = 0.0
    layer: Seconds = 0.0
    parallel: Seconds = 0.0
    experts: Seconds = 0.0
    operator: Seconds = 0.0
    group: Seconds = 0.0

    @property
    def is_none(self) -> bool:
        """Tell whether it adds nothing to an inference step at any point."""
        parts = (self.step, self.sequence, self.layer, self.parallel, self.experts, self.group)
        return not any(np.any(np.asarray(part)) for part in parts)


@dataclass(frozen=True, slots=True, eq=False)
class Framework:
    """What belongs to kernels and hosts rather than to devices.

    gemm_tiles, attention_tiles: candidates of which the fastest is taken; weight_only_tiles: those of products that
    expand narrow weights, none: as of the others; promotion_interval: elements of K between two promotions of an FP8
    accumulator; launch: time of an empty kernel on a stream [s]; reserve: device memory that the context and libraries
    keep [B]; implementations: operator family or `family/variant` -> kernel libraries, of which the first that the
    device has is meant; contention: how much longer kernels take while expert exchanges that hold processors run;
    eager: element-wise operators are kernels of their own, not fused with their neighbours; interference: how much
    longer kernels take while data-parallel ranks gather or reduce beside them; tensor_overlap: which tensor-parallel
    messages run beside products: `none`, those of input `gradients`, `all`; host: what the host's program adds to a
    step; kv_layout: `static` or `paged` caches have room for what comes, a `concat` one is copied as a whole in every
    decoding step.
    """

    name: str
    gemm_tiles: tuple[Tile, ...]
    attention_tiles: tuple[Tile, ...]
    promotion_interval: Count
    launch: Seconds
    reserve: Bytes
    implementations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight_only_tiles: tuple[Tile, ...] = ()
    contention: Quantity = 1.0
    eager: bool = False
    interference: Quantity = 1.0
    tensor_overlap: str = "none"
    host: HostTimes = HostTimes()
    kv_layout: str = "static"

    def slowing(self, processors: Count) -> Quantity:
        """Return how much longer kernels take while exchanges run that hold some processors; without any, no longer."""
        return where(processors > 0, self.contention, 1.0)

    @property
    def unfused(self) -> bool:
        """Tell whether attention writes its scores to memory: a product, a softmax and a product."""
        return self.implementations.get("attention_prefill") in ((UNFUSED,), (MASKED,))

    @property
    def masks_softmax(self) -> bool:
        """Tell whether scale, mask and softmax of scores in memory are one kernel."""
        return self.implementations.get("attention_prefill") == (MASKED,)

    def tiles_of(self, product: str) -> tuple[Tile, ...]:
        """Return the candidate tiles of a family of products."""
        return self.weight_only_tiles or self.gemm_tiles if product in WEIGHT_ONLY else self.gemm_tiles


@dataclass(frozen=True, slots=True)
class Placement:
    """The pipeline stages of embedding, head and MTP modules; negative ones count from the last, as in Python."""

    embedding: int = 0
    head: int = -1
    mtp: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Sharding:
    """How ranks that hold the same parameters reduce gradients and gather weights. Null: as the ZeRO stage implies.

    overlap: layer by layer, beside computation (null: in stage 3 only); reduce: gradients after every `micro_batch` or
    once a `step` (null: every micro-batch from stage 2 on, where no rank has room for all of them); keep_gathered:
    weights of stage 3 stay from the forward to the backward pass; group: ranks that share one copy of the states, which
    others repeat (null: all of them); gradients: the format that gradients travel in (null: the one they are kept in).
    """

    overlap: bool | None = None
    reduce: str | None = None
    keep_gathered: bool = False
    group: Count | None = None
    gradients: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A training step. global_batch: sequences a step; recompute: operators whose forward the backward pass repeats.

    stages: layers of each pipeline stage in order (all stages, virtual ones included), null: as even as possible with
    the shorter stages last. zero: ZeRO stage; sharding: its options."""

    phase: ClassVar[str] = "training"
    schedule: str
    global_batch: Count
    sequence: Count
    micro_batch: Count
    recompute: frozenset[str]
    zero: int = 1
    stages: tuple[int, ...] | None = None
    placement: Placement = Placement()
    sharding: Sharding = Sharding()

    @property
    def overlaps(self) -> bool:
        """Tell whether gathers and reductions run beside computation."""
        return self.zero == 3 if self.sharding.overlap is None else self.sharding.overlap

    @property
    def reduces_often(self) -> bool:
        """Tell whether gradients are reduced after every micro-batch rather than once a step."""
        return self.zero >= 2 if self.sharding.reduce is None else self.sharding.reduce == "micro_batch"

    @property
    def splits_gradients(self) -> bool:
        """Tell whether a rank keeps its share of the gradients only: from stage 2 on, if it reduces them at once."""
        return self.zero >= 2 and self.reduces_often

    @property
    def gathers_for_backward(self) -> bool:
        """Tell whether a backward pass has to gather the weights again."""
        return self.zero == 3 and not self.sharding.keep_gathered


@dataclass(frozen=True, slots=True, eq=False)
class Speculative:
    """Tokens that MTP modules draft and that one pass of the model verifies.

    depth: drafted a step; acceptance: chance that a drafted token is kept, those before it having been kept.
    """

    depth: Count
    acceptance: Quantity

    @property
    def tokens_per_step(self) -> Count:
        """Return the expected tokens of a request in a step: those kept, and the one that the pass itself adds.

        1 + a + ... + a^depth = (1 - a^(depth + 1)) / (1 - a)      [Leviathan et al., arXiv 2211.17192, equation 1]
        """
        total: Quantity = 1.0
        kept: Quantity = 1.0
        for drafted in range(1, int(np.max(self.depth)) + 1):
            kept = kept * self.acceptance
            total = total + where(self.depth >= drafted, kept, 0.0)
        return total


def tokens_per_step(speculative: Speculative | None) -> Count:
    """Return the expected tokens of a request in a step: one where nothing is drafted."""
    return 1.0 if speculative is None else speculative.tokens_per_step


def drafted_tokens(speculative: Speculative | None) -> Count:
    """Return the tokens that are drafted for a request in a step."""
    return 0.0 if speculative is None else speculative.depth


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """Prompts of `input_tokens` until `tokens_per_device` are in flight, in `micro_batches` that overlap.

    tokens_per_device: over all devices of a tp*cp group there are whole prompts; prefix_hit_rate: share of a prompt
    that a cache holds: it is read and not computed; denoising: the passes repeat over a sequence, null: one pass.
    """

    phase: ClassVar[str] = "prefill"
    input_tokens: Count
    tokens_per_device: Count
    micro_batches: int = 1
    prefix_hit_rate: Quantity = 0.0
    speculative: Speculative | None = None
    denoising: Denoising | None = None

    @property
    def steps(self) -> Count:
        """Return the passes over each sequence."""
        return 1.0 if self.denoising is None else self.denoising.steps

    @property
    def copies(self) -> Count:
        """Return the sequences of a pass for each prompt: one a branch."""
        return 1.0 if self.denoising is None else self.denoising.branches

    @property
    def skipped(self) -> Quantity:
        """Return the share of a sequence that a pass reads and does not compute: in a cache, or not denoised."""
        active = 1.0 if self.denoising is None else self.denoising.active
        return 1.0 - active * (1.0 - self.prefix_hit_rate)


@dataclass(frozen=True, slots=True, eq=False)
class Denoising:
    """Diffusion: `steps` passes over `branches` copies of a sequence (guided and not), computing a share `active`."""

    steps: Count
    branches: Count = 1.0
    active: Quantity = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """One step for each of `batch_per_device` requests, in `micro_batches` that overlap.

    batch_per_device: over all devices of a tp*cp group there are whole requests, on each pipeline stage as many.
    """

    phase: ClassVar[str] = "decode"
    batch_per_device: Count
    input_tokens: Count
    output_tokens: Count
    micro_batches: int = 1
    speculative: Speculative | None = None

    @property
    def mean_keys(self) -> Count:
        """Return the mean context over a request's life: input_tokens + output_tokens / 2."""
        return self.input_tokens + self.output_tokens / 2


@dataclass(frozen=True, slots=True, eq=False)
class Generate:
    """A static batch: `batch` prompts of `input_tokens` at once, then `output_tokens` for each of them.

    batch: requests of the whole scenario, all data-parallel replicas together; pipeline_batches: parts of a replica's
    batch that follow one another through the pipeline, null: one a stage, or fewer where there are fewer sequences.
    """

    phase: ClassVar[str] = "generate"
    batch: Count
    input_tokens: Count
    output_tokens: Count
    micro_batches: int = 1
    pipeline_batches: Count | None = None
    speculative: Speculative | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """Continuous batching in steady state: a request that ends is replaced at once by the next one.

    concurrency: requests in flight in one data-parallel replica (a tp*cp*pp group), being prefilled or decoded;
    prefix_hit_rate: share of a prompt that a cache holds; chunk_tokens: prompt tokens that a step carries beside its
    decoding requests, null: prompts are prefilled in steps of their own.
    """

    phase: ClassVar[str] = "serving"
    input_tokens: Count
    output_tokens: Count
    concurrency: Count
    prefix_hit_rate: Quantity = 0.0
    chunk_tokens: Count | None = None
    micro_batches: int = 1
    speculative: Speculative | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Devices that do one part of serving only: how they are laid out, how they talk, and what each of them does."""

    parallel: Parallelism
    communication: Communication
    plan: Prefill | Decode


@dataclass(frozen=True, slots=True, eq=False)
class Disaggregated:
    """Serving from two pools: one prefills, sends the KV cache over the network, and the other decodes."""

    phase: ClassVar[str] = "serving"
    input_tokens: Count
    output_tokens: Count
    prefill: Pool
    decode: Pool


@dataclass(frozen=True, slots=True, eq=False)
class ExpertBound:
    """The closed-form bound of expert-parallel decoding: two micro-batches, `sends` copies of each token both ways.

    hidden: width a token is sent with (the paper rounds 7168 to 7000).
    """

    phase: ClassVar[str] = "ep_bound"
    tokens_per_device: Count
    sends: Count
    hidden: Count


Plan: TypeAlias = "Training | Prefill | Decode | Generate | Serving | Disaggregated | ExpertBound"


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """One question, complete: nothing below this reads a file. notes: what was replaced on the way, for people."""

    name: str
    plan: Plan
    architecture: Architecture
    cluster: Cluster
    parallel: Parallelism
    precision: Precision
    communication: Communication
    framework: Framework
    offload: Offload = Offload()
    notes: tuple[str, ...] = ()
    routing: Routing = Routing()
    simulation: Simulation = PLAIN

    @property
    def devices(self) -> Count:
        """Return how many devices the layout takes; of serving from two pools, both."""
        if isinstance(self.plan, Disaggregated):
            return self.plan.prefill.parallel.devices + self.plan.decode.parallel.devices
        return self.parallel.devices

    @property
    def answers(self) -> str:
        """Return the name of the set of metrics that answer the scenario: its phase, or `disaggregated`."""
        return "disaggregated" if isinstance(self.plan, Disaggregated) else self.plan.phase

    def of_pool(self, pool: Pool) -> Scenario:
        """Return the part of the scenario that one pool runs."""
        return replace(self, plan=pool.plan, parallel=pool.parallel, communication=pool.communication)
