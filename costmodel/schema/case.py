"""Published cases: what somebody measured or stated, of which scenario, and how to compare."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location, Problem
from costmodel.schema.assemble import Assembly
from costmodel.schema.device import DeviceFile
from costmodel.schema.loader import MAX_TABLE_BYTES, parse_tree, read_text
from costmodel.schema.metrics import dimension_of, metric_names
from costmodel.schema.quantity import Measure, Named, Ratio, Verbatim
from costmodel.schema.references import Library, display_path, suggest
from costmodel.schema.resolve import ResolvedWorkload, in_order, resolve_model, resolve_tree
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import Tree, merge, replace_at

SUBJECTS = ("scenario", "device", "kernel")  # what a case is of
_INLINE = "case"  # name of a scenario that stands in the case itself

CaseClass: TypeAlias = Literal[
    "training", "inference", "serving", "memory", "kernel", "communication", "topology", "counting"
]
Check: TypeAlias = Literal["value", "range", "lower", "upper", "ordering", "ratio"]


class CaseSourceFile(Strict):
    """Where the figures were published."""

    cite: str = Field(description="title, table or figure, address")
    verified: bool = Field(default=False, description="somebody read the figures at the source")
    note: str | None = Field(default=None, description="how the figures were read")
    publication: str | None = Field(
        default=None, description="name under which figures of one origin go together; null: that of the file"
    )


class ExpectFile(Strict):
    """One published figure and how a prediction is held against it."""

    metric: str = Field(description="name of the metric, as in results")
    value: Annotated[Any, Verbatim()] = Field(default=None, description="quantity or number; [low, high] for a range")
    tolerance: Ratio | None = Field(default=None, description="largest relative error")
    check: Check = Field(
        default="value",
        description="value: within tolerance; range, lower, upper: on that side; ratio: to the baseline's; ordering: "
        "smaller than the baseline's",
    )
    baseline: str | None = Field(default=None, description="id of the case to compare with, for ratio and ordering")
    baseline_metric: str | None = Field(default=None, description="the metric of that case; null: the same one")


class EntryFile(Strict):
    """One case."""

    id: str = Field(description="name of the case, unique")
    case_class: CaseClass | None = Field(default=None, alias="class", description="kind of case")
    skip: str | None = Field(default=None, description="why the case cannot be computed; then it needs no more keys")
    scenario: Annotated[Any, Named("workloads")] = Field(
        default=None,
        description="a scenario with its `model`, or {workload: NAME, scenario: NAME, set: {path: value}}",
    )
    device: Annotated[str, Named("devices")] | None = Field(
        default=None, description="a device in place of a scenario; its metrics are `device.` and a path of its file"
    )
    kernel: dict[str, str | int | float] | None = Field(
        default=None,
        description="a kernel in place of a scenario, as a row of a measurement table: column -> value",
    )
    conventions: dict[str, str] = Field(default={}, description="conventions of the figures, such as flop: model")
    expect: list[ExpectFile] = Field(default=[], description="the published figures")
    source: CaseSourceFile | None = Field(default=None, description="instead of the file's")


class TableFile(Strict):
    """Many cases from one table."""

    table: str = Field(description="CSV file beside this one, one case a row")
    columns: dict[str, Annotated[Any, Verbatim()]] = Field(
        min_length=1,
        description="header -> path: id, class, skip, conventions.NAME, expect.METRIC, or a path of the scenario; "
        "or {path, unit} where the table leaves out the unit, or a list of these; without an id, rows are numbered "
        "after the template's",
    )
    template: Annotated[Any, Named("template")] = Field(description="what all the cases share: keys of a case")


class CaseFile(Strict):
    """Published cases."""

    source: CaseSourceFile = Field(description="where the figures were published")
    cases: list[Annotated[Any, Verbatim()]] = Field(min_length=1, description="the cases, and tables of cases")


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """One published figure in SI. value: a pair for check `range`, null for `ordering`.

    baseline_metric: what it is compared with of the baseline, null: the same metric.
    """

    metric: str
    dimension: str
    value: float | tuple[float, float] | None
    tolerance: float | None
    check: Check
    baseline: str | None
    baseline_metric: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One published case. skip: why it cannot be computed, null where it can; publication: where it comes from.

    It is of a scenario, of a device or of a kernel; the others are null.
    """

    id: str
    publication: str
    case_class: str | None
    skip: str | None
    conventions: Mapping[str, str]
    expect: tuple[Expectation, ...]
    source: CaseSourceFile
    location: Location | None
    scenario: Tree | None
    device: Tree | None
    kernel: Mapping[str, str] | None
    overrides: Mapping[str, object]

    @property
    def scenario_name(self) -> str:
        """Return the name of the case's scenario in the workload that it resolves to."""
        return _scenario_name(self.scenario)


class CaseReferenceFile(Strict):
    """A case's scenario that is one of a workload's."""

    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenario: str = Field(description="name of its scenario")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="path -> value, as `--set`")


def load_case_file(path: str | Path, search_path: Sequence[str | Path] = ()) -> tuple[Case, ...]:
    """Return the cases of a file; raise InputError with every problem. A case's scenario is not yet resolved."""
    cases, problems = readable_cases(path, search_path)
    if problems:
        raise InputError(problems)
    return cases


def readable_cases(
    path: str | Path, search_path: Sequence[str | Path] = ()
) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Return the cases of a file that can be read, and the problems of those that cannot."""
    library = Library(search_path)
    assembly = Assembly(library)
    cases: list[Case] = []
    with assembly.collecting_problems():
        for case in _cases(assembly, library.read(Path(path), "case"), Path(path)):
            cases.append(case)  # one by one: those before a problem are kept
    return tuple(cases), tuple(in_order(assembly.problems))


def resolve_case(
    case: Case, search_path: Sequence[str | Path] = (), library: Library | None = None
) -> ResolvedWorkload:
    """Return the one scenario of a case; none, but the model, where the case states a model only.

    A scenario that stands in the case itself is called `case`. library: has read files already, for many cases.
    """
    return _resolved(case, library or Library(search_path))


def resolve_device(case: Case, search_path: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Return the device of a case as its file states it, as nested dicts in SI."""
    return _device(case, Library(search_path))


def _device(case: Case, library: Library) -> dict[str, Any]:
    assert case.device is not None
    assembly = Assembly(library)
    with assembly.collecting_problems():
        stated = library.document(case.device, "devices", "device", f"cases.{case.id}.device")
        return assembly.part(DeviceFile, stated).file.model_dump()
    raise InputError(in_order(assembly.problems))


def check_cases(assembly: Assembly, tree: Tree, path: Path) -> None:
    """Note every problem of a case file and of the scenarios in it."""
    for case in _cases(assembly, tree, path):
        with assembly.collecting_problems():
            if case.skip is None and case.device is not None:
                _device(case, assembly.library)
            elif case.skip is None and case.scenario is not None:
                _resolved(case, assembly.library)


def _resolved(case: Case, library: Library) -> ResolvedWorkload:
    stated = case.scenario
    if stated is None:
        raise InputError.single(f"case {case.id} has no scenario", location=case.location)
    if stated.child("workload") is None:
        rest = stated.without("model")
        model = {"model": stated.value["model"]} if stated.child("model") else {}
        if not rest.value and model:
            return resolve_model(Tree(model, stated.location), case.id, library, case.overrides)
        scenarios = Tree({_INLINE: rest}, stated.location, stated.key)
        return resolve_tree(
            Tree({**model, "scenarios": scenarios}, stated.location), case.id, library, overrides=case.overrides
        )  # fmt: skip
    problems: list[Problem] = []
    reference = validate_tree(CaseReferenceFile, stated, problems, "scenario")
    if reference is None:
        raise InputError(problems)
    tree = library.read(library.find_workload(reference.workload), "workload")
    overrides = {**reference.set, **case.overrides}
    return resolve_tree(tree, case.id, library, overrides=overrides, scenarios=[reference.scenario])


def _cases(assembly: Assembly, tree: Tree, path: Path) -> Iterator[Case]:
    file = assembly.part(CaseFile, tree).file
    seen: set[str] = set()
    for item in tree.value["cases"].value:
        entries = _rows(assembly, item, path) if item.child("table") else [(item, {})]
        for entry, overrides in entries:
            with assembly.collecting_problems():
                case = _case(assembly, entry, overrides, path.stem, file.source)
                if case.id in seen:
                    raise InputError.single(f"id {case.id!r} stands twice", hint="rename one", location=entry.location)
                seen.add(case.id)
                yield case


def _case(assembly: Assembly, tree: Tree, overrides: Mapping[str, object], stem: str, source: CaseSourceFile) -> Case:
    """Return one case. stem, source: the file's name, and the source of the cases that state none."""
    name = f"cases.{tree.text('id') or '?'}"
    file = assembly.part(EntryFile, tree, field=name).file
    subjects = [key for key in SUBJECTS if tree.child(key) is not None] or [SUBJECTS[0]]
    if len(subjects) > 1:
        raise InputError.single(
            f"has {subjects[0]} and {subjects[1]}", hint="make two cases of it", field=name, location=tree.location
        )
    needed = () if file.skip else ("class", subjects[0], "expect")
    missing = [key for key in needed if tree.child(key) is None]
    if missing:
        raise InputError(
            [Problem(tree.location, f"{name}.{key}", "is missing", "add it, or `skip: reason`") for key in missing]
        )
    stated = tree.child("expect")
    trees = stated.value if stated is not None else []
    cited = file.source or source
    return Case(
        id=file.id, publication=cited.publication or stem, case_class=file.case_class, skip=file.skip,
        conventions=file.conventions,
        expect=tuple(_expectation(*pair, name) for pair in zip(file.expect, trees, strict=True) if not file.skip),
        source=cited, location=tree.location, scenario=tree.child("scenario"),
        device=tree.child("device"),
        kernel=None if file.kernel is None else {key: str(value) for key, value in file.kernel.items()},
        overrides=overrides,
    )  # fmt: skip


def _expectation(file: ExpectFile, tree: Tree, name: str) -> Expectation:
    field = f"{name}.expect.{file.metric}"
    dimension = dimension_of(file.metric)
    if dimension is None:
        raise InputError.single(
            f"{file.metric!r} is no known metric", hint=suggest(file.metric, metric_names()), field=field,
            location=tree.value["metric"].location,
        )  # fmt: skip
    at = tree.child("value") or tree
    if file.check in ("ratio", "ordering") and file.baseline is None:
        raise InputError.single(
            f"check {file.check} needs a `baseline`", hint="name the case to compare with", field=field,
            location=tree.location,
        )  # fmt: skip
    if file.check == "ordering":
        return Expectation(file.metric, dimension, None, None, file.check, file.baseline, file.baseline_metric)
    measure = Measure("ratio" if file.check == "ratio" else dimension, low=-math.inf)
    wanted = file.value if file.check == "range" else [file.value]
    if not isinstance(wanted, list) or len(wanted) != (2 if file.check == "range" else 1):
        raise InputError.single(
            "a range is two values", hint="write [low, high]", field=field, location=at.location
        )  # fmt: skip
    try:
        values = [float(measure.check(value)) for value in wanted]
    except PydanticCustomError as error:
        context = error.context or {}
        raise InputError.single(
            str(context.get("message")), hint=str(context.get("hint")), field=field, location=at.location
        ) from None
    tolerance = None if file.tolerance is None else float(file.tolerance)
    pair = (values[0], values[-1])
    return Expectation(
        file.metric, dimension, pair if file.check == "range" else values[0], tolerance, file.check, file.baseline,
        file.baseline_metric,
    )  # fmt: skip


def _rows(assembly: Assembly, tree: Tree, path: Path) -> Iterator[tuple[Tree, dict[str, object]]]:
    """Yield the cases of a table: the template with the row's own values, and what the row changes in the scenario."""
    table = assembly.part(TableFile, tree, field="cases").file
    file = path.parent / table.table
    if not file.is_file():
        raise InputError.single(
            f"{table.table} is no file beside this one", hint="check the name", field="cases.table",
            location=tree.value["table"].location,
        )  # fmt: skip
    reader = csv.DictReader(io.StringIO(read_text(file, display_path(file), MAX_TABLE_BYTES), newline=""))
    headers = list(reader.fieldnames or [])
    for header, at in tree.value["columns"].value.items():
        if header not in headers:
            raise InputError.single(
                f"{table.table} has no column {header!r}", hint=suggest(header, headers), field="cases.columns",
                location=at.key,
            )  # fmt: skip
    targets = {
        header: [_target(one, tree.value["columns"].value[header]) for one in _listed(column)]
        for header, column in table.columns.items()
    }
    numbered = not any(path == "id" for paths in targets.values() for path, _ in paths)
    for number, row in enumerate(reader, start=1):
        place = Location(display_path(file), reader.line_num)
        if None in row or None in row.values():
            raise InputError.single(
                f"has more or fewer cells than the {len(headers)} columns", hint="complete or remove the line",
                field="cases.table", location=place,
            )  # fmt: skip
        entry, overrides = _row(tree.value["template"], targets, row, place)
        if numbered:
            entry = entry.with_entries(id=Tree(f"{entry.text('id') or Path(table.table).stem}-{number}", place, place))
        yield entry, overrides


def _scenario_name(stated: Tree | None) -> str:
    named = None if stated is None or stated.child("workload") is None else stated.text("scenario")
    return named or _INLINE


def _listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else [column]


def _target(column: Any, stated: Tree) -> tuple[str, str]:
    """Return the (path, unit) that a column stands for; the unit is empty where the table writes it."""
    if isinstance(column, str):
        return column, ""
    if isinstance(column, dict) and "path" in column and set(column) <= {"path", "unit"}:
        return str(column["path"]), str(column.get("unit", ""))
    raise InputError.single(
        "a column is a path, or {path, unit}", hint="write `{path: expect.step_time, unit: ms}`",
        field="cases.columns", location=stated.location,
    )  # fmt: skip


def _row(
    template: Tree, targets: Mapping[str, Sequence[tuple[str, str]]], row: Mapping[str, str | None], place: Location
) -> tuple[Tree, dict[str, object]]:
    """Return a row's case, and what it changes in the scenario. An empty cell changes nothing."""
    entry, overrides = replace(template, location=place), dict[str, object]()
    prefix = f"scenarios.{_scenario_name(template.child('scenario'))}"
    cells = [
        (cell, *one) for header, paths in targets.items() if (cell := (row[header] or "").strip()) for one in paths
    ]
    for cell, target, unit in cells:
        written = f"{cell} {unit}".strip()
        head, _, rest = target.partition(".")
        if head in ("id", "skip"):
            entry = entry.with_entries(**{head: Tree(written, place, place)})
        elif head in ("class", "conventions", "kernel"):
            entry = replace_at(entry, target.split("."), parse_tree(written, place.source, place=place))
        elif head == "expect":
            entry = _expecting(entry, rest, parse_tree(written, place.source, place=place))
        else:
            overrides[target if head in ("model", "hardware", "scenarios") else f"{prefix}.{target}"] = written
    return entry, overrides


def _expecting(entry: Tree, metric: str, value: Tree) -> Tree:
    """Return a case that expects `value` of `metric`; how to compare comes from the template's entry of that metric."""
    stated = entry.child("expect")
    listed = list(stated.value) if stated is not None else []
    own = Tree({"metric": Tree(metric, value.location), "value": value}, value.location)
    same = [at for at, item in enumerate(listed) if item.text("metric") == metric]
    if same:
        listed[same[0]] = merge(listed[same[0]], own)
    else:
        listed.append(own)
    return entry.with_entries(expect=Tree(listed, value.location, value.location))
