"""What ends a training step: gradient reduction, the optimizer, and the gathering of updated weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from costmodel.quantities import Bytes, is_single, maximum, where
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import Elementwise, HostUpdate, Operator
from costmodel.workload.plans import Training
from costmodel.workload.sharding import (
    RankParameters,
    gradient_format,
    gradient_reductions,
    host_copies,
    kind_name,
    parameters_by_kind,
    shard_groups,
    shard_size,
    weight_gather,
)
from costmodel.workload.work import LayerWork, Parameters


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerOperators:
    """The operators of one pipeline rank after its last micro-batch.

    serial: one after the other; on_host: the host's own update; copies: what it exchanges with the device meanwhile.
    """

    serial: tuple[Operator, ...]
    on_host: tuple[Operator, ...] = ()
    host_transfers: tuple[Operator, ...] = ()


def stage_parameters(context: Context, held: Sequence[tuple[int, LayerWork]]) -> list[tuple[int, Parameters]]:
    """Return (how many, parameters) of one rank.

    held: (how many, work) of each kind of layer on it. A tied head away from its embedding keeps a copy of the table.
    """
    owned = [(count, parameters) for count, part in held for parameters in part.parameters]
    if needs_tied_table(context, held):
        owned.append((1, tied_table(context)))
    return owned


def needs_tied_table(context: Context, held: Sequence[tuple[int, LayerWork]]) -> bool:
    """Tell whether a head is tied to an embedding that is not among these layers."""
    names = {part.name for _, part in held}
    return context.architecture.tied_embeddings and "head" in names and "embedding" not in names


def tied_table(context: Context) -> Parameters:
    """Return the copy of the embedding's table that a tied head away from it keeps."""
    table = context.architecture.vocabulary * context.architecture.hidden
    return Parameters("tied head", 0.0, table / context.parallel.tp, 0.0)


def step_operators(
    context: Context, plan: Training, held: Sequence[tuple[int, LayerWork]], copies: int
) -> OptimizerOperators:
    """Return what one pipeline rank does after its last micro-batch.

    held: (how many, work) of each kind of layer on the rank; copies: ranks of a pipeline that hold each stage (2 under
    DualPipe), which share gradients as data-parallel ranks do. Reductions of every micro-batch, gathers of stage 3, and
    whatever runs beside the passes belong to the passes and are not repeated here.
    """
    serial: list[Operator] = []
    on_host: list[Operator] = []
    copied: list[Operator] = []
    for expert, owned in parameters_by_kind(context, stage_parameters(context, held)).items():
        name = kind_name(expert=expert)
        of = shard_groups(context, plan, copies, expert=expert)
        ranks = shard_size(context, plan, copies, expert=expert)
        shard = RankParameters(owned.parameters / ranks, owned.weights / ranks)
        if not (plan.reduces_each_micro_batch or plan.overlaps_communication):
            serial.extend(gradient_reductions(context, plan, name, owned.parameters, of))
            sent = shard.parameters * ELEMENT_BYTES[gradient_format(context, plan)]
            serial.extend(host_copies(context, "gradients to the host", context.offload.optimizer, sent, "out"))
        if plan.zero in (1, 2) and not plan.overlaps_communication:
            serial.append(weight_gather(name, owned.weights, of))
        kept = 1 - context.offload.optimizer
        update = kept * _adam_bytes(context, shard)
        calls = where(kept > 0, 1.0, 0.0)
        serial.append(Elementwise(f"{name} optimizer", update, calls=calls, kind="optimizer"))
        on_host.extend(_host_update(context, plan, name, shard))
        copied.extend(_changed_weights(context, shard.weights))
    return OptimizerOperators(tuple(serial), tuple(on_host), tuple(copied))


def _host_update(context: Context, plan: Training, name: str, shard: RankParameters) -> Iterable[Operator]:
    """Yield the host's update of the states that it keeps: what AdamW streams, through the host's memory.

    28 bytes a parameter for 16-bit gradients. Source: Ren et al., ZeRO-Offload, arXiv 2101.06840; DeepSpeed, csrc/adam.
    """
    share = context.offload.optimizer
    if not (is_single(share) and share == 0):
        traffic = share * _adam_bytes(context, shard, gradient_format(context, plan))
        yield HostUpdate(f"{name} optimizer on the host", traffic, context.parallel.devices)


def _changed_weights(context: Context, size: Bytes) -> Iterable[Operator]:
    """Yield the copies of updated weights to where layers read them: those that one side updates and the other keeps.

    The host keeps the weights of the parameters whose states it keeps first. size: of all weights [B].
    """
    offload = context.offload
    arriving, leaving = (
        maximum(share, 0.0) for share in (offload.optimizer - offload.weights, offload.weights - offload.optimizer)
    )
    yield from host_copies(context, "updated weights from the host", arriving, size, "in")
    yield from host_copies(context, "updated weights to the host", leaving, size, "out")


def _adam_bytes(context: Context, shard: RankParameters, gradients: str | None = None) -> Bytes:
    """Return the bytes that AdamW moves for some parameters: gradients and states in, states and weights out.

    Without master copies the weights are a part of the states.
    """
    precision, count = context.precision, shard.parameters
    masters = None if precision.master is None else count * ELEMENT_BYTES[precision.master]
    gradient = ELEMENT_BYTES[precision.gradients if gradients is None else gradients]
    states = count * (gradient + 4 * ELEMENT_BYTES[precision.moments])
    return states + (2 * shard.weights if masters is None else 2 * masters + shard.weights)
