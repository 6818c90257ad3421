"""A process of its own that reads a board's clock and power: `python -m costmodel.profiling.board_sampler BOARD FILE`.

It shares no interpreter lock with the stopwatch, and ends when its parent does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS = 0.01  # between two readings
COLUMNS = ("seconds", "clock_mhz", "power_w", "temperature_c", "throttle")


def main(board: str, path: str) -> int:
    """Append a line to a file every 10 ms. Return 3 where NVIDIA's management library is not there."""
    try:
        import pynvml
    except ImportError:
        return 3
    pynvml.nvmlInit()
    handle = (
        pynvml.nvmlDeviceGetHandleByIndex(int(board)) if board.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(board)
    )
    watts, reasons = _power(pynvml, handle), _reasons(pynvml, handle)
    parent = os.getppid()
    with open(path, "w", encoding="utf-8") as file:
        while os.getppid() == parent:
            clock = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
            heat = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            file.write(f"{time.monotonic():.4f},{clock},{watts():.1f},{heat},{reasons():#x}\n")
            file.flush()
            time.sleep(SECONDS)
    return 0


def _power(nvml: Any, handle: Any) -> Callable[[], float]:
    """Return what reads the power of this moment [W]. On boards without that field the driver's average of a second."""
    field = getattr(nvml, "NVML_FI_DEV_POWER_INSTANT", None)
    if field is not None:
        value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
        if value.nvmlReturn == nvml.NVML_SUCCESS:
            return lambda: float(nvml.nvmlDeviceGetFieldValues(handle, [field])[0].value.uiVal) / 1e3
    return lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3


def _reasons(nvml: Any, handle: Any) -> Callable[[], int]:
    """Return what reads the bits that say why the clock is below its highest. Newer libraries call them events."""
    name = "nvmlDeviceGetCurrentClocksEventReasons"
    read = getattr(nvml, name, None) or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    return lambda: int(read(handle))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
