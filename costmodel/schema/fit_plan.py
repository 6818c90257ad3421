"""The fit plan: which measured rows make which calibration file, and by which recipe each family is fitted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from costmodel.schema.device import Source
from costmodel.schema.quantity import Ratio, Verbatim
from costmodel.schema.strict import Strict


class RecipeFile(Strict):
    """How a family is fitted."""

    form: str = Field(description="the physical form")
    choices: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="what of the form is stated rather than fitted, such as candidate tiles"
    )
    terms: list[str] = Field(default=[], description="further terms of the form, by name")
    beside: str | None = Field(
        default=None, description="`family/variant` of streams in the same rows, which are fitted with it"
    )
    held_out: list[str] = Field(min_length=1, description="columns whose values cross-validation holds out together")


class ImplementationFile(Strict):
    """One calibration file: one kernel library of one framework on one device."""

    name: str = Field(description="of the file, `DEVICE/IMPLEMENTATION`")
    library: str = Field(description="the kernel library, whatever its version or framework")
    device: str = Field(description="the device file, `devices/NAME`")
    frameworks: list[str] = Field(default=[], description="frameworks of the rows, as the tables name them; none: all")
    kernels: list[str] = Field(default=[], description="kernels of the rows, as the tables name them; none: all")
    timings: list[str] = Field(default=[], description="timing methods of the rows; none: all")
    families: dict[str, str] = Field(min_length=1, description="operator family or `family/variant` -> recipe")
    siblings: list[str] = Field(
        default=[], description="implementations of the plan whose rows the forms are fitted to as well, unscored"
    )


class BarFile(Strict):
    """How small the error on unseen rows of some kernels is meant to be."""

    device: str = Field(description="the device file, `devices/NAME`")
    families: list[str] = Field(min_length=1, description="operator families or `family/variant`, taken together")
    bar: Ratio = Field(description="mean absolute relative error that is asked for; the median below 50 rows")
    aim: Ratio = Field(description="the same, better")


class FitPlanFile(Strict):
    """What `python -m costmodel.calibration.fits` makes."""

    name: str = Field(description="name of the plan")
    recipes: dict[str, RecipeFile] = Field(min_length=1, description="recipe name -> recipe")
    defaults: dict[str, str] = Field(default={}, description="operator family or variant -> recipe, for `calibrate`")
    architectures: dict[str, dict[str, str]] = Field(
        default={}, description="architecture of a device -> family or variant -> recipe that stands before the default"
    )
    implementations: list[ImplementationFile] = Field(default=[], description="the calibration files to make")
    bars: list[BarFile] = Field(default=[], description="the errors that are asked for, for reports")
    sources: list[Source] = Field(default=[], description="where choices come from")
