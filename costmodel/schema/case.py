"""Published cases: values measured or stated for a scenario, and how to compare predictions with them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from costmodel.declared import Measure, Named, Ratio, Verbatim, Wrong
from costmodel.errors import InputError, Location, Problem, kind_of, suggest
from costmodel.records import Record, replace
from costmodel.schema.anchor import ReferenceFile, workload_of
from costmodel.schema.assemble import Assembly, in_order
from costmodel.schema.device import DeviceFile
from costmodel.schema.loader import MAX_TABLE_BYTES, parse_tree, read_text
from costmodel.schema.metrics import dimension_of, metric_names
from costmodel.schema.records import record
from costmodel.schema.references import Library, display_path
from costmodel.schema.resolve import resolve_model, resolve_tree
from costmodel.schema.resolved import ResolvedWorkload
from costmodel.schema.strict import Strict, checked, field_error
from costmodel.schema.tree import Tree, merge, replace_at

SUBJECTS = ("scenario", "device", "kernel")
_INLINE = "case"  # name of a scenario inside the case itself

CaseClass: TypeAlias = Literal[
    "training", "inference", "serving", "memory", "kernel", "communication", "topology", "counting"
]
Check: TypeAlias = Literal["value", "range", "lower", "upper", "ordering", "ratio"]


class CaseSourceFile(Strict):
    """Where the values were published."""

    cite: str = Field(description="title, table or figure, address")
    verified: bool = Field(default=False, description="true if the numbers were read from the source itself")
    note: str | None = Field(default=None, description="how the values were read")
    publication: str | None = Field(default=None, description="publication that groups results; null: the file's name")
    repository: str | None = Field(
        default=None, description="public repository that the values are from, as `owner/name`, null: none"
    )


class ExpectFile(Strict):
    """One published value, and how to compare a prediction with it."""

    metric: str = Field(description="name of the metric, as in results")
    value: Annotated[Any, Verbatim()] = Field(default=None, description="quantity or number; [low, high] for a range")
    tolerance: Ratio | None = Field(default=None, description="largest relative error")
    check: Check = Field(
        default="value",
        description="value: within tolerance; range, lower, upper: within that bound; ratio: to the baseline; "
        "ordering: smaller than the baseline",
    )
    baseline: str | None = Field(default=None, description="id of the case to compare with, for ratio and ordering")
    baseline_metric: str | None = Field(default=None, description="the metric of that case; null: the same one")


class EntryFile(Strict):
    """One case."""

    id: str = Field(description="unique name of the case")
    case_class: CaseClass | None = Field(default=None, alias="class", description="kind of case")
    skip: str | None = Field(default=None, description="why the case cannot be computed; then no other key is needed")
    scenario: Annotated[Any, Named("workloads")] = Field(
        default=None, description="a scenario with its `model`, or {workload: NAME, scenario: NAME, set: {path: value}}"
    )
    device: Annotated[str, Named("devices")] | None = Field(
        default=None, description="a device instead of a scenario; its metrics are `device.` and a path of its file"
    )
    kernel: dict[str, str | int | float] | None = Field(
        default=None, description="a kernel instead of a scenario, as a row of a measurement table: column -> value"
    )
    conventions: dict[str, str] = Field(default={}, description="conventions of the values, such as flop: model")
    identity: str | None = Field(
        default=None, description="why the value holds by construction; then it is shown and checked, but not scored"
    )
    assumed: str | None = Field(
        default=None, description="which settings nobody published; then the value is shown, but not scored"
    )
    group: str | None = Field(
        default=None,
        description="name of a group of cases whose values follow from one another; the group counts as one figure",
    )
    expect: list[ExpectFile] = Field(default=[], description="the published values")
    source: CaseSourceFile | None = Field(default=None, description="instead of the file's")


class TableFile(Strict):
    """Many cases from one table."""

    table: str = Field(description="CSV file in the same folder, one case per row")
    columns: dict[str, Annotated[Any, Verbatim()]] = Field(
        min_length=1,
        description="header -> path: id, class, skip, conventions.NAME, expect.METRIC, or a path of the scenario; "
        "or {path, unit} if the table omits the unit, or a list of these; without an id, the template's is numbered by "
        "row",
    )
    template: Annotated[Any, Named("template")] = Field(description="keys of a case that all rows share")


class CaseFile(Strict):
    """Published cases."""

    source: CaseSourceFile = Field(description="where the values were published")
    cases: list[Annotated[Any, Verbatim()]] = Field(min_length=1, description="the cases, and tables of cases")


class Expectation(Record):
    """One published value in SI. value: a pair for check `range`, null for `ordering`.

    baseline_metric: metric of the baseline to compare with, null: the same metric.
    """

    metric: str
    dimension: str
    value: float | tuple[float, float] | None
    tolerance: float | None
    check: Check
    baseline: str | None
    baseline_metric: str | None = None


class Case(Record, kw_only=True):
    """One published case of a scenario, a device or a kernel. The other two are null.

    skip: why it cannot be computed, null if it can.
    publication: name that groups results.
    group: cases with the same one count as one figure. Null: each scenario by itself.
    identity, assumed: why its values are compared but not scored. Null: they are.
    overrides: path -> value, from the row of a table.
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
    group: str | None = None
    identity: str | None = None
    assumed: str | None = None

    @property
    def scenario_name(self) -> str:
        """Return the name of the case's scenario in the workload that it resolves to."""
        return _scenario_name(self.scenario)


class CaseReferenceFile(ReferenceFile):
    """A scenario of a workload file as that of a case."""

    set: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="path -> value, as `--set`")


def load_case_file(path: str | Path, search_path: Sequence[str | Path] = ()) -> tuple[Case, ...]:
    """Return the cases of a file, their scenarios not yet resolved. Raises InputError with every problem."""
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
    """Return the workload of a case: its one scenario, or its model alone where it has no scenario.

    A scenario inside the case itself is called `case`. library: one that has read files already, for many cases.
    """
    library = library or Library(search_path)
    tree = case.scenario
    if tree is None:
        raise InputError.single(f"case {case.id} has no scenario", location=case.location)
    if tree.child("workload") is None and not tree.without("model").value and tree.child("model") is not None:
        return resolve_model(tree, case.id, library, case.overrides)
    if tree.child("workload") is None:
        return resolve_tree(workload_of(tree, _INLINE), case.id, library, overrides=case.overrides)
    reference = checked(CaseReferenceFile, tree, "scenario")
    workload = library.read(library.find_workload(reference.workload), "workload")
    overrides = {**reference.set, **case.overrides}
    return resolve_tree(workload, case.id, library, overrides=overrides, scenarios=[reference.scenario])


def resolve_device(
    case: Case, search_path: Sequence[str | Path] = (), library: Library | None = None
) -> dict[str, Any]:
    """Return the device of a case, as nested dicts in SI."""
    assert case.device is not None
    assembly = Assembly(library or Library(search_path))
    with assembly.raising_problems():
        tree = assembly.library.document(case.device, "devices", "device", f"cases.{case.id}.device")
        return assembly.part(DeviceFile, tree).file.model_dump()


def check_cases(assembly: Assembly, tree: Tree, path: Path) -> None:
    """Collect every problem of a case file and of the scenarios in it."""
    for case in _cases(assembly, tree, path):
        with assembly.collecting_problems():
            if case.skip is None and case.device is not None:
                resolve_device(case, library=assembly.library)
            elif case.skip is None and case.scenario is not None:
                resolve_case(case, library=assembly.library)


def _cases(assembly: Assembly, tree: Tree, path: Path) -> Iterator[Case]:
    file = assembly.part(CaseFile, tree).file
    seen: set[str] = set()
    for item in tree.value["cases"].value:
        entries = _rows(assembly, item, path) if item.child("table") else [(item, {})]
        for entry, overrides in entries:
            with assembly.collecting_problems():
                case = _case(assembly, entry, overrides, path.stem, file.source)
                if case.id in seen:
                    raise entry.error(f"duplicate id {case.id!r}", "rename one")
                seen.add(case.id)
                yield case


def _case(assembly: Assembly, tree: Tree, overrides: Mapping[str, object], stem: str, source: CaseSourceFile) -> Case:
    """Return one case. stem, source: the file's name, and the source of cases without one of their own."""
    name = f"cases.{tree.text('id') or '?'}"
    file = assembly.part(EntryFile, tree, field=name).file
    _check_subject(file, tree, name)
    expect = tree.child("expect")
    cited = file.source or source
    return record(
        Case, file, publication=cited.publication or stem, source=cited, location=tree.location, overrides=overrides,
        expect=() if file.skip or expect is None
        else tuple(_expectation(*pair, name) for pair in zip(file.expect, expect.value, strict=True)),
        scenario=tree.child("scenario"), device=tree.child("device"),
        kernel=None if file.kernel is None else {key: str(value) for key, value in file.kernel.items()},
    )  # fmt: skip


def _check_subject(file: EntryFile, tree: Tree, name: str) -> None:
    """Raise InputError unless a case has one subject, and all that a case needs which is not skipped."""
    subjects = [key for key in SUBJECTS if tree.child(key) is not None] or [SUBJECTS[0]]
    if file.identity is not None and file.assumed is not None:
        raise tree.error("is an identity or rests on assumed settings, not both", "remove one", name)
    if len(subjects) > 1:
        raise tree.error(f"has {subjects[0]} and {subjects[1]}", "split it into two cases", name)
    needed = () if file.skip else ("class", subjects[0], "expect")
    missing = [key for key in needed if tree.child(key) is None]
    if missing:
        raise InputError(
            [Problem(tree.location, f"{name}.{key}", "is missing", "add it, or `skip: reason`") for key in missing]
        )


def _expectation(file: ExpectFile, tree: Tree, name: str) -> Expectation:
    field = f"{name}.expect.{file.metric}"
    dimension = dimension_of(file.metric)
    if dimension is None:
        raise tree.value["metric"].error(f"unknown metric {file.metric!r}", suggest(file.metric, metric_names()), field)
    if file.check in ("ratio", "ordering") and file.baseline is None:
        raise tree.error(f"check {file.check} needs a `baseline`", "name the case to compare with", field)
    value = None if file.check == "ordering" else _expected_value(file, dimension, tree.child("value") or tree, field)
    tolerance = None if file.tolerance is None or value is None else float(file.tolerance)
    return record(Expectation, file, dimension=dimension, value=value, tolerance=tolerance)


def _expected_value(file: ExpectFile, dimension: str, tree: Tree, field: str) -> float | tuple[float, float]:
    """Return a published value in SI, for check `range` a pair."""
    measure = Measure("ratio" if file.check == "ratio" else dimension, low=-math.inf)
    values = file.value if file.check == "range" else [file.value]
    if not isinstance(values, list) or len(values) != (2 if file.check == "range" else 1):
        raise tree.error("a range needs two values", "write [low, high]", field)
    try:
        checked = [float(measure.check(value)) for value in values]
    except Wrong as error:
        raise field_error(error, field, tree.location) from None
    return (checked[0], checked[1]) if file.check == "range" else checked[0]


def _rows(assembly: Assembly, tree: Tree, path: Path) -> Iterator[tuple[Tree, dict[str, object]]]:
    """Yield the cases of a table: the template with the row's values, and the overrides of the scenario."""
    table = assembly.part(TableFile, tree, field="cases").file
    file = path.parent / table.table
    if not file.is_file():
        raise tree.value["table"].error(
            f"{table.table} not found in this file's folder", "check the name", "cases.table"
        )
    reader = csv.DictReader(io.StringIO(read_text(file, display_path(file), MAX_TABLE_BYTES), newline=""))
    headers = list(reader.fieldnames or [])
    column_trees = tree.value["columns"].value
    for header, column in column_trees.items():
        if header not in headers:
            raise InputError.single(
                f"{table.table} has no column {header!r}", hint=suggest(header, headers), field="cases.columns",
                location=column.key,
            )  # fmt: skip
    targets = {
        header: [_target(target, column_trees[header]) for target in (column if isinstance(column, list) else [column])]
        for header, column in table.columns.items()
    }
    is_numbered = not any(path == "id" for paths in targets.values() for path, _ in paths)
    for number, row in enumerate(reader, start=1):
        location = Location(display_path(file), reader.line_num)
        if None in row or None in row.values():
            raise InputError.single(
                f"wrong number of cells: the header has {len(headers)}", hint="complete or remove the line",
                field="cases.table", location=location,
            )  # fmt: skip
        entry, overrides = _row(tree.value["template"], targets, row, location)
        if is_numbered:
            identifier = f"{entry.text('id') or Path(table.table).stem}-{number}"
            entry = entry.with_entries(id=Tree(identifier, location, location))
        yield entry, overrides


def _scenario_name(tree: Tree | None) -> str:
    name = None if tree is None or tree.child("workload") is None else tree.text("scenario")
    return name or _INLINE


def _target(column: Any, tree: Tree) -> tuple[str, str]:
    """Return the (path, unit) of a column. The unit is empty where the table contains it."""
    if isinstance(column, str):
        return column, ""
    if isinstance(column, dict) and "path" in column and set(column) <= {"path", "unit"}:
        return str(column["path"]), str(column.get("unit", ""))
    raise tree.error(
        "a column is a path, or {path, unit}", "write `{path: expect.step_time, unit: ms}`", "cases.columns"
    )


def _row(
    template: Tree, targets: Mapping[str, Sequence[tuple[str, str]]], row: Mapping[str, str | None], location: Location
) -> tuple[Tree, dict[str, object]]:
    """Return a row's case, and its overrides of the scenario. An empty cell changes nothing."""
    entry, overrides = replace(template, location=location), dict[str, object]()
    prefix = f"scenarios.{_scenario_name(template.child('scenario'))}"
    texts = {header: (row[header] or "").strip() for header in targets}
    cells = [(texts[header], *target) for header, paths in targets.items() if texts[header] for target in paths]
    for cell, target, unit in cells:
        text = f"{cell} {unit}".strip()
        head, _, rest = target.partition(".")
        if head in ("id", "skip"):
            entry = entry.with_entries(**{head: Tree(text, location, location)})
        elif head in ("class", "conventions", "kernel"):
            entry = replace_at(entry, target.split("."), parse_tree(text, location.source, label=location))
        elif head == "expect":
            entry = _with_expectation(entry, rest, parse_tree(text, location.source, label=location))
        else:
            overrides[target if head in ("model", "hardware", "scenarios") else f"{prefix}.{target}"] = text
    return entry, overrides


def _with_expectation(entry: Tree, metric: str, value: Tree) -> Tree:
    """Return a case that expects `value` of `metric`, with the check of the template's entry for that metric."""
    expect = entry.child("expect")
    if expect is not None and not isinstance(expect.value, list):
        raise expect.error(f"must be a list, not {kind_of(expect.value)}", "write a list", "cases.template.expect")
    expectations = [] if expect is None else list(expect.value)
    new = Tree({"metric": Tree(metric, value.location), "value": value}, value.location)
    known = (i for i, item in enumerate(expectations) if item.is_mapping and item.text("metric") == metric)
    i = next(known, None)
    if i is None:
        expectations.append(new)
    else:
        expectations[i] = merge(expectations[i], new)
    return entry.with_entries(expect=Tree(expectations, value.location, value.location))


# ---- The validation file: required accuracy, causes of misses, and what other tools claim ----------------------------

Statistic: TypeAlias = Literal["mean", "median", "worst", "inside", "half_width"]


class ValueSelectionFile(Strict):
    """A selection of published values: those that meet every condition."""

    classes: list[CaseClass] = Field(default=[], description="classes of their cases; none: all")
    publications: list[str] = Field(default=[], description="their publications; none: all")
    cases: list[str] = Field(default=[], description="ids of their cases, `*` for any text; none: all")
    metrics: list[str] = Field(default=[], description="their metrics, `*` for any text; none: all")


class AccuracyTargetFile(Strict):
    """The accuracy required of a selection of published values."""

    name: str = Field(description="short name of the selection")
    figures: ValueSelectionFile = Field(description="the published values")
    statistic: Statistic = Field(
        description="mean, median or worst: of the absolute relative errors; inside: share of the values within their "
        "80 % intervals; half_width: median half width of the intervals over the median absolute error"
    )
    bar: Ratio = Field(description="largest value allowed; for `inside` the smallest")


class RemarkFile(Strict):
    """A remark on a selection of published values."""

    figures: ValueSelectionFile = Field(description="the published values")
    text: str = Field(description="a sentence or two")
    source: CaseSourceFile | None = Field(default=None, description="source of the remark")


class ToolFile(Strict):
    """The accuracy that another tool claims."""

    tool: str = Field(description="name of the tool")
    compared: str = Field(description="values that it was compared with")
    error: str = Field(description="the error as stated")
    source: CaseSourceFile = Field(description="where it is stated")


class ValidationFile(Strict):
    """What `python -m reports.validation` adds to the errors that it computes."""

    name: str = Field(description="name of the file")
    bars: list[AccuracyTargetFile] = Field(default=[], description="required accuracy")
    causes: list[RemarkFile] = Field(default=[], description="causes of misses")
    discrepancies: list[RemarkFile] = Field(default=[], description="inconsistencies in the publications themselves")
    tools: list[ToolFile] = Field(default=[], description="other tools, for comparison")
