"""The physical forms of messages as a calibration file states them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from costmodel.schema.quantity import Bandwidth, Integer, Ratio, Size, Time
from costmodel.schema.strict import Strict


class CollectiveFormFile(Strict):
    """Collectives: a protocol for small messages and one for large ones, over the links of a group."""

    kind: Literal["collective"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    hop: Ratio = Field(description="time of a step of small messages over a link's latency")
    share: Ratio = Field(description="share of the links' bandwidth that small messages get")
    start: Time = Field(description="further fixed time of large messages")
    stride: Ratio = Field(description="time of a step of large messages over a link's latency")
    bulk: Ratio = Field(description="share of the links' bandwidth that large messages get")
    switch: Size = Field(description="size at which one protocol gives way to the other")
    sharpness: Ratio = Field(description="exponent of the size that says how suddenly")
    reduced: Ratio | None = Field(default=None, description="share of the bandwidth where switches add up")
    settle: Time | None = Field(default=None, description="fixed time of large messages where switches add up")
    once: Ratio | None = Field(default=None, description="share of the bandwidth of an all-reduce in one shot")
    twice: Ratio | None = Field(default=None, description="the same in two shots")
    staged: Ratio | None = Field(
        default=None, description="share of the bandwidth that large messages get through the host"
    )
    across: Ratio | None = Field(
        default=None, description="share of the NICs' bandwidth that large messages get between nodes; null: bulk"
    )
    inside: Time | None = Field(
        default=None, description="a step of large messages inside one of several nodes, stated with `between`"
    )
    between: Time | None = Field(
        default=None, description="a step of large messages to another node, the network's latency aside; null: stride"
    )
    level: Time | None = Field(
        default=None, description="a level of a tree over nodes, the network's latency aside, stated with `between`"
    )

    @model_validator(mode="after")
    def _steps_come_together(self) -> Self:
        steps = {"inside": self.inside, "between": self.between, "level": self.level}
        missing = [name for name, value in steps.items() if value is None]
        if missing and len(missing) < len(steps):
            raise ValueError(f"steps between nodes are stated together: {', '.join(missing)} is missing")
        return self


class LowLatencyFormFile(Strict):
    """Exchanges that send a copy to every expert."""

    kind: Literal["low_latency"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    hop: Ratio = Field(description="steps between nodes over the latency there")
    slot: Time = Field(description="fixed time for each expert")
    peer: Time = Field(description="fixed time for each rank")
    token: Time = Field(description="what a token costs its block")
    rate: Bandwidth = Field(description="what a block moves")
    share: Ratio = Field(description="share of the bandwidth inside a node")
    nic: Ratio = Field(description="share of the bandwidth between nodes")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    direct: bool = Field(description="copies inside a node go over its own links, not over the NIC")


class NormalFormFile(Strict):
    """Exchanges that send a copy to every node, which hands it on to ranks."""

    kind: Literal["normal"] = Field(description="this form")
    launch: Time = Field(description="fixed time, notification included")
    hop: Ratio = Field(description="steps between nodes over the latency there")
    peer: Time = Field(description="fixed time for each rank")
    token: Time = Field(description="what a token costs its processor")
    rate: Bandwidth = Field(description="what a processor moves")
    relay: Ratio = Field(description="cost of handing a copy to another node, over that of one to a rank")
    share: Ratio = Field(description="share of the bandwidth inside a node")
    nic: Ratio = Field(description="share of the bandwidth between nodes")
    crowd: Ratio = Field(description="exponent of the nodes by which their fabric slows down")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    processors: Integer = Field(description="processors taken where a scenario holds none for communication")


MESSAGE_FORMS: dict[str, type[Strict]] = {
    "collective": CollectiveFormFile,
    "low_latency": LowLatencyFormFile,
    "normal": NormalFormFile,
}
