"""Parameters of a form from measured times."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from costmodel.cost.parameter import Parameter
from costmodel.fitting.regression import estimate
from costmodel.quantities import Array

SIZES = np.geomspace(1e3, 1e9, 40)
BOUNDS = {name: Parameter("1", start, 1e-3, 1e3, "") for name, start in (("fixed", 3.0), ("rate", 0.2), ("step", 0.5))}


def straight_line(values: Mapping[str, float]) -> Array:
    """Return times that no `step` moves: the devices of these rows have links without latency."""
    return np.asarray(values["fixed"] * 1e-6 + SIZES / (values["rate"] * 1e12))


def test_what_rows_determine_is_found_and_what_none_does_stays_where_its_search_starts() -> None:
    found = estimate(straight_line, straight_line({"fixed": 40.0, "rate": 0.7}), BOUNDS)
    assert found.values["fixed"] == pytest.approx(40.0, rel=0.005)
    assert found.values["rate"] == pytest.approx(0.7, rel=0.005)
    assert found.values["step"] == pytest.approx(0.5, rel=0.01)
    assert math.isnan(found.errors["step"])
    assert found.errors["fixed"] < 0.05
