"""Experts cut into slices: who sends, who gathers, what each rank holds and shares."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import pytest
from builders import MOE, MOE_MODEL, STEP, context, scenario

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.training.step_model import training_context
from costmodel.records import replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Collective, ExpertAllToAll, Gemm, Operator
from costmodel.workload.optimizer import step_operators
from costmodel.workload.scenario import Parallelism
from costmodel.workload.work import LayerWork

SEQUENCES, LENGTH, HIDDEN = 2.0, 1024.0, 1024.0
TOKENS = SEQUENCES * LENGTH


def layer(parallel: Parallelism) -> LayerWork:
    return model_work(context(MOE_MODEL, parallel, sequences=SEQUENCES, new_tokens=LENGTH)).layers[1]


def exchanged(work: LayerWork) -> set[float]:
    return {float(item.tokens) for item in work.forward if isinstance(item, ExpertAllToAll)}


def slices(work: LayerWork, operators: str = "forward") -> list[tuple[str, float, float]]:
    """Return (kind, bytes, ranks) of what ranks with slices of one expert exchange."""
    return [
        (item.kind, float(item.size), float(item.group.size))
        for item in getattr(work, operators)
        if isinstance(item, Collective) and item.name.startswith("expert slice")
    ]


def test_a_rank_sends_its_own_tokens_once_whatever_the_slices() -> None:
    """Four tensor-parallel ranks have the same tokens: each sends a quarter, to any of the slices."""
    for etp in (1.0, 2.0, 4.0):
        work = layer(Parallelism(tp=4.0, dp=8.0, ep=8.0, expert_tensor=etp))
        assert exchanged(work) == {TOKENS / 4}


def test_slices_gather_what_arrived_at_each_of_them_and_scatter_their_sums() -> None:
    """k copies of the T/tp tokens of each of two ranks, two bytes an element; backward the other way round."""
    work = layer(Parallelism(tp=2.0, dp=8.0, ep=8.0, expert_tensor=2.0))
    whole = 2 * TOKENS / 2 * MOE.top_k * HIDDEN * 2
    assert slices(work) == [("all_gather", whole, 2), ("reduce_scatter", whole, 2)]
    assert slices(work, "input_gradient") == [("all_gather", whole, 2), ("reduce_scatter", whole, 2)]


def test_slices_inside_a_tensor_parallel_group_have_its_tokens_already() -> None:
    """Without expert parallelism the group's own gather and scatter serve the experts too."""
    plain, stated = layer(Parallelism(tp=4.0)), layer(Parallelism(tp=4.0, expert_tensor=4.0))
    assert [ranks for _, _, ranks in slices(stated)] == [1, 1]
    for name in ("expert up", "expert down"):
        shapes = [
            next((item.m, item.n, item.k) for item in work.forward if isinstance(item, Gemm) and item.name == name)
            for work in (plain, stated)
        ]
        assert shapes[0] == shapes[1]


def test_slices_wider_than_tensor_parallelism_serve_the_tokens_of_other_ranks() -> None:
    work = layer(Parallelism(dp=8.0, expert_tensor=4.0))
    up = next(item for item in work.forward if isinstance(item, Gemm) and item.name == "expert up")
    assert up.m * up.groups == 4 * TOKENS * MOE.top_k
    assert up.n == 2 * MOE.intermediate / 4
    assert slices(work)[0] == ("all_gather", 4 * TOKENS * MOE.top_k * HIDDEN * 2, 4)


@pytest.mark.parametrize(("ep", "etp"), [(1.0, 4.0), (4.0, 2.0), (8.0, 1.0), (8.0, 4.0), (2.0, 16.0)])
def test_ranks_hold_every_expert_once_and_share_its_states(ep: float, etp: float) -> None:
    """Two data-parallel groups of tp*cp ranks: tp*cp*dp / (ep*etp) ranks hold the same slices."""
    parallel = Parallelism(tp=4.0, cp=2.0, dp=4.0, ep=ep, expert_tensor=etp)
    seen = training_context(scenario(STEP, MOE_MODEL, parallel), STEP)
    work = model_work(seen).layers[1]
    held = sum(float(item.local) for item in work.parameters if item.expert)
    assert held * ep * etp == 64 * 3 * 1024 * 512
    groups = {
        item.name: (float(item.group.size), float(item.group.stride), float(item.size))
        for item in step_operators(seen, STEP, [(1, work)], 1).serial
        if isinstance(item, Collective)
    }
    size, stride, scattered = groups["expert gradient reduce-scatter"]
    assert (size, stride) == (4 * 2 * 4 / (ep * etp), ep * etp)
    assert scattered == 4 * held


def test_sliced_experts_take_the_memory_of_fewer_whole_ones() -> None:
    """Half of each of twice as many experts: weights and states are the same bytes on every rank."""
    whole, sliced = (
        ledger_of(scenario(STEP, MOE_MODEL, Parallelism(tp=2.0, dp=8.0, ep=ep, expert_tensor=etp)))
        for ep, etp in ((8.0, 1.0), (4.0, 2.0))
    )
    assert whole is not None
    assert sliced is not None
    assert whole.weights == pytest.approx(sliced.weights)
    assert whole.optimizer == pytest.approx(sliced.optimizer)


def test_slices_meet_element_by_element_on_a_grid() -> None:
    degrees = Parallelism(tp=2.0, dp=8.0, ep=np.array([1.0, 8.0, 1.0]), expert_tensor=np.array([2.0, 2.0, 4.0]))
    sizes = [np.asarray(item.group.size) for item in layer(degrees).forward if isinstance(item, Collective)]
    assert any(list(size.reshape(-1)) == [1, 2, 4] for size in sizes)
    (sent,) = {
        tuple(np.broadcast_to(item.tokens, 3)) for item in layer(degrees).forward if isinstance(item, ExpertAllToAll)
    }
    assert sent == (TOKENS, TOKENS / 2, TOKENS / 2)


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        (Parallelism(tp=4.0, dp=8.0, ep=8.0, expert_tensor=1.0, sequence_parallel=True), 1.0),
        (Parallelism(tp=4.0, dp=8.0, ep=8.0, expert_tensor=2.0, sequence_parallel=True), 1.0),
        (Parallelism(tp=4.0, expert_tensor=4.0, sequence_parallel=True), 4.0),
        (Parallelism(tp=4.0, sequence_parallel=True), 4.0),
    ],
)
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_ranks_with_parts_of_a_sequence_gather_it_for_shared_experts_or_slices_alone(
    parallel: Parallelism, ranks: float, shared: float
) -> None:
    """Each routes the tokens that it holds; slices without expert parallelism are those of one dense FFN."""
    layers = tuple(
        replace(one, ffn=replace(one.ffn, shared=shared)) if isinstance(one.ffn, MoeFfn) else one
        for one in MOE_MODEL.layers
    )
    seen = context(replace(MOE_MODEL, layers=layers), parallel, sequences=SEQUENCES, new_tokens=LENGTH)
    work = model_work(seen).layers[1]
    for operators in (work.forward, work.input_gradient):
        around = {float(item.group.size) for item in operators if item.name.startswith("ffn ") and _moves(item)}
        assert around == {4.0 if shared else ranks}


def _moves(item: Operator) -> TypeGuard[Collective]:
    return isinstance(item, Collective)


def test_slices_of_ranks_that_gather_all_tokens_need_no_gather_of_their_own() -> None:
    """Two groups of two ranks have tokens of their own. All four have a slice of each expert, and step together."""
    sliced = Parallelism(tp=2.0, dp=2.0, expert_tensor=4.0)
    of = context(MOE_MODEL, sliced, "decode", sequences=SEQUENCES, new_tokens=1.0, kv_len=LENGTH)
    of = replace(of, communication=replace(of.communication, exchange="gather"))
    work = model_work(of).layers[1]
    moved = {
        item.name: (item.kind, float(item.size), float(item.group.size))
        for item in work.forward
        if isinstance(item, Collective) and item.group.size > 1.0 and "all-reduce" not in item.name
    }
    whole = 2 * SEQUENCES * HIDDEN * 2
    assert moved == {"dispatch": ("all_gather", whole, 2), "combine": ("reduce_scatter", whole, 2)}
    up = next(item for item in work.forward if isinstance(item, Gemm) and item.name == "expert up")
    assert (up.n, up.m * up.groups) == (2 * MOE.intermediate / 4, 2 * SEQUENCES * MOE.top_k)
    assert [Parallelism(dp=2.0, expert_tensor=etp).lockstep for etp in (1.0, 2.0)] == [1.0, 2.0]
