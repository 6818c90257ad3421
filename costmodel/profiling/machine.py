"""The device that torch runs on: what it is, what it can run, and in what state it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from costmodel.errors import InputError
from costmodel.profiling.board_log import BoardLog, start
from costmodel.profiling.device_file import Facts
from costmodel.profiling.found_device import capability_of_gpu, cpu_clock, cpu_facts, gpu_facts, kind_of, physical, smi
from costmodel.profiling.kernels import Kernel
from costmodel.profiling.libraries import build, versions
from costmodel.profiling.operands import Operands, fp8_type
from costmodel.profiling.shapes import FP4, TORCH, Shape
from costmodel.profiling.watches import EventWatch, HostWatch
from costmodel.records import MutableRecord

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
