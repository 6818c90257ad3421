"""Processor time of calls and of commands, and a unit of it that other machines and busy hours have as well."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

UNIT = "a million additions in Python"


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest processor time of several runs [s]."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def command_seconds(*arguments: str, repeats: int = 3) -> float:
    """Return the shortest processor time of the installed command in a new process, its bytecode written before [s]."""
    command = [str(Path(sys.executable).with_name("costmodel")), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        around = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        around["PYTHONPYCACHEPREFIX"] = folder
        times = []
        for _ in range(1 + repeats):
            before = os.times()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=around)
            after = os.times()
            times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times[1:])


def unit_seconds() -> float:
    """Return what `UNIT` takes now [s]: figures in it compare with those of a machine that was faster or less busy."""
    return seconds(_million_additions)


def _million_additions() -> None:
    total = 0
    for number in range(1_000_000):
        total += number
