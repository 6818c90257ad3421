"""A plan of servers as text: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from costmodel.planning import deployments
from costmodel.planning.launch.layouts import layout_words
from costmodel.planning.request import PlanRequest
from costmodel.report.page import Table, is_verbose, show, table
from costmodel.report.text import NONE, count, percent, quantity

_HOUR = 3600.0
_MOST_LINES = 2  # of what lost, and of what was left out
_MEANS = ("TTFT", "TPOT")
_SAVING = 0.01  # of a token's cost, that is said
SURE = 0.9  # a probability that the hint to ask for more names


def show_plans(plans: deployments.Plans, money: Mapping[str, Any] | None = None) -> None:
    """Print the best deployment in one line, a table of the best of each cluster, and why no other one is better.

    money: of the best one beyond its rent, null where no prices are stated.
    """
    if not plans.best:
        show(plans.nothing, "yellow")
        _show_some("left out", plans.left_out[::-1], 2 * _MOST_LINES)  # what would do instead first
        return
    best, *others = plans.best
    holds = best.holds is not False
    for line in reachable_lines(plans):
        show(line, "yellow")
    line = f"{headline(best)}{_bought(money)}"
    show(line if holds else f"{_instead(plans)}{line}", "bold" if holds else "yellow")
    show(plans_table(plans))
    show(f"why not fewer: {deployments.why_not_less(best)}")
    for line in _cheaper_tokens(best, others):
        show(line)
    show(deployments.receipt_line(best))
    _show_some("lost", plans.lost_lines)
    _show_some("left out", plans.left_out)
    if holds:
        of_those = f" (its rent is of the {best.devices:,} devices in use)" if best.empty else ""
        show(f"next{of_those}: {deployments.command_of(best)}", "dim")
        whole = best.replicas == 1 or best.prefill is not None
        of = "" if whole else f" of one replica, with 1/{best.replicas} of the load"
        show(f"check{of}: {deployments.benchmark_line(best)}", "dim")
        for line in deployments.not_checked(best):
            show(f"note: {line}", "dim")


def headline(one: deployments.Deployment) -> str:
    """Return a deployment in one line: how many devices, what they cost, what was played, and what binds."""
    structure, output = one.engine.structure, deployments.costs(one)["output"]
    device = structure.scenario.cluster.device.name.removesuffix("-sxm").replace("-", " ").upper()
    decoding = one.devices
    number = "1 replica" if one.replicas == 1 else f"{one.replicas} replicas"
    if one.prefill is not None:
        prompts = one.prefill
        kind = prompts.engine.structure.scenario.cluster.device.name.removesuffix("-sxm").replace("-", " ").upper()
        number = f"two pools: {prompts.replicas} x {prompts.engine} = {prompts.devices} {kind} and {one.replicas}"
        device = f"{device} that decode, {one.devices} in all"
        decoding = one.devices - prompts.devices
    parts = [f"{number} x {one.engine} = {decoding:,} {device}{_in_nodes(one)}", *str(structure).split(" ", 1)]
    least = 1 if one.fewer is None else one.fewer.replicas + 1
    whole = " for whole nodes" if one.empty or (one.holds and one.replicas > least) else ""
    parts += [] if one.rent is None else [f"{count(one.rent * _HOUR)} $/h{whole}"]
    parts += [] if output is None else [f"{count(output, 2)} $/M output tokens"]
    bound = deployments.binds(one)
    kind = "beyond its limit" if one.holds is False else "binds"
    binds = f"{kind}: {bound}" if bound != deployments.NOTHING else f"nothing binds{_without_limit(one.player.request)}"
    return f"{', '.join(parts)}; {_times(one)}; {binds}{_chance(one)}"


def _bought(money: Mapping[str, Any] | None) -> str:
    """Return after how long servers that are bought have cost less than the rent, none where a price is missing."""
    if money is None or money["capital"] is None:
        return ""
    after = money["break_even"]
    cheaper = "never cheaper" if after is None else f"cheaper after {after:,.0f} days"
    return f"; bought for {money['capital']:,.0f} $, {cheaper}"


def _without_limit(request: PlanRequest) -> str:
    """Return the times that a request leaves without a limit, and the options that state one."""
    names = [name for name in ("ttft", "tpot") if getattr(request, name) is None]
    shown = f"{' and '.join(map(str.upper, names))} {'has' if len(names) == 1 else 'have'}"
    return f": {shown} no limit ({', '.join(f'--{name}' for name in names)})" if names else ""


def _instead(plans: deployments.Plans) -> str:
    """Return of what the first deployment is the plan, where none holds: of the limits that can be kept, if any."""
    limits = (plans.reachable or {}).get("limits", ())
    names = [
        each["limit"].partition("_")[0].upper() for each in limits if each["best"] and each["best"] > each["asked"]
    ]
    is_of_others = 0 < len(names) < len(limits)
    return f"without the limit on {' and '.join(names)}: " if is_of_others else "the nearest is "


def _cheaper_tokens(best: deployments.Deployment, others: Sequence[deployments.Deployment]) -> Iterator[str]:
    known = [
        (deployments.costs(one)["output"], at, one)
        for at, one in enumerate(others)
        if one.holds and deployments.costs(one)["output"]
    ]
    output, _, one = min(known, default=(None, 0, best))
    own = deployments.costs(best)["output"]
    if output is not None and own is not None and output < own * (1.0 - _SAVING):
        why = ", in another format than the checkpoint's" if one.engine.is_other > best.engine.is_other else ""
        yield (
            f"runner-up: {one.replicas} x {one.engine} {one.engine.structure}: {count(output, 2)} $/M output tokens, "
            f"{percent(1.0 - output / own, 0)} less{why}; {_times(one)}"
        )


def _chance(one: deployments.Deployment) -> str:
    """Return how probably the limits hold, and what would make it more probable."""
    if one.few and one.played is not None:
        return f"; {one.played.requests} requests are too few to say how probably it holds"
    if one.probability is None:
        return ""
    sized = one.player.request.confidence
    more = " (--confidence 90% sizes for more)" if sized is None and one.probability < SURE else ""
    more = more if sized is None else f" (sized for {percent(sized, 0)})"
    played = f" in all of {one.realisations} realisations of the requests," if one.realisations > 1 else ""
    return f"; holds{played} with a probability of {percent(one.probability, 0)}{more}"


def _in_nodes(one: deployments.Deployment) -> str:
    if not one.empty:
        return ""
    whole = "a node" if one.nodes == 1 else f"{one.nodes} nodes"
    return f" of {whole} with {one.devices + one.empty}, {one.empty} stay empty"


def reachable_lines(plans: deployments.Plans) -> Iterator[str]:
    """Yield what is reachable where nothing holds: the highest rate, and the best value of each limit by itself."""
    known = plans.reachable
    if known is None:
        return
    yield f"nothing holds: {known['why']}"
    for each in known["limits"]:
        name, _, statistic = each["limit"].partition("_")
        limit = f"{statistic} {name.upper()}"
        if each["best"] is None:
            yield f"not reachable: {limit}: no layout keeps up with this load, or with one near it"
            continue
        least = f"{deployments.shown(each['best'])} at best (asked: {deployments.shown(each['asked'])})"
        within = "within the budget " if plans.request.budget else ""
        if each["best"] <= each["asked"]:
            yield f"reachable: {limit} {least}, by itself"
            continue
        yield (
            f"reachable: {limit} {least}, by {each['replicas']} x {each['engine']} {layout_words(each['parallel'])} on "
            f"{each['cluster']}{_rent(each)}: no number of devices {within}keeps this limit"
        )
    if known["rate"]:
        rate = count(known["rate"], 3)
        buys = known["highest"]
        yield (
            f"reachable: {rate} requests/s within the limits, by {buys['replicas']} x {buys['engine']} "
            f"{layout_words(buys['parallel'])} = {buys['devices']:,} devices of {buys['cluster']}{_rent(buys)}"
        )


def _rent(plan: Mapping[str, Any]) -> str:
    return "" if plan["cost_rate"] is None else f", {count(plan['cost_rate'])} $/h"


def _times(one: deployments.Deployment) -> str:
    if one.played is None:
        means = ", ".join(f"{name} {_mean(one, name)}" for name in _MEANS)
        return f"mean {means} (not played)"
    said, parts = "", []
    for name, statistic in _statistics(one.player.request).items():
        value = one.played.times.get((name.lower(), statistic))
        if value is not None:
            parts.append(f"{'' if statistic == said else f'{statistic} '}{name} {deployments.shown(value)}")
            said = statistic
    return ", ".join(parts)


def _mean(one: deployments.Deployment, name: str) -> str:
    value = one.point.metrics.get(name.lower())
    return NONE if value is None else deployments.shown(value)


def _statistics(request: PlanRequest) -> dict[str, str]:
    """Return the statistic of each time that is shown: the limit's, else the 99th percentile."""
    limits = {"TTFT": request.ttft, "TPOT": request.tpot}
    return {name: "p99" if limit is None else limit.statistic for name, limit in limits.items()}


def plans_table(plans: deployments.Plans) -> Table:
    """Return the deployments as a table."""
    statistics = _statistics(plans.request)
    means = [name for name in _MEANS if statistics[name] != "mean"]
    rows = table(
        "cluster", "devices", "replicas", "engine", "layout", "$/h", "$/M output",
        *(f">{statistic} {name}" for name, statistic in statistics.items()), *(f"??>mean {name}" for name in means),
        "holds", "?note",
    )  # fmt: skip
    for one in plans.best:
        output = deployments.costs(one)["output"]
        known = deployments.metrics(one)
        keys = *(f"{name.lower()}_{statistic}" for name, statistic in statistics.items()), *map(str.lower, means)
        parts = [] if one.prefill is None else [(one.prefill.engine, one.prefill.replicas)]
        parts += [(one.engine, one.replicas)]
        clusters = dict.fromkeys(engine.structure.cluster.rpartition("/")[2] for engine, _ in parts)
        rows.add(
            " + ".join(clusters), f"{one.devices:,}", " + ".join(f"{number:,}" for _, number in parts),
            str(one.engine.structure), " + ".join(str(engine) for engine, _ in parts),
            NONE if one.rent is None else count(round(one.rent * _HOUR, 9)),
            NONE if output is None else count(output, 3), *(quantity(known.get(key), "duration", 3) for key in keys),
            deployments.HOLDS[one.holds], one.why,
        )  # fmt: skip
    return rows


def _show_some(what: str, some: Sequence[str], most: int = _MOST_LINES) -> None:
    lines = list(dict.fromkeys(some))
    most = len(lines) if is_verbose() else most
    more = f"; {len(lines) - most} more, listed by --verbose" if len(lines) > most else ""
    for at, line in enumerate(lines[:most], 1):
        show(f"{what}: {line}{more if at == most else ''}")


# ---- Money of a plan as text: when the choice turns, own servers, an API ---------------------------------------------


def show_money(document: Mapping[str, Any]) -> None:
    """Print the rents at which another cluster is the cheapest, and what owning the best servers of each
    cluster would cost."""
    for turn in document["turns"]:
        way = "above" if turn["turns_at"] > turn["rent"] else "below"
        show(
            f"price: {turn['other']} is cheaper where a device of {turn['cluster']} rents for {way} "
            f"{turn['turns_at']:.3g} $/h (now {turn['rent']:.3g})"
        )
    of_each = {plan["cluster"]: plan for plan in reversed(document["plans"]) if plan.get("money")}
    if not of_each:
        return
    rows = table(
        "buy or rent", ">rent, $/h", ">servers, $", ">bought, $/h", ">break-even, days", ">API, $/h", ">API / rent"
    )
    for plan in list(of_each.values())[::-1]:
        money, rent = plan["money"], plan["cost_rate"]
        ratio = money["api_rate"] / rent if money["api_rate"] and rent else None
        rows.add(
            plan["cluster"].rpartition("/")[2], _number(rent), _number(money["capital"], ",.0f"),
            _number(money["owning_rate"]), _number(money["break_even"], ",.0f"), _number(money["api_rate"]),
            _number(ratio, ".2f"),
        )  # fmt: skip
    show(rows)
    show("bought: with electricity, over the life of the servers; break-even: of what they cost, against their rent")
    for lack in dict.fromkeys(lack for plan in of_each.values() for lack in plan["money"]["lacks"]):
        show(f"not known: {lack}", "dim")


def _number(value: float | None, form: str = ",.4g") -> str:
    return NONE if value is None else f"{value:{form}}"
