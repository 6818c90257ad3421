"""The validation file: required accuracy, causes of misses, and what other tools claim."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from costmodel.declared import Ratio
from costmodel.schema.case import CaseClass, CaseSourceFile
from costmodel.schema.strict import Strict

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
