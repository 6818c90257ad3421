"""What ends a training step: gradient reduction, the optimizer, and the gathering of updated weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from costmodel.quantities import Bytes, Count
from costmodel.workload.context import Context
from costmodel.workload.counting import sum_of
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.operators import Collective, Elementwise, Group, Operator
from costmodel.workload.scenario import Training
from costmodel.workload.work import Parameters, Work


def held_parameters(context: Context, held: Sequence[tuple[int, Work]]) -> list[tuple[int, Parameters]]:
    """Return (how many, parameters) of one rank.

    held: (how many, work) of each kind of layer on it. A tied head away from its embedding keeps a copy of the table.
    """
    owned = [(count, parameters) for count, part in held for parameters in part.parameters]
    names = {part.name for _, part in held}
    architecture = context.architecture
    if architecture.tied_embeddings and "head" in names and "embedding" not in names:
        table = architecture.vocabulary * architecture.hidden
        owned.append((1, Parameters("tied head", 0.0, table / context.parallel.tp, 0.0)))
    return owned


def step_operators(
    context: Context, plan: Training, held: Sequence[tuple[int, Work]], copies: int, micro_batches: int
) -> tuple[Operator, ...]:
    """Return the operators of one pipeline rank after its last micro-batch.

    held: (how many, work) of each kind of layer on the rank; copies: ranks of a pipeline that hold each stage (2 under
    DualPipe), which share gradients as data-parallel ranks do. Routed experts: groups of copies*tp*cp*dp/(ep*etp)
    ranks, one expert-parallel group apart; everything else: groups of copies*cp*dp ranks, tp apart.
    """
    parallel = context.parallel
    block = parallel.ep * context.parallel.tensor_of_expert
    groups = {
        False: Group(copies * parallel.cp * parallel.dp, parallel.tp),
        True: Group(copies * parallel.tp * parallel.cp * parallel.dp / block, block),
    }
    operators: list[Operator] = []
    for expert, group in groups.items():
        owned = [(count, item) for count, item in held_parameters(context, held) if item.expert == expert]
        if not owned:
            continue
        parameters = sum_of(count * item.local for count, item in owned)
        name = "expert" if expert else "dense"
        operators.extend(_reduction(context, plan, name, parameters, group, micro_batches))
        shard = parameters / group.size if plan.zero >= 1 else parameters
        operators.append(Elementwise(f"{name} optimizer", shard * _optimizer_bytes(context)))
    return tuple(operators)


def _reduction(
    context: Context, plan: Training, name: str, parameters: Count, group: Group, micro_batches: int
) -> Iterable[Operator]:
    """Yield the collectives over one group's parameters.

    ZeRO-0: all-reduce of the gradients. ZeRO-1 and 2: reduce-scatter of gradients, all-gather of weights. ZeRO-3: the
    weights are gathered for each forward and each backward pass, the gradients scattered after each backward pass.
    Source: Rajbhandari et al., SC 2020, section 7.
    """
    gradients = parameters * ELEMENT_BYTES[context.precision.gradients]
    weights = parameters * ELEMENT_BYTES[context.precision.weights]
    if plan.zero == 0:
        yield Collective(f"{name} gradient all-reduce", "all_reduce", gradients, group)
        return
    scatter = Collective(f"{name} gradient reduce-scatter", "reduce_scatter", gradients, group)
    gather = Collective(f"{name} weight all-gather", "all_gather", weights, group)
    if plan.zero == 3:
        yield from micro_batches * [gather, gather, scatter]
    else:
        yield from (scatter, gather)


def _optimizer_bytes(context: Context) -> Bytes:
    """Return the bytes that AdamW moves for one parameter: gradient and states in, states and weight out."""
    precision = context.precision
    weight = ELEMENT_BYTES[precision.weights]
    master = weight if precision.master is None else ELEMENT_BYTES[precision.master]
    written = weight if precision.master is not None else 0.0
    return ELEMENT_BYTES[precision.gradients] + 2 * master + 4 * ELEMENT_BYTES[precision.moments] + written
