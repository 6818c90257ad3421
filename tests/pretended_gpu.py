"""A pretended H100: kernels take the time of their roofline on a clock that nothing waits for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from costmodel.profiling.board_log import BoardLog
from costmodel.profiling.device_file import Facts
from costmodel.profiling.shapes import Shape
from costmodel.profiling.timing import Series, Timing

H100 = Facts(
    product="Pretended H100", architecture="sm90", processors=132, clock=1.98e9, clock_max=1.98e9, memory=80 * 2**30,
    cache=50 * 2**20, driver="580.1", link="pcie", power=700.0,
)  # fmt: skip
PEAKS = {
    "bf16": 800e12,
    "fp16": 800e12,
    "fp32": 50e12,
    "fp8_e4m3": 1500e12,
    "fp8_e4m3_blk128": 1300e12,
    "nvfp4": 3000e12,
}
BANDWIDTH = 3e12
FLOOR = 2e-6
PLAN = 0.5  # seconds that cuDNN needs to build a plan
HOST = 2e-3  # seconds of the host for all else that a row needs
QUEUE = 5e-5  # seconds of the delay in which the host queues a call


@dataclass
class Clock:
    """Seconds that have passed without anybody waiting."""

    seconds: float = 0.0


@dataclass
class Watch:
    """Passes the time of each call."""

    clock: Clock
    random: random.Random
    uncaptured: frozenset[float] = frozenset()  # times of kernels that no graph can hold

    def series(self, calls):
        seconds = [call() * self.random.uniform(0.99, 1.01) for call in calls]
        self.clock.seconds += sum(seconds) + QUEUE * (len(calls) + 1)
        return Series(seconds, host=3e-6)

    def in_a_graph(self, calls):
        if calls[0]() in self.uncaptured:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.clock.seconds += 3 * sum(call() for call in calls)
        return min(call() for call in calls) - 1e-6

    def sustained(self, calls, seconds, duty):  # noqa: ARG002
        self.clock.seconds += seconds
        return Timing(1.15 * calls[0](), 0.01, 100)


@dataclass
class PretendedKernel:
    """A kernel whose calls return how long they take. fails: raises instead, as libraries do."""

    seconds: float
    name: str
    count: int = 1
    hosted: bool = False
    captured: bool = True

    def make(self):
        return lambda: self.seconds


@dataclass
class PretendedGpu:
    """The device.

    faults: what building the kernel of some rows raises; passing: the same, for as many tries as there are errors.
    ends: rows that end the process; ends_at: the kernel, counted from one, in which it ends whatever that is.
    """

    kind: str = "cuda"
    facts: Facts = H100
    timing: str = "cuda_event_l2flush"
    formats: tuple[str, ...] = ("bf16", "fp8_e4m3", "fp8_e4m3_blk128", "fp16", "fp32")
    versions: dict[str, str] = field(default_factory=lambda: {"torch": "2.11.0"})
    cudnn: str = "9.10.2"
    hopper: bool = True
    operands: Any = None
    faults: dict[str, Exception] = field(default_factory=dict)
    passing: dict[str, list[Exception]] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)
    ends_at: int = 0
    board: BoardLog | None = None
    clock: Clock = field(default_factory=Clock)
    built: list[Shape] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)  # rows after which memory was given back

    def __post_init__(self):
        self.begun = 0
        self.watch = Watch(self.clock, random.Random(0))

    @property
    def framework(self):
        return "torch 2.11.0"

    def now(self):
        return self.clock.seconds

    def build(self, shape):
        self.begun += 1
        if shape.row_id in self.ends or self.begun == self.ends_at:
            raise Ended(shape.row_id)
        if shape.row_id in self.faults:
            raise self.faults[shape.row_id]
        if self.passing.get(shape.row_id):
            raise self.passing[shape.row_id].pop()
        self.built.append(shape)
        self.clock.seconds += HOST + (PLAN if "cudnn" in shape.backend else 0.0)
        peak = PEAKS.get(shape.dtype, 1e12)
        return PretendedKernel(FLOOR + max(shape.flop / peak, shape.traffic / BANDWIDTH), f"pretended {shape.backend}")

    def state(self, begin, end):
        return {} if self.board is None else self.board.between(begin, end)

    def check(self, kernel):
        self.checked.append(kernel)

    def describe(self):
        return {"product": self.facts.product}


class Ended(BaseException):
    """The process ends in the middle of a kernel, as a kill ends it: nobody who catches errors cleans up."""


class OneRank:
    """A run of one process."""

    size, local, rank, first = 1, 1, 0, True

    def agree(self, value):
        return value

    def first_reason(self, reason):
        return reason
