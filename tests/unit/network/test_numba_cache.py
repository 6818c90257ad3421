"""Compiled functions where numba finds no folder that it can write, or one that others can write."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from costmodel.errors import Notice
from costmodel.network import routing_numba
from costmodel.network.numba_cache import compiled, is_ours
from costmodel.serving import compiled as room
from costmodel.serving.compiled import is_kept, kept_in

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


@pytest.mark.skipif(os.name != "posix", reason="rights of files are those of POSIX")
def test_a_folder_that_others_can_write_keeps_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("numba").config, "CACHE_DIR", str(tmp_path))
    folder = Path(compiled(twice).stats.cache_path)
    assert tmp_path in folder.parents
    assert is_ours(folder)
    folder.chmod(0o777)
    with pytest.warns(Notice, match="can be written by others"):
        anew = compiled(twice)
    assert anew.stats.cache_path is None
    folder.chmod(0o755)
    assert compiled(twice).stats.cache_path == str(folder)


def test_kept_code_is_of_a_files_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numba takes it: a file that was only touched has its code, one that was changed has none."""
    file = tmp_path / "own.py"
    file.write_text("def half(value):\n    return 0.5 * value\n", "utf-8")
    spec = importlib.util.spec_from_file_location("own", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(pytest.importorskip("numba").config, "CACHE_DIR", str(tmp_path / "kept"))
    kept = compiled(module.half)
    monkeypatch.setattr(room, "kept_in", lambda: kept.stats.cache_path)
    assert not is_kept(module.half)
    assert kept(42.0) == 21.0
    os.utime(file, (2e9, 2e9))
    assert is_kept(module.half)
    file.write_text("def half(value):\n    return value / 2.0\n", "utf-8")
    os.utime(file, (1e9, 1e9))  # as a checkout of an older file
    assert not is_kept(module.half)
