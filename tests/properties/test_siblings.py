"""A device that is at least as good in every number as its sibling is never slower beyond what both fits leave open."""

from __future__ import annotations

import math

import pytest

from costmodel.calibration.fit_files import framework_of
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import likely_time
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import AttentionKernel, Gemm

PAIRS = [
    ("h100-sxm", "h800-sxm"), ("h200-sxm", "h100-sxm"), ("h200-sxm", "h800-sxm"), ("a100-sxm-80gb", "a800-sxm-80gb"),
    ("gb200", "b200-sxm"), ("mi325x", "mi300x"),
]  # fmt: skip
WIDER = 1.645 / 1.2816  # 90 % intervals of normal errors over 80 %: of a thousand comparisons some leave these
FRAMEWORKS = ("default", "deepseek", "vllm", "sglang", "trt-llm")


def products() -> list[Gemm]:
    formats = {"bf16": (2.0, False), "fp8": (1.0, False), "fp8/block": (1.03, True)}
    return [
        Gemm(
            f"{name} {m:g}x{n:g}x{k:g}", m=m, n=n, k=k, dtype=name.partition("/")[0], a_bytes=width, b_bytes=width,
            out_bytes=2.0, block_scaled=block,
        )
        for name, (width, block) in formats.items()
        for m in (16.0, 512.0, 8192.0)
        for n, k in ((4096.0, 4096.0), (7168.0, 2048.0), (24576.0, 1536.0))
    ]  # fmt: skip


def cores() -> list[AttentionKernel]:
    found = []
    for new, keys, sequences in ((4096.0, 4096.0, 4.0), (1.0, 4096.0, 64.0), (1.0, 16384.0, 8.0)):
        heads, shared, width = 32.0, 8.0, 256.0
        family = "attention_decode" if new == 1.0 else "attention_prefill"
        traffic = sequences * (heads * new * width + shared * keys * width) * 2.0
        found.append(
            AttentionKernel(
                f"{family} {keys:g}", sequences=sequences, heads=heads, q_len=new,
                qk_pairs=new * (keys - new) + new * (new + 1) / 2, macs_per_pair=width, dtype="bf16", traffic=traffic,
                family=family, kv_heads=shared, kv_len=keys, kv_token_bytes=width * 2.0,
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("better", "worse"), PAIRS)
def test_a_better_device_is_never_slower_beyond_both_spreads(better, worse, framework):
    library = Library(())
    chosen = framework_of(framework, library)
    slower = []
    for operator in (*products(), *cores()):
        times, halves = [], []
        for name in (better, worse):
            device = load_device(name)
            if operator.dtype not in device.math:
                break
            fit = load_calibration(device, chosen).fit(operator)
            time = float(likely_time(operator, Machine(device, chosen, device.processors), None, fit))
            low, high = (float(fit.spread.ratio(time, *sides)) for sides in ((1.0, 0.0), (0.0, 1.0)))
            halves.append(math.log(high / low) / 2.0 * float(fit.width(operator)))
            times.append(time)
        if len(times) == 2 and math.log(times[0] / times[1]) > WIDER * math.hypot(*halves):
            slower.append(f"{operator.name}: {times[0] / times[1]:.3f} times, spreads {halves[0]:.3f} {halves[1]:.3f}")
    assert not slower
