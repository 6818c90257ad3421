"""How well published runs determine a term: the 80 % interval of its value, the other terms held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from costmodel.quantities import Array
from costmodel.study.published.term_sensitivity import PublishedValue, Responses, Terms, weigh

SOFT = 0.1  # log error of a publication that counts as one standard deviation; beyond it errors count less than squared
RISE = 1.642  # the 80 % point of chi-squared with one degree of freedom
DISTANCES = 0.5 ** np.arange(8.0, -1.0, -1.0)  # from the fitted value, of a term's range


def soft(errors: Array) -> Array:
    """Return 2 (sqrt(1 + (e / SOFT)^2) - 1), which is (e / SOFT)^2 for small errors."""
    grown: Array = 2.0 * (np.sqrt(1.0 + (errors / SOFT) ** 2) - 1.0)
    return grown


def ends_of(
    figures: Sequence[PublishedValue], terms: Terms, free: Sequence[int], units: Array, held: Callable[[Array], Array],
    responses: Responses,
) -> list[tuple[float, float]]:  # fmt: skip
    """Return the ends of each free term's 80 % interval, in its own unit.

        C(x) = sum of w * soft(error of a figure at x) + (held(x) / SOFT)^2;   C(low) = C(high) = C(fitted) + RISE

    x runs over one term at a time. w: those of `weigh`, by which a publication's mean counts as one observation or
    less; held: residuals of what is known of the terms beside figures, for columns of units. An end that the bounds do
    not reach is the bound: the figures do not determine it.
    """
    scans = [np.clip(unit + np.concatenate([-DISTANCES, DISTANCES]), 0.0, 1.0) for unit in units]
    rises = _of_what_is_known(scans, units, held)
    for one, weight in zip(figures, weigh(figures), strict=True):
        for row, costs in _of_a_figure(one, terms, free, units, scans, responses):
            rises[row] += costs * weight
    result, half = [], len(DISTANCES)
    for row, at in enumerate(free):
        low, high = terms[at].span
        below, above = (_reach(DISTANCES, part) for part in (rises[row][:half], rises[row][half:]))
        ends = np.clip([units[row] - below, units[row] + above], 0.0, 1.0)
        result.append((float(low + ends[0] * (high - low)), float(low + ends[1] * (high - low))))
    return result


def _of_what_is_known(scans: Sequence[Array], units: Array, held: Callable[[Array], Array]) -> list[Array]:
    """Return by how much what is known beside figures grows along each term's scan."""
    rises = []
    for row, scan in enumerate(scans):
        columns = np.repeat(units[:, None], 1 + len(scan), axis=1)
        columns[row, 1:] = scan
        known = ((held(columns) / SOFT) ** 2).sum(axis=0)
        rises.append(known[1:] - known[0])
    return rises


def _of_a_figure(
    one: PublishedValue, terms: Terms, free: Sequence[int], units: Array, scans: Sequence[Array], responses: Responses
) -> Iterator[tuple[int, Array]]:
    """Yield the rows of a figure's terms, with by how much its own cost grows along each one's scan."""
    rows = [free.index(at) for at in one.of]
    lengths = [len(scans[row]) for row in rows]
    begins = 1 + np.cumsum([0, *lengths])
    columns = np.repeat(units[rows][:, None], int(begins[-1]), axis=1)
    for index, row in enumerate(rows):
        columns[index, begins[index] : begins[index + 1]] = scans[row]
    lows, highs = np.array([terms[at].span for at in one.of]).T[..., None]
    costs = soft(one.gap + responses.of(one, one.of).at(lows + columns * (highs - lows)))
    for index, row in enumerate(rows):
        yield row, costs[begins[index] : begins[index + 1]] - costs[0]


def _reach(distances: Array, rises: Array) -> float:
    """Return the distance at which the rise reaches `RISE`, infinite where it does not. Its root is about straight."""
    roots = np.sqrt(np.maximum(rises, 0.0))
    over = np.flatnonzero(roots >= np.sqrt(RISE))
    if not len(over):
        return float("inf")
    first = int(over[0])
    near, low = (0.0, 0.0) if first == 0 else (float(distances[first - 1]), float(roots[first - 1]))
    return near + (float(distances[first]) - near) * (float(np.sqrt(RISE)) - low) / (float(roots[first]) - low)
