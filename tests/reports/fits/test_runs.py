"""How whole runs scatter about predictions: effects of sites, runs and conditions, and what anchors are worth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import costmodel
from costmodel.analytic.intervals import NORMAL_90
from costmodel.records import replace
from reports.fits.runs import (
    Effects,
    RunError,
    Runs,
    anchored,
    fit,
    fitted,
    half_widths,
    inside,
    render,
    render_site,
    tried,
)

SITES, RUNS = 30, 12


@pytest.fixture(scope="module")
def scenario():
    workload = costmodel.load("gpt3_175b_a100")
    return workload.scenario(next(iter(workload.resolved.scenarios)))


def drawn(scenario, site: float, run: float, kernels: float, experts: float = 0.0) -> list[RunError]:
    """Return runs of sites with errors of these deviations, near ones and far ones; every third site has experts."""
    draws, rows = np.random.default_rng(3), []
    for number in range(SITES):
        share = float(number % 3 == 0) if experts else 0.0
        common = draws.normal(0.0, site) + share * draws.normal(0.0, experts)
        for at in range(RUNS):
            plan = replace(scenario.plan, global_batch=scenario.plan.global_batch * (1.0 + 0.001 * at))
            late = common + draws.normal(0.0, run) + draws.normal(0.0, kernels)
            name = f"publication {number}"
            rows.append(
                RunError(name, (name, "f", "d"), late, kernels, {"experts": share}, "one", replace(scenario, plan=plan))
            )
    return rows


def test_effects_of_sites_runs_and_conditions_are_told_from_one_another(scenario):
    effects = fit(drawn(scenario, 0.1, 0.04, 0.03, experts=0.25), "training")
    assert effects.site == pytest.approx(0.1, rel=0.35)
    assert effects.run == pytest.approx(0.04, rel=0.25)
    assert effects.conditions["experts"] == pytest.approx(0.25, rel=0.5)
    assert set(effects.conditions) == {"experts"}


def test_runs_of_a_site_are_no_independent_evidence(scenario):
    rows = drawn(scenario, 0.1, 0.02, 0.01)
    effects = fit(rows, "training")
    assert 0.6 < inside(rows, effects) < 0.95
    assert effects.of_class > 2.0 * effects.run


def test_a_publication_costs_half_of_the_mean_over_its_pairs(scenario):
    runs = Runs.of(drawn(scenario, 0.1, 0.04, 0.03, experts=0.25)[:3], ["experts"])
    effects = Effects(0.1, 0.05, 2.0, 1.0, {"experts": 0.2})
    covariance = runs.covariance(effects)
    pairs = [
        multivariate_normal(cov=covariance[np.ix_(pair, pair)]).logpdf(runs.late[pair]) + math.log(2.0 * math.pi)
        for pair in ([0, 1], [0, 2], [1, 2])
    ]
    assert runs.cost(effects) == pytest.approx(-0.5 * np.mean(pairs))


def test_each_publication_counts_once_however_many_figures_it_has(scenario):
    """Runs too far apart to share anything: a third of the sites scatter by 0.2 with two each, others by 0.05."""
    wide, narrow = (drawn(scenario, 0.0, run, 0.0) for run in (0.2, 0.05))
    rows = [row for at, row in enumerate(narrow) if at // RUNS % 3]
    rows += [row for at, row in enumerate(wide) if at // RUNS % 3 == 0 and at % RUNS < 2]
    squares = [
        np.mean([row.late**2 for row in rows if row.publication == name]) for name in {r.publication for r in rows}
    ]
    assert fit(rows, "training").of_class == pytest.approx(math.sqrt(np.mean(squares)), rel=0.1)
    assert np.mean([row.late**2 for row in rows]) < 0.5 * np.mean(squares)


def test_few_publications_widen_intervals_as_their_t_does():
    effects = Effects(0.1, 0.05, 2.0, 0.5, {"experts": 0.2}).widened(1000, {"experts": 5})
    assert effects.of_class == pytest.approx(math.hypot(0.1, 0.05), rel=1e-3)
    assert effects.conditions["experts"] * NORMAL_90 == pytest.approx(0.2 * 1.457, rel=1e-3)  # between t_5 and t_6


def test_the_same_run_and_near_runs_share_what_a_site_has_and_other_sites_share_nothing(scenario):
    effects = Effects(0.1, 0.05, 2.0, 0.5, {"experts": 0.2})
    one, near, other = (drawn(scenario, 0.1, 0.05, 0.02)[at] for at in (0, 1, RUNS))
    met = {"experts": 1.0}
    rows = [one, near, other, replace(one, shares=met), replace(near, shares=met)]
    covariance = Runs.of(rows, ["experts"]).covariance(effects)
    assert covariance[0, 0] == pytest.approx(0.1**2 + 0.05**2 + 0.02**2, rel=0.02)
    assert covariance[0, 1] == pytest.approx(0.1**2, rel=1e-3)
    assert covariance[0, 2] == 0.0
    assert covariance[3, 4] == pytest.approx(0.1**2 + 0.2**2, rel=1e-3)
    assert covariance[0, 4] == pytest.approx(0.1**2, rel=1e-3)


def test_passes_with_prompts_share_a_part_of_the_site_with_decoding_and_no_run(scenario):
    effects = Effects(0.1, 0.05, 2.0, 1.0, {"unknown": 0.2})
    one, near = drawn(scenario, 0.1, 0.05, 0.0)[:2]
    far = replace(one, scenario=replace(scenario, plan=replace(scenario.plan, sequence=scenario.plan.sequence * 8.0)))
    rows = [replace(each, shares={"unknown": 1.0}) for each in (one, replace(one, prompts=True), near, far)]
    covariance = Runs.of(rows, ["unknown"]).covariance(effects)
    common = 0.1**2 + 0.2**2
    assert covariance[0, 1] == pytest.approx(math.exp(-0.5) * common, rel=1e-3)
    assert covariance[0, 2] == pytest.approx(common, rel=1e-3)
    assert covariance[0, 3] == pytest.approx(common * math.exp(-(math.log(8.0) ** 2) / 4.0), rel=1e-3)


def test_anchors_take_errors_of_kernels_for_as_alike_as_those_of_runs(scenario):
    effects = Effects(0.08, 0.06, 2.0, 0.5, {})
    rows = [drawn(scenario, 0.1, 0.05, 0.3)[at] for at in (0, 1, RUNS)]
    known = Runs.of(rows, []).as_anchors(effects)
    assert known[0, 0] == pytest.approx(0.08**2 + 0.06**2 + rows[0].kernels ** 2, rel=1e-3)
    assert known[0, 1] == pytest.approx(0.64 * known[0, 0], rel=1e-3)
    assert known[0, 2] == 0.0


def test_other_metrics_of_a_known_run_do_not_count_as_its_neighbours(scenario):
    effects, rows = Effects(0.1, 0.01, 3.0, 0.5, {}), drawn(scenario, 0.1, 0.01, 0.005)[:1]
    assert anchored(rows * 3, effects, 1) is None
    assert anchored(rows * 3, effects, 0) is not None


def test_anchors_take_away_what_a_site_has_in_common(scenario):
    effects, rows = Effects(0.1, 0.01, 3.0, 0.5, {}), drawn(scenario, 0.1, 0.01, 0.005)
    errors = [
        np.mean([anchored(rows[at : at + RUNS], effects, number).error for at in range(0, len(rows), RUNS)])
        for number in (0, 1, 3)
    ]
    assert errors[0] > 4.0 * errors[1] > 4.0 * errors[2] > 0.0


def test_the_architecture_of_the_fewest_publications_says_what_an_untried_one_adds(scenario):
    rows = drawn(scenario, 0.05, 0.02, 0.01)
    off = [replace(row, late=row.late + 0.5, architecture="two") for row in rows[: 2 * RUNS]]
    effects = fitted([*off, *rows[2 * RUNS :]], "training")
    assert tried([*off, *rows[2 * RUNS :]]) == ["one", "two"]
    assert effects.conditions["untried"] > 3.0 * fitted(rows, "training").conditions["untried"]
    assert "untried" not in fitted(rows, "serving").conditions


def test_files_state_halves_of_80_per_cent_intervals_and_shares_of_the_variance(scenario):
    effects = {
        "training": Effects(0.08, 0.06, 3.0, 0.5, {"experts": 0.2}),
        "inference": Effects(0.1, 0.02, 2.0, 0.5, {"unknown": 0.1}),
        "serving": Effects(0.1, 0.02, 2.0, 0.5, {"unknown": 0.3}),
    }  # fmt: skip
    halves = half_widths(effects)
    assert halves["composition_training"] == pytest.approx(NORMAL_90 * 0.1)
    assert halves["composition_unknown"] == pytest.approx(NORMAL_90 * 0.3)  # the wider of both classes
    rows = drawn(scenario, 0.1, 0.04, 0.03)[:3]
    text = render(effects, {"training": rows, "inference": [], "serving": []})
    assert f"high: {math.exp(NORMAL_90 * 0.1):.4g}" in text
    text = render_site(effects, {"training": rows, "inference": rows, "serving": rows})
    assert "alike: 0.64" in text
    (inference,) = (line for line in text.splitlines() if line.startswith("inference:"))
    assert "passes: 0.5" in inference
    json.dumps(halves)
