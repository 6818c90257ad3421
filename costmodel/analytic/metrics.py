"""From times to the metrics of a result."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.analytic.capital import capital
from costmodel.analytic.inference import PassTimes, prefill_passes
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import StepTimes
from costmodel.cost.money import rental_cost
from costmodel.cost.power import energy
from costmodel.equations import equation
from costmodel.hardware import Device, Node
from costmodel.network.group_links import group_links
from costmodel.quantities import Count, FlopPerSecond, Quantity, Seconds, Watts, is_single, maximum, minimum
from costmodel.records import Record
from costmodel.result import PHASES, Metrics
from costmodel.workload.counting import adapter_parameters, parameter_count, training_flop_per_token
from costmodel.workload.dtypes import payload_width
from costmodel.workload.memory import Ledger, host_batch_limit
from costmodel.workload.operators import Group
from costmodel.workload.plans import Decode, ExpertBound, Prefill, Serving, Training, tokens_per_step
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Disaggregated, Scenario

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600.0, 86400.0
MILLION, TRILLION = 1e6, 1e12


@equation
def training_metrics(scenario: Scenario, plan: Training, model: StepModel, times: StepTimes) -> Metrics:
    """Return the metrics of a training step.

    Devices compute outside of bubbles, exposed messages and the host's update.

        flop_per_token = model.executed_flop * ranks / rank_tokens
        bubble_time = bubble
        exposed_communication_time = times.exposed_communication
        energy_per_token = joules_per_token
        energy_per_trillion_tokens = joules_per_trillion
        work = busy * model.busy + model.joules / times.step
        busy = 1 - (times.bubble + times.exposed_communication + times.host) / times.step
        per_token = times.step / plan.tokens
    """
    devices, node = scenario.parallel.devices, scenario.cluster.node
    per_token = times.step / plan.tokens
    rank_tokens = plan.micro_batch * plan.answers * plan.sequence
    ranks, bubble = scenario.parallel.tp * scenario.parallel.cp, times.bubble
    busy = 1 - (times.bubble + times.exposed_communication + times.host) / times.step
    work = busy * model.busy + model.joules / times.step
    joules_per_token = energy(node, devices, per_token, work)
    joules_per_trillion = energy(node, devices, TRILLION * per_token, work)
    metrics = {
        **rates_of_step(scenario, plan, times.step),
        "flop_per_token": model.executed_flop * ranks / rank_tokens,
        "bubble_time": bubble,
        "exposed_communication_time": times.exposed_communication,
        "energy_per_token": joules_per_token,
        "energy_per_trillion_tokens": joules_per_trillion,
        **invested(scenario, devices),
    }
    return {name: metrics[name] for name in PHASES["training"][1]}


@equation
def rates_of_step(scenario: Scenario, plan: Training, step: Seconds) -> Metrics:
    """Return the metrics of a training step that nothing but its time decides: the keys of `anchors.POWERS`.

    step_time = step
    tokens_per_second = tokens / step
    tokens_per_day = SECONDS_PER_DAY * tokens / step
    tokens_per_second_per_device = tokens / step / devices
    mfu = causal_flop * tokens / offered             model FLOP: no recompute, no MTP
    mfu_noncausal = full_flop * tokens / offered     as if every token saw all others
    device_hours_per_trillion_tokens = TRILLION * per_token * devices / SECONDS_PER_HOUR
    cost_per_trillion_tokens = cost
    offered = step * devices * peak                  of the 16-bit format
    tokens = plan.tokens
    per_token = step / tokens
    """
    devices, device = scenario.parallel.devices, scenario.cluster.device
    tokens = plan.tokens
    peak = sixteen_bit_peak(device)
    offered = step * devices * peak
    per_token = step / tokens
    causal_flop, full_flop = (model_flop_per_token(scenario, plan, causal=causal) for causal in (True, False))
    cost = rental_cost(device, devices, TRILLION * per_token)
    return {
        "step_time": step,
        "tokens_per_second": tokens / step,
        "tokens_per_day": SECONDS_PER_DAY * tokens / step,
        "tokens_per_second_per_device": tokens / step / devices,
        "mfu": causal_flop * tokens / offered,
        "mfu_noncausal": full_flop * tokens / offered,
        "device_hours_per_trillion_tokens": TRILLION * per_token * devices / SECONDS_PER_HOUR,
        "cost_per_trillion_tokens": cost,
    }


def model_flop_per_token(scenario: Scenario, plan: Training, *, causal: bool) -> Quantity:
    """Return the model FLOP of a token of a step: no gradients of frozen weights, and what a reference computes."""
    architecture = scenario.architecture
    frozen: Quantity = 0.0
    active = parameter_count(architecture).active
    if plan.adapters is not None:
        frozen, active = active, active + adapter_parameters(architecture, plan.adapters)[1]
    passes = 0.0 if plan.reference == "none" else 1.0
    return training_flop_per_token(
        architecture, active, plan.sequence, causal=causal, frozen=frozen, passes=passes
    )  # fmt: skip


def schedule_times(times: StepTimes) -> Mapping[str, Quantity]:
    """Return the step's parts, means over pipeline ranks that sum to it. A full backward counts in `backward_input`."""
    kinds = times.by_kind
    return {
        "forward": kinds["forward"],
        "backward_input": kinds["backward_input"] + kinds["backward"],
        "backward_weight": kinds["backward_weight"],
        "forward_backward": kinds["forward_backward"],
        "bubble": times.bubble,
        "optimizer": times.optimizer,
    }


def pass_metrics(scenario: Scenario, plan: Prefill | Decode, ledger: Ledger, times: PassTimes) -> Metrics:
    """Return the metrics of a prefill or of decoding."""
    if isinstance(plan, Prefill):
        return _prefill_metrics(scenario, plan, times)
    return _decode_metrics(scenario, plan, ledger, times)


@equation
def _prefill_metrics(scenario: Scenario, plan: Prefill, times: PassTimes) -> Metrics:
    """Return the metrics of a prefill.

    A device's whole batch goes through all stages in passes that follow one another. The rate includes cached tokens of
    the prompts. Where sequences are denoised in steps, these follow one another.

        ttft = plan.steps * all_sets
        tokens_per_second_per_device = plan.tokens_per_device / period
        period = plan.steps * passes * stages * times.slowest
    """
    passes, stages = prefill_passes(scenario, plan).count, scenario.parallel.pp
    all_sets, period = times.following(passes), plan.steps * passes * stages * times.slowest
    rate = plan.tokens_per_device / period
    return {
        "ttft": plan.steps * all_sets,
        "tokens_per_second_per_device": rate,
        **_spent(scenario, rate, times.work(period, plan.steps * passes)),
    }


@equation
def _decode_metrics(scenario: Scenario, plan: Decode, ledger: Ledger, times: PassTimes) -> Metrics:
    """Return the metrics of decoding. In a round of the pipeline's pp sets every request gets its tokens of a step.

    batch_per_device: of devices that hold layers. Rates are over all devices, those with experts only included.

        tpot = step / tokens                               tokens of a request in a step
        tokens_per_second_per_device = plan.batch_per_device / tpot * (1 - pool_share)
        tokens_per_second_per_user = 1 / tpot
        max_batch_per_device = largest_batch
    """
    step, tokens = times.round(scenario.parallel.pp), tokens_per_step(plan.speculative)
    tpot, pool_share = step / tokens, scenario.parallel.pool_share
    rate = plan.batch_per_device / tpot * (1.0 - pool_share)
    largest_batch = max_batch_per_device(scenario, plan, ledger)
    return {
        "tpot": tpot,
        "tokens_per_second_per_device": rate,
        "tokens_per_second_per_user": 1 / tpot,
        "max_batch_per_device": largest_batch,
        **_spent(scenario, rate, times.work(step)),
    }


def _spent(scenario: Scenario, rate: Quantity, work: Watts) -> Metrics:
    return {**spent(scenario.cluster.node, 1.0, rate, work), **invested(scenario, scenario.devices)}


@equation
def spent(node: Node, devices: Count, rate: Quantity, work: Watts) -> Metrics:
    """Return money and energy of `devices` that together generate `rate` tokens per second.

    work: power of what one of them does.

        cost_per_million_tokens = cost      of a million tokens
        energy_per_token = joules           of a token
    """
    cost, joules = rental_cost(node.device, devices, MILLION / rate), energy(node, devices, 1 / rate, work)
    return {"cost_per_million_tokens": cost, "energy_per_token": joules}


@equation
def invested(scenario: Scenario, devices: Count) -> Metrics:
    """Return what `devices` cost a second to rent [$/s], and to buy with their share of nodes and fabric [$].

    cost_rate = cost / duration
    capital_cost = parts.devices + parts.hosts + parts.network
    """
    duration = 1.0  # s
    cost, parts = rental_cost(scenario.cluster.device, devices, duration), capital(scenario.cluster, devices)
    return {"cost_rate": None if cost is None else cost / duration, "capital_cost": parts.total}


@equation
def serving_metrics(
    scenario: Scenario, rate: Quantity, devices: Count, request: tuple[Seconds, Seconds], work: Watts, own: Metrics
) -> Metrics:  # fmt: skip
    """Return the metrics of devices that serve requests at a rate.

    request: seconds until its first token, `first`, without what measured ones take longer, and from then to its last,
        `later`.
    work: power of the work of one device.
    own: metrics of this kind of serving alone.

        ttft = first
        tpot = later / (plan.output_tokens - 1)
        latency = first + later
        requests_per_second = rate
        input_tokens_per_second = rate * plan.input_tokens
        tokens_per_second = rate * plan.output_tokens
        tokens_per_second_per_device = tokens / devices
        tokens_per_second_per_user = (plan.output_tokens - 1) / later
    """
    plan, (first, later) = scenario.plan, request
    assert isinstance(plan, Serving | Disaggregated | Pools), "others have no rate of requests"
    tokens = rate * plan.output_tokens
    metrics = {
        "ttft": first,
        "tpot": later / (plan.output_tokens - 1),
        "latency": first + later,
        "requests_per_second": rate,
        "input_tokens_per_second": rate * plan.input_tokens,
        "tokens_per_second": tokens,
        "tokens_per_second_per_device": tokens / devices,
        "tokens_per_second_per_user": (plan.output_tokens - 1) / later,
        **spent(scenario.cluster.node, devices, tokens, work),
        **invested(scenario, devices),
        **own,
    }
    return {name: metrics[name] for name in PHASES[scenario.result_kind][1]}


def served_metrics(
    scenario: Scenario, rate: Quantity, devices: Count, request: tuple[Seconds, Seconds], work: Watts, own: Metrics
) -> Metrics:  # fmt: skip
    """Return as `serving_metrics`, with times to first token as measured ones are, where runs anchor the scenario."""
    metrics, longer = serving_metrics(scenario, rate, devices, request, work, own), scenario.pace.first
    if is_single(longer) and longer == 1.0:
        return metrics
    return {**metrics, **first_tokens_as_measured(*request, longer)}


@equation
def first_tokens_as_measured(first: Seconds, later: Seconds, longer: Quantity) -> Metrics:
    """Return the times of a request whose first token takes longer than the engine has it, as measured ones do.

    ttft = first * longer
    latency = first * longer + later
    """
    return {"ttft": first * longer, "latency": first * longer + later}


@equation
def bound_metrics(times: BoundTimes) -> Metrics:
    """Return the metrics of the closed-form bound.

    all_to_all_time = times.all_to_all
    layer_time = times.layer
    tpot = times.tpot
    tokens_per_second_per_user = 1 / times.tpot
    """
    return {
        "all_to_all_time": times.all_to_all,
        "layer_time": times.layer,
        "tpot": times.tpot,
        "tokens_per_second_per_user": 1 / times.tpot,
    }


def max_batch_per_device(scenario: Scenario, plan: Decode, ledger: Ledger) -> Quantity:
    """Return the largest batch per device that fits in memory, at the scenario's mean context.

    Rounded down to whole sequences of a tp*cp group in every micro-batch.
    """
    unit = plan.micro_batches / (scenario.parallel.tp * scenario.parallel.cp)
    return largest_batch(scenario, ledger, plan.batch_per_device, unit)


@equation
def largest_batch(scenario: Scenario, ledger: Ledger, batch: Count, unit: Count) -> Count:
    """Return the largest batch that fits in memory, a whole multiple of `unit`. ledger: of `batch`.

        largest_batch = max(min(floor(free / (per_request * unit)) * unit, hosted), 0)
        free = capacity - fixed
        per_request = (ledger.total - fixed) / batch      bytes that grow with the batch
        fixed = ledger.weights + ledger.reserve

    hosted: what fits in the host's memory, where it keeps a share of the cache.
    """
    fixed = ledger.weights + ledger.reserve
    per_request = (ledger.total - fixed) / batch
    capacity = scenario.cluster.device.device_memory.capacity
    free = capacity - fixed
    hosted = host_batch_limit(ledger, scenario.cluster.node, scenario.parallel.devices, batch, unit)
    return maximum(minimum(free // (per_request * unit) * unit, hosted), 0.0)


def sixteen_bit_peak(device: Device) -> FlopPerSecond:
    """Return the dense BF16 peak of a device, that of FP16 where it has no BF16 [FLOP/s]."""
    return device.peak("bf16" if "bf16" in device.math else "fp16")


# ---- The closed-form bound of expert-parallel decoding (arXiv 2505.09343, section 2.3.2) -----------------------------


class BoundTimes(Record):
    """Seconds of one all-to-all pair, of a layer and of a token."""

    all_to_all: Seconds
    layer: Seconds
    tpot: Seconds


@equation
def bound_times(scenario: Scenario, plan: ExpertBound) -> BoundTimes:
    """Return the bound: computation takes no time, and two micro-batches share the wire.

        tpot = layers * 2 * all_to_all
        layer = 2 * all_to_all
        all_to_all = width * plan.tokens_per_device * plan.sends * plan.hidden / bandwidth

    width: of an element, dispatched and combined [B]; bandwidth: of the slowest link that the expert-parallel group
    crosses [B/s]. Latency, scales and deduplication are excluded, as in the paper.
    """
    width = payload_width(scenario.communication.dispatch) + payload_width(scenario.communication.combine)
    bandwidth = group_links(Group(scenario.parallel.ep), scenario.cluster).slowest
    layers = scenario.architecture.depth
    all_to_all = width * plan.tokens_per_device * plan.sends * plan.hidden / bandwidth
    return BoundTimes(all_to_all, 2 * all_to_all, layers * 2 * all_to_all)
