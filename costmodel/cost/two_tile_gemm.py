"""A grouped product's time where the library has two configurations and takes one by how many tokens there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from costmodel.cost.calibration import Form
from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Quantity, log2, maximum, where
from costmodel.workload.operators import Gemm

Tiles: TypeAlias = "tuple[tuple[int, int], ...]"
_FEW = "few_"


@dataclass(frozen=True, slots=True, eq=False)
class TwoTileForm:
    """The fitted form of Triton's fused layers of experts: one tile for few tokens, another one for many.

        t = few(product) where tokens <= experts held, else many(product)

    few, many: forms with the same launch, bandwidth and sharpness, but tiles and rates of their own.
    """

    few: GemmForm
    many: GemmForm

    AXES = ("m", "n", "k", "groups", "many", "ranks")
    FORMULA: ClassVar[str] = "t = few(product) where tokens <= experts of the rank, else many(product)"

    @staticmethod
    def of(launch: float, memory: float, sharpness: float, few_tiles: Tiles, tiles: Tiles, **values: float) -> Form:
        """Return the form of flat parameters: those with `few_` are of the tile for few tokens."""

        def one(candidates: Tiles, own: Mapping[str, Any]) -> GemmForm:
            return GemmForm(launch=launch, memory=memory, sharpness=sharpness, tiles=candidates, splits=False, **own)

        few = {name.removeprefix(_FEW): value for name, value in values.items() if name.startswith(_FEW)}
        return TwoTileForm(
            one(few_tiles, few), one(tiles, {name: each for name, each in values.items() if not name.startswith(_FEW)})
        )

    def part(self, name: str) -> tuple[GemmForm, str]:
        """Return the form that a flat parameter is of, and its name there."""
        return (self.few, name.removeprefix(_FEW)) if name.startswith(_FEW) else (self.many, name)

    def time(self, gemm: Gemm, machine: Machine) -> Time:
        """Return the product's time."""
        few, many = self.few.time(gemm, machine), self.many.time(gemm, machine)
        is_few = gemm.tokens <= gemm.local_experts

        def of(first: Quantity, second: Quantity) -> Quantity:
            return where(is_few, first, second)

        return Time(
            of(few.seconds, many.seconds), compute=of(few.compute, many.compute), memory=of(few.memory, many.memory),
            fixed=self.few.launch,
        )  # fmt: skip

    def features(self, gemm: Gemm) -> Features:
        """Return log2 of m, n, k, groups; an octave where tokens are many; log2 of the ranks that share the experts."""
        many = where(gemm.tokens <= gemm.local_experts, 0.0, 1.0)
        return *self.many.features(gemm), many, log2(maximum(gemm.experts / maximum(gemm.local_experts, 1.0), 1.0))
