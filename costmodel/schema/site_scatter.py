"""The file of how runs of a site scatter about predictions: `calibrations/site_scatter`."""

from typing import Annotated

from pydantic import Field

from costmodel.declared import Measure, NumberOrZero, Ratio, ShareOrZero, Wrong
from costmodel.quantities import Quantity
from costmodel.schema.device import Source
from costmodel.schema.strict import Strict


class ScatterFile(Strict):
    """How alike errors of runs are, shares of the variance of log(measured / predicted time). The rest is own."""

    site: ShareOrZero = Field(description="share that all runs of one framework on one cluster have in common")
    alike: ShareOrZero = Field(description="share that runs have in common the more, the more alike they are")
    repeat: Ratio = Field(description="standard deviation of log time between repetitions of one run")
    length: Ratio = Field(description="distance in size at which runs are hardly alike, in factors of e")
    kinds: Annotated[Quantity, Measure("ratio", zero=True)] = Field(
        description="distance between runs of other number formats or recomputation, or of servers whose requests come "
        "by themselves and where others end, in lengths"
    )
    passes: Annotated[Quantity, Measure("ratio", zero=True)] = Field(
        default=0.0, description="likewise between passes with prompts and those of decoding"
    )
    rows: NumberOrZero = Field(description="published figures behind it")
    publications: NumberOrZero = Field(description="publications behind it")

    def _check_shares(self) -> None:
        if isinstance(self.site, float) and isinstance(self.alike, float) and self.site + self.alike > 1.0:
            raise Wrong(f"site {self.site:g} and alike {self.alike:g} are more than a whole", "write site + alike <= 1")


class SiteScatterFile(Strict):
    """How runs of a site scatter about predictions: what measured steps of the site say of others."""

    name: str = Field(description="name in references")
    training: ScatterFile = Field(description="of training steps")
    inference: ScatterFile = Field(description="of passes and batches: prefill, decode, generate")
    serving: ScatterFile = Field(description="of servers")
    sources: list[Source] = Field(default=[], description="where the values come from")
