"""What a model is: a list of layers, each a mixer (attention in some form) and a feed-forward part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Annotated, Literal, TypeAlias

from costmodel.declared import Integer, Number, NumberOrZero, PositiveNumber, ShareOrZero
from costmodel.errors import InputError
from costmodel.quantities import Count
from costmodel.records import Record, ValueRecord, replace
from costmodel.workload.mixers import Attention as Attention
from costmodel.workload.mixers import CompressedAttention as CompressedAttention
from costmodel.workload.mixers import Convolution as Convolution
from costmodel.workload.mixers import Gate as Gate
from costmodel.workload.mixers import HeadGroup as HeadGroup
from costmodel.workload.mixers import HeadRoute as HeadRoute
from costmodel.workload.mixers import Indexer as Indexer
from costmodel.workload.mixers import KernelTraits as KernelTraits
from costmodel.workload.mixers import KvSource as KvSource
from costmodel.workload.mixers import Memories as Memories
from costmodel.workload.mixers import MilPool as MilPool
from costmodel.workload.mixers import Mixer as Mixer
from costmodel.workload.mixers import Mla as Mla
from costmodel.workload.mixers import NeuralMemory as NeuralMemory
from costmodel.workload.mixers import NoMixer as NoMixer
from costmodel.workload.mixers import PlainProjection as PlainProjection
from costmodel.workload.mixers import Recurrence as Recurrence
from costmodel.workload.mixers import ResidualBlock as ResidualBlock
from costmodel.workload.mixers import SelectiveScan as SelectiveScan
from costmodel.workload.mixers import Spectral as Spectral
from costmodel.workload.patterns import Pattern as Pattern
from costmodel.workload.plans import Placement

NormKind: TypeAlias = Literal["rms", "layer", "layer_no_bias", "plain", "group"]


class NoFfn(Record):
    """No feed-forward part: the layer is a mixer alone, such as a memory before attention."""


class DenseFfn(Record):
    """Two matrices around an activation, or three with a gate (`gated`: SwiGLU and kin)."""

    intermediate: Count
    gated: bool
    bias: Annotated[bool, "matrices have biases"] = False
    channels_first: Annotated[
        bool, "matrices are 1 x 1 convolutions of channels-first tensors, transposed before and after"
    ] = False


class MoeFfn(Record, kw_only=True):
    """Routed experts, each an FFN, of which a token visits `top_k`, plus `shared` experts that it always visits."""

    experts: Annotated[Number, "routed experts"]
    intermediate: Annotated[Number, "inner width of a routed expert"]
    top_k: Annotated[Integer, "routed experts per token"]
    shared: Annotated[NumberOrZero, "shared experts, which every token visits"] = 0.0
    shared_intermediate: Annotated[Number | None, "inner width of a shared expert; null: as a routed expert"] = None
    groups: Annotated[Number | None, "equal groups of experts; null: no groups"] = None
    group_top_k: Annotated[Integer | None, "groups that a token is limited to"] = None
    gated: Annotated[bool, "experts have a gate, like `glu`"] = True
    bias: Annotated[bool, "the experts' matrices have biases"] = False
    clamped: Annotated[bool, "what the experts' activation takes is clamped first"] = False
    router_bias: Annotated[bool, "the router has a bias"] = False
    shared_gate: Annotated[bool, "a separate gate scales the shared experts"] = False
    masked: Annotated[ShareOrZero, "share of the routed experts that are switched off"] = 0.0
    router_extra: Annotated[
        Literal["token_similarity", "attention_matrix"] | None,
        "scores are smoothed by token similarity, or by the layer's attention; null: not",
    ] = None
    latent: Annotated[Number | None, "width that tokens are projected to for the routed experts; null: the model's"] = (
        None
    )
    latent_norm: Annotated[bool, "the experts' sum is normalised before it is projected back"] = False
    zero: Annotated[
        NumberOrZero, "experts without weights among the router's choices; top_k is the mean of the others"
    ] = 0.0


Ffn: TypeAlias = "DenseFfn | MoeFfn | NoFfn"


class Layer(Record):
    """`repeat` equal layers in a row.

    `none`: no residual sums either.
    """

    repeat: int
    mixer: Mixer
    ffn: Ffn
    norm: Annotated[
        Literal["rms", "layer", "layer_no_bias", "plain", "group", "none"],
        "kind of normalisation; `layer` and `group` have a bias, `plain` has no parameters; none: neither norms nor "
        "residual sums",
    ] = "rms"
    dropout: Annotated[bool, "dropout in training: its masks are stored"] = False
    norm_position: Annotated[
        Literal["before", "after", "both"], "norms before mixer and FFN, after them (before the residual add), or both"
    ] = "before"
    block: Annotated[
        Literal["sequential", "parallel"], "the FFN reads the mixer's output, or both read the same input"
    ] = "sequential"
    shared_norm: Annotated[bool, "mixer and FFN of a parallel block share one norm"] = False
    width: Annotated[Number | None, "residual width in this layer; null: the model's"] = None
    scale: Annotated[PositiveNumber, "tokens in this layer per input token, if stages shrink a grid or drop tokens"] = (
        1.0
    )
    plain: Annotated[bool, "plain layer: no residual connection, norm folded into the mixer, activation after it"] = (
        False
    )
    frame_scale: Annotated[PositiveNumber, "frames in this layer per frame behind the first, if stages thin them"] = 1.0
    text: Annotated[
        Literal["none", "joined", "own", "read"],
        "tokens of a prompt in the layer of a denoising network: none; joined with the others; with matrices of their "
        "own around a joint attention core; or the same, but what becomes of them is used no more",
    ] = "none"
    modulation: Annotated[
        Literal["none", "matrix", "table"],
        "scale, shift and gate of each branch by the time step: none; by a matrix of the layer; or by a table of the "
        "layer that is added to what all layers share",
    ] = "none"

    wide: Annotated[bool, "linear layers stay in the residual stream's format, whatever the precision"] = False

    @property
    def two_streams(self) -> bool:
        """Tell whether the tokens of a prompt have matrices of their own."""
        return self.text in ("own", "read")


class Mtp(Record):
    """Multi-token prediction: `depth` modules, each with layers of its own plus a 2*hidden -> hidden GEMM.

    layers: of one module, in order (null: one more layer like the last).
    """

    depth: Annotated[Integer, "MTP modules"]
    layers: tuple[Layer, ...] | None = None


class Drafter(Record):
    """What drafts tokens for another: a model, or an EAGLE-3 head on hidden states of three layers.

    architecture: its own; of a head the vocabulary is of the words that it can draft.
    """

    architecture: Architecture
    is_head: bool


class LayerEmbedding(Record):
    """Per-layer embeddings: a table of `rows` x (layers * width), whose row a gate adds to every layer [Gemma 3n].

    Each layer has d x width and width x d around the product with its part of the row, and a norm. The model projects
    the embedding's output to layers * width and normalises it.
    """

    rows: Annotated[Number, "rows of the table"]
    width: Annotated[Number, "elements of each layer's part of a row"]


class Encoder(Record, kw_only=True):
    """A tower for images or sound before the language model: its layers see patches, `merge` of which are a token.

    projectors: matrices (inputs, outputs) that make tokens of the language model; projector_bias: with biases;
        projector_norms: elements of their norms, biases included.
    """

    hidden: Annotated[Number, "width of its residual stream"]
    inputs: Annotated[Number, "numbers of a patch: channels * height * width * frames"]
    layers: tuple[Layer, ...]
    merge: Annotated[Number, "patches per token of the language model"] = 1.0
    projectors: tuple[tuple[Count, Count], ...]
    bias: Annotated[bool, "the projection of patches has a bias"] = False
    positions: Annotated[NumberOrZero, "rows of a learned position table; 0: none"] = 0.0
    final_norm: Annotated[NormKind | None, "norm behind its layers; null: none"] = None
    projector_bias: Annotated[bool, "projectors have biases"] = False
    projector_norms: Annotated[NumberOrZero, "elements of the projectors' norms, with biases"] = 0.0


class TextEncoder(Record, kw_only=True):
    """A language model that turns a prompt into what a denoising network reads: without a head."""

    tokens: Annotated[Number, "tokens of a prompt, padding included"]
    hidden: Annotated[Number, "width of its residual stream"]
    vocabulary: Annotated[Number, "rows of its embedding"]
    layers: tuple[Layer, ...]
    positions: Annotated[NumberOrZero, "rows of a learned position table; 0: none"] = 0.0

    @property
    def architecture(self) -> Architecture:
        """Return the model, whose tokens are taken from its last layer."""
        return Architecture(
            "text encoder", self.hidden, self.vocabulary, self.layers, positions=self.positions or None, headless=True
        )


class Denoiser(Record, kw_only=True):
    """What makes a model one that denoises latents of images and videos: its latents, texts, encoders and decoder.

    embedders: matrices (inputs, outputs) of vectors of a sequence: time step, guidance, pooled text.
    text_projectors: matrices (inputs, outputs) that bring features of texts to the layers' width.
    encoder, decoder: layers of the autoencoder, whose grid is that of the latents; their `scale` makes pixels of it.
    """

    channels: Annotated[Number, "channels of a latent, which the decoder reads"]
    compression: Annotated[Number, "pixels of a latent along height and along width"]
    frame_compression: Annotated[Number, "frames of a latent behind the first frame"] = 1.0
    patch: Annotated[
        Number | None, "latents of a token along height and along width; null: no patches, layers see each latent"
    ] = None
    inputs: Annotated[Number | None, "numbers of a token that enter; null: channels * patch^2"] = None
    text_tokens: Annotated[NumberOrZero, "tokens of a prompt that layers with text have"] = 0.0
    text_projectors: tuple[tuple[Count, Count], ...] = ()
    embedders: tuple[tuple[Count, Count], ...] = ()
    streamed: Annotated[
        bool, "the decoder makes one frame of latents after the other, and keeps what the next reads"
    ] = False
    networks: Annotated[Integer, "networks of these layers that share the steps, by level of noise"] = 1
    guidance: Annotated[
        Literal["classifier_free", "embedded", "none"],
        "how a prompt is given more weight: by a second pass without it, by an input of the network, or not",
    ] = "classifier_free"
    text_encoders: tuple[TextEncoder, ...] = ()
    encoder: tuple[Layer, ...] = ()
    decoder: tuple[Layer, ...] = ()

    @property
    def token_inputs(self) -> Count:
        """Return the numbers of a token that enter the first matrix."""
        return self.token_outputs if self.inputs is None else self.inputs

    @property
    def token_outputs(self) -> Count:
        """Return the numbers of a token that leave the last matrix: channels * patch^2."""
        patch = 1.0 if self.patch is None else self.patch
        return self.channels * patch * patch


class Architecture(Record):
    """A transformer. `layers` are its runs of equal layers in order. A run that recurs is the same object."""

    name: Annotated[str, "name in references"]
    hidden: Annotated[Number, "width of the residual stream"]
    vocabulary: Annotated[Number, "rows of the stored embedding, including padding"]
    layers: tuple[Layer, ...]
    tied_embeddings: Annotated[bool, "LM head and embedding share their weights"] = False
    positions: Annotated[Number | None, "rows of a learned position table; null: none"] = None
    mtp: Annotated[Mtp | None, "multi-token prediction; null: none"] = None
    head_bias: Annotated[bool, "the LM head has a bias"] = False
    final_norm: Annotated[NormKind | Literal["none"] | None, "norm before the LM head; null: as the last layer's"] = (
        None
    )
    embedding_norm: Annotated[NormKind | None, "norm after the embedding; null: none"] = None
    features: Annotated[bool, "inputs are vectors, such as image patches, not token ids"] = False
    streams: Annotated[Number, "residual streams that hyper-connections mix; 1: a plain residual stream"] = 1.0
    residual_block: Annotated[
        Number | None, "layers per block, over whose sums every mixer and FFN attends; null: plain sums"
    ] = None
    layer_embedding: Annotated[LayerEmbedding | None, "per-layer embeddings; null: none"] = None
    encoder: Annotated[Encoder | None, "tower for images or sound; null: none"] = None
    denoiser: Annotated[Denoiser | None, "what denoises latents of images or videos; null: none"] = None
    headless: bool = False
    drafter: Drafter | None = None

    @property
    def depth(self) -> int:
        """Return the number of layers, MTP modules not counted."""
        return sum(layer.repeat for layer in self.layers)

    @property
    def has_experts(self) -> bool:
        """Tell whether any layer has routed experts."""
        return any(isinstance(layer.ffn, MoeFfn) for layer in self.layers)

    @property
    def has_recurrences(self) -> bool:
        """Tell whether any layer's mixer has a state of constant size, which prompts move on."""
        return any(isinstance(layer.mixer, Recurrence | SelectiveScan) for layer in self.layers)

    @property
    def kinds(self) -> dict[Layer, int]:
        """Return the distinct runs, in order of first occurrence, and how many layers each has in all."""
        counts: dict[Layer, int] = {}
        for layer in self.layers:
            counts[layer] = counts.get(layer, 0) + layer.repeat
        return counts


def with_wide_ends(architecture: Architecture, first: int, last: int) -> Architecture:
    """Return an architecture of which so many first and last layers are `wide`."""
    if not (first or last):
        return architecture
    runs, at, end = [], 0, architecture.depth - last
    for layer in architecture.layers:
        edges = sorted({at, at + layer.repeat, *(edge for edge in (first, end) if at < edge < at + layer.repeat)})
        for low, high in pairwise(edges):
            runs.append(replace(layer, repeat=high - low, wide=layer.wide or low < first or low >= end))
        at += layer.repeat
    return replace(architecture, layers=tuple(runs))


# ---- Which layers stand on which pipeline stage ----------------------------------------------------------------------

FIRST_AND_LAST = Placement()


class Stage(ValueRecord):
    """One pipeline stage: how many layers of each of the architecture's kinds, and whether it has the ends.

    `ends` counts embedding, head and MTP modules. Equal stages compare equal, so that work is done once for each kind.
    """

    layers: tuple[int, ...]
    embedding: int = 0
    head: int = 0
    mtp: int = 0


ENDS = 2  # embedding and head, each of which may have a stage without layers


def even_split(depth: int, stages: int) -> tuple[int, ...]:
    """Return layers a stage, as even as possible, the shorter stages last (where the head stands).

    With a stage or two more than layers, head and then embedding have the last and the first to themselves
    [Megatron-LM, --account-for-loss-in-pipeline-split, --account-for-embedding-in-pipeline-split].
    """
    if depth + ENDS == stages:
        return (0, *even_split(depth, stages - 1))
    base, longer = divmod(depth, stages)
    return tuple(base + 1 if stage < longer else base for stage in range(stages))


def stage_layout(
    architecture: Architecture, stages: int, sizes: tuple[int, ...] | None = None, placement: Placement = FIRST_AND_LAST
) -> tuple[Stage, ...]:
    """Return the stages in order. sizes: layers of each (default: even). Raises InputError where they do not add up.

    placement: where the ends stand. By default the embedding on the first stage, head and MTP modules on the last.
    """
    sizes = even_split(architecture.depth, stages) if sizes is None else sizes
    if len(sizes) != stages or sum(sizes) != architecture.depth or min(sizes) < 0:
        raise InputError.single(
            f"{len(sizes)} stages with {sum(sizes)} layers for {stages} stages and {architecture.depth} layers",
            field="stages",
            hint=f"give {stages} layer counts that add up to {architecture.depth}",
        )
    kinds = {layer: index for index, layer in enumerate(architecture.kinds)}
    owner = [kinds[layer] for layer in architecture.layers for _ in range(layer.repeat)]
    modules = 0 if architecture.mtp is None else architecture.mtp.depth
    layout, first = [], 0
    for position, size in enumerate(sizes):
        held = owner[first : first + size]
        first += size
        layout.append(
            Stage(
                tuple(held.count(index) for index in range(len(kinds))),
                embedding=int(position == placement.embedding % stages),
                head=int(position == placement.head % stages),
                mtp=modules if position == placement.mtp % stages else 0,
            )
        )
    return tuple(layout)


def layer_runs(architecture: Architecture, layout: Sequence[Stage]) -> list[tuple[tuple[int, int], ...]]:
    """Return for each stage its runs of equal layers in order: (kind, layers in a row)."""
    kinds = {layer: index for index, layer in enumerate(architecture.kinds)}
    owner = iter([kinds[layer] for layer in architecture.layers for _ in range(layer.repeat)])
    stages = ([next(owner) for _ in range(sum(stage.layers))] for stage in layout)
    return [tuple((kind, len(list(run))) for kind, run in groupby(stage)) for stage in stages]
