"""How tests start the command line: in this process, or as one of its own."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from unittest import mock

from costmodel.cli.main import main

# A shell script starts what runs in its background with SIGINT ignored, and so would every process of such tests run.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from costmodel.cli.main import main; main()"
)


STOP = """
import os, sys
sent = []
def stop(event, given):
    if event == {event!r} and str(given[0]).startswith({of!r}) and not sent:
        sent.append(event)
        os.kill(os.getpid(), {signal})
sys.addaudithook(stop)
"""  # before START
PATIENCE = 600.0  # seconds until a process that hangs is ended: none that works takes so long, however busy all is


@dataclass(frozen=True)
class Ran:
    """What a run left: exit code and both outputs."""

    code: int
    out: str
    err: str


def surroundings(**changes: str) -> dict[str, str]:
    """Return the environment of a process: it keeps a compiled catalogue, as users' do; what runs here reads files."""
    kept = Path(__file__).parents[1] / ".pytest_cache" / "catalogue"
    return {**os.environ, "COSTMODEL_CACHE": str(kept), **changes}


def command(*arguments: object) -> list[str]:
    """Return how a shell starts `costmodel ARGUMENTS` with this interpreter."""
    return [sys.executable, "-c", START, *map(str, arguments)]


def stopped(*arguments: object, event: str = "import", of: str = "numpy", by: signal.Signals = signal.SIGINT) -> Ran:
    """Return what `costmodel ARGUMENTS` leaves when it is stopped inside its work: where it first imports NumPy.

    event, of: another place [docs.python.org/3/library/audit_events.html]. The process sends the signal to itself, so
    that it comes there however slowly this one or that one runs.
    """
    program = STOP.format(event=event, of=of, signal=int(by)) + START
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE,
        check=False, env=surroundings(),
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: object, program: Callable[[], object] = main, name: str = "costmodel") -> Ran:
    """Run `costmodel ARGUMENTS`, or another program of that name, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
    code = _code_of(program, [name, *map(str, arguments)], out, err)
    shown, told = (each.buffer.getvalue().decode("utf-8", errors="surrogateescape") for each in (out, err))
    return Ran(code, shown, told)


def run_on_a_terminal(*arguments: object, **environment: str) -> str:
    """Return what a terminal shows of `costmodel ARGUMENTS`, run in this process with that environment."""
    ours, theirs = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux tells the end of a terminal as an error
            while part := os.read(ours, 65536):
                parts.append(part)

    reader = threading.Thread(target=read)  # a terminal holds little that nobody reads
    reader.start()
    try:
        with open(theirs, "w", encoding="utf-8") as terminal, mock.patch.dict(os.environ, environment):
            code = _code_of(main, ["costmodel", *map(str, arguments)], terminal, terminal)
    finally:
        reader.join(PATIENCE)
        os.close(ours)
    assert code == 0
    return b"".join(parts).decode()


def _code_of(program: Callable[[], object], words: list[str], out: TextIO, err: TextIO) -> int:
    """Run a program with those words as its command line; return its exit code."""
    code: object = 0
    given, sys.argv = sys.argv, words
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program()
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:
        sys.argv = given
        gc.enable()  # the command line leaves it off, and all that was alive uncollected
        gc.unfreeze()
    return code if isinstance(code, int) else 1
