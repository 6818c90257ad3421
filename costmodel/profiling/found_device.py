"""The device that torch finds, without anything run on it: kind, product, memory, clock, driver."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from costmodel.errors import InputError
from costmodel.profiling.device_file import Facts

_CPU_INFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_QUERY = ("clocks.sm", "power.draw", "driver_version", "clocks.max.sm", "power.limit")
_NOMINAL_CLOCK = 1e9  # where none can be read: cycles then count nanoseconds


def kind_of(asked: str) -> str:
    """Return `cuda` or `cpu`. Raises InputError where `cuda` is asked for and there is none."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError.single("torch finds no CUDA device", field="--device", hint="write `--device cpu`")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def capability_of_gpu() -> tuple[int, int]:
    """Return the compute capability of the current device: (9, 0) of an H100."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return properties.major, properties.minor


def gpu_facts() -> Facts:
    """Return what torch and nvidia-smi say of the current device."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    clock, _, driver, highest, limit = smi()
    highest_clock = max(_hertz(clock), _hertz(highest))  # a device with nothing to do states a low one
    return Facts(
        product=properties.name, architecture=f"sm{properties.major}{properties.minor}",
        processors=properties.multi_processor_count,
        clock=highest_clock, clock_max=highest_clock, memory=properties.total_memory,
        cache=getattr(properties, "L2_cache_size", 0),
        driver=driver, link="pcie", power=float(limit) if _is_number(limit) else None,
    )  # fmt: skip


def cpu_facts() -> Facts:
    """Return what the system says of the processor, with as many threads as torch uses."""
    clock = cpu_clock()
    return Facts(
        product=_cpu_field("model name") or platform.processor() or platform.machine(), architecture="cpu",
        processors=torch.get_num_threads(), clock=clock,
        clock_max=max(clock, _highest_clock()), memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cache=_last_cache(),
        driver=platform.release(), link="memory",
    )  # fmt: skip


def smi() -> list[str]:
    """Return what nvidia-smi says of the current device, blank where it does not run."""
    asked = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    index = torch.cuda.current_device()
    try:
        done = subprocess.run(
            [*asked, f"--id={physical(index)}"], capture_output=True, text=True, timeout=10, check=True
        )  # fmt: skip
        cells = [cell.strip() for cell in done.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError):
        return [""] * len(_QUERY)
    return cells if len(cells) == len(_QUERY) else [""] * len(_QUERY)


def physical(index: int) -> str:
    """Return the number or UUID by which the driver knows a device that CUDA_VISIBLE_DEVICES may have renumbered."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[index] if index < len(visible) else str(index)


def _cpu_field(name: str) -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def cpu_clock() -> float:
    """Return the clock of the first core now [Hz]."""
    text = _cpu_field("cpu MHz")
    return float(text) * 1e6 if _is_number(text) else _NOMINAL_CLOCK


def _highest_clock() -> float:
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return float(file.read_text()) * 1e3 if file.is_file() else 0.0


def _last_cache() -> int:
    """Return the capacity of the last cache before memory [B], zero where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [file.read_text().strip() for file in sorted(_CACHES.glob("index*/size"))]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)


def _hertz(megahertz: str) -> float:
    return float(megahertz) * 1e6 if _is_number(megahertz) and float(megahertz) > 0 else _NOMINAL_CLOCK


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
