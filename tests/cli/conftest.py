"""The command line, run in this process or as a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TypeAlias

import pytest
from command_line import PATIENCE, Ran, command, run_here, surroundings

from costmodel.planning import playing, structures

Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def run() -> Run:
    """Return a function that runs `costmodel ARGUMENTS` here."""
    return run_here


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan servers of one framework: others are more of the same."""
    monkeypatch.setattr(structures, "ENGINES", {"vllm": "vLLM"})


@pytest.fixture
def small_plans(one_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  a fixture's effect
    """Plan servers of one framework in two formats, with few requests that are played."""
    monkeypatch.setattr(playing, "has_numba", lambda: False)
    monkeypatch.setattr(playing, "LEAST", {False: 400})
    monkeypatch.setattr(structures, "_narrower", lambda *_: iter(["fp8-tensor"]))


@pytest.fixture
def process() -> Run:
    """Return a function that runs `costmodel ARGUMENTS` as a process; keywords change its environment."""

    def ran(*arguments: object, **environment: str) -> Ran:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=surroundings(**environment),
            timeout=PATIENCE,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return ran
