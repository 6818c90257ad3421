"""What a model is: a list of layers, each a mixer (attention in some form) and a feed-forward part."""

from __future__ import annotations

from typing import TypeAlias

from costmodel.quantities import Count, Quantity
from costmodel.records import Record
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
from costmodel.workload.mixers import SelectiveScan as SelectiveScan
from costmodel.workload.mixers import Spectral as Spectral
from costmodel.workload.patterns import Pattern as Pattern


class NoFfn(Record):
    """No feed-forward part: the layer is a mixer alone, such as a memory before attention."""


class DenseFfn(Record):
    """Two matrices around an activation, or three with a gate (`gated`: SwiGLU and kin).

    channels_first: they are 1 x 1 convolutions of NCHW tensors, transposed before and after.
    """

    intermediate: Count
    gated: bool
    bias: bool = False
    channels_first: bool = False


class MoeFfn(Record, kw_only=True):
    """Routed experts, each an FFN, of which a token visits `top_k`, plus `shared` experts that it always visits.

    shared_intermediate: width of one shared expert (null: as a routed one).
    groups, group_top_k: equal groups of experts, and how many a token may use: node-limited routing (null: free).
    gated, bias: as of a dense FFN; router_bias: one number per expert.
    shared_gate: one more output in the router's format weighs the shared experts.
    masked: share of the routed experts that are off and get no tokens (MoTE).
    router_extra: `token_similarity` (S^2*d: scores are smoothed by the similarity of tokens) or `attention_matrix`
        (S^2*E: by the layer's attention); null: neither.
    latent: width to which tokens are projected before the routed experts, and from which their sum is projected back
        (null: experts work on the residual stream's width); latent_norm: their sum is normalised before that.
    zero: experts without weights that the router may choose as well. `top_k` is then the mean of the others.
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
    latent: Count | None = None
    latent_norm: bool = False
    zero: Count = 0.0


Ffn: TypeAlias = "DenseFfn | MoeFfn | NoFfn"


class Layer(Record):
    """`repeat` equal layers in a row.

    norm: `rms` (a scale), `layer` (scale and bias) or `layer_no_bias` (a scale).
    `none`: no residual sums either.
    norm_position: `before` mixer and FFN, `after` them (before the residual add), or `both`.
    block: `sequential`, or `parallel`: mixer and FFN read the same input.
    shared_norm: through one norm.
    width: of the residual stream here (null: the model's).
    scale: tokens here per token of the input, for stages that shrink a grid.
    plain: no residual sum. The mixer's norm is folded into it, and an activation follows.
    """

    repeat: int
    mixer: Mixer
    ffn: Ffn
    norm: str = "rms"
    dropout: bool = False
    norm_position: str = "before"
    block: str = "sequential"
    shared_norm: bool = False
    width: Count | None = None
    scale: Quantity = 1.0
    plain: bool = False


class Mtp(Record):
    """Multi-token prediction: `depth` modules, each with layers of its own plus a 2*hidden -> hidden GEMM.

    layers: of one module, in order (null: one more layer like the last).
    """

    depth: int
    layers: tuple[Layer, ...] | None = None


class LayerEmbedding(Record):
    """Per-layer embeddings: a table of `rows` x (layers * width), whose row a gate adds to every layer [Gemma 3n].

    Each layer has d x width and width x d around the product with its part of the row, and a norm. The model projects
    the embedding's output to layers * width and normalises it.
    """

    rows: Count
    width: Count


class Encoder(Record, kw_only=True):
    """A tower for images or sound before the language model: its layers see patches, `merge` of which are a token.

    inputs: numbers of a patch, projected to `hidden` by a d x inputs matrix, with `bias`.
    positions: rows of its learned position table (0: none).
    final_norm: kind of the norm behind its layers (null: none).
    projectors: matrices (inputs, outputs) that make tokens of the language model; projector_bias: with biases;
        projector_norms: elements of their norms, biases included.
    """

    hidden: Count
    inputs: Count
    layers: tuple[Layer, ...]
    merge: Count
    projectors: tuple[tuple[Count, Count], ...]
    bias: bool = False
    positions: Count = 0.0
    final_norm: str | None = None
    projector_bias: bool = False
    projector_norms: Count = 0.0


class Architecture(Record):
    """A transformer. `layers` are its runs of equal layers in order. A run that recurs is the same object.

    vocabulary: rows of the embedding as stored, padding included.
    positions: length of a learned position table (null: rotary or none).
    final_norm: the norm before the head (`none`: none; null: as of the last layer).
    embedding_norm: a norm on the embedding's output (null: none).
    features: inputs are vectors instead of rows of a table, such as image patches; the head sees the last layer's
        tokens.
    streams: copies of the residual stream that hyper-connections mix around every mixer and FFN (1: a plain residual).
    residual_block: layers of a block whose sum is a stream of its own; attention over the blocks feeds every mixer and
    FFN (null:
        a plain residual).
    layer_embedding: null without one.
    encoder: a tower for images or sound (null: none). It runs only for those.
    """

    name: str
    hidden: Count
    vocabulary: Count
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    positions: Count | None = None
    mtp: Mtp | None = None
    head_bias: bool = False
    final_norm: str | None = None
    embedding_norm: str | None = None
    features: bool = False
    streams: Count = 1.0
    residual_block: Count | None = None
    layer_embedding: LayerEmbedding | None = None
    encoder: Encoder | None = None

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
