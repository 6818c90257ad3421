"""How whole runs scatter about predictions: `hardware/calibrations/composition.yaml` and `site_scatter.yaml`.

python -m reports.fits.runs --output hardware

The log of measured over predicted time of a run is a sum of normal effects, with y ~ N(0, V) over the runs of a class:

    V_ij = [same site] (a^2 + sum over b of e_b^2 x_bi x_bj) exp(-d_ij^2 / 2) + [same run] r^2 + [i = j] k_i^2

a: of the site, a publication's runs of one framework on one device.
d: distance in log size, and between passes with prompts and those of decoding.
r: of the run, for each of these passes.
e_b: of a condition, of which each run meets a share x_b.
k: of its kernels. A run that nobody has seen is of a new publication: publications are the draws, and those that are
predicted well have the most figures. So each counts once, by the likelihood of its pairs of figures [composite
likelihood: Varin, Reid, Firth, Statistica Sinica 21, 2011; weights of informative clusters: Williamson, Datta, Satten,
Biometrics 59, 2003], with log-normal priors a factor of e wide,

    maximise  sum over publications of the mean over their pairs i, j of log N((y_i, y_j); 0, V) / 2
              - 1/2 sum over parameters of log(value / prior)^2

and of the P publications that a class or a condition has, 80 % intervals are those of Student's t [of a variance of so
many draws: Searle, Casella, McCulloch, Variance Components, 1992]; a prior so wide is worth half a draw:

    half width = t_(P + 1/2)(90 %) * deviation

Every publication is compared with predictions whose terms were fitted without it (`reports.fits.frameworks` first).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import stdtrit

from costmodel import units
from costmodel.analytic.anchors import separation
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.intervals import NORMAL_90, TIMES, TRIED, deviations, shares_of_conditions
from costmodel.analytic.paces import of_prompts
from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import Record, fields, replace
from costmodel.schema.anchor import MEASURED
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.predictions import predict, proportional_metric
from costmodel.study.published.provenance import IN_SAMPLE, Dependence, dependences, state_of
from costmodel.study.published.refits import left_out
from costmodel.study.published.reproduce import load_cases
from costmodel.workload.scenario import Scenario
from costmodel.workload.site_scatter import Separation, SiteScatter
from reports.fits.measured import Origin, calibration

CLASSES = ("training", "inference", "serving")  # of published cases
DIFFUSION = "diffusion"  # a class of its own among runs of inference, of which no anchors are
CONDITIONS = {
    "training": ("unknown", "experts", "untried"), "inference": ("unknown",),
    "serving": ("unknown", "drafted", "first_token"), DIFFUSION: (),
}  # fmt: skip
FAMILY = "composition_"
MOST = 60  # figures of a publication and class
COMPOSED = "vtrain_single"  # begins the ids of steps that their source composed of measured parts
START = {"site": 0.1, "run": 0.05, "length": 2.5, "passes": 0.5}  # prior medians
CONDITION = 0.2  # prior median of what a condition adds
PRIOR_DRAWS = 0.5  # n draws know a log deviation to 1 / sqrt(2 n), a prior a factor of e wide to 1
REPEAT = 0.0021  # median of runs of one submission: MLPerf Training 5.1, result logs
FEWEST, TRIALS = 4, 200  # runs of a site of which anchors are tried, and sets of them
UNTRIED = "untried"  # a training step on an architecture of which none was compared
LEAST = 0.01  # of a figure that follows from others of its run, which round


class RunError(Record):
    """One published time or rate of a whole run and its prediction.

    late: log of measured over predicted time.
    kernels: standard deviation of the log by its kernels.
    shares: by condition, the share of the run that meets it.
    architecture: of its device.
    metric: of the result, to which the figure is proportional.
    prompts: it is of passes with prompts alone.
    """

    publication: str
    site: tuple[str, str, str]
    late: float
    kernels: float
    shares: Mapping[str, float]
    architecture: str
    scenario: Scenario
    metric: str = ""
    prompts: bool = False


class Effects(Record):
    """Standard deviations of the effects of a class [log], and the length of a site's, in factors of e.

    As `fit` returns them, those of normal distributions with the 80 % intervals of their t.
    passes: distance between passes with prompts and those of decoding, in lengths.
    """

    site: float
    run: float
    length: float
    passes: float
    conditions: Mapping[str, float]

    @classmethod
    def of(cls, point: Array, conditions: Sequence[str]) -> Effects:
        """Return the effects at logs of their values over the prior medians."""
        site, run, length, passes = (START[name] * math.exp(x) for name, x in zip(START, point, strict=False))
        others = CONDITION * np.exp(point[len(START) :])
        return cls(site, run, length, passes, dict(zip(conditions, others.tolist(), strict=True)))

    def widened(self, publications: int, meeting: Mapping[str, int]) -> Effects:
        """Return the effects as of so many publications, and of so many that meet each condition."""
        factor = _widening(publications)
        conditions = {name: value * _widening(meeting[name]) for name, value in self.conditions.items()}
        return replace(self, site=self.site * factor, run=self.run * factor, conditions=conditions)

    @property
    def of_class(self) -> float:
        """Return the standard deviation of a run that meets no condition."""
        return math.hypot(self.site, self.run)

    @property
    def scatter(self) -> SiteScatter:
        """Return how runs of a site go together, as shares of their variance."""
        alike = self.site**2 / self.of_class**2
        return SiteScatter(site=0.0, alike=alike, repeat=REPEAT, length=self.length, kinds=1.0, passes=self.passes)


class Runs(Record):
    """The runs of a publication and class: their errors, and how far they are from one another."""

    late: Array
    kernels: Array
    shares: Array  # (runs, conditions)
    same_site: Array
    sizes: Array
    kinds: Array
    same: Array
    passes: Array

    @classmethod
    def of(cls, rows: Sequence[RunError], conditions: Sequence[str]) -> Runs:
        """Return the runs of some rows."""
        pairs = [[_separation(one, other) for other in rows] for one in rows]
        names = fields(Separation)
        grids = [np.array([[float(getattr(pair, name)) for pair in row] for row in pairs]) for name in names]
        same_site = np.array([[float(one.site == other.site) for other in rows] for one in rows])
        late, kernels = (np.array([getattr(row, name) for row in rows]) for name in ("late", "kernels"))
        shares = np.array([[row.shares.get(name, 0.0) for name in conditions] for row in rows])
        return cls(late, kernels, shares.reshape(len(rows), len(conditions)), same_site, *grids)

    def covariance(self, effects: Effects) -> Array:
        """Return V."""
        near = np.exp(-0.5 * (self.sizes / effects.length**2 + self.kinds + effects.passes**2 * self.passes))
        met = self.shares * np.array(list(effects.conditions.values()))
        site = self.same_site * near * (effects.site**2 + met @ met.T)
        own: Array = (
            site
            + self.same_site * self.same * (1.0 - self.passes) * effects.run**2
            + np.diag(self.kernels**2 + LEAST**2)
        )
        return own

    def as_anchors(self, effects: Effects) -> Array:
        """Return the covariance by which anchors move runs: s_i s_j c_ij, as `costmodel.analytic.anchors` has it.

        Errors of kernels go together as those of the runs do: few rows of devices with fits of their own tell, and of
        devices without they are most of an error.
        """
        met = (self.shares * np.array(list(effects.conditions.values()))) ** 2
        deviations = np.sqrt(effects.of_class**2 + met.sum(axis=1) + self.kernels**2)
        between = effects.scatter.correlation(Separation(self.sizes, self.kinds, self.same, self.passes))
        repeated: Array = np.outer(deviations, deviations) * self.same_site * between + REPEAT**2 * np.eye(len(met))
        return repeated

    def cost(self, effects: Effects) -> float:
        """Return minus the log likelihood of a run: half of that of a pair, as the mean over all pairs."""
        covariance, late = self.covariance(effects), self.late
        own = np.diag(covariance)
        if len(late) == 1:
            return float(0.5 * (np.log(own) + late**2 / own)[0])
        i, j = np.triu_indices(len(late), 1)
        common = covariance[i, j]
        determinant = own[i] * own[j] - common**2
        square = own[j] * late[i] ** 2 - 2.0 * common * late[i] * late[j] + own[i] * late[j] ** 2
        return float(np.mean(np.log(determinant) + square / determinant)) / 4.0


def _widening(publications: int) -> float:
    """Return the half of an 80 % interval of t of so many draws and a prior, over that of a normal distribution."""
    return float(stdtrit(publications + PRIOR_DRAWS, 0.9)) / NORMAL_90


def _separation(one: RunError, other: RunError) -> Separation:
    return replace(separation(one.scenario, other.scenario), passes=float(one.prompts != other.prompts))


def fit(rows: Sequence[RunError], case_class: str) -> Effects:
    """Return the effects of a class under which pairs of its errors are likeliest, as of so many publications."""
    conditions = [name for name in CONDITIONS[case_class] if any(row.shares.get(name, 0.0) > 0.0 for row in rows)]
    names = dict.fromkeys(row.publication for row in rows)
    parts = [Runs.of([row for row in rows if row.publication == name], conditions) for name in names]

    def cost(point: Array) -> float:
        effects = Effects.of(point, conditions)
        return sum(part.cost(effects) for part in parts) + 0.5 * float(point @ point)

    found: Any = minimize(cost, np.zeros(len(START) + len(conditions)), method="L-BFGS-B")
    meeting = Counter(conditions[at] for part in parts for at in np.flatnonzero(part.shares.any(axis=0)))
    return Effects.of(found.x, conditions).widened(len(parts), meeting)


def rows_of(cases: Sequence[Case], library: Library, most: int = MOST) -> Iterator[tuple[str, RunError]]:
    """Yield (class, row) of each value of a whole run that no fit of whole runs rests on; nothing for what fails."""
    used = chosen(cases, most=most)
    without = left_out(used, [str(root) for root in library.roots[:-1]])
    for case in used:
        changed = replace(case, overrides={**case.overrides, **without.changes.get(case.id, {})})
        try:
            for row in _rows(changed, library, without.refitted.fields):
                yield DIFFUSION if row.scenario.plan.phase == DIFFUSION else str(case.case_class), row
        except CostModelError:  # `reproduce` says so
            continue


def chosen(cases: Sequence[Case], classes: Sequence[str] = CLASSES, most: int = MOST) -> list[Case]:
    """Return the whole runs that were read at their source, at most so many of each class and publication, evenly."""
    by_publication: dict[tuple[str | None, str], list[Case]] = {}
    for case in cases:
        is_run = case.scenario is not None and case.case_class in classes and not case.id.startswith(COMPOSED)
        if is_run and case.skip is None and case.source.verified:
            by_publication.setdefault((case.case_class, case.publication), []).append(case)
    return [
        of[at]
        for of in by_publication.values()
        for at in sorted({round(each) for each in np.linspace(0, len(of) - 1, min(most, len(of))).tolist()})
    ]


def _rows(case: Case, library: Library, refitted: frozenset[str]) -> Iterator[RunError]:
    prediction = predict(case, library.roots, library)
    if prediction.workload is None or prediction.infeasible or not case.expect:
        return
    scenario = prediction.scenario
    if scenario.plan.phase not in (*MEASURED, DIFFUSION):  # its intervals are not of this law
        return
    evaluation = evaluate(scenario, prediction.workload.calibration(scenario))
    kernels = deviations(evaluation.metrics(None), evaluation.families(), evaluation.metrics)
    shares = {name: float(share) for name, share in shares_of_conditions(scenario).items()}
    found = [one for one in dependences(case, prediction, library) if not one.is_choice]
    device = scenario.cluster.device
    for expected in case.expect:
        metric = proportional_metric(expected.metric)
        value = prediction.value(expected.metric, case.conventions).value
        if expected.check != "value" or not isinstance(expected.value, float) or not value or metric not in kernels:
            continue
        centre, down, up = kernels[metric]
        if not is_evidence(case, expected.metric, found, refitted) or not math.isfinite(down + up):
            continue
        late = (math.log(expected.value / value) - centre) * (1.0 if metric in TIMES else -1.0)
        first = {"first_token": float(metric == "ttft" and scenario.plan.phase == "serving")}
        site = case.publication, scenario.framework.name, device.name
        deviation = (down + up) / 2.0 / NORMAL_90
        yield RunError(
            case.publication, site, late, deviation, shares | first, device.architecture, scenario,
            metric, of_prompts(scenario, metric),
        )  # fmt: skip


def is_evidence(case: Case, metric: str, found: Sequence[Dependence], refitted: frozenset[str]) -> bool:
    """Tell whether a figure says how whole runs scatter besides their kernels.

    One whose kernels were fitted to rows of its own repository does, if less than others; one that a whole-run term
    rests on does not.
    """
    state = state_of(case, metric, found, refitted)
    return state.name != IN_SAMPLE or all(place.startswith(CALIBRATIONS) for place in state.because)


def fitted(rows: Sequence[RunError], case_class: str) -> Effects:
    """Return the effects of a class; of training also what an architecture without any compared step adds.

    That is read from the architecture that the fewest publications have, as if it were such a one.
    """
    effects = fit(rows, case_class)
    if case_class != "training":
        return effects
    fewest = tried(rows)[-1]
    marked = [replace(row, shares={**row.shares, UNTRIED: float(row.architecture == fewest)}) for row in rows]
    return replace(effects, conditions={**effects.conditions, UNTRIED: fit(marked, case_class).conditions[UNTRIED]})


def tried(rows: Sequence[RunError]) -> list[str]:
    """Return the architectures of devices, those that most publications have first."""
    counts = Counter(architecture for architecture, _ in {(row.architecture, row.publication) for row in rows})
    return sorted(counts, key=lambda name: (-counts[name], name))


def half_widths(effects: Mapping[str, Effects]) -> dict[str, float]:
    """Return the half-widths of 80 % intervals by family of the calibration file [log]."""
    halves = {name: one.of_class for name, one in effects.items()}
    for one in effects.values():
        for name, value in one.conditions.items():
            halves[name] = max(value, halves.get(name, 0.0))
    return {f"{FAMILY}{name}": NORMAL_90 * value for name, value in halves.items()}


def inside(rows: Sequence[RunError], effects: Effects) -> float:
    """Return the share of rows inside their 80 % intervals, as their publication's mean."""
    runs = Runs.of(rows, list(effects.conditions))
    deviation = np.sqrt(np.diag(runs.covariance(effects)))
    return float(np.mean(np.abs(runs.late) <= NORMAL_90 * deviation))


class Anchored(Record):
    """Errors of a site's runs of which some are known: mean of the absolute ones, share inside 80 % intervals."""

    error: float
    inside: float


def anchored(rows: Sequence[RunError], effects: Effects, anchors: int) -> Anchored | None:
    """Return the errors of a site's other runs over all sets of so many known values, or `TRIALS` drawn among them.

    Other metrics of a known run are not among the others.

    mean = K_ok K_kk^-1 y_k,   variance = K_oo - K_ok K_kk^-1 K_ko  k: the known runs, o: the others

    Null where no set leaves another run.
    """
    runs = Runs.of(rows, list(effects.conditions))
    covariance, size, draws = runs.as_anchors(effects), len(rows), np.random.default_rng(0)
    sets = list(itertools.islice(itertools.combinations(range(size), anchors), TRIALS + 1))
    if len(sets) > TRIALS:
        sets = [tuple(draws.choice(size, anchors, replace=False).tolist()) for _ in range(TRIALS)]
    errors: list[Array] = []
    held: list[Array] = []
    for known in (np.array(each, dtype=np.intp) for each in sets):
        others = np.flatnonzero(~(runs.same[:, known] > 0.0).any(axis=1))
        others = np.setdiff1d(others, known)
        if not len(others):
            continue
        between = covariance[np.ix_(others, known)]
        gain = between @ np.linalg.inv(covariance[np.ix_(known, known)])
        off = runs.late[others] - gain @ runs.late[known]
        variance = np.diag(covariance)[others] - (gain * between).sum(axis=1)
        errors.append(np.abs(np.expm1(-off)))
        held.append(np.abs(off) <= NORMAL_90 * np.sqrt(variance))
    return Anchored(float(np.concatenate(errors).mean()), float(np.concatenate(held).mean())) if errors else None


def render(effects: Mapping[str, Effects], rows: Mapping[str, Sequence[RunError]]) -> str:
    """Return the text of `calibrations/composition`."""
    every = list(itertools.chain.from_iterable(rows.values()))
    lines: list[str] = []
    for name, half in half_widths(effects).items():
        kind = name.removeprefix(FAMILY)
        of = rows[kind] if kind in rows else [row for row in every if row.shares.get(kind, 0.0) > 0.0]
        if kind == UNTRIED:
            of = [row for row in rows["training"] if row.architecture == tried(rows["training"])[-1]]
        lines += _family(name, half, of, "" if kind in rows else ", at a share of one; what is added in quadrature")
    for name in tried(rows["training"]):
        of = [row for row in rows["training"] if row.architecture == name]
        lines += _family(f"{TRIED}{name}", 0.0, of, ", whose training steps were compared")
    origin = _origin(every, "What a run of a publication that was never seen adds to the interval of its kernels.")
    return calibration("composition", lines, origin, comment="measured over predicted times of whole runs")


def _family(name: str, width: float, rows: Sequence[RunError], more: str) -> Iterator[str]:
    low, high = (float(f"{math.exp(side * width):.4g}") for side in (-1.0, 1.0))
    knot = f"{{time: {units.render(1.0, 'time')}, low: {low:g}, median: 1, high: {high:g}, rows: {len(rows)}}}"
    publications = len({row.publication for row in rows})
    yield from (f"  {name}:", f"    spread: [{knot}]", f"    rows: {len(rows)}")
    yield f'    note: "{len(rows)} figures of {publications} publications{more}"'


def render_site(effects: Mapping[str, Effects], rows: Mapping[str, Sequence[RunError]]) -> str:
    """Return the text of `calibrations/site_scatter`."""
    rows = {name: rows[name] for name in CLASSES}
    every = list(itertools.chain.from_iterable(rows.values()))
    note = "Shares of the variance of whole runs, and distances at which runs are alike."
    lines = [
        "schema: costmodel/site_scatter@1", "name: site_scatter",
        *(f"{name}: {{{_scatter(one, rows[name], name)}}}" for name, one in effects.items() if name in rows),
        *_origin(every, note).lines(", ".join(rows)),
        f"  - fields: [{', '.join(f'{name}.repeat' for name in rows)}]",
        '    cite: "MLPerf Training 5.1, result logs: up to three runs of a submission, 0.21 % apart (median of 21)"',
        "    kind: measurement",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _scatter(effects: Effects, rows: Sequence[RunError], case_class: str) -> str:
    values = {name: getattr(effects.scatter, name) for name in fields(SiteScatter)}
    if case_class != "inference":
        del values["passes"]
    stated = ", ".join(f"{name}: {float(f'{value:.3g}'):g}" for name, value in values.items())
    return f"{stated}, rows: {len(rows)}, publications: {len({row.publication for row in rows})}"


def _origin(rows: Sequence[RunError], note: str) -> Origin:
    made = "Made by `python -m reports.fits.runs --output hardware`."
    rests_on = sorted({row.publication for row in rows})
    return Origin((note, made), "derived", rests_on, "the published cases of the catalogue: workloads/published")


def without_each(rows: Mapping[str, Sequence[RunError]], whole: Mapping[str, Effects]) -> dict[str, dict[str, Effects]]:
    """Return, by publication, the effects of the classes that leave it out; a class that it has not is as it is."""
    found: dict[str, dict[str, Effects]] = {}
    for case_class, of in rows.items():
        for name in sorted({row.publication for row in of}):
            rest = [row for row in of if row.publication != name]
            found.setdefault(name, dict(whole))[case_class] = fitted(rest, case_class) if rest else whole[case_class]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all published runs; write the calibration files, and beside the fit plan what leaves out each one."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.runs", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder `hardware` to write into")
    folder = parser.parse_args(arguments).output
    rows: dict[str, list[RunError]] = {name: [] for name in CONDITIONS}
    for case_class, row in rows_of(load_cases([])[0], Library()):
        rows[case_class].append(row)
    effects = {name: fitted(of, name) for name, of in rows.items()}
    others = without_each(rows, effects)
    document = {
        name: {key: float(f"{half:.4g}") for key, half in half_widths(each).items()} for name, each in others.items()
    }
    write_whole(folder / "calibrations/composition.yaml", [render(effects, rows).encode()])
    write_whole(folder / "calibrations/site_scatter.yaml", [render_site(effects, rows).encode()])
    write_whole(folder / "fit_plans/composition.json", [(json.dumps(document, indent=1) + "\n").encode()])
    for case_class, of in rows.items():
        sys.stdout.write(f"{case_class}: {effects[case_class]}\n")
        for name in sorted({row.publication for row in of}):
            own = [row for row in of if row.publication == name]
            share = inside(own, others[name][case_class])
            sys.stdout.write(f"  {name}: {len(own)} figures, {share:.0%} inside without it\n")
    for case_class, of in rows.items():
        sys.stdout.write(f"anchors in {case_class}:\n")
        sys.stdout.writelines(_worth(of, case_class, others))
    for kind, is_of in (("dense", 0.0), ("experts", 1.0)):
        part = [row for row in rows["training"] if row.shares["experts"] == is_of]
        sys.stdout.write(f"training, {kind}:\n")
        sys.stdout.writelines(_errors(part))
        sys.stdout.writelines(_worth(part, "training", others))


def _errors(rows: Sequence[RunError]) -> Iterator[str]:
    """Yield the mean and median error of each publication's runs, and of all, with terms fitted without it."""
    for name in (*sorted({row.publication for row in rows}), None):
        off = np.abs(np.expm1([-row.late for row in rows if name in (None, row.publication)]))
        yield f"  {name or 'all'}: {len(off)} runs, mean error {off.mean():.1%}, median {np.median(off):.1%}\n"


def _worth(rows: Sequence[RunError], case_class: str, others: Mapping[str, Mapping[str, Effects]]) -> Iterator[str]:
    """Yield what anchors are worth, site by site and in the mean. others: effects without each publication."""
    found: list[list[Anchored]] = []
    for site in sorted({row.site for row in rows}):
        own = [row for row in rows if row.site == site]
        tried = [anchored(own, others[site[0]][case_class], number) for number in (0, 1, 3)]
        known = [one for one in tried if one is not None]
        if len(own) >= FEWEST and len(known) == len(tried):
            found.append(known)
            cells = "  ".join(f"{100 * each.error:.1f} % ({each.inside:.0%})" for each in found[-1])
            yield f"{'/'.join(site)}: {len(own)} runs, mean error and share inside with 0, 1, 3 anchors: {cells}\n"
    for at, number in enumerate((0, 1, 3)):
        error, held = (float(np.mean([getattr(each[at], name) for each in found])) for name in ("error", "inside"))
        worse = np.mean([each[at].error > each[0].error for each in found])
        yield f"{number} anchors: {100 * error:.1f} %, {held:.0%} inside, worse than without at {worse:.0%} of sites\n"


if __name__ == "__main__":
    main()
