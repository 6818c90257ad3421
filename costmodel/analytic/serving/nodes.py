"""Values at nodes along an axis of batches, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.analytic.stream_times import Perturbation
from costmodel.quantities import Array, Count, Quantity
from costmodel.records import Record

NODES = 16


def batch_nodes(most: Count, dimensions: int) -> Array:
    """Return batches from one to the most, each the same factor above the one before, along a leading axis."""
    steps = np.linspace(0.0, 1.0, NODES).reshape(-1, *(1,) * dimensions)
    return np.asarray(np.asarray(most, dtype=np.float64) ** steps)


def with_nodes(perturbations: Mapping[str, Perturbation], dimensions: int) -> dict[str, Perturbation]:
    """Return perturbations with an axis of nodes between their own and those of the grid."""

    def widened(value: Quantity) -> Quantity:
        array = np.asarray(value)
        return array.reshape(array.shape[0], 1, *array.shape[1:]) if array.ndim > dimensions else value

    return {name: Perturbation(widened(each.low), widened(each.high)) for name, each in perturbations.items()}


def last_node(values: Quantity, axis: int) -> Quantity:
    """Return the values at the last node."""
    return _reduced(np.asarray(values).take([-1], axis=axis), axis)


class NodePlace(Record):
    """Where between two nodes a value lies. index: of the upper node; weight: its share, 0 to 1; axis: of the nodes."""

    index: np.ndarray
    weight: Array
    axis: int

    @classmethod
    def at(cls, values: Quantity, target: Quantity, axis: int) -> NodePlace:
        """Return the position of a target among values that grow along an axis. At an end where it lies outside."""
        target = np.expand_dims(np.asarray(target), axis=axis) if np.ndim(target) >= -1 - axis else np.asarray(target)
        known, aim = np.broadcast_arrays(np.asarray(values), target)
        aim = aim.take([0], axis=axis)
        index = np.clip((known < aim).sum(axis=axis, keepdims=True), 1, known.shape[axis] - 1)
        low, high = (np.take_along_axis(known, node, axis=axis) for node in (index - 1, index))
        width = np.where(high > low, high - low, 1.0)
        return cls(index, np.clip((aim - low) / width, 0.0, 1.0), axis)

    def read(self, values: Quantity) -> Quantity:
        """Return the values at the position, interpolated between its nodes."""
        low, high = self._ends(values)
        return _reduced(low + self.weight * (high - low), self.axis)

    def _ends(self, values: Quantity) -> tuple[Array, Array]:
        dimensions = self.index.ndim
        array = np.asarray(values, dtype=np.float64)
        shape = list(np.broadcast_shapes(array.shape, self.index.shape))
        shape[self.axis] = array.shape[self.axis]
        array = np.broadcast_to(array.reshape((1,) * (dimensions - array.ndim) + array.shape), shape)
        index = np.broadcast_to(
            self.index, [*shape[: self.axis], 1, *(shape[self.axis + 1 :] if self.axis < -1 else [])]
        )
        return np.take_along_axis(array, index - 1, axis=self.axis), np.take_along_axis(array, index, axis=self.axis)


def _reduced(values: Array, axis: int) -> Quantity:
    """Return values without the axis of the nodes, a float where nothing else varies."""
    array = values.squeeze(axis=axis)
    return float(array) if array.ndim == 0 else array
