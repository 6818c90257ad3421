"""A score that cannot be tuned by accident: the predictions of each release, frozen, and how they fared.

python -m reports.scoreboard RELEASE --date DATE --validation reports/validation --tables TABLES
    --output reports/scoreboard

A release freezes what `reports/validation` holds and what the tool says of every row of other public tables that it can
express (`tables.py`): our own predictions, with a digest of each published value or row and nothing else of it. A
frozen table is not written again. Figures that no earlier release had were predicted before anybody could look at their
errors; they are scored by themselves.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from costmodel.errors import InputError
from costmodel.records import ValueRecord, replace
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.published.provenance import IN_SAMPLE
from costmodel.study.published.reproduce import Comparison
from costmodel.study.published.validating import Errors, errors_of, is_unseen
from costmodel.version import __version__
from reports.front.__main__ import read_validation
from reports.scoreboard.tables import predicted

FROZEN, SCORES, PAGE = "frozen", "scores.csv", "README.md"
COLUMNS = (
    "class",
    "publication",
    "id",
    "metric",
    "digest",
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
ALL, NEW, OWN = "unseen", "first seen", "in-sample"
WORSE = 0.02  # of the mean error of a class: from here on a regression is a line of its own
DIGITS = 8  # of a digest


class Release(ValueRecord):
    """A release as it is written into the scores. sha256: of its frozen table."""

    name: str
    date: str
    sha256: str


def freeze(figures: Sequence[Comparison]) -> bytes:
    """Return the table of predictions; of a published value it has a digest."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in figures:
        interval = "unseen" if one.interval_unseen else "in-sample"
        numbers = ("" if value is None else f"{value:.5g}" for value in (one.predicted, one.low, one.high))
        group = "" if one.group == one.id else one.group
        of = (one.case_class, one.publication, one.id, one.metric, digest(one))
        writer.writerow((*of, *numbers, one.state, group, interval))
    return text.getvalue().encode()


def digest(one: Comparison) -> str:
    """Return by what a published value can be told again, and no more of it."""
    return hashlib.sha256(f"{one.id} {one.metric} {one.published!r}".encode()).hexdigest()[:DIGITS]


def scores(figures: Sequence[Comparison], earlier: frozenset[tuple[str, str]]) -> Iterator[tuple[str, str, Errors]]:
    """Yield class, which figures, and their errors: unseen ones, those that no earlier release had, in-sample ones."""
    for name in dict.fromkeys(str(one.case_class) for one in figures):
        own = [one for one in figures if one.case_class == name]
        of = [one for one in own if is_unseen(one)]
        new = [one for one in of if (one.id, str(one.metric)) not in earlier]
        rest = [replace(one, interval_unseen=True) for one in own if one.state == IN_SAMPLE]
        for which, rows in ((ALL, of), (NEW, new if earlier else []), (OWN, rest)):
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
    """Yield a line for each class whose figures became worse by `WORSE` from one release to the next.

    Figures come and go, and change their state: `since` compares the same ones.
    """
    for name, which in dict.fromkeys((row["class"], row["which"]) for row in rows if row["which"] != NEW):
        of = [row for row in rows if (row["class"], row["which"]) == (name, which)]
        for before, after in itertools.pairwise(of):
            moved = float(after["mean"]) - float(before["mean"])
            if moved >= WORSE:
                named = name if which == ALL else f"{name}, {which}"
                yield (
                    f"* **{named} became worse by {100 * moved:.1f} points** from {before['release']} "
                    f"({float(before['mean']):.1%}) to {after['release']} ({float(after['mean']):.1%})"
                )


def since(figures: Sequence[Comparison], before: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield how the predictions of the release before fare on the same figures, and which figures changed their state.

    before: its frozen table; a figure is the same where its digest is.
    """
    known = {(row["id"], row["metric"], row["digest"]): row for row in before if row["predicted"]}
    same = [(one, known.get((one.id, str(one.metric), digest(one)))) for one in figures if one.error is not None]
    errors: dict[str, list[tuple[float, float]]] = {}
    moved: Counter[tuple[str, str, str, str]] = Counter()
    for one, row in same:
        if row is not None and one.published and one.error is not None:
            old = float(row["predicted"]) / one.published - 1.0
            errors.setdefault(f"{one.case_class}, {ALL if is_unseen(one) else OWN}", []).append(
                (abs(old), abs(one.error))
            )
            if row["state"] != one.state:
                moved[str(one.case_class), one.publication, row["state"], str(one.state)] += 1
    for name, pairs in errors.items():
        was, now = (math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True))
        line = f"{name}: {len(pairs):,} figures of both, mean {was:.1%} -> {now:.1%}"
        yield f"* **{line}: worse**" if now - was >= WORSE else f"* {line}"
    for (name, publication, old_state, state), count in sorted(moved.items()):
        yield f"* {name}, {publication}: {count} figures {old_state} -> {state}"


def page(rows: Sequence[Mapping[str, str]], last: Sequence[str] = ()) -> str:
    """Return the page of all releases. last: lines on what moved since the release before."""
    lines = [
        "# Scores of releases",
        "",
        "Each release freezes its predictions of all published cases and of the rows of other public tables that can",
        "be expressed (`frozen/`, with the SHA-256 of what is inside): they are not written again, and of published",
        "values they hold a digest. `unseen`: figures that no value on their path rests on, or that were refitted",
        "without their publication; `first seen`: those of them that no earlier release had; `in-sample`: all others,",
        "no accuracy;",
        "`table`: rows of a table without a case of their own. Errors are relative; figures that follow from one",
        "another share one weight.",
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
    lines += ["", "## Regressions", "", *(worse or ["None of two points or more."])]
    lines += ["", "## On the same figures, since the release before", "", *last] if last else []
    lines += ["", "## Frozen tables", ""]
    frozen = {row["release"]: row for row in rows}
    lines += [
        f"* {name}: `frozen/{name}.csv.gz`, version {row['version']}, {row['date']}, SHA-256 `{row['sha256']}`"
        for name, row in frozen.items()
    ]
    command = "python -m reports.scoreboard RELEASE --date DATE --validation reports/validation --tables TABLES"
    return "\n".join([*lines, "", f"A release adds its own: `{command} --output reports/scoreboard`", ""])


def add(folder: Path, release: str, date: str, figures: Sequence[Comparison]) -> list[Path]:
    """Freeze a release and score it; raise InputError where it is frozen already."""
    table = folder / FROZEN / f"{release}.csv.gz"
    if table.exists():
        raise InputError.single(f"{release} is frozen already", hint="name another release", field="RELEASE")
    earlier = frozenset(
        (row["id"], row["metric"]) for path in (folder / FROZEN).glob("*.csv.gz") for row in _thawed(path)
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
    write_whole(table, [gzip.compress(data, mtime=0)])
    write_whole(folder / SCORES, [text.getvalue().encode()])
    before = [row["release"] for row in known][-1:]
    last = [line for name in before for line in since(figures, _thawed(folder / FROZEN / f"{name}.csv.gz"))]
    write_whole(folder / PAGE, [page(rows, last).encode()])
    return [table, folder / SCORES, folder / PAGE]


def _thawed(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@click.command()
@click.argument("release")
@click.option("--date", required=True, help="Day of the release.")
@click.option("--validation", type=click.Path(path_type=Path), required=True, help="Folder of the validation report.")
@click.option("--tables", type=click.Path(path_type=Path, exists=True), help="Folder of other public tables.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the scoreboard.")
def main(release: str, date: str, validation: Path, tables: Path | None, output: Path) -> None:
    """Freeze the predictions of RELEASE, and score them beside those of earlier releases."""
    figures = [*read_validation(validation), *(() if tables is None else predicted(tables))]
    for path in add(output, release, date, figures):
        click.echo(path)
    click.echo("\n".join(compared(_read(output / SCORES), release)))


def compared(rows: Sequence[Mapping[str, str]], release: str) -> Iterator[str]:
    """Yield the scores of a release beside those of the one before it, and what became worse by `WORSE`."""
    names = list(dict.fromkeys(row["release"] for row in rows))
    at = names.index(release)
    before = {(row["class"], row["which"]): row for row in rows if at and row["release"] == names[at - 1]}
    for row in rows:
        if row["release"] == release:
            known = before.get((row["class"], row["which"]))
            was = f" (was {float(known['mean']):.1%})" if known else ""
            yield f"{row['class']}, {row['which']}: {row['figures']} figures, mean {float(row['mean']):.1%}{was}"
    last = [row for row in rows if row["release"] in names[max(at - 1, 0) : at + 1]]
    yield from (line.removeprefix("* ") for line in regressions(last))


if __name__ == "__main__":
    main()
