"""How tests start the command line: in this process, or as one of its own."""

from __future__ import annotations

import contextlib
import gc
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from costmodel.cli.main import main

# A shell script starts what runs in its background with SIGINT ignored, and so would every process of such tests run.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from costmodel.cli.main import main; main()"
)


@dataclass(frozen=True)
class Ran:
    """What a run left: exit code and both outputs."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> list[str]:
    """Return how a shell starts `costmodel ARGUMENTS` with this interpreter."""
    return [sys.executable, "-c", START, *map(str, arguments)]


def interrupted(*arguments: object) -> Ran:
    """Return what `costmodel ARGUMENTS` leaves when it is interrupted inside its work: NumPy is loaded there first."""
    started = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while "_multiarray_umath" not in Path(f"/proc/{started.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    return Ran(started.returncode, out, err)


def run_here(*arguments: object, program: Callable[[], object] = main, name: str = "costmodel") -> Ran:
    """Run `costmodel ARGUMENTS`, or another program of that name, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
    code: object = 0
    given, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program()
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:
        sys.argv = given
        gc.enable()  # the command line leaves it off, and all that was alive uncollected
        gc.unfreeze()
    shown, told = (each.buffer.getvalue().decode("utf-8", errors="surrogateescape") for each in (out, err))
    return Ran(code if isinstance(code, int) else 1, shown, told)
