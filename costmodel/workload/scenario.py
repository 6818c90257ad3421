"""What is asked: a model on a cluster in one phase, and how the work is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import numpy as np

from costmodel.hardware import Cluster
from costmodel.quantities import Bytes, Count, Quantity, Seconds, where
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import ELEMENT_BYTES, grouped_bytes
from costmodel.workload.operators import WEIGHT_ONLY
from costmodel.workload.plans import Decode, ExpertBound, Generate, Prefill, Serving, Training
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
    def etp(self) -> Count:
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
    def kv_element(self) -> Bytes:
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
        return self.hosts_experts or any(bool(np.any(np.asarray(share) > 0)) for share in shares)


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

    gemm_tiles, attention_tiles: candidates of which the fastest is taken.
    weight_only_tiles: those of GEMMs that expand narrow weights; empty: as of the others.
    promotion_interval: elements of K between two promotions of an FP8 accumulator.
    launch: time of an empty kernel on a stream [s].
    reserve: device memory that the context and libraries keep [B].
    implementations: operator family or `family/variant` -> kernel libraries; the first that the device has is used.
    moe_comm_slowdown: slowdown of kernels while an expert all-to-all that occupies processors runs beside them.
    dp_comm_slowdown: slowdown of kernels while data-parallel ranks gather or reduce beside them.
    sustained_slowdown: slowdown of kernels in a training step over the benchmark loops that measured them.
    unfused_elementwise: element-wise operators run as separate kernels.
    tensor_overlap: tensor-parallel messages that overlap GEMMs: `none`, those of input `gradients`, or `all`.
    accumulation: what adds a micro-batch's gradients to the earlier ones: the `product`, or a separate kernel, into a
        `buffer` always, by `autograd` for all but the first.
    reduction: ZeRO stages 1 and 2 `scatter` gradients or `all_reduce` them.
    host: what the host's program adds to a step.
    kv_layout: `static` and `paged` caches have room for what comes; a `concat` cache is copied whole in every step.
    """

    name: str
    gemm_tiles: tuple[Tile, ...]
    attention_tiles: tuple[Tile, ...]
    promotion_interval: Count
    launch: Seconds
    reserve: Bytes
    implementations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight_only_tiles: tuple[Tile, ...] = ()
    moe_comm_slowdown: Quantity = 1.0
    unfused_elementwise: bool = False
    dp_comm_slowdown: Quantity = 1.0
    tensor_overlap: str = "none"
    sustained_slowdown: Quantity = 1.0
    accumulation: str = "product"
    reduction: str = "scatter"
    host: HostTimes = HostTimes()
    kv_layout: str = "static"

    def comm_slowdown(self, processors: Count) -> Quantity:
        """Return how much longer kernels take while exchanges run that hold some processors; without any, no longer."""
        return where(processors > 0, self.moe_comm_slowdown, 1.0)

    @property
    def unfused_attention(self) -> bool:
        """Tell whether attention writes its scores to memory: a product, a softmax and a product."""
        return self.implementations.get("attention_prefill") in ((UNFUSED,), (MASKED,))

    @property
    def fused_masked_softmax(self) -> bool:
        """Tell whether scale, mask and softmax of scores in memory are one kernel."""
        return self.implementations.get("attention_prefill") == (MASKED,)

    def tiles_of(self, product: str) -> tuple[Tile, ...]:
        """Return the candidate tiles of a family of products."""
        return self.weight_only_tiles or self.gemm_tiles if product in WEIGHT_ONLY else self.gemm_tiles


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
    def result_kind(self) -> str:
        """Return the name of the set of metrics that answer the scenario: its phase, or `disaggregated`."""
        return "disaggregated" if isinstance(self.plan, Disaggregated) else self.plan.phase

    def of_pool(self, pool: Pool) -> Scenario:
        """Return the part of the scenario that one pool runs."""
        return replace(self, plan=pool.plan, parallel=pool.parallel, communication=pool.communication)
