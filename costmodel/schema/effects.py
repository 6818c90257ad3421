"""The file of how errors of fits go together: `calibrations/effects`."""

from typing import Annotated

from pydantic import Field

from costmodel.declared import Measure
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
