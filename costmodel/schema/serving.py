"""Keys of a serving scenario for requests over time: the requests, the engines, the objective."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from costmodel.declared import Integer, Number, Wrong, exceeds
from costmodel.errors import InputError
from costmodel.quantities import sum_of
from costmodel.schema.inputs import is_file, record_folder
from costmodel.schema.records import Declared, record
from costmodel.schema.references import display_path, relative_path
from costmodel.schema.tree import Tree
from costmodel.workload.engine import CacheTier, Scheduler
from costmodel.workload.requests import Gaps, Lengths, Priorities, RequestStream, Slo

LARGEST = 2**31 - 1  # priority
ROUNDING = 1e-6  # of shares that add up to 1


class SchedulerFile(Declared, of=Scheduler, optional=True, without=("mixed", "recurrent_overlapped")):
    """The scheduler of a serving engine. What is null is as in the framework's `engine`."""

    max_num_seqs: Number | None = Field(default=None, description="requests that a step processes at most")
    token_budget: Number | None = Field(
        default=None, description="tokens of a step at most, prompts and decoding requests together"
    )


class LengthsFile(Declared, of=Lengths):
    """Lengths in tokens. A number alone is short for `{mean: NUMBER}`."""

    values: list[Integer] = Field(default=[], description="lengths that are drawn")

    def made(self) -> Lengths:
        """Return the lengths."""
        values, weights = tuple(map(float, self.values)), tuple(map(float, self.weights))
        return record(Lengths, self, values=values, weights=weights)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {"mean": given}

    def _check_kind(self) -> None:
        kind = self.distribution
        if kind == "values":
            if not self.values or (self.weights and len(self.weights) != len(self.values)):
                raise Wrong("needs `values`, and a weight for each or none", "write values: [128, 512]")
        elif kind == "uniform":
            if self.high is None:
                raise Wrong("needs `high`", "write {distribution: uniform, low: 1, high: 1024}")
            if np.any(self.low > self.high):
                raise Wrong("has `low` above `high`", "write a `high` of at least `low`")
        elif self.mean is not None and self.high is not None and exceeds(self.mean, self.high):
            raise Wrong(f"has a mean beyond its `high` of {self.high}", "write a `high` above the mean")
        elif self.mean is None:
            raise Wrong("needs `mean`", f"write {{distribution: {kind}, mean: 512}}")
        if kind in ("normal", "lognormal") and self.deviation is None:
            raise Wrong("needs `deviation`", f"write {{distribution: {kind}, mean: 512, deviation: 256}}")


class GapsFile(Declared, of=Gaps):
    """Times between an answer and the next request of a session. A time alone is short for `{mean: TIME}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_time(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {"mean": given}

    def _check_kind(self) -> None:
        if (self.distribution == "lognormal") != bool(np.all(self.deviation > 0)):
            raise Wrong("`lognormal` needs a `deviation`, and nothing else has one", "write deviation: 3 s")


class PrioritiesFile(Declared, of=Priorities):
    """Priorities of drawn requests, for `scheduler: {policy: priority}`."""

    values: Annotated[list[Annotated[int, Field(strict=True, ge=-LARGEST, le=LARGEST)]], Field(min_length=1)] = Field(
        description="that are drawn; a lower one is served earlier"
    )

    def made(self) -> Priorities:
        """Return the priorities."""
        return Priorities(values=tuple(self.values), weights=tuple(map(float, self.weights)))

    def _check_weights(self) -> None:
        if self.weights and (len(self.weights) != len(self.values) or not sum(map(float, self.weights))):
            raise Wrong("needs a weight for each value, one of them above zero", "write weights: [0.1, 0.9]")


class RequestsFile(Declared, of=RequestStream):
    """The requests: a trace, or drawn at random."""

    def _check_source(self) -> None:
        drawn = ("rate", "cv", "input", "output", "pairs", "tokenizer", "prefix", "sessions", "priority", "classes")
        stray = [key for key in drawn if key in self.model_fields_set]
        if self.trace is not None and stray:
            raise Wrong(f"`{stray[0]}` is not allowed with a trace", f"remove `{stray[0]}` or `trace`")
        if self.trace is not None and "arrivals" in self.model_fields_set and self.arrivals != "closed_loop":
            raise Wrong("a trace has arrivals of its own", "remove `arrivals`, or write closed_loop and `concurrency`")
        if self.ramp > 0.0 and self.arrivals != "closed_loop":
            raise Wrong("`ramp` is of the users of a closed loop", "remove it, or write `arrivals: closed_loop`")
        if self.pairs is not None and (self.input is not None or self.output is not None):
            raise Wrong("`pairs` gives both lengths", "remove `input` and `output`, or `pairs`")
        if self.sessions is not None and self.sessions.rate is not None and self.rate is not None:
            raise Wrong("`rate` and `sessions.rate` exclude one another", "keep one of both")
        if self.sessions is not None and self.sessions.rate is not None and self.arrivals in ("closed_loop", "burst"):
            raise Wrong(f"`{self.arrivals}` has no `sessions.rate`", "remove `rate` or `arrivals`")
        if self.tokenizer is not None and self.pairs is None:
            raise Wrong("`tokenizer` counts the texts of `pairs`", "add `pairs: FILE`, or remove `tokenizer`")

    def _check_classes(self) -> None:
        if not self.classes:
            return
        other = next((key for key in ("pairs", "sessions") if getattr(self, key) is not None), None)
        if other is not None:
            raise Wrong(f"`classes` are not allowed with `{other}`", f"remove `classes` or `{other}`")
        names, total = [each.name for each in self.classes], sum_of(each.share for each in self.classes)
        if len(set(names)) < len(names):
            raise Wrong("two `classes` have the same name", "name each of them once")
        if np.any(np.abs(total - 1.0) > ROUNDING):
            raise Wrong(f"the shares of `classes` add up to {np.ravel(total)[0]:.4g}", "write shares with the sum 1")


class SloFile(Declared, of=Slo):
    """What a good request takes at most."""


class CacheTierFile(Declared, of=CacheTier):
    """Memory behind the KV cache of an engine, of each of its devices."""


def locate_files(file: RequestsFile | None, scenario: Tree, field: str) -> RequestsFile | None:
    """Return the requests with the paths of their files, which are relative to the file that names them.

    Raises InputError where a file is missing.
    """
    if file is None:
        return None
    paths: dict[str, str] = {}
    for key in ("trace", "pairs", "tokenizer"):
        reference = getattr(file, key)
        if reference is None:
            continue
        tree = scenario.at(("requests", key))
        origin = None if tree is None else tree.location
        path = relative_path(reference, origin)
        record_folder()
        if not is_file(path):
            raise InputError.single(
                f"{display_path(path)} not found", hint="check the path", field=f"{field}.requests.{key}",
                location=origin,
            )  # fmt: skip
        paths[key] = str(path)
    return file.model_copy(update=paths)
