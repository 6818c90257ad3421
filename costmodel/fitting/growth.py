"""Residuals under which more work hardly ever takes less time.

A smooth residual follows rows that scatter, and fades between them: along a size it may fall faster than the physical
form grows. What the form itself does, such as the teeth of whole waves, stays.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.residual import Residual
from costmodel.cost.time import Machine
from costmodel.fitting.regression import RIDGE, ROBUST
from costmodel.hardware import Device
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

BASES = 40  # ladders of each size
SEED = 1
FALLS = (0.008, 0.02, 0.045)  # chosen: what a time may fall from one rung of a ladder to the next
WORTH = 1.05  # chosen: of the mean error over the rows, what a smaller fall may cost
TOO_MUCH = 1.5  # chosen: of that error, what no limit is worth: the kernels themselves fall
ENOUGH = 1e-3  # of a limit that is not kept
ROUNDS = 30  # of adding limits that are not kept yet, at most
MOST = 100  # limits that are added in a round, at most
LEAST = 1e-6  # of the mean curvature: heights that no row determines stay what they are


class FittedRows(Record):
    """Rows as a form sees them: features and times of each of their kernels, time of the others, measured time [s]."""

    features: Sequence[Array]
    times: Sequence[Array]
    other_times: Array
    seconds: Array

    def predicted(self, residual: Residual) -> Array:
        """Return the time of every row [s]."""
        total = self.other_times
        for time, features in zip(self.times, self.features, strict=True):
            total = total + time * np.asarray(residual.factor(list(features.T)))
        return total

    def mean_error(self, residual: Residual) -> float:
        """Return the mean relative error."""
        return float(np.abs(self.predicted(residual) / self.seconds - 1.0).mean())

    def curvature(self, residual: Residual, ridge: float) -> Array:
        """Return that of what a residual's heights minimise: rows, each with what it weighs in the end, and ridge."""
        total = self.other_times + np.sum(self.times, axis=0)
        parts = ((time / total, features) for time, features in zip(self.times, self.features, strict=True))
        matrix = functools.reduce(np.add, (share[:, None] * bumps(residual, features) for share, features in parts))
        missed = np.log(self.seconds / total) - matrix @ residual.weights
        weights = 1.0 / np.sqrt(1.0 + (missed / ROBUST) ** 2)
        unlike = residual.bump_lengths is not None  # bumps with lengths of their own: each height has its own prior
        prior = ridge * (np.eye(len(residual.weights)) if unlike else bumps(residual, residual.centres))
        gram: Array = (matrix * weights[:, None]).T @ matrix + prior
        return gram + LEAST * float(np.trace(gram)) / len(gram) * np.eye(len(gram))


def growing(key: str, fit: FamilyFit, machine: Machine, rows: FittedRows, ridge: float = RIDGE) -> Residual | None:
    """Return the residual nearest to a fit's under which no kernel of a ladder is much faster than a smaller one.

        minimise   (w - w_0)^T curvature (w - w_0)
        subject to r(x_next) - r(x) >= -max(log(form(x_next) / form(x)), 0) - fall     for every step of a ladder

    r: the residual with the heights w.
    w_0: those before. Heights of zero keep all limits, so there is a solution. Of `FALLS` the smallest that costs
    little of the rows' mean error, else the largest. None where nothing changes, or where the largest costs half of
    that error: the kernels themselves fall.
    """
    residual = fit.residual
    if residual is None or fit.form is None or not len(residual.weights):
        return None
    parts = list(_limits(key, fit, machine))
    if not parts:
        return None
    steps, least = (np.concatenate(each) for each in zip(*parts, strict=True))
    if float((least - steps @ residual.weights).max()) <= FALLS[0] + ENOUGH:
        return None
    curvature, error = rows.curvature(residual, ridge), rows.mean_error(residual)
    for fall in FALLS:
        heights = _nearest(residual.weights, curvature, steps, least - fall)
        raised = replace(residual, weights=heights)
        if rows.mean_error(raised) <= WORTH * error:
            return raised
    return raised if rows.mean_error(raised) <= TOO_MUCH * error else None


def bumps(residual: Residual, points: Array) -> Array:
    """Return every bump of a residual of height one at some shapes. points: (shapes, axes) [octaves]."""
    lengths = residual.lengths if residual.bump_lengths is None else residual.bump_lengths
    lengths = np.broadcast_to(lengths, residual.centres.shape)
    squares = np.zeros((len(points), len(residual.centres)))
    for axis in range(points.shape[1]):
        squares += ((points[:, None, axis] - residual.centres[:, axis]) / lengths[:, axis]) ** 2
    return np.asarray(np.exp(-0.5 * squares))


def _limits(key: str, fit: FamilyFit, machine: Machine) -> Iterator[tuple[Array, Array]]:
    """Yield by how much each bump grows along the steps of a ladder, and the least that their sum should."""
    assert fit.form is not None
    assert fit.residual is not None
    for _, operator in ladders(key, fit, machine, BASES, SEED):
        features = np.stack(np.broadcast_arrays(*fit.form.features(operator)), axis=-1)
        seconds = np.broadcast_to(np.asarray(fit.form.time(operator, machine).seconds), (len(features),))
        yield np.diff(bumps(fit.residual, features), axis=0), -np.maximum(np.diff(np.log(seconds)), 0.0)


def _nearest(weights: Array, curvature: Array, steps: Array, least: Array) -> Array:
    """Return the heights nearest to some under `steps @ heights >= least`. curvature: of the squared distance.

    Limits that are not kept are added round by round, the worst first. Each round is a least-distance problem, solved
    by non-negative least squares (Lawson, Hanson, Solving Least Squares Problems, 1974, chapter 23).
    """
    root = np.linalg.cholesky(curvature)  # distance^2 = |root^T (w - w_0)|^2
    kept = np.zeros(0, dtype=np.intp)
    raised = weights
    for _ in range(ROUNDS):
        lacking = least - steps @ raised
        worst = np.argsort(-lacking)[:MOST]
        worst = worst[lacking[worst] > ENOUGH]
        if not len(worst):
            break
        kept = np.union1d(kept, worst)
        limits = np.linalg.solve(root, steps[kept].T).T
        raised = weights + np.linalg.solve(root.T, _shortest(limits, least[kept] - steps[kept] @ weights))
    return raised


def _shortest(limits: Array, least: Array) -> Array:
    """Return the shortest vector u with `limits @ u >= least`."""
    from scipy.optimize import nnls

    stacked = np.concatenate([limits.T, least[None]])
    target = np.append(np.zeros(limits.shape[1]), 1.0)
    multipliers, _ = nnls(stacked, target, maxiter=100 * len(least))
    rest = stacked @ multipliers - target
    shortest: Array = -rest[:-1] / rest[-1]
    return shortest


# ---- Kernels of a fitted family along one size at a time: where their times should not fall --------------------------

WIDTHS = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625, "fp32": 4.0}
SPANS = {
    "m": (1.0, 131072.0), "n": (64.0, 65536.0), "k": (64.0, 65536.0), "groups": (1.0, 64.0), "keys": (1.0, 131072.0),
    "sequences": (1.0, 512.0),
}  # fmt: skip
"""Sizes of kernels, from the least to the largest that is asked for."""
RUNGS = 40  # of a ladder: sizes from the least to the largest, a third of an octave between two or so
TRIED = 100  # sizes that are drawn for each that is asked for
NEAR = 1.0  # octaves outside what was measured, at most, that a ladder passes through


def kernels(key: str, device: Device, sizes: dict[str, Array]) -> Operator | None:
    """Return kernels of a `family/variant` with given sizes, none where no kernel of the device has that name."""
    family, _, variant = key.partition("/")
    unit = next((name for name in WIDTHS if variant.startswith(name)), "bf16")
    if unit not in device.math:
        return None
    if family.startswith(("gemm", "bmm", "grouped_gemm")):
        return _products(key, unit, sizes)
    if family in ("attention_prefill", "mla_prefill", "attention_decode", "mla_decode"):
        return _attention(key, unit, sizes)
    if family == "elementwise":
        return Elementwise(key, sizes["m"] * sizes["n"] * 4.0, kind=variant, rows=sizes["m"])
    return None


def _products(key: str, unit: str, sizes: dict[str, Array]) -> Gemm:
    family, _, variant = key.partition("/")
    width = WIDTHS[unit]
    groups = np.ones_like(sizes["m"]) if family.startswith("gemm") else sizes["groups"]
    return Gemm(
        key, m=sizes["m"], n=sizes["n"], k=sizes["k"], dtype=unit, a_bytes=width, b_bytes=width, out_bytes=2.0,
        groups=groups, block_scaled="block" in variant,
    )  # fmt: skip


def _attention(key: str, unit: str, sizes: dict[str, Array]) -> AttentionKernel:
    family, ones = key.partition("/")[0], np.ones_like(sizes["m"])
    decodes, latent = family.endswith("decode"), family.startswith("mla")
    shared = ones if latent and decodes else sizes["groups"]
    new = ones if decodes else sizes["m"]
    keys = new + sizes["keys"]
    dims = 1088.0 if latent and decodes else 320.0 if latent else 256.0
    token, heads = (576.0 if latent and decodes else dims) * WIDTHS[unit], shared * 8.0
    return AttentionKernel(
        key, sequences=sizes["sequences"], heads=heads, q_len=new,
        qk_pairs=new * (keys - new) + new * (new + 1) / 2, macs_per_pair=dims, dtype=unit,
        traffic=sizes["sequences"] * (shared * keys * token + heads * new * dims * 2.0), family=family,
        kv_heads=shared, kv_len=keys, kv_token_bytes=token,
    )  # fmt: skip


def typical() -> dict[str, Array]:
    """Return one size of each, in the middle of its span, on a logarithmic scale."""
    return {size: np.array([np.floor(np.sqrt(low * high))]) for size, (low, high) in SPANS.items()}


def ladder(base: dict[str, Array], size: str) -> dict[str, Array]:
    """Return sizes that differ along one alone: those of a base, and `size` over its span."""
    rungs = np.unique(np.floor(np.geomspace(*SPANS[size], RUNGS)))
    return {name: np.full(len(rungs), value[0]) for name, value in base.items()} | {size: rungs}


def means_nothing(operator: Operator) -> bool:
    """Tell whether a size means nothing to a kernel: its work and bytes stay along the ladder."""
    spans = [np.unique(np.asarray(getattr(operator, name))) for name in ("flop", "traffic") if hasattr(operator, name)]
    return all(len(values) == 1 for values in spans)


def bases(key: str, fit: FamilyFit, machine: Machine, number: int, seed: int) -> list[dict[str, Array]]:
    """Return the typical sizes and some that lie near what a fit was made from."""
    drawn, tried = np.random.default_rng(seed), TRIED * number
    sizes = {
        name: np.floor(2.0 ** drawn.uniform(np.log2(low), np.log2(high), tried)) for name, (low, high) in SPANS.items()
    }
    operator = kernels(key, machine.device, sizes)
    if operator is None or fit.form is None:
        return []
    if fit.domain is None:
        return [typical()]
    beyond = np.broadcast_to(np.asarray(fit.domain.beyond(fit.form.features(operator))), (tried,))
    near = np.flatnonzero(beyond <= NEAR)[: number - 1]
    return [typical(), *({name: values[[i]] for name, values in sizes.items()} for i in near)]


def ladders(key: str, fit: FamilyFit, machine: Machine, number: int, seed: int) -> Iterator[tuple[str, Operator]]:
    """Yield kernels along every size that means anything to a family, from each of some bases. seed: of the bases."""
    for base in bases(key, fit, machine, number, seed):
        for size in SPANS:
            operator = kernels(key, machine.device, ladder(base, size))
            if operator is not None and not means_nothing(operator):
                yield size, operator
