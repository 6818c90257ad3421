"""What moves between the parts of a step of reinforcement learning: new weights to the engines, states to the host."""

from __future__ import annotations

from costmodel.analytic.training.step_model import training_context
from costmodel.quantities import Bytes, Count, sum_of
from costmodel.workload.context import Context
from costmodel.workload.host_offload import weight_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger
from costmodel.workload.operators import Collective, Elementwise, Group, HostTransfer, Operator
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.sharding import is_nothing


def new_weights(plan: Reinforcement) -> list[Operator]:
    """Return what brings the trained weights from the ranks of training to those of the engines.

        gathered   W bytes over the ranks that have different ones: tp * pp, of experts ep * etp * pp, and those that
                   shard them under ZeRO-3; with `shards` W / (tp * pp of an engine)
        sent       W bytes from there to all engines, where these have devices of their own: a broadcast
        loaded     2 W / (tp * pp of an engine): each device reads and writes its part

    W: the weights that are trained, of adapters these alone.
    """
    context, parallel = training_context(plan.train, plan.training), plan.train.parallel
    engines = plan.rollout.parallel.tp * plan.rollout.parallel.pp
    part = 1.0 if plan.update.weights == "whole" else 1.0 / engines
    sharded = parallel.cp * parallel.dp if plan.training.zero == 3 else 1.0
    operators: list[Operator] = []
    whole: Bytes = 0.0
    for is_expert, size in _trained_bytes(context).items():
        if is_nothing(size):
            continue
        ranks: Count = parallel.tp * parallel.pp * sharded
        if is_expert:
            stage = parallel.tp * parallel.cp * parallel.dp
            ranks = parallel.pp * (stage if plan.training.zero == 3 else parallel.ep * parallel.etp)
        name = "expert weight gather" if is_expert else "weight gather"
        operators.append(Collective(name, "all_gather", size * part, Group(ranks)))
        whole = whole + size
    if plan.placement == "split":
        operators.append(Collective("weight broadcast", "broadcast", whole, Group(plan.devices)))
    operators.append(Elementwise("weight load", 2.0 * whole / engines, kind="copy"))
    return operators


def _trained_bytes(context: Context) -> dict[bool, Bytes]:
    """Return the bytes of the trained weights of a model that belong to routed experts (True), and of the rest."""
    work, kinds = model_work(context), context.architecture.kinds.values()
    counted = [(1.0, work.embedding), *zip(map(float, kinds), work.layers, strict=True), (1.0, work.head)]
    owned = [(count, item) for count, kind in counted for item in kind.parameters if item.trains]
    return {
        expert: sum_of(
            count * item.total * weight_bytes(context, item) for count, item in owned if item.expert == expert
        )
        for expert in (False, True)
    }


def host_copies_of(plan: Reinforcement, training: Ledger) -> list[Operator]:
    """Return the copies of a device of what its host keeps while it generates, to the host and back."""
    if plan.offload == "none":
        return []
    size = training.optimizer + (training.weights if plan.offload == "all" else 0.0)
    return _copies(plan, "states", size, size)


def reference_swap(plan: Reinforcement, training: Ledger) -> list[Operator]:
    """Return the copies of a reference that takes the place of the weights for its pass: these out and in, it in."""
    if not plan.has_copy or plan.reference == "device":
        return []
    return _copies(plan, "weights", training.weights, 2.0 * training.weights)


def _copies(plan: Reinforcement, what: str, out: Bytes, back: Bytes) -> list[Operator]:
    """Return copies of some bytes of each device to its host, and from there."""
    devices = plan.train.parallel.devices
    ways = (("to", out, "out"), ("from", back, "in"))
    return [HostTransfer(f"{what} {word} the host", size, way, devices) for word, size, way in ways]
