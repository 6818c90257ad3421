"""What a step from a fit's own rows to others costs."""

from __future__ import annotations

import numpy as np

from reports.fits.transfer import of_one_build


def test_a_step_between_devices_is_of_one_implementation_where_two_have_it():
    same, builds = np.array([0.1]), np.array([1.0])
    pairs = {("a/conv", "b/conv"): same, ("a/conv", "b/other-conv"): builds}
    assert of_one_build(pairs) == {("a/conv", "b/conv"): same}
    assert of_one_build({("a/conv", "b/other-conv"): builds}) == {("a/conv", "b/other-conv"): builds}
