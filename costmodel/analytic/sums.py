"""Adds up the times of operators by the stream they hold, as predicted or with families moved within their spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from costmodel.analytic.pricing import Priced
from costmodel.quantities import Quantity, Seconds
from costmodel.workload.operators import Collective, Exchange


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """How a family is moved: 1 where it is taken at the low (high) point of its spread, 0 where at its median."""

    low: Quantity
    high: Quantity


# Operator family -> move. Families that are not named, and all of them under None, keep their predicted times.
Moves: TypeAlias = "Mapping[str, Move] | None"


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Times of some operators [s]: kernels, collectives that kernels wait for, expert exchanges."""

    kernels: Seconds = 0.0
    collectives: Seconds = 0.0
    exchanges: Seconds = 0.0

    @property
    def compute(self) -> Seconds:
        """Return the time of the compute stream: kernels and the collectives between them."""
        return self.kernels + self.collectives

    @property
    def total(self) -> Seconds:
        """Return the time of all operators, one after another."""
        return self.kernels + self.collectives + self.exchanges

    def __add__(self, other: Sums) -> Sums:
        """Return the sum, stream by stream."""
        return Sums(
            self.kernels + other.kernels, self.collectives + other.collectives, self.exchanges + other.exchanges
        )

    def times(self, count: float) -> Sums:
        """Return `count` times these operators."""
        return Sums(count * self.kernels, count * self.collectives, count * self.exchanges)


NO_TIME = Sums()


def seconds_of(priced: Priced, moves: Moves) -> Seconds:
    """Return an operator's time, moved within its family's spread."""
    seconds = priced.time.seconds
    move = None if moves is None else moves.get(priced.operator.family)
    return seconds if move is None else seconds * priced.fit.spread.ratio(seconds, move.low, move.high)


def sums_of(operators: Iterable[Priced], moves: Moves) -> Sums:
    """Return the times of some operators by stream."""
    kernels: Quantity = 0.0
    collectives: Quantity = 0.0
    exchanges: Quantity = 0.0
    for priced in operators:
        seconds = seconds_of(priced, moves)
        if isinstance(priced.operator, Exchange):
            exchanges = exchanges + seconds
        elif isinstance(priced.operator, Collective):
            collectives = collectives + seconds
        else:
            kernels = kernels + seconds
    return Sums(kernels, collectives, exchanges)
