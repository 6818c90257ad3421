"""Scatter of whole runs: it holds publications that had no part in it, and borrows where there are few."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.study.run_scatter import (
    RunError,
    Scales,
    conformal_scales,
    coverage,
    fit_scales,
    quantile,
    weights,
)


def runs(
    seed: int, publications: int, scale: float, name: str = "training", figures: int = 8, **shares: float
) -> list[RunError]:
    """Return figures of publications that differ by `scale`, and half as much inside; kernels say 3 %."""
    draws = np.random.default_rng(seed)
    found = []
    for number in range(publications):
        own = scale * draws.normal()
        found += [
            RunError(name, f"{name} {seed} {number}", str(at), own + scale / 2 * draws.normal(), 0.03, 0.03, shares)
            for at in range(figures)
        ]
    return found


def test_intervals_hold_four_fifths_of_publications_that_had_no_part_in_them() -> None:
    shares = [coverage(runs(1000 + seed, 40, 0.12), conformal_scales(runs(seed, 12, 0.12))) for seed in range(8)]
    assert np.mean(shares) == pytest.approx(0.82, abs=0.06)


def test_figures_of_one_publication_are_no_evidence_of_the_next_one() -> None:
    rows = [RunError("training", "a", str(at), 0.3, 0.0, 0.0, {}) for at in range(500)]
    rows += [RunError("training", f"b{at}", "0", 0.01 * at, 0.0, 0.0, {}) for at in range(9)]
    assert sum(weights(rows)[:500]) == pytest.approx(1.0)
    assert fit_scales(rows).classes["training"] < 0.2


def test_figures_that_follow_from_one_another_weigh_as_one() -> None:
    rows = [RunError("training", "a", "step", 0.1, 0.0, 0.0, {}) for _ in range(9)]
    rows.append(RunError("training", "a", "other", 0.1, 0.0, 0.0, {}))
    assert weights(rows)[0] == pytest.approx(1 / 18)
    assert weights(rows)[-1] == pytest.approx(1 / 2)


def test_a_class_of_few_publications_borrows_from_the_others() -> None:
    known = runs(1, 12, 0.12)
    few = runs(2, 1, 0.001, name="serving")
    alone, together = fit_scales(few).classes["serving"], fit_scales([*known, *few]).classes["serving"]
    assert alone < together < fit_scales(known).classes["training"]


def test_what_a_run_rests_on_widens_it() -> None:
    rows = [*runs(1, 12, 0.05), *runs(2, 6, 0.5, roofline=1.0)]
    scales = fit_scales(rows)
    assert scales.conditions["roofline"] > 3 * scales.classes["training"]
    half = RunError("training", "a", "0", 0.0, 0.0, 0.0, {"roofline": 0.5})
    assert scales.half_width(half) == pytest.approx(
        np.hypot(scales.classes["training"], 0.5 * scales.conditions["roofline"])
    )


def test_what_kernels_say_already_is_not_counted_twice() -> None:
    narrow, wide = (
        [RunError("training", f"p{at}", "0", 0.1 * at - 0.5, k, k, {}) for at in range(11)] for k in (0, 0.6)
    )
    assert conformal_scales(wide).classes["training"] < 0.5 * conformal_scales(narrow).classes["training"]


def test_a_quantile_is_reached_by_weight() -> None:
    assert quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0]), 0.8) == 2.0


def test_coverage_weighs_publications_alike() -> None:
    rows = [RunError("training", "a", str(at), 0.5, 0.0, 0.0, {}) for at in range(9)]
    rows.append(RunError("training", "b", "0", 0.0, 0.0, 0.0, {}))
    assert coverage(rows, Scales({"training": 0.1}, {})) == pytest.approx(0.5)
