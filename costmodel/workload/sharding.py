"""Parameters that several ranks hold: who shares them, and what moves for it between ranks and to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from costmodel.quantities import Bytes, Count, Quantity, is_single, maximum, minimum, where
from costmodel.workload.context import Context
from costmodel.workload.counting import sum_of
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.host_offload import weight_bytes
from costmodel.workload.operators import Collective, Elementwise, Group, HostTransfer, Operator
from costmodel.workload.plans import Training
from costmodel.workload.work import LayerWork, Parameters


@dataclass(frozen=True, slots=True, eq=False)
class ShardGroups:
    """The ranks that hold the same parameters: `shard` of them share one copy of the states, `replicas` repeat it."""

    shard: Group
    replicas: Group


@dataclass(frozen=True, slots=True, eq=False)
class LayerTransfers:
    """What one kind of layer moves for a rank, beside its own work.

    weights_in: from the host; gather: weights from the other ranks, for a pass; reduce: gradients after one;
    gradients_out: to the host; kept_out, kept_in: activations to the host and back.
    """

    weights_in: tuple[Operator, ...] = ()
    gather: tuple[Operator, ...] = ()
    reduce: tuple[Operator, ...] = ()
    gradients_out: tuple[Operator, ...] = ()
    activations_out: tuple[Operator, ...] = ()
    activations_in: tuple[Operator, ...] = ()


def shard_groups(context: Context, plan: Training, copies: int, *, expert: bool) -> ShardGroups:
    """Return who shares the parameters of routed experts, or all others.

    Everything but routed experts stands on copies*cp*dp ranks, tp apart; routed experts on copies*tp*cp*dp/(ep*etp)
    ranks, one expert-parallel group apart; copies: ranks of a pipeline that hold each stage (2 under DualPipe). A
    stated group of N ranks shares one copy, experts of as many as stand in the same N*tp neighbours, and the others
    repeat it [FSDP HYBRID_SHARD: Zhao et al., arXiv 2304.11277, section 3.2].
    """
    parallel, stated = context.parallel, plan.sharding.group
    if expert:
        stride = parallel.ep * parallel.etp
        whole = copies * parallel.tp * parallel.cp * parallel.dp / stride
        shard = whole if stated is None else minimum(maximum(stated * parallel.tp / stride, 1.0), whole)
    else:
        stride, whole = parallel.tp, copies * parallel.cp * parallel.dp
        shard = whole if stated is None else stated
    return ShardGroups(Group(shard, stride), Group(whole / shard, stride * shard))


def shard_size(context: Context, plan: Training, copies: int, *, expert: bool) -> Count:
    """Return over how many ranks optimizer states are split; one without ZeRO."""
    return shard_groups(context, plan, copies, expert=expert).shard.size if plan.zero >= 1 else 1.0


def gradient_format(context: Context, plan: Training) -> str:
    """Return the format that gradients travel in."""
    return context.precision.gradients if plan.sharding.gradients is None else plan.sharding.gradients


def gradient_reductions(
    context: Context, plan: Training, name: str, parameters: Count, of: ShardGroups
) -> Iterable[Operator]:
    """Yield what brings the gradients of some parameters of a rank together, in the format that they travel in.

    name: what operators are called after; parameters: how many; of: who shares them.

    ZeRO-0: all-reduce over all that hold them. From ZeRO-1 on: reduce-scatter in the group that shares a copy (an
    all-reduce where the framework does that in stages 1 and 2), then an all-reduce of a rank's part over the copies.
    Gradients that travel in another format are cast there and, what is left of them, back. Source: Rajbhandari et al.,
    SC 2020, section 7.
    """
    travelling, kept = (ELEMENT_BYTES[each] for each in (gradient_format(context, plan), context.precision.gradients))
    size = parameters * travelling
    if gradient_format(context, plan) != context.precision.gradients:
        left = parameters / (of.shard.size if plan.zero >= 1 else 1.0)
        yield Elementwise(f"{name} gradient cast", (parameters + left) * (travelling + kept), calls=2.0)
    if plan.zero == 0:
        everyone = Group(of.shard.size * of.replicas.size, of.shard.stride)
        yield Collective(f"{name} gradient all-reduce", "all_reduce", size, everyone)
        return
    if plan.zero < 3 and context.framework.reduction == "all_reduce":
        yield Collective(f"{name} gradient all-reduce", "all_reduce", size, of.shard)
    else:
        yield Collective(f"{name} gradient reduce-scatter", "reduce_scatter", size, of.shard)
    if plan.sharding.group is not None:
        yield Collective(f"{name} gradient all-reduce over copies", "all_reduce", size / of.shard.size, of.replicas)


def weight_gather(name: str, weights: Bytes, of: ShardGroups) -> Collective:
    """Return the all-gather of weights, as memory holds them, from the ranks that share one copy of them."""
    return Collective(f"{name} weight all-gather", "all_gather", weights, of.shard)


@dataclass(frozen=True, slots=True, eq=False)
class RankParameters:
    """Parameters of one rank: how many, and the bytes of their weights as memory holds them."""

    parameters: Count
    weights: Bytes


def parameters_by_kind(context: Context, owned: Sequence[tuple[int, Parameters]]) -> dict[bool, RankParameters]:
    """Return the parameters of a rank that belong to routed experts (True) and those that do not, where any do.

    owned: (how many, parameters) of each kind of layer on it.
    """
    found = {}
    for expert in (False, True):
        present = [(count, item) for count, item in owned if item.expert == expert]
        if present:
            weights = sum_of(count * item.local * weight_bytes(context, item) for count, item in present)
            found[expert] = RankParameters(sum_of(count * item.local for count, item in present), weights)
    return found


def kind_name(*, expert: bool) -> str:
    """Return how operators over these parameters are called."""
    return "expert" if expert else "dense"


def layer_transfers(
    context: Context, plan: Training, copies: int, parameters: Sequence[Parameters], kept: Bytes
) -> LayerTransfers:
    """Return what one layer moves. kept: bytes of activations that its backward pass waits for."""
    gather: list[Operator] = []
    reduce: list[Operator] = []
    weights: Bytes = 0.0  # those that this rank keeps
    updated: Quantity = 0.0  # parameters whose states it keeps
    for expert, owned in parameters_by_kind(context, [(1, item) for item in parameters]).items():
        of = shard_groups(context, plan, copies, expert=expert)
        name = kind_name(expert=expert)
        gather.append(weight_gather(name, owned.weights, of))
        reduce.extend(gradient_reductions(context, plan, name, owned.parameters, of))
        weights = weights + (owned.weights / of.shard.size if plan.zero == 3 else owned.weights)
        updated = updated + owned.parameters / shard_size(context, plan, copies, expert=expert)
    offload = context.offload
    gradients = updated * ELEMENT_BYTES[gradient_format(context, plan)]
    return LayerTransfers(
        weights_in=host_copies(context, "weights from the host", offload.weights, weights, "in"),
        gather=tuple(gather),
        reduce=tuple(reduce),
        gradients_out=host_copies(context, "gradients to the host", offload.optimizer, gradients, "out"),
        activations_out=host_copies(context, "activations to the host", offload.activations, kept, "out"),
        activations_in=host_copies(context, "activations from the host", offload.activations, kept, "in"),
    )


def host_copies(context: Context, name: str, share: Quantity, size: Bytes, direction: str) -> tuple[Operator, ...]:
    """Return the copy of a share of some bytes between a device and its host; nothing where the share is zero."""
    if is_single(share) and share == 0:
        return ()
    return (HostTransfer(name, share * size, direction, context.parallel.devices),)


def saved_bytes(part: LayerWork) -> Bytes:
    """Return the activations that the backward pass of a layer waits for [B]."""
    return sum_of(item.size for item in part.saved)


class StateSharding:
    """How much of what its parameters need one rank holds. copies: ranks of a pipeline that hold each stage."""

    def __init__(self, context: Context, plan: Training, copies: int) -> None:
        self._context, self._plan = context, plan
        self._ranks = {
            expert: shard_groups(context, plan, copies, expert=expert).shard.size for expert in (False, True)
        }

    def rank_bytes(
        self, owned: Iterable[tuple[Count, Parameters]], bytes_of: Callable[[Parameters], Bytes], *, over: bool
    ) -> Bytes:
        """Return the bytes of the rank's parameters, `over` the ranks that share one copy or whole."""
        total: Quantity = 0.0
        for count, parameters in owned:
            ranks = self._ranks[parameters.expert] if over else 1.0
            total = total + count * parameters.local * bytes_of(parameters) / ranks
        return total

    def transient_bytes(self, stages: Sequence[Sequence[tuple[int, LayerWork]]]) -> Bytes:
        """Return the most that layers hold only while they are worked on.

        Gathered weights and gradients that are not yet scattered, and what the host keeps otherwise; of one layer, or
        of two neighbours where one is fetched while the other computes. stages: (how many, work) along each stage.
        """
        most: Bytes = 0.0
        for part_of, two in (
            (self._between_ranks, self._plan.overlaps_communication),
            (self._on_host, self._context.offload.overlap),
        ):
            chains = ([(count, part_of(part)) for count, part in stage] for stage in stages)
            most = most + maximum(0.0, *(_largest(chain, neighbours=two) for chain in chains))
        return most

    def _between_ranks(self, part: LayerWork) -> Bytes:
        """Return the weights that a layer gathers and the gradients that it scatters."""
        gradient = ELEMENT_BYTES[self._context.precision.gradients] if self._plan.shards_gradients else 0.0
        total: Quantity = 0.0
        for item in part.parameters:
            gathered = weight_bytes(self._context, item) if self._plan.regathers_weights else 0.0
            total = total + where(self._ranks[item.expert] > 1, item.local * (gathered + gradient), 0.0)
        return total

    def _on_host(self, part: LayerWork) -> Bytes:
        """Return what a layer holds of the shares that the host keeps, unless it gathers or scatters them anyway."""
        context, plan, offload = self._context, self._plan, self._context.offload
        total = offload.activations * saved_bytes(part)
        for item in part.parameters:
            several = self._ranks[item.expert] > 1
            weights = 0.0 if plan.zero == 3 and plan.sharding.keep_gathered else weight_bytes(context, item)
            gradients = ELEMENT_BYTES[context.precision.gradients] if plan.reduces_each_micro_batch else 0.0
            total = total + item.local * where(several & plan.regathers_weights, 0.0, offload.weights * weights)
            total = total + item.local * where(several & plan.shards_gradients, 0.0, offload.optimizer * gradients)
        return total


def _largest(sizes: Sequence[tuple[int, Bytes]], *, neighbours: bool) -> Bytes:
    """Return the largest of (how many, bytes) along a stage, or the most of two neighbours together."""
    largest: Bytes = 0.0
    for place, (count, size) in enumerate(sizes):
        beside = maximum(size if count > 1 else 0.0, *(after for _, after in sizes[place + 1 : place + 2]))
        largest = maximum(largest, size + beside if neighbours else size)
    return largest
