"""Tasks on streams: order, waits, processors that are shared, links that are shared, disturbances, and standstill."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slowdown_windows import device_failure, link_flap, plane_failure, straggler

from costmodel.errors import InputError
from costmodel.event.engine import DeadlockError, Timeline, run
from costmodel.event.graph import MESSAGE, Conditions, Graph, Message, SlowdownWindow, Task


def _graph(streams: int = 2, devices: int = 1) -> Graph:
    graph = Graph()
    for number in range(streams):
        graph.stream(f"device {number % devices}", number % devices, f"stream {number}")
    return graph


def test_a_stream_runs_its_tasks_one_after_the_other_and_streams_run_side_by_side() -> None:
    graph = _graph()
    for stream, seconds in ((0, 2.0), (1, 3.0), (0, 1.0)):
        graph.add(Task("task", stream, seconds))
    found = run(graph)
    assert found.start.tolist() == [0.0, 0.0, 2.0]
    assert found.makespan == 3.0


def test_a_stream_waits_for_events_of_another_one_and_holds_up_what_stands_behind() -> None:
    graph = _graph()
    first = graph.add(Task("kernel", 0, 2.0))
    graph.add(Task("message", 1, 1.0, (first,)))
    graph.add(Task("behind it", 1, 1.0))
    assert run(graph).start.tolist() == [0.0, 2.0, 3.0]


def test_marks_take_no_time() -> None:
    graph = _graph()
    last = graph.mark(0, ())
    for _ in range(5000):  # deeper than Python's recursion
        last = graph.mark(0, (last,))
    graph.add(Task("kernel", 1, 1.0, (last,)))
    assert run(graph).makespan == 1.0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 5.0), st.lists(st.integers(1, 6), max_size=3)), max_size=40)
)
def test_any_graph_keeps_the_order_of_streams_and_all_waits(drawn: list[tuple[int, float, list[int]]]) -> None:
    graph = _graph(4)
    for number, (stream, seconds, back) in enumerate(drawn):
        graph.add(Task("task", stream, seconds, tuple(sorted({number - each for each in back if each <= number}))))
    found = run(graph)
    by_stream: dict[int, list[int]] = defaultdict(list)
    for number, task in enumerate(graph.tasks):
        assert all(found.start[number] >= found.finish[each] for each in task.after)
        assert found.finish[number] == pytest.approx(found.start[number] + task.seconds)
        by_stream[task.stream].append(number)
    for own in by_stream.values():
        assert all(found.start[after] >= found.finish[before] for before, after in pairwise(own))


def test_a_kernel_slows_down_while_a_communication_kernel_holds_processors() -> None:
    """100 processors, 20 of them held for the first second: 10 s of work at 80 processors take 1 + 9*80/100 s."""
    graph = _graph()
    graph.add(Task("kernel", 0, 10.0, processor_bound_share=1.0))
    graph.add(Task("message", 1, 1.0, kind=MESSAGE, processors=20.0))
    found = run(graph, Conditions(processors=(100.0, 80.0)))
    assert found.finish[0] == pytest.approx(1.0 + 9.0 * 80.0 / 100.0)
    assert found.start[1] == 0.0  # it waited for nothing


def test_what_memory_binds_takes_as_long_with_more_processors() -> None:
    graph = _graph()
    graph.add(Task("kernel", 0, 10.0, processor_bound_share=0.25))
    found = run(graph, Conditions(processors=(100.0, 50.0)))
    assert found.makespan == pytest.approx(7.5 + 2.5 * 0.5)


def test_only_what_processors_bind_can_change_its_speed() -> None:
    graph = _graph()
    graph.add(Task("of memory", 0, 1.0, processor_bound_share=0.0))
    graph.add(Task("of both", 0, 1.0, processor_bound_share=0.5))
    assert Conditions(processors=(100.0, 50.0)).varying(graph) == [False, True]
    assert Conditions().varying(graph) == [False, False]


def test_a_kernel_stands_still_where_communication_holds_every_processor() -> None:
    graph = _graph()
    graph.add(Task("kernel", 0, 1.0, processor_bound_share=1.0))
    graph.add(Task("message", 1, 3.0, kind=MESSAGE, processors=100.0))
    assert run(graph, Conditions(processors=(100.0, 100.0))).finish[0] == pytest.approx(4.0)


def test_kernels_take_longer_while_an_exchange_runs_beside_them() -> None:
    """Twice as long for one second: half a second of work is done then, and 1.5 s of 2 s are left."""
    graph = _graph()
    graph.moe_comm_slowdown = 2.0
    graph.add(Task("kernel", 0, 2.0))
    graph.add(Task("exchange", 1, 1.0, kind=MESSAGE, slows_kernels=True))
    assert run(graph).finish.tolist() == pytest.approx([2.5, 1.0])


def _messages(count: int) -> Graph:
    """Return messages of 100 B on a link of 100 B/s."""
    graph = _graph(count, count)
    graph.capacity = np.array([100.0])
    for number in range(count):
        graph.add(Task("message", number, 0.5, kind=MESSAGE, message=Message({0: 1.0}, 100.0)))
    return graph


def test_messages_share_a_link_fairly() -> None:
    """Half a second before the bytes move; then two flows of 100 B on 100 B/s take two seconds, one takes one."""
    assert run(_messages(1)).makespan == pytest.approx(1.5)
    assert run(_messages(2)).finish.tolist() == pytest.approx([2.5, 2.5])


def test_messages_without_a_common_link_do_not_meet_and_those_with_one_do() -> None:
    """100 B over links 0 and 1, 1 and 2, and 3, each of 100 B/s: the first two share link 1."""
    graph = _graph(3, 3)
    for stream, links in enumerate(((0, 1), (1, 2), (3,))):
        graph.add(Task("message", stream, 0.0, kind=MESSAGE, message=Message(dict.fromkeys(links, 1.0), 100.0)))
    graph.capacity = np.full(4, 100.0)
    assert run(graph).finish.tolist() == pytest.approx([2.0, 2.0, 1.0])


def test_a_message_that_ends_leaves_its_share_to_the_others() -> None:
    graph = _messages(1)
    graph.stream("other", 1, "stream")
    graph.add(Task("short", 1, 0.5, kind=MESSAGE, message=Message({0: 1.0}, 50.0)))
    found = run(graph)
    assert found.finish.tolist() == pytest.approx([2.0, 1.5])


def test_a_message_never_exceeds_its_own_limit_and_leaves_the_rest_to_others() -> None:
    """Limited to 20 of 100 B/s it takes 5 s for 100 B; the other one has 80 B/s."""
    graph = _messages(1)
    graph.stream("other", 1, "stream")
    graph.add(Task("slow", 1, 0.5, kind=MESSAGE, message=Message({0: 1.0}, 100.0, 20.0)))
    assert run(graph).finish.tolist() == pytest.approx([0.5 + 100.0 / 80.0, 5.5])


def test_a_message_on_shared_links_stands_still_while_its_device_is_cut_off_and_others_take_its_share() -> None:
    """Both move 25 B until 1 s; then the other has the link for 0.75 s; the first goes on at 3 s."""
    graph = _messages(2)
    for number in range(2):
        graph.tasks[number] = graph.tasks[number]._replace(message=Message({0: 1.0}, 100.0, 100.0))
    found = run(graph, Conditions(slowdown_windows=(link_flap(0, 1.0, 2.0),)))
    assert found.finish.tolist() == pytest.approx([3.0 + 0.75, 1.75])


def test_a_message_that_never_moves_again_is_reported() -> None:
    graph = _messages(1)
    with pytest.raises(DeadlockError, match="message stands still"):
        run(graph, Conditions(slowdown_windows=(device_failure(0, 1.0),)))


def test_jitter_moves_the_bytes_of_messages_too() -> None:
    graph = _messages(1)
    graph.tasks[0] = graph.tasks[0]._replace(seconds=0.0)
    assert run(graph, Conditions(jitter=0.1)).makespan != pytest.approx(1.0)


def test_a_straggler_takes_longer_by_its_factor() -> None:
    graph = _graph(2, 2)
    for stream in (0, 1):
        graph.add(Task("kernel", stream, 2.0))
    assert run(graph, Conditions(slowdown_windows=(straggler(1, 0.5),))).finish.tolist() == pytest.approx([2.0, 4.0])


def test_a_link_that_flaps_holds_a_message_up_for_as_long_as_it_is_down() -> None:
    graph = _graph(1)
    graph.add(Task("message", 0, 2.0, kind=MESSAGE))
    assert run(graph, Conditions(slowdown_windows=(link_flap(0, 1.0, 5.0),))).makespan == pytest.approx(7.0)


def test_a_fabric_without_one_of_eight_planes_keeps_seven_eighths_of_its_speed() -> None:
    graph = _graph(1)
    graph.add(Task("message", 0, 8.0, kind=MESSAGE))
    assert run(graph, Conditions(slowdown_windows=(plane_failure(1.0, 8),))).makespan == pytest.approx(
        1.0 + 7.0 * 8 / 7
    )


def test_a_failed_device_is_reported_with_all_that_waits_for_it() -> None:
    graph = _graph(2, 2)
    first = graph.add(Task("kernel", 0, 2.0))
    graph.add(Task("send", 1, 1.0, (first,)))
    with pytest.raises(DeadlockError, match="nothing runs") as caught:
        run(graph, Conditions(slowdown_windows=(device_failure(0, 1.0),)))
    assert caught.value.waiting == (
        "device 0, stream 0: kernel stands still",
        "device 1, stream 1: send waits for kernel of device 0",
    )


def test_streams_that_wait_for_each_other_are_a_deadlock() -> None:
    graph = _graph()
    graph.add(Task("one", 0, 1.0, (1,)))
    graph.add(Task("other", 1, 1.0, (0,)))
    with pytest.raises(DeadlockError) as caught:
        run(graph)
    assert len(caught.value.waiting) == 2


def test_starvation_is_reported_after_the_patience() -> None:
    graph = _graph(1)
    graph.add(Task("message", 0, 2.0, kind=MESSAGE))
    conditions = Conditions(slowdown_windows=(link_flap(0, 1.0, 1e6),), patience=10.0)
    with pytest.raises(DeadlockError, match="no task has finished for 10 s"):
        run(graph, conditions)


def _jittered(seed: int, jitter: float = 0.1) -> Timeline:
    graph = _graph(1)
    for _ in range(20_000):
        graph.add(Task("kernel", 0, 1.0))
    return run(graph, Conditions(seed=seed, jitter=jitter))


def test_the_same_seed_gives_the_same_times_and_another_one_others() -> None:
    np.testing.assert_array_equal(_jittered(1).finish, _jittered(1).finish)
    assert _jittered(1).makespan != _jittered(2).makespan


def test_jitter_keeps_the_mean_time() -> None:
    """The mean of 20,000 factors with a deviation of 0.1 lies within 0.1/sqrt(20000) = 0.0007; five of these."""
    assert _jittered(3).makespan == pytest.approx(20_000.0, rel=0.0035)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Conditions(jitter=-0.1),
        lambda: Conditions(jitter=np.nan),
        lambda: Conditions(patience=0.0),
        lambda: Conditions(slowdown_windows=(SlowdownWindow(0, 0.0, 1.0, -1.0),)),
    ],
)
def test_wrong_conditions_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(InputError):
        wrong()
