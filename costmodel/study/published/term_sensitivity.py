"""What whole runs are predicted to take where terms of their framework have other values than the files say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from costmodel.analytic.grid import evaluate_grid
from costmodel.analytic.intervals import RATES, TIMES
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import CostModelError
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.schema import SI
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.fit_plan import TermFile
from costmodel.schema.references import Library
from costmodel.study.published.weights import weights_of

NODES = 17  # of each term's range

Terms: TypeAlias = Sequence[TermFile]
Values: TypeAlias = "tuple[float | None, ...]"  # of the terms in order; null: as the framework's file says
Ends: TypeAlias = "tuple[tuple[float, float] | None, ...]"  # of their 80 % intervals


class PublishedValue(Record):
    """A published figure that terms can move. of: the terms, by position; gap: log(predicted / published) at the
    values of the files; metric: of the result, which moves as the published one does."""

    case: Case
    of: tuple[int, ...]
    gap: float
    metric: str

    @property
    def late(self) -> float:
        """Return the log of predicted over published time."""
        return -self.gap if self.metric in RATES else self.gap


def weigh(figures: Sequence[PublishedValue]) -> Array:
    """Return the weights of figures, by the errors that the files' values leave (`weights_of`)."""
    return weights_of([one.case.publication for one in figures], [one.late for one in figures])


def path_of(case: Case, term: TermFile) -> str:
    """Return the path of a term in the scenario of a case, as `--set` takes it."""
    return f"scenarios.{case.scenario_name}.{term.path}"


def moved(case: Case, of: Sequence[int], terms: Terms, points: Array, library: Library) -> dict[str, Array]:
    """Return a case's metrics: first with the files' values, then with those of each column of `points`.

    of: the terms whose values the rows of `points` are. A value that the files leave out counts as zero.
    """
    resolved = resolve_case(case, library=library)
    paths = [path_of(case, terms[at]) for at in of]
    stated = np.array([[_number(resolved.value(path))] for path in paths])
    values = np.hstack([stated, points])
    changed = dict(case.overrides) | {path: SI(row) for path, row in zip(paths, values, strict=True)}
    (scenario,) = resolve_case(replace(case, overrides=changed), library=library).scenarios.values()
    calibration = load_calibration(scenario.cluster.device, scenario.framework, library.roots)
    metrics = evaluate_grid(scenario, calibration, (values.shape[1],)).metrics
    return {name: grid for name, grid in metrics.items() if isinstance(grid, np.ndarray)}


class Response(Record):
    """By how much the terms of a case move one of its metrics from where the files have it.

    nodes: values of each term in turn, ascending.
    times: over those of the files, at every combination of them, between which they are multilinear, as sums of parts
    are of which each term slows some.
    is_rate: the metric falls with them.
    """

    nodes: tuple[Array, ...]
    times: Array
    is_rate: bool

    def at(self, points: Array) -> Array:
        """Return the moves of the metric's log at the columns of `points`, whose rows are the terms' values."""
        ratio: Array = RegularGridInterpolator(self.nodes, self.times, bounds_error=False, fill_value=None)(points.T)
        return -np.log(ratio) if self.is_rate else np.log(ratio)


class Responses(MutableRecord, eq=False):
    """The responses of cases to the terms of a plan: each case is evaluated once, over a grid of all its terms."""

    terms: Terms
    library: Library
    _known: dict[tuple[str, tuple[int, ...]], dict[str, Response]] = field(default_factory=dict)

    def of(self, one: PublishedValue, of: tuple[int, ...]) -> Response:
        """Return the response of a figure to some of its terms. The others stay as the files have them."""
        key = one.case.id, of
        if key not in self._known:
            nodes = tuple(np.linspace(*self.terms[at].span, NODES) for at in of)
            points = np.array([each.ravel() for each in np.meshgrid(*nodes, indexing="ij")])
            grids = moved(one.case, of, self.terms, points, self.library)
            shape = tuple(map(len, nodes))
            self._known[key] = {
                name: Response(nodes, np.exp(sign * (grid_logs[1:] - grid_logs[0])).reshape(shape), sign < 0.0)
                for name, grid in grids.items()
                if name in TIMES | RATES
                for grid_logs, sign in ((logs(grid), -1.0 if name in RATES else 1.0),)
            }
        return self._known[key][one.metric]


def logs(metric: Array) -> Array:
    """Return the logs of a metric. Where a point does not fit, it has not moved."""
    with np.errstate(all="ignore"):
        return np.log(np.where(np.isnan(metric), metric[0], metric))


def moves(
    case: Case, of: Sequence[int], terms: Terms, values: Values, ends: Ends, library: Library
) -> Mapping[str, tuple[float, float]]:
    """Return by how much the ends of the terms move the log of each metric of a case, down and up.

        down = sqrt(sum over terms of (log m(values) - log m(one term at the end that lowers m))^2),   up likewise

    Nothing where the case cannot be computed.
    """
    known = [at for at in of if values[at] is not None and ends[at] is not None]
    if not known:
        return {}
    middle = np.array([values[at] for at in known], dtype=float)
    points = np.repeat(middle[:, None], 1 + 2 * len(known), axis=1)
    for row, at in enumerate(known):
        points[row, 1 + 2 * row : 3 + 2 * row] = ends[at]
    try:
        grids = moved(case, known, terms, points, library)
    except CostModelError:
        return {}
    result = {}
    for name, grid in grids.items():
        with np.errstate(invalid="ignore"):  # of a metric that is zero, such as a bubble
            change = logs(grid)[2:] - logs(grid)[1]
        pairs = np.where(np.isfinite(change), change, 0.0).reshape(-1, 2)
        down, up = np.minimum(pairs.min(axis=1), 0.0), np.maximum(pairs.max(axis=1), 0.0)
        result[name] = float(np.sqrt((down * down).sum())), float(np.sqrt((up * up).sum()))
    return result


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
