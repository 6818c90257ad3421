"""A grouped GEMM's time where the library has two configurations and takes one by how many tokens there are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from costmodel.cost.gemm import GemmForm, Reread, scaled_droop
from costmodel.cost.gemm_tiles import Shapes
from costmodel.cost.parameter import DeclaredRecord, like, mechanism, record
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, time_where
from costmodel.quantities import Mask, anywhere, log2, maximum, where
from costmodel.records import fields, replace
from costmodel.workload.operators import Gemm

_TUNED = 3.0  # chosen: octaves between the default for few tokens and tuned tiles, of which they share no tile


class TileRates(DeclaredRecord, kw_only=True):
    """What a GEMM with one of the tiles does not share with those of the other."""

    compute_efficiency: float = like(GemmForm, "compute_efficiency")
    cta_load_rate: float = like(GemmForm, "cta_load_rate")
    l2_rate: float = like(GemmForm, "l2_rate")
    cta_overhead: float = like(GemmForm, "cta_overhead")
    k_step: float = like(GemmForm, "k_step")
    small_tile_loss: float = like(GemmForm, "small_tile_loss")
    clock_droop: float = like(GemmForm, "clock_droop")
    reread: Reread | None = mechanism(Reread)
    tiles: Shapes = like(GemmForm, "tiles")


class TwoTileForm(DeclaredRecord, kw_only=True):
    """Triton's fused layers of experts: a small tile for few tokens, a large one for many.

    Layers for which the engine ships tuned tiles run with these, whatever the tokens. Each is a `GemmForm`, with the
    same launch, bandwidth and overlap.
    """

    SECTION: ClassVar[str] = "7.5"
    AXES: ClassVar[dict[str, float]] = {
        "m": 2.0, "n": 3.0, "k": 3.0, "groups": 3.0, "large_tile": 1.0, "ranks": 2.0,
    }  # fmt: skip

    launch: float = like(GemmForm, "launch")
    hbm_efficiency: float = like(GemmForm, "hbm_efficiency")
    overlap_p: float = like(GemmForm, "overlap_p")
    small: TileRates = record(TileRates, "small_")
    large: TileRates = record(TileRates, "large_")
    tuned: TileRates | None = mechanism(TileRates, "tuned_")

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the GEMM's time."""
        if self.tuned is None or not anywhere(gemm.tuned):
            return self._default_time(gemm, machine)
        tuned = self.with_rates(self.tuned).time(gemm, machine)
        return tuned if np.all(gemm.tuned) else time_where(gemm.tuned > 0.0, tuned, self._default_time(gemm, machine))

    def _default_time(self, gemm: Gemm, machine: Machine) -> Time:
        small, large = (self.with_rates(rates).time(gemm, machine) for rates in (self.small, self.large))
        return time_where(_has_few_tokens(gemm), small, large)

    def terms(self, gemm: Gemm, machine: Machine) -> Terms:
        """Return the terms of the equation at one size, of the tile that runs."""
        default = self.small if _has_few_tokens(gemm) else self.large
        rates = default if self.tuned is None or not gemm.tuned else self.tuned
        return self.with_rates(rates).terms(gemm, machine)

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k, groups. What is configured; log2 of the ranks that share the experts.

        An octave lies between the tiles for few and for many tokens, and two on to tuned ones.
        """
        configured = where(gemm.tuned > 0.0, _TUNED, where(_has_few_tokens(gemm), 0.0, 1.0))
        ranks = log2(maximum(gemm.experts / maximum(gemm.local_experts, 1.0), 1.0))
        return log2(gemm.m), log2(gemm.n), log2(gemm.k), log2(gemm.groups), configured, ranks

    def on_die(self, density: float, rate: float) -> TwoTileForm:
        """Return the form on another device of the same die, each tile as `GemmForm.on_die`."""

        def moved(rates: TileRates) -> TileRates:
            droop, loss = scaled_droop(rates.clock_droop, density), rates.small_tile_loss * rate
            return replace(rates, clock_droop=droop, small_tile_loss=loss)

        tuned = None if self.tuned is None else moved(self.tuned)
        return replace(self, small=moved(self.small), large=moved(self.large), tuned=tuned)

    def with_rates(self, rates: TileRates) -> GemmForm:
        """Return the form of one of the tiles."""
        own = {name: getattr(rates, name) for name in fields(rates)}
        return GemmForm(
            launch=self.launch, hbm_efficiency=self.hbm_efficiency, overlap_p=self.overlap_p, has_split_k=False, **own
        )  # fmt: skip


def _has_few_tokens(gemm: Gemm) -> Mask:
    return gemm.tokens <= gemm.local_experts
