"""What the README shows that is made, not written: its picture, the first answer, how far predictions lie off.

python -m reports.front README.md --validation reports/validation --output reports/front

Writes the README's tables and the list of hardware and models, `docs/catalogue.md`, between their marks.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import yaml

from costmodel.calibration.fit_files import basis_of
from costmodel.errors import InputError
from costmodel.records import ValueRecord
from costmodel.report.models import attention
from costmodel.report.plotting import write_plots
from costmodel.report.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, Plot, canvas, table
from costmodel.report.text import gib, quantity, shown_basis
from costmodel.result import Point
from costmodel.schema.files import list_names, load_document, read_models
from costmodel.schema.hugging_face.tables import families
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.accuracy import by_class
from costmodel.study.published.provenance import UNSEEN
from costmodel.study.published.reproduce import Comparison
from costmodel.workload.counting import parameter_count
from reports.devices.__main__ import rows
from reports.page import read_rows
from reports.validation.__main__ import PAGES

BLIND = Path(__file__).with_name("blind.txt")  # what the scorer of blind figures prints, as it is
CATALOGUE = Path("docs/catalogue.md")
COMMAND = "costmodel simulate workloads/deepseek_v3.yaml"  # whose answer the README shows
ANSWERS = 3  # lines of it
ERRANDS = Path(__file__).with_name("errands.yaml")
_CLASS_WIDTH = 34  # characters of a class there
Figures = Sequence[Comparison]


def read_validation(folder: Path) -> list[Comparison]:
    """Return the compared values as `reports/validation` holds them, refitted where that is the figure's state."""
    found = []
    for page in PAGES:
        for row in _rows(folder / f"{page}.csv", "error_left_out"):
            published, predicted, low, high, error = (
                float(row[name]) if row[name] else None
                for name in ("published", *(f"{name}_left_out" for name in ("predicted", "low", "high", "error")))
            )
            found.append(Comparison(
                id=row["id"], publication=row["publication"], case_class=page, metric=row["metric"], unit=row["unit"],
                published=published, predicted=predicted, low=low, high=high, error=error, verdict=row["verdict"],
                source="", state=row["state"] or None, group=f"{page} {row['group']}",
                interval_unseen=row["interval"] == UNSEEN,
            ))  # fmt: skip
    return found


def _rows(path: Path, needed: str) -> list[dict[str, str]]:
    """Return the rows of a table that have a value in the column `needed`."""
    try:
        return [row for row in read_rows(path) if row[needed]]
    except (OSError, KeyError) as error:
        raise InputError.single(
            f"{path} is not a table of published values: {error}",
            hint=f"make it with `python -m reports.validation --output {path.parent}`",
        ) from None


def tables(figures: Figures) -> dict[str, str]:
    """Return the README's tables by their marks."""
    return {"accuracy": "\n".join(_accuracy(figures)), "shipped": _shipped()}


def catalogue() -> dict[str, str]:
    """Return the tables of hardware and models by their marks."""
    return {"hardware": "\n".join(_hardware()), "models": "\n".join(_models())}


def answers() -> dict[str, str]:
    """Return what the README's first command prints, and each of its errands with the first line of its answer."""
    pairs = [(each["question"], each["command"]) for each in yaml.safe_load(ERRANDS.read_text(encoding="utf-8"))]
    errands = (f"**{question}**\n\n```sh\n{command}\n```\n\n{_printed(command, 1)}" for question, command in pairs)
    return {"answer": _printed(COMMAND, ANSWERS), "errands": "\n\n".join(errands)}


def _printed(command: str, most: int) -> str:
    """Return the first lines that a command prints, as a block of Markdown."""
    words = shlex.split(command.replace("costmodel", f"{shlex.quote(sys.executable)} -m costmodel", 1))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return "\n".join(f"    {line}".rstrip() for line in done.stdout.splitlines()[:most])


def _accuracy(figures: Figures) -> Iterator[str]:
    """Yield the table of errors: figures that nobody who writes this has seen first, then published ones."""
    yield "| | results | median error | mean error | inside the 80 % interval |"
    yield "|---|---:|---:|---:|---:|"
    yield "| ***blind**: nobody who writes this has seen them* | | | | |"
    for line in BLIND.read_text(encoding="utf-8").splitlines()[1:]:
        name, rest = line[:_CLASS_WIDTH].strip(), line[_CLASS_WIDTH:].replace(" %", "%").split()
        results, mean, middle, _, inside, _, _ = rest
        yield f"| {name} | {results} | {middle}% | {mean}% | {'' if inside == '-' else inside} |"
    yield "| *in the tables here, predicted without what rests on them* | | | | |"
    for one in by_class(figures):
        errors = one.errors
        held = "" if errors.inside is None else f"{errors.inside:.0%}"
        yield f"| {one.name} | {errors.groups:,} | {errors.median:.1%} | {errors.mean:.1%} | {held} |"


def _shipped() -> str:
    """Return how much hardware and how many models there are."""
    models, _ = read_models(())
    return (
        f"Shipped: {len(list_names('devices'))} devices, {len(list_names('nodes')) + len(list_names('clusters'))} "
        f"nodes and clusters, {len(models)} models ([catalogue](docs/catalogue.md)), and the `config.json` of "
        f"{len(families())} architectures as it is."
    )


def with_tables(readme: str, made: Mapping[str, str]) -> str:
    """Return the README with the tables between their marks; raise InputError where one has no place."""
    for name, text in made.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not place.search(readme):
            raise InputError.single(f"has no `<!-- {name} -->` … `<!-- /{name} -->`", hint="write both", field="README")
        readme = place.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", readme)  # type: ignore[misc]
    return readme


def _hardware() -> Iterator[str]:
    yield "| device | architecture | memory | bandwidth | BF16 | FP8 | kernel times |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for name in list_names("devices"):
        one = load_document("devices", name)
        memory, math = one["memory"][-1], one["math"]
        peaks = (math.get(dtype, {}).get("peak") for dtype in ("bf16", "fp8"))
        yield (
            f"| `{name}` | {one['architecture']} | {gib(memory['capacity'], 0)} GiB | "
            f"{quantity(memory['bandwidth'], 'bandwidth', 3)} | "
            f"{' | '.join(quantity(peak, 'flop_rate') for peak in peaks)} | {shown_basis(basis_of(name))} |"
        )


def _models() -> Iterator[str]:
    yield "| family | models | parameters | attention |"
    yield "|---|---|---:|---|"
    by_family: dict[str, list[str]] = {}
    models, _ = read_models(())
    for name in models:
        by_family.setdefault(re.split(r"[-\d]", name)[0], []).append(name)
    for family, names in by_family.items():
        sizes = [float(parameter_count(models[name].architecture).total) / 1e9 for name in names]
        kinds = {word for name in names for word in re.findall(r"[A-Z]{3}", attention(models[name].architecture))}
        ends = " to ".join(
            dict.fromkeys(f"{size:.3g}" if size < 1000 else f"{size:,.0f}" for size in (min(sizes), max(sizes)))
        )
        listed = ", ".join(f"`{name}`" for name in names)
        yield f"| {family} | {listed} | {ends} B | {', '.join(sorted(kinds)) or 'other'} |"
    yield ""
    yield (
        f"A `config.json` of {len(families())} architectures of Hugging Face is read as it is: "
        "`costmodel model show path/to/config.json`."
    )


@click.command()
@click.argument("readme", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--validation", type=click.Path(path_type=Path), required=True, help="Folder of the validation report.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the picture.")
def main(readme: Path, validation: Path, output: Path) -> None:
    """Draw the picture of README, and write its tables and the catalogue."""
    made = write_plots((("hero", hero_figure(found)) for found in [steps()]), output, ("png",))
    found = tables(read_validation(validation))
    pages = {readme: {**found, **answers()}, readme.parent / CATALOGUE: catalogue()}
    for page, parts in pages.items():
        write_whole(page, [with_tables(page.read_text(encoding="utf-8"), parts).encode()])
    for path in (*made, *pages):
        click.echo(path)


# ---- The README's picture: DeepSeek-V3's training step on four generations of devices, and where its time goes -------

NAMES = {"h800-sxm": "H800", "h100-sxm": "H100", "b200-sxm": "B200", "vr200": "Rubin"}
EXCHANGES = ("dispatch", "combine", "all-gather", "reduce-scatter", "slowed by exchanges")
COLOURS = {
    "experts": BLUE, "attention": SKY, "other operators": GREEN, "communication": ORANGE, "pipeline bubble": PURPLE,
}  # fmt: skip


INK = dict.fromkeys(("attention", "communication", "pipeline bubble"), BLACK)  # of numbers on pale parts


class Step(ValueRecord):
    """A training step on a device. parts: seconds by part; low, high: ends of the 80 % interval."""

    device: str
    seconds: float
    low: float
    high: float
    parts: Mapping[str, float]


def steps() -> list[Step]:
    """Return the step on each device, the same layout everywhere."""
    found = {row.device: row for row in rows(tuple(NAMES))}
    return [
        _step(found[name].label.replace(name, short), found[name].points["training"]) for name, short in NAMES.items()
    ]


def _step(label: str, point: Point) -> Step:
    seconds, ends = point.metrics["step_time"], point.intervals["step_time"]
    assert seconds is not None
    assert ends is not None
    parts = dict.fromkeys(COLOURS, 0.0)
    for line in point.breakdown:
        parts[_part(line.name)] += line.time
    parts["pipeline bubble"] = float(point.metrics["bubble_time"] or 0.0)
    return Step(label, float(seconds), float(ends[0]), float(ends[1]), parts)


def _part(line: str) -> str:
    """Return the part of the step that a line of the breakdown belongs to."""
    if any(word in line for word in EXCHANGES):
        return "communication"
    return "attention" if line == "attention core" else "experts" if "expert " in line else "other operators"


def finding(found: Sequence[Step]) -> str:
    """Return what the picture shows, as its title."""
    first, measured, last = found[0], found[-2], found[-1]
    return (
        f"DeepSeek-V3 trains {first.seconds / measured.seconds:.1f} times as fast on {measured.device} as on "
        f"{first.device}, and {first.seconds / last.seconds:.1f} times on {last.device}"
    )


def hero_figure(found: Sequence[Step]) -> Plot:
    """Return the step on each device as a bar of its parts, with its interval."""
    figure, axes = canvas(
        finding(found), "training steps on 2,048 devices, the same layout everywhere; black line: 80 % interval"
    )
    for at, step in enumerate(found):
        left = 0.0
        for part, colour in COLOURS.items():
            width = step.parts[part]
            axes.barh(at, width, 0.6, left, color=colour, label=part if not at else None)
            if width > 0.06 * found[0].seconds:
                text = f"{width:.1f}"
                axes.text(
                    left + width / 2.0, at, text, ha="center", va="center", fontsize=11, color=INK.get(part, "white")
                )
            left += width
        axes.plot([step.low, step.high], [at + 0.4] * 2, color=BLACK, linewidth=1.5)
        axes.plot([step.low, step.high], [at + 0.4] * 2, "|", color=BLACK, markersize=9, markeredgewidth=1.5)
        words = f"{step.seconds:.1f} s  ({step.low:.1f} to {step.high:.1f})"
        axes.text(left + 0.3, at, words, va="center", fontsize=13)
    axes.set_yticks(range(len(found)), [step.device for step in found], fontsize=13)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.1 * max(step.high for step in found))
    axes.tick_params(axis="x", labelsize=11)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("training step (s)", fontsize=12)
    axes.legend(fontsize=11, ncols=5, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    headings = ("device", "step_time", "low", "high", *COLOURS)
    data = ([step.device, step.seconds, step.low, step.high, *step.parts.values()] for step in found)
    return Plot(figure, {"": table(headings, data)})


if __name__ == "__main__":
    main()
