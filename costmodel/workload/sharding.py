"""Sharded parameters: who shares them, and what moves for that between ranks and to the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from costmodel.quantities import Bytes, Count, Quantity, is_single, maximum, minimum, sum_of, where
from costmodel.records import Record
from costmodel.workload.context import Context
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.host_offload import weight_bytes
from costmodel.workload.operators import Collective, Elementwise, Group, HostTransfer, Operator
from costmodel.workload.plans import Training
from costmodel.workload.work import LayerWork, Parameters


class ShardGroups(Record):
    """The ranks with the same parameters: `shard` of them share one copy of the states, `replicas` repeat it."""

    shard: Group
    replicas: Group


class LayerTransfers(Record):
    """What one kind of layer moves for a rank, except for its own work.

    weights_in: from the host.
    gather: weights from other ranks, before a pass.
    reduce: gradients after a pass.
    gradients_out: to the host.
    activations_out, activations_in: to the host and back.
    """

    weights_in: tuple[Operator, ...] = ()
    gather: tuple[Operator, ...] = ()
    reduce: tuple[Operator, ...] = ()
    gradients_out: tuple[Operator, ...] = ()
    activations_out: tuple[Operator, ...] = ()
    activations_in: tuple[Operator, ...] = ()


def shard_groups(context: Context, plan: Training, stage_replicas: int, *, expert: bool) -> ShardGroups:
    """Return who shares the parameters of routed experts, or of everything else.

    Routed experts are on stage_replicas*tp*cp*dp/(ep*etp) ranks, one expert-parallel group apart, the rest on
    stage_replicas*cp*dp ranks, tp apart. stage_replicas: ranks of a pipeline that hold each stage (2 under DualPipe).
    A stated group of N ranks shares one copy (of experts, those ranks of the same N*tp neighbours), and the others
    repeat it [FSDP HYBRID_SHARD: Zhao et al., arXiv 2304.11277, section 3.2].
    """
    parallel, group = context.parallel, plan.sharding.group
    if expert:
        stride = parallel.ep * parallel.etp
        whole = stage_replicas * parallel.tp * parallel.cp * parallel.dp / stride
        shard = whole if group is None else minimum(maximum(group * parallel.tp / stride, 1.0), whole)
    else:
        stride, whole = parallel.tp, stage_replicas * parallel.cp * parallel.dp
        shard = whole if group is None else group
    return ShardGroups(Group(shard, stride), Group(whole / shard, stride * shard))


def shard_size(context: Context, plan: Training, stage_replicas: int, *, expert: bool) -> Count:
    """Return the ranks over which optimizer states are sharded. One without ZeRO."""
    return shard_groups(context, plan, stage_replicas, expert=expert).shard.size if plan.zero >= 1 else 1.0


def gradient_format(context: Context, plan: Training) -> str:
    """Return the format in which gradients are sent."""
    return context.precision.gradients if plan.sharding.gradients is None else plan.sharding.gradients


def gradient_reductions(
    context: Context, plan: Training, name: str, parameters: Count, groups: ShardGroups
) -> Iterable[Operator]:
    """Yield the reduction of the gradients of a rank's `parameters`, called after `name`.

    ZeRO-0: all-reduce over all ranks with the same parameters. From ZeRO-1 on: reduce-scatter in the group that shares
    a copy (an all-reduce where the framework does that in stages 1 and 2), then an all-reduce of a rank's part over the
    copies. Gradients that are sent in another format are cast to it and, what is left of them, back. Source:
    Rajbhandari et al., SC 2020, section 7.
    """
    sent, stored = (ELEMENT_BYTES[dtype] for dtype in (gradient_format(context, plan), context.precision.gradients))
    size = parameters * sent
    if gradient_format(context, plan) != context.precision.gradients:
        sharded = parameters / (groups.shard.size if plan.zero >= 1 else 1.0)
        yield Elementwise(f"{name} gradient cast", (parameters + sharded) * (sent + stored), calls=2.0)
    if plan.zero == 0:
        everyone = Group(groups.shard.size * groups.replicas.size, groups.shard.stride)
        yield Collective(f"{name} gradient all-reduce", "all_reduce", size, everyone)
        return
    if plan.zero < 3 and context.framework.training.reduction == "all_reduce":
        yield Collective(f"{name} gradient all-reduce", "all_reduce", size, groups.shard)
    else:
        yield Collective(f"{name} gradient reduce-scatter", "reduce_scatter", size, groups.shard)
    if plan.sharding.group is not None:
        own = size / groups.shard.size
        yield Collective(f"{name} gradient all-reduce over copies", "all_reduce", own, groups.replicas)


def broadcasts_weights(context: Context, plan: Training) -> bool:
    """Tell whether ranks broadcast updated weights in turn, which the end of a step waits for."""
    return plan.zero in (1, 2) and context.framework.training.weight_exchange == "broadcast"


def weight_gather(context: Context, plan: Training, name: str, weights: Bytes, groups: ShardGroups) -> Collective:
    """Return what brings stored weights from the ranks that share one copy of them: an all-gather.

    Where ranks broadcast in turn, n broadcasts of weights / n.
    """
    ranks = groups.shard.size
    if broadcasts_weights(context, plan):
        return Collective(f"{name} weight broadcasts", "broadcast", weights / ranks, groups.shard, calls=ranks)
    return Collective(f"{name} weight all-gather", "all_gather", weights, groups.shard)


class RankParameters(Record):
    """Parameters of one rank: how many are trained, the bytes of their stored weights, and of all weights [B].

    matrices: of those that are trained, the weights of linear layers.
    """

    trained: Count
    trained_weights: Bytes
    weights: Bytes
    matrices: Count = 0.0


def parameters_by_kind(context: Context, owned: Sequence[tuple[Count, Parameters]]) -> dict[bool, RankParameters]:
    """Return the parameters of a rank that belong to routed experts (True) and the rest (False), where there are any.

    owned: (how many, parameters) of each kind of layer on it.
    """
    kinds = {}
    for expert in (False, True):
        items = [(count, item) for count, item in owned if item.expert == expert]
        if items:
            sizes = [count * item.local * weight_bytes(context, item) for count, item in items]
            trained = [number for number, (_, item) in enumerate(items) if item.trains]
            kinds[expert] = RankParameters(
                sum_of([items[number][0] * items[number][1].local for number in trained]),
                sum_of([sizes[number] for number in trained]),
                sum_of(sizes),
                sum_of([items[number][0] * items[number][1].local for number in trained if items[number][1].linear]),
            )
    return kinds


def kind_name(*, expert: bool) -> str:
    """Return the prefix of the names of operators over these parameters."""
    return "expert" if expert else "dense"


def layer_transfers(
    context: Context,
    plan: Training,
    stage_replicas: int,
    parameters: Sequence[Parameters],
    *,
    saved: Bytes,
) -> LayerTransfers:
    """Return what one layer moves. saved: its saved activations [B]."""
    gather: list[Operator] = []
    reduce: list[Operator] = []
    weights: Bytes = 0.0  # those that this rank keeps
    updated: Count = 0.0  # parameters whose states it keeps
    for expert, owned in parameters_by_kind(context, [(1, item) for item in parameters]).items():
        groups = shard_groups(context, plan, stage_replicas, expert=expert)
        name = kind_name(expert=expert)
        moved = owned.weights if plan.zero == 3 else owned.trained_weights  # all where each rank has a part
        if not (is_nothing(moved) or broadcasts_weights(context, plan)):
            gather.append(weight_gather(context, plan, name, moved, groups))
        if not is_nothing(owned.trained):
            reduce.extend(gradient_reductions(context, plan, name, owned.trained, groups))
        weights = weights + (owned.weights / groups.shard.size if plan.zero == 3 else owned.weights)
        updated = updated + owned.trained / shard_size(context, plan, stage_replicas, expert=expert)
    offload = context.offload
    gradients = updated * ELEMENT_BYTES[gradient_format(context, plan)]
    return LayerTransfers(
        weights_in=host_copies(context, "weights from the host", offload.weights, weights, "in"),
        gather=tuple(gather),
        reduce=tuple(reduce),
        gradients_out=host_copies(context, "gradients to the host", offload.optimizer, gradients, "out"),
        activations_out=host_copies(context, "activations to the host", offload.activations, saved, "out"),
        activations_in=host_copies(context, "activations from the host", offload.activations, saved, "in"),
    )


def is_nothing(count: Quantity) -> bool:
    """Tell whether there is none of something at any point of a grid."""
    return is_single(count) and count == 0


def host_copies(context: Context, name: str, share: Quantity, size: Bytes, direction: str) -> tuple[Operator, ...]:
    """Return the copy of a share of some bytes between a device and its host, nothing where the share is zero."""
    if is_nothing(share):
        return ()
    return (HostTransfer(name, share * size, direction, context.parallel.devices),)


def saved_bytes(work: LayerWork) -> Bytes:
    """Return the saved activations of a layer [B]."""
    return sum_of(item.size for item in work.saved)


class StateSharding:
    """How much one rank holds of what its parameters need."""

    def __init__(self, context: Context, plan: Training, stage_replicas: int) -> None:
        self._context, self._plan = context, plan
        self._ranks = {
            expert: shard_groups(context, plan, stage_replicas, expert=expert).shard.size for expert in (False, True)
        }

    def over_ranks(self, sizes: Mapping[bool, Bytes]) -> Bytes:
        """Return a rank's part of what routed experts (true) and the rest have, over the ranks that share one copy."""
        return sum_of(size / self._ranks[expert] for expert, size in sizes.items())

    def transient_bytes(self, stages: Sequence[Sequence[tuple[int, LayerWork]]]) -> Bytes:
        """Return the most that layers hold only while they are worked on.

        Gathered weights and gradients that are not yet scattered, and what the host keeps otherwise: of one layer, or
        of two neighbours where one is fetched while the other computes. stages: (how many, work) along each stage.
        """
        most: Bytes = 0.0
        if not (self._plan.regathers_weights or self._plan.shards_gradients or self._context.offload.is_used):
            return most
        for bytes_of, overlaps in (
            (self._gathered_bytes, self._plan.overlaps_communication),
            (self._offloaded_bytes, self._context.offload.overlap),
        ):
            chains = ([(count, bytes_of(work)) for count, work in stage] for stage in stages)
            most = most + maximum(0.0, *(_largest(chain, neighbours=overlaps) for chain in chains))
        return most

    def _gathered_bytes(self, work: LayerWork) -> Bytes:
        """Return the weights that a layer gathers and the gradients that it scatters."""
        scattered = ELEMENT_BYTES[self._context.precision.gradients] if self._plan.shards_gradients else 0.0
        total: Quantity = 0.0
        for item in work.parameters:
            gradient = scattered if item.trains else 0.0
            gathered = weight_bytes(self._context, item) if self._plan.regathers_weights else 0.0
            total = total + where(self._ranks[item.expert] > 1, item.local * (gathered + gradient), 0.0)
        return total

    def _offloaded_bytes(self, work: LayerWork) -> Bytes:
        """Return what a layer holds of the host's shares, unless it gathers or scatters them anyway."""
        context, plan, offload = self._context, self._plan, self._context.offload
        total = offload.activations * saved_bytes(work)
        for item in work.parameters:
            several = self._ranks[item.expert] > 1
            weights = 0.0 if plan.zero == 3 and plan.sharding.keep_gathered else weight_bytes(context, item)
            reduced = plan.reduces_each_micro_batch and item.trains
            gradients = ELEMENT_BYTES[context.precision.gradients] if reduced else 0.0
            total = total + item.local * where(several & plan.regathers_weights, 0.0, offload.weights * weights)
            total = total + item.local * where(several & plan.shards_gradients, 0.0, offload.optimizer * gradients)
        return total


def _largest(sizes: Sequence[tuple[int, Bytes]], *, neighbours: bool) -> Bytes:
    """Return the largest of (how many, bytes) along a stage, or the most of two neighbours together."""
    largest: Bytes = 0.0
    for i, (count, size) in enumerate(sizes):
        neighbour = maximum(size if count > 1 else 0.0, *(after for _, after in sizes[i + 1 : i + 2]))
        largest = maximum(largest, size + neighbour if neighbours else size)
    return largest
