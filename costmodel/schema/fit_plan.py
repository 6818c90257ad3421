"""The fit plan: which measured rows make which calibration file, and by which recipe each family is fitted. And
which terms of frameworks are fitted to published figures of whole runs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import Parameter, declarations
from costmodel.declared import Integer, LoadFactor, Ratio, Verbatim, Wrong
from costmodel.errors import suggest
from costmodel.schema.calibration import UNTUNED, FamilyKey
from costmodel.schema.case import CaseClass
from costmodel.schema.device import Source
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.strict import Strict, number_at

FRAMEWORK = "framework."  # what the path of a term begins with


class RecipeFile(Strict):
    """How a family is fitted."""

    form: str = Field(description="the physical form")
    constants: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="what of the form is stated rather than fitted, such as candidate tiles"
    )
    terms: list[str] = Field(default=[], description="further terms of the form, by name")
    companion: str | None = Field(
        default=None, description="`family/variant` of streams in the same rows, which are fitted with it"
    )
    fewest: Integer | None = Field(default=None, description="rows below which nothing is fitted; null: 20")
    held_out: list[str] = Field(min_length=1, description="columns whose values cross-validation holds out together")

    def _check_form(self) -> None:
        if self.form not in FORMS:
            raise Wrong(f"unknown form {self.form!r}", suggest(self.form, list(FORMS)))
        known = declarations(FORMS[self.form])
        for name in self.constants:
            if name not in known:
                raise Wrong(f"`{self.form}` has no constant `{name}`", suggest(name, list(known)))
        terms = {each.term for each in known.values() if each.term and isinstance(each.kind, Parameter)}
        for term in self.terms:
            if term not in terms:
                raise Wrong(f"`{self.form}` has no term `{term}`", f"available: {', '.join(sorted(terms)) or 'none'}")


class ImplementationFile(Strict):
    """One calibration file: one kernel library of one framework on one device."""

    name: str = Field(description="of the file, `DEVICE/IMPLEMENTATION`")
    library: str = Field(description="the kernel library, whatever its version or framework")
    device: str = Field(description="the device file, `devices/NAME`")
    frameworks: list[str] = Field(default=[], description="frameworks of the rows, as the tables name them; none: all")
    kernels: list[str] = Field(default=[], description="kernels of the rows, as the tables name them; none: all")
    timings: list[str] = Field(default=[], description="timing methods of the rows; none: all")
    without_head_dims: list[Integer] = Field(
        default=[], description="sizes of attention heads that other kernels run under the same name"
    )
    without_sub_ops: list[str] = Field(
        default=[], description="kinds of rows (`sub_op`) that other kernels run under the same name"
    )
    families: dict[FamilyKey, str] = Field(min_length=1, description="operator family or `family/variant` -> recipe")
    untuned: list[FamilyKey] = Field(default=[], description=UNTUNED)
    siblings: list[str] = Field(
        default=[], description="implementations of the plan whose rows the forms are fitted to as well, unscored"
    )


class BarFile(Strict):
    """How small the error on unseen rows of some kernels is meant to be."""

    device: str = Field(description="the device file, `devices/NAME`")
    families: list[FamilyKey] = Field(min_length=1, description="operator families or `family/variant`, taken together")
    implementations: list[str] = Field(default=[], description="those alone, as calibration files are named; none: all")
    bar: Ratio = Field(description="mean absolute relative error that is asked for; the median below 50 rows")
    aim: Ratio = Field(description="the same, better")


class PriorFile(Strict):
    """What is known of a term beside whole runs: a value, and by which factor it may well be off either way."""

    value: Annotated[Any, Verbatim()] = Field(description="in the unit of the field")
    factor: LoadFactor = Field(description="one standard deviation of its logarithm, as a factor over 1")
    cite: str = Field(description="where both come from")


class TermFile(Strict):
    """A number of frameworks that no kernel measurement gives: it is fitted to published figures of whole runs."""

    path: str = Field(description="path of the number in a scenario, such as `framework.launch`")
    bounds: list[Annotated[Any, Verbatim()]] = Field(
        min_length=2, max_length=2, description="least and greatest value, in the unit of the field"
    )
    frameworks: list[str] = Field(min_length=1, description="frameworks that share the value")
    classes: list[CaseClass] = Field(min_length=1, description="classes of the cases that it is fitted to")
    publications: list[str] = Field(
        min_length=1, description="publications that it rests on; of fewer than two the framework's value stands"
    )
    prior: PriorFile | None = Field(default=None, description="what holds it where whole runs do not; null: no effect")

    @property
    def known(self) -> tuple[float, float] | None:
        """Return the prior's value in SI and its factor, null where there is none."""
        if self.prior is None:
            return None
        return self._in_si(self.prior.value), float(self.prior.factor)

    def _in_si(self, value: object) -> float:
        number = number_at(FrameworkFile, self.path.removeprefix(FRAMEWORK).split("."))
        assert number is not None, "checked when it was read"
        return float(number.check(value))

    @property
    def span(self) -> tuple[float, float]:
        """Return the bounds in SI."""
        low, high = (self._in_si(bound) for bound in self.bounds)
        return low, high

    def _check_number(self) -> None:
        stated = self.path.startswith(FRAMEWORK)
        if not stated or number_at(FrameworkFile, self.path.removeprefix(FRAMEWORK).split(".")) is None:
            raise Wrong(f"{self.path!r} is no number of a framework", "write one like `framework.launch`")
        low, high = self.span
        if not low < high:
            raise Wrong("the bounds enclose nothing", "write the lower bound first")
        if len(set(self.publications)) < len(self.publications):
            raise Wrong("a publication stands twice", "name at least two different ones")
        if self.known is not None and not (0.0 < low <= self.known[0] <= high and self.known[1] > 1.0):
            hint = "write a value between bounds above zero, and a factor above 1"
            raise Wrong("the prior is outside the bounds or has no spread", hint)


class FitPlanFile(Strict):
    """What `python -m reports.fits.kernels` makes, and what `python -m reports.fits.frameworks` fits."""

    name: str = Field(description="name of the plan")
    recipes: dict[str, RecipeFile] = Field(default={}, description="recipe name -> recipe")
    defaults: dict[FamilyKey, str] = Field(
        default={}, description="operator family or variant -> recipe, for `calibrate`"
    )
    architectures: dict[str, dict[FamilyKey, str]] = Field(
        default={}, description="architecture of a device -> family or variant -> recipe that stands before the default"
    )
    implementations: list[ImplementationFile] = Field(default=[], description="the calibration files to make")
    bars: list[BarFile] = Field(default=[], description="the errors that are asked for, for reports")
    terms: list[TermFile] = Field(default=[], description="numbers of frameworks that whole runs are fitted by")
    refits: str | None = Field(
        default=None, description="JSON file beside this one with the terms fitted without each publication"
    )
    run_refits: str | None = Field(
        default=None, description="JSON file beside this one with the scatter of whole runs without each publication"
    )
    sources: list[Source] = Field(default=[], description="where choices come from")

    def _check_terms(self) -> None:
        message: set[tuple[str, str]] = set()
        for term in self.terms:
            pairs = {(term.path, framework) for framework in term.frameworks}
            if message & pairs:
                raise Wrong(f"{term.path} of {min(message & pairs)[1]} is fitted twice", "write one term of it")
            message |= pairs
