"""No shipped fit makes a kernel faster than its device can be, nor an interval reach below that."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.time import Machine
from costmodel.hardware import Device
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

POINTS = 400  # random shapes of each fit
FRAMEWORK = default_framework()
STORE = FitStore(Library(()))
FILES = [
    (name.partition("/")[0], name.partition("/")[2])
    for name in sorted(Library(()).names("calibrations")) if name.count("/") == 1
]  # fmt: skip
_WIDTHS = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625, "fp32": 4.0}


def drawn(key: str, device: Device, rng: np.random.Generator) -> Operator | None:
    """Return kernels of a `family/variant` at random sizes; none where no kernel of the device has that name."""
    family, _, variant = key.partition("/")
    unit = next((name for name in _WIDTHS if variant.startswith(name)), "bf16")
    if unit not in device.math:
        return None

    def sizes(low: float, high: float) -> np.ndarray:
        return np.floor(2.0 ** rng.uniform(np.log2(low), np.log2(high), POINTS))

    width = _WIDTHS[unit]
    if family.startswith(("gemm", "bmm", "grouped_gemm")):
        return Gemm(
            key, m=sizes(1, 131072), n=sizes(64, 65536), k=sizes(64, 65536), dtype=unit, a_bytes=width, b_bytes=width,
            out_bytes=2.0, groups=1.0 if family.startswith("gemm") else sizes(1, 256), block_scaled="block" in variant,
        )  # fmt: skip
    if family in ("attention_prefill", "mla_prefill", "attention_decode", "mla_decode"):
        decodes = family.endswith("decode")
        latent = family.startswith("mla")
        sequences, shared, ratio = sizes(1, 512), sizes(1, 1 if latent and decodes else 32), sizes(1, 16)
        new = np.ones(POINTS) if decodes else sizes(2, 131072)
        keys = new + sizes(1, 131072)
        dims = 1088.0 if latent and decodes else 320.0 if latent else 2.0 * 2.0 ** rng.integers(6, 9, POINTS)
        token = (576.0 if latent and decodes else dims) * width
        heads = shared * ratio
        return AttentionKernel(
            key, sequences=sequences, heads=heads, q_len=new, qk_pairs=new * (keys - new) + new * (new + 1) / 2,
            macs_per_pair=dims, dtype=unit, traffic=sequences * (shared * keys * token + heads * new * dims * 2.0),
            family=family, kv_heads=shared, kv_len=keys, kv_token_bytes=token,
        )  # fmt: skip
    if family == "elementwise":
        rows = sizes(1, 1_000_000)
        return Elementwise(key, rows * sizes(64, 65536) * 4.0, kind=variant, rows=rows)
    return None


@pytest.mark.parametrize(("device", "implementation"), FILES)
def test_no_rate_is_above_the_roofline(device, implementation):
    fits = STORE.device_fits(device, implementation)
    hardware = load_device(device)
    machine = Machine(hardware, FRAMEWORK, hardware.processors)
    rng = np.random.default_rng(0)
    for key in fits.file.families:
        operator, fit = drawn(key, hardware, rng), fits.fit(key, device)
        if operator is None or fit.form is None:
            continue
        seconds = np.asarray(operator_time(operator, machine, None, fit).seconds)
        assert np.isfinite(seconds).all()
        assert (seconds >= np.asarray(least_time(operator, machine)) * (1.0 - 1e-9)).all(), key
        flop = getattr(operator, "flop", 0.0)
        peak = (
            hardware.math[operator.dtype].flop_per_cycle * hardware.clock_max * hardware.processors
            if np.any(flop)
            else 1.0
        )
        assert (np.asarray(flop) / seconds <= peak * (1.0 + 1e-9)).all(), key
