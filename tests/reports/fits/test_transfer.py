"""What a step from a fit's own rows to others costs."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.transfer import of_one_build, steps


def test_a_step_between_devices_is_of_one_implementation_where_two_have_it():
    same, builds = np.array([0.1]), np.array([1.0])
    pairs = {("a/conv", "b/conv"): same, ("a/conv", "b/other-conv"): builds}
    assert of_one_build(pairs) == {("a/conv", "b/conv"): same}
    assert of_one_build({("a/conv", "b/other-conv"): builds}) == {("a/conv", "b/other-conv"): builds}


def test_a_step_is_the_root_of_what_it_adds_to_squared_errors_and_none_where_it_adds_nothing():
    added = np.linspace(-0.1, 0.1, 1001)
    found = {name: (error, rows) for name, error, rows, _ in steps({"die/gemm/bf16": {("a/x", "b/x"): added}})}
    assert found["die/gemm/bf16"] == found["die"] == (pytest.approx(0.06**0.5, rel=1e-2), 1001)
    assert next(steps({"die": {("a/x", "b/x"): added - 0.1}}))[1] == 0.0
