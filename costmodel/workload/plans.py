"""What is asked of a model in each phase: a training step, a prompt, a step of decoding, requests in flight."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np

from costmodel.declared import (
    EventRate,
    Integer,
    NameSet,
    Number,
    NumberOrZero,
    PositiveNumber,
    Share,
    ShareOrZero,
    Whole,
)
from costmodel.errors import InputError
from costmodel.quantities import Count, Quantity, minimum, uniform_int, where
from costmodel.records import Record, ValueRecord, field
from costmodel.workload.adapters import Adapters, LoraOfRequests
from costmodel.workload.engine import EngineMemory, Scheduler
from costmodel.workload.requests import Replicas, RequestClass, RequestStream, SessionMeans, Slo
from costmodel.workload.work import EVERY_OTHER

# What may be named: each drops the tensors that the operator produces. `layer` keeps a layer's input only.
OPERATORS = frozenset(
    {"norm", "qkv", "mla_down", "mla_up", "attention_core", "ffn_up", "activation", "dispatch", "dropout", "layer"}
    | {EVERY_OTHER}
)

SETS = {
    "none": frozenset[str](),
    "selective": frozenset({"attention_core"}),  # Korthikanti et al., arXiv 2205.05198, section 5
    "full": frozenset({"layer"}),  # Chen et al., arXiv 1604.06174: one checkpoint a layer
    "deepseek_v3": frozenset({"norm", "mla_up", "activation"}),  # arXiv 2412.19437, section 3.2.3
}


def expand(names: Iterable[str]) -> frozenset[str]:
    """Return the operators that set and operator names stand for. Raises InputError on an unknown name."""
    operators: set[str] = set()
    for name in names:
        if name not in SETS and name not in OPERATORS:
            raise InputError.single(
                f"unknown operator `{name}`",
                field="recompute",
                hint=f"write one of {', '.join([*SETS, *sorted(OPERATORS)])}",
            )
        operators |= SETS.get(name, frozenset({name}))
    return frozenset(operators)


StageNumber: TypeAlias = Annotated[int, Whole(-(2**16), single=True)]


class PlanOfParts(Record):
    """A plan of several parts, each with a layout of its own.

    kind: name of its set of metrics.
    """

    phase: ClassVar[str]
    kind: ClassVar[str]

    @property
    def devices(self) -> Count:
        """Return the devices of all parts."""
        raise NotImplementedError

    @property
    def part_names(self) -> tuple[str, ...]:
        """Return the names of scenarios that are its parts."""
        return ()

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the scenarios that it consists of, the main one first. None where its parts are no scenarios."""
        return ()


class Placement(ValueRecord):
    """The pipeline stages of embedding, head and MTP modules. Negative ones count from the last, as in Python."""

    embedding: Annotated[StageNumber, "stage of the embedding"] = 0
    head: Annotated[StageNumber, "stage of the output head"] = -1
    mtp: Annotated[StageNumber, "stage of the MTP modules"] = -1


class Sharding(Record):
    """How ranks that hold the same parameters reduce gradients and gather weights. Null: as the ZeRO stage implies.

    group: ranks that share one copy of the states, which others repeat (null: all of them).
    gradients: the format that gradients travel in (null: the one they are kept in).
    """

    overlap: Annotated[
        bool | None, "overlap gathers and reductions with computation, layer by layer; null: stage 3 only"
    ] = None
    reduce: Annotated[
        Literal["micro_batch", "step"] | None,
        "when gradients are reduced; null: after every micro-batch from stage 2 on",
    ] = None
    keep_gathered: Annotated[bool, "stage 3 keeps gathered weights for the backward pass"] = False
    group: Count | None = None
    gradients: str | None = None


class Preference(Record):
    """Training on pairs of an answer that is preferred and one that is not, against a reference (DPO).

    [Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, equation 7]
    """

    reference: Annotated[
        Literal["copy", "base", "none"] | None,
        "the reference's pass: of a frozen copy of the weights, of the base without its adapters, or none (its log "
        "probabilities are in the data); null: `base` with adapters, else `copy`",
    ] = None


class Training(Record):
    """A training step.

    recompute: operators whose forward the backward pass repeats.
    stages: layers of each pipeline stage in order (all stages, virtual ones included), null: as even as possible with
    the shorter stages last.
    zero: ZeRO stage.
    sharding: its options.
    muon: Newton-Schulz iterations of a matrix' update by Muon, null: AdamW updates all parameters.
    """

    phase: ClassVar[str] = "training"
    schedule: str
    global_batch: Annotated[Number, "sequences per step"]
    sequence: Annotated[Number, "tokens per sequence"]
    micro_batch: Annotated[Number, "sequences of one micro-batch per data-parallel rank"] = 1.0
    recompute: Annotated[
        frozenset[str],
        NameSet(tuple(SETS), tuple(sorted(OPERATORS))),
        "operators recomputed in the backward pass",
    ] = frozenset()
    zero: int = 1
    stages: tuple[int, ...] | None = None
    placement: Annotated[Placement, "stages of embedding, head and MTP"] = Placement()
    sharding: Sharding = Sharding()
    muon: Count | None = None
    adapters: Annotated[Adapters | None, "low-rank adapters of frozen weights (LoRA, QLoRA); null: all are trained"] = (
        None
    )
    preference: Annotated[
        Preference | None,
        "preference training (DPO), `global_batch` and `micro_batch` then count pairs of sequences; null: next tokens",
    ] = None
    loss_chunks: Annotated[
        Number,
        "parts of a micro-batch whose head, loss and gradient are computed one after the other, as by a chunked or "
        "fused linear cross-entropy; only the logits of one are in memory",
    ] = 1.0

    @property
    def answers(self) -> Count:
        """Return the sequences of one of `global_batch`: two of a pair, else one."""
        return 1.0 if self.preference is None else 2.0

    @property
    def tokens(self) -> Count:
        """Return the tokens of a step."""
        return self.global_batch * self.answers * self.sequence

    @property
    def reference(self) -> str:
        """Return whose pass without gradients goes along: `copy`, `base` or `none`."""
        if self.preference is None:
            return "none"
        return self.preference.reference or ("copy" if self.adapters is None else "base")

    @property
    def overlaps_communication(self) -> bool:
        """Tell whether gathers and reductions run during computation."""
        return self.zero == 3 if self.sharding.overlap is None else self.sharding.overlap

    @property
    def reduces_each_micro_batch(self) -> bool:
        """Tell whether gradients are reduced after every micro-batch rather than once a step."""
        return self.zero >= 2 if self.sharding.reduce is None else self.sharding.reduce == "micro_batch"

    @property
    def has_async_reduce(self) -> bool:
        """Tell whether reductions of a pass run on during those that follow it: those of stage 2, where they overlap.

        Its weights stay whole until the step ends, and what keeps them so does not wait for reductions in between
        [PyTorch, FSDPModule.set_is_last_backward]. With stage 3 every backward pass ends with a wait for its own
        [FSDP, _post_backward_final_callback].
        """
        return self.zero == 2 and self.reduces_each_micro_batch and self.overlaps_communication

    @property
    def shards_gradients(self) -> bool:
        """Tell whether a rank keeps its share of the gradients only: from stage 2 on, if it reduces them at once."""
        return self.zero >= 2 and self.reduces_each_micro_batch

    @property
    def regathers_weights(self) -> bool:
        """Tell whether a backward pass has to gather the weights again."""
        return self.zero == 3 and not self.sharding.keep_gathered


class Speculative(Record):
    """Tokens that are drafted and that one pass of the model verifies.

    acceptance: probability that a level has a token that is kept, if those before it were kept.
    acceptances: the same level by level, null: `acceptance` for all.
    branches: children of a node by level of a tree of drafts, null: a chain.
    """

    depth: Annotated[NumberOrZero, "tokens drafted per step, verified by the next pass; levels of a tree"]
    acceptance: Quantity
    acceptances: tuple[float, ...] | None = None
    branches: tuple[float, ...] | None = None
    assumed: Annotated[
        bool, "acceptances were not measured: intervals hold how far serving with such drafts was off elsewhere"
    ] = False
    drafter: Annotated[
        Literal["mtp", "eagle3", "model", "ngram"],
        "mtp: the model's own modules; eagle3: a head on hidden states of three of its layers; model: another, smaller "
        "model; ngram: words of the context that followed the same ones before, which the host looks up",
    ] = "mtp"

    @property
    def passes(self) -> tuple[float, ...]:
        """Return, for each pass of what drafts, the tokens of a request that it goes on from: one of a chain.

        Level i of a tree goes on from b_1*...*b_(i-1) candidates. Looking words up takes no pass.
        """
        levels = 0 if self.drafter == "ngram" else uniform_int(self.depth)
        return tuple(float(math.prod((self.branches or ())[:level])) for level in range(levels))

    @property
    def candidates(self) -> Count:
        """Return the drafted tokens that a pass verifies for a request: depth, or sum over levels of prod b_i.

        [SpecInfer, arXiv 2305.09781, token trees; Medusa, arXiv 2401.10774, section 2.2]
        """
        if self.branches is None:
            return self.depth
        return sum(math.prod(self.branches[: level + 1]) for level in range(len(self.branches)))

    @property
    def tokens_per_step(self) -> Count:
        """Return the expected tokens of a request in a step: those kept, and the one that the pass itself adds.

        1 + a_1 + a_1*a_2 + .... With one a (1 - a^(depth + 1)) / (1 - a)  [Leviathan et al., arXiv 2211.17192, eq. 1]
        """
        total: Quantity = 1.0
        kept: Quantity = 1.0
        for drafted in range(1, int(np.max(self.depth)) + 1):
            kept = kept * (self.acceptance if self.acceptances is None else self.acceptances[drafted - 1])
            total = total + where(self.depth >= drafted, kept, 0.0)
        return total


def tokens_per_step(speculative: Speculative | None) -> Count:
    """Return the expected tokens of a request in a step: one where nothing is drafted."""
    return 1.0 if speculative is None else speculative.tokens_per_step


def drafted_tokens(speculative: Speculative | None) -> Count:
    """Return the tokens that are drafted for a request in a step, all candidates of a tree."""
    return 0.0 if speculative is None else speculative.candidates


def draft_passes(speculative: Speculative | None) -> tuple[float, ...]:
    """Return the passes that draft behind one of the model (`Speculative.passes`): none where nothing is drafted."""
    return () if speculative is None else speculative.passes


class Images(Record):
    """Images in every prompt: `count` of them, each of `patches` that the model's tower sees."""

    count: Count
    patches: Annotated[
        Number, "patches of an image: (height / patch size) * (width / patch size); `merge` of them are a token"
    ]


CHUNK = (
    "prompt tokens that one pass of an engine computes at most, later ones attending to those before; null: the "
    "framework's `prompt_chunk`, or the budget of its engine's steps; all at once where it has neither"
)
ChunkTokens: TypeAlias = Annotated[Number | None, CHUNK]
MicroBatches: TypeAlias = Annotated[Integer, "overlapping micro-batches"]
PrefixHitRate: TypeAlias = Annotated[ShareOrZero, "share of a prompt found in the prefix cache"]
PromptImages: TypeAlias = Annotated[
    Images | None, "images in every prompt, whose tokens are among `input_tokens`; null: none"
]
Drafts: TypeAlias = Annotated[Speculative | None, "speculative decoding; null: none"]


class Prefill(Record):
    """Prefill: from the prompt to the first token.

    tokens_per_device: over all devices of a tp*cp group there are whole prompts.
    prefix_hit_rate: that share is read and not computed.
    chunk_tokens: of a tp*cp group, null: all.
    """

    phase: ClassVar[str] = "prefill"
    input_tokens: Annotated[Number, "tokens per prompt"]
    tokens_per_device: Annotated[
        PositiveNumber,
        "prompt tokens in flight per device, all micro-batches together; whole prompts per tp * cp group",
    ]
    micro_batches: MicroBatches = 1
    prefix_hit_rate: PrefixHitRate = 0.0
    speculative: Speculative | None = None
    denoising: Annotated[Denoising | None, "diffusion passes per sequence; null: one"] = None
    chunk_tokens: ChunkTokens = None
    images: PromptImages = None

    @property
    def steps(self) -> Count:
        """Return the passes over each sequence."""
        return 1.0 if self.denoising is None else self.denoising.steps

    @property
    def branches(self) -> Count:
        """Return the copies of each prompt's sequence in a pass."""
        return 1.0 if self.denoising is None else self.denoising.branches

    @property
    def uncomputed_share(self) -> Quantity:
        """Return the share of a sequence that a pass reads and does not compute: in a cache, or not denoised."""
        active = 1.0 if self.denoising is None else self.denoising.active
        return 1.0 - active * (1.0 - self.prefix_hit_rate)


class Denoising(Record):
    """Diffusion: `steps` passes over `branches` copies of a sequence (guided and not), computing a share `active`."""

    steps: Annotated[Number, "consecutive passes over every sequence"]
    branches: Annotated[Number, "copies of a sequence per pass: guidance, samplers"] = 1.0
    active: Annotated[Share, "share of a sequence that is denoised, attending to all of it"] = 1.0


class Decode(Record):
    """Decode: one step for every running request, on each pipeline stage as many."""

    phase: ClassVar[str] = "decode"
    batch_per_device: Annotated[
        PositiveNumber, "requests per device, all micro-batches together; whole requests per tp * cp group"
    ]
    input_tokens: Annotated[Number, "tokens per prompt"]
    output_tokens: Annotated[NumberOrZero, "output tokens per request"] = 0.0
    micro_batches: MicroBatches = 1
    speculative: Drafts = None
    adapters: LoraOfRequests = None

    @property
    def mean_kv_len(self) -> Count:
        """Return the mean context over a request's life: input_tokens + output_tokens / 2."""
        return self.input_tokens + self.output_tokens / 2


class Generate(Record):
    """A static batch: all prompts at once, then all output tokens."""

    phase: ClassVar[str] = "generate"
    batch: Annotated[Number, "requests of all data-parallel replicas together"]
    input_tokens: Annotated[Number, "tokens per prompt"]
    output_tokens: Annotated[Number, "output tokens per request, including the first"]
    micro_batches: MicroBatches = 1
    pipeline_batches: Annotated[
        Number | None,
        "pipeline micro-batches of a replica's batch; null: one per stage, or fewer if there are fewer sequences",
    ] = None
    speculative: Drafts = None
    chunk_tokens: ChunkTokens = None
    images: PromptImages = None


class Serving(Record):
    """Continuous batching in steady state.

    Closed loop: `concurrency` requests in flight in one data-parallel replica (a tp*cp*pp group), one that ends is
    replaced at once. Open loop: requests arrive at a `rate` [1/s] of all replicas. At most one of both is stated, none
    where a trace says when requests arrive.
    arrival_scv: squared coefficient of variation of the times between arrivals, 1 of a Poisson process.
    memory: of the engine, null: requests are admitted until a device is full.
    blocks: of its KV cache, null: what fits.
    means: of sessions, where the plan's request is their mean one.
    """

    phase: ClassVar[str] = "serving"
    input_tokens: Count
    output_tokens: Count
    concurrency: Annotated[Number | None, "requests in flight per replica (closed loop); not with `rate` or pools"] = (
        None
    )
    prefix_hit_rate: PrefixHitRate = 0.0
    micro_batches: Annotated[Integer, "overlapping micro-batches; pools have their own"] = 1
    speculative: Drafts = None
    rate: Annotated[EventRate | None, "requests that arrive, of the whole deployment (open loop); not with pools"] = (
        None
    )
    arrival_scv: Quantity = 1.0
    scheduler: Scheduler = field(default_factory=Scheduler)
    memory: EngineMemory | None = None
    blocks: Count | None = None
    requests: Annotated[
        RequestStream | None, "requests over time; null: Poisson at `rate`, or as many as `concurrency` in flight"
    ] = None
    replicas: Annotated[Replicas, "equal engines and their router"] = field(default_factory=Replicas)
    slo: Annotated[Slo, "service-level objective"] = field(default_factory=Slo)
    images: PromptImages = None
    adapters: LoraOfRequests = None
    means: SessionMeans | None = None

    @property
    def seats(self) -> Count | None:
        """Return how many requests an engine runs at most: its scheduler's, whose adapters are in memory. Null: any."""
        most, own = self.scheduler.max_num_seqs, None if self.adapters is None else self.adapters.seats
        return own if most is None else most if own is None else minimum(most, own)

    @property
    def classes(self) -> tuple[RequestClass, ...]:
        """Return the classes of requests, none where all are alike."""
        return () if self.requests is None else self.requests.classes


class Diffusion(Record, kw_only=True):
    """Images or videos from noise: texts are encoded, latents denoised in steps, and decoded to pixels.

    guidance: null is the model's.
    """

    phase: ClassVar[str] = "diffusion"
    height: Annotated[Number, "pixels from top to bottom"]
    width: Annotated[Number, "pixels from left to right"]
    frames: Annotated[Number, "frames of a video; 1: an image"] = 1.0
    steps: Annotated[Number, "denoising steps"]
    batch: Annotated[Number, "images or videos of all data-parallel ranks together"] = 1.0
    guidance: Annotated[
        Literal["classifier_free", "embedded", "none"] | None,
        "classifier_free: two passes a step, with the prompt and without it; embedded or none: one; null: as the model",
    ] = None
    guidance_parallel: Annotated[
        Number, "data-parallel ranks between which the passes of a step are divided; 1: each rank computes all"
    ] = 1.0
    samplers: Annotated[Number, "further sequences that are denoised along with each image, and itself"] = 1.0
    active: Annotated[Share, "share of an image that is denoised, attending to all of it"] = 1.0
    cached_steps: Annotated[ShareOrZero, "share of the steps that reuse layers of an earlier one"] = 0.0
    cached_layers: Annotated[Share, "share of the layers that such a step reuses"] = 1.0
    encoded: Annotated[NumberOrZero, "images or videos that the autoencoder encodes for each one that is made"] = 0.0
    tile: Annotated[
        Number | None, "pixels along height and along width of the tiles that the decoder makes one by one; null: all"
    ] = None
    tile_frames: Annotated[Number | None, "frames of such a tile; null: all"] = None
    tile_overlap: Annotated[ShareOrZero, "share of a tile along each axis that the next one makes again"] = 0.25
    resident: Annotated[
        Literal["all", "one"],
        "parts whose weights are in device memory: all, or one at a time, which is copied from the host before it runs",
    ] = "all"

    def passes(self, guidance: str) -> Count:
        """Return the sequences that a step computes for an image. guidance: the model's, if this states none."""
        own = guidance if self.guidance is None else self.guidance
        return self.samplers * (2.0 if own == "classifier_free" else 1.0)


class ExpertBound(Record):
    """The closed-form bound of expert-parallel decoding: two micro-batches, `sends` copies of each token both ways.

    hidden: width a token is sent with (the paper rounds 7168 to 7000).
    """

    phase: ClassVar[str] = "ep_bound"
    tokens_per_device: Annotated[Number, "tokens per micro-batch and device"]
    sends: Annotated[Number, "copies of a token sent by a device"]
    hidden: Annotated[Number, "width of a sent token"]
