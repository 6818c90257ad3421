"""What every layer is built from: linear layers with their casts and tensor-parallel boundaries."""

from __future__ import annotations

from collections.abc import Iterable

from costmodel.quantities import Bytes, Count, Mask, Quantity, anywhere, is_single, maximum, minimum, where
from costmodel.records import Record, replace
from costmodel.workload.adapters import Adapters, ServedAdapters
from costmodel.workload.context import Context
from costmodel.workload.dtypes import DOUBLE_SCALED, ELEMENT_BYTES, math_unit
from costmodel.workload.operators import Collective, Elementwise, Gemm, Group, HostGemm, Operator, gemm_family
from costmodel.workload.work import EVERY_OTHER, Parameters, WorkBuilder


class ExpertGroups(Record, kw_only=True):
    """The experts of one rank in a grouped GEMM.

    active: experts with rows, one GEMM group each.
    local: all experts on this rank.
    rows_std: standard deviation of the rows of an active expert.
    load: rows of this rank over the mean rank's.
    masked: each expert has a buffer of fixed size.
    experts, tokens: of all ranks.
    width: of an expert's intermediate activations on this rank.
    streams: over which they are dealt, each a GEMM of its own (null: one grouped GEMM).
    """

    active: Count
    local: Count
    rows_std: Count
    load: Quantity
    masked: bool
    experts: Count
    tokens: Count
    width: Count
    streams: Count | None = None


class Linear(Record):
    """A matrix of `inputs` x `outputs`, applied to `rows` tokens of this rank (of each active expert).

    operator: its own recompute name.
    producer: the recompute name of what makes its input.
    split: `columns` (outputs over tp), `rows` (inputs over tp), or null: the sizes are this rank's.
    total, active: parameters in the whole model, and those of one token (null: inputs * outputs, and all).
    stored_ratio: weights that this rank stores over those that the GEMM reads.
    dtype: null is the precision of linear layers.
    weight_bytes: one weight as the GEMM reads it (null: as stored) [B].
    replicas: ranks that repeat the work.
    cast_input, cast_gradient: the layer casts its input, or its output's gradient (false: another kernel did).
    saved_element: bytes of an input element saved for backward (null: the activation format) [B].
    gathered: the input comes from an all-gather over tp. Only this rank's part is saved, and backward gathers again.
    bias: bias elements in the whole model.
    tied: another layer owns the matrix.
    host_computed: the host computes the GEMM.
    experts: of a grouped GEMM.
    parts: layers that it joins, which may have adapters of their own: name -> share of its outputs.
    is_adapter: it is half of an adapter, which is trained.
    """

    name: str
    operator: str
    producer: str
    rows: Count
    inputs: Count
    outputs: Count
    split: str | None = None
    total: Count | None = None
    active: Count | None = None
    stored_ratio: Quantity = 1.0
    dtype: str | None = None
    weight_bytes: float | None = None
    replicas: Count = 1.0
    cast_input: bool = True
    cast_gradient: bool = True
    saved_element: Bytes | None = None
    gathered: bool = False
    bias: Count = 0.0
    tied: bool = False
    host_computed: bool = False
    experts: ExpertGroups | None = None
    parts: tuple[tuple[str, Quantity], ...] = ()
    is_adapter: bool = False

    @property
    def target(self) -> str:
        """Return what `adapters.targets` calls it: as frameworks do, or by its name."""
        return _TARGETS.get(self.name, self.name.replace(" ", "_"))

    def adapted(self, adapters: Adapters | ServedAdapters) -> tuple[tuple[str, Quantity], ...]:
        """Return the adapters on it, of all or some of its parts: name, and share of the outputs."""
        if not adapters.are_any:
            return ()
        if not adapters.targets:
            whole = ((self.target, 1.0),) if self.dtype is None else ()
            return self.parts or whole
        if self.target in adapters.targets:
            return ((self.target, 1.0),)
        return tuple((name, share) for name, share in self.parts if name in adapters.targets)


_TARGETS = {"qkv projection": "qkv", "output projection": "o"}
_TARGETS |= {f"{kind} up": "gate_up" for kind in ("ffn", "expert", "shared expert")}
_TARGETS |= {f"{kind} down": "down" for kind in ("ffn", "expert", "shared expert")}


def add_linear(builder: WorkBuilder, context: Context, linear: Linear) -> None:
    """Add a linear layer: three GEMMs, the casts around them, its saved input and its parameters.

        y = x W;   dx = dy W^T;   dW += x^T dy

    A compute format narrower than the residual stream casts x and dy before the GEMMs, and re-quantises both along the
    other dimension for dW. A frozen matrix has no dW, and keeps x for its adapters alone.
    """
    is_frozen = context.adapters is not None and not linear.is_adapter
    local = _LocalLinear(context.base if is_frozen else context, linear)
    adapted = () if context.adapters is None or linear.is_adapter else linear.adapted(context.adapters)
    if local.narrow and linear.cast_input:
        size = local.cast_bytes(local.x_elements)
        cast = Elementwise(f"{linear.name} cast", size, kind="cast", rows=local.rows, calls=local.casts)
        builder.step(linear.producer, [cast])
    products = [*local.expansion(), local.forward()]
    trained = () if is_frozen else local.weight_gradient()
    repeated = _repeated(builder, linear, products)
    builder.step(linear.operator, products, local.input_gradient(), trained, repeated, trains=linear.is_adapter)
    if adapted or not is_frozen or linear.operator == "output_projection":
        element = linear.saved_element
        if element is None and is_frozen:
            element = context.residual  # adapters read it uncast
        elif element is None:
            element = context.saved_element if linear.dtype is None else ELEMENT_BYTES[linear.dtype]
        saved = local.x_elements * element
        saved = saved * context.gathered_share if linear.gathered else saved
        builder.save(f"{linear.name} input", linear.producer, saved)
    local.add_parameters(builder)
    if context.served is not None and linear.experts is None:
        _add_served(builder, context, linear, local)
    for target, share in adapted:
        _add_adapter(builder, context, linear, local, (target, share))


def _repeated(builder: WorkBuilder, linear: Linear, products: Iterable[Operator]) -> list[Operator] | None:
    """Return what the backward pass repeats of a layer's products, a part of each by `EVERY_OTHER` (null: all of them).

    The last product of a layer is not needed again.
    """
    if EVERY_OTHER not in builder.recompute or linear.operator == "ffn_down":
        return None
    parts = [share for _, share in linear.parts] or [1.0]
    builder.count_product(linear.operator, parts, kept=linear.experts is None)
    again = builder.rebuilt(linear.operator)
    return [replace(each, n=again * each.n) if isinstance(each, Gemm) else each for each in products]


def _add_adapter(
    builder: WorkBuilder, context: Context, linear: Linear, local: _LocalLinear, part: tuple[str, Quantity]
) -> None:
    """Add an adapter of a frozen matrix W: six small GEMMs, its sum with x W, and its gradients.

        y = x W + s (x A) B;   dh = s dy B^T;   dB += h^T dy;   dA += x^T dh;   dx += dh A^T       with h = x A

    Its products are in the residual stream's format. Scaling and sum are kernels of their own: 2*e and 3*e per element
    [Hugging Face PEFT, tuners/lora/layer.py, Linear.forward; the sum of dx is autograd's], fused one of 3*e forward. A
    tensor-parallel group splits B with the columns of W, or A with its rows, repeats the other one, and adds up dh, or
    h, once: rows * r * e. part: its name, and its share of the outputs of W.
    """
    assert context.adapters is not None, "the caller has looked"
    rank, (name, share) = maximum(context.adapters.rank, 1.0), part
    outputs, element = share * local.outputs, context.residual
    whole = linear.inputs * linear.outputs if linear.total is None else linear.total
    is_split = linear.split is not None or linear.total is not None
    degree = context.parallel.etp if linear.experts is not None else context.parallel.tp if is_split else 1.0
    count = 1.0 if linear.experts is None else linear.experts.experts
    by_rows = linear.operator in ("output_projection", "ffn_down")
    wide_in, wide_out = (degree, 1.0) if by_rows else (1.0, degree)
    active = 1.0 if linear.active is None else linear.active / (whole + linear.bias)
    sizes = (("A", local.inputs, rank, wide_in), ("B", rank, outputs, wide_out))
    for half, inputs, columns, ranks in sizes:
        total = count * ranks * inputs * columns
        add_linear(builder, context, Linear(
            f"adapter {half}", operator=linear.operator, producer=linear.operator, rows=linear.rows, inputs=inputs,
            outputs=columns, total=total, active=active * total, dtype=context.precision.residual,
            saved_element=0.0 if half == "A" else element, experts=linear.experts, is_adapter=True,
        ))  # fmt: skip
    hidden = Collective(f"{name} adapter all-reduce", "all_reduce", local.rows * rank * element, Group(degree))
    passes, calls = (5.0, 2.0) if context.framework.training.is_unfused else (3.0, 1.0)
    scaled_sum = Elementwise("adapter sum", passes * local.rows * outputs * element, kind="add", calls=calls)
    gradients = (2 * local.rows * outputs + 3 * local.x_elements) * element
    gradient_sum = Elementwise("adapter sum gradient", gradients, kind="add", calls=2.0)
    builder.step(linear.operator, [scaled_sum], [gradient_sum, hidden])


SERVED = "served adapter"  # begins the names of their products and parameters


def _add_served(builder: WorkBuilder, context: Context, linear: Linear, local: _LocalLinear) -> None:
    """Add the adapters that a batch's requests ask for: two grouped products, a group for each different adapter.

        h = x A_i,    y += h B_i;    a group has rows / distinct rows [Punica, arXiv 2310.18547, section 4]

    In the residual stream's format. Layers that one product joins (q, k, v) have theirs in one kernel each. The second
    product reads y as well. A tensor-parallel rank has the rows or columns of its part of W, and all of the other one
    [vLLM, vllm/lora/layers].
    """
    served = context.served
    assert served is not None, "the caller has looked"
    if not (parts := linear.adapted(served)):
        return
    element, rank, dtype = context.residual, maximum(served.rank, 1.0), math_unit(context.precision.residual)
    distinct = served.distinct(context.sequences + context.co_batched_sequences)
    outputs = sum(share for _, share in parts) * local.outputs
    sizes = (
        ("A", local.inputs, len(parts) * rank, len(parts) * rank * local.inputs, 1.0),
        ("B", rank, outputs, rank * outputs, 2.0),
    )
    for half, inputs, columns, weights, passes in sizes:
        builder.step(linear.operator, [Gemm(
            f"{SERVED} {half}", m=local.rows / distinct, n=columns, k=inputs, dtype=dtype,
            a_bytes=element, b_bytes=element, out_bytes=passes * element, groups=distinct,
            family=gemm_family("grouped_gemm", weight_only=False),
        )])  # fmt: skip
        stored = Parameters(f"{SERVED} {half}", 0.0, served.held * weights, 0.0, element_bytes=element)
        builder.add_parameters(stored, trains=False)


def forward_product(context: Context, linear: Linear) -> Operator:
    """Return y = x W as this rank computes it."""
    return _LocalLinear(context, linear).forward()


class _LocalLinear:
    """A linear layer as one rank computes it.

    rows: of all its experts.
    x_elements, dy_elements: of its input and of its output's gradient.
    operand, weight: bytes of an element of x or dy, and of W, as the GEMMs read them [B].
    casts: kernels that cast x or dy: one, or one an expert where each has a GEMM of its own.
    narrow: x and dy have to be cast.
    dequantised: a kernel expands the frozen weights before each product.
    expands: the GEMMs expand weights from a narrower format than they multiply in.
    expanded: where narrow weights are expanded before the product: beyond the rows that its own kernel takes.
    """

    __slots__ = (
        "casts", "context", "dequantised", "dtype", "dy_elements", "expanded", "expands", "groups", "inputs", "linear",
        "narrow", "operand", "outputs", "rows", "weight", "x_elements",
    )  # fmt: skip

    def __init__(self, context: Context, linear: Linear) -> None:
        self.context, self.linear = context, linear
        tp = context.parallel.tp
        self.inputs = linear.inputs / tp if linear.split == "rows" else linear.inputs
        self.outputs = linear.outputs / tp if linear.split == "columns" else linear.outputs
        self.groups = 1.0 if linear.experts is None else linear.experts.active
        self.casts = 1.0 if linear.experts is None or linear.experts.streams is None else self.groups
        self.rows = self.groups * linear.rows
        self.x_elements, self.dy_elements = self.rows * self.inputs, self.rows * self.outputs
        self.dtype = linear.dtype or context.precision.linear
        self.narrow = context.casts_inputs and linear.dtype is None
        self.dequantised = context.adapters is not None and linear.dtype is None and context.precision.weight_only
        self.operand = context.gemm_element if self.narrow else ELEMENT_BYTES[self.dtype]
        if linear.host_computed:
            self.weight = context.stored_weight
        elif linear.dtype is None:
            self.weight = context.gemm_weight
        else:
            self.weight = ELEMENT_BYTES[linear.dtype] if linear.weight_bytes is None else linear.weight_bytes
        if linear.dtype is None:
            self.expands = context.precision.weight_only and not self.dequantised
        else:
            self.expands = linear.weight_bytes is not None and linear.weight_bytes < ELEMENT_BYTES[linear.dtype]
        limit, has_own_kernel = context.framework.expands_above, self.expands and not linear.host_computed
        self.expanded: Mask = self.dequantised or (has_own_kernel and limit is not None and linear.rows > limit)

    def cast_bytes(self, elements: Count) -> Bytes:
        """Return the traffic of the cast of x or dy, to both of its copies where blocks of scales need two."""
        copies = 2.0 if self.context.copies_operands else 1.0
        return elements * (self.context.residual + copies * self.operand)

    def expansion(self) -> list[Operator]:
        """Return the kernel that expands narrow weights before the product where a framework does so for its rows."""
        expanded = self.expanded
        if not anywhere(expanded):
            return []
        elements = self.groups * self.inputs * self.outputs
        blocks: Count = 0.0
        calls = self.groups
        if self.context.precision.weights in DOUBLE_SCALED:  # a kernel expands the scales, another one shifts them
            blocks, calls = elements / DOUBLE_SCALED[self.context.precision.weights], 3.0 * calls
        size = elements * (self.weight + ELEMENT_BYTES[self.dtype]) + blocks * 4 * ELEMENT_BYTES["fp32"]
        calls, size = where(expanded, calls, 0.0), where(expanded, size, 0.0)
        return [Elementwise(f"{self.linear.name} expansion", size, kind="copy", calls=calls)]

    def forward(self) -> Operator:
        shape = self.linear.rows, self.outputs, self.inputs
        weight = where(self.expanded, ELEMENT_BYTES[self.dtype], self.weight)
        gemm = self._gemm("", shape, (self.operand, weight, self.context.residual))
        return HostGemm(gemm.name, gemm, self.context.parallel.devices) if self.linear.host_computed else gemm

    def input_gradient(self) -> list[Operator]:
        """Return dx = dy W^T behind the cast of dy."""
        residual, shape = self.context.residual, (self.linear.rows, self.inputs, self.outputs)
        weight = ELEMENT_BYTES[self.dtype] if self.dequantised else self.weight
        gemm = self._gemm(" input gradient", shape, (self.operand, weight, residual))
        if self.dequantised:
            return [*self.expansion(), gemm]
        if not (self.narrow and self.linear.cast_gradient):
            return [gemm]
        size = self.cast_bytes(self.dy_elements)
        return [Elementwise(f"{self.linear.name} gradient cast", size, kind="cast", calls=self.casts), gemm]

    def weight_gradient(self) -> list[Operator]:
        """Return dW += x^T dy, accumulated in the gradient's format by a read and a write.

        The GEMM accumulates, or a kernel that reads what the GEMM has written in the residual's format. Unfused, a bias
        gradient is the sum of dy by one kernel, and another adds it to earlier micro-batches.
        """
        context, linear = self.context, self.linear
        residual, gradient = context.residual, ELEMENT_BYTES[context.precision.gradients]
        operators: list[Operator] = []
        if context.framework.training.is_unfused and not (is_single(linear.bias) and linear.bias == 0):
            operators.append(Elementwise(f"{linear.name} bias gradient", self.dy_elements * residual, calls=2.0))
        if self.narrow and not context.copies_operands:
            read = self.context.residual if self.linear.cast_gradient else self.operand
            # x and dy are quantised along the other dimension as well
            size = self.x_elements * 2 * self.operand + self.dy_elements * (read + self.operand)
            operators.append(Elementwise(f"{linear.name} transposed casts", size, calls=self.casts))
        how = context.framework.training.accumulation
        element = self.operand, self.operand, residual if how != "product" else 2.0 * gradient
        shape = self.inputs, self.outputs, linear.rows
        operators.append(self._gemm(" weight gradient", shape, element, is_wgrad=True))
        if how != "product":
            calls = context.accumulated_share
            size = calls * self.groups * self.inputs * self.outputs * (residual + 2.0 * gradient)
            operators.append(Elementwise(f"{linear.name} gradient sum", size, kind="add", calls=calls))
        return operators

    def _gemm(
        self, suffix: str, shape: tuple[Count, Count, Count], element: tuple[Bytes, Bytes, Bytes], *,
        is_wgrad: bool = False,
    ) -> Gemm:  # fmt: skip
        """Return one of the three GEMMs. shape: m, n, k; element: bytes of an element of A, B and the result."""
        linear, experts = self.linear, self.linear.experts
        (m, n, k), (a_bytes, b_bytes, out_bytes) = shape, element
        is_grouped = experts is not None and experts.streams is None
        family = gemm_family("grouped_gemm" if is_grouped else "gemm", weight_only=self.expands)
        stored = self.context.precision.weights if linear.dtype is None and not self.narrow else ""
        gemm = Gemm(
            f"{linear.name}{suffix}", m=m, n=n, k=k, dtype=math_unit(self.dtype), a_bytes=a_bytes, b_bytes=b_bytes,
            out_bytes=out_bytes, groups=self.groups, replicas=linear.replicas, family=family,
            block_scaled=self.narrow and self.context.precision.scale_block is not None, is_wgrad=is_wgrad,
            microscaled=self.expands and stored == "mxfp4",
        )  # fmt: skip
        if experts is None:
            return gemm
        if experts.streams is not None:
            side_by_side = minimum(experts.streams, self.groups)
            gemm = replace(gemm, groups=side_by_side, calls=self.groups / side_by_side)
        return replace(
            gemm, m_std=0.0 if is_wgrad else experts.rows_std, expert_load=experts.load, masked=experts.masked,
            local_experts=experts.local, experts=experts.experts, tokens=experts.tokens,
            tuned=self.context.framework.tuned_tiles.of(experts.local, experts.width, gemm.variant),
        )  # fmt: skip

    def _own_element(self) -> Bytes | None:
        """Return the bytes of a stored weight where it has a format of its own, null where it is the model's."""
        has_own = self.context.precision.of_part or self.dequantised
        if self.linear.weight_bytes is None and has_own and self.linear.dtype is None:
            return self.context.stored_weight
        return self.linear.weight_bytes

    def add_parameters(self, builder: WorkBuilder) -> None:
        linear = self.linear
        matrices = linear.stored_ratio if linear.experts is None else linear.experts.local
        total = linear.inputs * linear.outputs if linear.total is None else linear.total
        stored = matrices * self.inputs * self.outputs
        if linear.tied:
            total = stored = 0.0
        total = total + linear.bias
        if is_single(total) and total == 0:
            return
        builder.add_parameters(
            Parameters(
                linear.name,
                total,
                stored + minimum(linear.bias, matrices * self.outputs),
                total if linear.active is None else linear.active,
                expert=linear.experts is not None,
                linear=linear.dtype is None,
                element_bytes=self._own_element(),
                host_computed=linear.host_computed,
            ),
            trains=linear.is_adapter,
        )


def add_transposition(builder: WorkBuilder, context: Context, elements: Count, *, operator: str) -> None:
    """Add the transposition of a channels-first layer's input and result around its GEMM: 2*e bytes an element.

    elements: of both on this rank. [NVIDIA, Convolutional Layers User's Guide, DU-09794: tensor cores need NHWC]
    """
    size = 2 * elements * context.residual
    transposition = Elementwise("channel transposition", size, calls=2.0, kind="permute")
    gradient = Elementwise("channel transposition gradient", size, calls=2.0)
    builder.step(operator, [transposition], [gradient])


def batched_gemm(name: str, shape: tuple[Count, Count, Count], batch: Count, dtype: str, element: Bytes) -> Gemm:
    """Return `batch` GEMMs of that shape m, n, k, all operands and results with `element` bytes."""
    m, n, k = shape
    return Gemm(
        name, m=m, n=n, k=k, dtype=dtype, a_bytes=element, b_bytes=element, out_bytes=element, groups=batch,
        family="bmm",
    )  # fmt: skip
