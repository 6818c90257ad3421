"""The framework file (kernels and hosts) and the precision file (number formats)."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from costmodel.declared import DType, Exponent, Integer, LinearType, Number, StoredType, Whole
from costmodel.schema.device import PLAUSIBLE, Source
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict
from costmodel.workload.engine import Engine, SchedulerRule
from costmodel.workload.framework_parts import EagerPrompts, TrainingProgram
from costmodel.workload.scenario import Framework, PartFormats, Precision, Tile

TunedFormat: TypeAlias = Literal["bf16", "fp8", "fp8_block", "int8"]
"""Number formats of products of experts by which engines look up tuned tiles; `bf16` is any of 16 bits."""
ExpertCount: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*$")]
"""A number of experts, as the key of a mapping."""


class TileFile(Declared, of=Tile):
    """A kernel's output tile."""


class EagerPromptsFile(Declared, of=EagerPrompts):
    """Passes with prompts that no CUDA graph holds: the host starts their kernels one by one."""

    architectures: list[str] | None = Field(
        default=None, description="architectures of the devices on which it is so; null: all"
    )
    expert_dies: list[str] = Field(default=[], description="dies on which it is so for models with experts")
    features: list[Literal["drafts", "data_parallel", "pipeline", "all_to_all", "pools"]] = Field(
        default=[],
        description="what a deployment has at least one of where it is so on every device: drafts, ranks that share "
        "experts and step together, pipeline stages, an all-to-all of experts, a pool of prefilling engines",
    )


class SchedulerRuleFile(Declared, of=SchedulerRule):
    """Limits of a scheduler on some devices."""


class EngineFile(Declared, of=Engine):
    """A framework as a serving engine: what its flags are where the scenario does not say."""

    rules: list[SchedulerRuleFile] = Field(
        min_length=1, description="limits of the scheduler: the first that holds; the last one holds everywhere"
    )


class ExpertSpreadFile(Strict):
    """How unevenly trained routers choose experts."""

    spread: Exponent = Field(description="standard deviation of the logarithm of popularity")
    experts: Number = Field(description="fewest routed experts of a layer for which it holds; fewer are alike")


class TrainingDefaultsFile(Declared, of=TrainingProgram):
    """What a framework does in training unless it is told otherwise. A scenario that states it replaces it."""

    gradients: DType | None = Field(default=None, description="format of gradients of BF16 runs; null: the precision's")
    activations: DType | None = Field(
        default=None, description="format of what is kept for the backward pass of these; null: the precision's"
    )
    zero: Annotated[int, Whole(0, high=3, single=True)] | None = Field(default=None, description="ZeRO stage; null: 0")
    overlap: bool | None = Field(default=None, description="`optimizer.overlap`; null: stage 3 only")
    context: Literal["gather", "ring", "ulysses"] | None = Field(
        default=None, description="`parallel.context` of models whose keys may travel so; null: gather"
    )
    slices_experts: bool = Field(
        default=False, description="experts are split over tp as all other layers are unless `expert_tensor` is stated"
    )
    options: dict[str, str] = Field(
        default={},
        description="what sets it there: gradients (in BF16), zero, overlap, selective and full (recomputation), "
        "sequence_parallel -> option",
    )


class FrameworkFile(Declared, of=Framework):
    """Kernel libraries and host software, as opposed to the device."""

    description: str | None = Field(default=None, description="what it is, in one line")
    release: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = Field(
        default=None,
        description="last release that the file describes, from the one behind the file before it: a scenario may name "
        'one as `{name: NAME, release: "26.04"}`; null: the newest',
    )
    training: TrainingDefaultsFile = Field(default_factory=TrainingDefaultsFile, description="defaults in training")
    gemm_tiles: list[TileFile] = Field(min_length=1, description="candidate tiles; the fastest is used")
    attention_tiles: list[TileFile] = Field(
        min_length=1, description="candidate tiles of attention kernels, queries by keys; the fastest is used"
    )
    implementations: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="operator family or `family/variant` -> implementation under `calibrations/DEVICE`, or a list, of "
        "which the first available is used. `attention_prefill: unfused` materialises the scores; so does "
        "`masked-softmax`, with scale, causal mask and softmax in one kernel",
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
    engine: EngineFile | None = Field(
        default=None, description="defaults as a serving engine; null: no limits, memory is full when the ledger is"
    )
    expert_spread: ExpertSpreadFile | None = Field(
        default=None,
        description="`routing` of an engine's steps where the scenario states no load; null: experts are alike",
    )
    eager_prompts: EagerPromptsFile | None = Field(
        default=None, description="passes with prompts that the host limits; null: none"
    )
    plausible: list[str] = Field(default=[], description=PLAUSIBLE)
    sources: list[Source] = Field(default=[], description="sources of the values")


class PartFormatsFile(Declared, of=PartFormats):
    """The formats of one part's linear layers."""

    weight_group: Number | None = Field(default=None, description="weights along K per scale; null: as of the set")
    weight_scale: DType = Field(default="fp16", description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")


Part: TypeAlias = Literal["attention", "attention_output", "ffn", "experts", "shared_experts"]


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


class PrecisionFile(Declared, of=Precision):
    """The number format of each operator family and stored tensor."""

    name: str = Field(description="name in references")
    weight_group: Number | None = Field(
        default=None, description="weights along K per scale; null: `scale_block` squared, or one scale per channel"
    )
    weight_scale: DType = Field(default="fp16", description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")
    kv_group: Number | None = Field(
        default=None, description="cached elements per scale, of a token and head; null: one scale per tensor"
    )
    kv_scale: DType = Field(default="fp16", description="format of KV-cache scales")
    kv_zero: DType | None = Field(default=None, description="format of KV-cache zero points; null: symmetric")
    parts: dict[Part, PartFormatsFile] = Field(
        default={}, description="formats of the linear layers of one part of the model, where they differ"
    )
    sources: list[Source] = Field(default=[], description="sources of the values")
