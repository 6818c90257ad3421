"""Faults as slowdown windows, for tests of the event engine."""

from __future__ import annotations

import numpy as np

from costmodel.event.graph import KERNEL, MESSAGE, SlowdownWindow


def straggler(device: int, factor: float) -> SlowdownWindow:
    """Return a device whose kernels always run `factor` times as fast."""
    return SlowdownWindow(device, 0.0, np.inf, factor, KERNEL)


def link_flap(device: int, begin: float, seconds: float) -> SlowdownWindow:
    """Return a device whose link is down for some seconds."""
    return SlowdownWindow(device, begin, begin + seconds, 0.0, MESSAGE)


def plane_failure(begin: float, planes: int, failed: int = 1) -> SlowdownWindow:
    """Return a fabric that loses some of its planes and keeps the bandwidth of the others."""
    return SlowdownWindow(None, begin, np.inf, (planes - failed) / planes, MESSAGE)


def device_failure(device: int, begin: float) -> SlowdownWindow:
    """Return a device that stops for good."""
    return SlowdownWindow(device, begin, np.inf, 0.0)
