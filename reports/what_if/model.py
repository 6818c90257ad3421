"""What-ifs of a model's numbers: its formats, its expert-parallel group, its cache."""

from __future__ import annotations

import numpy as np

from costmodel.api import load
from costmodel.report.models import attention
from costmodel.report.style import BLUE, ORANGE
from costmodel.report.text import gib, metric
from costmodel.schema.files import load_document, load_model
from costmodel.workload.counting import kv_bytes_per_token
from reports.what_if.asked import FLAGSHIP, Asked, bar, curve, point, rests_on
from reports.what_if.bar_groups import Group, groups_plot
from reports.what_if.curves import Curve, Panel, curves_figure

ROOMY = "192 GiB"  # of memory on both sides: in BF16 most scenarios do not fit an H800


def of_formats() -> Asked:
    """Return V3 in FP8 and in BF16, both with memory enough for BF16."""
    groups, says = [], []
    room = {"hardware.memory.hbm.capacity": ROOMY}
    for scenario in ("training", "prefill", "decode"):
        wide = {f"scenarios.{scenario}.precision": "bf16", f"scenarios.{scenario}.communication.dispatch": "bf16"}
        narrow, broad, really = point(scenario, room), point(scenario, {**wide, **room}), point(scenario, wide)
        fits = "" if really.fits else "does not fit 80 GiB"
        groups.append(Group(f"{scenario}: {narrow.headline.replace('_', ' ')}", "time", [
            bar("FP8", narrow, colour=BLUE), bar("BF16", broad, fits, colour=ORANGE),
        ]))  # fmt: skip
        ratio = (broad.metrics[broad.headline] or 0.0) / (narrow.metrics[narrow.headline] or 1.0)
        says.append(
            f"{scenario}: BF16 takes {ratio:.2f} times as long and {gib(broad.on_device)} GiB a device in place of "
            f"{gib(narrow.on_device)}. FP8 rests on {rests_on(narrow)}; BF16 on {rests_on(broad)}."
        )
    says.append(
        "The difference is not the format's alone: FP8 experts are priced by DeepGEMM, BF16 ones by TensorRT-LLM's "
        "kernels of H100, since no fast ones are public for H800."
    )
    path = "scenarios.prefill"
    command = (
        f"costmodel simulate {FLAGSHIP} --scenario prefill --set {path}.precision=bf16 "
        f"--set {path}.communication.dispatch=bf16"
    )
    drawn = groups_plot(groups)
    return Asked("fp8_bf16", "FP8 against BF16", drawn, says, [command])


def of_experts() -> Asked:
    """Return the time of a token of a user over the size of the expert-parallel group."""
    sizes, batches = [16, 32, 64, 128, 256], [16, 32, 64, 128]
    loaded = load(FLAGSHIP, scenarios=["decode"])
    path = "scenarios.decode"
    result = loaded.evaluate("decode", vary={
        (f"{path}.parallel.ep", f"{path}.parallel.dp"): (sizes, sizes), f"{path}.batch_per_device": batches,
    })  # fmt: skip
    curves = [
        curve(f"{batch} requests a device", sizes, result, "tpot", (slice(None), at))
        for at, batch in enumerate(batches)
    ]
    rates = [
        curve(f"{batch} requests a device", sizes, result, "tokens_per_second_per_device", (slice(None), at))
        for at, batch in enumerate(batches)
    ]
    ticks = [float(size) for size in sizes]
    panels = [
        Panel(("devices in the expert-parallel group", "count"), ("time per output token", "time"), "tpot", curves,
              ticks=ticks),
        Panel(("devices in the expert-parallel group", "count"), ("tokens/s of a device", "count"),
              "tokens_per_second_per_device", rates, ticks=ticks),
    ]  # fmt: skip
    says = []
    for batch, one in zip(batches, curves, strict=True):
        runs = [at for at in range(len(sizes)) if np.isfinite(one.value[at])]
        lacks = [str(sizes[at]) for at in range(len(sizes)) if at not in runs]
        without = f"; it does not fit on {', '.join(lacks)}" if lacks else ""
        first, last = runs[0], runs[-1]
        says.append(
            f"{batch} requests a device: {metric('tpot', float(one.value[first]))} on {sizes[first]} devices, "
            f"{metric('tpot', float(one.value[last]))} on {sizes[last]}{without}."
        )
    listed = ",".join(map(str, sizes))
    command = (
        f"costmodel sweep {FLAGSHIP} --scenario decode "
        f'--vary "{path}.parallel.ep={listed}; {path}.parallel.dp={listed}" '
        f"--vary {path}.batch_per_device={','.join(map(str, batches))} --output DIR"
    )
    return Asked(
        "expert_parallel", "The size of the expert-parallel group against the time of a token", curves_figure(panels),
        says, [command],
    )  # fmt: skip


MODELS = ("deepseek-v3", "qwen2.5-72b", "llama-3.1-405b", "gpt3-175b")


def of_cache() -> Asked:
    """Return the KV cache of one request over the length of its context."""
    lengths = np.array([2.0**power for power in range(10, 21)])
    device = load_document("devices", "h800-sxm")
    capacity = float(device["memory"][-1]["capacity"])
    curves, says = [], []
    for name in MODELS:
        architecture = load_model(name)
        each = float(kv_bytes_per_token(architecture))
        kind = attention(architecture).partition(" ")[0]
        curves.append(Curve(f"{name} ({kind})", lengths, lengths * each))
        says.append(
            f"`{name}`, {attention(architecture)}: {each:,.0f} B a token, {gib(128 * 1024 * each)} GiB at 128 Ki "
            f"tokens; "
            f"{capacity / each:,.0f} tokens fill {gib(capacity, 0)} GiB."
        )
    panel = Panel(
        ("tokens of context", "count"), ("KV cache of one request", "size"), "kv_cache_bytes_per_token", curves,
        lines=[(capacity, "all memory of an H800")], ticks=list(lengths[::2]), wide=True,
    )  # fmt: skip
    commands = [f"costmodel model show {name}" for name in MODELS]
    return Asked(
        "kv_cache", "Context length against KV memory: MLA, GQA, MHA", curves_figure([panel]),
        [*says, "In 16 bits, exact counts."], commands,
    )  # fmt: skip
