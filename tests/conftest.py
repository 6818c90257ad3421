"""Options, profiles of hypothesis, the order of files over workers, and workloads that many tests read."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there are as many workers as processors
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for torch, whose threads spin while they wait
os.environ.setdefault("NUMBA_OPT", "1")  # compiled in three quarters of the time, and as fast
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "numba"))  # and kept apart
os.environ["COSTMODEL_CACHE"] = ""  # every test reads its files; those of the catalogue name a folder of their own

import costmodel

gc.set_threshold(50_000, 20, 20)  # the heap of a whole suite is searched less often: a twentieth of its time
gc.disable()  # until all tests are collected: they stay

SHORT, LONG = 16, 200  # examples of a property
COMMON = {"derandomize": True, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("short", max_examples=SHORT, **COMMON)
settings.register_profile("long", max_examples=LONG, **COMMON)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switches of this suite."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")
    parser.addoption("--long", action="store_true", help="more examples and full products: see docs/testing.md")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the profile of hypothesis; files go to workers in their order, the slow ones first."""
    settings.load_profile("long" if config.getoption("--long") else "short")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Leave tests and modules out of every search for garbage: they are most of the heap."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _small_heap(request: pytest.FixtureRequest) -> None:
    """Leave out again, in the many files without commands, what a command that ran in this process brought back."""
    if not {"cli", "golden", "reports"} & set(request.path.parts) and not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def v3() -> costmodel.Workload:
    """Return the flagship workload, read once."""
    return costmodel.load("deepseek_v3")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Return whether the long profile is asked for."""
    return bool(pytestconfig.getoption("--long"))
