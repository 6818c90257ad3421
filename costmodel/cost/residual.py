"""The smooth correction that measurements add to a physical form: a function of a kernel's shape, never of hardware."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Array, Mask, Quantity, is_single, maximum, minimum
from costmodel.records import Record

Features: TypeAlias = "Sequence[Quantity]"  # binary logarithms of a kernel's sizes, one per axis of its shape space


CURVE_STEP = 1.0 / 512.0  # of the shortest bump
TEMPORARY = 32_768  # numbers of a temporary array that stays in the cache
GROUP_AXES = frozenset({"heads", "q_per_kv", "head_dims", "n", "k", "groups", "row_bytes", "top_k", "experts"})
"""Axes of shape spaces along which models differ: other axes are swept for each of them."""
FEW = 128  # shapes
KEPT = 256  # residuals whose bumps are kept by axes
ROUNDING = 1e-4  # octaves: a stored limit has six digits


class Residual(Record, dict=True):
    """Log of measured over physical time, as bumps around support points in log-shape space.

        r(x) = sum_i w_i * exp(-|(x - c_i) / l_i|^2 / 2),   factor = exp(r)

    It interpolates between measured shapes and fades to a factor of one away from them.

    axes: names of the features.
    lengths: the family's, one per axis, in which distances are [octaves].
    centres: c, shape (supports, axes) [octaves].
    weights: w, shape (supports,).
    dispersion: how far measured times lie about what it gives, by shape, none where that is the same for all shapes.
    bump_lengths: l, shape (supports, axes), none where all are `lengths` [octaves].
    """

    axes: tuple[str, ...]
    lengths: Array
    centres: Array
    weights: Array
    dispersion: Dispersion | None = None
    bump_lengths: Array | None = None

    def factor(self, features: Features) -> Quantity:
        """Return measured over physical time at a shape; features broadcast.

        A bump is the product of one over each axis: along an axis of one size it only scales the weights, and support
        points that differ on such axes alone are one. That pays from `FEW` shapes on.
        """
        if all(map(is_single, features)):
            return math.exp(self.weights @ np.exp(self._exponents @ _powers(features, ())))
        if math.prod(np.broadcast_shapes(*map(np.shape, features))) <= FEW:
            return np.asarray(np.exp(_sum_of_bumps(self.weights, self._exponents, features)))
        varied = [axis for axis, value in enumerate(features) if not is_single(value)]
        weights, lengths = self.weights, self._bump_lengths
        for axis in set(range(len(self.axes))).difference(varied):
            weights = weights * np.exp(-0.5 * _square(self.centres[:, axis], lengths[:, axis], features[axis], 0))
        bumps, which = _distinct_bumps(self, tuple(varied))
        heights = np.bincount(which, weights).astype(np.float64, copy=False)
        values = [features[axis] for axis in varied]
        curve = _Curve.of(np.asarray(values[0]), bumps.shortest) if len(values) == 1 else None
        if curve is not None:
            known = _sum_of_bumps(heights, bumps.exponents, [curve.places])
            return np.asarray(np.exp(curve.read(known, np.asarray(values[0]))))
        return np.asarray(np.exp(_sum_of_bumps(heights, bumps.exponents, values)))

    def distance(self, features: Features) -> Quantity:
        """Return how far the nearest support point is, in lengths."""
        if all(map(is_single, features)):
            offsets = (self.centres - np.array(features, dtype=np.float64)) / self.lengths
            return math.sqrt((offsets * offsets).sum(axis=1).min(initial=np.inf))
        nearest: Quantity = np.inf
        dimensions = max(map(np.ndim, features))
        for chunk in _chunks(len(self.weights), features):
            by_axis = (
                _square(self.centres[chunk, axis], self.lengths[axis], value, dimensions)
                for axis, value in enumerate(features)
            )
            squares = functools.reduce(operator.add, by_axis)
            nearest = minimum(nearest, squares.min(axis=0))
        distance: Array = np.sqrt(nearest)
        return distance

    def group_distance(self, features: Features) -> Quantity:
        """Return how far the nearest support is along the axes that name a group of shapes, `GROUP_AXES` [octaves]."""
        axes, groups = self._groups
        farthest = np.inf if len(groups) else 0.0
        nearest: Quantity = farthest
        if all(is_single(features[axis]) for axis in axes):
            offsets = groups - np.array([features[axis] for axis in axes], dtype=np.float64)
            return math.sqrt((offsets * offsets).sum(axis=1).min(initial=farthest))
        values = [features[axis] for axis in axes]
        dimensions = max(map(np.ndim, values))
        for chunk in _chunks(len(groups), values):
            by_axis = (_square(groups[chunk, i], np.ones(1), value, dimensions) for i, value in enumerate(values))
            nearest = minimum(nearest, functools.reduce(operator.add, by_axis).min(axis=0))
        return np.sqrt(nearest)

    @functools.cached_property
    def _groups(self) -> tuple[list[int], Array]:
        """Return the axes that name a group of shapes, and the places of the measured groups along them."""
        axes = [axis for axis, name in enumerate(self.axes) if name in GROUP_AXES]
        groups = dict.fromkeys(map(tuple, self.centres[:, axes].tolist()))
        return axes, np.array(list(groups)).reshape(len(groups), len(axes))

    @functools.cached_property
    def _exponents(self) -> Array:
        return _quadratics(self.centres, self._bump_lengths)

    @functools.cached_property
    def _bump_lengths(self) -> Array:
        if self.bump_lengths is None:
            return np.broadcast_to(self.lengths, self.centres.shape)
        return self.bump_lengths


def _quadratics(centres: Array, lengths: Array) -> Array:
    """Return the exponents of bumps as coefficients of the `_powers` of a shape, (bumps, 2 * axes + 1).

    -|(x - c) / l|^2 / 2 = sum over axes of (-1/(2 l^2)) x^2 + (c/l^2) x - c^2/(2 l^2)
    """
    squares = -0.5 / (lengths * lengths)
    constant = (squares * centres * centres).sum(axis=1, keepdims=True)
    return np.concatenate([squares, -2.0 * squares * centres, constant], axis=1)


def _powers(features: Sequence[Quantity], shape: tuple[int, ...]) -> Array:
    """Return the squares of features, the features and one, each of that shape."""
    axes = len(features)
    powers = np.empty((2 * axes + 1, *shape))
    for axis, value in enumerate(features):
        powers[axes + axis] = value
    np.square(powers[axes:-1], out=powers[:axes])
    powers[-1] = 1.0
    return powers


class _Bumps(Record):
    """Bumps along some axes. exponents: as `_quadratics` has them; shortest: of their lengths, null without any."""

    exponents: Array
    shortest: float | None


@functools.lru_cache(maxsize=KEPT)
def _distinct_bumps(residual: Residual, axes: tuple[int, ...]) -> tuple[_Bumps, npt.NDArray[np.intp]]:
    """Return the bumps that differ along some axes, and which of them each bump is."""
    at = list(axes)
    centres_and_lengths = np.concatenate([residual.centres[:, at], residual._bump_lengths[:, at]], axis=1)
    bumps, which = np.unique(centres_and_lengths, axis=0, return_inverse=True)
    centres, lengths = bumps[:, : len(at)], bumps[:, len(at) :]
    shortest = float(lengths.min()) if lengths.size else None
    return _Bumps(_quadratics(centres, lengths), shortest), which.reshape(-1)


def _sum_of_bumps(heights: Array, exponents: Array, values: Sequence[Quantity]) -> Array:
    """Return the sum of all bumps at shapes. exponents: as `_quadratics` has them; values: of the shapes, by axis."""
    shape = np.broadcast_shapes(*map(np.shape, values))
    powers = _powers(values, shape).reshape(exponents.shape[1], -1)
    total = np.empty(powers.shape[1])
    step = max(TEMPORARY // max(len(heights), 1), 1)
    for first in range(0, len(total), step):
        chunk = slice(first, first + step)
        total[chunk] = heights @ np.exp(exponents @ powers[:, chunk])
    return total.reshape(shape)


class _Curve(Record):
    """Even places along one axis, between which a sum of bumps is read by the cubic through the four around.

    Many shapes that differ along one axis alone cost no more than these places. Error of a bump of height w: at most
    9/384 * CURVE_STEP^4 * 3*w, 1e-12 of w.
    """

    places: Array
    step: float

    @classmethod
    def of(cls, values: Array, shortest: float | None) -> _Curve | None:
        """Return places for values. Null where there are not many more values than places, or no bumps.

        shortest: length of a bump.
        """
        if shortest is None:
            return None
        step, low, high = CURVE_STEP * shortest, float(values.min()), float(values.max())
        count = (high - low) / step + 4.0
        return cls(low + step * np.arange(-1.0, np.ceil(count)), step) if count < values.size / 2 else None

    def read(self, known: Array, values: Array) -> Array:
        """Return values between those known at all places [Lagrange]."""
        offset = (values - self.places[0]) / self.step
        first = np.clip(offset.astype(np.intp), 1, len(known) - 3)
        t = offset - first
        middle = (1.0 - t) * known[first] + t * known[first + 1]
        ends = (2.0 - t) * known[first - 1] + (1.0 + t) * known[first + 2]
        return np.asarray((1.0 + t) * (2.0 - t) / 2.0 * middle - t * (1.0 - t) / 6.0 * ends)


def _square(centres: Array, lengths: Array, value: Quantity, dimensions: int) -> Any:
    """Return the squared distance along one axis to some centres, which are a new axis before `dimensions`."""
    first = (-1, *(1,) * dimensions)
    offsets = value * np.reshape(1.0 / lengths, first) - (centres / lengths).reshape(first)
    return np.multiply(offsets, offsets, out=offsets)


def _chunks(supports: int, features: Features) -> Iterator[slice]:
    """Yield support points in chunks whose distances to all shapes stay in the cache."""
    points = math.prod(np.broadcast_shapes(*map(np.shape, features)))
    step = max(TEMPORARY // max(points, 1), 1)
    yield from (slice(first, first + step) for first in range(0, supports, step))


class Dispersion(Record):
    """How wide a family's spread is at a shape, over what it is for all shapes of the same predicted time.

        width = level * exp(sum_i w_i * exp(-|(x - c_i) / l|^2 / 2))

    Far from all supports it is `level`. bumps: the exponential, with c, l and w as those of a residual.
    """

    bumps: Residual
    level: float

    def width(self, features: Features) -> Quantity:
        """Return the width at a shape; features broadcast."""
        return self.level * self.bumps.factor(features)


class Domain(Record, dict=True):
    """The shapes that were measured: smallest and largest feature per axis [octaves].

    radius: a shape this near to a support point counts as measured [lengths].
    """

    low: Array
    high: Array
    radius: float

    def beyond(self, features: Features) -> Quantity:
        """Return how far a shape lies outside the measured sizes, the root of its squares over all axes [octaves]."""
        squares: Quantity = 0.0
        for (low, high), value in zip(self._ends, features, strict=True):
            if isinstance(value, np.ndarray) or not low <= value <= high:
                outside = maximum(maximum(low - value, value - high) - ROUNDING, 0.0)
                squares = squares + outside * outside
        return np.sqrt(squares) if isinstance(squares, np.ndarray) else math.sqrt(squares)

    @functools.cached_property
    def _ends(self) -> list[tuple[float, float]]:
        """Return the smallest and the largest measured size of each axis, as plain numbers [octaves]."""
        return list(zip(self.low.tolist(), self.high.tolist(), strict=True))

    def holds(self, features: Features) -> Mask:
        """Tell where a shape lies between the smallest and the largest measured sizes."""
        holds: Mask = True
        for (low, high), value in zip(self._ends, features, strict=True):
            holds = holds & (value >= low - ROUNDING) & (value <= high + ROUNDING)
        return holds


class Nearness(Record):
    """How wide a family's spread is at a shape, over what it is where no group of shapes around was measured.

        width = share + (1 - share) * min(max((distance - near) / (far - near), 0), 1)

    distance: to the nearest support point.
    near, far: medians of it where single shapes and where whole groups of shapes were held out [lengths].
    share: width of the 80 % interval about the former predictions over that about the latter.
    """

    near: float
    far: float
    share: float

    def width(self, distance: Quantity) -> Quantity:
        """Return the width at a distance from the nearest support point [lengths]."""
        farness = minimum(maximum((distance - self.near) / (self.far - self.near), 0.0), 1.0)
        return self.share + (1.0 - self.share) * farness
