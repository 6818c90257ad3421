"""Serving from two pools: one prefills, the KV cache crosses the network, the other decodes.

[DistServe, Zhong et al., arXiv 2401.09670; Splitwise, Patel et al., arXiv 2311.18677]
"""

from __future__ import annotations

from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import (
    PassModel,
    PassTimes,
    operators_of,
    pass_ledger,
    pass_model_of,
    pass_times,
    plan_pass,
    prefill_passes,
)
from costmodel.analytic.metrics import max_batch_per_device, served_metrics
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving.engine_state import decode_steps
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation, seconds_of
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.network.group_links import group_links
from costmodel.quantities import Bytes, Quantity, Seconds, Watts, maximum, minimum
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.workload.memory import Ledger, most_loaded, sequence_cache_bytes
from costmodel.workload.operators import Collective, Group
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Disaggregated, Pool, Scenario


class PoolTimes(Record):
    """Seconds of both pools' passes, and of sending the KV cache of a prefill pass."""

    prefill: PassTimes
    decode: PassTimes
    transfer: Seconds


class DisaggregatedEvaluation(PhaseEvaluation[PoolTimes]):
    """Serving from two pools, with as many prefill devices as keep one decode instance busy."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Disaggregated, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        prefill, decode = plan.prefill.plan, plan.decode.plan
        assert isinstance(prefill, Prefill)
        assert isinstance(decode, Decode)
        self._batch, self._prompts = decode.batch_per_device, prefill.tokens_per_device / plan.input_tokens
        self._steps = decode_steps(plan.output_tokens, decode.speculative)
        self._sets = plan.decode.parallel.pp
        self._passes = prefill_passes(scenario.of_pool(plan.prefill), prefill).count
        self.ledger: Ledger | None = pools_ledger(scenario, plan)
        self._prefill_pass = _pool_pass(scenario, plan.prefill, "prefill", calibration)
        self._decode_pass = _pool_pass(scenario, plan.decode, "decode", calibration)
        self._transfer = operator_timer(scenario, calibration).time_operator(transfer(scenario, plan))

    @equation
    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the two pools together, in the ratio in which neither waits for the other.

        per_prefill, per_decode: requests per second and device; ratio = per_decode / per_prefill: prefill devices per
        decode device, and as many nodes, which have as many devices in both pools

            first = all_sets + times.transfer
            later = steps * step
            kv_transfer_time = times.transfer
            rate = per_decode * plan.decode.parallel.devices
            devices = plan.decode.parallel.devices * (1 + ratio)
            prefill_tokens_per_second_per_device = per_prefill * plan.input_tokens
            decode_tokens_per_second_per_device = per_decode * (plan.output_tokens - 1)
            prefill_nodes_per_decode_node = per_decode / per_prefill
            max_batch_per_device = largest_batch
        """
        plan, times = self._plan, self.times(perturbations)
        per_prefill, per_decode = self._rates(times)
        ratio = per_decode / per_prefill
        rate = per_decode * plan.decode.parallel.devices
        devices = plan.decode.parallel.devices * (1 + ratio)
        all_sets, steps, step = times.prefill.following(self._passes), self._steps, times.decode.round(self._sets)
        first, later = all_sets + times.transfer, steps * step
        largest_batch = self._max_batch()
        own: Metrics = {
            "kv_transfer_time": times.transfer,
            "prefill_tokens_per_second_per_device": per_prefill * plan.input_tokens,
            "decode_tokens_per_second_per_device": per_decode * (plan.output_tokens - 1),
            "prefill_nodes_per_decode_node": ratio,
            "max_batch_per_device": largest_batch,
        }
        return served_metrics(self._scenario, rate, devices, (first, later), self._work(times, ratio), own)

    def _work(self, times: PoolTimes, ratio: Quantity) -> Watts:
        """Return the power of the work of a device of both pools, the mean. ratio: prefill devices of a decoding one.

        A device's requests of a set take the work of all stages, which its pipeline shares among as many sets.
        """
        _, per_decode = self._rates(times)
        decode, prefill = self._steps / self._batch, self._passes / self._prompts
        work = decode * times.decode.joules + prefill * times.prefill.joules
        return per_decode * work / (1 + ratio)

    @equation
    def _rates(self, times: PoolTimes) -> tuple[Quantity, Quantity]:
        """Return the requests per second of a prefill and of a decode device.

        per_prefill = min(prompts / (stages * passes * times.prefill.slowest), link)
        per_decode = min(batch / (steps * step), link)

        Either is at most bandwidth / (KV cache per request): what one device's link can send or receive.
        """
        link, stages, step = self._link_rate(), self._plan.prefill.parallel.pp, times.decode.round(self._sets)
        prompts, passes, batch, steps = self._prompts, self._passes, self._batch, self._steps
        per_prefill = minimum(prompts / (stages * passes * times.prefill.slowest), link)
        per_decode = minimum(batch / (steps * step), link)
        return per_prefill, per_decode

    def _link_rate(self) -> Quantity:
        """Return the requests per second whose cache one device's link can carry, of all that its group serves."""
        bandwidth = (
            group_links(_pair(self._plan), self._scenario.cluster).slowest * self._transfer.fit.network_efficiency
        )
        return bandwidth / delivered_cache(self._scenario, self._plan)

    def _max_batch(self) -> Quantity:
        pool, decode = self._scenario.of_pool(self._plan.decode), self._plan.decode.plan
        assert isinstance(decode, Decode)
        return max_batch_per_device(pool, decode, pass_ledger(pool, decode))

    def _evaluate(self, perturbations: Perturbations) -> PoolTimes:
        prefill, decode = (pass_times(model, perturbations) for model in (self._prefill_pass, self._decode_pass))
        return PoolTimes(prefill, decode, seconds_of(self._transfer, perturbations))

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the prefill pool, the transfer, and those of the decode pool."""
        return [*self._prefill_pass.operators(), self._transfer, *operators_of((self._decode_pass,))]

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: prefill, transfer and all decoding steps."""
        lines, times, steps = BreakdownLines(), self.times(), float(self._steps)
        prefill = times.prefill
        add_pass(lines, self._prefill_pass, prefill, float(prefill.following(self._passes) / prefill.latency))
        lines.add(self._transfer, 1.0)
        add_pass(lines, self._decode_pass, times.decode, steps)
        add_pipeline_wait(lines, "decode: pipeline wait", times.decode, self._sets, steps)
        return lines.sorted()

    def notes(self) -> tuple[str, ...]:
        """Return which devices the rates of both pools together are of, and whether links limit them."""
        times = self.times()
        rates, link = self._rates(times), self._link_rate()
        limited = [name for name, rate in zip(("prefill", "decode"), rates, strict=True) if rate >= link]
        decode, prefill = (float(pool.parallel.devices) for pool in (self._plan.decode, self._plan.prefill))
        per_prefill, per_decode = map(float, rates)
        busy = decode * per_decode / per_prefill
        return (
            f"rates are for one decode instance ({decode:,.0f} devices) and the {busy:,.1f} prefill devices "
            f"({busy / prefill:.3g} instances) needed to keep it busy",
            *(
                f"the {name} pool is limited by its links, which carry {float(link):.3g} KV caches per second"
                for name in limited
            ),
        )


def _pool_pass(scenario: Scenario, pool: Pool, label: str, calibration: Calibration) -> PassModel:
    own = scenario.of_pool(pool)
    assert isinstance(own.plan, Prefill | Decode)
    forward = replace(plan_pass(own, own.plan), label=label)
    return pass_model_of(own, forward, pass_work(forward), operator_timer(own, calibration))


def transfer(scenario: Scenario, plan: Disaggregated) -> Collective:
    """Return the message that brings the prompts of a prefill pass to decode devices, as its busiest link sees it.

    The devices of a prefill group send the caches of all its prompts, each its share. A decode device receives its part
    of one request's cache.
    """
    source, target = plan.prefill.parallel, plan.decode.parallel
    prefill = plan.prefill.plan
    assert isinstance(prefill, Prefill)
    request = delivered_cache(scenario, plan)
    sent = prefill.tokens_per_device / plan.input_tokens / source.pp * request
    received = request / (target.tp * target.cp * target.pp)
    return Collective("kv transfer", "send_recv", maximum(sent, received), _pair(plan), family="send_recv")


def _pair(plan: Disaggregated) -> Group:
    """Return a prefill device and its decode partner, in pools one behind the other."""
    return Group(2.0, plan.prefill.parallel.devices)


def delivered_cache(scenario: Scenario, plan: Disaggregated) -> Bytes:
    """Return the KV cache of a prompt as the decode group keeps it, with every copy on its ranks [B].

    Cached tokens of the prompt are sent as well: the prefill device has read them.
    """
    decode = plan.decode.plan
    assert isinstance(decode, Decode)
    forward = plan_pass(scenario.of_pool(plan.decode), decode)
    return plan.decode.parallel.tp * sequence_cache_bytes(forward, plan.input_tokens)


def pools_ledger(scenario: Scenario, plan: Disaggregated) -> Ledger:
    """Return the ledger of the pool with the most-loaded devices, and the most that either keeps on its host."""
    return most_loaded([pass_ledger(scenario.of_pool(pool), pool.plan) for pool in (plan.prefill, plan.decode)])
