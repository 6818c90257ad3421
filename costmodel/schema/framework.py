"""The framework file (kernels and hosts) and the precision file (number formats)."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from costmodel.declared import (
    Bits,
    DType,
    Exponent,
    Integer,
    Latency,
    LinearType,
    LoadFactor,
    Moment,
    Number,
    NumberOrZero,
    PositiveNumber,
    Share,
    SizeOrZero,
    StoredType,
    Time,
    Whole,
)
from costmodel.schema.device import Source
from costmodel.schema.serving import ALIGN_STEPS, PREEMPTION, WHOLE_PROMPTS
from costmodel.schema.strict import Strict

TunedFormat: TypeAlias = Literal["bf16", "fp8", "fp8_block", "int8"]
"""Number formats of products of experts by which engines look up tuned tiles; `bf16` is any of 16 bits."""
ExpertCount: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*$")]
"""A number of experts, as the key of a mapping."""


class TileFile(Strict):
    """A kernel's output tile."""

    m: Integer = Field(description="rows")
    n: Integer = Field(description="columns")
    split: Integer = Field(default=1, description="thread blocks that share the K loop of a tile (split-K)")


class HostTimesFile(Strict):
    """Host time per step: scheduling, sampling, the code between kernels."""

    step: Latency = Field(default=0.0, description="per step")
    layer: Latency = Field(default=0.0, description="per layer of an inference engine's step")
    recurrence: Latency = Field(
        default=0.0,
        description="per layer with a recurrence in passes with prompts, whose CUDA graphs end there",
    )
    operator: Latency = Field(
        default=0.0,
        description="per kernel or message start of a training pass; their sum is a lower bound of its time",
    )


class UnevenContextsFile(Strict):
    """Decoding kernels in which one thread block reads a whole context, where the library splits no keys."""

    load_rate: PositiveNumber = Field(description="what one thread block loads, bytes a cycle")
    overlap_p: PositiveNumber = Field(
        description="p-norm of the longest context's time and that of all contexts together"
    )


class EagerPromptsFile(Strict):
    """Passes with prompts that no CUDA graph holds: the host starts their kernels one by one."""

    layer: Time = Field(default=0.0, description="host time of a layer; a pass takes no less than that of its layers")
    operator: Time = Field(default=0.0, description="host time of each kernel and message of such a pass, in addition")
    within: list[str] = Field(
        default=[], description="operators that one call starts together with another one: their names in a breakdown"
    )
    architectures: list[str] | None = Field(
        default=None, description="architectures of the devices on which it is so; null: all"
    )
    expert_dies: list[str] = Field(default=[], description="dies on which it is so for models with experts")


class SchedulerRuleFile(Strict):
    """Limits of a scheduler on some devices."""

    from_capacity: SizeOrZero = Field(default=0.0, description="least memory that the driver reports")
    except_architectures: list[str] = Field(default=[], description="architectures that the rule leaves out")
    ranks: Number = Field(default=1.0, description="least tensor-parallel ranks")
    max_num_seqs: Number = Field(description="requests that a step processes at most")
    token_budget: Number = Field(description="tokens of a step at most, prompts and decoding requests together")
    graph_limit: Number | None = Field(
        default=None, description="sequences that CUDA graphs are captured for at most; null: all of `graph_sizes`"
    )


class EngineSchedulerFile(Strict):
    """How a scheduler works, where the scenario does not say."""

    policy: Literal["fcfs", "priority", "lpm"] = Field(default="fcfs", description="order of waiting requests")
    overlapped: bool = Field(
        default=False, alias="async", description="the host prepares a step while the one before it runs"
    )
    recurrent_overlapped: bool | None = Field(
        default=None, alias="recurrent_async", description="the same for models with recurrences; null: as for others"
    )
    preemption: Literal["recompute", "swap", "none"] = Field(default="recompute", description=PREEMPTION)
    mixed: bool = Field(
        default=True, description="chunks of prompts run beside decoding requests; else in steps of their own, first"
    )
    look_steps: Number = Field(
        default=1.0,
        description="steps that only decode between two looks for requests; an idle engine sees them",
    )
    whole_prompts: bool = Field(default=False, description=WHOLE_PROMPTS)
    align_steps: NumberOrZero = Field(default=0.0, description=ALIGN_STEPS)


class ReserveFile(Strict):
    """Device memory that an engine leaves free."""

    fixed: SizeOrZero = Field(default=0.0, description="whatever the limits")
    token: SizeOrZero = Field(default=0.0, description="per token of `token_budget`")
    graph_sequence: SizeOrZero = Field(default=0.0, description="per sequence of the largest CUDA graph")
    rank: SizeOrZero = Field(default=0.0, description="per tensor- and pipeline-parallel rank")


class EngineMemoryFile(Strict):
    """What an engine takes of a device before its KV cache."""

    utilization: Share | None = Field(
        default=None, description="share of the memory named by `of`; null: all but `reserve`"
    )
    of: Literal["total", "free", "static"] = Field(
        default="total",
        description="total: what the driver reports, weights and activations come out of it; free: what these leave; "
        "static: as total, but activations come out of the rest",
    )
    block: Number = Field(default=16.0, description="tokens of a block of the KV cache")
    process: SizeOrZero = Field(default=0.0, description="outside the allocator, per process")
    rank: SizeOrZero = Field(
        default=0.0, description="outside the allocator, in addition where there are several ranks"
    )
    workspace: SizeOrZero = Field(default=0.0, description="of libraries, in the allocator")
    logit: SizeOrZero = Field(default=0.0, description="of sampling, per sequence of `max_num_seqs` and word")
    graph: SizeOrZero = Field(default=0.0, description="per CUDA graph")
    first_graph: SizeOrZero = Field(default=0.0, description="of the first CUDA graph, in addition")
    graphs_in_budget: bool = Field(default=False, description="CUDA graphs count in the share")
    reserve: ReserveFile = Field(default_factory=ReserveFile, description="what is left free")


class EngineFile(Strict):
    """A framework as a serving engine: what its flags are where the scenario does not say."""

    version: str = Field(description="version whose defaults these are")
    rules: list[SchedulerRuleFile] = Field(
        min_length=1, description="limits of the scheduler: the first that holds; the last one holds everywhere"
    )
    scheduler: EngineSchedulerFile = Field(default_factory=EngineSchedulerFile, description="how it schedules")
    memory: EngineMemoryFile = Field(default_factory=EngineMemoryFile, description="memory beside the KV cache")
    graph_sizes: list[Annotated[int, Whole(1, single=True)]] = Field(
        default=[], description="sequences that CUDA graphs are captured for; steps are padded to the next one"
    )
    prompt_graphs: bool = Field(default=False, description="CUDA graphs of steps with prompts as well")
    request: Moment = Field(
        default=0.0, description="time that client and front end add to the first token of a request"
    )
    request_token: Moment = Field(
        default=0.0, description="the same for each token of its prompt, whose text they split"
    )


class ExpertSpreadFile(Strict):
    """How unevenly trained routers choose experts."""

    spread: Exponent = Field(description="standard deviation of the logarithm of popularity")
    experts: Number = Field(description="fewest routed experts of a layer for which it holds; fewer are alike")


class TrainingDefaultsFile(Strict):
    """What a framework does in training unless it is told otherwise. A scenario that states it replaces it."""

    gradients: DType | None = Field(default=None, description="format of gradients of BF16 runs; null: the precision's")
    zero: Annotated[int, Whole(0, high=3, single=True)] | None = Field(default=None, description="ZeRO stage; null: 0")
    overlap: bool | None = Field(default=None, description="`optimizer.overlap`; null: stage 3 only")
    context: Literal["gather", "ring", "ulysses"] | None = Field(
        default=None, description="`parallel.context` of models whose keys may travel so; null: gather"
    )
    slices_experts: bool = Field(
        default=False, description="experts are split over tp as all other layers are unless `expert_tensor` is stated"
    )
    eager: Literal["none", "loss", "layers", "all"] = Field(
        default="none",
        description="what runs as PyTorch's own kernels, one an operator: loss: the cross-entropy, each part of which "
        "leaves a result in memory; layers: element-wise operators, such as residual additions, gates and gradients of "
        "biases and norms; all: both",
    )
    tensor_overlap: Literal["none", "gradients", "all"] = Field(
        default="none",
        description="tensor-parallel messages of training that overlap with GEMMs: those of input gradients with the "
        "weight gradients of the same layer, or all, in one part per rank, with the GEMM that they belong to",
    )
    accumulation: Literal["product", "buffer", "autograd"] = Field(
        default="product",
        description="how gradients of micro-batches are added up: in the GEMM itself, or in a separate kernel, into a "
        "buffer for every micro-batch, or by autograd for all but the first",
    )
    reduction: Literal["scatter", "all_reduce"] = Field(
        default="scatter", description="reduction of gradients in ZeRO stages 1 and 2: reduce-scatter or all-reduce"
    )
    weight_exchange: Literal["gather", "broadcast"] = Field(
        default="gather",
        description="updated weights in ZeRO stages 1 and 2: an all-gather, or a broadcast by each rank in turn",
    )
    expert_streams: Annotated[int, Whole(1, single=True)] | None = Field(
        default=None,
        description="streams over which the products of experts are dealt, each one of the library's; null: a grouped "
        "kernel",
    )
    options: dict[str, str] = Field(
        default={},
        description="what sets it there: gradients (in BF16), zero, overlap, selective and full (recomputation), "
        "sequence_parallel -> option",
    )


class UnsupportedFile(Strict):
    """What a framework lacks."""

    architectures: list[str] = Field(
        default=[], description="beginnings of the names of architectures that it does not run on, such as `cdna`"
    )
    formats: list[str] = Field(
        default=[], description="number formats of weights, products and the KV cache that it does not have"
    )


class FrameworkFile(Strict):
    """Kernel libraries and host software, as opposed to the device."""

    name: str = Field(description="name in references")
    description: str | None = Field(default=None, description="what it is, in one line")
    training: TrainingDefaultsFile = Field(default_factory=TrainingDefaultsFile, description="defaults in training")
    gemm_tiles: list[TileFile] = Field(min_length=1, description="candidate tiles; the fastest is used")
    weight_only_tiles: list[TileFile] = Field(
        default=[], description="candidate tiles of weight-only quantised GEMMs; empty: as `gemm_tiles`"
    )
    attention_tiles: list[TileFile] = Field(
        min_length=1, description="candidate tiles of attention kernels, queries by keys; the fastest is used"
    )
    promotion_interval: Number = Field(description="elements of K between promotions of an FP8 accumulator")
    launch: Time = Field(description="time of an empty kernel on a stream")
    reserve: SizeOrZero = Field(description="device memory reserved by the CUDA context and libraries")
    implementations: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="operator family or `family/variant` -> implementation under `calibrations/DEVICE`, or a list, of "
        "which the first available is used. `attention_prefill: unfused` materialises the scores; so does "
        "`masked-softmax`, with scale, causal mask and softmax in one kernel",
    )
    moe_comm_slowdown: LoadFactor = Field(
        default=1.0,
        description="slowdown of kernels that run concurrently with expert all-to-alls in normal mode, beside their "
        "loss of processors",
    )
    sustained_slowdown: LoadFactor = Field(
        default=1.0, description="slowdown of kernels in a training step relative to benchmark loops"
    )
    host: HostTimesFile = Field(default_factory=HostTimesFile, description="host time per step")
    kv_layout: Literal["static", "paged", "concat"] = Field(
        default="static", description="static: preallocated; paged; concat: copied as a whole in every step"
    )
    expert_exchange: Literal["all_to_all", "gather"] = Field(
        default="all_to_all", description="`communication.exchange` of inference where the scenario does not say"
    )
    low_latency_experts: list[str] = Field(
        default=[],
        description="where it gathers by default: dies of the devices on which it can have DeepEP in its place "
        "(`communication: {mode: low_latency}`), which `simulate` then says",
    )
    mxfp8_experts: list[str] = Field(
        default=[],
        description="dies of the devices on which experts that are published in MXFP4 multiply activations in MXFP8, "
        "not in 16 bits, where the scenario names no precision set",
    )
    tuned_tiles: dict[str, dict[TunedFormat, dict[ExpertCount, list[Integer]]]] = Field(
        default={},
        description="layers of experts for which it ships tiles that were tuned on the device: device -> number format "
        "of the products -> experts on a rank -> widths of their intermediate activations there",
    )
    prompt_chunk: Number | None = Field(
        default=None,
        description="prompt tokens that one pass computes at most; null: the engine's budget of a step, or all",
    )
    scores: DType | None = Field(
        default=None,
        description="format of attention scores in memory, to and from which kernels of their own convert them for the "
        "products; null: that of the residual stream",
    )
    expands_above: Number | None = Field(
        default=None,
        description="rows of a product beyond which a kernel of its own expands narrow weights to 16 bits, for the "
        "plain product to read; null: products read them narrow at any number of rows",
    )
    engine: EngineFile | None = Field(
        default=None, description="defaults as a serving engine; null: no limits, memory is full when the ledger is"
    )
    uneven_contexts: UnevenContextsFile | None = Field(
        default=None, description="decoding over contexts of unequal length; null: as long as over equal ones"
    )
    padded_ranks: bool = Field(
        default=False,
        description="data-parallel ranks that share experts pad their tokens to the most that one of them has: where "
        "one has a prompt, all take as long as if each had",
    )
    whole_blocks: bool = Field(
        default=False,
        description="weights with one scale a block are split between ranks at blocks only; a layout that cuts through "
        "one is refused",
    )
    unsupported: UnsupportedFile = Field(default_factory=UnsupportedFile, description="what it does not run")
    expert_spread: ExpertSpreadFile | None = Field(
        default=None,
        description="`routing` of an engine's steps where the scenario states no load; null: experts are alike",
    )
    eager_prompts: EagerPromptsFile | None = Field(
        default=None, description="passes with prompts that the host limits; null: none"
    )
    sources: list[Source] = Field(default=[], description="sources of the values")


class PartFormatsFile(Strict):
    """The formats of one part's linear layers."""

    linear: LinearType = Field(description="its GEMMs")
    weights: StoredType = Field(description="its stored weights; if narrower than `linear`, GEMMs expand them")
    scale_block: Number | None = Field(default=None, description="elements per FP32 scale; null: one scale per tensor")
    weight_group: Number | None = Field(default=None, description="weights along K per scale; null: as of the set")
    weight_scale: DType = Field(default="fp16", description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")


Part: TypeAlias = Literal["attention", "ffn", "experts", "shared_experts"]


class QuantizationFile(Strict):
    """The number formats in which a model's weights are published. What is null is as in `bf16`."""

    linear: LinearType | None = Field(default=None, description="GEMMs of linear layers")
    weights: StoredType | None = Field(default=None, description="stored linear weights")
    scale_block: Number | None = Field(default=None, description="elements per FP32 scale; null: one scale per tensor")
    weight_group: Number | None = Field(default=None, description="weights along K per scale; null: none")
    weight_scale: DType | None = Field(default=None, description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")
    head_weights: StoredType | None = Field(default=None, description="weights of the LM head")
    kv_cache: StoredType | None = Field(default=None, description="cached keys and values")
    parts: dict[Part, PartFormatsFile] = Field(default={}, description="parts with formats of their own")


class PrecisionFile(Strict):
    """The number format of each operator family and stored tensor."""

    name: str = Field(description="name in references")
    linear: LinearType = Field(description="GEMMs of projections and FFNs")
    attention: DType = Field(description="scores and their product with the values")
    router: DType = Field(description="expert router")
    head: DType = Field(description="LM head")
    residual: DType = Field(description="residual stream, norms and embedding output")
    weights: StoredType = Field(description="stored linear weights; if narrower than `linear`, GEMMs expand them")
    master: DType | None = Field(description="master weights of the optimizer; null: none")
    gradients: DType = Field(description="accumulated gradients")
    moments: DType = Field(description="optimizer moments")
    kv_cache: StoredType = Field(description="cached keys and values")
    activations: DType = Field(description="activations kept for the backward pass")
    attention_output: DType | None = Field(default=None, description="saved attention output; null: as `activations`")
    scale_block: Number | None = Field(default=None, description="elements per FP32 scale; null: one scale per tensor")
    head_weights: StoredType | None = Field(default=None, description="weights of the LM head; null: as `head`")
    weight_group: Number | None = Field(
        default=None, description="weights along K per scale; null: `scale_block` squared, or one scale per channel"
    )
    weight_scale: DType = Field(default="fp16", description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")
    weight_bits: Bits | None = Field(
        default=None, description="average bits per weight with scales; null: by the format"
    )
    kv_group: Number | None = Field(
        default=None, description="cached elements per scale, of a token and head; null: one scale per tensor"
    )
    kv_scale: DType = Field(default="fp16", description="format of KV-cache scales")
    kv_zero: DType | None = Field(default=None, description="format of KV-cache zero points; null: symmetric")
    branches: DType | None = Field(
        default=None, description="activations between norm and residual add, as under autocast; null: as `residual`"
    )
    parts: dict[Part, PartFormatsFile] = Field(
        default={}, description="formats of the linear layers of one part of the model, where they differ"
    )
    sources: list[Source] = Field(default=[], description="sources of the values")
