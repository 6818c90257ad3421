"""The smooth correction: the same one by one and as arrays, gone far away, and what its domain says of a shape."""

from __future__ import annotations

import numpy as np
import pytest
from builders import MACHINE

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.parameter import parameters
from costmodel.cost.residual import Domain, Residual
from costmodel.cost.time import Machine, Time
from costmodel.workload.operators import Elementwise

RESIDUAL = Residual(
    ("a", "b"), np.array([2.0, 1.0]), np.array([[0.0, 0.0], [4.0, 1.0]]), np.array([np.log(2.0), np.log(0.5)])
)


class OneAxis:
    """A form that takes a second whatever the shape; its feature is log2 of the traffic."""

    def time(self, operator: Elementwise, machine: Machine) -> Time:  # noqa: ARG002  the protocol
        return Time(1.0)

    def features(self, operator: Elementwise) -> tuple[object, ...]:
        return (np.log2(operator.traffic),)


def test_at_a_lone_support_point_the_correction_is_its_weight():
    lone = Residual(("a",), np.array([1.0]), np.array([[3.0]]), np.array([np.log(1.7)]))
    assert lone.factor([3.0]) == pytest.approx(1.7, rel=1e-12)
    assert lone.factor([4.0]) == pytest.approx(1.7 ** np.exp(-0.5), rel=1e-12)


def test_support_points_that_share_coordinates_add_up_along_whichever_axes_vary():
    centres = np.array([[0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [3.0, 0.0, 4.0], [3.0, 2.0, 4.0], [3.0, 2.0, 4.0]])
    residual = Residual(("a", "b", "c"), np.array([2.0, 1.0, 3.0]), centres, np.array([0.3, -0.2, 0.5, 0.1, -0.4]))
    points = np.linspace(-2.0, 5.0, 40_000)  # more than are held at once
    for varied in (("a",), ("b",), ("a", "b"), ("a", "b", "c")):
        features = [points if axis in varied else 1.5 for axis in residual.axes]
        together = np.asarray(residual.factor(features))
        for place in (0, 17_123, -1):
            alone = [float(points[place]) if axis in varied else 1.5 for axis in residual.axes]
            assert together[place] == pytest.approx(residual.factor(alone), rel=1e-12)


def test_features_may_have_any_number_of_axes():
    column, row = np.linspace(0.0, 4.0, 50).reshape(50, 1), np.linspace(-1.0, 1.0, 3)
    grid = np.asarray(RESIDUAL.factor([column, row]))
    apart = np.asarray(RESIDUAL.distance([column, row]))
    assert grid.shape == apart.shape == (50, 3)
    assert grid[49, 2] == pytest.approx(RESIDUAL.factor([4.0, 1.0]), rel=1e-12)
    assert apart[49, 0] == pytest.approx(RESIDUAL.distance([4.0, -1.0]), rel=1e-12)
    assert np.asarray(RESIDUAL.factor([np.array(4.0), row])).shape == (3,)


def test_far_from_every_measurement_nothing_is_corrected():
    assert RESIDUAL.factor([60.0, 0.0]) == pytest.approx(1.0, abs=1e-12)
    assert RESIDUAL.factor([0.0, -60.0]) == pytest.approx(1.0, abs=1e-12)


def test_distance_is_to_the_nearest_support_point_in_lengths():
    assert RESIDUAL.distance([0.0, 0.0]) == 0.0
    assert RESIDUAL.distance([2.0, 0.0]) == pytest.approx(1.0)
    assert RESIDUAL.distance([4.0, 3.0]) == pytest.approx(2.0)


def test_a_bump_of_its_own_lengths_reaches_as_far_as_they_say_and_distance_is_in_the_familys():
    lengths = np.array([[1.0, 4.0]])
    lone = Residual(
        ("a", "b"), np.array([2.0, 2.0]), np.array([[3.0, 5.0]]), np.array([np.log(1.7)]), bump_lengths=lengths
    )
    assert lone.factor([4.0, 5.0]) == pytest.approx(1.7 ** np.exp(-0.5), rel=1e-12)
    assert lone.factor([3.0, 9.0]) == pytest.approx(1.7 ** np.exp(-0.5), rel=1e-12)
    assert lone.distance([5.0, 5.0]) == pytest.approx(1.0)


def test_bumps_that_share_a_place_but_not_their_lengths_are_two():
    places, lengths = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 1.0]])
    both = Residual(("a", "b"), np.array([2.0, 2.0]), places, np.array([0.2, -0.1]), bump_lengths=lengths)
    along = np.linspace(0.0, 4.0, 500)
    expected = np.exp(0.2 * np.exp(-0.5 * (along - 1.0) ** 2) - 0.1 * np.exp(-0.5 * ((along - 1.0) / 3.0) ** 2))
    np.testing.assert_allclose(both.factor([along, 2.0]), expected, rtol=1e-12)


def test_points_arrays_and_broadcast_axes_say_the_same():
    first, second = np.linspace(-3, 8, 7), np.linspace(-2, 3, 5)
    grid = np.asarray(RESIDUAL.factor([first[:, None], second[None, :]]))
    away = np.asarray(RESIDUAL.distance([first[:, None], second[None, :]]))
    assert grid.shape == away.shape == (7, 5)
    for i, x in enumerate(first):
        along = np.asarray(RESIDUAL.factor([float(x), second]))
        np.testing.assert_allclose(along, grid[i], rtol=1e-13)
        for j, y in enumerate(second):
            assert RESIDUAL.factor([float(x), float(y)]) == pytest.approx(grid[i, j], rel=1e-13)
            assert RESIDUAL.distance([float(x), float(y)]) == pytest.approx(away[i, j], rel=1e-13)


def test_one_size_gives_a_plain_float():
    assert type(RESIDUAL.factor([1.0, 1.0])) is float
    assert type(RESIDUAL.factor([np.float64(1.0), 1.0])) is float


def test_a_domain_holds_its_edges_as_they_are_written_to_six_digits():
    low, high = np.log2(float(f"{7:.6g}")), np.log2(float(f"{123456.7:.6g}"))
    domain = Domain(np.array([low]), np.array([high]), 0.5)
    assert domain.holds([np.log2(7.0)])
    assert domain.holds([np.log2(123456.7)])
    assert not domain.holds([np.log2(6.9)])
    assert np.asarray(domain.holds([np.log2(np.array([1.0, 7.0, 1e6]))])).tolist() == [False, True, False]


def test_a_shape_is_measured_near_a_support_point_fitted_inside_and_extrapolated_outside():
    residual = Residual(("traffic",), np.array([2.0]), np.array([[10.0], [20.0]]), np.array([0.1, 0.1]))
    fit = FamilyFit(
        basis="fitted", form=OneAxis(), residual=residual, domain=Domain(np.array([10.0]), np.array([20.0]), 0.5)
    )
    traffic = 2.0 ** np.array([9.0, 10.0, 10.9, 15.0, 20.0, 21.0])
    expected = ["extrapolated", "measured", "measured", "fitted", "measured", "extrapolated"]
    assert fit.bases(Elementwise("x", traffic)).tolist() == expected
    assert [fit.basis_at(Elementwise("x", float(one))) for one in traffic] == expected


def test_borrowed_fits_stay_transferred_wherever_the_shape_lies():
    fit = FamilyFit(basis="transferred", form=OneAxis(), domain=Domain(np.array([10.0]), np.array([20.0]), 0.5))
    assert fit.basis_at(Elementwise("x", 2.0**15)) == "transferred"
    assert fit.basis_at(Elementwise("x", 2.0**50)) == "transferred"


def test_without_support_points_nothing_counts_as_measured():
    fit = FamilyFit(basis="fitted", form=OneAxis(), domain=Domain(np.array([10.0]), np.array([20.0]), 0.5))
    assert fit.basis_at(Elementwise("x", 2.0**10)) == "fitted"


def test_the_correction_multiplies_every_part_of_a_time():
    form = ElementwiseForm(**{name: parameter.start for name, parameter in parameters(ElementwiseForm).items()})
    kernel = Elementwise("x", 2.0**30)
    shape = np.array([list(form.features(kernel))], dtype=np.float64)
    residual = Residual(tuple(form.AXES), np.full(shape.shape[1], 2.0), shape, np.array([np.log(1.5)]))
    plain = FamilyFit(basis="fitted", form=form).fitted_time(form, kernel, MACHINE)
    corrected = FamilyFit(basis="fitted", form=form, residual=residual).fitted_time(form, kernel, MACHINE)
    factor = 1.5
    for part in ("seconds", "compute", "memory", "fixed"):
        assert getattr(corrected, part) == pytest.approx(factor * getattr(plain, part), rel=1e-12)


def test_a_shape_is_as_far_beyond_a_domain_as_its_axes_together():
    domain = Domain(np.array([0.0, 4.0]), np.array([2.0, 4.0]), 1.0)
    assert domain.beyond([1.0, 4.0]) == 0.0
    assert domain.beyond([5.0, 0.0]) == pytest.approx(5.0, rel=1e-3)  # 3 above, 4 below
    assert np.asarray(domain.beyond([np.array([1.0, 3.0]), 4.0])).tolist() == pytest.approx([0.0, 1.0], abs=1e-3)


def test_a_group_is_told_by_the_axes_that_name_one():
    residual = Residual(("kv_len", "heads"), np.ones(2), np.array([[10.0, 3.0], [12.0, 3.0], [10.0, 5.0]]), np.zeros(3))
    assert residual.group_distance([30.0, 3.0]) == 0.0  # keys are swept for every model
    assert residual.group_distance([10.0, 4.0]) == pytest.approx(1.0)
    assert np.asarray(residual.group_distance([10.0, np.array([5.0, 6.5])])).tolist() == pytest.approx([0.0, 1.5])


def test_many_shapes_along_one_axis_are_read_from_a_curve_as_if_one_by_one() -> None:
    centres = np.array([[-3.0], [0.0], [0.5], [6.0]])
    lengths = np.array([[0.5], [2.0], [0.7], [3.0]])
    residual = Residual(("a",), np.array([1.0]), centres, np.array([0.4, -1.5, 1.2, 0.3]), bump_lengths=lengths)
    points = np.concatenate([np.random.default_rng(0).uniform(-8.0, 9.0, 60_000), [-8.0, 9.0]]).reshape(2, -1)
    together = np.asarray(residual.factor([points]))
    few = np.asarray(residual.factor([points[:, :50]]))  # summed bump by bump
    assert together.shape == points.shape
    np.testing.assert_allclose(together[:, :50], few, rtol=1e-11)
    assert together[1, -1] == pytest.approx(residual.factor([9.0]), rel=1e-11)
