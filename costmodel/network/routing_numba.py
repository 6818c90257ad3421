"""Least-loaded paths, compiled by numba where it is installed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from costmodel.network.numba_cache import compiled


@cache
def kernel() -> Any:
    """Return `least_loaded` compiled, null without numba."""
    try:
        return compiled(least_loaded, nogil=True)
    except ImportError:
        return None


def least_loaded(paths: Any, pair: Any, sizes: Any, links: int) -> Any:
    """Return for one flow after the other the path of its pair whose fullest link carries least, first of equals.

    paths: (rows, first, count) of `Paths`.
    pair, sizes: of each flow.
    """
    rows, first, count = paths
    load = np.zeros(links)
    chosen = np.empty(len(pair), np.int64)
    for flow in range(len(pair)):
        begin = first[pair[flow]]
        best, least = 0, np.inf
        for path in range(count[pair[flow]]):
            fullest = 0.0
            for link in rows[begin + path]:
                if link >= 0 and load[link] > fullest:
                    fullest = load[link]
            if fullest < least:
                best, least = path, fullest
        chosen[flow] = best
        for link in rows[begin + best]:
            if link >= 0:
                load[link] += sizes[flow]
    return chosen
