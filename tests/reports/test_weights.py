"""Weights of published figures: publications weigh the same where they agree inside, figures where publications do."""

from __future__ import annotations

import numpy as np
import pytest

from reports.fits.term_fits import MOST, NORMAL, weights_of


def names(*counts: int) -> list[str]:
    return [f"paper {number}" for number, count in enumerate(counts) for _ in range(count)]


def test_publications_weigh_the_same_where_their_figures_agree() -> None:
    publications = names(2, 3, 4, 1)
    errors = [0.1] * 2 + [-0.1] * 3 + [0.3] * 4 + [0.9]
    weights = weights_of(publications, errors)
    for name in set(publications):
        assert sum(weight for weight, one in zip(weights, publications, strict=True) if one == name) == pytest.approx(1)


def test_figures_weigh_nearly_the_same_where_publications_do_not_differ() -> None:
    publications = names(20, 20, 20, 1)
    scatter = np.linspace(-0.2, 0.2, 20)
    weights = weights_of(publications, [*scatter, *scatter, *scatter, 0.5])
    assert weights[0] == pytest.approx(1 / (20 + MOST))
    assert weights[-1] == pytest.approx(1 / (1 + MOST))


def test_a_mean_of_many_figures_counts_for_more_but_for_one_at_most() -> None:
    rng = np.random.default_rng(1)
    counts = (2, 5, 40, 6, 1)
    offsets = (0.1, -0.1, 0.05, -0.05, 0.0)
    errors = [offset + 0.1 * rng.standard_normal() for offset, n in zip(offsets, counts, strict=True) for _ in range(n)]
    weights = weights_of(names(*counts), errors)
    sums = [float(sum(weights[np.array(names(*counts)) == f"paper {at}"])) for at in range(len(counts))]
    assert sums[4] < sums[0] < sums[1] < sums[3] < sums[2] < 1.0


def test_the_weights_are_those_of_the_variances_of_means() -> None:
    """s^2 / t^2 from three publications of three figures: deviations 0.1 inside, medians -0.3, 0 and 0.3."""
    errors = [offset + inside for offset in (-0.3, 0.0, 0.3) for inside in (-0.1, 0.0, 0.1)]
    inside = (NORMAL * 0.1) ** 2
    ratio = inside / (0.09 - inside / 3)
    assert weights_of(names(3, 3, 3), errors) == pytest.approx(np.full(9, 1 / (3 + ratio)))


def test_too_few_publications_tell_no_scatter_between_them() -> None:
    assert weights_of(names(2, 2, 1), [0.0, 1.0, 5.0, 6.0, 0.0]) == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0])
