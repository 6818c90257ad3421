"""The evidence of attention and MoE systems: published claims beside predictions, and every system on three devices.

python -m reports.systems --output reports/systems
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import yaml

from costmodel.analytic.intervals import RATES, TIMES
from costmodel.api import load
from costmodel.errors import InputError
from costmodel.records import Record
from costmodel.report.plotting import write_plots
from costmodel.report.style import Plot, styled
from costmodel.report.text import metric, setting
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.predictions import TOTAL, counted_work
from costmodel.study.published.reproduce import ASSUMED, IDENTITY, PASS, SKIP, Comparison, load_cases, reproduce
from costmodel.workload.plans import Prefill
from reports.figures import Curve, curves_figure
from reports.page import rendered, write_folder

PAPERS = Path(__file__).with_name("papers.yaml")
CASES = ("systems", "systems_series")
DIGITS = 4
DEVICES = {"H800": "nodes/hgx-h800", "A100": "nodes/dgx-a100", "RTX 4090": "nodes/rtx-4090-x8"}


def publish(folder: Path) -> Iterator[Path]:
    """Write the figures and the page with the tables, and yield their paths."""
    cases, problems = load_cases(list(CASES))
    comparisons, more = reproduce(cases)
    sys.stderr.writelines(f"{problem}\n" for problem in (*problems, *more))
    with styled():
        shown = figures()
    yield from write_plots(((name, one.drawn) for name, one in shown.items()), folder)
    write_whole(folder / "README.md", [_page(comparisons, shown).encode()])
    yield folder / "README.md"


def _page(comparisons: Sequence[Comparison], drawn: Mapping[str, Figure]) -> str:
    compared = [one for one in comparisons if one.verdict != SKIP]
    claims, stated = scored(comparisons), [one.state for one in compared if not _is_check(one.id)]
    times = [one for one in claims if one.error is not None and group_of_time(one.metric)]
    return rendered(
        "systems/page", claims=_share(claims), times=_share(times), identity=stated.count(IDENTITY),
        assumed=stated.count(ASSUMED), checks=sum(_is_check(one.id) for one in compared), compared=compared,
        left_out=[one for one in comparisons if one.verdict == SKIP], shown=_shown, devices=list(DEVICES),
        systems=_systems(), figures=drawn, papers=yaml.safe_load(PAPERS.read_text()),
    )  # fmt: skip


def _systems() -> Iterator[tuple[str, ...]]:
    """Yield every scenario of every system: its headline and limit on each device, or why it does not run."""
    for name in Library().names(FOLDER):
        for scenario in load(f"{FOLDER}/{name}").scenarios:
            yield name, scenario, *(_cell(f"{FOLDER}/{name}", scenario, node) for node in DEVICES.values())


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


def group_of_time(metric: str | None) -> bool:
    """Tell whether a metric is a time or a rate, not a count."""
    return metric is not None and (metric in TIMES | RATES or metric.startswith("breakdown."))


def _share(claims: Sequence[Comparison]) -> str:
    passed = sum(one.verdict == PASS for one in claims)
    return f"{passed} of {len(claims)} ({passed / len(claims):.0%})"


def _shown(one: Comparison, value: float | None) -> str:
    """Return a figure with its unit; ratios and counts have none."""
    if value is None:
        return "-"
    dimension = dimension_of(one.metric or "")
    plain = one.unit == "1" or dimension in (None, "count", "ratio")
    return f"{value:.4g}" if plain or dimension is None else setting(value, dimension, DIGITS)


# ---- Curves of systems: decoding and memory against context, cores against length, images against FLOP ---------------

FOLDER = "systems"
ONE = "nodes/a100-x1"
CURVES = Path(__file__).with_name(
    "curves.yaml"
)  # systems, patterns and networks that are drawn, and what is said of them
CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
CORE, RECURRENCE = "attention_full_h32", "lightning_attention"
LINEAR = "Lightning Attention"
ATTENTION = "attention core", "key selection"
Points: TypeAlias = "list[tuple[float, float]]"
Series: TypeAlias = "dict[str, Points]"
Axis: TypeAlias = "tuple[str, str]"  # what it shows, and in which unit


class Figure(Record):
    """A figure, and the sentences below it."""

    title: str
    told: str
    drawn: Plot


def figures() -> dict[str, Figure]:
    """Return the figures by the name of their file."""
    drawn = yaml.safe_load(CURVES.read_text(encoding="utf-8"))
    told = drawn["told"]
    latency, memory = against_context(drawn["keepers"])
    length, images = against_length(drawn["patterns"]), of_images(drawn["images"])
    one, context, prompt = "one A100, one sequence", ("context (tokens)", "count"), ("prompt (tokens)", "count")
    like = [name for name in latency if name not in drawn["other_models"]]
    best, least = (min(like, key=lambda name: of[name][-1][1]) for of in (latency, memory))
    times, keys = (of["full attention"][-1][1] / of[name][-1][1] for of, name in ((latency, best), (memory, least)))
    fastest = min(length, key=lambda name: length[name][-1][1])
    quick = max(images, key=lambda name: max(rate for _, rate in images[name]))
    speed = length["full"][-1][1] / length[fastest][-1][1]
    titles = {
        "decode_latency": f"At {CONTEXTS[-1]:,} tokens {best} decodes {times:.1f} times as fast as full attention",
        "kv_memory": f"At {CONTEXTS[-1]:,} tokens {least} keeps 1/{keys:,.0f} of full attention's keys on the device",
        "attention_time": f"{fastest} takes 1/{speed:,.0f} of full attention's time at {LENGTHS[-1]:,} tokens",
        "images": f"{quick} reaches {max(rate for _, rate in images[quick]):,.0f} images per second, the most",
    }
    shown = {
        "decode_latency": (latency, context, ("time of a step", "time"), told["context"], f"Llama 2 7B, {one}"),
        "kv_memory": (memory, context, ("keys, values and states", "size"), told["memory"], one),
        "attention_time": (
            length, prompt, ("time of a layer's core", "time"), told["length"], "a core of 32 heads of 128, one A100",
        ),
        "images": (
            images, ("work of an image", "flop"), ("images per second", "count"), told["images"], "one A100, FP16",
        ),
    }  # fmt: skip
    made = {}
    for name, (series, across, up, said, note) in shown.items():
        curves = [Curve(label, *np.array(sorted(points)).T) for label, points in series.items()]
        drawn = curves_figure(titles[name], across, up, curves, note, joined=name != "images")
        made[name] = Figure(titles[name], said, drawn)
    return made


def against_context(keepers: Mapping[str, str]) -> tuple[Series, Series]:
    """Return the decoding step and the bytes on the device of systems that save cache, against the context.

    keepers: title of a curve -> system.
    """
    latency: Series = {}
    memory: Series = {}
    for title, name in keepers.items():
        first = next(each for each in load(f"{FOLDER}/{name}").scenarios if "decode" in each)
        path = f"scenarios.{first}"
        for tokens in CONTEXTS:
            changes = {f"{path}.input_tokens": tokens, f"{path}.batch_per_device": 1}
            workload = load(f"{FOLDER}/{name}", changes, cluster=ONE, scenarios=[first])
            point = workload.points()[first]
            value = point.metrics["tpot"]
            if point.fits and value is not None and point.memory is not None:
                latency.setdefault(title, []).append((tokens, value))
                memory.setdefault(title, []).append((tokens, point.memory["kv_cache"]))
    return latency, memory


def against_length(patterns: Mapping[str, Mapping[str, object]]) -> Series:
    """Return the time of one layer's core of 32 heads, and of what chooses its keys, against the length of a prompt."""
    found: Series = {}
    place = "model.layers.0.mixer.head_groups"
    named: list[tuple[str, str, dict[str, object]]]
    named = [(title, CORE, {place: [{"share": 1.0, "pattern": pattern}]}) for title, pattern in patterns.items()]
    for title, name, changes in (*named, (LINEAR, RECURRENCE, {})):
        first = load(f"{FOLDER}/{name}").scenarios[0]
        path = f"scenarios.{first}"
        for tokens in LENGTHS:
            sized = {**changes, f"{path}.input_tokens": tokens, f"{path}.tokens_per_device": tokens}
            workload = load(f"{FOLDER}/{name}", sized, cluster=ONE, scenarios=[first])
            point = workload.points()[first]
            if point.fits:
                spent = sum(line.time for line in point.breakdown if line.name in ATTENTION)
                found.setdefault(title, []).append((tokens, spent))
    return found


def of_images(networks: Mapping[str, Sequence[str]]) -> Series:
    """Return (FLOP, images a second) of networks of images, by family."""
    found: Series = {}
    for family, names in networks.items():
        for name in names:
            workload = load(f"{FOLDER}/{name}", cluster=ONE)
            (first,) = workload.scenarios
            plan, rate = workload.scenario(first).plan, workload.points()[first].metrics["tokens_per_second_per_device"]
            assert isinstance(plan, Prefill)
            if rate is not None:
                tokens = float(plan.input_tokens)
                work = counted_work(workload.scenario(first))[TOTAL]["flop"] / float(plan.tokens_per_device / tokens)
                found.setdefault(family, []).append((work, rate / tokens))
    return found


if __name__ == "__main__":
    write_folder("systems", publish)
