"""Bumps that move explain more than those that stay, within their limits; the same rows give the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from costmodel.calibration.residual_files import read_residuals, write_residuals
from costmodel.cost.residual import Residual
from costmodel.fitting.regression import FURTHEST, KernelShare, _Descent, refine_bumps, residual
from costmodel.quantities import Array

RIDGE = 0.1
LENGTHS = np.array([2.0, 3.0])


def ridge_and_valley(shapes: Array) -> Array:
    """Return misses that change fast along one axis at one place, slowly elsewhere."""
    narrow = np.exp(-0.5 * ((shapes - [3.1, 5.0]) / [0.7, 6.0]) ** 2).prod(axis=1)
    wide = np.exp(-0.5 * ((shapes - [8.3, 5.0]) / [3.0, 5.0]) ** 2).prod(axis=1)
    return 0.3 * narrow - 0.2 * wide


def rows(count: int = 400) -> tuple[list[KernelShare], Array]:
    """Return shapes and misses of rows of one kernel each."""
    shapes = np.random.default_rng(2).uniform(0.0, 12.0, (count, 2))
    return [KernelShare(shapes, np.ones(count))], ridge_and_valley(shapes)


def start(shares: list[KernelShare], misses: Array, supports: int) -> Residual:
    """Return a residual of bumps that are all alike."""
    return residual(shares, misses, ("a", "b"), LENGTHS, RIDGE, supports)


def test_bumps_of_their_own_lengths_explain_what_equal_ones_cannot() -> None:
    shares, misses = rows()
    equal = start(shares, misses, 6)
    free = refine_bumps(equal, shares, misses, RIDGE)
    unseen = np.random.default_rng(3).uniform(0.0, 12.0, (400, 2))
    truth = ridge_and_valley(unseen)
    left = [np.abs(truth - np.log(np.asarray(one.factor(list(unseen.T))))).mean() for one in (equal, free)]
    assert left[1] < 0.25 * left[0]


def test_lengths_stay_within_their_limits() -> None:
    shares, misses = rows()
    free = refine_bumps(start(shares, misses, 6), shares, misses, RIDGE)
    assert free.bump_lengths is not None
    assert free.bump_lengths.shape == free.centres.shape
    assert np.all(free.bump_lengths <= FURTHEST * LENGTHS * (1.0 + 1e-12))
    assert np.all(free.bump_lengths >= LENGTHS / FURTHEST * (1.0 - 1e-12))


def test_a_strong_ridge_leaves_hardly_a_correction() -> None:
    shares, misses = rows()
    free = refine_bumps(start(shares, misses, 6), shares, misses, 1e6)
    assert np.abs(np.log(np.asarray(free.factor(list(shares[0].features.T))))).max() < 1e-3


def test_a_row_of_two_kernels_moves_by_both_in_their_shares() -> None:
    random = np.random.default_rng(4)
    shapes = random.uniform(0.0, 12.0, (2, 400, 2))
    part = random.uniform(0.2, 0.8, 400)
    shares = [KernelShare(shapes[0], part), KernelShare(shapes[1], 1.0 - part)]
    misses = part * ridge_and_valley(shapes[0]) + (1.0 - part) * ridge_and_valley(shapes[1])
    free = refine_bumps(start(shares, misses, 12), shares, misses, RIDGE)
    one = np.random.default_rng(5).uniform(1.0, 11.0, (400, 2))
    left = ridge_and_valley(one) - np.log(np.asarray(free.factor(list(one.T))))
    assert np.abs(left).mean() < 0.015


def test_the_gradient_is_that_of_the_objective() -> None:
    random = np.random.default_rng(6)
    shares = [KernelShare(random.uniform(0.0, 12.0, (30, 2)), random.uniform(0.2, 0.8, 30)) for _ in range(2)]
    misses = random.normal(0.0, 0.1, 30)
    descent = _Descent.of(start(shares, misses, 4), shares, misses, RIDGE)
    free = random.normal(0.0, 0.3, 4 * 5)
    slopes = approx_fprime(free, lambda point: descent.objective(point)[0], 1e-7)
    assert descent.objective(free)[1] == pytest.approx(slopes, rel=1e-4, abs=1e-6)


def test_the_same_rows_give_the_same_bumps() -> None:
    shares, misses = rows(100)
    first, second = (refine_bumps(start(shares, misses, 6), shares, misses, RIDGE) for _ in range(2))
    for name in ("centres", "weights", "bump_lengths"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_bumps_of_their_own_lengths_are_read_as_they_were_written(tmp_path: Path) -> None:
    shares, misses = rows(100)
    free = refine_bumps(start(shares, misses, 6), shares, misses, RIDGE)
    write_residuals(tmp_path / "a.json", {"gemm": free})
    found = read_residuals(tmp_path / "a.json")["gemm"]
    features = list(shares[0].features.T)
    np.testing.assert_allclose(found.factor(features), free.factor(features), rtol=1e-4)
    assert found.lengths.tolist() == LENGTHS.tolist()
