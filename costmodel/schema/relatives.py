"""The file of what rows of a device say of a relative's fits: `calibrations/relatives`."""

from pydantic import Field

from costmodel.declared import NumberOrZero, Ratio
from costmodel.schema.device import Source
from costmodel.schema.strict import Strict


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
