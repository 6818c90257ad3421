"""The output of `search`, `sensitivity`, `reproduce` and `topology`, as `report` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field, RootModel

from costmodel.errors import InputError, Location
from costmodel.schema.results import (
    RESULT,
    RESULT_HINT,
    OutputModel,
    ResultFile,
    is_newer,
    read_json,
    validate_as,
    validate_output,
)

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
    document = read_json(path, HINT)
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
