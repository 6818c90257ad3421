"""What-ifs of a model's numbers: its formats, its expert-parallel group, its cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from costmodel.api import load
from costmodel.report.models import attention
from costmodel.report.plots.bars import Bar
from costmodel.report.style import BLUE, GREEN, ORANGE
from costmodel.report.text import gib, metric, shortened
from costmodel.schema.files import load_document, load_model
from costmodel.study.levers import hypothetical, levers_of, worths_of
from costmodel.study.what_if import Worth
from costmodel.workload.counting import kv_bytes_per_token
from reports.what_if.asked import FLAGSHIP, RATIOS, Asked, Group, curve, groups_plot, point, ratio, rests_on
from reports.what_if.curves import Curve, Panel, curves_figure

ROOMY = "192 GiB"  # of memory on both sides: in BF16 most scenarios do not fit an H800


def of_formats() -> Asked:
    """Return V3 in BF16 relative to FP8, both with memory enough for BF16."""
    bars, says, refused = [], [], []
    room = {"hardware.memory.hbm.capacity": ROOMY}
    for scenario in ("training", "prefill", "decode"):
        wide = {f"scenarios.{scenario}.precision": "bf16", f"scenarios.{scenario}.communication.dispatch": "bf16"}
        narrow, broad, really = point(scenario, room), point(scenario, {**wide, **room}), point(scenario, wide)
        value, low, high = ratio(load(FLAGSHIP, set=dict(room), scenarios=[scenario]), wide)
        note = "" if really.fits else f"needs {gib(broad.on_device, 0)} of {gib(really.capacity, 0)} GiB"
        refused += [] if really.fits else [scenario]
        bars.append(Bar(scenario, "ratio", value, low, high, note))
        says.append(
            f"{scenario}: BF16 takes {value:.2f} times as long and {gib(broad.on_device)} GiB a device in place of "
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
    least, most = min(bar.value for bar in bars), max(bar.value for bar in bars)
    unfit = f", and does not fit for {' and '.join(refused)}" if refused else ""
    title = f"DeepSeek-V3 in BF16 takes {least:.1f} to {most:.1f} times as long as in FP8{unfit}"
    note = f"{RATIOS}; BF16 experts: TensorRT-LLM's kernels, FP8: DeepGEMM's"
    drawn = groups_plot(title, [Group("time in BF16 relative to FP8", "count", bars)], note)
    return Asked("fp8_bf16", "FP8 against BF16", drawn, says, [command])


def of_experts() -> Asked:
    """Return the time of a token of a user over the size of the expert-parallel group."""
    sizes, batches = [16, 32, 64, 128, 256], [16, 32, 64, 128]
    loaded = load(FLAGSHIP, scenarios=["decode"])
    path = "scenarios.decode"
    result = loaded.evaluate("decode", vary={
        (f"{path}.parallel.ep", f"{path}.parallel.dp"): (sizes, sizes), f"{path}.batch_per_device": batches,
    })  # fmt: skip
    names = ("tpot", "tokens_per_second_per_device")
    curves, rates = (
        [curve(f"{batch} requests", sizes, result, name, (slice(None), at)) for at, batch in enumerate(batches)]
        for name in names
    )
    ticks = [float(size) for size in sizes]
    panels = [
        Panel(("GPUs in the expert-parallel group", "count"), what, each, ticks=ticks)
        for what, name, each in zip(
            (("time per output token", "time"), ("tokens/s per GPU", "count")), names, (curves, rates), strict=True
        )
    ]
    says = []
    for batch, one in zip(batches, curves, strict=True):
        runs = [at for at in range(len(sizes)) if np.isfinite(one.value[at])]
        lacks = [str(sizes[at]) for at in range(len(sizes)) if at not in runs]
        without = f"; it does not fit on {', '.join(lacks)}" if lacks else ""
        first, last = (metric("tpot", float(one.value[at]), 3) for at in (runs[0], runs[-1]))
        says.append(
            f"{batch} requests per GPU: {first} on {sizes[runs[0]]} GPUs, {last} on {sizes[runs[-1]]}{without}."
        )
    listed = ",".join(map(str, sizes))
    command = (
        f"costmodel sweep {FLAGSHIP} --scenario decode "
        f'--vary "{path}.parallel.ep={listed}; {path}.parallel.dp={listed}" '
        f"--vary {path}.batch_per_device={','.join(map(str, batches))} --output DIR"
    )
    title = f"Wider expert parallelism lowers latency: {says[0].partition('. ')[0].rstrip('.')}"
    drawn = curves_figure(title, panels, "a curve for each number of requests per GPU; it begins where they fit")
    return Asked(
        "expert_parallel", "The size of the expert-parallel group against the time of a token", drawn, says, [command]
    )


MODELS = ("deepseek-v3", "qwen2.5-72b", "llama-3.1-405b", "gpt3-175b")


def of_cache() -> Asked:
    """Return the KV cache of one request over the length of its context."""
    lengths = np.array([2.0**power for power in range(10, 21)])
    device = load_document("devices", "h800-sxm")
    capacity = float(device["memory"][-1]["capacity"])
    curves, says, sizes = [], [], []
    for name in MODELS:
        architecture = load_model(name)
        each = float(kv_bytes_per_token(architecture))
        kind = attention(architecture).partition(" ")[0]
        curves.append(Curve(f"{name} ({kind})", lengths, lengths * each))
        sizes.append((name, 128 * 1024 * each))
        says.append(
            f"`{name}`, {attention(architecture)}: {each:,.0f} B a token, {gib(128 * 1024 * each)} GiB at 128 Ki "
            f"tokens; "
            f"{capacity / each:,.0f} tokens fill {gib(capacity, 0)} GiB."
        )
    panel = Panel(
        ("context length (tokens)", "count"), ("KV cache of one request", "size"), curves,
        lines=[(capacity, f"H800 memory ({gib(capacity, 0)} GiB)")], ticks=list(lengths[::2]), wide=True,
    )  # fmt: skip
    (first, least), (last, most) = sizes[0], sizes[-1]
    title = f"At 128 Ki tokens {first} keeps {gib(least)} GiB per request, {last} {gib(most, 0)} GiB"
    commands = [f"costmodel model show {name}" for name in MODELS]
    return Asked(
        "kv_cache", "Context length against KV memory: MLA, GQA, MHA",
        curves_figure(title, [panel], "exact counts, 16 bits an element"), [*says, "In 16 bits, exact counts."],
        commands,
    )  # fmt: skip


# ---- What the paper recommends, ranked by what each is worth ---------------------------------------------------------

NAME = "insights_deepseek_v3"
LEVERS = f"what_ifs/{NAME}"
COLOURS = {"training": BLUE, "prefill": GREEN, "decode": ORANGE}
"""Scenario -> colour of its bars."""
WIDE, SHOWN = 42, 6  # characters of a line beside a bar; bars of a panel
LEAST = 5e-4  # of the metric: less is shown as nothing
WHAT = {"training": "shorter training step", "prefill": "shorter time to first token",
        "decode": "shorter time per output token"}  # fmt: skip


def of_recommendations() -> Asked:
    """Return what each recommendation of the paper saves in V3's scenarios."""
    levers, workload = levers_of(LEVERS), load(FLAGSHIP, scenarios=list(COLOURS))
    with hypothetical(workload, LEVERS):
        found = {scenario: worths_of(workload, scenario, levers) for scenario in COLOURS}
    return ranked(levers.title, found)


def ranked(title: str, found: Mapping[str, Sequence[Worth]]) -> Asked:
    """Return what changes of each scenario as it is save, a panel for each, the largest first."""
    says: list[str] = []
    groups, best = [], []
    for scenario, worths in found.items():
        own, others = (
            sorted(
                (one for one in worths if one.saved is not None and (one.base == "scenario") is mine),
                key=lambda one: -(one.saved or 0.0),
            )
            for mine in (True, False)
        )
        told = [one for one in own if abs(one.saved or 0.0) > LEAST]
        if told:
            term = told[0].term[:1].upper() + told[0].term[1:]
            best.append(f"{term}: saves most, {told[0].saved:.0%} of {scenario}")
            groups.append(Group(WHAT[scenario], "ratio", [_bar(one, COLOURS[scenario]) for one in told[:SHOWN]]))
        says += _lines(scenario, own, told, others)
    says.append(
        "Each alone, against the workload as it stands. The command prints ceilings and limits; what no change "
        "expresses is in [the list](../../docs/recommendations.md)."
    )
    note = "line: 80 % interval of the saving; errors that both sides share cancel"
    drawn = groups_plot(best[0], groups, note)
    return Asked(NAME, title, drawn, says, [f"costmodel what-if {FLAGSHIP} --levers {LEVERS}"])


def _bar(one: Worth, colour: str) -> Bar:
    low, high = (None, None) if one.ratio is None else (1.0 - one.ratio[1], 1.0 - one.ratio[0])
    return Bar(shortened(one.term, WIDE), "mfu", one.saved or 0.0, low, high, colour=colour)


def _lines(
    scenario: str, own: Sequence[Worth], told: Sequence[Worth], others: Sequence[Worth]
) -> Iterator[str]:  # fmt: skip
    """Yield what a panel leaves out: changes that save less or nothing, and those of another start."""
    for heading, some in (
        ("save less, or cost", told[SHOWN:]), ("no gain by this model", [one for one in own if one not in told]),
        ("against an assumed start of its own", others),
    ):  # fmt: skip
        if some:
            listed = "; ".join(f"{one.term} ({one.saved:+.1%})" for one in some)
            yield f"{scenario}, {heading}: {listed}."
