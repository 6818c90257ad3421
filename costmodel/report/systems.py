"""The evidence of attention and MoE systems: published claims beside predictions, and every system on three devices.

python -m costmodel.report.systems --output reports/systems
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from matplotlib.figure import Figure

from costmodel.api import load
from costmodel.errors import InputError
from costmodel.report.style import CYCLE, log_axis, rendered, styled
from costmodel.report.text import metric
from costmodel.schema.references import Library
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.reproduce import PASS, SKIP, Comparison, load_cases, reproduce

COMMAND = "python -m costmodel.report.systems --output reports/systems"
CASES, FOLDER = "systems", "systems"
DEVICES = {"H800": "nodes/hgx-h800", "A100": "nodes/dgx-a100", "RTX 4090": "nodes/rtx-4090-x8"}
ONE = "nodes/a100-x1"
CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
KEEPERS = (
    "duoattention_7b_full", "duoattention_7b", "retrieval_heads", "moa_7b", "longheads", "task_kv", "mom_1_3b",
    "titans_lmm",
)  # fmt: skip
ROOM = 1.2  # beyond the outermost points of a logarithmic axis
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
CORES = ("attention_full_h32", "s2_attention_h32", "lightning_attention")
IMAGES = tuple(
    [f"shvit_s{size}" for size in range(1, 5)] + [f"spectformer_{size}" for size in ("t", "xs", "s", "b")]
)  # fmt: skip
BEFOREHAND = (
    "Not all of it is prediction. Figures of these tables were known when it was decided which library's fit "
    "stands for FlashAttention-2 in `frameworks/hf-static`, that it splits keys, and how many passes a "
    "convolution's activation takes. The time of a second group of heads is fitted on ten contexts of "
    "DuoAttention's figure 9 (7B), the time of a chunk on the README's row of 4,096 tokens, the rate of S2's "
    "kernel on stride 1 of its figure; those rows are left out, others of the same series are compared. S2-01 "
    "to S2-03 and S2-06 have assumed settings. TK-03 compares two systems that keep equally many keys, so "
    "that it cannot fail."
)
Name = tuple[str, str]  # of an axis, and its dimension
Series = Mapping[str, Sequence[tuple[float, float]]]


def publish(folder: Path, search_path: Sequence[str] = ()) -> list[Path]:
    """Write the page, its tables as CSV, and the figures; the same files and fits give the same bytes."""
    cases, problems = load_cases([CASES], search_path)
    comparisons, more = reproduce(cases, search_path)
    for problem in (*problems, *more):
        click.echo(str(problem), err=True)
    make_folder(folder)
    devices = list(_on_devices(search_path))
    latency, memory = _against_context(search_path)
    figures = {
        "decode_latency": _figure(latency, (("context", "count"), ("decoding step", "time")), "One A100, one sequence"),
        "kv_memory": _figure(memory, (("context", "count"), ("cache and states", "size")), "One A100, one sequence"),
        "attention_time": _figure(
            _against_length(search_path), (("tokens", "count"), ("attention core", "time")), "One A100, 32 heads of 128"
        ),
        "images": _figure(
            _of_images(search_path),
            (("an image", "flop"), ("images a second", "count")),
            "One A100, FP16",
            joined=False,
        ),
    }
    written = []
    for name, figure in figures.items():
        with styled():
            written.append(_write(folder / f"{name}.svg", rendered(figure(), "svg")))
    written.append(_write(folder / "devices.csv", _table(("system", "scenario", *DEVICES), devices)))
    rows = [tuple("" if cell is None else cell for cell in _claim(one)) for one in comparisons if one.verdict != SKIP]
    header = ("id", "metric", "unit", "published", "predicted", "error", "verdict")
    written.append(_write(folder / "claims.csv", _table(header, rows)))
    page = [*_head(comparisons), *_claims(comparisons), *_left_out(comparisons), *_devices(devices), *_links(figures)]
    written.append(_write(folder / "README.md", "\n".join(page).encode()))
    return written


def _write(path: Path, content: bytes) -> Path:
    write_whole(path, [content])
    return path


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _claim(one: Comparison) -> tuple[object, ...]:
    numbers = [None if value is None else f"{value:.5g}" for value in (one.published, one.predicted, one.error)]
    return one.id, one.metric, one.unit, *numbers, one.verdict


def _on_devices(search_path: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every scenario of every system: its headline and limit on each device, or why it does not run."""
    for name in Library(search_path).names(FOLDER):
        reference = f"{FOLDER}/{name}"
        for scenario in load(reference, search_path=search_path).scenarios:
            yield name, scenario, *(_cell(reference, scenario, node, search_path) for node in DEVICES.values())


def _cell(reference: str, scenario: str, node: str, search_path: Sequence[str]) -> str:
    try:
        workload = load(reference, cluster=node, search_path=search_path, scenarios=[scenario])
    except InputError as error:
        return error.problems[0].message
    point = workload.points([scenario])[scenario]
    value = point.metrics[point.headline]
    if not point.fits or value is None:
        return "does not fit"
    largest = max(point.breakdown, key=lambda entry: entry.time)
    return f"{metric(point.headline, value)}, {largest.name} ({largest.bound})"


def _against_context(search_path: Sequence[str]) -> tuple[Series, Series]:
    """Return the decoding step and the kept bytes of systems that save cache, against the context."""
    latency: dict[str, list[tuple[float, float]]] = {}
    memory: dict[str, list[tuple[float, float]]] = {}
    for name in KEEPERS:
        first = next(each for each in load(f"{FOLDER}/{name}", search_path=search_path).scenarios if "decode" in each)
        path = f"scenarios.{first}"
        for tokens in CONTEXTS:
            changes = {f"{path}.input_tokens": tokens, f"{path}.batch_per_device": 1}
            workload = load(f"{FOLDER}/{name}", changes, cluster=ONE, search_path=search_path, scenarios=[first])
            point = workload.points()[first]
            value = point.metrics["tpot"]
            if point.fits and value is not None and point.memory is not None:
                latency.setdefault(name, []).append((tokens, value))
                memory.setdefault(name, []).append((tokens, point.memory["kv_cache"]))
    return latency, memory


def _against_length(search_path: Sequence[str]) -> Series:
    """Return the time of one attention core of 32 heads against the length of four sequences."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name in CORES:
        first = load(f"{FOLDER}/{name}", search_path=search_path).scenarios[0]
        path = f"scenarios.{first}"
        for tokens in LENGTHS:
            changes = {f"{path}.input_tokens": tokens, f"{path}.tokens_per_device": tokens}
            workload = load(f"{FOLDER}/{name}", changes, cluster=ONE, search_path=search_path, scenarios=[first])
            point = workload.points()[first]
            core = next((entry.time for entry in point.breakdown if entry.name == "attention core"), None)
            if core is not None and point.fits:
                found.setdefault(name, []).append((tokens, core))
    return found


def _of_images(search_path: Sequence[str]) -> Series:
    """Return (FLOP, images a second) of networks of images, by family."""
    from costmodel.analytic.counted import TOTAL, counted_work

    found: dict[str, list[tuple[float, float]]] = {}
    for name in IMAGES:
        workload = load(f"{FOLDER}/{name}", cluster=ONE, search_path=search_path)
        (first,) = workload.scenarios
        point = workload.points()[first]
        plan = workload.scenario(first).plan
        images = plan.tokens_per_device / plan.input_tokens  # type: ignore[union-attr]
        rate = point.metrics["tokens_per_second_per_device"]
        if rate is not None:
            flop = counted_work(workload.scenario(first))[TOTAL]["flop"] / float(images)
            found.setdefault(name.partition("_")[0], []).append((flop, rate / float(plan.input_tokens)))  # type: ignore[union-attr]
    return found


def _figure(series: Series, names: tuple[Name, Name], title: str, *, joined: bool = True) -> Callable[[], Figure]:
    """Return what draws lines on logarithmic axes."""

    def draw() -> Figure:
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for at, (name, points) in enumerate(series.items()):
            line = "-" if joined else ""
            colour, dash = CYCLE[at % len(CYCLE)], "--" if at >= len(CYCLE) else line
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linestyle=dash, color=colour, label=name)
        axes.set(xscale="log", yscale="log")
        flat = [point for points in series.values() for point in points]
        for axis, (what, dimension), values in zip(
            (axes.xaxis, axes.yaxis), names, zip(*flat, strict=True), strict=True
        ):
            log_axis(axis, what, dimension, (min(values) / ROOM, max(values) * ROOM))
        axes.set_title(title, loc="left", fontsize=10)
        figure.legend(loc="outside lower left", ncols=4, fontsize=7)
        return figure

    return draw


def _is_check(identity: str) -> bool:
    """Tell whether a case is a check of structure that no paper states: `-D` and a number in its id."""
    return any(part[:1] == "D" and part[1:].isdigit() for part in identity.split("-")[1:])


def _head(comparisons: Sequence[Comparison]) -> Iterator[str]:
    compared = [one for one in comparisons if one.verdict != SKIP]
    claims = [one for one in compared if not _is_check(one.id)]
    passed = sum(one.verdict == PASS for one in claims)
    yield from (
        "# Attention and MoE systems: claims against predictions", "",
        f"Made by `{COMMAND}` from `workloads/systems` and `workloads/published/systems.yaml`.", "",
        f"{passed} of {len(claims)} published figures are within their tolerance ({passed / len(claims):.0%}). "
        f"{len(compared) - len(claims)} more rows check structure that no paper puts a number to. "
        f"{sum(one.verdict == SKIP for one in comparisons)} rows are left out, with the reason.", "",
        BEFOREHAND, "",
    )  # fmt: skip


def _claims(comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield from (
        "## Claims",
        "",
        "| id | metric | published | predicted | error | verdict |",
        "|---|---|---|---|---|---|",
    )
    for one in comparisons:
        if one.verdict != SKIP:
            error = "" if one.error is None else f"{one.error:+.1%}"
            values = ["-" if value is None else f"{value:.4g}" for value in (one.published, one.predicted)]
            yield f"| {one.id} | {one.metric} | {values[0]} | {values[1]} | {error} | {one.verdict} |"
    yield ""


def _left_out(comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield from ("## Rows left out", "", "| id | reason |", "|---|---|")
    yield from (f"| {one.id} | {one.reason} |" for one in comparisons if one.verdict == SKIP)
    yield ""


def _devices(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (
        "## Every system on three devices", "",
        "The headline of each scenario, and the operator that takes most of it with what limits that.", "",
        f"| system | scenario | {' | '.join(DEVICES)} |", "|---|---|---|---|---|",
    )  # fmt: skip
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _links(figures: Mapping[str, object]) -> Iterator[str]:
    yield from ("## Figures", "")
    for name in figures:
        yield from (f"![{name.replace('_', ' ')}]({name}.svg)", "")


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--path", "search_path", multiple=True, help="Folder to search first; repeatable.")
def main(output: Path, search_path: tuple[str, ...]) -> None:
    """Write the evidence of attention and MoE systems: figures, and a page with the tables."""
    for path in publish(output, search_path):
        click.echo(path)


if __name__ == "__main__":
    main()
