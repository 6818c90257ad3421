"""Kernels of a fitted family along one size at a time: where their times should not fall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.machine import Machine
from costmodel.hardware import Device
from costmodel.quantities import Array
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

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
