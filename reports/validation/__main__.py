"""The evidence of whole scenarios: predicted against published figures, what was asked for, and why figures are missed.

python -m reports.validation --output reports/validation
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.report.plotting import FORMS
from costmodel.report.style import Plot, figure_bytes, styled
from costmodel.report.text import published_value
from costmodel.schema.case import AccuracyTargetFile, Case, RemarkFile, ValidationFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.published.accuracy import Errors, errors_of, is_unseen
from costmodel.study.published.provenance import IN_SAMPLE, STATES
from costmodel.study.published.reproduce import SKIP, load_cases
from reports.page import percent, rendered
from reports.validation.scored import ScoredValue, chosen, columns, figures_of, judge, settings, validation_plot

PLAN = "public"
PAGES = {
    "training": ("training",), "inference": ("inference",), "serving": ("serving",), "memory": ("memory",),
    "communication": ("communication",), "kernel": ("kernel",), "counting": ("counting", "topology"),
}  # fmt: skip
"""Page -> the classes of cases that it shows."""
WORST = 5
NOT_KNOWN = "not known"
LONG = 40  # figures of a publication beyond which a table sums them up
MOST_VALUES = 8  # of a setting: beyond, numbers are summed up by ranges
GROUPED = (
    "model", "hidden", "layers", "devices", "tp", "pp", "dp", "micro_batch", "global_batch", "sequence", "cluster",
    "precision", "recompute", "keep_gathered",
)  # fmt: skip
NOT_SHOWN = ("phase", "implementations", "stages")  # settings that a row leaves out: the case's file has them


def publish(
    folder: Path, names: Sequence[str] = (), search_path: Sequence[str] = (), plan: str = PLAN
) -> list[Path]:  # fmt: skip
    """Write a page, a figure and its data for each class of cases, and the page that sums them up.

    names: cases as `costmodel reproduce` takes them, none: all. plan: the validation file with the bars and remarks.
    """
    said = read(Library(search_path), "validations", plan, ValidationFile)
    cases, unread = load_cases(names, search_path)
    figures, problems = figures_of(cases, search_path)
    make_folder(folder)
    made: list[Path] = []
    pages: dict[str, list[ScoredValue]] = {}
    for page, classes in PAGES.items():
        of = [one for one in figures if one.stated.case_class in classes]
        if not of:
            continue
        pages[page] = of
        with styled():
            drawn = validation_plot(page, of)
            content = _files(page, drawn)
        content[f"{page}.md"] = _page(page, of, said.causes, drawn=drawn is not None).encode()
        for file, data in content.items():
            write_whole(folder / file, [data])
            made.append(folder / file)
    unseen = {page: [one for one in of if is_unseen(one.unseen)] for page, of in pages.items()}
    text = rendered(
        "validation/summary", by_page=list(_by_page(unseen)), in_sample=list(_in_sample(figures)),
        bars=list(_bars(figures, said.bars)), tools=list(_tools(said)), left_out=_left_out(figures),
        discrepancies=list(_discrepancies(figures, said)), problems=[(each,) for each in (*unread, *problems)],
    )  # fmt: skip
    write_whole(folder / "README.md", [text.encode()])
    return [*made, folder / "README.md"]


def _files(page: str, drawn: Plot | None) -> dict[str, bytes]:
    if drawn is None:
        return {}
    tables = {f"{page}.csv": data for data in drawn.data.values()}
    return {**{f"{page}.{form}": figure_bytes(drawn.figure, form, tables) for form in FORMS}, **tables}


# ---- the page that sums up ------------------------------------------------------------------------------------------


def _by_page(pages: Mapping[str, Sequence[ScoredValue]]) -> Iterator[Sequence[str]]:
    for page, figures in pages.items():
        stated, unseen = (errors_of(column) for column in columns(figures))
        if stated is not None and unseen is not None:
            yield (
                f"[{page}]({page}.md)", f"{unseen.figures:,}", f"{unseen.groups:,}", f"{unseen.publications}",
                *_both(stated, unseen, "mean", "median", "bias"),
                f"{unseen.intervals:,}", percent(unseen.inside), _times(unseen.half_width),
            )  # fmt: skip


def _in_sample(figures: Sequence[ScoredValue]) -> Iterator[Sequence[str]]:
    """Yield the figures that a value on their own path rests on, with the places that do."""
    found: dict[tuple[str, tuple[str, ...]], list[ScoredValue]] = {}
    for one in figures:
        if one.unseen.state == IN_SAMPLE:
            found.setdefault((one.case.publication, one.unseen.because), []).append(one)
    for (publication, because), values in sorted(found.items()):
        errors = errors_of(one.stated for one in values)
        if errors is not None:
            places = ", ".join(f"`{place}`" for place in because)
            yield publication, f"{errors.figures:,}", percent(errors.mean), percent(errors.median), places


def _bars(figures: Sequence[ScoredValue], bars: Sequence[AccuracyTargetFile]) -> Iterator[Sequence[str]]:
    for one in (judge(figures, asked) for asked in bars):
        statistic = one.asked.statistic.replace("_", " ")
        if not one.figures and chosen(figures, one.asked.figures):
            yield (one.asked.name, "0", statistic, "", "", "", "in-sample: no claim")
        if one.figures:
            show = _ratio if one.asked.statistic == "half_width" else _finely
            yield (
                one.asked.name, f"{one.figures:,}", statistic,
                f"{'≥' if one.asked.statistic == 'inside' else '≤'} {show(float(one.asked.bar))}",
                show(one.stated), show(one.unseen), "reached" if one.reached else "**missed**",
            )  # fmt: skip


def _tools(said: ValidationFile) -> Iterator[Sequence[str]]:
    for one in said.tools:
        doubt = "" if one.source.verified else "; as reported, not read at its source"
        yield one.tool, one.compared, one.error, f"{one.source.cite}{doubt}"


def _discrepancies(figures: Sequence[ScoredValue], said: ValidationFile) -> Iterator[Sequence[str]]:
    for one in said.discrepancies:
        if found := chosen(figures, one.figures):
            yield _publications(found), _ids(found), one.text, one.source.cite if one.source else ""


def _publications(figures: Sequence[ScoredValue]) -> str:
    return ", ".join(sorted({one.case.publication for one in figures}))


def _ids(figures: Sequence[ScoredValue]) -> str:
    ids = list(dict.fromkeys(one.case.id for one in figures))
    return f"{len(ids)} cases" if len(ids) > 3 else ", ".join(f"`{each}`" for each in ids)


def _left_out(figures: Sequence[ScoredValue]) -> list[tuple[int, str]]:
    """Return how many figures each reason leaves out."""
    reasons = Counter(
        one.stated.reason for one in figures if one.stated.verdict == SKIP and one.stated.reason
    )  # fmt: skip
    return sorted(((count, reason) for reason, count in reasons.items()), key=lambda row: (-row[0], row[1]))


# ---- the page of a class --------------------------------------------------------------------------------------------


def _page(page: str, figures: Sequence[ScoredValue], causes: Sequence[RemarkFile], *, drawn: bool) -> str:
    by_publication: dict[str, list[ScoredValue]] = {}
    for one in figures:
        by_publication.setdefault(one.case.publication, []).append(one)
    publications = []
    for publication, rows in sorted(by_publication.items()):
        scored = [one for one in rows if one.stated.error is not None]
        if len(scored) > LONG and any(one.case.scenario is not None for one in scored):
            publications.append((f"{publication}, {len(scored):,} figures", True, list(_by_setting(scored))))
        else:
            publications.append((publication, False, list(_each(scored))))
    return rendered(
        "validation/class", page=page, drawn=drawn, by_publication=list(_by_publication(by_publication)),
        worst=list(_worst(figures, causes)), causes=list(_causes(figures, causes)), publications=publications,
        unscored=list(_unscored([one for one in figures if one.stated.error is None])),
    )  # fmt: skip


def _by_publication(by_publication: Mapping[str, Sequence[ScoredValue]]) -> Iterator[Sequence[str]]:
    for publication, figures in sorted(by_publication.items()):
        stated, unseen = (errors_of(column) for column in columns(figures))
        if stated is not None and unseen is not None:
            yield (
                publication, _states(figures), f"{unseen.figures:,}", f"{unseen.groups:,}",
                *_both(stated, unseen, "mean", "median", "bias"), percent(unseen.inside), _times(unseen.half_width),
            )  # fmt: skip


def _states(figures: Sequence[ScoredValue]) -> str:
    found = {one.unseen.state for one in figures if one.unseen.error is not None}
    return ", ".join(name for name in STATES if name in found)


def _worst(figures: Sequence[ScoredValue], causes: Sequence[RemarkFile]) -> Iterator[Sequence[str]]:
    """Yield the figures that are furthest off."""
    scored = [one for one in figures if one.unseen.error is not None and is_unseen(one.unseen)]
    scored.sort(key=lambda one: (-abs(one.unseen.error or 0.0), one.case.id))
    reasons = [_why(one, causes) for one in scored[:WORST]]
    for at, (one, reason) in enumerate(zip(scored, reasons, strict=False)):
        yield (
            one.case.publication, f"`{one.case.id}`", one.unseen.metric or "", *_values(one), *_errors(one),
            "as above" if reason != NOT_KNOWN and reason in reasons[:at] else reason,
        )  # fmt: skip


def _values(one: ScoredValue) -> tuple[str, str]:
    name = one.unseen.metric or ""
    unit = one.unseen.unit
    return published_value(name, unit, one.unseen.published), published_value(name, unit, one.unseen.predicted)


def _why(one: ScoredValue, causes: Sequence[RemarkFile]) -> str:
    """Return the first remark on a figure."""
    return next((cause.text for cause in causes if chosen([one], cause.figures)), NOT_KNOWN)


def _causes(figures: Sequence[ScoredValue], causes: Sequence[RemarkFile]) -> Iterator[Sequence[str]]:
    """Yield what is known of each publication's errors, and how large they are; a figure's first remark is its own."""
    own: dict[int, list[ScoredValue]] = {}
    for one in figures:
        at = next((at for at, cause in enumerate(causes) if chosen([one], cause.figures)), None)
        if at is not None and one.unseen.error is not None:
            own.setdefault(at, []).append(one)
    for at, found in sorted(own.items()):
        errors = errors_of(one.unseen for one in found)
        if errors is not None:
            span = [one.unseen.error or 0.0 for one in found]
            yield (
                _publications(found), _ids(found), " .. ".join(percent(one(span), sign=True) for one in (min, max)),
                percent(errors.median), causes[at].text,
            )  # fmt: skip


def _each(figures: Sequence[ScoredValue]) -> Iterator[Sequence[str]]:
    for one in figures:
        yield (
            f"`{one.case.id}`", _configuration(one.case), one.unseen.metric or "", *_values(one), *_errors(one),
            one.unseen.state or "", _held(one),
        )  # fmt: skip


def _errors(one: ScoredValue) -> tuple[str, str]:
    return percent(one.stated.error, sign=True), percent(one.unseen.error, sign=True)


def _held(one: ScoredValue) -> str:
    errors = errors_of([one.unseen])
    return "" if errors is None or errors.inside is None else "yes" if errors.inside else "no"


def _configuration(case: Case) -> str:
    shown = {
        key: value for key, value in settings(case).items() if not key.startswith(NOT_SHOWN) and value != "None"
    }  # fmt: skip
    text = ", ".join(
        value.split("/")[-1] if key in ("model", "cluster", "device", "workload", "scenario") else f"{key} {value}"
        for key, value in shown.items()
    )
    return text.replace("_", " ")


def _by_setting(figures: Sequence[ScoredValue]) -> Iterator[Sequence[str]]:
    """Yield errors of many figures by each setting in turn in which they differ."""
    known = [settings(one.case) for one in figures]
    seen: list[list[str]] = []
    for key in GROUPED:
        values = [each.get(key, "") for each in known]
        if len(set(values)) < 2 or values in seen:
            continue
        seen.append(values)
        names, group = _ranges(values)
        for name in names:
            found = [one for one, value in zip(figures, values, strict=True) if group(value) == name]
            stated, unseen = (errors_of(column) for column in columns(found))
            assert stated is not None
            assert unseen is not None
            yield (
                key.replace("_", " "), name.split("/")[-1] or "-", f"{unseen.figures:,}",
                *_both(stated, unseen, "mean", "median", "bias"), percent(unseen.inside),
            )  # fmt: skip


def _ranges(values: Sequence[str]) -> tuple[list[str], Callable[[str], str]]:
    """Return the names of the groups of values in order, and the group of a value: itself, or a range of numbers."""
    distinct = sorted(set(values), key=_order)
    if len(distinct) <= MOST_VALUES or not all(value.isdigit() for value in distinct):
        return distinct, str
    parts = [part.tolist() for part in np.array_split(np.array(distinct, dtype=object), MOST_VALUES // 2)]
    names = {value: f"{int(part[0]):,} to {int(part[-1]):,}" for part in parts for value in part}
    return list(dict.fromkeys(names.values())), names.__getitem__


def _order(value: str) -> tuple[bool, float, str]:
    return (not value.isdigit(), float(value) if value.isdigit() else 0.0, value)


def _unscored(figures: Sequence[ScoredValue]) -> Iterator[Sequence[str]]:
    """Yield figures that are only asked to lie on a side or in a range, or that have no prediction."""
    for one in figures:
        verdict = one.unseen.verdict + (f": {one.unseen.reason}" if one.unseen.reason else "")
        yield one.case.publication, f"`{one.case.id}`", one.unseen.metric or "", *_values(one), verdict


# ---- cells ----------------------------------------------------------------------------------------------------------


def _both(stated: Errors, unseen: Errors, *names: str) -> tuple[str, ...]:
    return tuple(percent(getattr(errors, name), sign=name == "bias") for errors in (stated, unseen) for name in names)


def _finely(value: float | None) -> str:
    """Return a share to two decimals, so that it can be told from its bar."""
    return "" if value is None else f"{100 * value:.2f} %"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--path", "search_path", multiple=True, help="Folder to search first; repeatable.")
@click.option("--plan", default=PLAN, help="The validation file with bars and remarks.")
def main(cases: tuple[str, ...], output: Path, search_path: tuple[str, ...], plan: str) -> None:
    """Write the evidence of whole scenarios: figures, and pages with the tables."""
    for path in publish(output, cases, search_path, plan):
        click.echo(path)


if __name__ == "__main__":
    main()
