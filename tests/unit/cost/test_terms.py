"""Times that overlap: a p-norm that is worked out only where it may be the least."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.cost.time import p_norm, p_norm_below


@pytest.mark.parametrize("shape", [(), (7,), (5, 1, 4)])
def test_the_least_time_is_that_of_full_p_norms(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    times = [10.0 ** random.uniform(-6, -3, shape) for _ in range(3)]
    times[2] = times[2][..., :1] if shape else times[2]  # one that broadcasts
    bound = 10.0 ** random.uniform(-6, -3, shape)
    exact = p_norm(2.6, *times)
    found = p_norm_below(2.6, bound, *times)
    np.testing.assert_array_equal(np.minimum(found, bound), np.minimum(exact, bound))
    assert np.all(found <= exact)


def test_without_a_bound_it_is_the_p_norm() -> None:
    assert p_norm_below(3.0, np.inf, np.array([3.0, 0.0]), np.array([4.0, 0.0])).tolist() == [
        pytest.approx(91.0 ** (1 / 3)),
        0.0,
    ]


def test_far_above_a_bound_it_is_the_largest_time_whichever_that_is() -> None:
    times = [np.array([7.0, 1.0, 2.0]), np.array([3.0, 9.0, 1.0]), np.array([1.0, 2.0, 8.0])]
    assert p_norm_below(3.0, np.zeros(3), *times).tolist() == [7.0, 9.0, 8.0]
