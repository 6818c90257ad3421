"""The documents of `search`, `sensitivity`, `reproduce` and `topology`, as `report` reads them back."""

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
HINT = (
    "known are the results of simulate --json, search --json, sensitivity --json, reproduce --json, topology --json, "
    "traces, and the folder of a sweep"
)


class FoundLayout(OutputModel):
    """A layout that a search evaluated."""

    at: dict[str, Any]
    devices: int
    objective: float
    metrics: dict[str, float | None]
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    tied: bool


class FoundScenario(OutputModel):
    """What a search found for a scenario. front: best rates of a device against rates of a user; none of training."""

    looked_at: int
    feasible: int
    scheduled: int
    best: list[FoundLayout]
    front: list[FoundLayout]


class SearchFile(OutputModel):
    """What `search --json` prints."""

    workload: str
    scenarios: dict[str, FoundScenario] = Field(min_length=1)


class ParameterSensitivity(OutputModel):
    """How a metric follows one parameter of the hardware."""

    path: str
    value: float
    elasticity: float
    low: float
    high: float
    better: float | None
    better_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    saved: float | None
    tied: bool


class SensitivityFile(OutputModel):
    """What `sensitivity --json` prints."""

    workload: str
    metric: str
    unit: str
    scenarios: dict[str, list[ParameterSensitivity]] = Field(min_length=1)


class ReproducedValue(OutputModel):
    """A published figure beside a prediction; null where it has none, or is not compared."""

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


class ReproducedFile(RootModel[list[ReproducedValue]]):
    """What `reproduce --json` prints."""


class TopologyResult(OutputModel):
    """A fabric: its parts, its price, how far apart its endpoints are."""

    name: str
    endpoints: float
    switches: float
    links: float
    cost: float | None
    cost_per_endpoint: float | None
    diameter: float | None
    bisection_bandwidth: float | None


class TopologiesFile(RootModel[list[TopologyResult]]):
    """What `topology --json` prints."""


Answer: TypeAlias = "ResultFile | SearchFile | SensitivityFile | ReproducedFile | TopologiesFile"


def read_answer(path: Path) -> Answer:
    """Return a document that a command printed; raise InputError where it is cut off, newer, or of another command."""
    document = read_json(path, HINT)
    if isinstance(document, list) and document and isinstance(document[0], dict):
        if "verdict" in document[0]:
            return validate_as(path, document, ReproducedFile, "make it with `costmodel reproduce --json > FILE`")
        if "bisection_bandwidth" in document[0]:
            return validate_as(path, document, TopologiesFile, "make it with `costmodel topology --json > FILE`")
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == SEARCH:
        return validate_output(
            path, document, SearchFile, SEARCH, "make it with `costmodel search WORKLOAD --json > FILE`"
        )
    if schema == SENSITIVITY:
        hint = "make it with `costmodel sensitivity WORKLOAD --metric NAME --json > FILE`"
        return validate_output(path, document, SensitivityFile, SENSITIVITY, hint)
    if schema == RESULT or any(is_newer(schema, known) for known in (RESULT, SEARCH, SENSITIVITY)):
        known = next((each for each in (SEARCH, SENSITIVITY) if is_newer(schema, each)), RESULT)
        return validate_output(path, document, ResultFile, known, RESULT_HINT)
    told = f"is {schema!r}, of which there are no figures" if schema else "does not say what it is"
    raise InputError.single(told, hint=HINT, location=Location(str(path)))
