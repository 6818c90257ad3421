"""The workload file: one model, and named scenarios of it."""

import difflib
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import (
    DType,
    Integer,
    Named,
    Number,
    NumberOrZero,
    OneOf,
    PositiveNumber,
    Share,
    ShareOrZero,
    Verbatim,
    Whole,
    Wrong,
)
from costmodel.quantities import Quantity
from costmodel.schema.device import Source
from costmodel.schema.framework import Part, PartFormatsFile
from costmodel.schema.records import Declared, record
from costmodel.schema.serving import CacheTierFile, SchedulerFile
from costmodel.schema.strict import OUR_NAMES, Strict, keys_at
from costmodel.units import whole
from costmodel.workload import plans
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.requests import Replicas
from costmodel.workload.scenario import Communication, Offload, Parallelism, Precision, Routing
from costmodel.workload.schedules.catalogue import SCHEDULES
from costmodel.workload.simulation import Simulation, Slowdown


class SlowdownFile(Declared, of=Slowdown):
    """A temporary slowdown: a straggler, a flapping link, a failed plane or device."""

    rank: Annotated[int, Whole(0, single=True)] | None = Field(
        default=None, description="pipeline rank, in inference the stage; null: all"
    )
    speed: ShareOrZero = Field(description="fraction of normal speed; 0: stopped")

    def made(self) -> Slowdown:
        """Return the slowdown."""
        return record(Slowdown, self, speed=float(self.speed))

    def _check_times(self) -> None:
        if self.end is not None and np.any(np.less_equal(self.end, self.begin)):
            raise Wrong("end must come after begin", "write a later end, or leave it out")


class SimulationFile(Declared, of=Simulation):
    """Settings of the event engine. The analytic engine ignores them."""

    jitter: ShareOrZero = Field(default=0.0, description="standard deviation of the logarithm of each task's time")

    def made(self) -> Simulation:
        """Return the settings."""
        return record(Simulation, self, jitter=float(self.jitter))


class ParallelFile(Declared, of=Parallelism):
    """Degrees of parallelism."""

    virtual: Number | None = Field(default=None, description="stages per rank; null: 2 for zb-v and dualpipe-v, else 1")


class CommunicationFile(Declared, of=Communication):
    """Communication settings."""

    exchange: Literal["all_to_all", "gather"] | None = Field(
        default=None,
        description="in inference, how tokens reach experts of other ranks: by an all-to-all, or all ranks gather all "
        "tokens and scatter the sums of their results; null: as the framework, or `all_to_all` where another key of "
        "it is stated",
    )


class RoutingFile(Declared, of=Routing):
    """How tokens are routed to experts and where experts are placed."""

    counts: str | None = Field(
        default=None, description="CSV file with columns `expert,tokens`, `./` relative to this file; counts only"
    )
    load: Literal["balanced", "uniform", "zipf", "lognormal", "counts"] | None = Field(
        default=None,
        description="balanced: all ranks equal; uniform / zipf / lognormal: random routing; counts: from a file; null: "
        "uniform in training, on engines of phase `serving` under a load lognormal with the framework's "
        "`expert_spread`, else balanced",
    )

    def _check_load(self) -> None:
        for load, key, example in (
            ("zipf", "exponent", "1"),
            ("lognormal", "spread", "1.2"),
            ("counts", "counts", "./experts.csv"),
        ):
            if (self.load == load) != (getattr(self, key) is not None):
                message = f"`{key}` is required for load: {load} and not allowed otherwise"
                raise Wrong(message, f"write {{load: {load}, {key}: {example}}}")


class OffloadFile(Declared, of=Offload):
    """Shares that are kept in host memory instead of device memory."""


class OptimizerFile(Declared, of=plans.Sharding):
    """The optimizer, and how ranks with the same parameters share its states and work."""

    name: Literal["adamw", "adamw8bit", "muon"] = Field(
        default="adamw",
        description="muon: of the layers' matrices, adamw of all other parameters; adamw8bit: both moments have 8 bits "
        "and a scale for each 256, whatever `precision.moments` says",
    )
    newton_schulz: Number = Field(default=5.0, description="of Muon: iterations that make an update orthogonal")
    zero: Annotated[int, Whole(0, high=3, single=True)] = Field(default=0, description="ZeRO stage")
    shard_group: Number | None = Field(
        default=None, description="ranks that shard one copy of the states (hybrid sharding); null: all cp * dp ranks"
    )
    gradient_communication: DType | None = Field(default=None, description="format of gradients sent; null: as stored")


class PlacementFile(Declared, of=plans.Placement):
    """The pipeline stages of embedding, head and MTP. Negative ones count from the last."""


class PrecisionChoiceFile(Declared, of=Precision, optional=True):
    """A precision set, or the formats of the model's `quantization`, and changes to it.

    A name alone is short for `{compute: NAME}`.
    """

    compute: str = Field(
        default="bf16", description="the precision set, `precisions/NAME`; unstated in inference: the model's formats"
    )
    fallback: str | None = Field(default=None, description="the set that replaces formats without a math unit")
    weight_group: Number | None = Field(default=None, description="weights along K per scale; null: one per channel")
    weight_scale: DType | None = Field(default=None, description="format of weight scales")
    weight_zero: DType | None = Field(default=None, description="format of weight zero points; null: symmetric")
    kv_group: Number | None = Field(default=None, description="cached elements per scale; null: one per tensor")
    kv_scale: DType | None = Field(default=None, description="format of KV-cache scales")
    kv_zero: DType | None = Field(default=None, description="format of KV-cache zero points; null: symmetric")
    parts: dict[Part, PartFormatsFile] = Field(default={}, description="formats of the linear layers of one part")


class ScenarioFile(Strict):
    """The keys of every scenario."""

    cluster: Annotated[Any, Named("clusters")] = Field(
        description="a cluster, a node (as many as the layout needs), or {node, count, network}"
    )
    devices: Number | None = Field(default=None, description="number of devices to use; null: all")
    parallel: ParallelFile = Field(default_factory=ParallelFile, description="degrees of parallelism")
    precision: PrecisionChoiceFile = Field(
        default_factory=PrecisionChoiceFile,
        description="name of a precision set, or a mapping that modifies one; where neither names one, inference has "
        "the formats of the model's `quantization`, all else bf16",
    )
    communication: CommunicationFile = Field(default_factory=CommunicationFile, description="communication settings")
    offload: OffloadFile = Field(default_factory=OffloadFile, description="shares kept in host memory")
    routing: RoutingFile = Field(default_factory=RoutingFile, description="routing of tokens, placement of experts")
    framework: Annotated[Any, Named("frameworks")] = Field(default="default", description="kernels and host times")
    simulation: SimulationFile = Field(default_factory=SimulationFile, description="settings of the event engine")


class MeasurableFile(ScenarioFile):
    """The keys of scenarios that can be measured."""

    anchor: Annotated[Any, Verbatim()] = Field(
        default=None,
        description="measured values of the same framework and cluster, by which predictions are moved: {metric, "
        "value, set} of this scenario as written, `anchors/NAME`, or a list of these",
    )


class TrainingFile(MeasurableFile, Declared, of=plans.Training):
    """A training step."""

    phase: Literal["training"] = Field(description="this phase")
    framework: Annotated[Any, Named("frameworks")] = Field(default="pytorch", description="kernels and host times")
    schedule: Annotated[str, OneOf(tuple(SCHEDULES))] = Field(default="1f1b", description="pipeline schedule")
    optimizer: OptimizerFile = Field(default_factory=OptimizerFile, description="the optimizer")
    stages: list[Annotated[int, Whole(0, single=True)]] | None = Field(
        default=None, min_length=1, description="layers of each pipeline stage in order; null: as even as possible"
    )


class SpeculativeFile(Declared, of=plans.Speculative):
    """Speculative decoding: what drafts, how many tokens, and how many of them are kept."""

    acceptances: list[ShareOrZero] | None = Field(
        default=None, description="the same for each level of `depth`; null: `acceptance`"
    )
    branches: list[Integer] | None = Field(
        default=None,
        description="a tree: candidates of each level behind each one of the level before, all of them verified; an "
        "acceptance is then that of the best candidate; null: one each",
    )
    acceptance: ShareOrZero | None = Field(
        default=None,
        description="probability that a drafted token is accepted, given that all earlier ones were; null: by level",
    )

    model: Annotated[Any, Named("models")] = Field(
        default=None,
        description="of `drafter: model`: the model that drafts; of `eagle3`: the head as a model, whose vocabulary "
        "are the words that it drafts; null: a layer like the model's last one, with its vocabulary",
    )

    def _check_levels(self) -> None:
        if self.drafter == "model" and self.model is None:
            raise Wrong("`drafter: model` needs a `model`", "name one, such as `model: models/qwen3-0.6b`")
        if self.model is not None and self.drafter not in ("model", "eagle3"):
            raise Wrong(f"`model` belongs to `drafter: model` or `eagle3`, not to {self.drafter}", "remove one of them")
        if (self.acceptance is None) == (self.acceptances is None):
            raise Wrong("needs either `acceptance` or `acceptances`", "write one of the two")
        for name, levels in (("acceptances", self.acceptances), ("branches", self.branches)):
            if levels is not None and np.any(np.asarray(self.depth) != len(levels)):
                raise Wrong(f"{name} has {len(levels)} levels, depth differs", "write one entry for each level")


class DenoisingFile(Declared, of=plans.Denoising):
    """Diffusion: repeated passes over every sequence."""


class ImagesFile(Declared, of=plans.Images):
    """Images in every prompt, which the model's encoder turns into some of its tokens."""

    count: Number = Field(default=1.0, description="images of a prompt")


class PrefillFile(MeasurableFile, Declared, of=plans.Prefill):
    """Prefill: from the prompt to the first token."""

    phase: Literal["prefill"] = Field(description="this phase")


class DecodeFile(MeasurableFile, Declared, of=plans.Decode):
    """Decode: one step for every running request."""

    phase: Literal["decode"] = Field(description="this phase")


class GenerateFile(MeasurableFile, Declared, of=plans.Generate):
    """A static batch: all prompts at once, then all output tokens."""

    phase: Literal["generate"] = Field(description="this phase")


class EngineMemoryChoiceFile(Strict):
    """Device memory of a serving engine. What is null is as in the framework's `engine`."""

    utilization: Share | None = Field(default=None, description="share of device memory that the engine may use")
    block: Number | None = Field(default=None, description="tokens of a block of the KV cache")
    blocks: Number | None = Field(default=None, description="blocks of the KV cache of an engine; null: what fits")
    tiers: Annotated[list[CacheTierFile], Field(max_length=2)] = Field(
        default=[],
        description="that keep prefix blocks which the device loses, the nearest first (`--engine event`)",
    )


class OtherEnginesFile(Strict):
    """Engines unlike the scenario's, with which they share its requests. What is not stated is the scenario's."""

    cluster: Annotated[Any, Named("clusters")] = Field(default=None, description="that holds them")
    count: NumberOrZero = Field(default=1.0, description="engines")
    weight: PositiveNumber = Field(
        default=1.0,
        description="requests of one, over those of an engine of the scenario that the router holds as loaded, or "
        "draws as often",
    )
    parallel: ParallelFile = Field(default_factory=ParallelFile, description="degrees of parallelism of one engine")
    communication: CommunicationFile = Field(default_factory=CommunicationFile, description="communication settings")
    scheduler: SchedulerFile = Field(default_factory=SchedulerFile, description="changes to the scenario's `scheduler`")
    memory: EngineMemoryChoiceFile = Field(
        default_factory=EngineMemoryChoiceFile, description="changes to the scenario's `memory`"
    )


class ReplicasFile(Declared, of=Replicas):
    """Engines behind a router: equal ones, and others that share their requests."""

    others: list[OtherEnginesFile] = Field(default=[], description="engines of other layouts, devices or schedulers")

    def made(self) -> Replicas:
        """Return the replicas, without the others: each of these is a scenario."""
        return record(Replicas, self, others=(), weights=())

    def _check_engines(self) -> None:
        if np.any(self.prefill >= self.count) and np.any(self.prefill > 0):
            raise Wrong("leaves no engine that decodes", "write a `count` above `prefill`")
        if self.autoscale is not None and np.any(self.prefill > 0):
            raise Wrong("`autoscale` is not allowed with `prefill`", "remove one of both")
        if self.autoscale is not None and np.any(self.autoscale.least > self.autoscale.most):
            raise Wrong("has `least` above `most`", "write least: 1")
        engines = self.count if self.autoscale is None else self.autoscale.most
        missing = [failure.replica for failure in self.failures if np.any(failure.replica >= engines)]
        if missing:
            raise Wrong(f"engine {missing[0]:g} does not exist", f"number the {engines:g} engines from 0 on")
        stray = [key for key in ("autoscale", "breakdowns", "failures", "prefill") if np.any(getattr(self, key))]
        if self.others and stray:
            raise Wrong(f"`{stray[0]}` is of equal engines", f"remove `{stray[0]}` or `others`")
        if self.routing in ("round_robin", "prefix") and any(np.any(each.weight != 1.0) for each in self.others):
            raise Wrong(f"{self.routing} knows no `weight`", "write `routing: least_loaded` or `random`")


class PoolFile(Strict):
    """The keys of both pools of disaggregated serving. Under a load (`rate` or `concurrency`) a pool is of engines."""

    cluster: Annotated[Any, Named("clusters")] = Field(
        default=None, description="that holds the pool's engines; null: the scenario's; under a load"
    )
    instances: Number = Field(default=1.0, description="engines of the pool; under a load")
    scheduler: SchedulerFile = Field(
        default_factory=SchedulerFile, description="changes to the scenario's `scheduler`; under a load"
    )
    memory: EngineMemoryChoiceFile = Field(
        default_factory=EngineMemoryChoiceFile, description="changes to the scenario's `memory`; under a load"
    )

    parallel: ParallelFile = Field(default_factory=ParallelFile, description="degrees of parallelism of one instance")
    communication: CommunicationFile = Field(default_factory=CommunicationFile, description="communication settings")
    micro_batches: Integer = Field(default=1, description="overlapping micro-batches")


class PrefillPoolFile(PoolFile):
    """The devices that prefill."""

    tokens_per_device: PositiveNumber | None = Field(
        default=None,
        description="prompt tokens in flight per device, cached ones included; whole prompts per tp * cp group; "
        "follows from a load",
    )
    chunk_tokens: Number | None = Field(default=None, description=plans.CHUNK)


class DecodePoolFile(PoolFile):
    """The devices that decode."""

    batch_per_device: PositiveNumber | None = Field(
        default=None, description="requests per device; whole requests per tp * cp group; follows from a load"
    )


_OF_POOLS = frozenset({"arrivals", "cv", "count", "input", "output", "trace", "speed", "shuffle", "ramp", "classes"})
"""What requests of two pools may state."""
_BETWEEN_POOLS = frozenset({"routing", "signal_delay", "transfer"})
"""What their router may state."""


class ServingFile(MeasurableFile, Declared, of=plans.Serving):
    """Continuous batching in steady state, on one engine or on separate pools for prefill and decode."""

    phase: Literal["serving"] = Field(description="this phase")
    input_tokens: Number | None = Field(
        default=None, description="tokens per prompt; null: the mean of `requests`, whose own lengths count"
    )
    output_tokens: Annotated[Quantity, Whole(2)] | None = Field(
        default=None, description="output tokens per request, including the first; null: the mean of `requests`"
    )
    chunk_tokens: Number | None = Field(
        default=None,
        description="prompt tokens per step, along with decoding requests; null: separate steps for prompts",
    )
    scheduler: SchedulerFile = Field(default_factory=SchedulerFile, description="the engine's scheduler")
    memory: EngineMemoryChoiceFile = Field(
        default_factory=EngineMemoryChoiceFile, description="the engine's device memory"
    )
    prefill: PrefillPoolFile | None = Field(default=None, description="pool for prefill; null: one engine")
    decode: DecodePoolFile | None = Field(default=None, description="pool for decode; null: one engine")

    def _check_pools(self) -> None:
        pools = self.prefill is not None or self.decode is not None
        if pools and (self.prefill is None or self.decode is None):
            raise Wrong("`prefill` and `decode` must be set together", "set both pools, or neither and `concurrency`")
        given = self.requests
        drawn = given is not None and (given.trace is not None or given.pairs is not None)
        for name, own in (("input", given and given.input), ("output", given and given.output)):
            classed = given is not None and bool(given.classes) and all(getattr(c, name) for c in given.classes)
            if getattr(self, f"{name}_tokens") is None and not drawn and own is None and not classed:
                raise Wrong(f"needs `{name}_tokens`", f"write `{name}_tokens: 512`, or lengths of `requests`")
        if not pools and self.replicas.transfer is not None and not np.any(self.replicas.prefill > 0):
            raise Wrong("`replicas.transfer` needs engines that only compute prompts", "write `replicas.prefill: 1`")
        if not pools and self.concurrency is None and self.rate is None and self.requests is None:
            message = "needs `rate`, `concurrency`, or the pools `prefill` and `decode`"
            raise Wrong(message, "write `rate: 8 /s` or `concurrency: 64`")
        if self.rate is not None and self.concurrency is not None:
            raise Wrong("`rate` and `concurrency` exclude one another", "keep the one that is given, the other follows")
        sessions = None if given is None else given.sessions
        if sessions is not None and sessions.rate is not None and (self.rate, self.concurrency) != (None, None):
            hint = "remove `requests.sessions.rate`, or the other one"
            raise Wrong("`requests.sessions.rate` excludes `rate` and `concurrency`", hint)
        if self.chunk_tokens is not None and self.scheduler.token_budget is not None:
            raise Wrong("`chunk_tokens` is the older name of `scheduler.token_budget`", "keep `scheduler.token_budget`")
        if self.prefill is not None and self.decode is not None:
            self._keys_of_pools(self.prefill, self.decode)

    def _check_others(self) -> None:
        if self.replicas.others and self.adapters is not None:
            raise Wrong("`adapters` are not allowed with `replicas.others`", "remove one of both")

    @property
    def has_loaded_pools(self) -> bool:
        """Tell whether requests arrive at two pools of engines."""
        return self.prefill is not None and (self.rate is not None or self.concurrency is not None)

    def _keys_of_pools(self, prefill: PrefillPoolFile, decode: DecodePoolFile) -> None:
        """Raise Wrong on a key that pools do not have, or that they have with a load only, or without one."""
        one_engine = {"chunk_tokens", "micro_batches", "parallel", "communication", "devices"}
        if not self.has_loaded_pools:
            one_engine |= {"adapters", "requests", "replicas", "slo"}
        stray = [key for key in one_engine & self.model_fields_set if getattr(self, key) is not None]
        if stray:
            key = min(stray)
            raise Wrong(f"`{key}` is not allowed with pools", f"remove `{key}`, or `prefill` and `decode`")
        if self.requests is not None and self.requests.trace is not None and None in (
            self.input_tokens, self.output_tokens
        ):  # fmt: skip
            hint = "write the means of its requests, for the closed form"
            raise Wrong("two pools need `input_tokens` and `output_tokens` beside a trace", hint)
        for name, pool, size in (("prefill", prefill, "tokens_per_device"), ("decode", decode, "batch_per_device")):
            stated = getattr(pool, size) is not None
            if stated and self.has_loaded_pools:
                raise Wrong(f"`{name}.{size}` follows from the load", "remove it, or `rate` and `concurrency`")
            if not stated and not self.has_loaded_pools:
                raise Wrong(f"`{name}` needs `{size}`", f"write `{size}`, or a load: `rate: 8 /s` or `concurrency: 64`")
            loaded = {"cluster", "instances", "scheduler", "memory"} & pool.model_fields_set
            if loaded and not self.has_loaded_pools:
                raise Wrong(f"`{name}.{min(loaded)}` needs a load", "write `rate: 8 /s` or `concurrency: 64`")
        for key, known in (("requests", _OF_POOLS), ("replicas", _BETWEEN_POOLS)):
            given = getattr(self, key)
            others = set() if given is None else given.model_fields_set - known
            if others:
                raise Wrong(
                    f"`{key}.{min(others)}` is of one pool of engines", f"with two keep {', '.join(sorted(known))}"
                )


class DiffusionFile(ScenarioFile, Declared, of=plans.Diffusion):
    """Images or videos from noise, by a model with a `denoiser`."""

    phase: Literal["diffusion"] = Field(description="this phase")
    framework: Annotated[Any, Named("frameworks")] = Field(
        default="torch-compile", description="kernels and host times"
    )
    resolution: str | int | None = Field(
        default=None, description="`WIDTHxHEIGHT` in pixels, or the side of a square; instead of `width` and `height`"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_resolution(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("resolution") is None:
            return given
        if not {"width", "height"}.isdisjoint(given):
            raise Wrong("has both `resolution` and `width` or `height`", "keep one")
        sides = str(given["resolution"]).lower().replace("*", "x").split("x")
        if not (1 <= len(sides) <= 2 and all(whole(side.strip()) for side in sides)):
            raise Wrong(f"has a `resolution` that is not understood: {given['resolution']}", "write 1280x720, or 1024")
        return given | {"width": int(sides[0]), "height": int(sides[-1])}


class ExpertBoundFile(ScenarioFile, Declared, of=plans.ExpertBound):
    """The closed-form bound of expert-parallel decoding."""

    phase: Literal["ep_bound"] = Field(description="this phase")


class ReinforcementFile(Declared, of=Reinforcement):
    """A step of reinforcement learning, of a scenario that generates and one that trains."""

    phase: Literal["rl"] = Field(description="this phase")
    rollout: str = Field(description="the scenario of this file that generates answers: phase `generate` or `serving`")
    train: str = Field(description="the scenario of this file that trains: phase `training`")
    cluster: Annotated[Any, Named("clusters")] = Field(
        default=None,
        description="that holds both pools of `split`; null: that of `train`, with as many nodes as needed",
    )


PlanFile: TypeAlias = (
    TrainingFile | PrefillFile | DecodeFile | GenerateFile | ServingFile | ExpertBoundFile | DiffusionFile
)

PHASES: dict[str, type[PlanFile | ReinforcementFile]] = {
    "training": TrainingFile,
    "prefill": PrefillFile,
    "decode": DecodeFile,
    "generate": GenerateFile,
    "serving": ServingFile,
    "rl": ReinforcementFile,
    "ep_bound": ExpertBoundFile,
    "diffusion": DiffusionFile,
}


class WorkloadFile(Strict):
    """One model and named scenarios of it."""

    title: str | None = Field(default=None, description="one line for people")
    model: Annotated[Any, Named("models")] = Field(
        description="the model: a name, {hf: PATH} of a config.json, or a mapping that may extend one with `extends`"
    )
    scenarios: dict[str, Annotated[Any, Named("scenarios")]] = Field(min_length=1, description="name -> scenario")
    sources: list[Source] = Field(default=[], description="sources of the values")


def scenario_key(word: str, phase: str = "") -> str | None:
    """Return the key that a word means, one of another tool or misspelt, null for none. phase: whose keys, else of all.

    One of another tool is a path where its value is inside a section, as `parallel.tp` is.
    """
    models = [PHASES[phase]] if phase in PHASES else PHASES.values()
    known = list(dict.fromkeys(name for model in models for name in keys_at(model, ())))
    ours = OUR_NAMES.get(word, word)
    if word in known or ours.partition(".")[0] in known:
        return word if phase and word in known else ours
    return next(iter(difflib.get_close_matches(word, known, 1)), None)


def phases_with(key: str) -> list[str]:
    """Return the phases whose scenarios have `key`, empty if all or none have it."""
    phases = [phase for phase, model in PHASES.items() if key in model.model_fields]
    return phases if len(phases) < len(PHASES) else []
