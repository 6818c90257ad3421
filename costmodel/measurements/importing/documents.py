"""What documents of other tools have to look like to be read. What they hold besides that is nobody's business here."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from costmodel.errors import Location, MeasurementError, Problem

_Model = TypeVar("_Model", bound="Document")
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SHOWN = 60  # characters of a value in a message


class Document(BaseModel):
    """A mapping whose known keys have their types. Others are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Arguments(Document):
    """Arguments of an event of the PyTorch profiler. external: number of the operator that work belongs to."""

    external: int | None = Field(default=None, alias="External id")
    correlation: int | None = None
    device: int | str | None = None
    dims: list[Any] | None = Field(default=None, alias="Input Dims")
    types: list[Any] | None = Field(default=None, alias="Input type")
    concrete: list[Any] | None = Field(default=None, alias="Concrete Inputs")
    collective: str | None = Field(default=None, alias="Collective name")
    dtype: str | None = None
    sent: int = Field(default=0, alias="In msg nelems")
    received: int = Field(default=0, alias="Out msg nelems")
    ranks: int | None = Field(default=None, alias="Group size")


class Event(Document):
    """An event of a trace. dur: duration [us]."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    dur: Positive = 0.0
    args: dict[str, Any] | None = None


class DeviceProperties(Document):
    """A device that a trace describes."""

    name: str = ""


class NcclDevice(Document):
    """A rank of nccl-tests."""

    hostname: str = ""
    device_info: str = ""


class NcclConfig(Document):
    """The layout of a run of nccl-tests: threads of a process, devices of a thread."""

    nthreads: Annotated[int, Field(ge=1, lt=2**20)] = 1
    ngpus: Annotated[int, Field(ge=1, lt=2**20)] = 1
    devices: list[NcclDevice] = []


class NcclTimes(Document):
    """Times of one size [us]. A test on the CPU's clock has its own key."""

    time: Positive | None = None
    cpu_time: Positive | None = None


class NcclResult(Document):
    """One size of a test [B]."""

    size: Positive
    type: str = ""
    redop: str = ""
    experiment_name: str = ""
    out_of_place: NcclTimes | None = None
    in_place: NcclTimes | None = None


class NcclReport(Document):
    """What nccl-tests writes with `-J`."""

    nccl_version: int | str
    args: list[Any] = []
    config: NcclConfig = NcclConfig()
    results: list[NcclResult]


class ServingBenchmark(Document):
    """What serving benchmarks of vLLM and SGLang write: times in ms, rates a second."""

    model_id: str | None = None
    model: str | None = None
    mean_ttft_ms: Positive | None = None
    median_ttft_ms: Positive | None = None
    mean_tpot_ms: Positive | None = None
    median_tpot_ms: Positive | None = None
    mean_e2el_ms: Positive | None = None
    mean_e2e_latency_ms: Positive | None = None
    output_throughput: Positive | None = None
    output_token_throughput: Positive | None = None
    request_throughput: Positive | None = None
    input_throughput: Positive | None = None
    concurrency: Positive | None = None
    max_concurrency: Positive | None = None
    request_rate: float | str | None = None
    completed: Positive | None = None
    total_input_tokens: Positive | None = None
    total_output_tokens: Positive | None = None


class Average(Document):
    """A metric of genai-perf or AIPerf."""

    unit: str
    avg: Positive


def checked(model: type[_Model], value: Any, shown: str, where: str = "") -> _Model:
    """Return a value as a model. Raises MeasurementError at the first part of it that is not as it must be.

    shown: the file, as in messages.
    where: path of the value in it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        message = f"{_shortened(first['input'])} {first['msg'].replace('Input should', 'should')}"
        if first["type"] == "missing":
            message = "is missing"
        elif first["type"] == "model_type":
            message = f"{_shortened(first['input'])} should be a mapping"
        raise MeasurementError(
            [Problem(Location(shown), path.lstrip("."), message, "write the file again: it may be cut off")]
        ) from None


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
