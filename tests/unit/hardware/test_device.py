"""A device at another clock, and what its power is known of."""

from __future__ import annotations

import pytest
from builders import DEVICE, with_level

from costmodel.hardware import Power


@pytest.mark.parametrize("ratio", [0.5, 1.25])
def test_all_clocks_and_caches_move_together_and_device_memory_stays(ratio: float) -> None:
    device = with_level(DEVICE, "l2", 8e12)
    other = device.clocked(ratio)
    assert (other.clock, other.clock_max) == (ratio * device.clock, ratio * device.clock_max)
    assert all(other.peak(name) == pytest.approx(ratio * device.peak(name)) for name in device.math)
    cache = other.level("l2")
    assert cache is not None
    assert cache.bandwidth == ratio * 8e12
    assert other.device_memory == device.device_memory


def test_a_board_s_work_is_known_where_idle_power_and_a_byte_s_energy_are() -> None:
    assert Power(300.0, idle=60.0, memory=4e-11).states_work
    assert not Power(300.0, idle=60.0, memory=0.0).states_work
    assert not Power(300.0, memory=4e-11).states_work
