"""Processes that answer: what takes too long or is cancelled ends, and the next call is answered."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

pytest.importorskip("starlette", reason="the extra [app] is not installed")

from costmodel.app import workers
from costmodel.app.workers import Busy, Workers
from costmodel.errors import InputError


@pytest.fixture(scope="module")
def pool():
    with Workers(count=1) as one:
        yield one


def test_an_answer_that_takes_too_long_is_an_error_and_the_next_one_comes(pool, monkeypatch):
    before = asyncio.run(pool.answer(os.getpid))
    monkeypatch.setattr(workers, "ANSWER_LIMIT", 0.2)
    with pytest.raises(InputError, match=r"takes more than 0\.2 s"):
        asyncio.run(pool.answer(time.sleep, 600))
    monkeypatch.undo()
    assert asyncio.run(pool.answer(os.getpid)) not in (before, os.getpid())


def test_files_outside_the_catalogue_are_closed_to_it(pool, tmp_path):
    from costmodel.schema.loader import read_data

    (tmp_path / "own.yaml").write_text("a: 1")
    with pytest.raises(InputError, match="outside the catalogue"):
        asyncio.run(pool.answer(read_data, tmp_path / "own.yaml", "own", 100))


def test_a_run_is_cancelled_with_what_it_does_and_few_are_kept(pool, monkeypatch):
    monkeypatch.setattr(workers, "MOST_WAITING", 0)
    with pytest.raises(Busy):
        asyncio.run(pool.answer(os.getpid))
    jobs = [pool.start("sleeps", time.sleep) for _ in range(workers.MOST_JOBS)]  # as many seconds as its slot's number
    with pytest.raises(Busy):
        pool.start("one more", time.sleep)
    for job in jobs:
        pool.forget(job.key)
        assert pool.look(job.key) is None
    assert all(job.future.done() for job in jobs)
    assert pool.start("again", time.sleep).slot == jobs[-1].slot
