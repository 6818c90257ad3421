"""The workload file: one model, and named scenarios of it."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from costmodel.schema.device import DType, LinearType, Source, StoredType
from costmodel.schema.quantity import (
    Bits,
    Duration,
    Exponent,
    Integer,
    LoadFactor,
    Moment,
    Named,
    NameSet,
    Number,
    NumberOrZero,
    OneOf,
    PositiveNumber,
    Ratio,
    RatioOrZero,
    Share,
    ShareOrZero,
    Value,
    Whole,
    wrong,
)
from costmodel.schema.strict import Strict
from costmodel.workload.recompute import OPERATORS, SETS
from costmodel.workload.schedules import SCHEDULES

Payload: TypeAlias = Literal[DType, "logfmt8", "logfmt10"]
StageNumber: TypeAlias = Annotated[int, Whole(-(2**16), single=True)]


class ParallelFile(Strict):
    """Degrees of parallelism."""

    tp: Number = Field(default=1.0, description="tensor parallel")
    pp: Number = Field(default=1.0, description="pipeline parallel")
    dp: Number = Field(default=1.0, description="data parallel")
    ep: Number = Field(default=1.0, description="expert parallel; spans tp * cp * dp ranks")
    cp: Number = Field(default=1.0, description="context parallel")
    virtual: Number | None = Field(
        default=None, description="stages of one pipeline rank; null: 2 for zb-v and dualpipe-v, else 1"
    )
    expert_tensor: Number | None = Field(
        default=None, description="tensor parallel inside an expert; null: tp where ep is 1, else 1"
    )
    sequence_parallel: bool = Field(default=False, description="split the remaining activations over tp as well")
    context: Literal["gather", "ring", "ulysses"] = Field(
        default="gather",
        description="how cp ranks see each other's keys: all gathered, block by block around a ring, by swapping heads",
    )


class CommunicationFile(Strict):
    """How ranks talk."""

    processors: NumberOrZero = Field(default=0.0, description="processors that communication takes from compute")
    dispatch: Payload = Field(default="bf16", description="format of dispatched tokens; a payload, needs no math unit")
    combine: Payload = Field(default="bf16", description="format of combined tokens; a payload, needs no math unit")
    codec: RatioOrZero = Field(
        default=0.0,
        description="how much longer exchanges in logfmt8 or logfmt10 take where their kernels encode and decode; 0: "
        "units in the network do",
    )
    in_network: bool = Field(
        default=False,
        description="switches copy what is dispatched and add up what is combined, and both run at the same time",
    )
    mode: Literal["normal", "low_latency"] = Field(default="normal", description="one copy a node, or one an expert")
    expert_load: LoadFactor | None = Field(
        default=None, description="tokens of the fullest rank over the mean, whatever `routing` says; null: as it says"
    )
    split_attention: bool = Field(
        default=False,
        description="micro-batches of inference take turns before a layer's attention core too, one turn apart",
    )


class RoutingFile(Strict):
    """How tokens spread over experts, and where these stand."""

    load: Literal["balanced", "uniform", "zipf", "counts"] = Field(
        default="balanced",
        description="all ranks alike; tokens drawn, experts equally likely or by Zipf's law; or tokens as counted",
    )
    exponent: Exponent | None = Field(
        default=None, description="of Zipf's law: popularity rank ^ -exponent; only there"
    )
    counts: str | None = Field(
        default=None, description="CSV file with columns `expert,tokens`, `./` relative to this file; only for counts"
    )
    redundant: NumberOrZero = Field(default=0.0, description="replicas of the most loaded experts, beside the experts")
    placement: Literal["sequential", "balanced"] | None = Field(
        default=None, description="experts in order or by load; null: by load where there are replicas"
    )
    capacity: Ratio | None = Field(
        default=None, description="room of an expert over its mean share of a rank's tokens; null: nothing is dropped"
    )

    @model_validator(mode="after")
    def _load_has_what_it_needs(self) -> Self:
        if (self.load == "zipf") != (self.exponent is not None):
            raise wrong("load zipf needs its `exponent`, and only that load has one", "write {load: zipf, exponent: 1}")
        if (self.load == "counts") != (self.counts is not None):
            raise wrong(
                "load counts needs its file `counts`, and only that load has one",
                "write {load: counts, counts: ./experts.csv}",
            )
        return self


class OffloadFile(Strict):
    """Shares that are kept in the host's memory in place of the device's."""

    optimizer: ShareOrZero = Field(default=0.0, description="optimizer states (training); the host updates them itself")
    weights: ShareOrZero = Field(default=0.0, description="weights that layers compute with")
    activations: ShareOrZero = Field(default=0.0, description="what the backward pass waits for (training)")
    overlap: bool = Field(default=True, description="transfers run beside computation")
    kv_cache: ShareOrZero = Field(default=0.0, description="keys and values (inference), copied in every pass")
    experts: Literal["device", "host"] = Field(
        default="device", description="host: its processors compute the routed experts from its memory (inference)"
    )


class OptimizerFile(Strict):
    """The optimizer, and how ranks that hold the same parameters share its work."""

    zero: Annotated[int, Whole(0, high=3, single=True)] = Field(default=0, description="ZeRO stage")
    overlap: bool | None = Field(
        default=None, description="gather and reduce layer by layer beside computation; null: in stage 3 only"
    )
    reduce: Literal["micro_batch", "step"] | None = Field(
        default=None, description="reduce gradients that often; null: every micro-batch from stage 2 on"
    )
    keep_gathered: bool = Field(
        default=False, description="weights of stage 3 stay gathered from the forward to the backward pass"
    )
    shard_group: Number | None = Field(
        default=None, description="ranks that share one copy of the states, repeated by others; null: all of cp * dp"
    )
    gradient_communication: DType | None = Field(
        default=None, description="format that gradients travel in; null: the one that they are kept in"
    )


class PlacementFile(Strict):
    """The pipeline stages of a model's ends; negative ones count from the last."""

    embedding: StageNumber = Field(default=0, description="stage of the embedding")
    head: StageNumber = Field(default=-1, description="stage of the output head")
    mtp: StageNumber = Field(default=-1, description="stage of the MTP modules")


class PrecisionChoiceFile(Strict):
    """A precision set and changes to it. A name alone is short for `{compute: NAME}`."""

    compute: str = Field(default="bf16", description="the precision set, `precisions/NAME`")
    fallback: str | None = Field(default=None, description="the set to use for formats without a math unit")
    linear: LinearType | None = Field(default=None, description="instead of the set's")
    attention: DType | None = Field(default=None, description="instead of the set's")
    router: DType | None = Field(default=None, description="instead of the set's")
    head: DType | None = Field(default=None, description="instead of the set's")
    residual: DType | None = Field(default=None, description="instead of the set's")
    weights: StoredType | None = Field(default=None, description="instead of the set's")
    master: DType | None = Field(default=None, description="instead of the set's; null: no master copy")
    gradients: DType | None = Field(default=None, description="instead of the set's")
    moments: DType | None = Field(default=None, description="instead of the set's")
    kv_cache: StoredType | None = Field(default=None, description="instead of the set's")
    activations: DType | None = Field(default=None, description="instead of the set's")
    attention_output: DType | None = Field(default=None, description="instead of the set's; null: as `activations`")
    scale_block: Number | None = Field(default=None, description="instead of the set's; null: one scale a tensor")
    head_weights: StoredType | None = Field(default=None, description="instead of the set's; null: as `head`")
    weight_group: Number | None = Field(default=None, description="instead of the set's; null: one scale a channel")
    weight_scale: DType | None = Field(default=None, description="instead of the set's")
    weight_zero: DType | None = Field(default=None, description="instead of the set's; null: symmetric")
    weight_bits: Bits | None = Field(default=None, description="instead of the set's; null: by the format")
    kv_group: Number | None = Field(default=None, description="instead of the set's; null: one scale a tensor")
    kv_scale: DType | None = Field(default=None, description="instead of the set's")
    kv_zero: DType | None = Field(default=None, description="instead of the set's; null: symmetric")
    branches: DType | None = Field(default=None, description="instead of the set's; null: as `residual`")


class SlowdownFile(Strict):
    """A rank that is slower for a while: a straggler, a link that flaps, a plane or a device that fails."""

    rank: Annotated[int, Whole(0, single=True)] | None = Field(
        default=None, description="pipeline rank, in inference the stage; null: all of them"
    )
    slows: Literal["compute", "network", "everything"] = Field(description="what is slower")
    speed: ShareOrZero = Field(description="of the usual one; 0: it stands still")
    begin: Moment = Field(default=0.0, description="when, counted from the start of the step or pass")
    end: Moment | None = Field(default=None, description="until when; null: it stays so")


class CheckpointsFile(Strict):
    """How a training run outlives failures."""

    interval: Duration = Field(description="time of training between two checkpoints")
    write: Moment = Field(description="how long training stands still for one")
    restart: Moment = Field(description="from a failure until training goes on")
    device_mtbf: Duration = Field(description="mean time between failures of one device")


class SimulationFile(Strict):
    """What the event engine is told; the closed form does not read it."""

    seed: Annotated[int, Whole(0, single=True)] = Field(default=0, description="of all that is random")
    jitter: ShareOrZero = Field(default=0.0, description="standard deviation of the logarithm of each task's time")
    shares_processors: bool = Field(
        default=False, description="kernels take the processors of communication while that is idle"
    )
    contention: bool = Field(default=False, description="messages share the cluster's links, max-min fairly")
    slowdowns: list[SlowdownFile] = Field(default_factory=list, description="what is slower than usual, and when")
    patience: Duration | None = Field(
        default=None, description="time without progress after which a run is given up; null: never"
    )
    checkpoints: CheckpointsFile | None = Field(default=None, description="checkpoints (training); null: no failures")
    replicas: Annotated[int, Whole(1, single=True)] | None = Field(
        default=None, description="data-parallel replicas that are simulated one by one; null: one for all"
    )


class ScenarioFile(Strict):
    """What every scenario states."""

    cluster: Annotated[Any, Named("clusters")] = Field(
        description="the cluster, a node (as many as the layout needs), or {node, count, network}"
    )
    devices: Number | None = Field(default=None, description="take the first N devices only; null: all")
    parallel: ParallelFile = Field(default_factory=ParallelFile, description="degrees of parallelism")
    precision: PrecisionChoiceFile = Field(
        default_factory=PrecisionChoiceFile,
        description="NAME of a precision set (bf16 where left out), or a mapping that changes one",
    )
    communication: CommunicationFile = Field(default_factory=CommunicationFile, description="how ranks talk")
    offload: OffloadFile = Field(default_factory=OffloadFile, description="what the host's memory keeps")
    routing: RoutingFile = Field(
        default_factory=lambda: RoutingFile(), description="how tokens spread over experts, and where these stand"
    )
    framework: Annotated[Any, Named("frameworks")] = Field(default="default", description="kernels and host")
    simulation: SimulationFile = Field(
        default_factory=lambda: SimulationFile(), description="what the event engine is told"
    )


class TrainingFile(ScenarioFile):
    """A training step."""

    phase: Literal["training"] = Field(description="this phase")
    framework: Annotated[Any, Named("frameworks")] = Field(default="pytorch", description="kernels and host")
    schedule: Annotated[str, OneOf(tuple(SCHEDULES))] = Field(
        default="1f1b", description="order of work on a pipeline rank"
    )
    global_batch: Number = Field(description="sequences a step")
    sequence: Number = Field(description="tokens of a sequence")
    micro_batch: Number = Field(default=1.0, description="sequences of one micro-batch on one data-parallel rank")
    recompute: Annotated[frozenset[str], NameSet(tuple(SETS), tuple(sorted(OPERATORS)))] = Field(
        default=frozenset(), description="operators that the backward pass repeats"
    )
    optimizer: OptimizerFile = Field(default_factory=OptimizerFile, description="the optimizer")
    stages: list[Annotated[int, Whole(0, single=True)]] | None = Field(
        default=None, min_length=1, description="layers of each pipeline stage in order; null: as even as possible"
    )
    placement: PlacementFile = Field(
        default_factory=lambda: PlacementFile(), description="where embedding, head and MTP modules stand"
    )


class SpeculativeFile(Strict):
    """Speculative decoding with the model's MTP modules."""

    depth: Number = Field(description="tokens drafted a step, which the next pass verifies")
    acceptance: ShareOrZero = Field(description="chance that a drafted token is kept, those before it being kept")


class DenoisingFile(Strict):
    """Diffusion: the same pass again and again over every sequence."""

    steps: Number = Field(description="passes over every sequence, one after the other")
    branches: Number = Field(default=1.0, description="copies of a sequence in each pass: guidance, samplers")
    active: Share = Field(default=1.0, description="share of a sequence that is denoised; keys are those of all")


class PrefillFile(ScenarioFile):
    """Prompts until the first token."""

    phase: Literal["prefill"] = Field(description="this phase")
    input_tokens: Number = Field(description="tokens of a prompt")
    tokens_per_device: PositiveNumber = Field(
        description="prompt tokens in flight on one device, all micro-batches together; "
        "whole prompts over the devices of a tp * cp group"
    )
    micro_batches: Integer = Field(default=1, description="micro-batches that overlap")
    prefix_hit_rate: ShareOrZero = Field(default=0.0, description="share of a prompt found in a cache, not computed")
    denoising: DenoisingFile | None = Field(
        default=None, description="a diffusion model denoises every sequence in several passes; null: one pass"
    )


class DecodeFile(ScenarioFile):
    """One more token for every request."""

    phase: Literal["decode"] = Field(description="this phase")
    batch_per_device: PositiveNumber = Field(
        description="requests on one device, all micro-batches together; "
        "whole requests over the devices of a tp * cp group"
    )
    input_tokens: Number = Field(description="tokens of a prompt")
    output_tokens: NumberOrZero = Field(default=0.0, description="tokens that a request generates")
    micro_batches: Integer = Field(default=1, description="micro-batches that overlap")
    speculative: SpeculativeFile | None = Field(default=None, description="speculative decoding; null: none")


class GenerateFile(ScenarioFile):
    """A static batch: all prompts at once, then all output tokens."""

    phase: Literal["generate"] = Field(description="this phase")
    batch: Number = Field(description="requests of the whole scenario, all data-parallel replicas together")
    input_tokens: Number = Field(description="tokens of a prompt")
    output_tokens: Number = Field(description="tokens that a request generates, the first among them")
    micro_batches: Integer = Field(default=1, description="micro-batches that overlap")
    pipeline_batches: Number | None = Field(
        default=None,
        description="parts of a replica's batch that follow one another through the pipeline; null: one a stage, or "
        "fewer where there are fewer sequences",
    )
    speculative: SpeculativeFile | None = Field(default=None, description="speculative decoding; null: none")


class PoolFile(Strict):
    """What both pools of disaggregated serving state."""

    parallel: ParallelFile = Field(default_factory=ParallelFile, description="degrees of parallelism of one instance")
    communication: CommunicationFile = Field(default_factory=CommunicationFile, description="how its ranks talk")
    micro_batches: Integer = Field(default=1, description="micro-batches that overlap")


class PrefillPoolFile(PoolFile):
    """The devices that prefill."""

    tokens_per_device: PositiveNumber = Field(
        description="prompt tokens in flight on one device, cached ones included; whole prompts over a tp * cp group"
    )


class DecodePoolFile(PoolFile):
    """The devices that decode."""

    batch_per_device: PositiveNumber = Field(description="requests on one device; whole requests over a tp * cp group")


class ServingFile(ScenarioFile):
    """Continuous batching in steady state, on one kind of engine or on a pool for prefill and one for decoding."""

    phase: Literal["serving"] = Field(description="this phase")
    input_tokens: Number = Field(description="tokens of a prompt")
    output_tokens: Annotated[Value, Whole(2)] = Field(
        description="tokens that a request generates, the first among them"
    )
    prefix_hit_rate: ShareOrZero = Field(default=0.0, description="share of a prompt found in a cache, not computed")
    speculative: SpeculativeFile | None = Field(default=None, description="speculative decoding; null: none")
    concurrency: Number | None = Field(
        default=None, description="requests in flight in one data-parallel replica; not with pools"
    )
    chunk_tokens: Number | None = Field(
        default=None,
        description="prompt tokens that a step carries beside its decoding requests; null: prompts run in steps of "
        "their own",
    )
    micro_batches: Integer = Field(default=1, description="micro-batches that overlap; of pools, each states its own")
    prefill: PrefillPoolFile | None = Field(default=None, description="the pool that prefills; null: one engine")
    decode: DecodePoolFile | None = Field(default=None, description="the pool that decodes; null: one engine")

    @model_validator(mode="after")
    def _one_engine_or_two_pools(self) -> Self:
        pools = self.prefill is not None or self.decode is not None
        if pools and (self.prefill is None or self.decode is None):
            raise wrong("`prefill` and `decode` go together", "state both pools, or neither and `concurrency`")
        if not pools and self.concurrency is None:
            raise wrong("needs `concurrency`, or the pools `prefill` and `decode`", "write `concurrency: 64`")
        one_engine = ("concurrency", "chunk_tokens", "micro_batches", "parallel", "communication", "devices")
        stray = [key for key in one_engine if key in self.model_fields_set and getattr(self, key) is not None]
        if pools and stray:
            raise wrong(
                f"`{stray[0]}` describes one engine, and `prefill` and `decode` are two pools",
                f"remove `{stray[0]}`, or the pools",
            )
        return self


class ExpertBoundFile(ScenarioFile):
    """The closed-form bound of expert-parallel decoding."""

    phase: Literal["ep_bound"] = Field(description="this phase")
    tokens_per_device: Number = Field(description="tokens of one micro-batch on one device")
    sends: Number = Field(description="copies of a token that leave a device")
    hidden: Number = Field(description="width that a token is sent with")


PlanFile: TypeAlias = TrainingFile | PrefillFile | DecodeFile | GenerateFile | ServingFile | ExpertBoundFile

PHASES: dict[str, type[PlanFile]] = {
    "training": TrainingFile,
    "prefill": PrefillFile,
    "decode": DecodeFile,
    "generate": GenerateFile,
    "serving": ServingFile,
    "ep_bound": ExpertBoundFile,
}


class WorkloadFile(Strict):
    """One model and named scenarios of it."""

    title: str | None = Field(default=None, description="one line for people")
    model: Annotated[Any, Named("models")] = Field(
        description="the model: a name, {hf: PATH} of a config.json, or a mapping that may extend one with `extends`"
    )
    scenarios: dict[str, Annotated[Any, Named("scenarios")]] = Field(min_length=1, description="name -> scenario")
    sources: list[Source] = Field(default=[], description="where the values come from")


def phases_with(key: str) -> list[str]:
    """Return the phases whose scenarios have `key`, empty if all or none have it."""
    having = [phase for phase, model in PHASES.items() if key in model.model_fields]
    return having if len(having) < len(PHASES) else []
