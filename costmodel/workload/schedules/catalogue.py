"""All schedules by name: who builds them, how many stages a rank holds, how many ranks and micro-batches they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from costmodel.errors import InputError, Problem
from costmodel.quantities import Count, Mask, ceil, divides, maximum
from costmodel.records import ValueRecord
from costmodel.workload.schedules import orders
from costmodel.workload.schedules.schedule import Schedule
from costmodel.workload.split_rules import Rule, shown

MOST_KEPT = 4096  # micro-batches of GPipe
ORDERS = 16  # of schedules that are kept: those of long steps on many ranks are large


class ScheduleEntry(ValueRecord):
    """A schedule's place in the catalogue. build: (pp, virtual, micro-batches) -> its orders.

    virtual: stages of a rank, null where the scenario states two or more.
    runs_alone: one stage will do without a pipeline.
    conditions: on (pp, micro-batches).
    concurrent_messages: that a rank sends at once, at the end of an overlapped pair of passes.
    """

    build: Callable[[int, int, int], Schedule]
    virtual: int | None = 1
    runs_alone: bool = False
    conditions: Callable[[Count, Count], Iterator[Rule]] | None = None
    concurrent_messages: int = 1


def concurrent_messages(name: str) -> int:
    """Return how many messages leave a rank at the same time: two where pairs of chunks end together.

    DualPipe sends activations one way and gradients the other in one batch, over the one NIC of the device
    [github.com/deepseek-ai/DualPipe, dualpipe.py, _commit_and_wait_comm].
    """
    return SCHEDULES[name].concurrent_messages


def rules_of(name: str, pp: Count, virtual: Count, micro_batches: Count) -> Iterator[Rule]:
    """Yield what the schedule asks of (pp, virtual, micro-batches), which may be arrays.

    A number of micro-batches that is no whole number is for others to refuse.
    """
    description = SCHEDULES[name]
    yield _virtual_rule(name, description, pp, virtual)
    if description.conditions is not None:
        yield from description.conditions(pp, micro_batches)


def implied_virtual(name: str) -> int:
    """Return the stages of a rank where a scenario does not state them."""
    return SCHEDULES[name].virtual or 1


@lru_cache(maxsize=ORDERS)
def order(schedule: str, pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return the schedule of that name for `pp` ranks of `virtual` stages each and `micro_batches` a step."""
    if schedule not in SCHEDULES:
        names = ", ".join(SCHEDULES)
        raise InputError.single(f"unknown schedule `{schedule}`", field="schedule", hint=f"write one of {names}")
    for field, value in (("parallel.pp", pp), ("parallel.virtual", virtual), ("micro-batches", micro_batches)):
        if value < 1:
            raise InputError.single(f"is {value}", field=field, hint="at least 1 is needed")
    broken = [rule for rule in rules_of(schedule, pp, virtual, micro_batches) if not rule.holds]
    if broken:
        raise InputError([Problem(None, rule.field, rule.message, rule.hint) for rule in broken])
    return SCHEDULES[schedule].build(pp, virtual, micro_batches)


@lru_cache(maxsize=ORDERS)
def folded_order(schedule: str, pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return the schedule with one rank for each pair of mirrored ranks."""
    return order(schedule, pp, virtual, micro_batches).fold()


def _virtual_rule(name: str, entry: ScheduleEntry, pp: Count, virtual: Count) -> Rule:
    needed = entry.virtual
    if needed is None:
        message = f"schedule `{name}` needs two stages a rank or more, but virtual is {shown(virtual)}"
        holds = (virtual >= 2) | (entry.runs_alone & (pp == 1) & (virtual == 1))
        return Rule("parallel.virtual", holds, message, "write 2 or more, or `schedule: 1f1b`")
    stages = "one stage" if needed == 1 else f"{needed} stages"
    message = f"schedule `{name}` gives each rank {stages}, but virtual is {shown(virtual)}"
    hint = f"write {needed}, or leave it out" + ("; or `schedule: interleaved`" if needed == 1 else "")
    return Rule("parallel.virtual", virtual == needed, message, hint)


def _groups_of_pp(pp: Count, micro_batches: Count) -> Iterator[Rule]:
    message = f"interleaving takes groups of pp = {shown(pp)} micro-batches, but there are {shown(micro_batches)}"
    holds = _fractional(micro_batches) | divides(pp, micro_batches)
    yield Rule("global_batch", holds, message, _for(ceil(micro_batches / pp) * pp))


def _all_kept(pp: Count, micro_batches: Count) -> Iterator[Rule]:  # noqa: ARG001  one signature for all
    """Yield what GPipe asks: no more micro-batches than any memory keeps the activations of."""
    message = f"GPipe keeps the activations of all {shown(micro_batches)} micro-batches, {MOST_KEPT:,} at most"
    yield Rule("global_batch", micro_batches <= MOST_KEPT, message, "lower global_batch, or write `schedule: 1f1b`")


def _both_ends(pp: Count, micro_batches: Count) -> Iterator[Rule]:
    """Yield what DualPipe asks: pairs of ranks, and on either way as many micro-batches as there are ranks."""
    message = f"DualPipe needs an even number of ranks, but pp is {shown(pp)}"
    yield Rule("parallel.pp", divides(2.0, pp), message, f"write {shown(pp + 1)}, or `schedule: 1f1b`")
    least, given = shown(2 * pp), shown(micro_batches)
    message = f"DualPipe needs an even number of micro-batches, at least {least}, but there are {given}"
    holds = _fractional(micro_batches) | (divides(2.0, micro_batches) & (micro_batches >= 2 * pp))
    yield Rule("global_batch", holds, message, _for(maximum(2 * pp, ceil(micro_batches / 2) * 2)))


def _twice_pp(pp: Count, micro_batches: Count) -> Iterator[Rule]:
    message = f"DualPipeV needs at least {shown(2 * pp)} micro-batches, but there are {shown(micro_batches)}"
    yield Rule("global_batch", _fractional(micro_batches) | (micro_batches >= 2 * pp), message, _for(2 * pp))


def _fractional(micro_batches: Count) -> Mask:
    return micro_batches % 1 != 0


def _for(micro_batches: Count) -> str:
    return f"choose global_batch, dp and micro_batch for {shown(micro_batches)} micro-batches, or `schedule: 1f1b`"


SCHEDULES: Mapping[str, ScheduleEntry] = {
    "gpipe": ScheduleEntry(orders.gpipe, conditions=_all_kept),
    "1f1b": ScheduleEntry(orders.one_forward_one_backward),
    "interleaved": ScheduleEntry(orders.interleaved, None, conditions=_groups_of_pp),
    "combined-1f1b": ScheduleEntry(
        orders.combined, None, runs_alone=True, conditions=_groups_of_pp, concurrent_messages=2
    ),
    "zb-h1": ScheduleEntry(orders.zb_h1),
    "zb-v": ScheduleEntry(orders.zb_v, 2),
    "dualpipe": ScheduleEntry(orders.dualpipe, 1, conditions=_both_ends, concurrent_messages=2),
    "dualpipe-v": ScheduleEntry(orders.dualpipe_v, 2, conditions=_twice_pp, concurrent_messages=2),
}
