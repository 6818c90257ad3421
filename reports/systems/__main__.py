"""The evidence of attention and MoE systems: published claims beside predictions, and every system on three devices.

python -m reports.systems --output reports/systems
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from costmodel.analytic.intervals import RATES, TIMES
from costmodel.api import load
from costmodel.errors import InputError
from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.report.text import metric, setting
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.reproduce import ASSUMED, IDENTITY, PASS, SKIP, Comparison, load_cases, reproduce
from reports.page import percent, table, write_folder
from reports.systems.curves import FOLDER, Figure, figures

COMMAND = "python -m reports.systems --output reports/systems"
CASES = ("systems", "systems_series")
DIGITS = 4
DEVICES = {"H800": "nodes/hgx-h800", "A100": "nodes/dgx-a100", "RTX 4090": "nodes/rtx-4090-x8"}
BEFOREHAND = (
    "Not all of it is prediction. Figures of these tables were known when it was decided which library's fit stands "
    "for FlashAttention-2 in `frameworks/hf-static`, that it splits keys and reads them in one piece, that its kernel "
    "of prompts runs where keys are whole, how many passes a convolution's activation takes, that tensors of "
    "convolutions lie channel by channel (PyTorch's default) in "
    "SHViT, MobileViTv2, NAT and DiNAT, in every 1 x 1 convolution, that SHViT's scores lie in memory, that FP16 means "
    "autocast for NAT and DiNAT, that their kernels are as fast as xFormers', that programs of Lightning Attention, "
    "which carry 32 columns of the values as its source says, share a processor's time, that 4-bit caches have "
    "QServe's scales, and that UoE ran one sequence in FP32. The time of a second group of heads is fitted on ten "
    "contexts of DuoAttention's figure 9 (7B), the time of a chunk on the README's row of 4,096 tokens, the rate of "
    "S2's kernel on stride 1 of its figure; those rows are left out, others of the same series are compared. What "
    "holds by construction (`identity`) and what rests on settings that nobody published (`assumed`) is shown and "
    "counts in no row of accuracy. Claims about DeepSeek-V3 are cases of their own: `costmodel reproduce "
    "insights_deepseek_v3 deepep ktransformers`."
)
MISSES = (
    "What misses. A concatenated cache (MA-T-concat) comes out a fifth too fast at all three lengths: its bytes "
    "do not hold what PyTorch's allocator does when tensors grow. How MoA without its kernel launches heads of several "
    "spans (MA-T-reduced-16k, whose groups are small enough to be split) is not published, and its own kernel (MA-7b) "
    "has no measured rows: FlashAttention-2's, a fifth slower, stands for it. cuDNN and NATTEN on an H100 (NA-01, "
    "NA-03, NA-T) have no measured rows and stand on FlashAttention-3's, and long dense kernels there run below the "
    "clock of short ones. Steps of 18 to 20 ms (DU-13-20k) are bound by the host's program, which is known for a "
    "second group of heads only. PCIe (LH-03) is taken at the datasheet's rate."
)


def publish(folder: Path) -> Iterator[Path]:
    """Write the figures and the page with the tables, and yield their paths."""
    cases, problems = load_cases(list(CASES))
    comparisons, more = reproduce(cases)
    sys.stderr.writelines(f"{problem}\n" for problem in (*problems, *more))
    with styled():
        shown = figures()
    yield from write_plots(((name, one.drawn) for name, one in shown.items()), folder)
    page = [*_head(comparisons), *_claims(comparisons), *_left_out(comparisons), *_devices(), *_links(shown), ""]
    write_whole(folder / "README.md", ["\n".join(page).encode()])
    yield folder / "README.md"


def _devices() -> Iterator[str]:
    """Yield every scenario of every system: its headline and limit on each device, or why it does not run."""
    rows = (
        (name, scenario, *(_cell(f"{FOLDER}/{name}", scenario, node) for node in DEVICES.values()))
        for name in Library().names(FOLDER)
        for scenario in load(f"{FOLDER}/{name}").scenarios
    )
    yield from table("Every system on three devices", ("system", "scenario", *DEVICES), rows)
    yield ""
    yield "The headline of each scenario, and the operator that takes most of it with what limits that."


def _cell(reference: str, scenario: str, node: str) -> str:
    try:
        workload = load(reference, cluster=node, scenarios=[scenario])
    except InputError as error:
        return error.problems[0].message
    point = workload.points([scenario])[scenario]
    value = point.metrics[point.headline]
    if not point.fits or value is None:
        return "does not fit"
    largest = max(point.breakdown, key=lambda entry: entry.time)
    return f"{metric(point.headline, value)}, {largest.name} ({largest.bound})"


def _is_check(identity: str) -> bool:
    """Tell whether a case is a check of structure that no paper states: `-D` and a number in its id."""
    return any(part[:1] == "D" and part[1:].isdigit() for part in identity.split("-")[1:])


def scored(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the published figures that count: compared, no check of structure, no identity, no assumed setting."""
    compared = [one for one in comparisons if one.verdict != SKIP and not _is_check(one.id)]
    return [one for one in compared if one.state not in (IDENTITY, ASSUMED)]


def _head(comparisons: Sequence[Comparison]) -> Iterator[str]:
    compared = [one for one in comparisons if one.verdict != SKIP]
    claims = scored(comparisons)
    times = [one for one in claims if one.error is not None and group_of_time(one.metric)]
    unscored = {state: sum(one.state == state and not _is_check(one.id) for one in compared) for state in
                (IDENTITY, ASSUMED)}  # fmt: skip
    yield from (
        "# Attention and MoE systems: claims against predictions", "",
        f"Made by `{COMMAND}` from `workloads/systems`, `workloads/published/systems.yaml` and "
        "`workloads/published/systems_series.yaml`.", "",
        f"{_share(claims)} published figures are within their tolerance; of times and rates with a number "
        f"{_share(times)}. {unscored[IDENTITY]} more hold by construction and {unscored[ASSUMED]} rest on settings "
        f"that nobody published: they are shown, not counted. {sum(_is_check(one.id) for one in compared)} rows check "
        "structure that no paper puts a number to. "
        f"{sum(one.verdict == SKIP for one in comparisons)} rows are left out, with the reason.", "",
        BEFOREHAND, "", MISSES,
    )  # fmt: skip


def group_of_time(metric: str | None) -> bool:
    """Tell whether a metric is a time or a rate, not a count."""
    return metric is not None and (metric in TIMES | RATES or metric.startswith("breakdown."))


def _share(claims: Sequence[Comparison]) -> str:
    passed = sum(one.verdict == PASS for one in claims)
    return f"{passed} of {len(claims)} ({passed / len(claims):.0%})"


def _claims(comparisons: Sequence[Comparison]) -> Iterator[str]:
    rows = (
        (
            one.id, one.metric, _shown(one, one.published), _shown(one, one.predicted),
            percent(one.error, sign=True), one.verdict, one.state or "",
        )
        for one in comparisons
        if one.verdict != SKIP
    )  # fmt: skip
    yield from table("Claims", ("id", "metric", "published", "predicted", "error", "verdict", "state"), rows)


def _shown(one: Comparison, value: float | None) -> str:
    """Return a figure with its unit; ratios and counts have none."""
    if value is None:
        return "-"
    dimension = dimension_of(one.metric or "")
    plain = one.unit == "1" or dimension in (None, "count", "ratio")
    return f"{value:.4g}" if plain or dimension is None else setting(value, dimension, DIGITS)


def _left_out(comparisons: Sequence[Comparison]) -> Iterator[str]:
    skipped = ((one.id, one.reason) for one in comparisons if one.verdict == SKIP)
    yield from table("Rows left out", ("id", "reason"), skipped)


def _links(drawn: Mapping[str, Figure]) -> Iterator[str]:
    yield from ("", "## Figures")
    for name, shown in drawn.items():
        yield from ("", f"![{shown.title}]({name}.svg)", "", shown.told)


if __name__ == "__main__":
    write_folder("systems", publish)
