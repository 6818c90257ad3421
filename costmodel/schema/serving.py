"""Keys of a serving scenario for requests over time: the requests, the engines, the objective."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import (
    Bandwidth,
    Duration,
    EventRate,
    Exponent,
    Integer,
    Latency,
    Moment,
    Number,
    NumberOrZero,
    PositiveNumber,
    RatioOrZero,
    Size,
    Wrong,
)
from costmodel.errors import InputError
from costmodel.schema.references import display_path, relative_path
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree

LARGEST = 2**31 - 1  # priority
TraceFormat: TypeAlias = Literal["requests", "azure", "mooncake", "burstgpt", "servegen", "bench"]
PREEMPTION = (
    "what becomes of the cache of a preempted request; none: a request starts when there are blocks for all its tokens"
)
WHOLE_PROMPTS = "prompts that fit into a step are not cut into chunks"
ALIGN_STEPS = "steps that prompts wait at most until each data-parallel rank that shares experts has one"


class SchedulerFile(Strict):
    """The scheduler of a serving engine. What is null is as in the framework's `engine`."""

    max_num_seqs: Number | None = Field(default=None, description="requests that a step processes at most")
    token_budget: Number | None = Field(
        default=None, description="tokens of a step at most, prompts and decoding requests together"
    )
    policy: Literal["fcfs", "priority", "lpm"] | None = Field(default=None, description="order of waiting requests")
    overlapped: bool | None = Field(
        default=None, alias="async", description="the host prepares a step while the one before it runs"
    )
    preemption: Literal["recompute", "swap", "none"] | None = Field(default=None, description=PREEMPTION)
    look_steps: Number | None = Field(
        default=None,
        description="steps that only decode between two looks for requests; an idle engine sees them",
    )
    whole_prompts: bool | None = Field(default=None, description=WHOLE_PROMPTS)
    align_steps: NumberOrZero | None = Field(default=None, description=ALIGN_STEPS)


class LengthsFile(Strict):
    """Lengths in tokens. A number alone is short for `{mean: NUMBER}`."""

    distribution: Literal["constant", "uniform", "exponential", "normal", "lognormal", "values"] = Field(
        default="constant", description="of lengths; `uniform` from `low` to `high`, `values` from a list"
    )
    mean: PositiveNumber | None = Field(default=None, description="mean; not for `uniform` and `values`")
    deviation: RatioOrZero | None = Field(default=None, description="standard deviation in tokens")
    low: Number = Field(default=1.0, description="least length")
    high: Number | None = Field(default=None, description="largest length; null: any")
    values: list[Integer] = Field(default=[], description="lengths that are drawn")
    weights: list[RatioOrZero] = Field(default=[], description="how often each is drawn; empty: all as often")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {"mean": given}

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kind = self.distribution
        if kind == "values":
            if not self.values or (self.weights and len(self.weights) != len(self.values)):
                raise Wrong("needs `values`, and a weight for each or none", "write values: [128, 512]")
        elif kind == "uniform":
            if self.high is None:
                raise Wrong("needs `high`", "write {distribution: uniform, low: 1, high: 1024}")
        elif self.mean is None:
            raise Wrong("needs `mean`", f"write {{distribution: {kind}, mean: 512}}")
        if kind in ("normal", "lognormal") and self.deviation is None:
            raise Wrong("needs `deviation`", f"write {{distribution: {kind}, mean: 512, deviation: 256}}")
        return self


class SharedPrefixFile(Strict):
    """Beginnings that prompts share."""

    groups: Number = Field(default=1.0, description="different beginnings")
    tokens: Number = Field(description="tokens of each, which prompts have in addition to `input`, before it")
    exponent: Exponent = Field(default=0.0, description="of Zipf's law of how often each is used; 0: all as often")


class SessionsFile(Strict):
    """Conversations: a prompt holds all earlier prompts and answers."""

    turns: Number = Field(description="requests of a conversation")
    think_time: Moment = Field(default=0.0, description="mean pause after an answer, exponentially distributed")


class PrioritiesFile(Strict):
    """Priorities of drawn requests, for `scheduler: {policy: priority}`."""

    values: Annotated[list[Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]], Field(min_length=1)] = Field(
        description="that are drawn; a lower one is served earlier"
    )
    weights: list[RatioOrZero] = Field(default=[], description="how often each is drawn; empty: all as often")

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights and (len(self.weights) != len(self.values) or not sum(map(float, self.weights))):
            raise Wrong("needs a weight for each value, one of them above zero", "write weights: [0.1, 0.9]")
        return self


class RequestsFile(Strict):
    """The requests: a trace, or drawn at random."""

    trace: str | None = Field(default=None, description="file of requests, relative to this file; null: drawn")
    format: TraceFormat | None = Field(default=None, description="of the trace; null: by its columns")
    speed: PositiveNumber = Field(default=1.0, description="factor on the trace's rate")
    arrivals: Literal["poisson", "gamma", "even", "closed_loop", "burst"] = Field(
        default="poisson", description="how drawn requests arrive"
    )
    rate: EventRate | None = Field(default=None, description="of the whole deployment; null: the scenario's `rate`")
    cv: PositiveNumber = Field(default=1.0, description="coefficient of variation of gaps; gamma only")
    count: Number | None = Field(default=None, description="requests; null: 10,000, or all of the trace")
    input: LengthsFile | None = Field(default=None, description="prompts; null: all of `input_tokens`")
    output: LengthsFile | None = Field(default=None, description="outputs; null: all of `output_tokens`")
    pairs: str | None = Field(
        default=None, description="file whose `input_tokens` and `output_tokens` are drawn together"
    )
    tokenizer: str | None = Field(
        default=None, description="tokenizer.json that counts the texts of `pairs`, a ShareGPT file; null: lengths"
    )
    prefix: SharedPrefixFile | None = Field(default=None, description="beginnings that prompts share; null: none")
    sessions: SessionsFile | None = Field(default=None, description="conversations; null: every request by itself")
    priority: PrioritiesFile | None = Field(default=None, description="priorities of drawn requests; null: none")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        drawn = ("arrivals", "rate", "cv", "input", "output", "pairs", "tokenizer", "prefix", "sessions", "priority")
        stray = [key for key in drawn if key in self.model_fields_set]
        if self.trace is not None and stray:
            raise Wrong(f"`{stray[0]}` is not allowed with a trace", f"remove `{stray[0]}` or `trace`")
        if self.pairs is not None and (self.input is not None or self.output is not None):
            raise Wrong("`pairs` gives both lengths", "remove `input` and `output`, or `pairs`")
        if self.tokenizer is not None and self.pairs is None:
            raise Wrong("`tokenizer` counts the texts of `pairs`", "add `pairs: FILE`, or remove `tokenizer`")
        return self


class CacheTierFile(Strict):
    """Memory behind the KV cache of an engine, of each of its devices."""

    capacity: Size = Field(description="for blocks of one device")
    bandwidth: Bandwidth = Field(description="to one device")


class FailureFile(Strict):
    """A failure of an engine: its requests start again on others."""

    replica: NumberOrZero = Field(description="engine that fails, from 0 on")
    at: Moment = Field(description="when, since the first arrival")
    lasts: Duration = Field(description="until it serves again")


class BreakdownsFile(Strict):
    """Failures of engines at random, each engine's with exponential gaps. Its requests start again on others."""

    device_mtbf: Duration = Field(description="mean time between failures of one device; an engine fails with any")
    repair: Duration = Field(description="until the engine serves again")


class AutoscaleFile(Strict):
    """Engines that are started and given back as requests come and go."""

    most: Number = Field(description="engines at most")
    least: Number = Field(default=1.0, description="engines at least, and at first")
    target: PositiveNumber = Field(description="requests for each engine")
    interval: Duration = Field(default=10.0, description="between two decisions")
    start_up: Moment = Field(default=60.0, description="until a new engine serves; it is paid for meanwhile")


class TransferFile(Strict):
    """How a prompt's cache gets to the engine that decodes."""

    bandwidth: Bandwidth = Field(description="of one engine's link, which sends one cache after the other")
    latency: Latency = Field(default=0.0, description="of one cache")


class ReplicasFile(Strict):
    """Equal engines behind a router."""

    count: Number = Field(default=1.0, description="engines, each of the scenario's layout")
    routing: Literal["round_robin", "random", "least_loaded", "power_of_two", "prefix"] = Field(
        default="round_robin", description="how the router chooses the engine of a request"
    )
    signal_delay: Moment = Field(default=0.0, description="interval at which the router learns loads; 0: always")
    max_waiting: Number | None = Field(
        default=None, description="waiting requests of an engine from which on others are turned away; null: never"
    )
    failures: list[FailureFile] = Field(default=[], description="engines that fail for a while")
    breakdowns: BreakdownsFile | None = Field(default=None, description="failures at random; null: none")
    autoscale: AutoscaleFile | None = Field(default=None, description="instead of `count` engines all the time")
    prefill: NumberOrZero = Field(
        default=0.0, description="of the engines, those that only compute prompts; the others decode"
    )
    transfer: TransferFile | None = Field(
        default=None, description="of prompts' caches between them; null: over the NICs of the engine's devices"
    )

    @model_validator(mode="after")
    def _check_engines(self) -> Self:
        if np.any(self.prefill >= self.count) and np.any(self.prefill > 0):
            raise Wrong("leaves no engine that decodes", "write a `count` above `prefill`")
        if self.autoscale is not None and np.any(self.prefill > 0):
            raise Wrong("`autoscale` is not allowed with `prefill`", "remove one of both")
        if self.autoscale is not None and np.any(self.autoscale.least > self.autoscale.most):
            raise Wrong("has `least` above `most`", "write least: 1")
        if self.transfer is not None and not np.any(self.prefill > 0):
            raise Wrong("`transfer` needs engines that only compute prompts", "write `prefill: 1`")
        engines = self.count if self.autoscale is None else self.autoscale.most
        missing = [failure.replica for failure in self.failures if np.any(failure.replica >= engines)]
        if missing:
            raise Wrong(f"engine {missing[0]:g} does not exist", f"number the {engines:g} engines from 0 on")
        return self


class SloFile(Strict):
    """What a good request takes at most."""

    ttft: Moment | None = Field(default=None, description="time to first token")
    tpot: Moment | None = Field(default=None, description="mean time per token after the first")
    e2e: Moment | None = Field(default=None, description="time to last token")


def locate_files(file: RequestsFile | None, scenario: Tree, field: str) -> RequestsFile | None:
    """Return the requests with the paths of their files, which are relative to the file that names them.

    Raises InputError where a file is missing.
    """
    if file is None:
        return None
    found: dict[str, str] = {}
    for key in ("trace", "pairs", "tokenizer"):
        reference = getattr(file, key)
        if reference is None:
            continue
        tree = scenario.at(("requests", key))
        origin = None if tree is None else tree.location
        path = relative_path(reference, origin)
        if not path.is_file():
            raise InputError.single(
                f"{display_path(path)} not found", hint="check the path", field=f"{field}.requests.{key}",
                location=origin,
            )  # fmt: skip
        found[key] = str(path)
    return file.model_copy(update=found)
