"""Scatter of whole runs: it holds publications that had no part in it, and borrows where there are few."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.analytic.intervals import CONDITIONS
from costmodel.records import replace
from reports.fits.run_scatter import (
    RunError,
    Scales,
    conformal_scales,
    coverage,
    fit_scales,
    likelihood,
    marked,
    quantile,
    scales_of,
    tried,
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
    assert sum(weights(rows)[:500]) == pytest.approx(1.0)  # no two publications of several figures: none is worth more
    assert fit_scales(rows).classes["training"] < 0.2


def test_many_figures_of_a_publication_weigh_as_those_of_them_that_are_independent() -> None:
    rows = [*runs(1, 12, 0.1, figures=40), *runs(2, 12, 0.1, figures=1)]
    weight = weights(rows)
    alike = 1 / (1 / 4 + 1)  # half as much scatter inside a publication as between them
    assert weight[-1] == pytest.approx(1.0)
    assert weight[:40].sum() == pytest.approx(40 / (1 + 39 * alike), rel=0.3)


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
        [RunError("training", f"p{at}", "0", 0.1 * at - 0.5, k, k, {}) for at in range(11)] for k in (0, 0.45)
    )
    known, alone = fit_scales(wide), fit_scales(narrow)
    assert known.classes["training"] < 0.5 * alone.classes["training"]
    assert known.kernels > 0.8


def test_intervals_of_kernels_that_are_too_wide_are_shown_in_part_where_something_was_measured() -> None:
    """Runs scatter by 5 % where their kernels alone would say 40 %."""
    rows = [replace(row, down=0.4, up=0.4) for row in runs(3, 12, 0.05)]
    scales = fit_scales(rows)
    assert scales.kernels < 0.5
    measured, unmeasured = (RunError("training", "a", "0", 0.1, 0.4, 0.4, {"roofline": share}) for share in (0.0, 1.0))
    assert scales.of_kernels(measured) == pytest.approx(scales.kernels * 0.4)
    assert scales.of_kernels(unmeasured) == pytest.approx(0.4)


def test_the_slope_of_the_likelihood_is_that_of_its_cost() -> None:
    rows = [*runs(1, 4, 0.1), *runs(2, 3, 0.2, "serving", roofline=0.4), *runs(3, 2, 0.3, unknown=1.0)]
    cost = likelihood(rows, CONDITIONS)
    x = cost.start() + np.linspace(-0.2, 0.1, len(cost.start()))
    numeric = [
        (cost(x + step)[0] - cost(x - step)[0]) / 2e-6 for step in 1e-6 * np.eye(len(x))
    ]  # fmt: skip
    assert cost(x)[1] == pytest.approx(np.array(numeric), rel=1e-4, abs=1e-5)


def test_a_search_does_not_end_at_a_width_of_zero_that_is_less_likely() -> None:
    """There the cost has no slope; a search from START alone stays there (0, not 0.13)."""
    drawn = [*runs(36, 6, 0.05), *runs(136, 2, 0.15, figures=5, experts=1.0)]
    assert fit_scales([replace(row, down=0.15, up=0.15) for row in drawn]).conditions["experts"] > 0.1


def test_a_condition_of_one_publication_alone_does_not_widen_the_others() -> None:
    """What is off on one unseen architecture says how wide runs there are, and nothing of other runs."""
    common = [replace(row, architecture="hopper") for row in runs(1, 9, 0.05)]
    odd = [replace(row, architecture="blackwell", late=row.late + 0.5) for row in runs(2, 1, 0.02)]
    rows = marked([*common, *odd])
    assert tried(rows) == ["hopper"]
    assert [row.shares["untried"] for row in (rows[0], rows[-1])] == [0.0, 1.0]
    with_odd, without = conformal_scales(rows), conformal_scales(marked(common))
    assert with_odd.classes["training"] == pytest.approx(without.classes["training"], rel=0.15)
    assert with_odd.conditions["untried"] > 0.4


def test_rare_conditions_scale_by_themselves() -> None:
    plain, rare = runs(1, 9, 0.05), runs(2, 5, 0.3, experts=1.0)
    together, alone = conformal_scales([*plain, *rare]), conformal_scales(plain)
    assert together.classes["training"] == pytest.approx(alone.classes["training"], rel=0.25)
    assert together.conditions["experts"] > 2 * together.classes["training"]


def test_runs_that_were_in_sight_widen_and_never_narrow() -> None:
    """What a choice left of an error is the least that it is."""
    plain, rare = runs(1, 9, 0.05), runs(2, 2, 0.1, experts=1.0)
    alone = scales_of([*plain, *rare])
    for scale, wider in ((0.4, True), (0.001, False)):
        seen = [replace(row, is_seen=True) for row in runs(3, 4, scale, experts=1.0)]
        together = scales_of([*plain, *rare, *seen])
        assert (together.conditions["experts"] > 1.2 * alone.conditions["experts"]) is wider
        assert together.conditions["experts"] >= alone.conditions["experts"]
        assert together.classes == alone.classes


def test_served_experts_that_only_one_publication_in_sight_has_widen_those_runs_alone() -> None:
    plain = [*runs(1, 9, 0.05), *runs(2, 3, 0.05, "serving")]
    seen = [replace(row, is_seen=True) for row in runs(4, 1, 0.3, "serving", served_experts=1.0)]
    alone, together = scales_of(plain), scales_of([*plain, *seen])
    assert together.classes == alone.classes
    assert "served_experts" not in alone.conditions
    assert together.conditions["served_experts"] > together.classes["serving"]


def test_a_quantile_is_reached_by_weight() -> None:
    assert quantile(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0]), 0.8) == 2.0


def test_coverage_weighs_publications_alike() -> None:
    rows = [RunError("training", "a", str(at), 0.5, 0.0, 0.0, {}) for at in range(9)]
    rows.append(RunError("training", "b", "0", 0.0, 0.0, 0.0, {}))
    assert coverage(rows, Scales({"training": 0.1}, {})) == pytest.approx(0.5)
