"""The documents that `simulate --json` and `sweep` write, as other commands read them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from costmodel.errors import InputError, Location
from costmodel.schema.loader import MAX_BYTES, read_data
from costmodel.units import DIMENSIONS

RESULT, SWEEP = "costmodel/result@1", "costmodel/sweep@1"


class OutputModel(BaseModel):
    """A part of a document that a program wrote: exact types, finite numbers; keys that are not read may be added."""

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
    """What the fullest device holds, and whether the scenario runs."""

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
    """What a device keeps in its host's memory."""

    tensors: float
    kv_cache: float


class MemoryLevelResult(OutputModel):
    """One level of a device's memory."""

    name: str
    capacity: float
    bandwidth: float | None = Field(gt=0.0)


class HardwareResult(OutputModel):
    """What the device offers."""

    device: str
    processors: float
    peaks: dict[str, float]
    memory: list[MemoryLevelResult]


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
        raise ValueError(f"{dimension!r} is no dimension")
    return dimension


def _sized(value: Any) -> Any:
    """Return an axis of numbers; raise an error for one of names, along which nothing can be drawn."""
    if isinstance(value, dict) and value.get("dimension", "") is None:
        text = f"{value.get('path')} has names for values, and makes no grid: read the table's parts"
        raise PydanticCustomError("costmodel", "{text}", {"text": text})
    return value


class SweepAxis(OutputModel):
    """One axis of a sweep; its values in SI. link: axes of one number vary together; null: it varies by itself."""

    path: str
    dimension: Annotated[str, AfterValidator(_known)]
    unit: str
    values: list[float] = Field(min_length=1)
    link: int | None = None


class SweepScenario(OutputModel):
    """One scenario of a sweep. headline: the metric whose interval the table holds."""

    phase: str
    headline: str


class SweepFile(OutputModel):
    """What a sweep asked, as its `study.json` holds it. columns: of the table, with their units; form: of its parts."""

    version: str
    workload: str
    axes: list[Annotated[SweepAxis, BeforeValidator(_sized)]] = Field(min_length=1)
    scenarios: dict[str, SweepScenario] = Field(min_length=1)
    points: int = Field(gt=0)
    columns: dict[str, str | None]
    form: Literal["csv", "parquet"]
    parts: int = Field(gt=0, le=10**7)

    def dimension_of(self, axis: SweepAxis) -> SweepAxis:
        """Return the axis that stands for a dimension of the grid: of axes that vary together the first."""
        return axis if axis.link is None else next(each for each in self.axes if each.link == axis.link)

    def linked_axes(self, axis: SweepAxis) -> list[SweepAxis]:
        """Return the axes that make a dimension of the grid together, the one that stands for it first."""
        return [each for each in self.axes if self.dimension_of(each) is self.dimension_of(axis)]

    @property
    def dimensions(self) -> list[SweepAxis]:
        """Return the axes that stand for the dimensions of the grid."""
        return [axis for axis in self.axes if self.dimension_of(axis) is axis]


RESULT_HINT = "make it with `costmodel simulate WORKLOAD --json > FILE`"
SWEEP_HINT = "make it with `costmodel sweep WORKLOAD --vary … --output DIR`"

Document = TypeVar("Document", bound=BaseModel)


def read_result(path: Path) -> ResultFile:
    """Return a result that `simulate --json` printed into a file; raise InputError where it is none, or not whole."""
    return validate_output(path, read_json(path, RESULT_HINT), ResultFile, RESULT, RESULT_HINT)


def read_study(path: Path) -> SweepFile:
    """Return what a sweep asked; raise InputError where the file is no sweep's, or not whole."""
    return validate_output(path, read_json(path, SWEEP_HINT), SweepFile, SWEEP, SWEEP_HINT)


def read_json(path: Path, hint: str) -> Any:
    """Return a JSON document; raise InputError where there is none, or not a whole one."""
    place = Location(str(path))
    try:
        return json.loads(read_data(path, str(path), MAX_BYTES, absent=hint))
    except (ValueError, RecursionError) as error:
        message = f"is no complete JSON document: {error}" if isinstance(error, ValueError) else "is nested too deeply"
        raise InputError.single(message, hint=hint, location=place) from None


def validate_output(path: Path, document: Any, model: type[Document], schema: str, hint: str) -> Document:
    """Return a document as its model; raise InputError where it is of another schema, or a part is wrong."""
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        told = "does not say what it is" if found is None else f"is {found!r}, not {schema}"
        newer = is_newer(found, schema)
        hint = f"this costmodel reads {schema}: bring it up to date" if newer else hint
        raise InputError.single(told, hint=hint, location=Location(str(path)))
    return validate_as(path, document, model, hint)


def validate_as(path: Path, document: Any, model: type[Document], hint: str) -> Document:
    """Return a document as its model; raise InputError on the first part that is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError.single(
            first["msg"][:1].lower() + first["msg"][1:], field=field, hint=hint, location=Location(str(path))
        ) from None


def is_newer(found: object, schema: str) -> bool:
    """Tell whether a document is of a later version of a schema."""
    kind, _, version = schema.partition("@")
    name, _, other = str(found).partition("@")
    return name == kind and other.isdecimal() and int(other) > int(version)
