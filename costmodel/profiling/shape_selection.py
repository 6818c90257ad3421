"""Which kernel to time next: the one that the measured ones say least about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costmodel.profiling.shapes import Shape

ENOUGH = 20  # rows of a family, from which on it can be fitted
UNKNOWN = 1.0  # half width from which on nothing is known of a kernel

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Family:
    """Kernels of one family: their places in units of its diameter, weights, and distances to the nearest measured one.

    count: of the measured ones; settled: what a weight falls to when there are `ENOUGH` of them.
    """

    shapes: list[Shape]
    places: Array
    weights: Array
    distances: Array
    count: int
    settled: float
    score: float = 0.0
    place: int = 0

    def find(self) -> None:
        """Find the largest weight x distance, and where it is; below zero where all are measured."""
        weights = self.weights if self.count < ENOUGH else np.minimum(self.weights, self.settled)
        scores = weights * self.distances
        self.place = int(np.argmax(scores))
        self.score = float(scores[self.place])

    def take(self) -> Shape:
        """Return the kernel that was found, which counts as measured from here on."""
        chosen = self.place
        away = np.sqrt(((self.places - self.places[chosen]) ** 2).sum(axis=1))
        self.distances = np.minimum(self.distances, away)
        self.distances[chosen] = -1.0
        self.count += 1
        self.find()
        return self.shapes[chosen]


def most_informative(shapes: Sequence[Shape], measured: frozenset[str], widths: Array) -> Iterator[Shape]:
    """Yield the kernels that are not measured, the most informative first.

        next = argmax over i of w_i * min over measured j of the same family of |x_i - x_j| / D

    A greedy farthest-point design (Gonzalez, Theoretical Computer Science 38, 1985) in log-shape space: x are
    binary logarithms of the sizes, D the diameter of the family, w the half width of the kernel's predicted 80 %
    interval over its time; when a family has the rows that a fit needs, at most the median of all w below one. A family
    of which nothing is measured is as far away as its own diameter, and begins in its middle.

    shapes: candidates and measured ones; measured: `row_id` of those; widths: w, of all shapes.
    """
    families = _families(shapes, measured, widths)
    for family in families:
        family.find()
    while families:
        best = max(families, key=lambda family: family.score)
        if best.score < 0.0:
            return
        yield best.take()


def _families(shapes: Sequence[Shape], measured: frozenset[str], widths: Array) -> list[_Family]:
    members: dict[tuple[str, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape.family, []).append(index)
    families = []
    known = widths[widths < UNKNOWN]
    settled = float(np.median(known)) if len(known) else UNKNOWN
    for indices in members.values():
        own = [shapes[index] for index in indices]
        places = np.array([shape.point() for shape in own], dtype=np.float64)
        places = places / max(float(np.sqrt((np.ptp(places, axis=0) ** 2).sum())), 1.0)
        done = np.array([shape.row_id in measured for shape in own])
        if done.all():
            continue
        families.append(_Family(own, places, widths[indices], _distances(places, done), int(done.sum()), settled))
    return families


def _distances(places: Array, done: npt.NDArray[np.bool_]) -> Array:
    """Return how far every place is from the nearest that is done; those themselves are never the farthest."""
    if not done.any():
        off_centre = np.sqrt(((places - np.median(places, axis=0)) ** 2).sum(axis=1))
        nearest: Array = 1.0 + 1e-3 * (1.0 - off_centre)
        return nearest
    nearest = np.full(len(places), np.inf)
    for place in places[done]:
        nearest = np.minimum(nearest, np.sqrt(((places - place) ** 2).sum(axis=1)))
    nearest[done] = -1.0
    return nearest
