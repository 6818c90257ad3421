"""The validation file: which errors are asked for, why figures are missed, and what other tools say of themselves."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from costmodel.schema.case import CaseClass, CaseSourceFile
from costmodel.schema.quantity import Ratio
from costmodel.schema.strict import Strict

Statistic: TypeAlias = Literal["mean", "median", "worst", "inside", "half_width"]


class ValueSelectionFile(Strict):
    """Some published figures: those that meet every condition."""

    classes: list[CaseClass] = Field(default=[], description="classes of their cases; none: all")
    publications: list[str] = Field(default=[], description="their publications; none: all")
    cases: list[str] = Field(default=[], description="ids of their cases, `*` for any text; none: all")
    metrics: list[str] = Field(default=[], description="their metrics, `*` for any text; none: all")


class AccuracyTargetFile(Strict):
    """What is asked of some figures together."""

    name: str = Field(description="the figures in a few words")
    figures: ValueSelectionFile = Field(description="the figures")
    statistic: Statistic = Field(
        description="mean, median or worst: of the absolute relative errors; inside: share of figures in their 80 % "
        "intervals; half_width: median half width of these over the median absolute error"
    )
    bar: Ratio = Field(description="the most that is allowed, for `inside` the least")


class RemarkFile(Strict):
    """What is known of some figures."""

    figures: ValueSelectionFile = Field(description="the figures")
    text: str = Field(description="a sentence or two")
    source: CaseSourceFile | None = Field(default=None, description="where that is known from")


class ToolFile(Strict):
    """What another tool states of its own accuracy."""

    tool: str = Field(description="name of the tool")
    compared: str = Field(description="with which figures it was compared")
    error: str = Field(description="the error as stated")
    source: CaseSourceFile = Field(description="where it is stated")


class ValidationFile(Strict):
    """What `python -m reports.validation` says beside the figures that it computes."""

    name: str = Field(description="name of the file")
    bars: list[AccuracyTargetFile] = Field(default=[], description="the errors that are asked for")
    in_sample: list[RemarkFile] = Field(
        default=[], description="values that a fit behind their prediction rests on, and which: no measure of accuracy"
    )
    causes: list[RemarkFile] = Field(default=[], description="why figures are missed")
    discrepancies: list[RemarkFile] = Field(default=[], description="what in the publications themselves is at odds")
    tools: list[ToolFile] = Field(default=[], description="other tools, for comparison")
