"""The errors of rows whose kernels' fits are hidden, on times made by hand."""

from __future__ import annotations

import numpy as np

from reports.fits.hidden import ANOTHER, DEVICE, lines


def test_each_class_has_a_line_of_all_its_rows_then_one_of_each_part() -> None:
    measured = np.array([1.0, 2.0])
    near, far = (np.array([measured, measured * off, measured * off * 0.8, measured * off * 1.2]) for off in (1.1, 1.5))
    found = [" ".join(each.split()) for each in lines({(ANOTHER, "gemm/bf16"): [near, far], (DEVICE, "chip"): [far]})]
    assert found == [
        f"{ANOTHER} all 4 rows mean 30.0% median 30.0% inside 50%",
        f"{ANOTHER} gemm/bf16 4 rows mean 30.0% median 30.0% inside 50%",
        f"{DEVICE} all 2 rows mean 50.0% median 50.0% inside 0%",
        f"{DEVICE} chip 2 rows mean 50.0% median 50.0% inside 0%",
    ]
