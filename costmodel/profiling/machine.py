"""The device that torch runs on: what it is, what it can run, and in what state it is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from costmodel.errors import InputError
from costmodel.profiling.device_file import Facts
from costmodel.profiling.found_device import capability_of_gpu, cpu_clock, cpu_facts, gpu_facts, kind_of, physical, smi
from costmodel.profiling.kernels import Kernel
from costmodel.profiling.libraries import build, versions
from costmodel.profiling.operands import Operands, fp8_type
from costmodel.profiling.shapes import FP4, TORCH, Shape
from costmodel.profiling.watches import EventWatch, HostWatch
from costmodel.records import MutableRecord, field

SAMPLER = "costmodel.profiling.board_sampler"
_FRESH = 1.0  # seconds between two calls of nvidia-smi, which takes as long as a row
_FIRST = 5.0  # seconds that the sampler has to write its first line
# Bits of NVML's clocksEventReasons that lower a clock.
_REASONS = {
    0x4: "power_cap", 0x8: "hardware_slowdown", 0x20: "software_thermal", 0x40: "hardware_thermal",
    0x80: "power_brake",
}  # fmt: skip
_CELLS = ("clock_mhz", "power_w", "temperature_c", "throttle")


class BoardLog(MutableRecord):
    """Readings of one board.

    path: the file that a sampler appends lines of `board_sampler.COLUMNS` to.
    once: reads clock [MHz] and power [W] of this moment, where no sampler runs.
    source: what gives the readings.
    """

    path: Path | None
    once: Callable[[], tuple[str, str]]
    source: str = "nvidia-smi"
    _process: subprocess.Popen[bytes] | None = None
    _lines: list[tuple[float, ...]] = field(default_factory=list)
    _read: int = 0
    _last: dict[str, str] = field(default_factory=dict)
    _at: float = float("-inf")

    def between(self, begin: float, end: float) -> dict[str, str]:
        """Return the means of the readings between two times, and every reason to throttle, as cells of a row.

        Without a reading in that time the nearest one stands for it. Without a sampler what the driver says now.
        """
        if self.path is None:
            if time.monotonic() - self._at > _FRESH:
                clock, power = self.once()
                self._last, self._at = {"clock_mhz": clock, "power_w": power}, time.monotonic()
            return self._last
        self._take_up()
        if not self._lines:
            return {}
        lines = np.array(self._lines)
        inside = lines[(lines[:, 0] >= begin) & (lines[:, 0] <= end)]
        if not len(inside):
            inside = lines[[int(np.argmin(np.abs(lines[:, 0] - (begin + end) / 2.0)))]]
        self._lines = [line for line in self._lines if line[0] > end] or self._lines[-1:]
        bits = int(np.bitwise_or.reduce(inside[:, 4].astype(np.int64)))
        clock, power, heat = inside[:, 1:4].mean(axis=0)
        reasons = " ".join(name for bit, name in _REASONS.items() if bits & bit)
        return dict(zip(_CELLS, (f"{clock:.0f}", f"{power:.1f}", f"{heat:.0f}", reasons), strict=True))

    def close(self) -> None:
        """End the sampler."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self.path is not None and self._process is not None:
            self.path.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Read the whole lines that were written since the last time."""
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            at, clock, power, heat, reasons = line.split(",")
            self._lines.append((float(at), float(clock), float(power), float(heat), float(int(reasons, 16))))


def start(board: str, once: Callable[[], tuple[str, str]]) -> BoardLog:
    """Return the readings of a board: every 10 ms where NVIDIA's management library can be imported, else now and then.

    board: index or UUID.
    once: what else reads clock and power.
    """
    path = Path(tempfile.mkdtemp(prefix="costmodel-")) / "board.csv"
    process = subprocess.Popen([sys.executable, "-m", SAMPLER, board, str(path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + _FIRST
    while time.monotonic() < deadline and process.poll() is None:
        if path.is_file() and path.stat().st_size:
            return BoardLog(path, once, "nvml", process)
        time.sleep(0.02)
    process.kill()
    process.wait()
    return BoardLog(None, once)


_TRIAL, _TRIALS = 512, 31  # rows of a product, and how many of them tell how many threads are the fastest


class Machine(MutableRecord):
    """A device with the formats that it multiplies.

    timing: how the measurement schema calls the method.
    operands: what kernels read.
    versions: of the libraries that can be imported, torch among them.
    cudnn: its version, blank without.
    hopper: kernels of that architecture run.
    board: readings of clock and power, None where nothing gives any.
    """

    kind: str
    facts: Facts
    watch: HostWatch | EventWatch
    timing: str
    formats: tuple[str, ...]
    operands: Operands
    versions: Mapping[str, str]
    cudnn: str = ""
    hopper: bool = False
    board: BoardLog | None = None

    @property
    def framework(self) -> str:
        """Return torch and its version, without the name of the build."""
        return f"torch {self.versions[TORCH]}"

    def now(self) -> float:
        """Return the time of the clock that budgets and readings of the board share [s]."""
        return time.monotonic()

    def build(self, shape: Shape) -> Kernel:
        """Return the kernel of a shape, with room for its operands. Raise what its library does where it cannot run."""
        self.operands.prepare(shape.traffic)
        return build(shape, self.operands)

    def state(self, begin: float, end: float) -> dict[str, str]:
        """Return clock, power, temperature and throttling between two times, as cells of a row. Blank where unknown."""
        if self.kind == "cpu":
            return {"clock_mhz": f"{cpu_clock() / 1e6:.0f}", "driver": self.facts.driver}
        readings = {} if self.board is None else self.board.between(begin, end)
        return readings | {"driver": self.facts.driver}

    def check(self, kernel: str) -> None:
        """Raise InputError where a kernel has left the device unable to run another one."""
        self.operands.release()
        if self.kind == "cpu":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            hint = "run the same command again: it leaves this kernel out and goes on with the next"
            raise InputError.single(f"{kernel} has stopped the device: {said}", hint=hint, field="profile") from None

    def describe(self) -> dict[str, Any]:
        """Return what ran the measurements, for the file next to the table."""
        return {
            "product": self.facts.product, "processors": self.facts.processors, "framework": self.framework,
            "build": torch.__version__, "cuda": torch.version.cuda, "rocm": torch.version.hip, "cudnn": self.cudnn,
            "versions": dict(self.versions),
            "driver": self.facts.driver, "threads": torch.get_num_threads() if self.kind == "cpu" else None,
            "timing": self.timing, "board": "" if self.board is None else self.board.source,
        }  # fmt: skip

    def close(self) -> None:
        """End the readings."""
        if self.board is not None:
            self.board.close()


def machine(asked: str, threads: int | None = None) -> Machine:
    """Return the device that `auto`, `cuda` or `cpu` means. Raises InputError where it is not there.

    threads: of a CPU. None: as many as make a product the fastest.
    """
    return _gpu() if kind_of(asked) == "cuda" else _cpu(threads)


def _gpu() -> Machine:
    facts, nvidia = gpu_facts(), torch.version.hip is None
    capability = capability_of_gpu() if nvidia else (0, 0)
    formats = _formats(capability) if nvidia else _formats_of_amd(facts.architecture)
    board = start(physical(torch.cuda.current_device()), lambda: (smi()[0], smi()[1]))
    return Machine(
        kind="cuda", facts=facts, watch=EventWatch(facts.cache), timing="cuda_event_l2flush", formats=formats,
        operands=Operands("cuda", facts.cache, fp8=fp8_type(facts.architecture)), versions=versions(gpu=True),
        cudnn=_cudnn() if nvidia else "", hopper=capability == (9, 0), board=board,
    )  # fmt: skip


def _formats(capability: tuple[int, int]) -> tuple[str, ...]:
    narrow: tuple[str, ...] = ("fp8_e4m3", "fp8_e4m3_blk128") if capability >= (8, 9) else ()
    if capability >= (10, 0) and hasattr(torch, "float4_e2m1fn_x2"):
        narrow = (*narrow, FP4)
    return ("bf16", *narrow, "fp16", "fp32") if capability >= (8, 0) else ("fp16", "fp32")


def _formats_of_amd(architecture: str) -> tuple[str, ...]:
    has_fp8 = architecture in ("cdna3", "cdna4") or architecture.startswith("gfx12")
    return ("bf16", *(("fp8_e4m3",) if has_fp8 else ()), "fp16", "fp32")


def _cudnn() -> str:
    number = torch.backends.cudnn.version()
    if number is None:
        return ""
    major, rest = divmod(number, 10000) if number >= 90000 else divmod(number, 1000)
    minor, patch = divmod(rest, 100)
    return f"{major}.{minor}.{patch}"


def _cpu(threads: int | None) -> Machine:
    torch.set_num_threads(_fastest_threads() if threads is None else threads)
    facts = cpu_facts()
    return Machine(
        kind="cpu", facts=facts, watch=HostWatch(), timing="host_clock_cold", formats=("fp32", "bf16"),
        operands=Operands("cpu", facts.cache), versions=versions(gpu=False),
    )  # fmt: skip


def _fastest_threads() -> int:
    """Return how many threads multiply the fastest: fewer than there are cores where others use the machine, too."""
    left, right = torch.rand(_TRIAL, _TRIAL), torch.rand(_TRIAL, _TRIAL)
    count, times = torch.get_num_threads(), {}
    while count >= 1:
        torch.set_num_threads(count)
        torch.mm(left, right)
        begin = time.perf_counter()
        for _ in range(_TRIALS):
            torch.mm(left, right)
        times[count] = time.perf_counter() - begin
        count //= 2
    fastest: int = min(times, key=lambda each: times[each])
    return fastest
