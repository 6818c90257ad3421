"""Prints whether a sweep that is killed at ten random moments, and one on each executor, gives the undisturbed table.

`python -m benchmarks.interruptions`; Dask is part of it where `costmodel[sweep]` is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KILLS = 10
PORT = 18786
STUDY = [
    "sweep", "deepseek_v3", "--scenario", "decode", "--vary", "scenarios.decode.precision=bf16,fp8-inference",
    "--vary", "scenarios.decode.batch_per_device=1..512:128",
    "--vary", "hardware.node.nic.bandwidth=10GB/s..200GB/s:1000",
]  # fmt: skip


def command(output: Path, *options: str) -> list[str]:
    """Return the sweep as a command."""
    return [sys.executable, "-m", "costmodel", *STUDY, "--output", str(output), *options]


def digest(output: Path) -> str:
    """Return a digest of all files of a sweep, names and bytes."""
    found = hashlib.sha256()
    for path in sorted(output.rglob("*")):
        if path.is_file():
            found.update(path.relative_to(output).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def whole(output: Path, *options: str) -> float:
    """Run the sweep to its end; return the seconds that it took."""
    begin = time.perf_counter()
    subprocess.run(command(output, *options), check=True, capture_output=True)
    return time.perf_counter() - begin


def killed(output: Path, moment: float) -> int:
    """Kill a sweep after some seconds, then let the same command end; return how many parts the kill had left."""
    run = subprocess.Popen(command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with suppress(subprocess.TimeoutExpired):
        run.wait(moment)
    run.send_signal(signal.SIGKILL)
    run.wait()
    left = len(list(output.glob("points/part-*")))
    whole(output)
    return left


@contextmanager
def scheduler() -> Iterator[str]:
    """Run a Dask scheduler with two workers on this machine; yield its address."""
    address = f"tcp://127.0.0.1:{PORT}"
    head = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(PORT)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for line in ([*head, "--no-dashboard"], worker, worker)
        ]
        try:
            yield address
        finally:
            for run in started:
                run.terminate()
            for run in started:
                run.wait(30)


def main() -> None:
    """Run the sweep in every way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = whole(folder / "undisturbed")
        known = digest(folder / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s, {known}")
        chance = random.Random(0)
        for number in range(KILLS):
            output, moment = folder / f"killed{number}", chance.uniform(0.0, seconds)
            left = killed(output, moment)
            print(f"killed after {moment:.1f} s with {left} parts written, and gone on: {told(output, known)}")
        whole(folder / "processes", "--workers", "2")
        print(f"two processes: {told(folder / 'processes', known)}")
        if importlib.util.find_spec("distributed") is None:
            print("no Dask here: pip install 'costmodel[sweep]'")
            return
        whole(folder / "embedded", "--cluster-scheduler", "embedded")
        print(f"embedded Dask: {told(folder / 'embedded', known)}")
        with scheduler() as address:
            whole(folder / "external", "--cluster-scheduler", address)
        print(f"a Dask scheduler with two workers: {told(folder / 'external', known)}")


def told(output: Path, known: str) -> str:
    """Return whether a sweep's files are those of the undisturbed one."""
    found = digest(output)
    return f"{found} {'the same bytes' if found == known else 'DIFFERS'}"


if __name__ == "__main__":
    main()
