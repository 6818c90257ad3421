"""Which kernel to time next: the one that the measured ones say least about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from costmodel.profiling.shapes import Shape
from costmodel.records import MutableRecord

ENOUGH = 20  # rows of a family, from which on it can be fitted
UNKNOWN = 1.0  # half width from which on nothing is known of a kernel

Array = npt.NDArray[np.float64]


class _Family(MutableRecord):
    """Kernels of one family: their places in units of its diameter, weights, and distances to the nearest measured one.

    count: of the measured ones.
    settled: what a weight falls to when there are `ENOUGH` of them.
    """

    name: tuple[str, ...]
    leads: bool

    shapes: list[Shape]
    places: Array
    weights: Array
    distances: Array
    count: int
    settled: float
    score: float = 0.0
    row: int = 0

    @property
    def begins(self) -> bool:
        """Tell whether this family comes before those that take little of a model's time."""
        return self.leads and self.count < ENOUGH

    def find(self) -> None:
        """Find the largest weight x distance, and where it is. Below zero where all are measured."""
        weights = self.weights if self.count < ENOUGH else np.minimum(self.weights, self.settled)
        scores = weights * self.distances
        self.row = int(np.argmax(scores))
        self.score = float(scores[self.row])

    def take(self) -> Shape:
        """Return the chosen kernel, which counts as measured from here on."""
        chosen = self.row
        distance = np.sqrt(((self.places - self.places[chosen]) ** 2).sum(axis=1))
        self.distances = np.minimum(self.distances, distance)
        self.distances[chosen] = -1.0
        self.count += 1
        self.find()
        return self.shapes[chosen]


def most_informative(
    shapes: Sequence[Shape], measured: frozenset[str], widths: Array,
    costs: Mapping[tuple[str, ...], float] = MappingProxyType({}),
) -> Iterator[Shape]:  # fmt: skip
    """Yield the kernels that are not measured, the most informative first.

        next = argmax over i of w_i * min over measured j of the same family of |x_i - x_j| / D / sqrt(c)

    A greedy farthest-point design (Gonzalez, Theoretical Computer Science 38, 1985) in log-shape space: x are binary
    logarithms of the sizes, D the diameter of the family, w the half width of the kernel's predicted 80 % interval over
    its time. When a family has the rows that a fit needs, at most the median of all w below one. A family of which
    nothing is measured is as distant as its own diameter, and begins in its middle. c is what a row of the family has
    cost so far [s], with all that is planned and compiled before it runs. A family that has no row yet costs the mean.
    The root is that of the optimal allocation n ~ S / sqrt(c) of samples to strata (Cochran, Sampling Techniques, 5.5).
    Families that lead (products and attention, both ways) come first, until each can be fitted.

    shapes: candidates and measured ones.
    measured: `row_id` of those.
    widths: w, of all shapes.
    costs: seconds a row by family, read anew for every kernel.
    """
    families = _families(shapes, measured, widths)
    for family in families:
        family.find()
    while families:
        mean = sum(costs.values()) / len(costs) if costs else 1.0
        scores = [
            (family.begins and family.score >= 0.0, family.score / math.sqrt(costs.get(family.name, mean) / mean))
            for family in families
        ]
        best = max(range(len(families)), key=scores.__getitem__)
        if families[best].score < 0.0:
            return
        yield families[best].take()


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
        families.append(
            _Family(
                name=own[0].family, leads=own[0].leads, shapes=own, places=places, weights=widths[indices],
                distances=_distances(places, done), count=int(done.sum()), settled=settled,
            )
        )  # fmt: skip
    return families


def _distances(places: Array, done: npt.NDArray[np.bool_]) -> Array:
    """Return the distance of every kernel to the nearest that is done. Those themselves are never the farthest."""
    if not done.any():
        off_centre = np.sqrt(((places - np.median(places, axis=0)) ** 2).sum(axis=1))
        nearest: Array = 1.0 + 1e-3 * (1.0 - off_centre)
        return nearest
    nearest = np.full(len(places), np.inf)
    for row in places[done]:
        nearest = np.minimum(nearest, np.sqrt(((places - row) ** 2).sum(axis=1)))
    nearest[done] = -1.0
    return nearest
