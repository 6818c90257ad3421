"""The file of how runs of a site scatter about predictions: `calibrations/site_scatter`."""

from pydantic import Field

from costmodel.declared import NumberOrZero, Wrong
from costmodel.schema.device import Source
from costmodel.schema.records import Declared
from costmodel.schema.strict import Strict
from costmodel.workload.site_scatter import SiteScatter


class ScatterFile(Declared, of=SiteScatter):
    """How alike errors of runs are, shares of the variance of log(measured / predicted time). The rest is own."""

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
