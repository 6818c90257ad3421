"""What published steps say of how alike the errors of a site are."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.analytic.intervals import NORMAL_90
from costmodel.records import replace
from costmodel.workload.site_scatter import Separation, SiteScatter
from reports.fits.site_scatter import Site, fit, least, score

TRUE = SiteScatter(site=0.4, alike=0.4, repeat=0.0021, length=1.0, kinds=1.0)


def drawn(name: str, deviation: float, runs: int = 12) -> Site:
    """Return a site whose errors are a draw of the model, its runs a third of a length apart."""
    generator = np.random.default_rng(sum(map(ord, name)))
    places = np.arange(runs) / 3.0
    separation = Separation(np.subtract.outer(places, places) ** 2, np.zeros((runs, runs)), np.eye(runs))
    errors = np.linalg.cholesky(TRUE.correlation(separation)) @ generator.standard_normal(runs)
    spread = np.full(runs, deviation)
    return Site(name, "nemo", "h100-sxm", spread * errors, spread, spread, np.full(runs, fill_value=True), separation)


@pytest.fixture(scope="module")
def sites() -> list[Site]:
    """Return sites of which one scatters ten times as far as others."""
    return [drawn(f"publication {number}", 0.3 if number == 0 else 0.03) for number in range(300)]


def test_the_fit_finds_shares_and_length_that_errors_were_drawn_with_however_far_they_are(sites: list[Site]) -> None:
    found = fit(sites)
    assert found.length == pytest.approx(TRUE.length, abs=0.2)
    assert found.site == pytest.approx(TRUE.site, abs=0.1)
    assert found.alike == pytest.approx(TRUE.alike, abs=0.1)
    assert found.own == pytest.approx(0.2, abs=0.05)


def test_figures_that_are_no_evidence_have_no_part_in_the_fit(sites: list[Site]) -> None:
    far, nothing = np.full(12, 9.0), np.zeros(12, dtype=bool)
    wrong = replace(sites[0], logs=far, evidence=nothing)
    assert fit([*sites[:5], wrong]).site == fit(sites[:5]).site


def test_anchors_lower_errors_and_narrow_intervals_that_still_hold(sites: list[Site]) -> None:
    scores = [[score(site, TRUE, anchors) for site in sites[:12]] for anchors in (0, 1, 3)]
    means, widths, inside = ([float(np.mean([getattr(one, it) for one in row])) for row in scores]
                             for it in ("mean", "width", "inside"))  # fmt: skip
    assert means[0] > means[1] > means[2]
    assert widths[0] > widths[1] > widths[2]
    assert widths[0] == pytest.approx(NORMAL_90 * (0.3 + 11 * 0.03) / 12)
    assert inside == pytest.approx([0.8] * 3, abs=0.12)


def test_no_factor_of_a_site_leaves_less_than_the_least(sites: list[Site]) -> None:
    factors = np.exp(np.linspace(-1.0, 1.0, 2001))[:, None]
    tried = np.abs(factors * np.exp(-sites[0].logs) - 1.0).mean(axis=1)
    assert least(sites[0])[0] == pytest.approx(tried.min(), rel=1e-3)
    assert least(sites[0])[0] <= tried.min()
