"""What ends a training step: gradient reduction, the optimizer, and the gathering of updated weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from costmodel.quantities import Bytes, Count, is_single, maximum, where
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import Elementwise, HostUpdate, Operator
from costmodel.workload.scenario import Training
from costmodel.workload.sharding import (
    by_kind,
    gathering,
    gradient_format,
    host_copies,
    kind_name,
    reductions,
    sharers,
    split_over,
)
from costmodel.workload.work import Parameters, Work


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """The operators of one pipeline rank after its last micro-batch.

    serial: one after the other; on_host: the host's own update; copies: what it exchanges with the device meanwhile.
    """

    serial: tuple[Operator, ...]
    on_host: tuple[Operator, ...] = ()
    copies: tuple[Operator, ...] = ()


def held_parameters(context: Context, held: Sequence[tuple[int, Work]]) -> list[tuple[int, Parameters]]:
    """Return (how many, parameters) of one rank.

    held: (how many, work) of each kind of layer on it. A tied head away from its embedding keeps a copy of the table.
    """
    owned = [(count, parameters) for count, part in held for parameters in part.parameters]
    if needs_table(context, held):
        owned.append((1, tied_table(context)))
    return owned


def needs_table(context: Context, held: Sequence[tuple[int, Work]]) -> bool:
    """Tell whether a head is tied to an embedding that is not among these layers."""
    names = {part.name for _, part in held}
    return context.architecture.tied_embeddings and "head" in names and "embedding" not in names


def tied_table(context: Context) -> Parameters:
    """Return the copy of the embedding's table that a tied head away from it keeps."""
    table = context.architecture.vocabulary * context.architecture.hidden
    return Parameters("tied head", 0.0, table / context.parallel.tp, 0.0)


def step_operators(context: Context, plan: Training, held: Sequence[tuple[int, Work]], copies: int) -> Ending:
    """Return what one pipeline rank does after its last micro-batch.

    held: (how many, work) of each kind of layer on the rank; copies: ranks of a pipeline that hold each stage (2 under
    DualPipe), which share gradients as data-parallel ranks do. Reductions of every micro-batch, gathers of stage 3, and
    whatever runs beside the passes belong to the passes and are not repeated here.
    """
    serial: list[Operator] = []
    on_host: list[Operator] = []
    copied: list[Operator] = []
    for expert, parameters in by_kind(held_parameters(context, held)).items():
        name = kind_name(expert=expert)
        of = sharers(context, plan, copies, expert=expert)
        shard = parameters / split_over(context, plan, copies, expert=expert)
        if not (plan.reduces_often or plan.overlaps):
            serial.extend(reductions(context, plan, name, parameters, of))
            sent = shard * ELEMENT_BYTES[gradient_format(context, plan)]
            serial.extend(host_copies(context, "gradients to the host", context.offload.optimizer, sent, "out"))
        if plan.zero in (1, 2) and not plan.overlaps:
            serial.append(gathering(context, name, parameters, of))
        kept = 1 - context.offload.optimizer
        update = kept * shard * _adam_bytes(context)
        calls = where(kept > 0, 1.0, 0.0)
        serial.append(Elementwise(f"{name} optimizer", update, calls=calls, kind="optimizer"))
        on_host.extend(_host_update(context, plan, name, shard))
        copied.extend(_changed_weights(context, shard))
    return Ending(tuple(serial), tuple(on_host), tuple(copied))


def _host_update(context: Context, plan: Training, name: str, shard: Count) -> Iterable[Operator]:
    """Yield the host's update of the states that it keeps: what AdamW streams, through the host's memory.

    28 bytes a parameter for 16-bit gradients. Source: Ren et al., ZeRO-Offload, arXiv 2101.06840; DeepSpeed, csrc/adam.
    """
    share = context.offload.optimizer
    if not (is_single(share) and share == 0):
        traffic = share * shard * _adam_bytes(context, gradient_format(context, plan))
        yield HostUpdate(f"{name} optimizer on the host", traffic, context.parallel.devices)


def _changed_weights(context: Context, shard: Count) -> Iterable[Operator]:
    """Yield the copies of updated weights to where layers read them: those that one side updates and the other keeps.

    The host keeps the weights of the parameters whose states it keeps first.
    """
    offload, size = context.offload, shard * ELEMENT_BYTES[context.precision.weights]
    arriving, leaving = (
        maximum(share, 0.0) for share in (offload.optimizer - offload.weights, offload.weights - offload.optimizer)
    )
    yield from host_copies(context, "updated weights from the host", arriving, size, "in")
    yield from host_copies(context, "updated weights to the host", leaving, size, "out")


def _adam_bytes(context: Context, gradients: str | None = None) -> Bytes:
    """Return the bytes that AdamW moves for one parameter: gradient and states in, states and weight out."""
    precision = context.precision
    weight = ELEMENT_BYTES[precision.weights]
    master = weight if precision.master is None else ELEMENT_BYTES[precision.master]
    written = weight if precision.master is not None else 0.0
    gradient = ELEMENT_BYTES[precision.gradients if gradients is None else gradients]
    return gradient + 2 * master + 4 * ELEMENT_BYTES[precision.moments] + written
