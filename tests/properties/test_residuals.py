"""Laws of the residual and of cross-validation, on random ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from costmodel.cost.residual import Residual
from costmodel.fitting.family_fit import FOLDS, fold_numbers
from costmodel.fitting.regression import KernelShare, residual

OCTAVES = st.floats(-20.0, 40.0)


@st.composite
def residuals(draw: st.DrawFn) -> Residual:
    supports, axes = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    centres = draw(hnp.arrays(np.float64, (supports, axes), elements=OCTAVES))
    weights = draw(hnp.arrays(np.float64, supports, elements=st.floats(-1.0, 1.0)))
    lengths = draw(hnp.arrays(np.float64, axes, elements=st.floats(0.5, 5.0)))
    longer = draw(st.none() | hnp.arrays(np.float64, (supports, axes), elements=st.floats(0.25, 4.0)))
    bump_lengths = None if longer is None else lengths * longer
    return Residual(tuple(f"axis{at}" for at in range(axes)), lengths, centres, weights, bump_lengths=bump_lengths)


@given(residuals(), st.data())
def test_arrays_equal_points(one: Residual, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    shapes = data.draw(hnp.arrays(np.float64, (count, len(one.axes)), elements=OCTAVES))
    together, away = np.asarray(one.factor(list(shapes.T))), np.asarray(one.distance(list(shapes.T)))
    for shape, factor, distance in zip(shapes, together, away, strict=True):
        np.testing.assert_allclose(one.factor(shape.tolist()), factor, rtol=1e-9)
        np.testing.assert_allclose(one.distance(shape.tolist()), distance, rtol=1e-9, atol=1e-9)


@given(residuals(), st.data())
def test_a_correction_is_never_more_than_all_weights_together(one: Residual, data: st.DataObject) -> None:
    shape = data.draw(hnp.arrays(np.float64, len(one.axes), elements=OCTAVES)).tolist()
    assert abs(np.log(one.factor(shape))) <= np.abs(one.weights).sum() + 1e-12


@given(residuals())
def test_it_fades_with_distance(one: Residual) -> None:
    longest = one.lengths if one.bump_lengths is None else one.bump_lengths.max(axis=0)
    shape = (one.centres.max(axis=0) + 10.0 * longest).tolist()
    assert abs(np.log(one.factor(shape))) <= np.abs(one.weights).sum() * np.exp(-50.0 * len(one.axes)) + 1e-12


@given(st.lists(st.sampled_from([f"g{at}" for at in range(30)]), min_size=5, max_size=200))
def test_a_group_is_never_split_over_folds(names: list[str]) -> None:
    groups = np.array(names, dtype=np.object_)
    folds = fold_numbers(groups)
    assert folds.shape == groups.shape
    assert set(folds.tolist()) <= set(range(FOLDS))
    if len(set(names)) >= FOLDS:
        for name in set(names):
            assert len(set(folds[groups == name].tolist())) == 1
        assert set(folds.tolist()) == set(range(FOLDS))  # no fold is empty
    assert folds.tolist() == fold_numbers(groups).tolist()


@given(st.integers(0, 10_000))
def test_a_residual_explains_smooth_misses_of_its_own_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shapes = generator.uniform(0.0, 12.0, (120, 2))
    truth = 0.3 * np.exp(-0.5 * (((shapes - 6.0) / 3.0) ** 2).sum(axis=1))
    found = residual([KernelShare(shapes, np.ones(120))], truth, ("a", "b"), np.array([3.0, 3.0]))
    assert len(found.weights) <= 64
    left = truth - np.log(np.asarray(found.factor(list(shapes.T))))
    assert np.sqrt((left**2).mean()) < 0.25 * np.sqrt((truth**2).mean())
