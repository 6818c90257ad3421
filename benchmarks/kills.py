"""Kills sweeps, simulations of requests, reports, predictions and fits at random moments: what is left is whole, or
not there. Then two of each write the same files at once.

`python -m benchmarks.kills [KIND…]`: 25 kills; after each the same command ends with an undisturbed run's files.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

KILLS = 5  # of each kind of run
NIC = "hardware.node.nic.bandwidth=10GB/s..200GB/s:2000"
RUNS = {
    "sweep": ["sweep", "deepseek_v3", "--scenario", "decode", "--vary", "scenarios.decode.batch_per_device=1..32:32",
              "--vary", NIC, "--output", "{out}/sweep"],
    "requests": ["simulate", "llama3_8b_rtx4090", "--engine", "event", "--scenario", "serving", "--set",
                 "scenarios.serving.requests={arrivals: closed_loop, count: 2000}", "--trace", "{out}/requests.csv"],
    "report": ["report", "{in}/result.json", "--output", "{out}/report"],
    "predictions": ["predict", "{in}/table.csv", "--output", "{out}/predicted.csv"],
    "fits": ["calibrate", "{in}/measured.csv", "--device", "h100-sxm", "--output", "{out}/fits.yaml"],
}  # fmt: skip


def command(kind: str, given: Path, output: Path) -> list[str]:
    """Return a kind of run as a command."""
    words = [word.replace("{out}", str(output)).replace("{in}", str(given)) for word in RUNS[kind]]
    return [sys.executable, "-m", "costmodel", *words]


def files(output: Path) -> dict[str, str]:
    """Return the digest of every file of a run, but those that a kill leaves aside under a name of its own."""
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*")) if path.is_file() and not path.name.endswith(".part")
    }  # fmt: skip


def prepare(folder: Path) -> None:
    """Write what reports and predictions read."""
    rows = [f"H100_SXM,gemm,{m},{n},4096,bf16,bf16," for m in range(1, 200) for n in (1024, 4096, 8192)]
    (folder / "table.csv").write_text("\n".join(["device,op,m,n,k,dtype_in,dtype_out,time_us", *rows]) + "\n")
    header = "device,op,m,n,k,dtype_in,dtype_out,time_us"
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


def writers(kind: str, folder: Path, known: dict[str, str]) -> bool:
    """Let two equal runs write the same files at once; tell whether both end and leave what one of them would."""
    output = folder / f"{kind}-twice"
    output.mkdir()
    line = command(kind, folder, output)
    pair = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [run.communicate()[1].strip().splitlines() for run in pair]
    same = files(output) == known
    ends = ", ".join(
        f"exit {run.returncode}{': ' + lines[-1] if run.returncode and lines else ''}"
        for run, lines in zip(pair, told, strict=True)
    )
    print(f"{kind}, two writers: {ends}; {'same bytes' if same else 'DIFFERS'}")
    return same and all(run.returncode in (0, 2) for run in pair)


def main() -> int:
    """Kill every kind of run; print what each kill left; return 1 where anything differs."""
    chance, bad = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for kind in sys.argv[1:] or RUNS:
            undisturbed = folder / f"{kind}-whole"
            undisturbed.mkdir()
            begin = time.perf_counter()
            done = subprocess.run(command(kind, folder, undisturbed), capture_output=True, text=True, check=False)
            seconds, known = time.perf_counter() - begin, files(undisturbed)
            if done.returncode:
                print(f"{kind}: exit {done.returncode}: {done.stderr.strip()}")
                return 1
            for number in range(KILLS):
                output, moment = folder / f"{kind}-{number}", chance.uniform(0.2, 1.0) * seconds
                output.mkdir()
                line = command(kind, folder, output)
                run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                with suppress(subprocess.TimeoutExpired):
                    run.wait(moment)
                run.send_signal(signal.SIGKILL)
                run.wait()
                left = files(output)
                torn = [path for path in left if known.get(path) != left[path] and not path.endswith("study.json")]
                subprocess.run(command(kind, folder, output), check=True, capture_output=True)
                same = files(output) == known
                bad += bool(torn) or not same
                told = f"torn: {', '.join(torn)}" if torn else "all whole"
                again = "same bytes" if same else "DIFFERS"
                print(f"{kind} killed after {moment:.1f} s: {len(left)} of {len(known)} files, {told}; again: {again}")
            bad += not writers(kind, folder, known)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
