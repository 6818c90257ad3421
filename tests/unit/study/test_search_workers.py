"""A search finds the same to the byte, whether this process evaluates it, others do, or a Dask cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import costmodel
from costmodel.records import replace
from costmodel.study.executors import HERE, Ahead, Pool, in_order, started_pool
from costmodel.study.search import Space, searched
from costmodel.study.sweep import NOTHING
from tests.unit.study.test_search import ONE_STAGE, SMALL
from tests.unit.study.test_search_servers import CHAT, loaded


@pytest.fixture(scope="module", params=["processes", "dask"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    if request.param == "dask":
        pytest.importorskip("distributed")
    with started_pool(2, "embedded" if request.param == "dask" else None) as started:
        yield started


def found(workload: costmodel.Workload, name: str, objective: str | None, space: Space) -> str:
    return json.dumps(searched(workload, name, objective, NOTHING, space).document())


def test_workers_find_the_layouts_of_a_step(pool: Pool) -> None:
    """On several numbers of devices, in a race whose objective has no bound, and at axes that are texts."""
    small = costmodel.load("gpt3_175b_a100", set=SMALL, scenarios=["selective"])
    frameworks = ("scenarios.selective.framework=megatron,megatron-2022",)
    for objective, space in (
        (None, Space((8, 16), (), ONE_STAGE)),
        ("maximise mfu / step_time", Space((8,), (), (*ONE_STAGE, "scenarios.selective.micro_batch=1"))),
        (None, Space((8,), frameworks, ONE_STAGE)),
    ):
        assert found(small, "selective", objective, replace(space, pool=pool)) == found(
            small, "selective", objective, space
        )


def test_workers_find_the_engines_of_a_server(pool: Pool, tmp_path: Path) -> None:
    chat = loaded(CHAT, tmp_path, scenarios__chat__rate="60 /s")
    space = Space((1, 2, 3, 4))
    assert found(chat, "chat", None, replace(space, pool=pool)) == found(chat, "chat", None, space)


def test_results_come_in_the_order_of_their_tasks(pool: Pool) -> None:
    for one in (HERE, pool):
        assert list(in_order(one, abs, iter([-3, 1, -2, 5, 4, -9, 8, 7]))) == [3, 1, 2, 5, 4, 9, 8, 7]


def test_a_task_that_changed_after_it_was_started_is_done_again(pool: Pool) -> None:
    for one in (HERE, pool):
        ahead = Ahead(one, abs)
        for _ in range(2):
            ahead.start(0, "first", lambda: -1)
            ahead.start(1, "other", lambda: -2)
            ahead.start(1, "changed", lambda: -3)
        assert ahead.result(0, "second", lambda: -4) == 4
        assert ahead.result(1, "changed", lambda: -3) == 3
        assert ahead.result(2, "unknown", lambda: -5) == 5
