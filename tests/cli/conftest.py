"""The command line, run in this process or as a process of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from command_line import command

from costmodel.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What a run left: exit code and both outputs."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return a function that runs `costmodel ARGUMENTS` here."""

    def ran(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["costmodel", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), captured.out, captured.err)

    yield ran
    gc.enable()  # the command line leaves it off, and all that was alive uncollected
    gc.unfreeze()


@pytest.fixture
def process() -> Run:
    """Return a function that runs `costmodel ARGUMENTS` as a process; keywords change its environment."""

    def ran(*arguments: object, **environment: str) -> Ran:
        done = subprocess.run(
            command(*arguments),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, **environment},
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return ran
