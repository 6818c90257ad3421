"""Windows around each place of a grid: which keys a query of neighbourhood attention computes."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from costmodel.declared import Integer
from costmodel.quantities import Count
from costmodel.records import Record
from costmodel.workload.patterns import Pattern


class Axis(Record):
    """One axis of a neighbourhood: windows of `window` places among `size`, every `dilation`-th.

    stride: queries that share a window.
    """

    size: Annotated[Integer, "positions"]
    window: Annotated[Integer, "positions that a query attends to"]
    dilation: float = 1.0
    stride: float = 1.0
    causal: Annotated[bool, "causal: positions before the query only"] = False
    query_tile: Annotated[
        Integer | None, "queries per kernel tile; null: 64 of all axes together; 1: pairs one by one"
    ] = None
    key_tile: Annotated[Integer | None, "keys per kernel tile; null: 64 of all axes together; 1: pairs one by one"] = (
        None
    )

    def density(self) -> float:
        """Return the mean share of the axis that a query computes.

        Exact: min(w, n/dilation) / n. If causal the windows of the first queries are shorter. With tiles q and k, a
        tile of queries inside the axis visits k * (floor((q - 1 + ceil(w/2) - 1) / k) - floor(-floor(w/2) / k) + 1)
        keys in whole tiles. With one window per query tile (stride a multiple of q): ceil(w/k)*k.
        """
        line = math.ceil(self.size / self.dilation)
        window = min(self.window, line)
        if self.query_tile is None or self.key_tile is None:
            keys = window - window * (window - 1) / (2 * line) if self.causal else window
            return keys / self.size
        tile = self.key_tile
        whole = math.ceil(line / tile) * tile
        if self.stride % self.query_tile == 0:
            visited = math.ceil(window / tile) * tile
        else:
            after = 0.0 if self.causal else math.ceil(window / 2) - 1
            before = window - 1 if self.causal else math.floor(window / 2)
            last = math.floor((self.query_tile - 1 + after) / tile)
            visited = tile * (last - math.floor(-before / tile) + 1)
        return min(visited, whole) / (whole * self.dilation)


class Neighbourhood(Pattern):
    """A window around each place of a grid of 1 to 3 axes: density = product of the axes' [arXiv 2403.04690].

    At borders windows move inwards, so that each query sees all of w (NATTEN). Kernels visit whole tiles, counted as in
    the interior of the grid.
    """

    kind: str = "neighbourhood"
    axes: tuple[Axis, ...] = ()
    caches_all: ClassVar[bool] = True
    uniform: ClassVar[bool] = True

    def _density(self) -> float:
        return math.prod(axis.density() for axis in self.axes)

    def max_keys(self, kv_len: Count) -> Count:
        """Return T * density."""
        return kv_len * self._density()

    def pairs(self, q_len: Count, kv_len: Count, *, causal: bool) -> Count:
        """Return S * T * density."""
        return q_len * kv_len * self._density()
