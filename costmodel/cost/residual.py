"""The smooth correction that measurements add to a physical form: a function of a kernel's shape, never of hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from costmodel.quantities import Array, Mask, Quantity, maximum, minimum

Features: TypeAlias = "Sequence[Quantity]"  # binary logarithms of a kernel's sizes, one per axis of its shape space


ROUNDING = 1e-4  # octaves: a stored limit has six digits


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """Log of measured over physical time, as bumps around support points in log-shape space.

        r(x) = sum_i w_i * exp(-|(x - c_i) / l|^2 / 2),   factor = exp(r)

    It interpolates between measured shapes and fades to a factor of one away from them. axes: names of the features;
    lengths: l, one per axis [octaves]; centres: c, shape (supports, axes) [octaves]; weights: w, shape (supports,);
    scatter: how far measured times lie about what it gives, by shape; none where that is the same for all shapes.
    """

    axes: tuple[str, ...]
    lengths: Array
    centres: Array
    weights: Array
    scatter: Scatter | None = None

    def factor(self, features: Features) -> Quantity:
        """Return measured over physical time at a shape; features broadcast."""
        if not any(isinstance(value, np.ndarray) for value in features):
            return float(np.exp(self.weights @ np.exp(-0.5 * self._squares(features))))
        correction: Quantity = 0.0
        squares = [self._square(axis, value) for axis, value in enumerate(features)]
        for support, weight in enumerate(self.weights):
            total: Quantity = 0.0
            for square in squares:
                total = total + square[support]
            correction = correction + weight * np.exp(-0.5 * total)
        factor: Array = np.exp(correction)
        return factor

    def distance(self, features: Features) -> Quantity:
        """Return how far the nearest support point is, in lengths."""
        if not any(isinstance(value, np.ndarray) for value in features):
            return float(np.sqrt(self._squares(features).min()))
        nearest: Quantity = np.inf
        squares = [self._square(axis, value) for axis, value in enumerate(features)]
        for support in range(len(self.weights)):
            total: Quantity = 0.0
            for square in squares:
                total = total + square[support]
            nearest = minimum(nearest, total)
        distance: Array = np.sqrt(nearest)
        return distance

    def _squares(self, features: Features) -> Array:
        """Return the squared distances of one shape to all support points, in lengths."""
        offsets = (self.centres - np.array(features, dtype=np.float64)) / self.lengths
        squares: Array = (offsets * offsets).sum(axis=1)
        return squares

    def _square(self, axis: int, value: Quantity) -> Array:
        """Return the squared distance along one axis, support points on a new leading axis."""
        values = np.asarray(value, dtype=np.float64)
        offsets: Array = (values - self.centres[:, axis].reshape(-1, *(1,) * values.ndim)) / self.lengths[axis]
        square: Array = offsets * offsets
        return square


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """How wide a family's spread is at a shape, over what it is for all shapes of the same predicted time.

        width = level * exp(sum_i w_i * exp(-|(x - c_i) / l|^2 / 2))

    Far from all supports it is `level`. bumps: the exponential, with c, l and w as those of a residual.
    """

    bumps: Residual
    level: float

    def width(self, features: Features) -> Quantity:
        """Return the width at a shape; features broadcast."""
        return self.level * self.bumps.factor(features)


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """The shapes that were measured: smallest and largest feature per axis [octaves].

    radius: a shape this near to a support point counts as measured [lengths].
    """

    low: Array
    high: Array
    radius: float

    def holds(self, features: Features) -> Mask:
        """Tell where a shape lies between the smallest and the largest measured sizes."""
        inside: Mask = True
        for low, value, high in zip(self.low, features, self.high, strict=True):
            inside = inside & (value >= low - ROUNDING) & (value <= high + ROUNDING)
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class Nearness:
    """How wide a family's spread is at a shape, over what it is where no group of shapes around was measured.

        width = share + (1 - share) * min(max((distance - near) / (far - near), 0), 1)

    distance: to the nearest support point; near, far: medians of it where single shapes and where whole groups of
    shapes were held out [lengths]; share: width of the 80 % interval about the former predictions over that about the
    latter.
    """

    near: float
    far: float
    share: float

    def width(self, distance: Quantity) -> Quantity:
        """Return the width at a distance from the nearest support point [lengths]."""
        place = minimum(maximum((distance - self.near) / (self.far - self.near), 0.0), 1.0)
        return self.share + (1.0 - self.share) * place
