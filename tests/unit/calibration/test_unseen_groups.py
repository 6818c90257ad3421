"""What groups of shapes and distances that no fit saw add to an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from costmodel.calibration.fit_files import unseen_groups
from costmodel.cost.spread import UnseenGroups
from costmodel.schema.calibration import FamilyFitFile
from reports.fits.unseen_groups import Errors, saturating_scatter, scatter


def half_width(size: float) -> FamilyFitFile:
    knot = {"time": "1 s", "low": math.exp(-size), "median": 1, "high": math.exp(size), "rows": 9}
    return FamilyFitFile.model_validate({"spread": [knot], "rows": 9})


FAMILY, FORM = "grouped_gemm", "two_tile_gemm"
SCATTER = {
    f"{kind}/{name}": half_width(size)
    for name, sizes in ((FAMILY, (0.2, 0.1)), (f"{FAMILY}/{FORM}", (0.15, 0.2, 0.6)))
    for kind, size in zip(("unseen", "beyond", "most"), sizes, strict=False)
}


def test_forms_of_a_family_have_their_own_distances_others_those_of_the_family() -> None:
    own = unseen_groups(SCATTER, f"{FAMILY}/bf16", FORM, is_shape_wise=True)
    other = unseen_groups(SCATTER, f"{FAMILY}/bf16", "gemm", is_shape_wise=False)
    assert own is not None
    assert other is not None
    assert (own.inside, own.beyond, own.most) == (pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.6))
    assert (other.inside, other.beyond, other.most) == (0.0, pytest.approx(0.1), math.inf)


def test_a_distance_adds_by_the_octave_until_it_says_nothing_more() -> None:
    unseen = UnseenGroups(0.0, 0.2, 0.6)
    assert unseen.at_distance(0.0) == 0.0
    assert unseen.at_distance(0.01) == pytest.approx(0.002, rel=1e-4)
    assert unseen.at_distance(3.0) == pytest.approx(0.6 / math.sqrt(2.0))
    assert unseen.at_distance(1e6) == pytest.approx(0.6)
    assert UnseenGroups(0.0, 0.2).at_distance(1e3) == pytest.approx(200.0)


def test_errors_that_stop_growing_are_told_from_those_that_do_not() -> None:
    draws = np.random.default_rng(1)
    beyond = draws.uniform(0.0, 12.0, 4000)
    grown = 0.25 * beyond / np.hypot(1.0, beyond / 2.0)
    errors = Errors(FAMILY, FORM, beyond, np.hypot(0.1, grown) * draws.exponential(1.0, 4000), has_new_groups=True)
    inside, each, most = saturating_scatter([errors])
    scale = math.log(5.0)  # the 80 % point of an exponential error over its mean
    assert inside == pytest.approx(0.1 * scale, rel=0.25)
    assert each == pytest.approx(0.25 * scale, rel=0.25)
    assert most == pytest.approx(0.5 * scale, rel=0.1)
    assert scatter([errors])[1] < each / 3.0  # what grows evenly is too narrow near the measured sizes
