"""Splits a grid of scenarios into blocks that array arithmetic evaluates at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array, Indices, Quantity, maximum, where
from costmodel.records import Record, fields, is_record
from costmodel.result import BAD_LAYOUT, REASONS
from costmodel.workload.plans import Diffusion, ExpertBound, PlanOfParts, Training, drafted_tokens
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Disaggregated, Scenario
from costmodel.workload.split_rules import Rule
from costmodel.workload.validity import rules

T = TypeVar("T")

POINTS = 8192  # along one axis of a block: its arrays stay in cache


class Block(Record):
    """A part of the grid: index[axis]: selected positions on each axis."""

    scenario: Scenario
    index: tuple[Indices, ...]


def blocks(scenario: Scenario, shape: tuple[int, ...]) -> Iterator[Block]:
    """Yield blocks that cover the grid, each with one order of work (pipeline stages, micro-batches).

    Points without an order (a fractional count) are excluded: they stay NaN.
    """
    for index in _same_order(scenario, tuple(np.arange(size) for size in shape)):
        longest = max(range(len(shape)), key=lambda axis: len(index[axis]), default=None)
        if longest is None or len(index[longest]) <= POINTS:
            yield Block(take(scenario, index, shape), index)
            continue
        for part in np.array_split(index[longest], -(-len(index[longest]) // POINTS)):
            smaller = tuple(part if axis == longest else positions for axis, positions in enumerate(index))
            yield Block(take(scenario, smaller, shape), smaller)


def _same_order(scenario: Scenario, grid: tuple[Indices, ...]) -> Iterator[tuple[Indices, ...]]:
    """Yield index sets on which everything that determines the order of work is a constant whole number."""
    keys = np.broadcast_arrays(*_order(scenario))
    if all(np.all(key == key.flat[0]) for key in keys):
        if all(float(key.flat[0]).is_integer() for key in keys):
            yield grid
        return
    varying = [axis for axis, size in enumerate(keys[0].shape) if size > 1]
    *outer, last = sorted(varying, key=lambda axis: keys[0].shape[axis])
    for fixed in np.ndindex(*(keys[0].shape[axis] for axis in outer)):
        line_index: list[Any] = [0] * keys[0].ndim
        for axis, position in zip(outer, fixed, strict=True):
            line_index[axis] = position
        line_index[last] = slice(None)
        line = np.stack([key[tuple(line_index)] for key in keys])
        distinct, member = np.unique(line, axis=1, return_inverse=True)
        for number, key in enumerate(distinct.T):
            if not np.all(key == np.floor(key)):
                continue
            chosen = {axis: np.array([position]) for axis, position in zip(outer, fixed, strict=True)}
            chosen[last] = np.flatnonzero(member == number)
            yield tuple(chosen.get(axis, full) for axis, full in enumerate(grid))


def _order(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return what determines the order of work: stages, micro-batches or drafts, and whether there are host copies."""
    plan, parallel, offload = scenario.plan, scenario.parallel, scenario.offload
    if isinstance(plan, PlanOfParts) and not isinstance(plan, Disaggregated | Pools):
        assert isinstance(plan, Reinforcement), "no other plan has parts"
        return *_order(plan.train), *_order(plan.rollout), where(plan.staleness >= 1, 1.0, 0.0)
    if isinstance(plan, Training):
        shares = (offload.optimizer, offload.weights, offload.activations, offload.kv_cache)
        hosted = maximum(*(where(share > 0, 1.0, 0.0) for share in shares))
        return parallel.pp, parallel.virtual, plan.global_batch / (parallel.dp * plan.micro_batch), hosted
    if isinstance(plan, ExpertBound):
        return (1.0,)
    copies = (where(share > 0, 1.0, 0.0) for share in (offload.weights, offload.kv_cache))
    if isinstance(plan, Disaggregated):
        drafted = drafted_tokens(plan.decode.plan.speculative)
        return plan.prefill.parallel.pp, plan.decode.parallel.pp, drafted, *copies
    if isinstance(plan, Pools):
        drafted = drafted_tokens(plan.engines[1].speculative)
        return plan.prefill.parallel.pp, plan.decode.parallel.pp, drafted, *copies
    return parallel.pp, 0.0 if isinstance(plan, Diffusion) else drafted_tokens(plan.speculative), *copies


def take(value: T, index: tuple[Indices, ...], shape: tuple[int, ...]) -> T:
    """Return a copy of a tree of records whose arrays keep only the indexed positions of each axis they vary on."""

    def selected(array: Array) -> Array:
        for axis, positions in enumerate(index):
            if array.shape[axis] > 1 and not np.array_equal(positions, np.arange(shape[axis])):
                array = array.take(positions, axis=axis)
        return array

    return cast(T, _map(value, selected))


def gathered(value: T, positions: Indices) -> T:
    """Return a copy of a tree of records whose arrays of one axis have the values at some positions, one for each."""
    return cast(T, _map(value, lambda array: array[positions] if len(array) > 1 else array))


def single(value: T, index: tuple[int, ...]) -> T:
    """Return a copy of a tree of records at one position: every array is a float."""

    def element(array: Array) -> float:
        point = tuple(position if size > 1 else 0 for position, size in zip(index, array.shape, strict=True))
        return float(array[point])

    return cast(T, _map(value, element))


def _map(value: Any, change: Callable[[Array], Quantity]) -> Any:
    """Return a tree of records, tuples and mappings with every array changed. Parts without arrays stay."""
    if isinstance(value, np.ndarray):
        return change(value)
    if is_record(value):
        parts = {name: getattr(value, name) for name in fields(value)}
        changed = {name: _map(part, change) for name, part in parts.items()}
        return value if all(changed[name] is part for name, part in parts.items()) else type(value)(**changed)
    if isinstance(value, tuple):
        items = tuple(_map(item, change) for item in value)
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, Mapping):
        entries = {key: _map(item, change) for key, item in value.items()}
        return value if all(entries[key] is item for key, item in value.items()) else entries
    return value


# ---- The rule that the layout of each point of a grid breaks, with the numbers of that point -------------------------

MAX_TEXTS = 500  # texts for one rule: each takes a quarter of a millisecond


@np.errstate(divide="ignore", invalid="ignore", over="ignore")  # points that break an earlier rule
def infeasibilities(scenario: Scenario, shape: tuple[int, ...]) -> npt.NDArray[np.str_]:
    """Return, for each point of a grid, the first rule that its layout breaks, nothing where it breaks none.

    Beyond `MAX_TEXTS` combinations of the values that a rule uses, its text is without them.
    """
    texts = np.full(shape, "", dtype=object)
    for rule in rules(scenario):
        broken = np.broadcast_to(~np.asarray(rule.holds, dtype=bool), shape) & (texts == "")
        if broken.any():
            texts[broken] = _texts(scenario, rule, broken)
    return texts.astype(np.str_)


def _texts(scenario: Scenario, rule: Rule, broken: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    """Return the texts of the points that break a rule and none before it: equal where the rule's values are."""
    holds = np.asarray(rule.holds)
    combinations = np.broadcast_to(np.arange(holds.size).reshape(holds.shape), broken.shape)[broken]
    distinct, first, which = np.unique(combinations, return_index=True, return_inverse=True)
    points = np.argwhere(broken)[first[:MAX_TEXTS]]
    texts = [
        infeasibility(next(rule for rule in rules(single(scenario, tuple(point))) if not rule.holds))
        for point in points
    ]
    texts += [infeasibility(rule)] * (len(distinct) - len(texts))
    return np.array(texts, dtype=object)[which]


def infeasibility(rule: Rule) -> str:
    """Return why a layout that breaks a rule is infeasible."""
    return f"{REASONS[BAD_LAYOUT]}: {rule.field}: {rule.message}"
