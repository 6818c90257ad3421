"""Serving from two pools: one prefills, the KV cache crosses the network, the other decodes.

[DistServe, Zhong et al., arXiv 2401.09670; Splitwise, Patel et al., arXiv 2311.18677]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from costmodel.analytic.breakdown import Lines, add_pass
from costmodel.analytic.inference import (
    PassModel,
    PassTimes,
    operators_of,
    pass_ledger,
    pass_model_of,
    pass_times,
    plan_pass,
)
from costmodel.analytic.metrics import invested, max_batch_per_device, spent
from costmodel.analytic.no_schedule import Unscheduled
from costmodel.analytic.operator_timing import TimedOperator, operator_timer
from costmodel.analytic.serving import decode_steps
from costmodel.analytic.stream_times import Perturbations, seconds_of
from costmodel.cost.calibration import Calibration
from costmodel.network.group_links import group_links
from costmodel.quantities import Bytes, Quantity, Seconds, maximum, minimum
from costmodel.result import Entry, Metrics
from costmodel.workload.memory import Ledger, most_loaded, sequence_cache_bytes
from costmodel.workload.operators import Collective, Group
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import Decode, Prefill
from costmodel.workload.scenario import Disaggregated, Scenario


@dataclass(frozen=True, slots=True, eq=False)
class PoolTimes:
    """Seconds of both pools' passes, and of sending the KV cache of a prefill pass."""

    prefill: PassTimes
    decode: PassTimes
    transfer: Seconds


class DisaggregatedEvaluation(Unscheduled):
    """Serving from two pools, each instance of the decoding one fed by as many of the other as it takes."""

    headline = "latency"

    def __init__(self, scenario: Scenario, plan: Disaggregated, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self.ledger: Ledger | None = pools_ledger(scenario, plan)
        self._prefill = _pool_pass(scenario.of_pool(plan.prefill), "prefill", calibration)
        self._decode = _pool_pass(scenario.of_pool(plan.decode), "decode", calibration)
        self._transfer = operator_timer(scenario, calibration).time_operator(transfer(scenario, plan))

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the two pools together, in the ratio in which neither waits for the other.

        per_prefill, per_decode: requests a second of a device; ratio = per_decode / per_prefill: prefilling devices for
        each decoding one, and as many nodes, whose counts are the same
        """
        plan, device, times = self._plan, self._scenario.cluster.device, self._timed(moves)
        per_prefill, per_decode = self._rates(times)
        ratio = per_decode / per_prefill
        rate = per_decode * plan.decode.parallel.devices
        devices = plan.decode.parallel.devices * (1 + ratio)
        first, later = times.prefill.latency + times.transfer, self._steps * times.decode.round(self._sets)
        tokens = rate * plan.output_tokens
        return {
            "ttft": first,
            "tpot": later / (plan.output_tokens - 1),
            "latency": first + later,
            "kv_transfer_time": times.transfer,
            "requests_per_second": rate,
            "input_tokens_per_second": rate * plan.input_tokens,
            "tokens_per_second": tokens,
            "tokens_per_second_per_device": tokens / devices,
            "tokens_per_second_per_user": (plan.output_tokens - 1) / later,
            "prefill_tokens_per_second_per_device": per_prefill * plan.input_tokens,
            "decode_tokens_per_second_per_device": per_decode * (plan.output_tokens - 1),
            "prefill_nodes_per_decode_node": ratio,
            "max_batch_per_device": self._max_batch(),
            **spent(device, devices, tokens, self._computing(times) / (1 + ratio)),
            **invested(self._scenario, devices),
        }

    def _computing(self, times: PoolTimes) -> Quantity:
        """Return the time in which kernels run, a second of a decoding device and of its share of the other pool.

        A device's requests of a set take the kernels of all stages, which its pipeline shares among as many sets.
        """
        plan = self._plan
        prefill, decode = plan.prefill.plan, plan.decode.plan
        assert isinstance(prefill, Prefill)
        assert isinstance(decode, Decode)
        _, per_decode = self._rates(times)
        prompts = prefill.tokens_per_device / plan.input_tokens
        own = self._steps / decode.batch_per_device * times.decode.kernels
        return per_decode * (own + times.prefill.kernels / prompts)

    def _rates(self, times: PoolTimes) -> tuple[Quantity, Quantity]:
        """Return the requests a second of a prefilling and of a decoding device.

        prefill  prompts a device / (pp * slowest stage)
        decode   requests a device / (steps * round)
        either   at most bandwidth / (KV cache of a request): what one device's link can send, or take in
        """
        plan = self._plan
        prefill, decode = plan.prefill.plan, plan.decode.plan
        assert isinstance(prefill, Prefill)
        assert isinstance(decode, Decode)
        prompts = prefill.tokens_per_device / plan.input_tokens
        link = self._link_rate()
        return (
            minimum(prompts / (plan.prefill.parallel.pp * times.prefill.slowest), link),
            minimum(decode.batch_per_device / (self._steps * times.decode.round(self._sets)), link),
        )

    def _link_rate(self) -> Quantity:
        """Return the requests a second whose cache one device's link can carry, of all that its group serves."""
        link = group_links(_pair(self._plan), self._scenario.cluster).slowest
        return link * self._transfer.fit.network_efficiency / delivered(self._scenario, self._plan)

    @property
    def _steps(self) -> Quantity:
        return decode_steps(self._plan.output_tokens, self._plan.decode.plan.speculative)

    @property
    def _sets(self) -> Quantity:
        return self._plan.decode.parallel.pp

    def _max_batch(self) -> Quantity:
        own, decode = self._scenario.of_pool(self._plan.decode), self._plan.decode.plan
        assert isinstance(decode, Decode)
        return max_batch_per_device(own, decode, pass_ledger(own, decode))

    def _timed(self, moves: Perturbations) -> PoolTimes:
        if moves is None:
            return self._times
        return PoolTimes(
            pass_times(self._prefill, moves), pass_times(self._decode, moves), seconds_of(self._transfer, moves)
        )

    @cached_property
    def _times(self) -> PoolTimes:
        return PoolTimes(
            pass_times(self._prefill, None), pass_times(self._decode, None), seconds_of(self._transfer, None)
        )

    def families(self) -> frozenset[str]:
        """Return the families of both pools."""
        return frozenset(item.operator.family for item in self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the prefilling pool, the transfer, and those of the decoding pool."""
        return [*self._prefill.operators(), self._transfer, *operators_of((self._decode,))]

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: prefill, transfer and all decoding steps."""
        lines, times, steps = Lines(), self._times, float(self._steps)
        add_pass(lines, self._prefill, times.prefill)
        lines.add(self._transfer, 1.0)
        add_pass(lines, self._decode, times.decode, steps)
        waiting = steps * (float(times.decode.round(self._sets)) - float(times.decode.latency))
        lines.add_wait("decode: pipeline wait", waiting, "latency")
        return lines.sorted()

    def notes(self) -> tuple[str, ...]:
        """Return which devices the rates of both pools together are of, and that links limit them, where they do."""
        bound = float(self._link_rate())
        held = [
            name for name, rate in zip(("prefill", "decode"), self._rates(self._times), strict=True) if rate >= bound
        ]
        decode, prefill = (float(pool.parallel.devices) for pool in (self._plan.decode, self._plan.prefill))
        per_prefill, per_decode = map(float, self._rates(self._times))
        busy = decode * per_decode / per_prefill
        return (
            f"the rates are those of one decode instance, {decode:,.0f} devices, and of {busy:,.1f} prefilling "
            f"devices, {busy / prefill:.3g} prefill instances, which keep it busy",
            *(f"the {name} pool waits for its links: they carry {bound:.3g} KV caches a second" for name in held),
        )


def _pool_pass(scenario: Scenario, label: str, calibration: Calibration) -> PassModel:
    """Return one pool's pass."""
    assert isinstance(scenario.plan, Prefill | Decode)
    one = replace(plan_pass(scenario, scenario.plan), label=label)
    return pass_model_of(scenario, one, pass_work(one), operator_timer(scenario, calibration))


def transfer(scenario: Scenario, plan: Disaggregated) -> Collective:
    """Return the message that brings the prompts of a prefill pass to decoding devices, as its busiest link sees it.

    The devices of a prefilling group send the caches of all its prompts, each its share; a decoding device takes in its
    part of one request's cache.
    """
    source, target = plan.prefill.parallel, plan.decode.parallel
    prefill = plan.prefill.plan
    assert isinstance(prefill, Prefill)
    request = delivered(scenario, plan)
    sent = prefill.tokens_per_device / plan.input_tokens / source.pp * request
    taken = request / (target.tp * target.cp * target.pp)
    return Collective("kv transfer", "send_recv", maximum(sent, taken), _pair(plan), family="send_recv")


def _pair(plan: Disaggregated) -> Group:
    """Return a prefilling device and its decoding partner: the pools stand one behind the other."""
    return Group(2.0, plan.prefill.parallel.devices)


def delivered(scenario: Scenario, plan: Disaggregated) -> Bytes:
    """Return the KV cache of a prompt as the decoding group keeps it: with every copy that its ranks hold [B].

    Cached tokens of the prompt are sent as well: the prefilling device has read them.
    """
    decode = plan.decode.plan
    assert isinstance(decode, Decode)
    one = plan_pass(scenario.of_pool(plan.decode), decode)
    return plan.decode.parallel.tp * sequence_cache_bytes(one, plan.input_tokens)


def pools_ledger(scenario: Scenario, plan: Disaggregated) -> Ledger:
    """Return the ledger of the pool whose devices are fuller, and the most that any of both keeps on its host."""
    return most_loaded([pass_ledger(scenario.of_pool(pool), pool.plan) for pool in (plan.prefill, plan.decode)])
