"""What a few measured rows say of the others of their family, on rows made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.cost.anchored_fit import SharedErrors
from reports.fits.backcasts import LEAST, ROWS, Found, table_of

HALF = 0.2


def rows(logs: np.ndarray) -> Found:
    """Return rows of one kind of time, all of them with the same interval."""
    end = np.full(len(logs), HALF)
    return Found("gemm/bf16", "chip", logs, -end, end, np.tile([0.0, 1.0, 0.0], (len(logs), 1)), end)


@pytest.mark.parametrize("number", ROWS)
def test_known_rows_take_off_what_all_share_and_narrow_what_is_left(number: int) -> None:
    """n rows of a common variance 9/10: the shared part is known to n * 0.9 / (n * 0.9 + 0.1), by rows that agree."""
    found = rows(np.full(LEAST, 0.1)).knowing(number, SharedErrors(0.9, 0.0, 0.0, 0.0, 0.1))
    assert len(found.logs) == LEAST - ROWS[-1]
    assert len(set(found.logs)) == 1
    left, share = 0.1 - found.logs[0], number * 0.9 / (number * 0.9 + 0.1)
    assert left == pytest.approx(0.1 * share, rel=0.1)  # the variance of rows that agree is taken for less
    assert found.high[0] == pytest.approx(HALF * np.sqrt(1 - 0.9 * share), rel=0.1)


def test_rows_without_anything_in_common_say_nothing() -> None:
    logs = np.random.default_rng(1).normal(0.0, 0.1, LEAST)
    found = rows(logs).knowing(ROWS[-1], SharedErrors(0.0, 0.0, 0.0, 0.0, 1.0))
    assert set(found.logs) < set(logs)
    assert found.low.tolist() == [-HALF] * len(found.logs)


def test_a_table_has_all_rows_then_each_device_and_each_kernel() -> None:
    assert table_of([rows(np.array([0.1, -0.3]))]) == [
        ("all kernels", "all", "2", "20 %", "50 %", "1.22"), ("all kernels", "chip", "2", "20 %", "50 %", "1.22"),
        ("gemm/bf16", "all", "2", "20 %", "50 %", "1.22"),
    ]  # fmt: skip
