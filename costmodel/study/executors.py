"""Where chunks are evaluated: in this process, in others, or on a Dask cluster. The results are the same."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Generic, TypeVar

from costmodel.errors import InputError
from costmodel.records import ValueRecord

EMBEDDED = "embedded"
CONNECT = 10.0  # seconds to wait for a scheduler that does not answer
_WATCH = 1.0  # seconds between two looks at whether the process that asked still lives

T = TypeVar("T")
R = TypeVar("R")


class Pool(ValueRecord):
    """An executor and how many tasks keep it busy. Null: this process itself."""

    executor: Executor | None = None
    busy: int = 1


HERE = Pool()


@contextmanager
def started_pool(workers: int | None = None, scheduler: str | None = None) -> Iterator[Pool]:
    """Give what evaluates chunks while it runs: a Dask cluster (`embedded` or its address), processes, or this process.

    Raises InputError where Dask is not installed or no scheduler answers.
    """
    if scheduler is not None:
        with _dask(workers, scheduler) as client:
            yield client
        return
    if workers is None or workers == 1:
        yield HERE
        return
    processes = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        yield Pool(processes, workers)
    finally:
        processes.shutdown(wait=True, cancel_futures=True)


def in_any_order(pool: Pool, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Yield the result of each task as it comes. No more than twice what keeps the executor busy is under way."""
    if pool.executor is None:
        yield from map(function, tasks)
        return
    waiting = iter(tasks)
    running: set[Future[R]] = set()
    while True:
        for task in waiting:
            running.add(pool.executor.submit(function, task))
            if len(running) >= 2 * pool.busy:
                break
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def in_order(pool: Pool, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Yield the result of each task in the order of the tasks. Those that are not taken are not waited for."""
    if pool.executor is None:
        yield from map(function, tasks)
        return
    running: deque[Future[R]] = deque()
    try:
        for task in tasks:
            running.append(pool.executor.submit(function, task))
            if len(running) >= 2 * pool.busy:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


class Ahead(Generic[T, R]):
    """Results of tasks one by one, the next of which are started before anyone knows that they are needed."""

    def __init__(self, pool: Pool, function: Callable[[T], R]) -> None:
        self._pool, self._function = pool, function
        self._running: dict[Hashable, tuple[Hashable, Future[R]]] = {}
        self.depth = 0 if pool.executor is None else 2 * pool.busy  # tasks that keep the workers busy

    def start(self, key: Hashable, mark: Hashable, task: Callable[[], T]) -> None:
        """Start a task where a worker is free for it. key: its index; mark: what it is, should that change."""
        known = self._running.get(key)
        if self._pool.executor is None or (known is None and len(self._running) >= self.depth):
            return
        if known is None or known[0] != mark:
            self._leave(key)
            self._running[key] = mark, self._pool.executor.submit(self._function, task())

    def result(self, key: Hashable, mark: Hashable, task: Callable[[], T]) -> R:
        """Return the result of a task. It is done here where it was not started as it is now."""
        known = self._running.get(key)
        if known is not None and known[0] == mark:
            return self._running.pop(key)[1].result()
        self._leave(key)
        return self._function(task())

    def _leave(self, key: Hashable) -> None:
        if key in self._running:
            self._running.pop(key)[1].cancel()


class Shared(Generic[T]):
    """A value that many tasks carry. It is pickled once here, and unpickled once by each worker."""

    __slots__ = ("_packed", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self._packed: bytes | None = None

    def __reduce__(self) -> tuple[Callable[[bytes], Shared[Any]], tuple[bytes]]:
        if self._packed is None:
            self._packed = pickle.dumps(self.value, pickle.HIGHEST_PROTOCOL)
        return _unpacked, (self._packed,)


@lru_cache(maxsize=4)
def _unpacked(packed: bytes) -> Shared[Any]:
    return Shared(pickle.loads(packed))  # as the executor unpickles the task around it


@contextmanager
def _dask(workers: int | None, scheduler: str) -> Iterator[Pool]:
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise InputError.single("needs Dask", hint="install costmodel[sweep]", field="--cluster-scheduler") from None
    with ExitStack() as opened:
        if scheduler == EMBEDDED:
            local = distributed.LocalCluster(
                n_workers=workers or 1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
            )
            cluster = opened.enter_context(local)
        else:
            asyncio.run(_check_answers(distributed, scheduler))
            cluster = scheduler
        client = opened.enter_context(distributed.Client(cluster))
        cores = sum(client.ncores().values())
        if not cores:
            raise InputError.single(
                f"the scheduler at {scheduler} has no workers", hint=f"start some with `dask worker {scheduler}`",
                field="--cluster-scheduler",
            )  # fmt: skip
        yield Pool(client.get_executor(pure=False), cores)


async def _check_answers(distributed: Any, address: str) -> None:
    """Connect to a scheduler and leave again; raise InputError where none answers.

    A client that finds no scheduler is never closed: collected as garbage while another starts, it waits for the lock
    that this thread holds, for ever [distributed 2026.8, Client.__del__, LoopRunner.start]. So none is made before.
    """
    try:
        options = distributed.Security().get_connection_args("client")
        connected = distributed.comm.connect(address, timeout=CONNECT, **options)
        await (await asyncio.wait_for(connected, 2.0 * CONNECT)).close()  # the first limit is not that of a greeting
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError.single(
            f"no scheduler answers at {address}: {reason}",
            hint="start one with `dask scheduler`, or write its address",
            field="--cluster-scheduler",
        ) from None  # fmt: skip


def _start_worker(parent: int) -> None:
    """Leave interrupts to the process that asked, and end when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
