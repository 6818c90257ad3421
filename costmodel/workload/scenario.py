"""A scenario: a model on a cluster in one phase, and how the work is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np

from costmodel.declared import (
    Bits,
    DType,
    Exponent,
    Integer,
    LinearType,
    LoadFactor,
    Nullable,
    Number,
    NumberOrZero,
    Ratio,
    RatioOrZero,
    ShareOrZero,
    SizeOrZero,
    StoredType,
    Time,
    Whole,
)
from costmodel.errors import Location
from costmodel.hardware import Cluster
from costmodel.quantities import Bytes, Count, Quantity, anywhere, minimum, sum_of, where
from costmodel.records import Record, field, replace
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import ELEMENT_BYTES, GroupScaling
from costmodel.workload.engine import Engine
from costmodel.workload.framework_parts import (
    NOTHING_TUNED,
    EagerPrompts,
    HostTimes,
    TrainingProgram,
    TunedTiles,
    Unsupported,
)
from costmodel.workload.operators import WEIGHT_ONLY
from costmodel.workload.plans import (
    Decode,
    Diffusion,
    ExpertBound,
    Generate,
    PlanOfParts,
    Prefill,
    Serving,
    Training,
    drafted_tokens,
)
from costmodel.workload.simulation import Simulation
from costmodel.workload.site_scatter import SiteScatter

UNFUSED = "unfused"  # attention with its scores in device memory
MASKED = "masked-softmax"  # unfused, but scale, causal mask and softmax are one kernel

Payload: TypeAlias = Literal[DType, "logfmt8", "logfmt10"]


class Parallelism(Record, kw_only=True):
    """Degrees of parallelism. Rank order is tp fastest, then cp, dp, pp; ep spans tp*cp*dp ranks in that order.

    virtual: stages per pipeline rank.
    slices_experts: it is `tp` wherever none is stated.
    """

    tp: Annotated[Number, "tensor parallel"] = 1.0
    pp: Annotated[Number, "pipeline parallel"] = 1.0
    dp: Annotated[Number, "data parallel"] = 1.0
    ep: Annotated[Number, "expert parallel; spans tp * cp * dp ranks"] = 1.0
    cp: Annotated[Number, "context parallel"] = 1.0
    virtual: Count = 1.0
    expert_tensor: Annotated[
        Number | None, "tp inside an expert; null: tp if ep is 1 or the framework slices experts in training, else 1"
    ] = None
    slices_experts: bool = False
    expert_pool: Annotated[
        Number | None,
        "devices of their own for routed experts, which tokens reach and leave in every layer (decode and "
        "serving); null: the ep ranks have them",
    ] = None
    sequence_parallel: Annotated[bool, "also split activations outside tp regions over tp"] = False
    context: Annotated[
        Literal["gather", "ring", "ulysses"],
        "how cp ranks exchange keys: all-gather, block by block around a ring, or redistribution of heads",
    ] = "gather"

    @property
    def etp(self) -> Count:
        """Return the tensor parallelism inside an expert."""
        if self.expert_tensor is not None:
            return self.expert_tensor
        return self.tp if self.slices_experts else where(self.ep == 1, self.tp, 1.0)

    @property
    def devices(self) -> Count:
        """Return the devices that hold layers: tp * cp * dp * pp."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def all_devices(self) -> Count:
        """Return the devices of the layout, those that hold experts only included."""
        return self.devices if self.expert_pool is None else self.devices + self.expert_pool

    @property
    def pool_share(self) -> Quantity:
        """Return the share of the devices that hold experts only."""
        return 0.0 if self.expert_pool is None else self.expert_pool / self.all_devices

    @property
    def lockstep(self) -> Count:
        """Return how many engines step together: the data-parallel groups that share experts."""
        return self.dp if self.expert_pool is not None else where(self.ep * self.etp > self.tp * self.cp, self.dp, 1.0)


class PartFormats(Record, kw_only=True):
    """The formats of one part's linear layers, where a checkpoint has others there. Fields as of `Precision`."""

    linear: Annotated[LinearType, "its GEMMs"]
    weights: Annotated[StoredType, "its stored weights; if narrower than `linear`, GEMMs expand them"]
    scale_block: Annotated[Number | None, "elements per FP32 scale; null: one scale per tensor"] = None
    weight_scaling: GroupScaling = field(default_factory=GroupScaling)


_WITHIN = {"attention": {"attention_output"}}  # part of a model -> parts of it that may differ again


Blocks: TypeAlias = Annotated[int, Whole(0, single=True)]


class Precision(Record, kw_only=True):
    """The number format of each operator family and of each kind of stored tensor.

    weight_scaling: scales of stored weights (without a group: one per `scale_block` squared, or none).
    kv_scaling: scales of cached elements of one token and head.
    parts: formats of the linear layers of `attention`, of its output projection (`attention_output`), the dense `ffn`,
        `experts` and `shared_experts`, where they differ; of_part: these are those of one part, whose weights are
        stored in formats of their own.
    """

    linear: Annotated[LinearType, "GEMMs of projections and FFNs"]
    attention: Annotated[DType, "scores and their product with the values"]
    router: Annotated[DType, "expert router"]
    head: Annotated[DType, "LM head"]
    residual: Annotated[DType, "residual stream, norms and embedding output"]
    weights: Annotated[StoredType, "stored linear weights; if narrower than `linear`, GEMMs expand them"]
    master: Annotated[DType | None, "master weights of the optimizer; null: none"]
    gradients: Annotated[DType, "accumulated gradients"]
    moments: Annotated[DType, "optimizer moments"]
    kv_cache: Annotated[StoredType, "cached keys and values"]
    activations: Annotated[DType, "activations kept for the backward pass"]
    attention_output: Annotated[DType | None, "saved attention output; null: as `activations`"] = None
    scale_block: Annotated[Number | None, "elements per FP32 scale; null: one scale per tensor"] = None
    head_weights: Annotated[StoredType | None, "weights of the LM head; null: as `head`"] = None
    weight_scaling: GroupScaling = field(default_factory=GroupScaling)
    weight_bits: Annotated[Bits | None, "average bits per weight with scales; null: by the format"] = None
    kv_scaling: GroupScaling = field(default_factory=GroupScaling)
    branches: Annotated[
        DType | None, "activations between norm and residual add, as under autocast; null: as `residual`"
    ] = None
    wide_first: Annotated[Blocks, "of training: first layers whose linear layers stay in the format of `residual`"] = 0
    wide_last: Annotated[Blocks, "of training: last layers of which the same holds"] = 0
    parts: Mapping[str, PartFormats] = field(default_factory=dict)
    of_part: bool = False

    def part(self, name: str) -> Precision:
        """Return the formats of one part of the model."""
        own = self.parts.get(name)
        if own is None:
            return self
        return replace(
            self, linear=own.linear, weights=own.weights, scale_block=own.scale_block,
            weight_scaling=own.weight_scaling, weight_bits=None, of_part=True,
            parts={inner: self.parts[inner] for inner in self.parts.keys() & _WITHIN.get(name, set())},
        )  # fmt: skip

    @property
    def weight_only(self) -> bool:
        """Tell whether linear layers store weights in a narrower format than their GEMMs use."""
        return ELEMENT_BYTES[self.weights] < ELEMENT_BYTES[self.linear]

    @property
    def kv_element(self) -> Bytes:
        """Return the bytes of one cached key or value element, its share of scale and zero point included."""
        return self.kv_scaling.element_bytes(self.kv_cache)


class Communication(Record):
    """How ranks communicate.

    exchange: of tokens and experts' results in inference, `all_to_all` or `gather`.
    """

    processors: Annotated[NumberOrZero, "SMs reserved for communication"] = 0.0
    dispatch: Annotated[Payload, "format of dispatched tokens; needs no math unit"] = "bf16"
    combine: Annotated[Payload, "format of combined tokens; needs no math unit"] = "bf16"
    mode: Annotated[Literal["normal", "low_latency"], "one copy per node, or one per expert"] = "normal"
    expert_load: Annotated[
        LoadFactor | None,
        "load of the busiest expert rank relative to the mean; overrides `routing`; null: from `routing`",
    ] = None
    split_attention: Annotated[
        bool, "in inference, micro-batches also alternate inside attention, before its kernel"
    ] = False
    codec: Annotated[
        RatioOrZero, "extra time of logfmt8/logfmt10 all-to-alls when their kernels encode and decode; 0: hardware does"
    ] = 0.0
    in_network: Annotated[bool, "in-network multicast (dispatch) and reduction (combine), running concurrently"] = False
    exchange: str = "all_to_all"
    multicast: Annotated[bool, "switches copy what is dispatched; without `reduction` receivers bind as before"] = False
    reduction: Annotated[bool, "switches add up what is combined; without `multicast` senders bind as before"] = False
    fences: Annotated[
        NumberOrZero, "round trips that each all-to-all of experts waits to order data before its flag; 0: none"
    ] = 0.0
    checksum: Annotated[RatioOrZero, "extra time of all-to-alls of experts whose kernels check what arrives"] = 0.0
    host_link: Annotated[
        Literal["shared", "messages_first", "copies_first", "separate"],
        "in inference by events, who gives way where a device's messages to other nodes and its copies of "
        "weights or of the KV cache meet on the link to the host: both alike, the copies, the messages, or neither "
        "(each has a link of its own); the closed form shares no link",
    ] = "shared"

    @property
    def replicates_and_reduces(self) -> bool:
        """Tell whether switches do both, so that opposite directions relieve each other."""
        return self.in_network or (self.multicast and self.reduction)


class Routing(Record):
    """How tokens spread over experts, and where experts are placed.

    load: `balanced` (all ranks equal), `uniform` (experts alike), `zipf` (popularity r^-exponent), `lognormal` (its
        logarithm's deviation is `spread`) or `counts` (measured tokens of each expert).
    """

    load: str = "balanced"
    exponent: Annotated[Exponent, Nullable(), "of Zipf's law, popularity = rank^-exponent; zipf only"] = 0.0
    spread: Annotated[Exponent, Nullable(), "standard deviation of the logarithm of popularity; lognormal only"] = 0.0
    counts: tuple[float, ...] | None = None
    redundant: Annotated[NumberOrZero, "additional replicas of the most-loaded experts"] = 0.0
    placement: Annotated[
        Literal["sequential", "balanced"] | None, "experts in order or by load; null: by load if there are replicas"
    ] = None
    capacity: Annotated[
        Ratio | None, "capacity factor: tokens an expert accepts, relative to its mean share; null: no token is dropped"
    ] = None


class Offload(Record):
    """Shares, 0 to 1, that the host's memory holds instead of the device's."""

    optimizer: Annotated[ShareOrZero, "optimizer states (training), updated by the host"] = 0.0
    weights: Annotated[ShareOrZero, "weights, copied to the device for every use"] = 0.0
    activations: Annotated[ShareOrZero, "activations kept for the backward pass (training)"] = 0.0
    overlap: Annotated[bool, "transfers overlap with computation"] = True
    kv_cache: Annotated[ShareOrZero, "KV cache in host memory, copied for every pass (inference)"] = 0.0
    experts: Annotated[
        Literal["device", "host"], "host: the CPU computes the routed experts from host memory (inference)"
    ] = "device"

    @property
    def hosts_experts(self) -> bool:
        """Tell whether the host computes the routed experts."""
        return self.experts == "host"

    @property
    def is_used(self) -> bool:
        """Tell whether the host holds anything, at any point of a grid."""
        shares = (self.optimizer, self.weights, self.activations, self.kv_cache)
        return self.hosts_experts or any(anywhere(share > 0) for share in shares)


class Tile(Record):
    """A kernel's output tile `m` x `n`, and the thread blocks that share its K loop."""

    m: Annotated[Integer, "rows"]
    n: Annotated[Integer, "columns"]
    split: Annotated[Integer, "thread blocks that share the K loop of a tile (split-K)"] = 1


class Framework(Record):
    """What belongs to kernels and hosts rather than to devices.

    gemm_tiles, attention_tiles: candidates of which the fastest is taken.
    implementations: operator family or `family/variant` -> kernel libraries. The first that the device has is used.
    engine: its defaults as a serving engine.
    eager_prompts: passes with prompts that no CUDA graph holds.
    tuned_tiles: layers of experts for which it ships tiles tuned on the device.
    training: what its program does in training.
    """

    name: Annotated[str, "name in references"]
    gemm_tiles: tuple[Tile, ...]
    attention_tiles: tuple[Tile, ...]
    promotion_interval: Annotated[Number, "elements of K between promotions of an FP8 accumulator"]
    launch: Annotated[Time, "time of an empty kernel on a stream"]
    reserve: Annotated[SizeOrZero, "device memory reserved by the CUDA context and libraries"]
    implementations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight_only_tiles: Annotated[
        tuple[Tile, ...], "candidate tiles of weight-only quantised GEMMs; empty: as `gemm_tiles`"
    ] = ()
    moe_comm_slowdown: Annotated[
        LoadFactor,
        "slowdown of kernels that run concurrently with expert all-to-alls in normal mode, beside their loss of "
        "processors, or with the gathers and reductions that a training step hides once",
    ] = 1.0
    sustained_slowdown: Annotated[
        LoadFactor, "slowdown of kernels in training and denoising relative to benchmark loops"
    ] = 1.0
    host: Annotated[HostTimes, "host time per step"] = HostTimes()
    kv_layout: Annotated[
        Literal["static", "paged", "concat"], "static: preallocated; paged; concat: copied as a whole in every step"
    ] = "static"
    training: TrainingProgram = TrainingProgram()
    expert_exchange: Annotated[
        Literal["all_to_all", "gather"], "`communication.exchange` of inference where the scenario does not say"
    ] = "all_to_all"
    scores: Annotated[
        DType | None,
        "format of attention scores in memory, to and from which kernels of their own convert them for the "
        "products; null: that of the residual stream",
    ] = None
    expands_above: Annotated[
        Number | None,
        "rows of a product beyond which a kernel of its own expands narrow weights to 16 bits, for the "
        "plain product to read; null: products read them narrow at any number of rows",
    ] = None
    prompt_chunk: Annotated[
        Number | None, "prompt tokens that one pass computes at most; null: the engine's budget of a step, or all"
    ] = None
    engine: Engine | None = None
    eager_prompts: EagerPrompts = EagerPrompts()
    padded_ranks: Annotated[
        bool,
        "data-parallel ranks that share experts pad their tokens to the most that one of them has: where "
        "one has a prompt, all take as long as if each had",
    ] = False
    whole_blocks: Annotated[
        bool,
        "weights with one scale a block are split between ranks at blocks only; a layout that cuts through "
        "one is refused",
    ] = False
    fused_norms: Annotated[
        bool, "RMS norms are one kernel, where other operators of a network that denoises are each its own"
    ] = False
    unsupported: Annotated[Unsupported, "what it does not run"] = Unsupported()
    tuned_tiles: TunedTiles = NOTHING_TUNED

    def comm_slowdown(self, communication: Communication) -> Quantity:
        """Return the slowdown of kernels during exchanges of whole chunks (`normal` mode). One in low-latency mode.

        The kernels' loss of processors is priced separately. What remains is made of the exchange's traffic through
        memory and L2 and of its power, which stay when a unit other than the processors moves the same bytes.
        """
        return self.moe_comm_slowdown if communication.mode == "normal" else 1.0

    @property
    def unfused_attention(self) -> bool:
        """Tell whether attention writes its scores to memory: a GEMM, a softmax and a GEMM."""
        return self.implementations.get("attention_prefill") in ((UNFUSED,), (MASKED,))

    @property
    def fused_masked_softmax(self) -> bool:
        """Tell whether scale, mask and softmax of scores in memory are one kernel."""
        return self.implementations.get("attention_prefill") == (MASKED,)

    def tiles_of(self, family: str) -> tuple[Tile, ...]:
        """Return the candidate tiles of a GEMM family."""
        return self.weight_only_tiles or self.gemm_tiles if family in WEIGHT_ONLY else self.gemm_tiles


class Pool(Record):
    """Devices that do one phase of disaggregated serving: their layout, communication and plan."""

    parallel: Parallelism
    communication: Communication
    plan: Prefill | Decode


class Disaggregated(PlanOfParts):
    """Serving from two pools: one prefills, sends the KV cache over the network, and the other decodes."""

    phase: ClassVar[str] = "serving"
    kind: ClassVar[str] = "disaggregated"
    input_tokens: Count
    output_tokens: Count
    prefill: Pool
    decode: Pool

    @property
    def devices(self) -> Count:
        """Return the devices of an instance of each pool."""
        return self.prefill.parallel.devices + self.decode.parallel.devices


Plan: TypeAlias = (
    "Training | Prefill | Decode | Generate | Serving | Disaggregated | ExpertBound | Diffusion | PlanOfParts"
)


class Pace(Record):
    """Factors on times of inference by measured runs [-].

    prompts: on passes with prompts.
    decodes: on passes that only decode; an engine that mixes both has one for all its steps.
    first: on what is left of a served request's time to its first token.
    """

    prompts: Quantity = 1.0
    decodes: Quantity = 1.0
    first: Quantity = 1.0


class MeasuredStep(Record):
    """A measured metric: the scenario that was run, without an anchor of its own, and the value in SI.

    field, location: where the value is written.
    """

    scenario: Scenario
    metric: str
    value: float
    field: str = "anchor.value"
    location: Location | None = None


class Anchor(Record):
    """Measured runs of one class, framework and cluster. scatter: how runs of a site scatter about predictions."""

    steps: tuple[MeasuredStep, ...]
    scatter: SiteScatter


class Scenario(Record):
    """A complete scenario: nothing below this reads a file.

    notes: substitutions made on the way, for people.
    anchor: measured runs of the same framework on the same cluster, null: none.
    pace: what they make of the times of inference.
    """

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
    simulation: Simulation = field(default_factory=Simulation)
    anchor: Anchor | None = None
    pace: Pace = Pace()

    @property
    def devices(self) -> Count:
        """Return the devices of the layout, of all parts of a plan, of all replicas of an engine."""
        if isinstance(self.plan, PlanOfParts):
            return self.plan.devices
        if isinstance(self.plan, Serving):
            own: Count = self.parallel.all_devices * self.plan.replicas.count
            return own + sum(each.devices for each in self.unlike)
        return self.parallel.all_devices

    @property
    def unlike(self) -> tuple[Scenario, ...]:
        """Return the engines that share its requests though they are unlike its own, none of other plans."""
        return self.plan.replicas.others if isinstance(self.plan, Serving) else ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Return the names of the scenarios that it consists of, none of one that stands by itself."""
        return self.plan.part_names if isinstance(self.plan, PlanOfParts) else ()

    @property
    def parts(self) -> tuple[Scenario, ...]:
        """Return the scenarios that it consists of, the main one first, none of one that stands by itself."""
        return self.plan.parts if isinstance(self.plan, PlanOfParts) else ()

    @property
    def eager_prompts(self) -> EagerPrompts:
        """Return the host's times of passes with prompts, zero where CUDA graphs hold them."""
        eager, parallel = self.framework.eager_prompts, self.parallel
        if eager.only is None:
            return eager
        has = {
            "experts": self.architecture.has_experts,
            "drafts": drafted_tokens(getattr(self.plan, "speculative", None)) > 0.0,
            "data_parallel": parallel.lockstep > 1.0, "pipeline": parallel.pp > 1.0,
            "all_to_all": (parallel.ep > 1.0) & (self.communication.exchange == "all_to_all"),
            "pools": getattr(getattr(self.plan, "replicas", None), "prefill", 0.0) > 0.0,
        }  # fmt: skip
        share = minimum(sum_of(where(np.asarray(has[each]), 1.0, 0.0) for each in eager.only), 1.0)
        return replace(eager, layer=share * eager.layer, operator=share * eager.operator)

    @property
    def alone(self) -> Scenario:
        """Return it without the engines that are unlike its own."""
        if not isinstance(self.plan, Serving) or not self.plan.replicas.others:
            return self
        return replace(self, plan=replace(self.plan, replicas=replace(self.plan.replicas, others=(), weights=())))

    @property
    def result_kind(self) -> str:
        """Return the name of the scenario's set of metrics: its phase, or the kind of a plan of several parts."""
        return self.plan.kind if isinstance(self.plan, PlanOfParts) else self.plan.phase

    def of_pool(self, pool: Pool) -> Scenario:
        """Return the part of the scenario that one pool runs."""
        eager = self.framework.eager_prompts
        own = self.framework
        if "pools" in (eager.only or ()):
            own = replace(own, eager_prompts=replace(eager, only=None))
        return replace(self, plan=pool.plan, parallel=pool.parallel, communication=pool.communication, framework=own)
