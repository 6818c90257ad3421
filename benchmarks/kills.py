"""Ends commands at random moments: what is left is whole, or not there. Then two of each write the same files at once.

`python -m benchmarks.kills [KIND…]`: 40 ends, by SIGKILL, SIGTERM and SIGINT in turn, with caches that are still to be
filled. After each the same command ends with an undisturbed run's files and answer. Then the same with a disk that is
full and an output that is closed: one line that says so, and nothing torn.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

KILLS = 5  # of each kind of run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ANSWER = "answer.txt"  # what a run prints: the same again where that is all that it leaves
SAME = "same bytes"
SMALL_DISK = 1_000  # bytes that a file may have, as on a full disk
NIC = "hardware.node.nic.bandwidth=10GB/s..200GB/s:2000"
REQUESTS = ["simulate", "llama3_8b_rtx4090", "--engine", "event", "--scenario", "serving", "--set",
            "scenarios.serving.requests={arrivals: closed_loop, count: 2000}", "--trace",
            "{out}/requests.csv"]  # fmt: skip
RUNS = {
    "sweep": ["sweep", "deepseek_v3", "--scenario", "decode", "--vary", "scenarios.decode.batch_per_device=1..32:32",
              "--vary", NIC, "--output", "{out}/sweep"],
    "requests": REQUESTS,
    "checkpoint": [*REQUESTS, "--checkpoint", "{out}/state.part"],
    "search": ["search", "deepseek_v3", "--scenario", "decode", "--json"],
    "plan": ["plan", "llama-3-8b", "--cluster", "nodes/h100-x1", "--rate", "2/s", "--isl", "512", "--osl", "128",
             "--json"],
    "report": ["report", "{in}/result.json", "--output", "{out}/report"],
    "predictions": ["predict", "{in}/table.csv", "--output", "{out}/predicted.csv"],
    "fits": ["calibrate", "{in}/measured.csv", "--device", "h100-sxm", "--output", "{out}/fits.yaml"],
}  # fmt: skip


class Run:
    """One run of a kind, with a folder for its files and a cache of its own, which is empty at first."""

    def __init__(self, kind: str, given: Path, name: str) -> None:
        self.output = given / f"{kind}-{name}"
        self.output.mkdir()
        words = [word.replace("{out}", str(self.output)).replace("{in}", str(given)) for word in RUNS[kind]]
        self.line = [sys.executable, "-m", "costmodel", *words]
        self.environment = os.environ | {"XDG_CACHE_HOME": str(given / f"{kind}-{name}-cache")}

    def start(self) -> subprocess.Popen[str]:
        """Start it; what it prints becomes one of its files."""
        with (self.output / ANSWER).open("wb") as answer:
            return subprocess.Popen(
                self.line, stdout=answer, stderr=subprocess.PIPE, text=True, env=self.environment
            )  # fmt: skip

    def end(self) -> tuple[int, str]:
        """Run it to its end; return its code and its last line on standard error."""
        run = self.start()
        lines = run.communicate()[1].strip().splitlines()
        return run.returncode, lines[-1] if lines else ""

    def files(self) -> dict[str, str]:
        """Return the digest of every file, but of those that a kill leaves under a name of its own."""
        files = [path for path in sorted(self.output.rglob("*")) if path.is_file() and not path.name.endswith(".part")]
        files = [path for path in files if path.name != ANSWER] or files
        return {
            path.relative_to(self.output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }

    def torn(self, known: dict[str, str]) -> list[str]:
        """Return the files that are neither whole nor what a run that is under way writes anew."""
        under_way = (ANSWER, "study.json")
        return [path for path, left in self.files().items() if known.get(path) != left and not path.endswith(under_way)]


def prepare(folder: Path) -> None:
    """Write what reports, predictions and fits read."""
    rows = [f"H100_SXM,gemm,{m},{n},4096,bf16,bf16," for m in range(1, 200) for n in (1024, 4096, 8192)]
    header = "device,op,m,n,k,dtype_in,dtype_out,time_us"
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    lines = [header, *(f"{row}{5 + 2.0 * _flop(row) / 7e8:.3f}" for row in rows[::8])]  # 5 us and 700 TFLOP/s
    (folder / "measured.csv").write_text("\n".join(lines) + "\n")
    with (folder / "result.json").open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "costmodel", "simulate", "deepseek_v3", "--json"], check=True, stdout=file
        )


def _flop(row: str) -> float:
    """Return the multiply-adds of a row of the table."""
    m, n, k = map(float, row.split(",")[2:5])
    return m * n * k


def kills(kind: str, folder: Path, known: dict[str, str], seconds: float) -> int:
    """End runs of a kind at random moments. Return how many leave something torn, or end otherwise the next time."""
    chance, bad = random.Random(kind), 0
    for number in range(KILLS):
        which = SIGNALS[number % len(SIGNALS)]
        run, moment = Run(kind, folder, str(number)), chance.uniform(0.2, 1.0) * seconds
        started = run.start()
        with suppress(subprocess.TimeoutExpired):
            started.wait(moment)
        started.send_signal(which)
        started.communicate()
        torn = run.torn(known)
        code, reason = run.end()
        again = reason if code else _difference(run.files(), known)
        bad += bool(torn) or again != SAME
        told = f"torn: {', '.join(torn)}" if torn else "all whole"
        print(f"{kind}, {which.name} after {moment:.1f} s: {told}; again: {again}", flush=True)
    return bad


def _difference(left: dict[str, str], known: dict[str, str]) -> str:
    """Say which files differ from those of an undisturbed run."""
    names = sorted(name for name in left.keys() | known.keys() if left.get(name) != known.get(name))
    return f"DIFFERS: {', '.join(names)}" if names else SAME


def writers(kind: str, folder: Path, known: dict[str, str]) -> int:
    """Let two equal runs write the same files at once. Return 1 unless what is left is what one of them would leave."""
    run = Run(kind, folder, "twice")
    pair = [run.start() for _ in range(2)]
    for each in pair:
        each.communicate()
    same = run.files() == known or ANSWER in known  # two that print into one file leave anything
    codes = [each.returncode for each in pair]
    print(f"{kind}, two writers: exits {codes}; {SAME if same else 'DIFFERS'}", flush=True)
    return int(not same or any(code not in (0, 2) for code in codes))


def refused(kind: str, folder: Path, known: dict[str, str]) -> int:
    """Run where nothing can be written. Return how many leave something torn or say no reason."""
    bad = 0
    for name, prepared in {"full disk": _fill_disk, "closed output": _close_output}.items():
        run = Run(kind, folder, name.replace(" ", "-"))
        with (run.output / ANSWER).open("wb") as answer:
            done = subprocess.run(
                run.line, stdout=answer, stderr=subprocess.PIPE, text=True, env=run.environment, check=False,
                preexec_fn=prepared,
            )  # fmt: skip
        torn, told = run.torn(known), (done.stderr.strip().splitlines() or [""])[-1]
        fair = not torn and "Traceback" not in done.stderr and "bug" not in told and done.returncode in (0, 2)
        bad += not fair
        print(f"{kind}, {name}: exit {done.returncode}, {told or 'silent'}; torn: {torn or 'nothing'}", flush=True)
    return bad


def _fill_disk() -> None:
    """Let files have few bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK, SMALL_DISK))


def _close_output() -> None:
    """Close standard output."""
    os.close(1)


def main() -> int:
    """End every kind of run; print what each left; return 1 where anything differs."""
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for kind in sys.argv[1:] or RUNS:
            whole, begin = Run(kind, folder, "whole"), time.perf_counter()
            code, told = whole.end()
            if code:
                print(f"{kind}: exit {code}: {told}")
                return 1
            known, seconds = whole.files(), time.perf_counter() - begin
            bad += kills(kind, folder, known, seconds) + writers(kind, folder, known) + refused(kind, folder, known)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
