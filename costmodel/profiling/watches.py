"""Stopwatches of a CPU and of a GPU: one call after the other, inside a graph, and under a load of seconds."""

from __future__ import annotations

import gc
import itertools
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from costmodel.profiling.timing import Call, Series, Timing
from costmodel.records import ValueRecord

_QUEUED_CALL = 1e5  # cycles of the device that the host is given at first to put one call into the queue …
_LONGER, _LONGEST_CALL = 4, 1e7  # … how many times more after a series in which it was too slow, and at most
_CAPTURED = 3  # replays of a graph, of which the fastest counts
_BATCH = 0.05  # seconds of a sustained load between two readings


class HostWatch(ValueRecord):
    """Times calls on a CPU by the host's clock.

    alone: the calling thread does the work, so that calls that the system has interrupted need not count. Of work that
    others do, or wait for, the whole time counts.
    """

    alone: bool = True

    def series(self, calls: Sequence[Call]) -> Series:
        """Return how long each call took that no other process displaced [s].

        Where none was spared: the processor time of each, which one thread does not share. Of several threads, some of
        which may have had nothing to do, the whole times.
        """
        every: list[tuple[float, float]] = []
        spared: list[float] = []
        gc.disable()
        try:
            for call in calls:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
                worked, begin = time.thread_time(), time.perf_counter()
                call()
                every.append((time.perf_counter() - begin, time.thread_time() - worked))
                if self.alone and resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before:
                    spared.append(every[-1][0])
        finally:
            gc.enable()
        single = self.alone and torch.get_num_threads() == 1
        seconds = spared or [own if single else whole for whole, own in every]
        return Series(seconds, host=min(seconds))

    def in_a_graph(self, calls: Sequence[Call]) -> None:
        """Return nothing: a CPU has no graphs."""

    def sustained(self, calls: Sequence[Call], seconds: float, duty: float) -> Timing:
        """Return the time of a call when a load has run for some seconds, of which it works a share `duty`."""
        return _settled(calls, seconds, duty, self.series)


class EventWatch:
    """Times calls on a GPU between events of its stream.

    A delay that the device runs first lets the host queue all calls, so that no kernel waits for its launch: the host
    has finished before the first event passes, or the series says that it has not, and the next delay is longer. What
    calls return stays alive until the end, so that each writes to memory of its own. The caches hold none of it, nor of
    the operands: as much as they hold is written in between.
    """

    def __init__(self, cache: int) -> None:
        self._flushed = torch.empty(max(2 * cache, 1), dtype=torch.int8, device="cuda")
        self._cycles = _QUEUED_CALL

    def series(self, calls: Sequence[Call]) -> Series:
        """Return how long each call took on the device [s]."""
        return self._series(calls, cold=True)

    def _series(self, calls: Sequence[Call], *, cold: bool) -> Series:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
        results: list[object] = []
        gc.disable()
        try:
            if cold:
                self._flushed.zero_()
            torch.cuda.synchronize()
            torch.cuda._sleep(int(self._cycles * (len(calls) + 1)))
            marks[0].record()
            begin = time.perf_counter()
            for call, mark in zip(calls, marks[1:], strict=True):
                results.append(call())
                mark.record()
            host = (time.perf_counter() - begin) / len(calls)
            queued = not marks[0].query()
            torch.cuda.synchronize()
        finally:
            gc.enable()
        self._cycles = _QUEUED_CALL if queued else min(self._cycles * _LONGER, _LONGEST_CALL)
        return Series([one.elapsed_time(two) * 1e-3 for one, two in itertools.pairwise(marks)], host, queued)

    def in_a_graph(self, calls: Sequence[Call]) -> float:
        """Return the time of a call inside a graph of all of them, with neither launch nor event between two [s]."""
        graph = torch.cuda.CUDAGraph()
        # The outer context gives the stream back where the end of a failed capture raises and does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            results = [call() for call in calls]
        replays = [min(self._series([graph.replay], cold=True).seconds) for _ in range(_CAPTURED)]
        del results
        return min(replays) / len(calls)

    def sustained(self, calls: Sequence[Call], seconds: float, duty: float) -> Timing:
        """Return the time of a call when a load has run for some seconds, of which it works a share `duty`."""
        return _settled(calls, seconds, duty, lambda some: self._series(some, cold=False))


def _settled(calls: Sequence[Call], seconds: float, duty: float, timed: Callable[[Sequence[Call]], Series]) -> Timing:
    """Return the median time of a call over the second half of a load [s]."""
    first = timed(calls)
    count = max(1, int(_BATCH / max(sum(first.seconds), 1e-9)))
    begin, batches = time.monotonic(), []
    while (at := time.monotonic() - begin) < seconds:
        batch = timed([*calls] * count)
        batches.append((at, batch))
        time.sleep(sum(batch.seconds) * (1.0 - duty) / duty)
    late = [batch for at, batch in batches if at >= seconds / 2] or [batches[-1][1]]
    times = np.concatenate([batch.seconds for batch in late])
    low, median, high = (float(point) for point in np.percentile(times, (25.0, 50.0, 75.0)))
    return Timing(median, (high - low) / 2.0 / median, len(times), late[-1].host, all(batch.queued for batch in late))
