"""The output of commands as others read it: of `simulate --json` and `sweep`, and what `report` draws besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location
from costmodel.schema.loader import MAX_BYTES, read_data
from costmodel.units import DIMENSIONS, whole

RESULT, SWEEP = "costmodel/result@1", "costmodel/sweep@1"


class OutputModel(BaseModel):
    """A mapping of a program's output: exact types, finite numbers, unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class BreakdownLine(OutputModel):
    """One line of a breakdown."""

    name: str
    time: float
    share: float
    bound: str
    basis: str
    hidden: float = 0.0
    count: float = 0.0
    flop: float = 0.0
    traffic: float | None = None
    dtype: str | None = None
    arithmetic_intensity: float | None = Field(default=None, gt=0.0)
    flop_rate: float | None = Field(default=None, gt=0.0)


class MemoryResult(OutputModel):
    """The memory of the most-loaded device, and whether the scenario is feasible."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    kv_cache: float
    communication: float
    reserve: float
    capacity: float
    fits: bool


class HostMemoryResult(OutputModel):
    """What a device keeps in host memory."""

    tensors: float
    kv_cache: float


class MemoryLevelResult(OutputModel):
    """One level of a device's memory."""

    name: str
    capacity: float
    bandwidth: float | None = Field(gt=0.0)


class PriceResult(OutputModel):
    """A price of the device: rental [$/s] or purchase [$]."""

    value: float
    kind: str
    date: str | None = None
    source: str | None = None


class HardwareResult(OutputModel):
    """The peaks, memory and prices of the device."""

    device: str
    processors: float
    peaks: dict[str, float]
    memory: list[MemoryLevelResult]
    price: dict[str, PriceResult | None] = {}


class ScenarioResult(OutputModel):
    """One scenario of a result."""

    phase: str
    cluster: str
    devices: int
    metrics: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    bound: str
    breakdown: list[BreakdownLine]
    memory: MemoryResult
    host_memory: HostMemoryResult | None = None
    hardware: HardwareResult | None = None
    reason: str | None = None
    reasons: dict[str, str] = {}
    basis: dict[str, float] = {}
    notes: list[str] = []
    verdict: str | None = None
    percentiles: dict[str, dict[str, float]] | None = None


class ModelFacts(OutputModel):
    """The model of a result."""

    name: str


class ResultFile(OutputModel):
    """A result as `simulate --json` prints it."""

    version: str
    workload: str = ""
    model: ModelFacts
    scenarios: dict[str, ScenarioResult] = Field(min_length=1)


def _known(dimension: str) -> str:
    if dimension not in DIMENSIONS:
        raise ValueError(f"unknown dimension {dimension!r}")
    return dimension


def _numeric_axis(value: Any) -> Any:
    """Return an axis of numbers. Raises an error for one of names, along which nothing can be drawn."""
    if isinstance(value, dict) and value.get("dimension", "") is None:
        path = value.get("path")
        text = f"{path} is an axis of names, so the results do not form a grid; read the table files instead"
        raise PydanticCustomError("costmodel", "{text}", {"text": text})
    return value


class SweepAxis(OutputModel):
    """One axis of a sweep. Its values in SI. link: axes with the same number vary together. Null: independent."""

    path: str
    dimension: Annotated[str, AfterValidator(_known)]
    unit: str
    values: list[float] = Field(min_length=1)
    link: int | None = None


class SweepScenario(OutputModel):
    """One scenario of a sweep. headline: the metric whose interval is in the table."""

    phase: str
    headline: str


class StudyHead(OutputModel):
    """What the `study.json` of any study says of its parts. form: their format; digests: of each that is written."""

    form: Literal["csv", "parquet"]
    parts: int = Field(gt=0, le=10**7)
    digests: list[str | None] | None = None

    @model_validator(mode="after")
    def _check_digests(self) -> Self:
        if self.digests is not None and len(self.digests) != self.parts:
            raise ValueError(f"has {len(self.digests)} digests for {self.parts} parts")
        return self


class SweepFile(StudyHead):
    """The `study.json` of a sweep. columns: of the table, with their units."""

    version: str
    workload: str
    axes: list[Annotated[SweepAxis, BeforeValidator(_numeric_axis)]] = Field(min_length=1)
    scenarios: dict[str, SweepScenario] = Field(min_length=1)
    points: int = Field(gt=0)
    columns: dict[str, str | None]

    def dimension_of(self, axis: SweepAxis) -> SweepAxis:
        """Return the axis that represents a dimension of the grid: the first of linked axes."""
        return axis if axis.link is None else next(other for other in self.axes if other.link == axis.link)

    def linked_axes(self, axis: SweepAxis) -> list[SweepAxis]:
        """Return all axes of an axis' dimension of the grid, its representative first."""
        return [other for other in self.axes if self.dimension_of(other) is self.dimension_of(axis)]

    @property
    def dimensions(self) -> list[SweepAxis]:
        """Return one axis for each dimension of the grid."""
        return [axis for axis in self.axes if self.dimension_of(axis) is axis]


RESULT_HINT = "make it with `costmodel simulate WORKLOAD --json > FILE`"
SWEEP_HINT = "make it with `costmodel sweep WORKLOAD --vary … --output DIR`"

Document = TypeVar("Document", bound=BaseModel)


def read_result(path: Path) -> ResultFile:
    """Return a result of `simulate --json`. Raises InputError if the file is another document or incomplete."""
    return validate_output(path, read_json(path, RESULT_HINT), ResultFile, RESULT, RESULT_HINT)


def read_study(path: Path) -> SweepFile:
    """Return the `study.json` of a sweep. Raises InputError if the file is another document or incomplete."""
    return validate_output(path, read_json(path, SWEEP_HINT), SweepFile, SWEEP, SWEEP_HINT)


def read_head(path: Path) -> StudyHead:
    """Return what a `study.json` says of its parts. Raises InputError if the file is another document or incomplete."""
    return validate_output(path, read_json(path, SWEEP_HINT), StudyHead, SWEEP, SWEEP_HINT)


def read_json(path: Path, hint: str, limit: int = MAX_BYTES) -> Any:
    """Return a JSON document of so many bytes at most. Raises InputError if there is none or it is incomplete."""
    try:
        return json.loads(read_data(path, str(path), limit, missing_hint=hint))
    except (ValueError, RecursionError) as error:
        problem = f"not a complete JSON document: {error}" if isinstance(error, ValueError) else "is nested too deeply"
        raise InputError.single(problem, hint=hint, location=Location(str(path))) from None


def validate_output(path: Path, document: Any, model: type[Document], schema: str, hint: str) -> Document:
    """Return a document as its model. Raises InputError if it has another schema or an invalid part."""
    actual = document.get("schema") if isinstance(document, dict) else None
    if actual != schema:
        message = "has no `schema` key" if actual is None else f"is {actual!r}, not {schema}"
        hint = f"this version reads {schema}; update costmodel" if is_newer(actual, schema) else hint
        raise InputError.single(message, hint=hint, location=Location(str(path)))
    return validate_as(path, document, model, hint)


def validate_as(path: Path, document: Any, model: type[Document], hint: str) -> Document:
    """Return a document as its model. Raises InputError on the first invalid part."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError.single(message, field=field, hint=hint, location=Location(str(path))) from None


def is_newer(actual: object, schema: str) -> bool:
    """Tell whether a document has a later version of a schema."""
    kind, _, version = schema.partition("@")
    name, _, other = str(actual).partition("@")
    return name == kind and (whole(other) or 0) > int(version)


# ---- The output of `search`, `sensitivity`, `reproduce` and `topology`, as `report` reads it -------------------------

SEARCH, SENSITIVITY = "costmodel/search@1", "costmodel/sensitivity@1"
HINT = "supported: --json output of simulate, search, sensitivity, reproduce and topology; traces; sweep folders"


class FoundLayout(OutputModel):
    """A layout that a search evaluated."""

    at: dict[str, Any]
    devices: int
    objective: float
    metrics: dict[str, float | None]
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    tied: bool


class FoundScenario(OutputModel):
    """The search results of a scenario. front: best rate per device against rate per user, empty for training."""

    looked_at: int
    feasible: int
    scheduled: int
    best: list[FoundLayout]
    front: list[FoundLayout]
    prices: list[dict[str, Any]] = Field(default_factory=list)


class SearchFile(OutputModel):
    """The output of `search --json`."""

    workload: str
    scenarios: dict[str, FoundScenario] = Field(min_length=1)


class ParameterSensitivity(OutputModel):
    """The sensitivity of a metric to one hardware parameter."""

    path: str
    value: float
    elasticity: float
    low: float
    high: float
    better: float | None
    better_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    saved: float | None
    more: float | None = None
    less: float | None = None
    tied: bool


class SensitivityFile(OutputModel):
    """The output of `sensitivity --json`."""

    workload: str
    metric: str
    unit: str
    scenarios: dict[str, list[ParameterSensitivity]] = Field(min_length=1)


class ReproducedValue(OutputModel):
    """A published value and its prediction. Null where there is none, or where they are not compared."""

    id: str
    publication: str
    case_class: str | None = Field(alias="class")
    metric: str | None
    unit: str | None
    published: float | None
    predicted: float | None
    low: float | None
    high: float | None
    error: float | None
    verdict: str
    state: str | None = None


class ReproducedFile(RootModel[list[ReproducedValue]]):
    """The output of `reproduce --json`."""


class TopologyResult(OutputModel):
    """A topology: its parts, price, diameter and bisection bandwidth."""

    name: str
    endpoints: float
    switches: float
    links: float
    cost: float | None
    cost_per_endpoint: float | None
    diameter: float | None
    bisection_bandwidth: float | None


class TopologiesFile(RootModel[list[TopologyResult]]):
    """The output of `topology --json`."""


Answer: TypeAlias = "ResultFile | SearchFile | SensitivityFile | ReproducedFile | TopologiesFile"


def read_answer(path: Path) -> Answer:
    """Return the output of a command. Raises InputError if it is incomplete, newer, or of another command."""
    named = f"make it with `costmodel simulate {path} --json > {path.name}.json`; "
    document = read_json(path, HINT if path.suffix else f"{named}{HINT}")
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if "verdict" in document[0]:
            return validate_as(path, document, ReproducedFile, "make it with `costmodel reproduce --json > FILE`")
        if "bisection_bandwidth" in document[0]:
            return validate_as(path, document, TopologiesFile, "make it with `costmodel topology --json > FILE`")
    schema = document.get("schema") if isinstance(document, dict) else None
    for known, (model, hint) in _SCHEMAS.items():
        if schema == known or is_newer(schema, known):
            return validate_output(path, document, model, known, hint)
    message = f"is a {schema} file, which `report` cannot draw" if schema else "has no `schema` key"
    raise InputError.single(message, hint=HINT, location=Location(str(path)))


_SCHEMAS: dict[str, tuple[type[ResultFile | SearchFile | SensitivityFile], str]] = {
    RESULT: (ResultFile, RESULT_HINT),
    SEARCH: (SearchFile, "make it with `costmodel search WORKLOAD --json > FILE`"),
    SENSITIVITY: (SensitivityFile, "make it with `costmodel sensitivity WORKLOAD --metric NAME --json > FILE`"),
}
"""Schema -> the model of its documents, and how to make one."""
