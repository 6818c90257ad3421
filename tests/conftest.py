"""Options, the hypothesis profile, and workloads that many tests read."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

import costmodel

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that rewrites golden files with what the code gives now."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


@pytest.fixture(scope="session")
def v3() -> costmodel.Workload:
    """Return the flagship workload, read once."""
    return costmodel.load("deepseek_v3")
