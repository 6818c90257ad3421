"""The end of a training step: gradient reduction, the optimizer, and the gathering of updated weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodel.quantities import Bytes, Count, anywhere, is_single, maximum, minimum, sum_of, where
from costmodel.records import Record
from costmodel.workload import sharding
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import Elementwise, Gemm, HostUpdate, Operator
from costmodel.workload.plans import Training
from costmodel.workload.work import LayerWork, Parameters


class OptimizerOperators(Record):
    """The operators of one pipeline rank after its last micro-batch.

    serial: in sequence.
    on_host: the host's own update.
    host_transfers: its copies from and to the device meanwhile.
    """

    serial: tuple[Operator, ...]
    on_host: tuple[Operator, ...] = ()
    host_transfers: tuple[Operator, ...] = ()

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Return the operators of the device, of the host and of the copies between them."""
        return (*self.serial, *self.on_host, *self.host_transfers)


def stage_parameters(context: Context, stage_layers: Sequence[tuple[int, LayerWork]]) -> list[tuple[int, Parameters]]:
    """Return (how many, parameters) of one rank. A tied head on another stage has a copy of the embedding's table.

    stage_layers: (how many, work) of each kind of layer on it.
    """
    owned = [(count, parameters) for count, work in stage_layers for parameters in work.parameters]
    names = {work.name for _, work in stage_layers}
    if context.architecture.tied_embeddings and "head" in names and "embedding" not in names:
        owned.append((1, tied_table(context)))
    return owned


def tied_table(context: Context) -> Parameters:
    """Return the copy of the embedding's table on the stage of a tied head."""
    table = context.architecture.vocabulary * context.architecture.hidden
    return Parameters("tied head", 0.0, table / context.parallel.tp, 0.0)


def step_operators(
    context: Context, plan: Training, stage_layers: Sequence[tuple[int, LayerWork]], stage_replicas: int
) -> OptimizerOperators:
    """Return the operators of one pipeline rank after its last micro-batch.

    stage_replicas: ranks of a pipeline that hold each stage (2 under DualPipe), which share gradients as data-parallel
    ranks do. Reductions of every micro-batch, gathers of stage 3, and whatever overlaps the passes belong to the passes
    and are not repeated here.
    """
    serial: list[Operator] = []
    on_host: list[Operator] = []
    transfers: list[Operator] = []
    listed = stage_parameters(context, stage_layers)
    for expert, owned in sharding.parameters_by_kind(context, listed).items():
        if sharding.is_nothing(owned.trained):
            continue
        name = sharding.kind_name(expert=expert)
        groups = sharding.shard_groups(context, plan, stage_replicas, expert=expert)
        ranks = sharding.shard_size(context, plan, stage_replicas, expert=expert)
        shard = sharding.RankParameters(
            owned.trained / ranks, owned.trained_weights / ranks, owned.weights / ranks, owned.matrices / ranks
        )
        if not (plan.reduces_each_micro_batch or plan.overlaps_communication):
            serial.extend(sharding.gradient_reductions(context, plan, name, owned.trained, groups))
            sent = shard.trained * ELEMENT_BYTES[sharding.gradient_format(context, plan)]
            serial.extend(
                sharding.host_copies(context, "gradients to the host", context.offload.optimizer, sent, "out")
            )
        if plan.zero in (1, 2) and (sharding.broadcasts_weights(context, plan) or not plan.overlaps_communication):
            serial.append(sharding.weight_gather(context, plan, name, owned.trained_weights, groups))
        if plan.muon is not None:
            matrices = _matrices(stage_layers, expert=expert)
            dtype = context.precision.attention  # 16 bits, also where linear layers have fewer
            serial.extend(_orthogonalisation(plan.muon, f"{name} orthogonalisation", matrices, ranks, dtype))
        share = 1 - context.offload.optimizer
        update, calls = share * _update_bytes(context, plan, shard), where(share > 0, 1.0, 0.0)
        serial.append(Elementwise(f"{name} optimizer", update, calls=calls, kind="optimizer"))
        on_host.extend(_host_update(context, plan, name, shard))
        transfers.extend(_updated_weights(context, shard.trained_weights))
    serial.extend(_weight_casts(context, listed))
    return OptimizerOperators(tuple(serial), tuple(on_host), tuple(transfers))


def _matrices(stage_layers: Sequence[tuple[int, LayerWork]], *, expert: bool) -> list[tuple[Count, Gemm]]:
    """Return (how many, product of the gradient) of the trained matrices of a rank's layers."""
    products = [
        (count, item)
        for count, work in stage_layers
        for item in work.weight_gradient
        if isinstance(item, Gemm) and work.name != "head" and anywhere(item.local_experts) == expert
    ]
    return [(count * (item.local_experts if expert else item.calls * item.groups), item) for count, item in products]


def _orthogonalisation(
    iterations: Count, name: str, matrices: Sequence[tuple[Count, Gemm]], ranks: Count, dtype: str
) -> Iterator[Operator]:
    """Yield the products that make Muon's updates orthogonal, on the rank that has most of them.

    Ranks that share states update whole matrices, as they lie on them: a rank its share of all, at least the largest
    one. Each Newton-Schulz iteration of a matrix X, of s rows and l >= s columns, in BF16 (FP16 without such units):

        A = X X^T,    B = b*A + c*A*A,    X = a*X + B*X            4*s^2*l + 2*s^3 FLOP

    Sources: Jordan, Muon, 2024, kellerjordan.github.io/posts/muon; Liu et al., Muon is Scalable, arXiv 2502.16982,
    section 2.3; NVIDIA/Megatron-LM, core/optimizer/layer_wise_optimizer.py, blocks of tensor parallelism by themselves.
    """
    element = ELEMENT_BYTES[dtype]
    sides = [(minimum(item.m, item.n), maximum(item.m, item.n)) for _, item in matrices]
    flop = [4.0 * short**2 * long + 2.0 * short**3 for short, long in sides]
    total = sum_of(count * each for (count, _), each in zip(matrices, flop, strict=True))
    share = maximum(1.0 / ranks, maximum(*flop) / total) if flop else 0.0
    for (count, _), (short, long) in zip(matrices, sides, strict=True):
        for n, k, out in ((short, long, element), (short, short, 2 * element), (long, short, 2 * element)):
            yield Gemm(name, short, n, k, dtype, element, element, out, calls=iterations * count * share)


def _weight_casts(context: Context, owned: Sequence[tuple[int, Parameters]]) -> Iterator[Operator]:
    """Yield the cast of updated weights to the products' narrower format, once a step: e_stored + 2 * e_read a weight.

    Two copies are written, along either side of the weight: y = x W and dx = dy W^T contract different ones. Hopper's
    WGMMAs read 8-bit operands along K only (PTX ISA, wgmma.mma_async: transposition of 16-bit types), and MX scales
    are of 32 elements along K. Source: NVIDIA, Transformer Engine, row-wise and column-wise data of a quantizer.
    """
    stored, read = context.stored_weight, context.gemm_weight
    if read >= stored:
        return
    count = sum_of(number * item.local for number, item in owned if item.is_cast)
    yield Elementwise("weight cast", count * (stored + 2.0 * read), kind="cast")


def _host_update(context: Context, plan: Training, name: str, shard: sharding.RankParameters) -> Iterator[Operator]:
    """Yield the host's update of its states: what AdamW moves, through the host's memory.

    28 bytes per parameter for 16-bit gradients. Source: Ren et al., ZeRO-Offload, arXiv 2101.06840. DeepSpeed,
    csrc/adam.
    """
    share = context.offload.optimizer
    if not (is_single(share) and share == 0):
        traffic = share * _update_bytes(context, plan, shard, sharding.gradient_format(context, plan))
        yield HostUpdate(f"{name} optimizer on the host", traffic, context.parallel.devices)


def _updated_weights(context: Context, size: Bytes) -> Iterator[Operator]:
    """Yield the copies of updated weights between the side that updates them and the side that stores them.

    The host stores first the weights of the parameters whose states it has. size: of all weights [B].
    """
    optimizer, weights = context.offload.optimizer, context.offload.weights
    to_device, to_host = maximum(optimizer - weights, 0.0), maximum(weights - optimizer, 0.0)
    yield from sharding.host_copies(context, "updated weights from the host", to_device, size, "in")
    yield from sharding.host_copies(context, "updated weights to the host", to_host, size, "out")


def _update_bytes(
    context: Context, plan: Training, shard: sharding.RankParameters, gradients: str | None = None
) -> Bytes:
    """Return the bytes that an update moves for some parameters: gradients and states in, states and weights out.

    Without master copies the weights are a part of the states.
    """
    precision, count = context.precision, shard.trained
    masters = None if precision.master is None else count * ELEMENT_BYTES[precision.master]
    gradient = ELEMENT_BYTES[precision.gradients if gradients is None else gradients]
    moments = 2 * count - (0.0 if plan.muon is None else shard.matrices)
    states = count * gradient + 2 * moments * ELEMENT_BYTES[precision.moments]
    return states + (2 * shard.trained_weights if masters is None else 2 * masters + shard.trained_weights)
