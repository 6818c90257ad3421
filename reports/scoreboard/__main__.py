"""A score that cannot be tuned by accident: the predictions of each release, frozen, and how they fared.

python -m reports.scoreboard RELEASE --date DATE --validation reports/validation --output reports/scoreboard

A release freezes what `reports/validation` holds: its table is not written again. Figures that no earlier release had
were predicted before anybody could look at their errors; they are scored by themselves.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from costmodel.errors import InputError
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.reproduce import Comparison
from costmodel.study.validating import Errors, errors_of, is_unseen
from costmodel.version import __version__
from reports.front.__main__ import read_validation

FROZEN, SCORES, PAGE = "frozen", "scores.csv", "README.md"
COLUMNS = (
    "class",
    "publication",
    "id",
    "metric",
    "published",
    "predicted",
    "low",
    "high",
    "state",
    "group",
    "interval",
)
HEADINGS = (
    "release", "date", "version", "sha256", "class", "which", "figures", "publications", "mean", "median", "inside",
)  # fmt: skip
ALL, NEW = "unseen", "first seen"
WORSE = 0.02  # of the mean error of a class: from here on a regression is a line of its own


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it is written into the scores. sha256: of its frozen table."""

    name: str
    date: str
    sha256: str


def freeze(figures: Sequence[Comparison]) -> bytes:
    """Return the table of predictions."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in figures:
        interval = "unseen" if one.interval_unseen else "in-sample"
        numbers = (
            "" if value is None else f"{value:.6g}" for value in (one.published, one.predicted, one.low, one.high)
        )
        writer.writerow((one.case_class, one.publication, one.id, one.metric, *numbers, one.state, one.group, interval))
    return text.getvalue().encode()


def scores(figures: Sequence[Comparison], earlier: frozenset[tuple[str, str]]) -> Iterator[tuple[str, str, Errors]]:
    """Yield class, which figures, and their errors: unseen ones, and of these the ones that no earlier release had."""
    for name in dict.fromkeys(str(one.case_class) for one in figures):
        of = [one for one in figures if one.case_class == name and is_unseen(one)]
        new = [one for one in of if (one.id, str(one.metric)) not in earlier]
        for which, rows in ((ALL, of), (NEW, new if earlier else [])):
            errors = errors_of(rows)
            if errors is not None:
                yield name, which, errors


def rows_of(release: Release, found: Iterator[tuple[str, str, Errors]]) -> Iterator[dict[str, str]]:
    """Yield the rows of the scores that a release adds."""
    for name, which, errors in found:
        inside = "" if errors.inside is None else f"{errors.inside:.4f}"
        cells = (
            release.name, release.date, __version__, release.sha256, name, which, str(errors.figures),
            str(errors.publications), f"{errors.mean:.4f}", f"{errors.median:.4f}", inside,
        )  # fmt: skip
        yield dict(zip(HEADINGS, cells, strict=True))


def regressions(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a line for each class whose unseen figures became worse by `WORSE` from one release to the next."""
    for name in dict.fromkeys(row["class"] for row in rows):
        of = [row for row in rows if row["class"] == name and row["which"] == ALL]
        for before, after in itertools.pairwise(of):
            moved = float(after["mean"]) - float(before["mean"])
            if moved >= WORSE:
                yield (
                    f"* **{name} became worse by {100 * moved:.1f} points** from {before['release']} "
                    f"({float(before['mean']):.1%}) to {after['release']} ({float(after['mean']):.1%})"
                )


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the page of all releases."""
    lines = [
        "# Scores of releases",
        "",
        "Each release freezes its predictions of all published cases (`frozen/`, with its SHA-256): they are not",
        "written again. `unseen`: figures that no value on their path rests on, or that were refitted without their",
        "publication; `first seen`: those of them that no earlier release had. Errors",
        "are relative; figures that follow from one another share one weight.",
        "",
        "| class | which | release | date | figures | publications | mean | median | inside 80 % |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row["class"], row["which"], row["date"], row["release"])):
        inside = f"{float(row['inside']):.0%}" if row["inside"] else ""
        lines.append(
            f"| {row['class']} | {row['which']} | {row['release']} | {row['date']} | {int(row['figures']):,} | "
            f"{row['publications']} | {float(row['mean']):.1%} | {float(row['median']):.1%} | {inside} |"
        )
    worse = list(regressions(rows))
    lines += ["", "## Regressions", "", *(worse or ["None of two points or more."]), "", "## Frozen tables", ""]
    frozen = {row["release"]: row for row in rows}
    lines += [
        f"* {name}: `frozen/{name}.csv`, version {row['version']}, {row['date']}, SHA-256 `{row['sha256']}`"
        for name, row in frozen.items()
    ]
    command = (
        "python -m reports.scoreboard RELEASE --date DATE --validation reports/validation --output reports/scoreboard"
    )
    return "\n".join([*lines, "", f"A release adds its own: `{command}`", ""])


def add(folder: Path, release: str, date: str, figures: Sequence[Comparison]) -> list[Path]:
    """Freeze a release and score it; raise InputError where it is frozen already."""
    table = folder / FROZEN / f"{release}.csv"
    if table.exists():
        raise InputError.single(f"{release} is frozen already", hint="name another release", field="RELEASE")
    earlier = frozenset(
        (row["id"], row["metric"]) for path in (folder / FROZEN).glob("*.csv") for row in _read(path)
    )  # fmt: skip
    data = freeze(figures)
    known = _read(folder / SCORES) if (folder / SCORES).is_file() else []
    own = Release(release, date, hashlib.sha256(data).hexdigest())
    rows = [*known, *rows_of(own, scores(figures, earlier))]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, HEADINGS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    make_folder(folder / FROZEN)
    write_whole(table, [data])
    write_whole(folder / SCORES, [text.getvalue().encode()])
    write_whole(folder / PAGE, [page(rows).encode()])
    return [table, folder / SCORES, folder / PAGE]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@click.command()
@click.argument("release")
@click.option("--date", required=True, help="Day of the release.")
@click.option("--validation", type=click.Path(path_type=Path), required=True, help="Folder of the validation report.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the scoreboard.")
def main(release: str, date: str, validation: Path, output: Path) -> None:
    """Freeze the predictions of RELEASE, and score them beside those of earlier releases."""
    for path in add(output, release, date, read_validation(validation)):
        click.echo(path)


if __name__ == "__main__":
    main()
