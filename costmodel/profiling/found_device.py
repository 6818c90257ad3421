"""The device that torch finds, without anything run on it: kind, product, memory, clock, driver."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from costmodel.errors import InputError, Notice
from costmodel.profiling.device_file import Facts, file_of
from costmodel.records import ValueRecord

_CPU_INFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_QUERY = ("clocks.sm", "power.draw", "driver_version", "clocks.max.sm", "power.limit")
_NOMINAL_CLOCK = 1e9  # of a CPU where none can be read: cycles then count nanoseconds
_CDNA = {"gfx90a": "cdna2", "gfx942": "cdna3", "gfx950": "cdna4"}  # LLVM's targets of AMD's, as device files call them
_AMD_POWER = ("current_socket_power", "average_socket_power")  # boards state one of them
_HIGHEST_LIMIT = 1e5  # W: a power limit of more is one in microwatts, as newer libraries of AMD's state it


def kind_of(asked: str) -> str:
    """Return `cuda` or `cpu`. Raises InputError where `cuda` is asked for and there is none."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError.single("torch finds no CUDA device", field="--device", hint="write `--device cpu`")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def capability_of_gpu() -> tuple[int, int]:
    """Return the compute capability of the current device: (9, 0) of an H100."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return properties.major, properties.minor


def architecture_of_gpu() -> str:
    """Return the architecture of the current device as device files call it, AMD's newer ones by their target."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    if torch.version.hip is None:
        return f"sm{properties.major}{properties.minor}"
    target = str(properties.gcnArchName).partition(":")[0]
    return _CDNA.get(target, target)


def gpu_facts() -> Facts:
    """Return what torch and nvidia-smi, or AMD's management library, say of the current device.

    The clock is the highest that any of them states, since a device with nothing to do has a low one. Torch's is in
    kHz, theirs are in MHz. Null where nobody states one.
    """
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    clock, _, driver, highest, limit = smi()
    stated = (_number(clock) * 1e6, _number(highest) * 1e6, getattr(properties, "clock_rate", 0) * 1e3)
    highest_clock = max(stated) or None
    return Facts(
        product=properties.name, architecture=architecture_of_gpu(),
        processors=properties.multi_processor_count,
        clock=highest_clock, clock_max=highest_clock, memory=properties.total_memory,
        cache=getattr(properties, "L2_cache_size", 0),
        driver=driver, link="pcie", power=_number(limit) or None,
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
    """Return clock [MHz], power [W], driver, highest clock [MHz] and power limit [W] of the current device.

    As nvidia-smi states them, or AMD's management library. Blank where it does not run.
    """
    if torch.version.hip is not None:
        return _amd_smi()
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


def _amd_smi() -> list[str]:
    """Return the same of a device of AMD's. Blank where its library and driver do not match, which is said."""
    try:
        library = importlib.import_module("amdsmi")
    except (ImportError, OSError, KeyError) as error:  # it loads the driver's, from a folder of the environment
        return _not_stated(error)
    try:
        handle = torch.cuda._get_amdsmi_handler(torch.cuda.current_device())
        clock = library.amdsmi_get_clock_info(handle, library.AmdSmiClkType.GFX)
        power = library.amdsmi_get_power_info(handle)
        limit = _number(str(library.amdsmi_get_power_cap_info(handle)["power_cap"]))
        driver = str(library.amdsmi_get_gpu_driver_info(handle)["driver_version"])
    except (
        getattr(library, "AmdSmiException", OSError), AttributeError, LookupError, TypeError, ValueError, RuntimeError,
    ) as error:  # fmt: skip
        return _not_stated(error)
    drawn = next((power[name] for name in _AMD_POWER if _is_number(str(power.get(name, "")))), "")
    watts = limit if limit < _HIGHEST_LIMIT else limit * 1e-6
    now = clock.get("clk", clock.get("cur_clk", ""))
    return [str(now), str(drawn), driver, str(clock["max_clk"]), f"{watts:g}"]


def _not_stated(error: Exception) -> list[str]:
    """Return blanks, and say why no clock, power and driver are stated."""
    text = f"amdsmi does not state clock, power and driver: {type(error).__name__}: {error}"
    warnings.warn(Notice(text), stacklevel=3)
    return [""] * len(_QUERY)


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


def _number(text: str) -> float:
    return float(text) if _is_number(text) else 0.0


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


# ---- The device that a profile would time: as `profile --device auto` chooses it, with nothing run on it -------------


class Accelerator(ValueRecord):
    """A device. kind: cuda or cpu; memory [B]; device_file: the file that describes it, or null.

    torch: its version.
    cuda: the version that torch is built for, null of a build without.
    driver: of a CPU the kernel of the system.
    """

    kind: str
    name: str
    memory: int
    driver: str
    device_file: str | None
    torch: str
    cuda: str | None


def accelerator(names: Callable[[], Callable[[str], str | None]]) -> Accelerator:
    """Return the device that torch finds, the CPU where there is no other.

    names: makes what gives the device file that a product's name or alias means. Called for a GPU alone.
    """
    kind = kind_of("auto")
    facts = gpu_facts() if kind == "cuda" else cpu_facts()
    return Accelerator(
        kind, facts.product, facts.memory, facts.driver, file_of(kind, facts, lambda product: names()(product)),
        str(torch.__version__), torch.version.cuda,
    )  # fmt: skip
