"""Max-min fair shares against their definition, and flows over time against sums worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.errors import InputError
from costmodel.network.flows import FlowSession, drained, flow_classes, run_collapsed, run_flows
from costmodel.network.sharing import MOST_IN_PYTHON, Incidence, check_capacity, fair_rates, filled
from costmodel.network.sharing import kernel as compiled
from costmodel.quantities import Array

pytestmark = pytest.mark.core  # with numba and without


def incidence(flows: list[list[int]], capacity: list[float], weights: list[list[float]] | None = None) -> Incidence:
    start = np.concatenate(([0], np.cumsum([len(links) for links in flows]))).astype(np.int64)
    links = np.array([link for links in flows for link in links], np.int32)
    loads = None if weights is None else np.array([load for loads in weights for load in loads])
    return Incidence(start, links, loads, np.array(capacity))


@st.composite
def systems(draw: st.DrawFn) -> Incidence:
    count = draw(st.integers(1, 6))
    flows = draw(st.lists(st.lists(st.integers(0, count - 1), min_size=1, max_size=4), min_size=1, max_size=14))
    loads = [draw(st.lists(st.sampled_from((0.25, 0.5, 1.0, 2.0)), min_size=len(f), max_size=len(f))) for f in flows]
    capacity = draw(st.lists(st.floats(0.5, 20.0), min_size=count, max_size=count))
    return incidence(flows, capacity, loads if draw(st.booleans()) else None)


@given(systems())
def test_every_flow_has_a_full_link_on_which_no_flow_is_faster(system: Incidence) -> None:
    """The definition of max-min fairness [Bertsekas, Gallager 1992, section 6.5.2]."""
    rates = fair_rates(system)
    load = system.load(rates)
    assert (load <= system.capacity * (1 + 1e-9)).all()
    for flow in range(system.flows):
        links = system.links[system.start[flow] : system.start[flow + 1]]
        full = [link for link in links if load[link] >= system.capacity[link] * (1 - 1e-9)]
        on = {link: system.flow_of[system.links == link] for link in full}
        assert any((rates[on[link]] <= rates[flow] * (1 + 1e-9)).all() for link in full)


@given(systems(), st.randoms(use_true_random=False))
def test_the_order_of_flows_does_not_matter(system: Incidence, random: object) -> None:
    order = np.arange(system.flows)
    random.shuffle(order)  # type: ignore[attr-defined]
    parts = [slice(system.start[flow], system.start[flow + 1]) for flow in order]
    mixed = incidence(
        [list(system.links[part]) for part in parts],
        list(system.capacity),
        [list(system.entry_weights()[part]) for part in parts],
    )
    assert fair_rates(mixed) == pytest.approx(fair_rates(system)[order], rel=1e-12)


@given(systems())
def test_compiled_or_not_rates_are_the_same(system: Incidence) -> None:
    if compiled() is None:
        pytest.skip("numba is not installed")
    weights = np.empty(0) if system.weights is None else system.weights
    assert fair_rates(system) == pytest.approx(filled(system.start, system.links, weights, system.capacity), rel=1e-12)


@given(systems(), st.floats(1.0, 3.0))
def test_more_bandwidth_never_makes_the_last_flow_later(system: Incidence, factor: float) -> None:
    sizes = np.ones(system.flows)
    faster = Incidence(system.start, system.links, system.weights, system.capacity * factor)
    assert run_flows(faster, sizes).makespan == pytest.approx(run_flows(system, sizes).makespan / factor)


@given(systems())
def test_flows_that_are_alike_are_shared_as_one(system: Incidence) -> None:
    sizes = np.ones(system.flows)
    plain, collapsed = run_flows(system, sizes), run_collapsed(system, sizes)
    assert collapsed.finish == pytest.approx(plain.finish, rel=1e-9)
    assert collapsed.carried == pytest.approx(plain.carried)


def test_classes_tell_apart_what_differs() -> None:
    ring = incidence([[i, (i + 1) % 8] for i in range(8)], [1.0] * 8)
    classes = flow_classes(ring, np.ones(8))
    assert classes is not None
    assert len(classes.representative) == 1
    sizes = np.ones(8)
    sizes[3] = 2.0
    assert flow_classes(ring, sizes) is None  # eight places around a ring with one that differs: nothing is saved
    halves = flow_classes(ring, np.array([1.0, 2.0] * 4))
    assert halves is not None
    assert len(halves.representative) == 2


def test_a_flow_that_completes_leaves_its_share_to_the_others() -> None:
    shared = incidence([[0], [0]], [10.0])
    done = run_flows(shared, np.array([10.0, 30.0]))
    assert done.finish == pytest.approx([2.0, 4.0])  # 5 each for 2 s, then 10 for the 20 that are left
    assert done.carried == pytest.approx([40.0])


def test_flows_without_bytes_or_links_take_no_time() -> None:
    done = run_flows(incidence([[0], []], [10.0]), np.array([0.0, 5.0]))
    assert done.finish == pytest.approx([0.0, 0.0])
    assert run_flows(incidence([], [1.0]), np.empty(0)).makespan == 0.0


@given(systems(), st.lists(st.floats(0.1, 10.0), min_size=14, max_size=14))
def test_bytes_are_conserved(system: Incidence, sizes: list[float]) -> None:
    amount = np.array(sizes[: system.flows])
    done = run_flows(system, amount)
    assert done.carried == pytest.approx(system.load(amount))
    assert (done.carried <= system.capacity * done.makespan * (1 + 1e-9)).all()


def random_system(flows: int) -> tuple[Incidence, Array]:
    generator = np.random.default_rng(0)
    links = generator.integers(0, 100, (flows, 3)).astype(np.int32)
    start = np.arange(0, 3 * flows + 1, 3)
    return Incidence(start, links.ravel(), None, np.full(100, 10.0)), np.ones(flows)


def test_batches_err_to_the_long_side_and_converge() -> None:
    system, sizes = random_system(2_000)
    exact, coarse, fine = (run_flows(system, sizes, batch=batch).makespan for batch in (0.0, 0.05, 0.025))
    assert exact * (1 - 1e-9) <= fine
    assert exact * (1 - 1e-9) <= coarse
    assert coarse == pytest.approx(fine, rel=0.005)
    assert fine == pytest.approx(exact, rel=0.005)


@given(systems(), st.floats(0.1, 10.0))
def test_flows_of_one_size_end_when_the_fullest_link_has_carried_its_bytes(system: Incidence, size: float) -> None:
    sizes = np.full(system.flows, size)
    done = run_flows(system, sizes)
    time, carried = drained(system, sizes)
    assert time == pytest.approx(done.makespan, rel=1e-9)
    assert carried == pytest.approx(done.carried)


@given(systems(), st.lists(st.floats(0.1, 10.0), min_size=14, max_size=14))
def test_flows_of_several_sizes_end_when_the_last_one_does(system: Incidence, sizes: list[float]) -> None:
    some = np.array(sizes[: system.flows])
    assert drained(system, some)[0] == pytest.approx(run_flows(system, some).makespan, rel=1e-9)


def test_a_session_takes_flows_one_by_one() -> None:
    session = FlowSession(np.array([10.0, 5.0]))
    first = session.add({0: 1.0}, 30.0)
    assert session.next_completion() == pytest.approx(3.0)
    assert session.advance(1.0) == []
    second = session.add({0: 1.0, 1: 1.0}, 10.0)
    assert session.next_completion() == pytest.approx(3.0)  # 5 of the 10 B/s, for the 10 B of the second
    assert session.advance(3.0) == [second]
    assert session.next_completion() == pytest.approx(4.0)
    assert session.advance(4.0) == [first]
    assert session.next_completion() is None
    assert session.add({1: 1.0}, 0.0) in session.advance(4.0)


@given(systems(), st.lists(st.floats(0.1, 10.0), min_size=14, max_size=14))
def test_a_session_gives_what_a_run_gives(system: Incidence, sizes: list[float]) -> None:
    session = FlowSession(system.capacity)
    numbers = {}
    for flow in range(system.flows):
        part = slice(system.start[flow], system.start[flow + 1])
        loads: dict[int, float] = {}
        for link, weight in zip(system.links[part].tolist(), system.entry_weights()[part].tolist(), strict=True):
            loads[link] = loads.get(link, 0.0) + weight
        numbers[session.add(loads, sizes[flow])] = flow
    finish = np.zeros(system.flows)
    while (at := session.next_completion()) is not None:
        for number in session.advance(at):
            finish[numbers[number]] = session.now
    assert finish == pytest.approx(run_flows(system, np.array(sizes[: system.flows])).finish, rel=1e-6)


def test_a_session_does_not_skip_a_completion_or_go_back() -> None:
    session = FlowSession(np.array([10.0]))
    session.add({0: 1.0}, 10.0)
    with pytest.raises(InputError, match="completes at 1 s"):
        session.advance(2.0)
    session.advance(0.5)
    with pytest.raises(InputError, match="cannot go back"):
        session.advance(0.1)
    with pytest.raises(InputError, match="negative or not a number"):
        session.add({0: 1.0}, float("nan"))


@given(systems(), st.lists(st.floats(0.2, 10.0), min_size=14, max_size=14))
def test_a_flow_of_a_session_is_at_its_limit_or_fastest_on_a_full_link(system: Incidence, limits: list[float]) -> None:
    """The definition of fairness, with limits."""
    session = FlowSession(system.capacity)
    loads_of, numbers = [], []
    for flow in range(system.flows):
        part = slice(system.start[flow], system.start[flow + 1])
        loads = dict(zip(system.links[part].tolist(), system.entry_weights()[part].tolist(), strict=True))
        loads_of.append(loads)
        numbers.append(session.add(loads, 1.0, limits[flow]))
    rates = [session.rate(number) for number in numbers]
    for flow, loads in enumerate(loads_of):
        carried = {
            link: sum(rate * each[link] for each, rate in zip(loads_of, rates, strict=True) if link in each)
            for link in loads
        }
        assert all(carried[link] <= system.capacity[link] * (1 + 1e-9) for link in loads)
        full = [link for link in loads if carried[link] >= system.capacity[link] * (1 - 1e-9)]
        fastest = [max(rate for each, rate in zip(loads_of, rates, strict=True) if link in each) for link in full]
        at_limit = rates[flow] == pytest.approx(limits[flow], rel=1e-9)
        assert at_limit or any(rates[flow] >= rate * (1 - 1e-9) for rate in fastest)
        assert rates[flow] <= limits[flow] * (1 + 1e-9)


def test_impossible_flows_are_errors() -> None:
    system = incidence([[0], [0]], [10.0])
    for sizes, message in (([1.0], "1 flows"), ([1.0, -1.0], "negative"), ([1.0, float("nan")], "not a number")):
        with pytest.raises(InputError, match=message):
            run_flows(system, np.array(sizes))
    with pytest.raises(InputError, match=r"link b has a bandwidth of 0 B/s"):
        check_capacity(np.array([1.0, 0.0]), ["a", "b"])


def test_more_flows_than_python_takes_name_the_line_that_installs_numba() -> None:
    if compiled() is not None:
        pytest.skip("numba is installed")
    system, sizes = random_system(MOST_IN_PYTHON + 1)
    with pytest.raises(InputError, match=r"pip install 'costmodel\[fast\]'"):
        run_flows(system, sizes)
