"""The calibration file: what measurements say about the kernels of one implementation on one device."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from costmodel.schema.device import Source
from costmodel.schema.quantity import Measure, NumberOrZero, Share, Time, Value, wrong
from costmodel.schema.strict import Strict

Ratio = Annotated[Value, Measure("ratio")]
RatioOrZero = Annotated[Value, Measure("ratio", zero=True)]


class SpreadFile(Strict):
    """How measured times scatter about predicted ones near one predicted time."""

    time: Time = Field(description="predicted time that the points hold at; between two of them they are interpolated")
    low: Ratio = Field(description="10 % of the rows lie below: measured over predicted")
    median: Ratio = Field(description="half of the rows lie below")
    high: Ratio = Field(description="90 % of the rows lie below")
    rows: NumberOrZero = Field(description="measured rows behind the points")

    @model_validator(mode="after")
    def _points_are_in_order(self) -> Self:
        points = (self.low, self.median, self.high)
        if all(isinstance(point, float) for point in points) and not self.low <= self.median <= self.high:
            raise wrong(f"{self.low:g}, {self.median:g}, {self.high:g} are not in order", "write low <= median <= high")
        return self


class FamilyFitFile(Strict):
    """One operator family: the share of each peak that its kernels reach, and how far measured times scatter."""

    compute: Share = Field(default=1.0, description="share of the arithmetic and cache peaks")
    memory: Share = Field(default=1.0, description="share of the device memory's bandwidth")
    network: Share = Field(default=1.0, description="share of the links' bandwidth")
    launch: RatioOrZero = Field(default=1.0, description="fixed time over the framework's `launch`")
    spread: list[SpreadFile] = Field(min_length=1, description="measured over predicted times, by predicted time")
    rows: NumberOrZero = Field(description="measured rows behind it")
    note: str | None = Field(default=None, description="what the rows are, and which were left out")


class FitsFile(Strict):
    """Efficiencies of operator families, found by `device` and implementation: `calibrations/DEVICE/IMPLEMENTATION`."""

    name: str = Field(description="name by which results call it")
    device: str | None = Field(description="the device file, `devices/NAME`; null: no device in particular")
    frameworks: list[str] = Field(default=[], description="frameworks and versions that the rows come from")
    kernels: list[str] = Field(default=[], description="kernels that it covers, as the tables name them")
    families: dict[str, FamilyFitFile] = Field(min_length=1, description="operator family -> fit")
    basis: Literal["fitted", "measured", "roofline"] = Field(description="where the efficiencies come from")
    sources: list[Source] = Field(default=[], description="where the values come from")
