"""The processes that answer: a pool for what a page shows at once, and one for long runs with progress.

A call that takes too long, or that is cancelled, ends with its process. Another one is forked for the next call.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, Self, TypeVar

from pebble import ProcessPool

from costmodel.errors import InputError
from costmodel.reading import confine
from costmodel.records import MutableRecord
from costmodel.schema.references import Library

T = TypeVar("T")

ANSWER_LIMIT, JOB_LIMIT = 20.0, 900.0  # seconds
MOST_WAITING = 32  # answers asked for at once, before more are refused
MOST_JOBS = 16  # that are kept, finished ones among them
RUNNING_JOBS = 2
ANSWERS, RUNS = "answers", "runs"
WARM = "costmodel.app.warm"  # what every worker has imported and computed before it begins

_progress: list[Any] = []  # shared with the server: the share of each job that is done


class Busy(Exception):
    """More is asked for than waits in line."""


class Job(MutableRecord):
    """A long run. slot: where its progress stands; html: its result, error: why there is none."""

    key: str
    title: str
    slot: int
    future: Any
    done: bool = False
    value: Any = None
    error: str = ""


def _prepare(search_path: Sequence[str], progress: Any) -> None:
    """Make a process a worker: it reads the catalogue alone, and reports progress."""
    confine([*Library(search_path).roots, *search_path])
    _progress[:] = [progress]


def report(slot: int) -> Callable[[float], None]:
    """Return what takes the share of a job that is done."""
    shares = _progress[0]

    def set_share(share: float) -> None:
        shares[slot] = share

    return set_share


def preload() -> BaseContext:
    """Return how processes are started: forked from one that has everything loaded, where the system can.

    That one begins to load at once, while the server does.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WARM])
    forkserver.ensure_running()
    return context


class Workers:
    """Both pools. count: processes that answer."""

    def __init__(self, search_path: Sequence[str | Path] = (), count: int | None = None) -> None:
        self._progress = RawArray("d", MOST_JOBS)
        self._free = list(range(MOST_JOBS))
        self._waiting = 0
        self.jobs: dict[str, Job] = {}
        self._context, self._given = preload(), (tuple(map(str, search_path)), self._progress)
        self._counts = {ANSWERS: count or max(os.cpu_count() or 1, 2), RUNS: RUNNING_JOBS}
        self._pools: dict[str, ProcessPool] = {}

    def _pool(self, name: str) -> ProcessPool:
        pool = self._pools.get(name)
        if pool is None or not pool.active:
            pool = ProcessPool(self._counts[name], initializer=_prepare, initargs=self._given, context=self._context)
            self._pools[name] = pool
        return pool

    async def answer(self, function: Callable[..., T], *given: Any) -> T:
        """Return what a function says in a worker. Raises Busy, and InputError where it takes too long."""
        if self._waiting >= MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._pool(ANSWERS).submit(function, ANSWER_LIMIT, *given))
        except TimeoutError:
            hint = "fix a layout, or ask on the command line"
            raise InputError.single(f"takes more than {ANSWER_LIMIT:g} s", hint=hint) from None
        finally:
            self._waiting -= 1

    def start(self, title: str, function: Callable[..., Any], *given: Any) -> Job:
        """Start a job: a function whose last argument is the slot of its progress. Raises Busy."""
        if not self._free:
            oldest = next((job for job in self.jobs.values() if job.done), None)
            if oldest is None:
                raise Busy
            self.forget(oldest.key)
        slot = self._free.pop()
        self._progress[slot] = 0.0
        key = secrets.token_urlsafe(9)
        future = self._pool(RUNS).submit(function, JOB_LIMIT, *given, slot)
        self.jobs[key] = job = Job(key, title, slot, future)
        return job

    def look(self, key: str) -> tuple[Job, float] | None:
        """Return a job and the share that is done, null where there is none."""
        job = self.jobs.get(key)
        if job is None:
            return None
        if job.future.done() and not job.done:
            job.done = True
            try:
                job.value = job.future.result()
            except CancelledError:
                job.error = "cancelled"
            except TimeoutError:
                job.error = f"took more than {JOB_LIMIT / 60:g} minutes"
            except Exception as error:  # of the worker: whatever it is, the page says it
                job.error = str(error) or type(error).__name__
        return job, 1.0 if job.done else float(self._progress[job.slot])

    def forget(self, key: str) -> None:
        """End a job and what it runs, if anything."""
        job = self.jobs.pop(key, None)
        if job is not None:
            job.future.cancel()
            self._free.append(job.slot)

    def close(self) -> None:
        """End all processes."""
        for pool in self._pools.values():
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settle() -> None:
    """Let forked workers share what is loaded: garbage collection writes into pages otherwise."""
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
