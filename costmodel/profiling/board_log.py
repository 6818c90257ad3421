"""Readings of a board's clock and power beside the stopwatch. What reads them needs no torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
