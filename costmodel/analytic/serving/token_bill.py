"""What the tokens of a server take: its power and its rent, divided among kinds of tokens and what is idle between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from costmodel.analytic.serving.steady_state import SteadyState
from costmodel.cost.money import rental_cost
from costmodel.cost.power import board_power
from costmodel.hardware import Node
from costmodel.quantities import Count, Joules, Quantity, Seconds, maximum
from costmodel.records import Record, replace
from costmodel.workload.passes import computed_tokens
from costmodel.workload.plans import Serving

INPUT, CACHED, OUTPUT = "input", "cached", "output"
MILLION = 1e6


Steps: TypeAlias = "tuple[tuple[Seconds, Seconds], tuple[Joules, Joules]]"  # with prompts, and those that only decode
Shares: TypeAlias = "Mapping[str, tuple[float, float]]"  # kind of token -> of the time of steps, and of their joules


def token_shares(plan: Serving, state: SteadyState, steps_of: Callable[[Serving], Steps]) -> Shares:
    """Return the shares of each kind of tokens in the time of an engine's steps and in their joules, at a single point.

        prompts = prompt_steps * max(with_prompts - base, 0) / period
        cached = prompts - prompts of the same computed tokens that have none before them, at least 0
        input = prompts - cached,    output = 1 - prompts

    base: of a step that only decodes, where prompts share steps with requests that do, else 0. steps_of: times and
    joules of the steps of a plan in that state.
    """
    prompts, whole = _of_prompts(plan, state, steps_of(plan))
    alone = prompts
    if plan.prefix_hit_rate > 0.0:
        short = replace(
            plan, input_tokens=computed_tokens(plan.input_tokens, plan.prefix_hit_rate), prefix_hit_rate=0.0
        )
        alone, _ = _of_prompts(short, state, steps_of(short))
    both = [(own / all_, max(own - bare, 0.0) / all_) for own, bare, all_ in zip(prompts, alone, whole, strict=True)]
    return {
        INPUT: (both[0][0] - both[0][1], both[1][0] - both[1][1]), CACHED: (both[0][1], both[1][1]),
        OUTPUT: (1.0 - both[0][0], 1.0 - both[1][0]),
    }  # fmt: skip


def _of_prompts(plan: Serving, state: SteadyState, steps: Steps) -> tuple[list[float], list[float]]:
    """Return seconds and joules of a period that prompts take, and those of all of it."""
    own, whole = [], []
    for with_prompts, decode_only in steps:
        base = decode_only if plan.scheduler.mixes else 0.0
        own.append(float(state.prompt_steps * maximum(with_prompts - base, 0.0)))
        whole.append(float(state.period(with_prompts, decode_only)) or 1.0)
    return own, whole


class Load(Record, kw_only=True):
    """What is served by so many devices.

    rates: of each kind of tokens [1/s]; busy: share of time in which engines work; work: power of what one device does,
    the mean of all time [W].
    """

    devices: Count
    rates: Mapping[str, float]
    busy: float
    work: Quantity


def load_of(devices: Count, metrics: Mapping[str, float], busy: float, work: Quantity) -> Load:
    """Return the load of a server with such metrics: cached tokens are `prefix_hit_rate` of its input tokens."""
    inputs, hit = metrics["input_tokens_per_second"], metrics["prefix_hit_rate"]
    rates = {INPUT: inputs * (1.0 - hit), CACHED: inputs * hit, OUTPUT: metrics["tokens_per_second"]}
    return Load(devices=devices, rates=rates, busy=busy, work=work)


def token_bills(parts: Iterable[tuple[Node, Load, Shares]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the bills of two pools as one: each has its kinds of tokens, both are idle at times.

    idle.share = sum of devices * share / devices,    idle's power, rent and electricity are those of both
    """
    parts = tuple(parts)
    bills = [token_bill(*part)["tokens"] for part in parts]
    both, devices = [bill.pop("idle") for bill in bills], [float(load.devices) for _, load, _ in parts]
    idle = {name: None if None in (sums := [each[name] for each in both]) else sum(sums) for name in both[0]}
    idle["share"] = float(np.average([each["share"] for each in both], weights=devices))
    return {"tokens": {**bills[0], **bills[1], "idle": idle}}


def token_bill(node: Node, load: Load, shares: Shares) -> dict[str, dict[str, dict[str, Any]]]:
    """Return energy, rent and electricity of each kind of tokens, and of what is idle between requests.

        power_k = (fixed * busy * time_k + (board - idle) * work_k) * PUE * devices
        power_idle = fixed * (1 - busy) * PUE * devices,    fixed = idle + host + network
        rent_k = rent * busy * time_k,    rent_idle = rent * (1 - busy)

    They add up to `energy_per_token` and `cost_per_million_tokens` of all output tokens. A board whose work is not
    known draws its limit all the time, idle or not. Null: what power, rent or price of electricity leaves open.
    """
    power, rent = node.device.power, rental_cost(node.device, load.devices, 1.0)
    board = board_power(power, load.work)
    price, scale = node.device.price.electricity, float(node.facility.pue * load.devices)
    if board is not None:
        idle = board if power.idle is None or not power.states_work else power.idle
        host = 0.0 if node.host.power is None else node.host.power / node.count
        fixed, work = float(idle + host + node.facility.network) * scale, float(board - idle) * scale

    def share_of(time: float, joules: float, over: float) -> dict[str, float | None]:
        """Return watts, dollars of rent and of electricity a second, over a rate."""
        watts = None if board is None else (fixed * time + work * joules) / over
        dollars = None if price is None or watts is None else float(price) * watts
        return {"energy": watts, "rent": None if rent is None else float(rent) * time / over, "electricity": dollars}

    bill: dict[str, dict[str, Any]] = {}
    for kind, (time, joules) in shares.items():
        rate = load.rates[kind]
        each = share_of(load.busy * time, joules, rate / MILLION) if rate > 0.0 else {}
        joules_each = each.get("energy")
        bill[kind] = {
            "tokens_per_second": rate, "energy": None if joules_each is None else joules_each / MILLION,
            "rent_per_million": each.get("rent"), "electricity_per_million": each.get("electricity"),
        }  # fmt: skip
    between = share_of(1.0 - load.busy, 0.0, 1.0)
    bill["idle"] = {
        "share": 1.0 - load.busy, "power": between["energy"], "cost_rate": between["rent"],
        "electricity_rate": between["electricity"],
    }  # fmt: skip
    return {"tokens": bill}
