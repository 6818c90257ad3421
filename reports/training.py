"""Whole training steps beside what was asked of them: by publication, by kind of run, with anchors, and memory.

python -m reports.training --output reports/training.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from costmodel.records import ValueRecord
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.study.published.provenance import IN_SAMPLE
from costmodel.study.published.reproduce import load_cases
from costmodel.study.published.validating import Errors, ScoredValue, errors_of, figures_of, is_unseen, settings
from reports.fits.site_scatter import Score, Site, least, sites_of, table
from reports.page import write_page

COMMAND = "python -m reports.training --output reports/training.md"
COMPOSED = "vtrain_single"  # begins the ids of steps that their source composed of measured parts
NVIDIA = ("dgxc", "nemo", "mlperf", "megatron_bridge")  # publications of its own runs on H100
LONG = 16384  # tokens of a sequence from which on it counts as long
MANY = 5  # figures of a publication that has a bar of its own
PUBLICATION, BIAS = 0.12, 0.08  # bars of those: mean error, and how far the mean of errors may lie from zero
TIMES = ("step_time", "tokens_per_second_per_device", "flop_rate_per_device", "mfu", "hfu", "tokens_per_day")
ANCHORS = {1: (0.055, 0.045), 3: (0.05, 0.04)}  # anchors of a site -> bars of mean and median error
BETTER = 2.0 / 3.0  # of the sites, with anchors
HELD = ("korthikanti_2022", "torchtitan")  # publications whose memory has a bar
MEMORY = 0.06  # bar of the mean error of memory
WORST = 15


class Asked(ValueRecord):
    """A bar of some figures. statistic: `mean` or `median`."""

    name: str
    statistic: str
    bar: float
    holds: Callable[[ScoredValue], bool]


def is_long(one: ScoredValue) -> bool:
    """Tell whether a run has sequences of `LONG` tokens or more."""
    sequence = settings(one.case).get("sequence", "0")
    return sequence.isdigit() and int(sequence) >= LONG


def has_experts(one: ScoredValue) -> bool:
    """Tell whether a run is of a mixture of experts, by its degree of expert parallelism."""
    return settings(one.case).get("ep", "1") not in ("", "1")


def of(*publications: str) -> Callable[[ScoredValue], bool]:
    """Return a test of figures for some publications."""
    return lambda one: one.case.publication in publications


ASKED = (
    Asked("all, without vTrain's one node", "mean", 0.07, lambda _: True),
    Asked("all, without vTrain's one node", "median", 0.05, lambda _: True),
    Asked("vTrain, several nodes", "mean", 0.07, of("vtrain")),
    Asked("vTrain, several nodes", "median", 0.05, of("vtrain")),
    Asked("Korthikanti", "mean", 0.04, of("korthikanti_2022")),
    Asked("NVIDIA's steps on H100", "mean", 0.05, of(*NVIDIA)),
    Asked("those without experts and of less than 16,384 tokens", "mean", 0.05,
          lambda one: of(*NVIDIA)(one) and not has_experts(one) and not is_long(one)),
    Asked("MLPerf", "mean", 0.08, of("mlperf")),
    Asked("InternLM", "mean", 0.08, of("internlm")),
    Asked("sequences of 16,384 tokens and more", "mean", 0.10, is_long),
    Asked("those of NeMo", "mean", 0.10, lambda one: is_long(one) and of("nemo")(one)),
    Asked("Megatron Bridge, dense", "mean", 0.07, lambda one: of("megatron_bridge")(one) and not has_experts(one)),
    Asked("Megatron Bridge, experts", "mean", 0.12, lambda one: of("megatron_bridge")(one) and has_experts(one)),
)  # fmt: skip


def training_cases() -> tuple[list[Case], list[Case]]:
    """Return the published training runs, without vTrain's one node, and the cases of memory of the same sources."""
    cases = [case for case in load_cases([])[0] if not case.id.startswith(COMPOSED)]
    runs = [case for case in cases if case.case_class == "training"]
    return runs, [case for case in cases if case.case_class == "memory" and case.publication in HELD]


def page() -> str:
    """Return the page on training steps beside what was asked of them."""
    runs, memory = training_cases()
    figures, _ = figures_of([*runs, *memory])
    steps = [one for one in figures if one.stated.case_class == "training" and one.unseen.metric in TIMES]
    held = [one for one in figures if one.stated.case_class == "memory"]
    lines = [*_head(), *_asked(steps), *_publications(steps), *_anchors(runs), *_memory(held), *_worst(steps)]
    return "\n".join(lines) + "\n"


def _head() -> Iterator[str]:
    yield "# Training steps: what was asked for, and what is reached"
    yield ""
    yield "Errors are predicted / published - 1 of times, rates and utilisations; figures of one run share one weight."
    yield "Terms that were fitted to a publication are fitted again without it. `unseen` counts figures on whose path"
    yield "nothing rests on them or their source, and such refitted ones; the last two columns count figures that a"
    yield "choice was made with in sight as well, which is no accuracy."
    yield ""
    yield f"Regenerate: `{COMMAND}`"


def _asked(figures: Sequence[ScoredValue]) -> Iterator[str]:
    yield "\n## Bars"
    yield ""
    yield "| figures | measure | bar | unseen figures | value | verdict | with in-sample ones | value |"
    yield "|---|---|---:|---:|---:|---|---:|---:|"
    for asked in ASKED:
        chosen = [one for one in figures if asked.holds(one)]
        unseen, everything = _errors(chosen), errors_of(one.unseen for one in chosen)
        yield (
            f"| {asked.name} | {asked.statistic} | {asked.bar:.0%} | {_count(unseen)} | "
            f"{_value(unseen, asked.statistic)} | {_verdict(unseen, asked)} | {_count(everything)} | "
            f"{_value(everything, asked.statistic)} |"
        )


def _errors(figures: Iterable[ScoredValue]) -> Errors | None:
    return errors_of(one.unseen for one in figures if is_unseen(one.unseen))


def _count(errors: Errors | None) -> str:
    return "0" if errors is None else f"{errors.figures:,}"


def _value(errors: Errors | None, statistic: str) -> str:
    return "" if errors is None else f"{getattr(errors, statistic):.1%}"


def _verdict(errors: Errors | None, asked: Asked) -> str:
    if errors is None:
        return "in-sample: no claim"
    return "reached" if getattr(errors, asked.statistic) <= asked.bar else "**missed**"


def _publications(figures: Sequence[ScoredValue]) -> Iterator[str]:
    yield "\n## By publication"
    yield ""
    yield f"Of a publication with {MANY} figures or more the mean error is to be at most {PUBLICATION:.0%} and the"
    yield f"bias within {BIAS:.0%}, of {len({one.case.publication for one in figures})} publications here."
    yield ""
    yield "| publication | state | figures | runs | mean | median | bias | verdict |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for name in sorted({one.case.publication for one in figures}):
        found = [one for one in figures if one.case.publication == name and one.unseen.error is not None]
        errors = errors_of(one.unseen for one in found)
        if errors is None:
            continue
        state = ", ".join(dict.fromkeys(one.unseen.state or "" for one in found))
        yield (
            f"| {name} | {state} | {errors.figures} | {errors.groups} | {errors.mean:.1%} | {errors.median:.1%} | "
            f"{errors.bias:+.1%} | {_kept(errors, state)} |"
        )


def _kept(errors: Errors, state: str) -> str:
    if state == IN_SAMPLE:
        return "in-sample: no claim"
    if errors.figures < MANY:
        return ""
    kept = errors.mean <= PUBLICATION and abs(errors.bias) <= BIAS
    return "reached" if kept else "**missed**"


def _anchors(runs: Sequence[Case]) -> Iterator[str]:
    yield "\n## Measured steps of one's own"
    yield ""
    yield "Mean and median errors of the other figures of a site, a publication's runs of one framework on one device,"
    yield "over sets of so many of its figures as anchors; the scatter is fitted without the publication."
    yield ""
    yield "| publication | framework | device | figures | without | one anchor | three anchors |"
    yield "|---|---|---|---:|---:|---:|---:|"
    scores = list(table(sites_of(runs, Library())))
    for site, found in scores:
        cells = " | ".join(f"{score.mean:.1%} / {score.median:.1%}" for score in found.values())
        yield f"| {site.publication} | {site.framework} | {site.device} | {len(site.logs)} | {cells} |"
    yield ""
    for anchors, bars in ANCHORS.items():
        yield f"* {_worth(scores, anchors, bars)}"
    mean, median = np.mean([least(site) for site, _ in scores], axis=0)
    yield f"* the one factor a site that leaves the least, known from all of its figures: {mean:.1%} / {median:.1%}"


def _worth(scores: Sequence[tuple[Site, Mapping[int, Score]]], anchors: int, bars: tuple[float, float]) -> str:
    """Return what so many anchors are worth over all sites."""
    mean, bare = (float(np.mean([found[count].mean for _, found in scores])) for count in (anchors, 0))
    median, bare_median = (float(np.mean([found[count].median for _, found in scores])) for count in (anchors, 0))
    better = float(np.mean([found[anchors].mean < found[0].mean for _, found in scores]))
    reached = mean <= bars[0] and median <= bars[1] and better >= BETTER
    return (
        f"{anchors} of a site: {mean:.1%} / {median:.1%} over {len(scores)} sites of four figures and more, without "
        f"{bare:.1%} / {bare_median:.1%}; better in {better:.0%}. Asked: {bars[0]:.1%} / {bars[1]:.1%}, {BETTER:.0%}: "
        f"{'reached' if reached else '**missed**'}"
    )


def _memory(figures: Sequence[ScoredValue]) -> Iterator[str]:
    yield "\n## Memory"
    yield ""
    yield "| publication | case | parts | published | predicted | error |"
    yield "|---|---|---|---:|---:|---:|"
    for one in figures:
        found = one.stated
        if found.error is None or found.published is None or found.predicted is None:
            continue
        parts = (found.metric or "").removeprefix("memory.").replace("+", ", ")
        gib = 2.0**30
        yield (
            f"| {found.publication} | {found.id} | {parts} | {found.published / gib:.1f} GiB | "
            f"{found.predicted / gib:.1f} GiB | {found.error:+.1%} |"
        )
    for name in dict.fromkeys(one.case.publication for one in figures):
        errors = errors_of(one.stated for one in figures if one.case.publication == name)
        if errors is not None:
            verdict = "reached" if errors.mean <= MEMORY else "**missed**"
            yield f"\n{name}: {errors.mean:.1%} in the mean, {errors.worst:.1%} at worst; asked {MEMORY:.0%}: {verdict}"


def _worst(figures: Sequence[ScoredValue]) -> Iterator[str]:
    scored = [one for one in figures if one.unseen.error is not None]
    scored.sort(key=lambda one: -abs(one.unseen.error or 0.0))
    yield "\n## The worst figures"
    yield ""
    yield "| publication | case | state | error |"
    yield "|---|---|---|---:|"
    for one in scored[:WORST]:
        yield f"| {one.case.publication} | {one.case.id} | {one.unseen.state} | {one.unseen.error:+.1%} |"


if __name__ == "__main__":
    write_page("training", page)
