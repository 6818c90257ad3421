"""The tiles that a library's GEMM kernels may run with, and which of them it takes."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from costmodel.quantities import (
    Array,
    ArrayKey,
    Count,
    Quantity,
    anywhere,
    as_key,
    ceil,
    from_key,
    is_single,
    maximum,
    minimum,
    where,
)
from costmodel.records import Record
from costmodel.workload.operators import Gemm
from costmodel.workload.order_statistics import expected_tiles

Shapes: TypeAlias = "tuple[tuple[int, int], ...]"
TileRule: TypeAlias = Literal["fastest", "waves", "rows"]
MIN_SPLIT_K = 256  # elements of K below which no part of a split goes: chosen, as no fit rests on it


class CtaTile(Record):
    """A candidate: the tile of a CTA, the CTAs of its cluster along m and n, and how K is split.

    Every field may be an array, one element a candidate.
    split_mode: 0 not at all, 1 into as many parts as leave no processor with two CTAs, 2 as leave none idle.
    """

    m: Any
    n: Any
    cluster_m: Any
    cluster_n: Any
    split_mode: Any

    def grid(self, gemm: Gemm) -> tuple[Any, Any]:
        """Return the tiles of the result along m and n, in whole clusters. Expected ones where groups differ."""
        m, n = self.m * self.cluster_m, self.n * self.cluster_n
        return row_tiles(gemm, m) * self.cluster_m, ceil(gemm.n / n) * self.cluster_n

    def leaves_any_idle(self, gemm: Gemm, processors: Count) -> bool:
        """Tell whether there are fewer tiles than processors at any size. Else K is never split."""
        tiles_m, tiles_n = self.grid(gemm)
        return anywhere(gemm.groups * tiles_m * tiles_n < processors)

    def splits(self, tiles: Any, processors: Count, k: Count) -> Any:
        """Return how many parts K is split into."""
        idle = processors / tiles
        parts = where(self.split_mode == 1.0, -ceil(-idle), ceil(idle))
        return where(self.split_mode == 0.0, 1.0, maximum(minimum(parts, -ceil(-k / MIN_SPLIT_K)), 1.0))


class TileChoice(Record):
    """The candidates of a library and the rule by which it takes one.

    rule: `fastest`, `waves` (the fewest, of these the fullest last one, then the smaller tile) or `rows` (by m).
    m_limits: under `rows`, the largest m of each tile but the last.
    """

    tiles: Shapes
    clusters: Shapes
    has_split_k: bool
    rule: TileRule
    m_limits: Sequence[int]

    def candidates(self, gemm: Gemm, processors: Count, axes: int, *, one_by_one: bool) -> Iterator[CtaTile]:
        """Yield those of which the fastest runs: one by one, or together on a leading axis before `axes` others."""
        modes = (0, 1, 2) if self.has_split_k else (0,)
        table = _table(self.tiles, self.clusters, modes)
        if self.rule == "fastest":
            if one_by_one:
                every = (CtaTile(*row) for row in table.T.tolist())
                yield from (tile for tile in every if not tile.split_mode or tile.leaves_any_idle(gemm, processors))
            else:
                yield CtaTile(*table.reshape(5, -1, *(1,) * axes))
            return
        taken = self._taken(gemm, processors, axes, one_by_one=one_by_one)
        unsplit = table[:4, : len(self.tiles)]
        m, n, cluster_m, cluster_n = unsplit[:, taken] if isinstance(taken, np.ndarray) else unsplit[:, taken].tolist()
        for mode in modes:
            yield CtaTile(m, n, cluster_m, cluster_n, float(mode))

    def _taken(self, gemm: Gemm, processors: Count, axes: int, *, one_by_one: bool) -> Any:
        """Return the index of the tile that the rule takes."""
        if self.rule == "rows":
            if is_single(gemm.m):
                return bisect.bisect_left(self.m_limits, gemm.m)
            return np.searchsorted(np.array(self.m_limits), gemm.m)
        if not one_by_one:
            m, n = _table(self.tiles, (), (0,))[:2].reshape(2, -1, *(1,) * axes)
            taken = _wave_order(gemm, processors, m, n).argmin(axis=0)
            return taken if axes else int(taken)
        least: Any = np.inf
        taken = 0
        for i, (m, n) in enumerate(self.tiles):
            order = _wave_order(gemm, processors, m, n)
            taken = where(order < least, i, taken)
            least = minimum(order, least)
        return taken


@functools.lru_cache(maxsize=256)
def _table(tiles: Shapes, clusters: Shapes, modes: tuple[int, ...]) -> Array:
    """Return the fields of all candidates, shape (5, candidates): first all tiles without a split."""
    pairs = list(zip(tiles, clusters or ((1, 1),) * len(tiles), strict=True))
    rows = [(*tile, *cluster, mode) for mode in modes for tile, cluster in pairs]
    return np.array(rows, dtype=np.float64).T


def _wave_order(gemm: Gemm, processors: Count, m: Any, n: Any) -> Any:
    """Return what the rule `waves` orders tiles by: fewest waves, then the fullest last one, then the smaller tile."""
    filled = gemm.groups * row_tiles(gemm, m) * ceil(gemm.n / n) / processors
    waves = ceil(filled)
    return waves + 0.5 * (waves - filled) + 1e-6 * (m + n)


def row_tiles(gemm: Gemm, heights: Any) -> Any:
    """Return the tiles of each height that a group's rows fill, in expectation where groups differ in rows.

    heights: a number or an array, of few distinct values.
    """
    if is_single(gemm.m_std) and gemm.m_std == 0:
        return ceil(gemm.m / heights)
    rows = as_key(gemm.m), as_key(gemm.m_std)
    if is_single(heights):
        return _expected(*rows, float(heights))
    distinct = sorted(set(heights.reshape(-1).tolist()))
    return sum((heights == height) * _expected(*rows, height) for height in distinct)


@functools.lru_cache(maxsize=512)
def _expected(mean: ArrayKey | float, deviation: ArrayKey | float, height: float) -> Quantity:
    """Return the expected tiles. A fit asks for those of the same rows thousands of times."""
    return expected_tiles(from_key(mean), from_key(deviation), height)
