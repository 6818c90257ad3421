"""What the host adds to an engine's steps, found again from times that were made with it."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.host_time import fit


def test_the_time_of_a_step_is_found_again_beside_a_far_row() -> None:
    steps = np.tile([128.0, 256.0, 512.0], 8)
    base = steps * np.linspace(5e-3, 2e-2, 24)
    published = base + 2e-3 * steps
    published[-1] *= 2.0
    assert fit(np.stack([published, base, steps], axis=1)) == pytest.approx(2e-3, rel=0.1)


def test_no_time_is_negative() -> None:
    steps = np.array([128.0, 256.0])
    assert fit(np.stack([np.array([0.9, 1.9]), np.array([1.0, 2.0]), steps], axis=1)) == pytest.approx(0.0, abs=1e-6)
