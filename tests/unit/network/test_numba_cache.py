"""Compiled functions where numba finds no folder that it can write."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.network import routing_numba
from costmodel.network.numba_cache import compiled
from costmodel.serving.compiled import kept_in

caching = pytest.importorskip("numba.core.caching")


def twice(value: float) -> float:
    return 2.0 * value


def test_without_a_folder_for_it_compiled_code_runs_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation that is read-only, for a user without a folder of caches."""
    assert kept_in()
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert kept_in() is None
    assert compiled(twice)(21.0) == 42.0
    paths = (np.array([[0], [1]]), np.array([0]), np.array([2]))
    kernel = routing_numba.kernel.__wrapped__()
    assert kernel(paths, np.array([0, 0]), np.array([1.0, 1.0]), 2).tolist() == [0, 1]
