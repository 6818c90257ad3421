"""How runs of a site scatter about predictions: `hardware/calibrations/site_scatter.yaml`, and what anchors are worth.

python -m reports.fits.site_scatter --output hardware/calibrations/site_scatter.yaml
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from costmodel.analytic.anchors import POWERS, apart
from costmodel.analytic.intervals import NORMAL_90
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.predictions import UTILISATIONS, predict
from costmodel.study.reproduce import load_cases
from costmodel.study.weights import NORMAL
from costmodel.workload.scenario import Scenario
from costmodel.workload.site_scatter import FREEDOM, Apart, SiteScatter, spread_of

FEWEST = 4  # figures of a site of which anchors are tried
TRIALS = 200  # of sets of anchors, of a site with more
MOST = 40.0  # figures that a site counts as at most
FARTHEST = 3.0  # robust standard deviations from a site's median, beyond which a figure counts as that far
COMPOSED = "vtrain_single"  # begins the ids of steps that their source composed of measured parts
REPEAT = 0.0021  # see the file's sources
FITTED = ("site", "alike", "own")
LENGTH = KINDS = 1.0  # chosen: decision 0083
_START = (0.05, 0.05, 0.04)
_WIDTH = 1.0  # of the prior about `_START`, in factors of e: what figures do not determine stays there
_DECIMALS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """The figures of a publication with one framework on one device. logs: of measured over predicted time."""

    publication: str
    framework: str
    device: str
    logs: Array
    apart: Apart

    @property
    def clipped(self) -> Array:
        """Return the logs, those far from their median moved to `FARTHEST` robust standard deviations from it."""
        middle = np.median(self.logs)
        reach = FARTHEST * NORMAL * float(np.median(np.abs(self.logs - middle)))
        return self.logs if len(self.logs) < FEWEST else np.clip(self.logs, middle - reach, middle + reach)


def sites_of(cases: Iterable[Case], library: Library) -> list[Site]:
    """Return the sites of training cases whose devices have fitted kernels, one figure a case."""
    rows: dict[tuple[str, str, str], list[tuple[float, Scenario]]] = {}
    for case in cases:
        if case.skip is None and case.scenario is not None and case.case_class == "training":
            if not case.source.verified or case.id.startswith(COMPOSED):
                continue
            for log, scenario in itertools.islice(_figures(case, library), 1):
                key = case.publication, scenario.framework.name, scenario.cluster.device.name
                rows.setdefault(key, []).append((log, scenario))
    return [_site(key, found) for key, found in rows.items()]


def _figures(case: Case, library: Library) -> Iterator[tuple[float, Scenario]]:
    try:
        prediction = predict(case, library.roots, library)
        if prediction.infeasible or prediction.point is None or prediction.point.basis()["roofline"] > 0.5:
            return
        for expected in case.expect:
            power = -1.0 if expected.metric in UTILISATIONS else POWERS.get(expected.metric)
            if expected.check == "value" and isinstance(expected.value, float) and power is not None:
                value = prediction.value(expected.metric, case.conventions).value
                if value:
                    yield power * math.log(expected.value / value), prediction.scenario
    except CostModelError:  # `reproduce` says so
        return


def _site(key: tuple[str, str, str], found: Sequence[tuple[float, Scenario]]) -> Site:
    """Return a site, the first figure of each run."""
    rows: list[tuple[float, Scenario]] = []
    for log, scenario in found:
        if not any(float(apart(scenario, other).same) for _, other in rows):
            rows.append((log, scenario))
    pairs = [[apart(one, other) for _, other in rows] for _, one in rows]
    grids = (np.array([[float(getattr(pair, name)) for pair in row] for row in pairs]) for name in Apart.__slots__)
    return Site(*key, np.array([log for log, _ in rows]), Apart(*grids))


def fit(sites: Sequence[Site]) -> SiteScatter:
    """Return the scales that make the figures of all sites likeliest, each site counting as `MOST`.

    minimise  sum over sites of min(1, MOST/n) * (log det K + (nu + n) log(1 + e K^-1 e / nu)) / 2
              + sum of (log(value / start) / width)^2 / 2

    A site's figures are one draw of a multivariate Student's t with nu degrees of freedom: the few sites that are far
    off as a whole, such as those of devices without fits, say little of all others.
    """

    def loss(logs: Array) -> float:
        scatter = _scatter(logs)
        total = 0.5 * float(np.sum((logs - np.log(_START)) ** 2)) / _WIDTH**2
        for site in sites:
            matrix, errors = _matrix(site, scatter), site.clipped
            weight = min(1.0, MOST / len(errors))
            far = float(errors @ np.linalg.solve(matrix, errors)) / FREEDOM
            likely = float(np.linalg.slogdet(matrix)[1]) + (FREEDOM + len(errors)) * math.log1p(far)
            total += 0.5 * weight * likely
        return total

    found: Any = minimize(loss, np.log(_START), method="Nelder-Mead", options={"xatol": 0.01, "fatol": 0.01})
    return _scatter(found.x)


def _scatter(logs: Array) -> SiteScatter:
    values = dict(zip(FITTED, np.exp(logs).tolist(), strict=True))
    return SiteScatter(repeat=REPEAT, length=LENGTH, kinds=KINDS, **values)


def _matrix(site: Site, scatter: SiteScatter) -> Array:
    """Return the covariance of a site's figures. Two figures of alike runs are different runs, whatever they share."""
    separate = Apart(site.apart.sizes, site.apart.kinds, np.eye(len(site.logs)))
    return scatter.covariance(separate) + scatter.repeat**2 * np.eye(len(site.logs))


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of a site's figures: mean and median of the absolute ones, and the share inside 80 % intervals."""

    mean: float
    median: float
    inside: float


def score(site: Site, scatter: SiteScatter, anchors: int) -> Score:
    """Return the errors of a site's other figures, over all sets of so many of its figures as anchors, or `TRIALS`."""
    size, matrix, rng = len(site.logs), _matrix(site, scatter), np.random.default_rng(0)
    sets = list(itertools.islice(itertools.combinations(range(size), anchors), 10 * TRIALS))
    if len(sets) > TRIALS:
        sets = [tuple(rng.choice(size, anchors, replace=False).tolist()) for _ in range(TRIALS)]
    errors: list[float] = []
    inside: list[bool] = []
    for chosen in map(list, sets):
        others = [row for row in range(size) if row not in chosen]
        gain = np.linalg.solve(matrix[np.ix_(chosen, chosen)], matrix[np.ix_(chosen, others)]).T
        left = site.logs[others] - gain @ site.logs[chosen]
        known = site.logs[chosen]
        surprise = float(known @ np.linalg.solve(matrix[np.ix_(chosen, chosen)], known)) if chosen else 0.0
        variance = np.diag(matrix)[others] - np.sum(gain * matrix[np.ix_(others, chosen)], axis=1)
        variance = variance * spread_of(surprise, len(chosen))
        errors.extend(np.abs(np.exp(-left) - 1.0))
        inside.extend(np.abs(left) <= NORMAL_90 * np.sqrt(variance))
    return Score(float(np.mean(errors)), float(np.median(errors)), float(np.mean(inside)))


def table(sites: Sequence[Site]) -> Iterator[tuple[Site, Mapping[int, Score]]]:
    """Yield each site of `FEWEST` figures or more, with its errors by number of anchors, scatter fitted without it."""
    for site in sites:
        if len(site.logs) >= FEWEST:
            scatter = fit([other for other in sites if other.publication != site.publication])
            yield site, {anchors: score(site, scatter, anchors) for anchors in (0, 1, 3)}


def render(sites: Sequence[Site]) -> str:
    """Return the text of the file."""
    scatter = fit(sites)
    values = ", ".join(
        f"{name}: {float(f'{getattr(scatter, name):.3g}'):g}" for name in (*FITTED, "repeat", "length", "kinds")
    )
    figures, publications = sum(len(site.logs) for site in sites), len({site.publication for site in sites})
    return f"""\
schema: costmodel/site_scatter@1
name: site_scatter
training: {{{values}, rows: {figures}, publications: {publications}}}
sources:
  - fields: [training]
    cite: "the published training cases of the catalogue: workloads/published"
    kind: derived
    rests_on: [{", ".join(sorted({site.publication for site in sites}))}]
    note: >-
      Likeliest values for the figures of {len(sites)} pairs of publication and framework on a device. Made by
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
            f"{n}: {100 * s.mean:5.2f} / {100 * s.median:5.2f} ({s.inside:.0%})" for n, s in found.items()
        )
        sys.stdout.write(f"{site.publication:24} {site.framework:14} {site.device:14} {len(site.logs):4}  {cells}\n")
    for anchors in (0, 1, 3):
        means, medians = ([getattr(found[anchors], name) for _, found in scores] for name in ("mean", "median"))
        better = np.mean([found[anchors].mean < found[0].mean for _, found in scores])
        sys.stdout.write(
            f"{anchors} anchors: {100 * np.mean(means):.2f} / {100 * np.mean(medians):.2f}, better in {better:.0%}\n"
        )
    if chosen.output is not None:
        text = render(sites)
        write_whole(chosen.output, [text.encode("utf-8")])
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
