"""The files of how errors of fits go together, and of what rows of a device say of a relative's fits."""

from typing import Annotated

from pydantic import Field

from costmodel.declared import Measure, NumberOrZero, Ratio
from costmodel.quantities import Quantity
from costmodel.schema.device import Source
from costmodel.schema.strict import Strict

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
