"""The calibration file: what measurements say about the kernels of one implementation on one device."""

from __future__ import annotations

import functools
import operator
import typing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import UNSET
from pydantic import AfterValidator, Field, create_model

from costmodel import quantities
from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import Constant, Declaration, declarations
from costmodel.declared import Integer, Measure, NumberOrZero, Ratio, Share, Time, Wrong
from costmodel.quantities import Quantity
from costmodel.schema.device import Source
from costmodel.schema.references import is_name
from costmodel.schema.strict import Strict

_PLAIN_UNITS = ("1", "count", "s", "B", "B/s")  # no number that stands bare has to name these
_Tile = Annotated[list[Integer], Field(min_length=2, max_length=2)]


class _FormFile(Strict):
    """A form with its parameters and constants side by side."""

    form: ClassVar[type]

    def _check_mechanisms(self) -> None:
        """Raise what is wrong where some keys of a mechanism are stated, but not all that it needs."""
        needed: dict[str, dict[str, bool]] = {}
        for each in declarations(self.form).values():
            if each.mechanism and each.default is UNSET:
                needed.setdefault(each.mechanism, {})[each.name] = getattr(self, each.name) is not None
        for stated in needed.values():
            missing = [name for name, is_stated in stated.items() if not is_stated]
            if missing and len(missing) < len(stated):
                names = ", ".join(stated)
                raise Wrong(f"{names} are stated together: {', '.join(missing)} is missing", "state all, or none")


def _model(kind: str, form: type) -> type[Strict]:
    fields: dict[str, Any] = {name: _field(each) for name, each in declarations(form).items()}
    summary = (form.__doc__ or "").split("\n\n")[0]
    tag: Any = (Literal[kind], Field(description="this form"))
    model = create_model(f"{form.__name__}File", __base__=_FormFile, __doc__=summary, kind=tag, **fields)
    model.form = form
    return model


def _field(declaration: Declaration) -> tuple[Any, Any]:
    kind, default = declaration.kind, declaration.default
    unit = "" if kind.unit in _PLAIN_UNITS or not kind.unit else f" [{kind.unit}]"
    described: dict[str, Any] = {"description": kind.meaning + unit}
    type_ = _type(declaration)
    if declaration.is_required:
        return type_, Field(**described)
    if isinstance(default, str) or default == ():
        return type_, Field(default=list(default) if default == () else default, **described)
    return type_ | None, Field(default=None, **described)


@functools.cache
def _type_hints(form: type) -> dict[str, Any]:
    return typing.get_type_hints(form, localns=vars(quantities))


def _type(declaration: Declaration) -> Any:
    kind = declaration.kind
    if isinstance(kind, Constant) and kind.unit == "count":
        return Integer
    if kind.dimension is not None:
        return Annotated[Quantity, Measure(kind.dimension)]
    annotation = _type_hints(declaration.owner)[declaration.path[-1]]
    if typing.get_origin(annotation) is not tuple:
        return annotation  # a truth value, or one of some words
    parts = typing.get_args(annotation)
    if parts == (int, int):
        return _Tile
    entries: Any = list[Integer] if parts[0] is int else list[_Tile]
    return Annotated[entries, Field(min_length=1)] if declaration.is_required else entries


FORM_FILES: dict[str, type[Strict]] = {kind: _model(kind, form) for kind, form in FORMS.items()}

if TYPE_CHECKING:

    class FormFile(Strict):
        """Any of the forms."""

        kind: str
else:
    FormFile = Annotated[functools.reduce(operator.or_, FORM_FILES.values()), Field(discriminator="kind")]


def _a_name(name: str) -> str:
    if not all(map(is_name, name.split("/"))):
        raise Wrong(f"{name!r} is no name of a file", "write `DEVICE/IMPLEMENTATION`")
    return name


FamilyKey = str  # `family` or `family/variant`
Signed = Annotated[Quantity, Measure("ratio", low=-1.0)]
RatioOrZero = Annotated[Quantity, Measure("ratio", zero=True)]


class SpreadFile(Strict):
    """How measured times scatter about predicted ones near one predicted time."""

    time: Time = Field(description="predicted time that the points hold at; between two of them they are interpolated")
    low: Ratio = Field(description="10 % of the rows lie below: measured over predicted")
    median: Ratio = Field(description="half of the rows lie below")
    high: Ratio = Field(description="90 % of the rows lie below")
    rows: NumberOrZero = Field(description="measured rows behind the points")

    def _check_order(self) -> None:
        points = (self.low, self.median, self.high)
        if all(isinstance(point, float) for point in points) and not self.low <= self.median <= self.high:
            raise Wrong(f"{self.low:g}, {self.median:g}, {self.high:g} are not in order", "write low <= median <= high")


UNTUNED = "families that ran in the configuration which their library falls back to where nothing tuned it"


class AccuracyFile(Strict):
    """Mean absolute relative errors on rows that the fit had not seen: whole groups of rows are held out together."""

    held_out: str = Field(description="what the rows of a group share")
    groups: NumberOrZero = Field(description="how many groups there are")
    roofline: RatioOrZero = Field(description="of the bare roofline")
    shape_only: RatioOrZero = Field(description="of a smooth function of the shape alone")
    form: RatioOrZero = Field(description="of the physical form")
    residual: RatioOrZero = Field(description="of the form with its residual, which is what times are made of")
    median: RatioOrZero = Field(description="the median of these errors in place of the mean")
    median_low: RatioOrZero | None = Field(
        default=None, description="lower end of the median's 80 % interval, of fewer than 50 rows"
    )
    median_high: RatioOrZero | None = Field(default=None, description="upper end")
    bias: Signed = Field(description="median of predicted over measured time, less one")
    coverage: RatioOrZero | None = Field(default=None, description="share of these rows within their 80 % intervals")
    half_width: RatioOrZero | None = Field(
        default=None, description="median of half an interval of these rows over the predicted time"
    )
    near_median: RatioOrZero | None = Field(
        default=None, description="median error where single shapes are held out, so that their groups are known"
    )


class NearnessFile(Strict):
    """How much narrower the spread is near the support points: single shapes held out, against whole groups of them."""

    near: RatioOrZero = Field(description="distance to the nearest support up to which it is narrowest, in lengths")
    far: RatioOrZero = Field(description="distance from which on it is the spread as stated, in lengths")
    share: Ratio = Field(description="width of the spread at `near`, over that at `far`")

    def _check_distances(self) -> None:
        if isinstance(self.near, float) and isinstance(self.far, float) and not self.near < self.far:
            raise Wrong(f"near {self.near:g} is not below far {self.far:g}", "write near < far")


class FamilyFitFile(Strict):
    """One operator family, or `family/variant`: how its kernels use the device, and how far measured times scatter.

    Either a `form` with its evidence, or shares of the roofline's peaks.
    """

    form: FormFile | None = Field(default=None, description="the fitted form; null: shares of the roofline's peaks")
    errors: dict[str, RatioOrZero | None] = Field(
        default={}, description="relative standard errors of the form's parameters; null: the rows do not determine it"
    )
    domain: dict[str, Annotated[list[Ratio], Field(min_length=2, max_length=2)]] = Field(
        default={}, description="axis of the shape -> smallest and largest measured size"
    )
    radius: Ratio | None = Field(default=None, description="of `measured` shapes about a support point, in lengths")
    accuracy: AccuracyFile | None = Field(default=None, description="cross-validated errors")
    compute_efficiency: Share = Field(default=1.0, description="share of the arithmetic and cache peaks")
    hbm_efficiency: Share = Field(default=1.0, description="share of the device memory's bandwidth")
    network_efficiency: Share = Field(default=1.0, description="share of the links' bandwidth")
    launch_factor: RatioOrZero = Field(default=1.0, description="fixed time over the framework's `launch`")
    backward_rate: Share = Field(default=1.0, description="of backward attention: rate over the forward kernels'")
    extra_keys_per_query: NumberOrZero = Field(
        default=0.0, description="of backward attention: keys that a query costs beside those that it sees"
    )
    spread: list[SpreadFile] = Field(min_length=1, description="measured over predicted times, by predicted time")
    nearness: NearnessFile | None = Field(
        default=None, description="how much narrower the spread is near the support points; null: not at all"
    )
    rows: NumberOrZero = Field(description="measured rows behind it")
    note: str | None = Field(default=None, description="what the rows are, and which were left out")


class FitsFile(Strict):
    """Efficiencies of operator families by `device` and implementation: `calibrations/DEVICE/IMPLEMENTATION`."""

    name: Annotated[str, AfterValidator(_a_name)] = Field(
        description="`DEVICE/IMPLEMENTATION`, as the file is found: results and other fits call it so"
    )
    device: str | None = Field(description="the device file, `devices/NAME`; null: no device in particular")
    frameworks: list[str] = Field(default=[], description="frameworks and versions that the rows come from")
    kernels: list[str] = Field(default=[], description="kernels that it covers, as the tables name them")
    timings: list[str] = Field(default=[], description="timing methods of the rows, as the tables name them")
    library: str | None = Field(default=None, description="the kernel library, whatever its version or framework")
    untuned: list[FamilyKey] = Field(default=[], description=UNTUNED)
    residuals: str | None = Field(default=None, description="JSON file beside this one with the families' residuals")
    families: dict[FamilyKey, FamilyFitFile] = Field(min_length=1, description="operator family -> fit")
    basis: Literal["fitted", "measured", "roofline"] = Field(description="where the efficiencies come from")
    sources: list[Source] = Field(default=[], description="where the values come from")


class KernelAnchorsFile(Strict):
    """How errors of one fit at two kernels of a device go together, as shares of their variance that add up to one."""

    name: str = Field(description="name in references")
    common: RatioOrZero = Field(description="what all kernels of a family share on a device")
    launch: RatioOrZero = Field(description="what those share that take a launch's time")
    compute: RatioOrZero = Field(description="what those share that arithmetic bounds")
    memory: RatioOrZero = Field(description="what those share that device memory bounds")
    own: RatioOrZero = Field(description="what a kernel shares with none but itself")
    rows: NumberOrZero = Field(description="measured rows behind it")
    groups: NumberOrZero = Field(description="families of implementations behind it")
    sources: list[Source] = Field(default=[], description="where the values come from")


# ---- The files of how errors of fits go together, and of what rows of a device say of a relative's fits --------------

Effect = Annotated[Quantity, Measure("ratio", zero=True)]


class FamilyEffectsFile(Strict):
    """What kernels of a family do not share: halves of 80 % intervals of log(measured / predicted)."""

    twin: Effect | None = Field(
        default=None, description="of another device of the die with as many processors at one peak and power"
    )
    die: Effect | None = Field(default=None, description="of any other device of the die")
    rebalanced: Effect | None = Field(
        default=None, description="of a device of the die with another balance of peak and bandwidth"
    )
    refresh: Effect | None = Field(default=None, description="of a device whose die is another one of the same size")
    architecture: Effect | None = Field(default=None, description="of a device of another die of the architecture")
    other: Effect | None = Field(default=None, description="of a device of another architecture")
    generation: Effect | None = Field(
        default=None,
        description="of a device of an architecture without fits, beside its distance to those that have some",
    )
    build: Effect | None = Field(default=None, description="of another build of the library")
    tuned: Effect | None = Field(
        default=None, description="of another build, at layers with tiles that were tuned; null: as at others"
    )
    library: Effect | None = Field(default=None, description="of another library")
    unseen: Effect | None = Field(default=None, description="of a group of shapes that no fit saw")
    beyond: Effect | None = Field(default=None, description="of each octave outside the measured sizes")


class EffectsFile(Strict):
    """How errors of fits go together: what kernels of other devices, builds, libraries and shapes do not share."""

    name: str = Field(description="name in references")
    families: dict[str, FamilyEffectsFile] = Field(
        min_length=1, description="operator family or `any` -> its effects; null: those of `any`"
    )
    sources: list[Source] = Field(default=[], description="where the values come from")


# ---- The file of what rows of a device say of a relative's fits: `calibrations/relatives` ----------------------------


class RelativeFitFile(Strict):
    """How much longer kernels take than a relative's fit says, by what bounds them."""

    launch: Ratio = Field(description="measured over predicted time of kernels that only launch")
    compute: Ratio = Field(description="of those that arithmetic bounds")
    memory: Ratio = Field(description="of those that device memory bounds")
    half_width: Ratio = Field(description="half of the 80 % interval of log(measured / predicted) of rows left out")
    rows: NumberOrZero = Field(description="measured rows behind it")


class RelativeFile(Strict):
    """What rows of a device say of the fits of the device that it inherits from."""

    of: str = Field(description="the device whose fits it takes")
    fits: dict[str, dict[str, RelativeFitFile]] = Field(
        min_length=1, description="implementation of that device -> `family/variant` -> factors"
    )


class RelativesFile(Strict):
    """Fits that devices take from a relative, as their own rows move them."""

    name: str = Field(description="name in references")
    devices: dict[str, RelativeFile] = Field(min_length=1, description="device -> what its rows say")
    sources: list[Source] = Field(default=[], description="where the values come from")
