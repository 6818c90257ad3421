"""The framework file (kernels and hosts) and the precision file (number formats)."""

from typing import Annotated, Literal

from pydantic import Field

from costmodel.schema.device import DType, LinearType, Source, StoredType
from costmodel.schema.quantity import Bits, Integer, LoadFactor, Measure, Number, Size, Time, Value
from costmodel.schema.strict import Strict

TimeOrZero = Annotated[Value, Measure("time", zero=True)]


class TileFile(Strict):
    """A kernel's output tile."""

    m: Integer = Field(description="rows")
    n: Integer = Field(description="columns")
    split: Integer = Field(default=1, description="blocks that share the K loop of one tile")


class HostTimesFile(Strict):
    """What the host's program adds to a step: scheduling, sampling, the code between kernels."""

    step: TimeOrZero = Field(default=0.0, description="to each step")
    sequence: TimeOrZero = Field(default=0.0, description="for each sequence of a rank")
    layer: TimeOrZero = Field(default=0.0, description="for each layer")
    parallel: TimeOrZero = Field(default=0.0, description="for each layer, where tensor parallelism splits it")
    experts: TimeOrZero = Field(default=0.0, description="for each layer, where it has experts")
    group: TimeOrZero = Field(default=0.0, description="for each group of heads of a layer beyond the first")
    operator: TimeOrZero = Field(
        default=0.0,
        description="to start a kernel or message of a training pass, which takes at least all its starts",
    )


class FrameworkFile(Strict):
    """What belongs to kernels and hosts rather than to devices."""

    name: str = Field(description="name by which scenarios call it")
    gemm_tiles: list[TileFile] = Field(min_length=1, description="candidate tiles; the fastest is taken")
    weight_only_tiles: list[TileFile] = Field(
        default=[], description="candidate tiles of products that expand narrow weights; empty: as `gemm_tiles`"
    )
    attention_tiles: list[TileFile] = Field(
        min_length=1, description="candidate tiles of attention kernels, queries by keys; the fastest is taken"
    )
    promotion_interval: Number = Field(description="elements of K between promotions of an FP8 accumulator")
    launch: Time = Field(description="time of an empty kernel on a stream")
    reserve: Size = Field(description="device memory that context and libraries keep")
    implementations: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="operator family or `family/variant` -> implementation under `calibrations/DEVICE`; of several the "
        "first that the device has. `attention_prefill: unfused` materialises the scores, `masked-softmax` too, with "
        "scale, causal mask and softmax in one kernel",
    )
    unfused_elementwise: bool = Field(
        default=False,
        description="element-wise operators are kernels of their own: residual additions, gates, gradients of biases "
        "and norms, and the parts of the cross-entropy are not fused with their neighbours",
    )
    moe_comm_slowdown: LoadFactor = Field(
        default=1.0, description="how much longer kernels take while expert exchanges that hold processors run"
    )
    tensor_overlap: Literal["none", "gradients", "all"] = Field(
        default="none",
        description="tensor-parallel messages of training that run beside products: those of input gradients beside "
        "the weight gradients of the same layer, or all, in as many parts as ranks, beside the product they belong to",
    )
    accumulation: Literal["product", "buffer", "autograd"] = Field(
        default="product",
        description="what adds gradients of a micro-batch to those before it: the product itself, or a kernel of its "
        "own, to a buffer always, or by autograd for all but the first",
    )
    reduction: Literal["scatter", "all_reduce"] = Field(
        default="scatter",
        description="how ZeRO's first two stages bring gradients together: each rank receives its part, or all of them",
    )
    sustained_slowdown: LoadFactor = Field(
        default=1.0,
        description="how much longer kernels take in a step of training than in the loops that tables time",
    )
    dp_comm_slowdown: LoadFactor = Field(
        default=1.0, description="how much longer kernels take while data-parallel ranks gather or reduce beside them"
    )
    host: HostTimesFile = Field(default_factory=HostTimesFile, description="what the host's program adds to a step")
    kv_layout: Literal["static", "paged", "concat"] = Field(
        default="static",
        description="the cache has room for what comes, in one piece or in pages, or is copied whole in every step",
    )
    sources: list[Source] = Field(default=[], description="where the values come from")


class PrecisionFile(Strict):
    """The number format of each operator family and stored tensor."""

    name: str = Field(description="name by which scenarios call it")
    linear: LinearType = Field(description="projections and FFN matrix products")
    attention: DType = Field(description="scores and their product with the values")
    router: DType = Field(description="expert router")
    head: DType = Field(description="LM head")
    residual: DType = Field(description="residual stream, norms and embedding output")
    weights: StoredType = Field(
        description="weights of linear layers as memory holds them; narrower than `linear`, products expand them"
    )
    master: DType | None = Field(description="master copy of the optimizer; null where there is none")
    gradients: DType = Field(description="accumulated gradients")
    moments: DType = Field(description="optimizer moments")
    kv_cache: StoredType = Field(description="cached keys and values")
    activations: DType = Field(description="activations kept for the backward pass")
    attention_output: DType | None = Field(
        default=None, description="attention output kept for the backward pass; null: as `activations`"
    )
    scale_block: Number | None = Field(default=None, description="elements per FP32 scale; null: one scale a tensor")
    head_weights: StoredType | None = Field(default=None, description="weights of the LM head; null: as `head`")
    weight_group: Number | None = Field(
        default=None, description="weights along K per scale; null: `scale_block` squared, or one scale a channel"
    )
    weight_scale: DType = Field(default="fp16", description="format of the scale of a group of weights")
    weight_zero: DType | None = Field(
        default=None, description="format of the zero point of a group of weights; null: symmetric"
    )
    weight_bits: Bits | None = Field(
        default=None, description="average bits of a stored weight, scales included; null: by the format"
    )
    kv_group: Number | None = Field(
        default=None, description="cached elements of a token and head per scale; null: one scale a tensor"
    )
    kv_scale: DType = Field(default="fp16", description="format of the scale of a group of cached elements")
    kv_zero: DType | None = Field(default=None, description="format of their zero point; null: symmetric")
    branches: DType | None = Field(
        default=None,
        description="what mixers and FFNs pass on between a norm and the sum, as under autocast; null: as `residual`",
    )
    sources: list[Source] = Field(default=[], description="where the values come from")
