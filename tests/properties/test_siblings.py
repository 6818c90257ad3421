"""A device that is at least as good in every number as its sibling is never slower beyond what both fits leave open."""

from __future__ import annotations

import math

import pytest

import costmodel
from costmodel.calibration.fit_files import FitStore, framework_of
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.cost.operator_time import likely_time
from costmodel.cost.time import Machine
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator, kernel_key

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


def decoded() -> list[Operator]:
    """Return what 128 sequences of DeepSeek-V3 take in a decoding step: latent cores and experts."""
    sequences, heads, latent, keys = 128.0, 128.0, 576.0, 4096.0
    core = AttentionKernel(
        "latent core", sequences=sequences, heads=heads, q_len=1.0, qk_pairs=keys, macs_per_pair=latent + 512.0,
        dtype="bf16", traffic=sequences * (heads * (latent + 512.0) + keys * latent) * 2.0, family="mla_decode",
        kv_len=keys, kv_token_bytes=latent * 2.0,
    )  # fmt: skip
    experts = [
        Gemm(
            f"experts {n:g}x{k:g}", m=64.0, n=n, k=k, dtype="fp8", a_bytes=1.03, b_bytes=1.0, out_bytes=2.0, groups=2.0,
            family="grouped_gemm", block_scaled=True, masked=True,
        )
        for n, k in ((4096.0, 7168.0), (7168.0, 2048.0))
    ]  # fmt: skip
    return [core, *experts]


def streams() -> list[Operator]:
    """Return norms, activations and rotary embeddings of a decoding step."""
    widths = {"norm": 4.0 * 7168.0, "activation": 3.0 * 2048.0, "rotary": 4.0 * 8192.0}
    return [
        Elementwise(f"{kind} of {rows:g} rows", rows * width, kind=kind, rows=rows)
        for kind, width in widths.items()
        for rows in (16.0, 128.0)
    ]  # fmt: skip


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("better", "worse"), PAIRS)
def test_a_better_device_is_never_slower_beyond_both_spreads(better, worse, framework):
    library = Library(())
    chosen = framework_of(framework, library)
    slower = []
    fused = streams() if framework != "default" else []  # devices' defaults are kernels of PyTorch or of an engine
    devices = [(device, load_calibration(device, chosen)) for device in map(load_device, (better, worse))]
    for operator in (*products(), *cores(), *decoded(), *fused):
        times, halves = [], []
        for device, calibration in devices:
            if getattr(operator, "dtype", "bf16") not in device.math:
                break
            fit = calibration.fit(operator)
            time = float(likely_time(operator, Machine(device, chosen, device.processors), None, fit))
            low, high = (float(fit.spread.ratio(time, *sides)) for sides in ((1.0, 0.0), (0.0, 1.0)))
            inside = math.log(high / low) / 2.0 * float(fit.width(operator))
            halves.append(math.hypot(inside, float(fit.unseen_half_width(operator))))
            times.append(time)
        if len(times) == 2 and math.log(times[0] / times[1]) > WIDER * math.hypot(*halves):
            slower.append(f"{operator.name}: {times[0] / times[1]:.3f} times, spreads {halves[0]:.3f} {halves[1]:.3f}")
    assert not slower


@pytest.mark.parametrize("framework", FRAMEWORKS[1:])
@pytest.mark.parametrize(("better", "worse"), PAIRS)
def test_a_named_kernel_of_the_die_answers_and_no_better_device_is_slower_where_both_have_one_fit(
    better, worse, framework
):
    library = Library(())
    store, chosen = FitStore(library), framework_of(framework, library)
    slower, others = [], []
    devices = list(map(load_device, (better, worse)))
    lookups = [FitLookup(store, device.name, chosen.implementations) for device in devices]
    for operator in (*products(), *cores(), *decoded(), *streams()):
        key, times, taken = kernel_key(operator), [], []
        for device, lookup in zip(devices, lookups, strict=True):
            named = [name for name in lookup._named(key) if "/" not in name]
            listed = (device.name, *store.others(device.name, same_die=True))
            die = [each for each in listed if near(store, device.name, each)]
            known = [fits for name in named for each in die if (fits := store.device_fits(each, name)) is not None]
            best = lookup.considered(key)[-1]
            is_named = any(map(best.is_of, named)) and near(store, device.name, best.device)
            tuned = [each.file.families.get(key) for each in known if key not in each.file.untuned]
            if any(each is not None and each.form is not None for each in tuned) and not is_named:
                others.append(f"{device.name} {key}: {best.source} for {named}")
            fit = lookup.get(key)
            if getattr(operator, "dtype", "bf16") in device.math and fit is not None and not fit.is_joined(operator):
                machine = Machine(device, chosen, device.processors)
                times.append(float(likely_time(operator, machine, None, fit)))
                taken.append(best.source)
        if len(times) == 2 and taken[0] == taken[1] and times[0] > 1.01 * times[1]:
            slower.append(f"{operator.name}: {times[0] / times[1]:.3f} times")
    assert (slower, others) == ([], [])


def near(store: FitStore, device: str, other: str) -> bool:
    return store.relation(device, other) in ("own", "twin", "die")


@pytest.mark.parametrize("scenario", ["prefill", "decode"])
@pytest.mark.parametrize("better", ["dgx-h100", "hgx-h200"])
def test_deepseek_v3_is_served_no_slower_beyond_the_spread_than_on_the_same_die_with_slower_links(better, scenario):
    metric, found = {"prefill": "ttft", "decode": "tpot"}[scenario], []
    for node in (better, "hgx-h800"):
        cluster = {f"scenarios.{scenario}.cluster": f"nodes/{node}"}
        result = costmodel.load("deepseek_v3", set=cluster, scenarios=[scenario]).simulate()["scenarios"][scenario]
        low, high = result["intervals"][metric]
        found.append((result["metrics"][metric], math.log(high / low) / 2.0))
    (fast, own), (slow, other) = found
    assert math.log(fast / slow) <= WIDER * math.hypot(own, other)
