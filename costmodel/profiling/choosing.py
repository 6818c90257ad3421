"""Which kernel to time next: the one that the measured ones say least about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from costmodel.profiling.shapes import Shape

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Family:
    """Kernels of one family that are not measured: their places, weights, and distances to the nearest measured one."""

    shapes: list[Shape]
    places: Array
    weights: Array
    distances: Array

    def best(self) -> tuple[float, int]:
        """Return the largest weight x distance, and where it is."""
        scores = self.weights * self.distances
        place = int(np.argmax(scores))
        return float(scores[place]), place

    def take(self, place: int) -> Shape:
        """Return a kernel, which counts as measured from here on."""
        away = np.sqrt(((self.places - self.places[place]) ** 2).sum(axis=1))
        self.distances = np.minimum(self.distances, away)
        self.distances[place] = -1.0
        return self.shapes[place]


def most_informative(shapes: Sequence[Shape], measured: frozenset[str], widths: Array) -> Iterator[Shape]:
    """Yield the kernels that are not measured, the most informative first.

        next = argmax over i of w_i * min over measured j of the same family of |x_i - x_j|

    A greedy farthest-point design (Gonzalez, Theoretical Computer Science 38, 1985) in log-shape space: x are
    binary logarithms of the sizes [octaves], w the half width of the kernel's predicted 80 % interval over its time.
    A family of which nothing is measured is as far away as its own diameter, and begins in its middle.

    shapes: candidates and measured ones; measured: `row_id` of those; widths: w, of all shapes.
    """
    families = _families(shapes, measured, widths)
    while families:
        best = max(families, key=lambda family: family.best()[0])
        score, place = best.best()
        if score < 0.0:
            return
        yield best.take(place)


def _families(shapes: Sequence[Shape], measured: frozenset[str], widths: Array) -> list[_Family]:
    members: dict[tuple[str, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape.family, []).append(index)
    found = []
    for indices in members.values():
        own = [shapes[index] for index in indices]
        places = np.array([shape.point() for shape in own], dtype=np.float64)
        done = np.array([shape.row_id in measured for shape in own])
        if done.all():
            continue
        found.append(_Family(own, places, widths[indices], _distances(places, done)))
    return found


def _distances(places: Array, done: npt.NDArray[np.bool_]) -> Array:
    """Return how far every place is from the nearest that is done; those themselves are never the farthest."""
    if not done.any():
        span = np.sqrt(((places.max(axis=0) - places.min(axis=0)) ** 2).sum())
        off_centre = np.sqrt(((places - np.median(places, axis=0)) ** 2).sum(axis=1))
        nearest: Array = span + 1.0 - 1e-3 * off_centre
        return nearest
    nearest = np.full(len(places), np.inf)
    for place in places[done]:
        nearest = np.minimum(nearest, np.sqrt(((places - place) ** 2).sum(axis=1)))
    nearest[done] = -1.0
    return nearest
