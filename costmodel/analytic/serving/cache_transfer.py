"""The KV caches of prompts on their way from a prefilling pool to a decoding one."""

from __future__ import annotations

from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving.waiting import NEARLY, queue_wait
from costmodel.analytic.stream_times import Perturbations, seconds_of
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.errors import InputError
from costmodel.hardware import Node
from costmodel.network.group_links import group_links
from costmodel.quantities import Bytes, BytesPerSecond, Count, PerSecond, Quantity, Seconds, maximum, minimum
from costmodel.records import Record, replace
from costmodel.workload.memory import sequence_cache_bytes
from costmodel.workload.operators import Collective, Group
from costmodel.workload.passes import Pass, request_context
from costmodel.workload.plans import drafted_tokens
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario


class CacheTransfer(Record):
    """Caches that cross links of both pools.

    size: of a prompt's cache as the decoding group keeps it, with every copy on its ranks [B].
    bandwidth: of one device's link [B/s]; latency: of a cache [s].
    senders, receivers: devices of one engine; engines: of both pools.
    message: the cache of one prompt as the network's fits time it; null where its links are stated.
    slower: factor on times.
    """

    size: Bytes
    bandwidth: BytesPerSecond
    latency: Seconds
    senders: Count
    receivers: Count
    engines: tuple[Count, Count]
    message: TimedOperator | None = None
    slower: Quantity = 1.0

    @classmethod
    def of(cls, scenario: Scenario, plan: Pools, calibration: Calibration) -> CacheTransfer:
        """Return the transfer of a scenario: as `replicas.transfer` states, over the cluster's links, or both NICs.

        Raises InputError where devices of two clusters have no NIC.
        """
        source, target = plan.prefill.parallel, plan.decode.parallel
        size, stated = delivered_bytes(plan), plan.router.transfer
        senders, receivers = source.tp * source.cp * source.pp, target.tp * target.cp * target.pp
        engines = tuple(
            part.parallel.dp * engine.replicas.count
            for part, engine in zip((plan.prefill, plan.decode), plan.engines, strict=True)
        )
        counts = (senders, receivers, (engines[0], engines[1]))
        if stated is not None:
            return cls(size, stated.bandwidth / maximum(senders, receivers), stated.latency, *counts)
        if plan.shared:
            pair = Group(2.0, source.devices)
            part = maximum(size / senders, size / receivers)
            timer = operator_timer(scenario, calibration)
            message = timer.time_operator(Collective("kv transfer", "send_recv", part, pair, family="send_recv"))
            links = group_links(pair, scenario.cluster)
            return cls(size, links.slowest * message.fit.network_efficiency, links.latency, *counts, message)
        nics = [_nic(part.cluster.node) for part in (plan.prefill, plan.decode)]
        return cls(size, minimum(*(each[0] for each in nics)), maximum(*(each[1] for each in nics)), *counts)

    def perturbed(self, perturbations: Perturbations) -> CacheTransfer:
        """Return the transfer with the network's fits perturbed within their spread."""
        if perturbations is None or self.message is None:
            return self
        usual = seconds_of(self.message, None)
        return replace(self, slower=seconds_of(self.message, perturbations) / usual)

    @property
    @equation
    def highest_rate(self) -> PerSecond:
        """Return the prompts per second whose caches the links of all engines of either pool carry.

        highest_rate = bandwidth * min(all_senders, all_receivers) / (size * slower)
        """
        all_senders, all_receivers = self.senders * self.engines[0], self.receivers * self.engines[1]
        return self.bandwidth * minimum(all_senders, all_receivers) / (self.size * self.slower)

    @equation
    def time(self, rate: PerSecond, prompts: Count) -> Seconds:
        """Return the time until a cache is there, of `prompts` that a pass of one engine sends one after the other [s].

            time = slower * (busiest / bandwidth + latency) + queued
            busiest = max(prompts * size / senders, size / receivers)
            load = rate / highest_rate

        queued: behind caches of other passes on the same links, which come at random [Pollaczek and Khinchine].
        """
        busiest = maximum(prompts * self.size / self.senders, self.size / self.receivers)
        own: Quantity = self.slower * (busiest / self.bandwidth + self.latency)
        load = minimum(rate / self.highest_rate, NEARLY)
        return own + queue_wait(load, 1.0, own, 1.0, load)


def delivered_bytes(plan: Pools) -> Bytes:
    """Return the KV cache of a prompt as a decoding group keeps it, with every copy on its ranks [B].

    Cached tokens of the prompt are sent as well: the engine that computed it has read them.
    """
    part, engine = plan.decode, plan.engines[1]
    context = request_context(part, 1.0, plan.input_tokens, drafted_tokens(engine.speculative))
    return part.parallel.tp * sequence_cache_bytes(Pass((context,), 1), plan.input_tokens)


def _nic(node: Node) -> tuple[BytesPerSecond, Seconds]:
    """Return bandwidth and latency of a device's share of its node's NICs."""
    if node.nic is None:
        raise InputError.single(
            f"{node.name} has no NIC, over which caches would go to the other cluster", field="replicas.transfer",
            hint="write `transfer: {bandwidth: 50 GB/s}`, or name one cluster for both pools",
        )  # fmt: skip
    return node.nic.bandwidth * node.nic.per_device, node.nic.latency or 0.0
