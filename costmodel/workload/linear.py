"""What every layer is built from: linear layers with their casts, norms, dropout, tensor-parallel boundaries."""

from __future__ import annotations

from dataclasses import dataclass, replace

from costmodel.quantities import Bytes, Count, Quantity, is_single, minimum
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES, math_unit
from costmodel.workload.operators import Collective, Elementwise, Gemm, HostGemm, Operator, gemm_family
from costmodel.workload.work import Parameters, WorkBuilder


def add_norm(builder: WorkBuilder, context: Context, name: str, kind: str, rows: Count, width: Count) -> None:
    """Add a norm by itself: forward reads x and writes y; backward reads dy and x and writes dx."""
    size = rows * width * context.residual
    gradients = [Elementwise(f"{name} gradient", 3 * size, rows=rows)]
    if context.framework.unfused_elementwise:
        gradients.append(
            Elementwise(f"{name} parameter gradients", 2 * size, rows=rows, calls=2.0 + norm_vectors(kind))
        )
    builder.step("norm", [Elementwise(name, 2 * size, kind="norm", rows=rows)], gradients)
    _own_norm(builder, name, kind, size, width)


def add_residual_norm(
    builder: WorkBuilder, context: Context, name: str, kind: str, *, branches: int = 1, norms: int = 1
) -> None:
    """Add norms fused with the residual add before them, on the whole stream.

    Forward reads the residual and what each branch adds to it and writes their sum and each norm's y; backward reads
    each branch's dy, the sum and the residual's gradient and writes dx. Made again, it reads the kept sum and writes
    each y. branches: 2 in a parallel block, whose `norms` may be one or two.

    Eager frameworks add, normalise and sum gradients one after the other: 3 passes an addition, 2 a norm; backwards
    3 a sum of gradients, 3 a norm and 2 more for its parameters [PyTorch, native/cuda/layer_norm_kernel.cu]. The latter
    are two kernels, partial sums and their sum, and one that adds each vector to what earlier micro-batches left.
    """
    width, rows = context.architecture.hidden, context.residual_tokens
    size = rows * width * context.residual
    if context.framework.unfused_elementwise:
        builder.step(
            "norm",
            [
                Elementwise(f"{name} residual add", 3 * branches * size, kind="add", calls=float(branches)),
                Elementwise(name, 2 * norms * size, kind="norm", rows=rows, calls=float(norms)),
            ],
            [
                Elementwise(f"{name} gradient", 3 * norms * size, rows=rows, calls=float(norms)),
                Elementwise(
                    f"{name} parameter gradients", 2 * norms * size, rows=rows, calls=norms * (2.0 + norm_vectors(kind))
                ),
                Elementwise(f"{name} gradient sum", 3 * branches * size, kind="add", calls=float(branches)),
            ],
            recomputed=[Elementwise(name, 2 * norms * size, kind="norm", rows=rows, calls=float(norms))],
        )
    else:
        builder.step(
            "norm",
            [Elementwise(name, (2 + branches + norms) * size, kind="norm", rows=rows)],
            [Elementwise(f"{name} gradient", (3 + branches) * size, rows=rows)],
            recomputed=[Elementwise(name, (1 + norms) * size, kind="norm", rows=rows)],
        )
    _own_norm(builder, name, kind, size, norms * width)


def add_norm_after(builder: WorkBuilder, context: Context, name: str, kind: str) -> None:
    """Add a norm of a branch's result z with the residual add behind it: x + N(z).

    Forward reads x and z and writes the sum; backward reads the residual's gradient, that of the next branch and z and
    writes the sum of the gradients and dz.
    """
    width, rows = context.architecture.hidden, context.residual_tokens
    size = rows * width * context.residual
    builder.step(
        "norm",
        [Elementwise(name, 3 * size, kind="norm", rows=rows)],
        [Elementwise(f"{name} gradient", 5 * size, rows=rows)],
    )
    _own_norm(builder, name, kind, size, width)


def norm_vectors(kind: str) -> float:
    """Return how many vectors a kind of norm has: a scale, and a bias in a layer norm."""
    return 2.0 if kind == "layer" else 1.0


def _own_norm(builder: WorkBuilder, name: str, kind: str, size: Bytes, width: Count) -> None:
    """Add what a norm keeps and its parameters. width: of all norms on that input."""
    builder.save(f"{name} input", "input", size)
    own = norm_vectors(kind) * width
    builder.add_parameters(Parameters(name, own, own, own))


def add_dropout(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add a dropout on the residual branch: one pass that keeps a one-byte mask.

    Where the residual addition is a kernel by itself, it does the dropout as well and only the mask is more [NVIDIA
    Megatron-LM, core/fusions/fused_bias_dropout.py].
    """
    elements = context.residual_tokens * context.architecture.hidden
    streamed = elements * (2 * context.residual + 1.0)
    forward = (
        Elementwise(name, elements, calls=0.0) if context.framework.unfused_elementwise else Elementwise(name, streamed)
    )
    builder.step("dropout", [forward], [Elementwise(f"{name} gradient", streamed)])
    builder.save(f"{name} mask", "dropout", elements)


def enter_tensor_parallel(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add the collectives before a column-split product.

    Sequence parallel: all-gather, then reduce-scatter of the gradient; else nothing, then all-reduce.
    """
    size, group = context.tokens * context.architecture.hidden * context.residual, context.tp_group
    if context.parallel.sequence_parallel:
        builder.step(
            "tensor_parallel",
            [Collective(f"{name} all-gather", "all_gather", size, group)],
            [Collective(f"{name} gradient reduce-scatter", "reduce_scatter", size, group)],
        )
    else:
        builder.step("tensor_parallel", [], [Collective(f"{name} gradient all-reduce", "all_reduce", size, group)])
    builder.mark_entry()


def leave_tensor_parallel(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add the collectives after a row-split product: the mirror of entering."""
    size, group = context.tokens * context.architecture.hidden * context.residual, context.tp_group
    if context.parallel.sequence_parallel:
        builder.step(
            "tensor_parallel",
            [Collective(f"{name} reduce-scatter", "reduce_scatter", size, group)],
            [Collective(f"{name} gradient all-gather", "all_gather", size, group)],
        )
    else:
        builder.step("tensor_parallel", [Collective(f"{name} all-reduce", "all_reduce", size, group)])
    builder.mark_exit()


def overlap_tensor_parallel(builder: WorkBuilder, context: Context) -> None:
    """Let a finished layer's tensor-parallel messages run beside its products, as the framework does in training.

    [NVIDIA Megatron-LM, core/tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication; Transformer
    Engine, userbuffers]
    """
    which = context.framework.tensor_overlap
    if context.phase == "training" and which != "none":
        builder.overlap_collectives(context.parallel.tp if which == "all" else None)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A matrix of `inputs` x `outputs` on this rank, applied to `rows` tokens.

    total: its parameters in the whole model, and `active` those a token visits (null: all); operator: its own recompute
    name; producer: the recompute name of what makes its input; dtype: null is the precision of linear layers; weight:
    bytes of one weight as the product reads it, where that is not the layer's format (null: it is); groups: experts on
    this rank that get tokens, each `rows` with a standard deviation of `deviation`; held: experts on this rank (null:
    `groups`); load: rows over those of the mean rank; replicas: ranks that repeat the work; cast: whether this layer
    has to cast its input (false where an earlier kernel already did); cast_gradient: the same of its output's gradient;
    kept: bytes of one input element as the backward pass keeps it (null: the cached format); gathered: its input comes
    from an all-gather over tp, of which only this rank's part is kept (the backward pass gathers again, behind the
    input gradient); bias: bias elements in the whole model; stored: false where another layer owns the matrix (tied
    embeddings); hosted: the host computes the product; masked: groups stand in buffers of fixed size; routed: groups of
    this rank, groups of all ranks, and tokens.
    """

    name: str
    operator: str
    producer: str
    rows: Count
    inputs: Count
    outputs: Count
    total: Count
    active: Count | None = None
    dtype: str | None = None
    weight: float | None = None
    groups: Count = 1.0
    replicas: Count = 1.0
    cast: bool = True
    cast_gradient: bool = True
    bias: Count = 0.0
    family: str = "gemm"
    kept: Bytes | None = None
    gathered: bool = False
    stored: bool = True
    local_experts: Count | None = None
    m_std: Count = 0.0
    expert_load: Quantity = 1.0
    host_computed: bool = False
    masked: bool = False
    routed: tuple[Count, Count, Count] = (0.0, 0.0, 0.0)


def add_linear(builder: WorkBuilder, context: Context, linear: Linear) -> None:
    """Add a linear layer: three products, the casts around them, its saved input and its parameters.

    y = x W; dx = dy W^T; dW += x^T dy, accumulated in the gradient's format by a read and a write: of the product, or
    of a kernel that reads what the product has written in the residual's format.
    A narrow compute format casts x and dy before the products and re-quantises both along the other axis for dW. Eager
    frameworks sum the gradient of a bias in a kernel of its own, which reads dy once more, and add it to what earlier
    micro-batches left in another one.
    """
    dtype = linear.dtype or context.precision.linear
    narrow = context.casts_inputs and linear.dtype is None
    wide = context.residual
    operand = context.gemm_element if narrow else ELEMENT_BYTES[dtype]
    weight = _read_weight(context, linear)
    taken = linear.groups * linear.rows * linear.inputs
    given = linear.groups * linear.rows * linear.outputs
    if narrow and linear.cast:
        rows = linear.groups * linear.rows
        builder.step(
            linear.producer, [Elementwise(f"{linear.name} cast", taken * (wide + operand), kind="cast", rows=rows)]
        )
    back: list[Operator] = []
    turned: list[Operator] = []
    if context.framework.unfused_elementwise and not (is_single(linear.bias) and linear.bias == 0):
        turned.append(Elementwise(f"{linear.name} bias gradient", given * wide, calls=2.0))
    if narrow and linear.cast_gradient:
        back.append(Elementwise(f"{linear.name} gradient cast", given * (wide + operand), kind="cast"))
    if narrow:
        gradient = wide if linear.cast_gradient else operand
        turned.append(
            Elementwise(f"{linear.name} transposed casts", taken * 2 * operand + given * (gradient + operand))
        )
    rows, inputs, outputs = linear.rows, linear.inputs, linear.outputs
    gradient_of = ELEMENT_BYTES[context.precision.gradients]
    separate = context.framework.accumulation != "product"
    accumulated = wide if separate else 2.0 * gradient_of
    family = gemm_family(linear.family, weight_only=_expands(context, linear))

    def product(suffix: str, shape: tuple[Count, Count, Count], element: tuple[Bytes, Bytes, Bytes]) -> Gemm:
        """Return one of the three products. shape: m, n, k; element: bytes of one of left, right and result."""
        return Gemm(
            f"{linear.name}{suffix}",
            *shape,
            math_unit(dtype),
            *element,
            linear.groups,
            linear.replicas,
            family,
            linear.m_std,
            linear.expert_load,
            narrow and context.precision.scale_block is not None,
            linear.masked,
            *linear.routed,
        )

    summed = context.accumulated_share * linear.groups * inputs * outputs * (wide + 2.0 * gradient_of)
    plain = product("", (rows, outputs, inputs), (operand, weight, wide))
    builder.step(
        linear.operator,
        [HostGemm(linear.name, plain, context.parallel.devices) if linear.host_computed else plain],
        [*back, product(" input gradient", (rows, inputs, outputs), (operand, weight, wide))],
        [
            *turned,
            replace(
                product(" weight gradient", (inputs, outputs, rows), (operand, operand, accumulated)),
                m_std=0.0,  # here the rows are the depth
                is_wgrad=True,
            ),
            *(
                [Elementwise(f"{linear.name} gradient sum", summed, kind="add", calls=context.accumulated_share)]
                if separate
                else []
            ),
        ],
    )
    usual = context.saved_element if linear.dtype is None else ELEMENT_BYTES[dtype]
    kept = taken * (usual if linear.kept is None else linear.kept)
    builder.save(f"{linear.name} input", linear.producer, kept * context.gathered_share if linear.gathered else kept)
    held = linear.groups if linear.local_experts is None else linear.local_experts
    matrix = (linear.total, held * inputs * outputs) if linear.stored else (0.0, 0.0)
    total = matrix[0] + linear.bias
    if is_single(total) and total == 0:
        return
    builder.add_parameters(
        Parameters(
            linear.name,
            total,
            matrix[1] + minimum(linear.bias, held * outputs),
            total if linear.active is None else linear.active,
            expert=linear.family == "grouped_gemm",
            linear=linear.dtype is None,
            element_bytes=linear.weight,
            host_computed=linear.host_computed,
        )
    )


def _read_weight(context: Context, linear: Linear) -> Bytes:
    """Return the bytes of one weight as the layer's products read it."""
    if linear.host_computed:
        return context.stored_weight
    if linear.dtype is None:
        return context.gemm_weight
    return ELEMENT_BYTES[linear.dtype] if linear.weight is None else linear.weight


def _expands(context: Context, linear: Linear) -> bool:
    """Tell whether the layer's products expand their weights from a narrower format than they multiply in."""
    if linear.dtype is None:
        return context.precision.weight_only
    return linear.weight is not None and linear.weight < ELEMENT_BYTES[linear.dtype]
