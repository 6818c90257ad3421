"""A fit that measured rows of the device itself move: where they are too few for a fit of their own.

With z = log(measured / predicted) / half, half of the 80 % interval that the donor fit has at the kernel, errors of two
kernels x, y of one family on one device go together by what they spend their time on:

    cov(z_x, z_y) = common + launch s_x s_y + compute c_x c_y + memory m_x m_y + own [x is y]
    (s, c, m)     = (launch, compute time, memory time)^2 / sum of these squares, at the peaks

of which the normal law's conditional given the rows r follows,

    log factor(x) = half_x * k_x' K^-1 z_r,   width(x)^2 = 1 - k_x' K^-1 k_x / cov(z_x, z_x)

so that a row moves kernels like it the most, and no interval is wider than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from costmodel.cost.calibration import ANCHORED, FamilyFit, Form, one_call
from costmodel.cost.expected_roofline import Kernel, bare_times
from costmodel.cost.spread import Spread
from costmodel.cost.time import Machine, Terms, Time
from costmodel.equations import equation
from costmodel.quantities import Array, Quantity, Seconds
from costmodel.records import Record, ValueRecord, fields, replace
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention, Operator

KERNELS = (Gemm, AttentionKernel, MixedAttention, Elementwise)  # whose rows may anchor: messages are none of a device
_TAIL = 4.0  # chosen: degrees of freedom of a row's own error
_ROUNDS = 30  # of the weights of rows, which settle in about ten


class SharedErrors(ValueRecord):
    """How errors of a fit at two kernels go together: variances over that of `half`, as the module's equation has them.

    From `calibrations/kernel_anchors`.
    """

    common: float
    launch: float
    compute: float
    memory: float
    own: float

    def covariance(self, first: Array, second: Array) -> Array:
        """Return that of kernels of shares (..., 3) with kernels of shares (rows, 3): (..., rows), without `own`."""
        by_part = np.array([self.launch, self.compute, self.memory])
        return np.asarray(self.common + (first * by_part) @ second.T)

    def inverse(self, shares: Array, errors: Array) -> Array:
        """Return the inverse of the covariance between rows of shares (rows, 3), whose own parts have long tails.

        own_i = own * u_i,   u_i = (TAIL + E (z_i - f_i)^2 / own) / (TAIL + 1)

        f: what a row shares with others. That is a Student's t law of TAIL degrees by its normal parts: a row far off
        is taken for one of its own kind the more the farther off it is.
        """
        among = self.covariance(shares, shares)
        heavy = np.ones(len(errors))
        for _ in range(_ROUNDS):
            inverse = np.linalg.inv(among + np.diag(self.own * heavy))
            misfit = errors - among @ inverse @ errors
            spread = np.diag(among - among @ inverse @ among)
            heavy = (_TAIL + (misfit * misfit + spread) / self.own) / (_TAIL + 1.0)
        return np.asarray(np.linalg.inv(among + np.diag(self.own * heavy)))

    def variance(self, shares: Array) -> Array:
        """Return that of kernels of shares (..., 3)."""
        by_part = np.array([self.launch, self.compute, self.memory])
        return np.asarray(self.common + self.own + (shares * shares) @ by_part)


def time_shares(operators: Sequence[Kernel], machine: Machine) -> Array:
    """Return the squared shares of launch, compute and memory in the time of kernels that run in turn, (..., 3)."""
    launch: Any = 0.0
    compute: Any = 0.0
    memory: Any = 0.0
    for operator in operators:
        call: Any = one_call(operator)
        chip, hbm = bare_times(call, machine, 1.0)
        launch, compute, memory = launch + machine.framework.launch, compute + chip, memory + hbm
    parts = np.stack(
        np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (launch, compute, memory))), -1
    )
    squares = parts * parts
    return np.asarray(squares / squares.sum(axis=-1, keepdims=True))


class KernelAnchors(Record):
    """Measured rows of one family on a device.

    shares: of their time, (rows, 3).
    errors: z, (rows,).
    inverse: of the covariance between them.
    shared: how errors go together.
    machine: that they ran on.
    source: the table.
    """

    shares: Array
    errors: Array
    inverse: Array
    shared: SharedErrors
    machine: Machine
    source: str

    @classmethod
    def of(cls, shares: Array, errors: Array, shared: SharedErrors, machine: Machine, source: str) -> KernelAnchors:
        """Return the rows with what their errors say of others."""
        return cls(shares, errors, shared.inverse(shares, errors), shared, machine, source)

    def expected(self, operator: Kernel) -> Array:
        """Return the expected z of an operator."""
        between = self.shared.covariance(time_shares([operator], self.machine), self.shares)
        return np.asarray(between @ (self.inverse @ self.errors))

    def left(self, operator: Kernel) -> Array:
        """Return the share of an operator's half-width that the rows leave."""
        own = time_shares([operator], self.machine)
        between = self.shared.covariance(own, self.shares)
        known = np.einsum("...i,ij,...j->...", between, self.inverse, between)
        return np.asarray(np.sqrt(np.maximum(1.0 - known / self.shared.variance(own), 0.0)))


class _NarrowedSpread(Spread, kw_only=True):
    """A spread of which rows leave a share, by shape: median * (ratio / median)^left."""

    whole: Spread
    left: Array

    def ratio(self, seconds: Seconds, low: Quantity, high: Quantity) -> Quantity:
        """Return measured over predicted time of kernels predicted at `seconds`."""
        median = self.whole.ratio(seconds, 0.0, 0.0)
        return median * (self.whole.ratio(seconds, low, high) / median) ** self.left

    def widened(self, error: float) -> Spread:
        return replace(self, whole=self.whole.widened(error))

    @property
    def is_exact(self) -> bool:
        return self.whole.is_exact


class AnchoredFit(FamilyFit, kw_only=True):
    """A transferred fit that rows of the device move and narrow.

    left: the share of half an interval that the rows leave, at the shape of an operator.
    """

    donor: FamilyFit
    anchors: KernelAnchors
    left: Array | float = 1.0

    @classmethod
    def of(cls, donor: FamilyFit, anchors: KernelAnchors) -> AnchoredFit:
        """Return a fit moved by rows."""
        stated = {name: getattr(donor, name) for name in fields(FamilyFit)}
        return cls(**(stated | {"basis": ANCHORED, "others": None}), donor=donor, anchors=anchors)

    def at(self, operator: Any) -> FamilyFit:
        """Return the fit at the shape of an operator, its spread as narrow as the rows leave it there."""
        moved, left = AnchoredFit.of(self.donor.at(operator), self.anchors), self.anchors.left(operator)
        return replace(moved, left=left, spread=_NarrowedSpread(whole=moved.donor.spread, left=left))

    def added_half_width(self, time: Time) -> Quantity:
        """Return what the donor fit adds to half of the interval of a time, as far as rows leave it [log]."""
        return self.donor.added_half_width(time) * self.left

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the files that have a part in its times."""
        return (*self.donor.sources, self.anchors.source)

    def width(self, operator: Any) -> Quantity:
        """Return how wide the spread is at the shape of an operator, over what the fit states."""
        return self.donor.width(operator)

    def unseen_half_width(self, operator: Any) -> Quantity:
        """Return what an unmeasured group of shapes adds to half of the interval at the shape of an operator [log]."""
        return self.donor.unseen_half_width(operator) * self.anchors.left(operator)

    @equation
    def fitted_time(self, form: Form, operator: Any, machine: Machine) -> Time:
        """Return the time of the donor fit, moved.

        seconds = time.seconds * anchor_factor
        anchor_factor = exp(half * expected)      half of the interval, and how much of it the rows expect
        """
        time = self.donor.fitted_time(form, operator, machine)
        half, expected = half_width(self.donor, operator, time), self.anchors.expected(operator)
        anchor_factor = np.exp(half * expected)
        return time.scaled(anchor_factor)

    def call_terms(self, operator: Any, machine: Machine) -> Terms:
        """Return the terms of one call by the donor fit."""
        return self.donor.call_terms(operator, machine)


def half_width(fit: FamilyFit, operator: Operator, time: Time) -> Quantity:
    """Return half of the 80 % interval that a fit has at an operator of a time [log]."""
    ratio = fit.spread.ratio(time.seconds, 0.0, 1.0) / fit.spread.ratio(time.seconds, 1.0, 0.0)
    other_half = np.hypot(fit.unseen_half_width(operator), fit.added_half_width(time))
    return np.hypot(fit.width(operator) * np.log(ratio) / 2.0, other_half)


# ---- A fit of a relative of the device, as rows of the device itself move it: its parameters, three factors of its
# own.


class RelativeFit(FamilyFit, kw_only=True):
    """A relative's fit with factors by what bounds a kernel.

    logs: of measured over predicted time of kernels that only launch, that arithmetic and that device memory bounds.
    """

    logs: tuple[float, float, float]

    @classmethod
    def of(cls, fit: FamilyFit, logs: tuple[float, float, float]) -> Self:
        """Return a fit with factors."""
        return cls(**{name: getattr(fit, name) for name in fields(FamilyFit)}, logs=logs)

    @equation
    def fitted_time(self, form: Form, operator: Any, machine: Machine) -> Time:
        """Return the time that the relative's fit gives, moved.

        seconds = time.seconds * relative_factor
        relative_factor = exp(relative)
        relative := sum of launch, compute and memory of log of its factor * its share of the time (`time_shares`)
        """
        time = super().fitted_time(form, operator, machine)
        relative = time_shares([operator], machine) @ np.array(self.logs)
        relative_factor = np.exp(relative)
        return time.scaled(relative_factor if np.ndim(relative_factor) else float(relative_factor))
