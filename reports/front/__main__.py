"""What the README shows that is made, not written: how far predictions lie off, and what hardware and models there are.

python -m reports.front README.md --validation reports/validation --output reports/front

Draws every compared figure of `reports/validation`, and writes the README's tables between their marks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from costmodel.calibration.fit_files import basis_of
from costmodel.errors import InputError
from costmodel.report.models import attention
from costmodel.report.plotting import write_plots
from costmodel.report.style import styled
from costmodel.report.text import gib, quantity
from costmodel.schema.files import list_names, load_document, read_models
from costmodel.schema.hugging_face.tables import families
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.accuracy import HEADINGS, by_class, is_unseen
from costmodel.study.published.provenance import IN_SAMPLE, UNSEEN
from costmodel.study.published.reproduce import Comparison
from costmodel.workload.counting import parameter_count
from reports.front.plot import Row, accuracy_figure
from reports.validation.__main__ import PAGES

BLIND = Path(__file__).with_name("blind.txt")  # what the scorer of blind figures prints, as it is
_CLASS_WIDTH = 34  # characters of a class there
FEWEST = 8  # figures of a publication from which it has a row of its own in the figure
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
            found.append(
                Comparison(
                    id=row["id"],
                    publication=row["publication"],
                    case_class=page,
                    metric=row["metric"],
                    unit=row["unit"],
                    published=published,
                    predicted=predicted,
                    low=low,
                    high=high,
                    error=error,
                    verdict=row["verdict"],
                    source="",
                    state=row["state"] or None,
                    group=f"{page} {row['group']}",
                    interval_unseen=row["interval"] == UNSEEN,
                )
            )
    return found


def _rows(path: Path, needed: str) -> list[dict[str, str]]:
    """Return the rows of a table that have a value in the column `needed`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if row[needed]]
    except (OSError, KeyError) as error:
        raise InputError.single(
            f"{path} is not a table of published values: {error}",
            hint=f"make it with `python -m reports.validation --output {path.parent}`",
        ) from None


def tables(figures: Figures) -> dict[str, str]:
    """Return the README's tables by their marks."""
    return {
        "blind": "\n".join(_blind()),
        "accuracy": "\n".join(_accuracy(figures)),
        "hardware": "\n".join(_hardware()),
        "models": "\n".join(_models()),
    }


def _blind() -> Iterator[str]:
    """Yield the table of figures that nobody who writes this has seen, from what their scorer prints."""
    yield "| class | figures | mean error | median error | bias | inside 80 % interval | half-width | refused |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for line in BLIND.read_text(encoding="utf-8").splitlines()[1:]:
        name, rest = line[:_CLASS_WIDTH].strip(), line[_CLASS_WIDTH:].replace(" %", "%").split()
        figures, mean, middle, bias, inside, width, refused = rest
        yield f"| {name} | {figures} | {mean}% | {middle}% | {bias}% | {inside} | {width} | {refused} |"


def with_tables(readme: str, made: Mapping[str, str]) -> str:
    """Return the README with the tables between their marks; raise InputError where one has no place."""
    for name, text in made.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not place.search(readme):
            raise InputError.single(f"has no `<!-- {name} -->` … `<!-- /{name} -->`", hint="write both", field="README")
        readme = place.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", readme)  # type: ignore[misc]
    return readme


def rows_of(figures: Figures) -> list[Row]:
    """Return the rows of the figure: publications with many figures, the others of each class, and in-sample ones."""
    rows = []
    for kind in PAGES:
        of = [one for one in figures if one.case_class == kind and is_unseen(one)]
        by_publication: dict[str, list[float]] = {}
        for one in of:
            by_publication.setdefault(one.publication, []).append(one.error or 0.0)
        large = {name: errors for name, errors in by_publication.items() if len(errors) >= FEWEST}
        others = [error for name, errors in by_publication.items() if name not in large for error in errors]
        rows += [Row(f"{kind}: {name}", kind, errors) for name, errors in sorted(large.items(), key=_by_size)]
        if others:
            rows.append(Row(f"{kind}: {'others' if large else 'all'}", kind, others))
    apart = [one.error or 0.0 for one in figures if not is_unseen(one)]
    return [*rows, Row(IN_SAMPLE, IN_SAMPLE, apart)] if apart else rows


def _by_size(item: tuple[str, list[float]]) -> tuple[int, str]:
    return -len(item[1]), item[0]


def _accuracy(figures: Figures) -> Iterator[str]:
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|---|{'---:|' * (len(HEADINGS) - 1)}"
    classes = list(by_class(figures))
    for one in classes:
        yield f"| {' | '.join(one.cells())} |"
    apart = sum(one.state == IN_SAMPLE for one in figures)
    yield ""
    yield f"{apart:,} figures that a value on their own path rests on are in-sample and in no row."


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
            f"{' | '.join(quantity(peak, 'flop_rate') for peak in peaks)} | {basis_of(name)} |"
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
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the figure.")
def main(readme: Path, validation: Path, output: Path) -> None:
    """Draw how far predictions lie off, and write the tables of README."""
    classes = read_validation(validation)
    with styled():
        drawn = accuracy_figure(rows_of(classes))
    made = write_plots(iter([("accuracy", drawn)]), output)
    write_whole(readme, [with_tables(readme.read_text(encoding="utf-8"), tables(classes)).encode()])
    for path in (*made, readme):
        click.echo(path)


if __name__ == "__main__":
    main()
