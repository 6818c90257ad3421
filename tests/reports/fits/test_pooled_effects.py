"""What kernels of a family share over devices."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.records import replace
from reports.fits.prior import GroupRows, group_effect, pooled_effect

RNG = np.random.default_rng(0)


def group(device: str, theta: np.ndarray, count: int = 60) -> GroupRows:
    """Return rows that follow the parameters, within two per cent."""
    chip, hbm = (10.0 ** RNG.uniform(-6, -3, (1, count)) for _ in range(2))
    blank = GroupRows(device, "test", device, chip, hbm, np.zeros(count), np.ones(count))
    seconds = blank.predict(theta) * np.exp(RNG.normal(0.0, 0.02, count))
    return GroupRows(device, "test", device, chip, hbm, np.zeros(count), seconds)


def test_a_group_s_own_rows_give_its_parameters():
    theta = np.log([5e-6, 0.7, 0.8])
    assert group_effect(group("a", theta)).theta == pytest.approx(theta, abs=0.05)


def test_a_device_of_a_quarter_of_its_die_s_rate_loses_as_many_cycles():
    theta = np.log([5e-6, 0.5, 0.8])
    rows = group("a", theta)
    quarter = replace(rows, chip=4.0 * rows.chip, hbm=np.zeros_like(rows.hbm), rate=0.25)
    full = replace(rows, hbm=np.zeros_like(rows.hbm))
    lost = rows.chip[0]  # at half of the peak as long again as the products themselves
    assert full.predict(theta) == pytest.approx(5e-6 + rows.chip[0] + lost)
    assert quarter.predict(theta) == pytest.approx(5e-6 + 4.0 * rows.chip[0] + lost)


def test_what_groups_share_is_their_mean_however_many_rows_each_has():
    low, high = np.log([4e-6, 0.6, 0.7]), np.log([8e-6, 0.9, 0.9])
    shared = pooled_effect([group_effect(group("a", low, 200)), group_effect(group("b", high, 60))])
    assert shared == pytest.approx((low + high) / 2.0, abs=0.08)


def test_rows_of_other_kernels_are_not_counted_as_the_family_s():
    theta = np.log([5e-6, 0.7, 0.8])
    rows = group("a", theta)
    other = GroupRows("a", "test", "a", rows.chip, rows.hbm, np.full(60, 1e-4), rows.seconds + 1e-4)
    assert other.predict(theta) - rows.predict(theta) == pytest.approx(np.full(60, 1e-4))
