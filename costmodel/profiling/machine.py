"""The device that torch runs on: its stopwatch, what it is, and in what state it is."""

from __future__ import annotations

import gc
import itertools
import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from costmodel.errors import InputError
from costmodel.profiling.device_file import Facts
from costmodel.profiling.timing import Call

_CPU_INFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_QUERY = ("clocks.sm", "power.draw", "driver_version", "clocks.max.sm", "power.limit")
_QUEUED_CALL = 2e5  # cycles of the device that the host is given to put one call into the queue
_TRIAL, _TRIALS = 512, 31  # rows of a product, and how many of them tell how many threads are the fastest
_NOMINAL_CLOCK = 1e9  # where none can be read: cycles then count nanoseconds


@dataclass(frozen=True, slots=True)
class HostWatch:
    """Times calls on a CPU by the host's clock.

    alone: the calling thread does the work, so that calls that the system has interrupted need not count; of work that
    others do, or wait for, the whole time counts.
    """

    alone: bool = True

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Return how long each call took that no other process displaced [s].

        Where none was spared: the processor time of each, which one thread does not share; of several threads, some of
        which may have had nothing to do, the whole times.
        """
        every: list[tuple[float, float]] = []
        spared: list[float] = []
        gc.disable()
        try:
            for call in calls:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
                worked, begin = time.thread_time(), time.perf_counter()
                call()
                every.append((time.perf_counter() - begin, time.thread_time() - worked))
                if self.alone and resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before:
                    spared.append(every[-1][0])
        finally:
            gc.enable()
        single = self.alone and torch.get_num_threads() == 1
        return spared or [own if single else whole for whole, own in every]


class EventWatch:
    """Times calls on a GPU between events of its stream.

    A delay that the device runs first lets the host queue all calls, so that no kernel waits for its launch.
    """

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Return how long each call took on the device [s]."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
        gc.disable()
        try:
            torch.cuda.synchronize()
            torch.cuda._sleep(int(_QUEUED_CALL * (len(calls) + 1)))
            marks[0].record()
            for call, mark in zip(calls, marks[1:], strict=True):
                call()
                mark.record()
            torch.cuda.synchronize()
        finally:
            gc.enable()
        return [begin.elapsed_time(end) * 1e-3 for begin, end in itertools.pairwise(marks)]


@dataclass(frozen=True, slots=True)
class Machine:
    """A device with the formats that it multiplies. timing: how the measurement schema calls the method."""

    kind: str
    facts: Facts
    watch: HostWatch | EventWatch
    timing: str
    formats: tuple[str, ...]

    @property
    def framework(self) -> str:
        """Return torch and its version, without the name of the build."""
        return f"torch {torch.__version__.partition('+')[0]}"

    def state(self) -> dict[str, str]:
        """Return clock, power and driver right now, as cells of a row; blank where the system does not say."""
        if self.kind == "cpu":
            return {"clock_mhz": f"{_cpu_clock() / 1e6:.0f}", "power_w": "", "driver": self.facts.driver}
        clock, power, driver, *_ = _smi()
        return {
            "clock_mhz": clock if _is_number(clock) else "", "power_w": power if _is_number(power) else "",
            "driver": driver,
        }  # fmt: skip

    def check(self, kernel: str) -> None:
        """Raise InputError where a kernel has left the device unable to run another one."""
        if self.kind == "cpu":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            hint = "the rows so far are kept; leave its suite out with --suite"
            raise InputError.single(f"{kernel} has stopped the device: {said}", hint=hint, field="profile") from None

    def describe(self) -> dict[str, Any]:
        """Return what ran the measurements, for the file beside the table."""
        return {
            "product": self.facts.product, "processors": self.facts.processors, "framework": self.framework,
            "build": torch.__version__, "cuda": torch.version.cuda, "driver": self.facts.driver,
            "threads": torch.get_num_threads() if self.kind == "cpu" else None, "timing": self.timing,
        }  # fmt: skip


def kind_of(asked: str) -> str:
    """Return `cuda` or `cpu`; raise InputError where `cuda` is asked for and there is none."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError.single("torch finds no CUDA device", field="--device", hint="write `--device cpu`")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def machine(asked: str, threads: int | None = None) -> Machine:
    """Return the device that `auto`, `cuda` or `cpu` means; raise InputError where it is not there.

    threads: of a CPU; None: as many as make a product the fastest.
    """
    return _gpu() if kind_of(asked) == "cuda" else _cpu(threads)


def _gpu() -> Machine:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    clock, _, driver, highest, limit = _smi()
    highest_clock = max(_hertz(clock), _hertz(highest))  # a device with nothing to do states a low one
    facts = Facts(
        product=properties.name, architecture=f"sm{properties.major}{properties.minor}",
        processors=properties.multi_processor_count,
        clock=highest_clock, clock_max=highest_clock, memory=properties.total_memory,
        cache=getattr(properties, "L2_cache_size", 0),
        driver=driver, link="pcie", power=float(limit) if _is_number(limit) else None,
    )  # fmt: skip
    narrow = ("fp8_e4m3", "fp8_e4m3_blk128") if (properties.major, properties.minor) >= (8, 9) else ()
    formats = ("bf16", "fp16", "fp32", *narrow) if properties.major >= 8 else ("fp16", "fp32")
    return Machine("cuda", facts, EventWatch(), "cuda_event_l2flush", formats)


def _smi() -> list[str]:
    """Return what nvidia-smi says of the current device, blank where it does not run."""
    asked = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    index = torch.cuda.current_device()
    try:
        done = subprocess.run(
            [*asked, f"--id={_physical(index)}"], capture_output=True, text=True, timeout=10, check=True
        )  # fmt: skip
        cells = [cell.strip() for cell in done.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError):
        return [""] * len(_QUERY)
    return cells if len(cells) == len(_QUERY) else [""] * len(_QUERY)


def _physical(index: int) -> str:
    """Return the number or UUID by which the driver knows a device that CUDA_VISIBLE_DEVICES may have renumbered."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[index] if index < len(visible) else str(index)


def _cpu(threads: int | None) -> Machine:
    torch.set_num_threads(_fastest_threads() if threads is None else threads)
    clock = _cpu_clock()
    facts = Facts(
        product=_cpu_field("model name") or platform.processor() or platform.machine(), architecture="cpu",
        processors=torch.get_num_threads(), clock=clock,
        clock_max=max(clock, _highest_clock()), memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cache=_last_cache(),
        driver=platform.release(), link="memory",
    )  # fmt: skip
    return Machine("cpu", facts, HostWatch(), "host_clock_cold", ("fp32", "bf16"))


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


def _cpu_field(name: str) -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _cpu_clock() -> float:
    text = _cpu_field("cpu MHz")
    return float(text) * 1e6 if _is_number(text) else _NOMINAL_CLOCK


def _highest_clock() -> float:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return float(file.read_text()) * 1e3 if file.is_file() else 0.0


def _last_cache() -> int:
    """Return the capacity of the last cache before memory [B]; zero where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [file.read_text().strip() for file in sorted(_CACHES.glob("index*/size"))]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def _hertz(megahertz: str) -> float:
    return float(megahertz) * 1e6 if _is_number(megahertz) and float(megahertz) > 0 else _NOMINAL_CLOCK


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
