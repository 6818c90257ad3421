"""How runs of a site scatter about predictions: `hardware/calibrations/site_scatter.yaml`, and what anchors are worth.

python -m reports.fits.site_scatter --output hardware/calibrations/site_scatter.yaml
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from costmodel.analytic.anchors import POWERS, separation
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import NORMAL_90
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord, fields, replace
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.end_to_end import left_out
from costmodel.study.published.predictions import UTILISATIONS, Prediction, predict
from costmodel.study.published.provenance import dependences
from costmodel.study.published.reproduce import Refitted, load_cases
from costmodel.study.published.weights import NORMAL
from costmodel.workload.scenario import Scenario
from costmodel.workload.site_scatter import Separation, SiteScatter
from reports.fits.composition import is_evidence

FEWEST = 4  # figures of a site of which anchors are tried
TRIALS = 200  # of sets of anchors, of a site with more
MOST = 40.0  # figures that a site counts as at most
FARTHEST = 3.0  # robust standard deviations from a site's median, beyond which a figure counts as that far
COMPOSED = "vtrain_single"  # begins the ids of steps that their source composed of measured parts
REPEAT = 0.0021  # see the file's sources


class _Figure(Record):
    """A run's log of measured over predicted time, its deviation with its publication and without it."""

    log: float
    scenario: Scenario
    deviation: float
    without: float
    is_evidence: bool


class Site(Record):
    """The figures of a publication with one framework on one device, terms fitted without the publication.

    logs: of measured over predicted time; deviations: of each, by its 80 % interval; without: those of the scales that
    leave the publication out; evidence: which say how runs scatter, as for the scales.
    """

    publication: str
    framework: str
    device: str
    logs: Array
    deviations: Array
    without: Array
    evidence: npt.NDArray[np.bool_]
    separation: Separation

    def part(self, rows: npt.NDArray[np.bool_]) -> Site:
        """Return the site with some of its figures."""
        grid = np.ix_(rows, rows)
        separation = Separation(*(np.asarray(getattr(self.separation, name))[grid] for name in fields(Separation)))
        return replace(
            self, logs=self.logs[rows], deviations=self.deviations[rows], without=self.without[rows],
            evidence=self.evidence[rows], separation=separation,
        )  # fmt: skip

    @property
    def errors(self) -> Array:
        """Return logs over deviations, those far from their median moved to `FARTHEST` robust deviations from it."""
        errors: Array = self.logs / self.deviations
        middle = np.median(errors)
        reach = FARTHEST * NORMAL * float(np.median(np.abs(errors - middle)))
        return errors if len(errors) < FEWEST else np.clip(errors, middle - reach, middle + reach)


def sites_of(cases: Iterable[Case], library: Library) -> list[Site]:
    """Return the sites of training cases whose devices have fitted kernels, one figure a case."""
    used = [
        case
        for case in cases
        if case.skip is None and case.scenario is not None and case.case_class == "training" and case.source.verified
        if not case.id.startswith(COMPOSED)
    ]
    unseen = left_out(used, [str(root) for root in library.roots[:-1]])
    rows: dict[tuple[str, str, str], list[_Figure]] = {}
    for case in used:
        changed = replace(case, overrides={**case.overrides, **unseen.changes.get(case.id, {})})
        for one in itertools.islice(_figures(changed, library, unseen.refitted), 1):
            key = case.publication, one.scenario.framework.name, one.scenario.cluster.device.name
            rows.setdefault(key, []).append(one)
    return [_site(key, found) for key, found in rows.items()]


def _figures(case: Case, library: Library, refitted: Refitted) -> Iterator[_Figure]:
    try:
        prediction = predict(case, library.roots, library)
        if prediction.infeasible or prediction.point is None or prediction.point.basis()["roofline"] > 0.5:
            return
        for expected in case.expect:
            power = -1.0 if expected.metric in UTILISATIONS else POWERS.get(expected.metric)
            if expected.check == "value" and isinstance(expected.value, float) and power is not None:
                value = prediction.value(expected.metric, case.conventions).value
                if value:
                    log = power * math.log(expected.value / value)
                    found = dependences(case, prediction, library)
                    is_one = is_evidence(case, expected.metric, found, refitted.fields)
                    yield _Figure(log, prediction.scenario, *_deviations(case, prediction, refitted), is_one)
    except CostModelError:  # `reproduce` says so
        return


def _deviations(case: Case, prediction: Prediction, refitted: Refitted) -> tuple[float, float]:
    """Return the deviation of a run's log time by its interval, with the scales as they are and without its source."""
    assert prediction.workload is not None, "a training step"
    scenario = prediction.scenario
    known, without = prediction.workload, prediction.workload.with_families(refitted.runs.get(case.publication, {}))
    found = []
    for calibration in (each.calibration(scenario) for each in (known, without)):
        step = evaluate(scenario, calibration)
        assert isinstance(step, TrainingEvaluation), "a training step"
        found.append(float(step.deviation(calibration)))
    return found[0], found[1]


def _site(key: tuple[str, str, str], found: Sequence[_Figure]) -> Site:
    """Return a site, the first figure of each run."""
    rows: list[_Figure] = []
    for one in found:
        if not any(float(separation(one.scenario, other.scenario).same) for other in rows):
            rows.append(one)
    pairs = [[separation(one.scenario, other.scenario) for other in rows] for one in rows]
    grids = (np.array([[float(getattr(pair, name)) for pair in row] for row in pairs]) for name in fields(Separation))
    logs, deviations, without = np.array([(one.log, one.deviation, one.without) for one in rows]).T
    evidence = np.array([one.is_evidence for one in rows], dtype=bool)
    return Site(*key, logs, deviations, without, evidence, Separation(*grids))


def fit(sites: Sequence[Site]) -> SiteScatter:
    """Return the shares and the distances that make the errors of all sites likeliest, each site counting as `MOST`.

    minimise  sum over sites of min(1, MOST/n) * (log det C + u C^-1 u) / 2 + |x|^2 / 2,     u = logs / deviations
    shares    (site, alike, own) = exp(x_1, x_2, 0) / their sum
    distances length, kinds = exp(x_3, x_4), within a factor of e of one

    The second stage of one model: the deviations are those of the intervals of whole runs, which are fitted first
    [Joe, Multivariate Models and Dependence Concepts, 1997, chapter 10, inference functions for margins].
    """
    used = [site.part(site.evidence) for site in sites if site.evidence.any()]
    errors = [site.errors for site in used]

    def loss(point: Array) -> float:
        scatter, total = _scatter(point), 0.5 * float(point @ point)
        for site, scaled in zip(used, errors, strict=True):
            matrix = scatter.correlation(site.separation)
            likely = float(np.linalg.slogdet(matrix)[1]) + float(scaled @ np.linalg.solve(matrix, scaled))
            total += 0.5 * min(1.0, MOST / len(scaled)) * likely
        return total

    found: Any = minimize(loss, np.zeros(4), method="L-BFGS-B")
    return _scatter(found.x)


def _scatter(point: Array) -> SiteScatter:
    weights = np.exp([*point[:2], 0.0])
    site, alike, _ = (weights / weights.sum()).tolist()
    length, kinds = np.exp(point[2:]).tolist()
    return SiteScatter(site=site, alike=alike, repeat=REPEAT, length=length, kinds=kinds)


class Score(ValueRecord):
    """Errors of a site's figures: mean and median of the absolute ones, and the share inside 80 % intervals.

    width: mean half of these [log].
    """

    mean: float
    median: float
    inside: float
    width: float


def score(site: Site, scatter: SiteScatter, anchors: int) -> Score:
    """Return the errors of a site's other figures, over all sets of so many of its figures as anchors, or `TRIALS`."""
    size, matrix, rng = len(site.logs), scatter.correlation(site.separation), np.random.default_rng(0)
    sets = list(itertools.islice(itertools.combinations(range(size), anchors), 10 * TRIALS))
    if len(sets) > TRIALS:
        sets = [tuple(rng.choice(size, anchors, replace=False).tolist()) for _ in range(TRIALS)]
    left_over: list[Array] = []
    halves: list[Array] = []
    for chosen in map(list, sets):
        others = [row for row in range(size) if row not in chosen]
        deviations = site.without[others]
        mean, left = np.zeros(len(others)), np.ones(len(others))
        if chosen:
            among = matrix[np.ix_(chosen, chosen)]
            known = site.logs[chosen].tolist(), site.without[chosen].tolist()
            mean, left = scatter.posterior(*known, among, list(matrix[np.ix_(chosen, others)]))
        left_over.append(site.logs[others] - deviations * mean)
        halves.append(NORMAL_90 * deviations * left)
    off, half = np.concatenate(left_over), np.concatenate(halves)
    errors = _errors(off)
    return Score(
        float(errors.mean()), float(np.median(errors)), float((np.abs(off) <= half).mean()), float(half.mean())
    )


def least(site: Site) -> tuple[float, float]:
    """Return the mean and median error of a site's figures beside the one factor that leaves the least mean.

    It is known from all of them: what no factor of a site, however well known, takes away. The mean of
    |exp(c - log) - 1| is convex in exp(c) and bends at the logs alone, so its least is at one of them.
    """
    tried = [_errors(site.logs - one) for one in site.logs]
    best = min(tried, key=lambda errors: float(errors.mean()))
    return float(best.mean()), float(np.median(best))


def _errors(logs: Array) -> Array:
    """Return |predicted / measured - 1| of logs of measured over predicted time."""
    errors: Array = np.abs(np.exp(-logs) - 1.0)
    return errors


def table(sites: Sequence[Site]) -> Iterator[tuple[Site, Mapping[int, Score]]]:
    """Yield each site of `FEWEST` figures or more, with its errors by number of anchors, scatter fitted without it."""
    for site in sites:
        if len(site.logs) >= FEWEST:
            scatter = fit([other for other in sites if other.publication != site.publication])
            yield site, {anchors: score(site, scatter, anchors) for anchors in (0, 1, 3)}


def render(sites: Sequence[Site]) -> str:
    """Return the text of the file."""
    scatter = fit(sites)
    used = [site.part(site.evidence) for site in sites if site.evidence.any()]
    names = list(fields(SiteScatter))
    values = ", ".join(f"{name}: {float(f'{getattr(scatter, name):.3g}'):g}" for name in names)
    figures, publications = sum(len(site.logs) for site in used), {site.publication for site in used}
    return f"""\
schema: costmodel/site_scatter@1
name: site_scatter
training: {{{values}, rows: {figures}, publications: {len(publications)}}}
sources:
  - fields: [training]
    cite: "the published training cases of the catalogue: workloads/published"
    kind: derived
    rests_on: [{", ".join(sorted(publications))}]
    note: >-
      Likeliest shares of the variance of whole runs, whose deviations are those of `composition`, and distances at
      which runs are alike, for the figures of {len(used)} pairs of publication and framework on a device. Made by
      `python -m reports.fits.site_scatter --output hardware/calibrations/site_scatter.yaml`.
  - fields: [training.repeat]
    cite: "MLPerf Training 5.1, result logs: up to three runs of a submission differ by 0.21 % (median of 21)"
    kind: measurement
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what anchors are worth, publication by publication; write the file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.site_scatter", description=main.__doc__)
    parser.add_argument("--output", type=Path, help="file to write")
    chosen = parser.parse_args(arguments)
    sites = sites_of(load_cases([])[0], Library())
    scores = list(table(sites))
    sys.stdout.write("errors in per cent, mean / median (share inside 80 % intervals), scatter fitted without each\n")
    for site, found in scores:
        cells = "  ".join(
            f"{n}: {100 * s.mean:5.2f} / {100 * s.median:5.2f} ({s.inside:.0%} in {s.width:.3f})"
            for n, s in found.items()
        )
        sys.stdout.write(f"{site.publication:24} {site.framework:14} {site.device:14} {len(site.logs):4}  {cells}\n")
    for anchors in (0, 1, 3):
        means, medians = ([getattr(found[anchors], name) for _, found in scores] for name in ("mean", "median"))
        better = np.mean([found[anchors].mean < found[0].mean for _, found in scores])
        inside, width = (
            np.mean([getattr(found[anchors], name) for _, found in scores]) for name in ("inside", "width")
        )
        sys.stdout.write(
            f"{anchors} anchors: {100 * np.mean(means):.2f} / {100 * np.mean(medians):.2f}, better in {better:.0%}, "
            f"{inside:.0%} inside +-{width:.3f}\n"
        )
    if chosen.output is not None:
        text = render(sites)
        write_whole(chosen.output, [text.encode("utf-8")])
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
