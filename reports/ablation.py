"""What each mechanism that a framework or calibration file states is worth on published runs: it is switched off.

python -m reports.ablation --output docs/mechanisms.md [--only NAME ...] [--most 24] [--refit]

Of a publication and class at most `--most` runs are predicted again, evenly. `--refit` fits the remaining terms of
frameworks again without the mechanism and without each publication, which takes long.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean, median
from typing import TypeAlias

import yaml

from costmodel.errors import InputError
from costmodel.records import Record, field, replace
from costmodel.schema.case import Case, resolve_case
from costmodel.schema.fit_plan import FRAMEWORK
from costmodel.schema.references import Library, package_root
from costmodel.schema.resolved import ResolvedWorkload
from costmodel.schema.tree import to_python
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.provenance import identities
from costmodel.study.published.refits import leave_out, read_terms
from costmodel.study.published.reproduce import FAIL, PASS, Comparison, load_cases, reproduce
from reports.fits.runs import chosen as whole_runs
from reports.fits.term_fits import refit

Measured: TypeAlias = "tuple[Mechanism, list[Effect]]"
TABLE = Path(__file__).with_suffix(".yaml")
CLASSES = ("training", "inference", "serving", "memory")
POINT, LEAST = 0.01, 2  # of mean error, that a mechanism has to gain on so many publications without a part in it
SHORT = 10  # lines from which on a fact of a program's code has to gain as well
SHOWN = 5e-4  # smaller moves are not shown


class Mechanism(Record):
    """A row of the table. without: key of a framework file -> value; drop: keys of calibration files."""

    name: str
    room: str
    lines: int
    without: Mapping[str, object] = field(default_factory=dict)
    drop: Sequence[str] = ()
    fact: bool = False
    kept_back: str = ""
    stays: str = ""


class Score(Record):
    """Figures. mean, median: of absolute errors; inside: share within the interval."""

    figures: int
    mean: float
    median: float
    inside: float


class Effect(Record):
    """A class of a publication with the mechanism and without. has_part: the mechanism rests on it."""

    case_class: str
    publication: str
    on: Score
    off: Score
    has_part: bool

    @property
    def gain(self) -> float:
        """Return what the mechanism takes off the mean error."""
        return self.off.mean - self.on.mean


def states(mechanism: Mechanism, case: Case, document: ResolvedWorkload | None) -> bool:
    """Tell whether the framework of a case states the mechanism; a calibration may state it for any."""
    if mechanism.drop or document is None:
        return bool(mechanism.drop)
    engine = document.value(f"scenarios.{case.scenario_name}.{FRAMEWORK}engine")
    paths = {key: path for key, path in _paths(mechanism, case).items() if engine or not key.startswith("engine.")}
    return any((document.value(path) or None) != _nothing(mechanism.without[key]) for key, path in paths.items())


def _resolved(case: Case, library: Library) -> ResolvedWorkload | None:
    """Return the workload of a case, null where it has problems of its own, which `reproduce` tells."""
    try:
        return resolve_case(case, library=library)
    except InputError:
        return None


def _paths(mechanism: Mechanism, case: Case) -> dict[str, str]:
    return {key: f"scenarios.{case.scenario_name}.{FRAMEWORK}{key}" for key in mechanism.without}


def _nothing(value: object) -> object:
    """Return null for all that says that there is none: `0 s`, false, an empty list."""
    return None if value == "0 s" else value or None


def switched_off(mechanism: Mechanism, cases: Sequence[Case]) -> list[Case]:
    """Return cases whose frameworks are without the mechanism."""
    return [
        replace(case, overrides={**case.overrides, **{path: mechanism.without[key] for key, path in paths.items()}})
        for case, paths in ((case, _paths(mechanism, case)) for case in cases)
    ]


def write_without(keys: Sequence[str], folder: Path) -> None:
    """Write the calibration files that state one of the keys on a line of its own, without it."""
    stated, root = re.compile(rf"^ *(?:{'|'.join(keys)}):.*\n", re.MULTILINE), package_root() / "hardware"
    for path in root.glob("calibrations/**/*.yaml") if keys else ():
        text = path.read_text(encoding="utf-8")
        if stated.search(text):
            target = folder / "hardware" / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, [stated.sub("", text).encode()])


def compared(cases: Sequence[Case], search_path: Sequence[str] = (), *, refitted: bool = False) -> list[Comparison]:
    """Return the scored figures of cases; refitted: by terms that were fitted without each publication."""
    library, changes = Library(search_path), None
    if refitted:
        terms = read_terms(library)
        changes = leave_out(cases, refit(cases, terms, library), terms, library).changes
    comparisons, _ = reproduce(cases, search_path, changes)
    return [one for one in comparisons if one.error is not None and one.verdict in (PASS, FAIL)]


def score(figures: Sequence[Comparison]) -> Score:
    """Return what figures score."""
    errors = [abs(one.error or 0.0) for one in figures]
    ends = [(one.low, one.published, one.high) for one in figures]
    inside = [low <= value <= high for low, value, high in ends if low is not None and value and high is not None]
    return Score(len(figures), fmean(errors), median(errors), fmean(inside) if inside else float("nan"))


def effects(on: Sequence[Comparison], off: Sequence[Comparison], partners: set[str]) -> list[Effect]:
    """Return what becomes of each class of each publication. partners: those that the mechanism rests on."""
    known = {(one.id, one.metric): one for one in on}
    groups: dict[tuple[str, str], list[tuple[Comparison, Comparison]]] = {}
    for one in off:
        if (one.id, one.metric) in known:
            groups.setdefault((one.case_class or "", one.publication), []).append((known[one.id, one.metric], one))
    return [
        Effect(*names, score([a for a, _ in pairs]), score([b for _, b in pairs]), names[1] in partners)
        for names, pairs in sorted(groups.items())
    ]


def rests_on(mechanism: Mechanism, library: Library) -> list[str]:
    """Return what the values that state a mechanism rest on or were chosen in sight of, by the files' sources."""
    known: set[str] = set()
    for name in library.names("frameworks"):
        tree = library.read_unextended(library.find(name, "frameworks"), "framework").child("sources")
        for entry in [] if tree is None else to_python(tree):
            pairs = itertools.product(entry["fields"], mechanism.without)
            if any(f"{key}.".startswith(f"{of}.") or of.startswith(f"{key}.") for of, key in pairs):
                known.update(map(str, (*entry.get("rests_on", ()), *entry.get("seen", ()))))
    return sorted(known)


def verdict(mechanism: Mechanism, measured: Sequence[Effect]) -> str:
    """Return why a mechanism stays, by the rule; empty where it does not."""
    gaining = {one.publication for one in measured if one.gain >= POINT and not one.has_part}
    if len(gaining) >= LEAST:
        return f"gains on {len(gaining)} publications"
    return "fact" if mechanism.fact and mechanism.lines < SHORT else ""


def measure(mechanisms: Sequence[Mechanism], cases: Sequence[Case], *, refitted: bool = False) -> Iterator[Measured]:
    """Yield each mechanism with what it does to the published figures of the cases that it can touch."""
    library = Library()
    documents = [(case, _resolved(case, library)) for case in cases]
    own = {one.name: [case for case, document in documents if states(one, case, document)] for one in mechanisms}
    ids = {case.id for of in own.values() for case in of}
    on = compared([case for case in cases if case.id in ids], refitted=refitted)
    for mechanism in mechanisms:
        known, of = rests_on(mechanism, library), own[mechanism.name]
        partners = {
            case.publication for case in of if any(fnmatchcase(i, name) for i in identities(case) for name in known)
        }
        with tempfile.TemporaryDirectory() as folder:
            write_without(mechanism.drop, Path(folder))
            off = compared(switched_off(mechanism, of), [folder] if mechanism.drop else (), refitted=refitted)
        yield mechanism, effects(on, off, partners)


def moves(mechanism: Mechanism, measured: Sequence[Effect]) -> list[str]:
    """Return how each class of each publication moves, where it does, in per cent: with -> without."""
    lines: list[str] = []
    for one in measured:
        pairs = [(100 * getattr(one.on, name), 100 * getattr(one.off, name)) for name in ("mean", "median", "inside")]
        shown = " | ".join(f"{before:.1f} -> {after:.1f}" for before, after in pairs)
        row = f"| {mechanism.name} | {one.case_class} | {one.publication} | {one.on.figures} | {shown} | "
        lines += [f"{row}{'yes' if one.has_part else ''} |"] if abs(one.gain) >= SHOWN else []
    return lines


def summary(mechanism: Mechanism, measured: Sequence[Effect], library: Library) -> str:
    """Return a mechanism's row of the page."""
    own = [one for one in measured if not one.has_part]
    better, worse = sum(one.gain >= POINT for one in own), sum(one.gain <= -POINT for one in own)
    cells = (
        mechanism.name, ", ".join(f"`{key}`" for key in (*mechanism.without, *mechanism.drop)), mechanism.room,
        str(mechanism.lines),
        ", ".join(rests_on(mechanism, library)) or ("code" if mechanism.fact else "measured kernels"),
        f"{better} better, {worse} worse, of {len(own)}", mechanism.kept_back,
        verdict(mechanism, measured) or mechanism.stays,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Switch mechanisms off, one at a time; print what moves, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m reports.ablation", description=main.__doc__)
    parser.add_argument("--output", type=Path, help="page to write; none: only print")
    parser.add_argument("--only", action="append", help="a mechanism by its name; repeatable; none: all")
    parser.add_argument("--most", type=int, default=24, help="runs of a class of a publication")
    parser.add_argument("--refit", action="store_true", help="fit all terms of frameworks without each publication")
    chosen, table = parser.parse_args(arguments), yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    mechanisms = [Mechanism(**row) for row in table["mechanisms"] if not chosen.only or row["name"] in chosen.only]
    cases, library, rows, lines = whole_runs(load_cases([])[0], CLASSES, chosen.most), Library(), [], []
    for mechanism, measured in measure(mechanisms, cases, refitted=chosen.refit):
        rows.append(summary(mechanism, measured, library))
        lines += (new := moves(mechanism, measured))
        sys.stdout.write("\n".join([rows[-1], *new, ""]))
        sys.stdout.flush()
    if chosen.output is not None:
        write_whole(chosen.output, [table["page"].format(rows="\n".join(rows), moves="\n".join(lines)).encode()])


if __name__ == "__main__":
    main()
