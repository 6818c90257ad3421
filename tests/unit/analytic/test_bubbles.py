"""Published idle times of pipeline schedules on equal stages, each inside the domain that its source states or needs.

F, B_in and W are the times of one rank's whole share of the model; a schedule with several stages a rank cuts them up.
"""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.analytic.recurrence.program import Program, Slot, compile_schedule
from costmodel.analytic.recurrence.tape import makespan
from costmodel.quantities import Array
from costmodel.workload.schedules.schedule import Kind

RANDOM = np.random.default_rng(7)
ANY = RANDOM.uniform(0.1, 2.0, (3, 40))  # forward, input gradient, weight gradient
ONE = np.ones((3, 1))


def durations(program: Program[Slot], times: Array, stages: int = 1) -> Array:
    """Return durations on equal stages, `stages` of them on a rank; an overlapped pair takes the sum of both."""
    forward, backward_input, weight = times / stages
    time = {
        Kind.FORWARD: forward,
        Kind.BACKWARD_INPUT: backward_input,
        Kind.BACKWARD_WEIGHT: weight,
        Kind.BACKWARD: backward_input + weight,
        Kind.FORWARD_BACKWARD: forward + backward_input + weight,
    }
    return np.array([time[slot.kind] for slot in program.slots])


def idle(name: str, pp: int, virtual: int, micro_batches: int, times: Array) -> Array:
    """Return the makespan less the work of a rank; all ranks work equally long."""
    program = compile_schedule(name, pp, virtual, micro_batches)
    span = makespan(program, durations(program, times, virtual))
    np.testing.assert_allclose(program.counts @ durations(program, times, virtual), [micro_batches * times.sum(0)] * pp)
    return span - micro_batches * times.sum(axis=0)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 3), (2, 1), (4, 3), (4, 8), (8, 30)])
def test_gpipe_and_1f1b_idle_for_a_pass_both_ways_through_all_other_stages(
    name: str, pp: int, micro_batches: int
) -> None:
    """(p-1)*(F + B), for any times and any number of micro-batches."""
    np.testing.assert_allclose(idle(name, pp, 1, micro_batches, ANY), (pp - 1) * ANY.sum(axis=0), atol=1e-9)


@pytest.mark.parametrize(("pp", "virtual", "groups"), [(1, 2, 3), (2, 2, 1), (4, 2, 1), (4, 3, 2), (8, 4, 3)])
def test_interleaving_divides_the_bubble_by_the_stages_of_a_rank(pp: int, virtual: int, groups: int) -> None:
    """(p-1)*(F + B)/v, for any times and whole groups of micro-batches [Narayanan et al., SC 2021, section 2.2.2]."""
    found = idle("interleaved", pp, virtual, groups * pp, ANY)
    np.testing.assert_allclose(found, (pp - 1) * ANY.sum(axis=0) / virtual, atol=1e-9)


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 3), (2, 2), (4, 4), (4, 30), (8, 9)])
def test_zb_h1_fills_its_drain_with_weight_gradients(pp: int, micro_batches: int) -> None:
    """(p-1)*(F + B_in - W) where W is the shortest, with p micro-batches or more [arXiv 2401.10241, table 2]."""
    weight, *others = np.sort(ANY, axis=0)
    for forward, backward_input in (others, others[::-1]):
        times = np.array([forward, backward_input, weight])
        formula = (pp - 1) * (forward + backward_input - weight)
        np.testing.assert_allclose(idle("zb-h1", pp, 1, micro_batches, times), formula, atol=1e-9)


def test_zb_h1_idles_for_longer_than_its_formula_where_weight_gradients_are_long() -> None:
    forward, backward_input, weight = ANY
    formula = 3 * (forward + backward_input - weight)
    found = idle("zb-h1", 4, 1, 12, ANY)
    assert np.all(found >= formula - 1e-9)
    long = weight > np.minimum(forward, backward_input) + 0.1
    assert np.all(found[long] > formula[long] + 0.05)


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 1), (2, 3), (4, 7), (4, 8), (8, 15), (8, 64)])
def test_zb_v_waits_for_nothing_but_its_first_micro_batch_where_all_passes_take_equally_long(
    pp: int, micro_batches: int
) -> None:
    """The last rank starts after p-1 chunks of F/2, and nobody waits again: 2*p-1 micro-batches or more."""
    np.testing.assert_allclose(idle("zb-v", pp, 2, micro_batches, ONE), (pp - 1) * 1 / 2, atol=1e-9)


def test_zero_bubble_schedules_order_as_published() -> None:
    """At F = B_in = W: 1F1B three times ZB-H1, and ZB-V half of that, which is the fill."""
    plain, late, v_shape = (
        float(idle(name, 8, virtual, 32, ONE)[0]) for name, virtual in (("1f1b", 1), ("zb-h1", 1), ("zb-v", 2))
    )
    assert plain == pytest.approx(3 * late)
    assert v_shape == pytest.approx(late / 2)


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 2), (2, 4), (4, 10), (8, 32)])
def test_dualpipe_v_idles_as_a_dualpipe_of_twice_the_ranks(pp: int, micro_batches: int) -> None:
    """(PP/2-1)*(F&B + B - 3W) with PP = 2*pp stages, at F = B_in = W and F&B = F + B [DualPipe's README]."""
    found = idle("dualpipe-v", pp, 2, micro_batches, ONE)
    np.testing.assert_allclose(found, (pp - 1) * (3 + 2 - 3) / 2, atol=1e-9)


@pytest.mark.parametrize(("pp", "micro_batches"), [(1, 2), (2, 5), (4, 10)])
def test_dualpipe_v_takes_as_long_as_a_dualpipe_of_twice_the_ranks_on_any_stages(pp: int, micro_batches: int) -> None:
    half = compile_schedule("dualpipe-v", pp, 2, micro_batches)
    whole = compile_schedule("dualpipe", 2 * pp, 1, 2 * micro_batches)
    assert half.slots == whole.slots
    times = RANDOM.random((len(half.slots), 20))
    np.testing.assert_allclose(makespan(half, times), makespan(whole, times), rtol=1e-12)
