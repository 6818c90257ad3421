"""What an evaluation returns: metrics over a grid, and the document of one point."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.cost.calibration import ANCHORED, BASES
from costmodel.quantities import Array, Mask, Quantity
from costmodel.records import MutableRecord, Record, field, replace

SCHEMA = "costmodel/result@1"

Metrics: TypeAlias = "dict[str, Quantity | None]"
Interval: TypeAlias = "tuple[Quantity, Quantity] | None"

# Phase, or `disaggregated` for serving from two pools -> (the metric that a breakdown sums to, all metrics).
PHASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "training": ("step_time", (
        "step_time", "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "flop_per_token", "mfu",
        "mfu_noncausal", "bubble_time", "exposed_communication_time", "device_hours_per_trillion_tokens",
        "cost_per_trillion_tokens", "energy_per_token", "energy_per_trillion_tokens", "cost_rate", "capital_cost",
    )),
    "prefill": ("ttft", (
        "ttft", "tokens_per_second_per_device", "cost_per_million_tokens", "energy_per_token", "cost_rate",
        "capital_cost",
    )),
    "decode": ("tpot", (
        "tpot", "tokens_per_second_per_device", "tokens_per_second_per_user", "max_batch_per_device",
        "cost_per_million_tokens", "energy_per_token", "cost_rate", "capital_cost",
    )),
    "generate": ("latency", (
        "ttft", "tpot", "latency", "tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user",
        "max_batch", "cost_per_million_tokens", "energy_per_token", "cost_rate", "capital_cost",
    )),
    "serving": ("latency", (
        "ttft", "tpot", "latency", "requests_per_second", "highest_stable_rate", "input_tokens_per_second",
        "tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user", "concurrency",
        "max_concurrency", "kv_blocks", "kv_use", "prefix_hit_rate", "cost_per_million_tokens", "energy_per_token",
        "cost_rate", "capital_cost",
    )),
    "disaggregated": ("latency", (
        "ttft", "tpot", "latency", "kv_transfer_time", "requests_per_second", "input_tokens_per_second",
        "tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user",
        "prefill_tokens_per_second_per_device", "decode_tokens_per_second_per_device", "prefill_nodes_per_decode_node",
        "max_batch_per_device", "cost_per_million_tokens", "energy_per_token", "cost_rate", "capital_cost",
    )),
    "pools": ("latency", (
        "ttft", "tpot", "latency", "kv_transfer_time", "requests_per_second", "highest_stable_rate",
        "input_tokens_per_second", "tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user",
        "prefill_load", "concurrency", "max_concurrency", "cost_per_million_tokens", "energy_per_token", "cost_rate",
        "capital_cost",
    )),
    "diffusion": ("latency", (
        "latency", "text_encoder_time", "encoder_time", "denoising_step_time", "denoiser_time", "decoder_time",
        "images_per_second", "images_per_second_per_device", "max_batch", "cost_per_image", "energy_per_image",
        "cost_rate", "capital_cost",
    )),
    "rl": ("step_time", (
        "step_time", "rollout_time", "reward_time", "log_probability_time", "train_time", "update_time", "offload_time",
        "samples_per_second", "tokens_per_second", "tokens_per_second_per_device", "idle_share", "cost_per_step",
        "cost_per_sample", "energy_per_sample", "cost_rate", "capital_cost",
    )),
    "ep_bound": ("tpot", ("all_to_all_time", "layer_time", "tpot", "tokens_per_second_per_user")),
}  # fmt: skip


def headline_of(metrics: Collection[str]) -> str:
    """Return the headline of a result, of which only the names of its metrics are known."""
    return "latency" if "latency" in metrics else next(name for name, _ in PHASES.values() if name in metrics)


FITS, BAD_LAYOUT, NO_MEMORY, NO_PATH, NO_HOST_MEMORY = 0, 1, 2, 3, 4
REASONS = (
    "fits", "no such layout", "does not fit in memory", "devices cannot reach each other",
    "does not fit in host memory",
)  # fmt: skip

# Lines of a breakdown that are no operators: the name in results -> the name that people read.
SHOWN_LINES = {
    "slowed by exchanges": "all-to-all contention",
    "waits between streams": "stream stalls",
    "shared links": "copies beside messages",
}
INTERVAL = ("low", "high")  # names of its ends in tables
OVERLOADED = "overloaded: the queue only grows"
_STORED_LINES = {shown: stored for stored, shown in SHOWN_LINES.items()}


def shown_line(name: str) -> str:
    """Return the name of a breakdown line as people read it."""
    return SHOWN_LINES.get(name, name)


def stored_line(name: str) -> str:
    """Return the name that results have for a breakdown line, given that name or the one that people read."""
    return _STORED_LINES.get(name, name)


def reason_kind(reason: str) -> str:
    """Return the entry of `REASONS` that a reason begins with. Of any other reason, what precedes its details."""
    return next((kind for kind in REASONS[1:] if reason.startswith(kind)), reason.partition(": ")[0])


class Entry(MutableRecord):
    """One line of a breakdown: exposed seconds, what is hidden under something slower, and the work.

    count: runs of its operators on a device.
    flop: work of all runs [FLOP].
    traffic: compulsory bytes of all runs to and from device memory [B], null for messages.
    kernels: families of its operators, with their variants: `gemm/fp8`.
    """

    name: str
    time: float = 0.0
    hidden: float = 0.0
    count: float = 0.0
    flop: float = 0.0
    traffic: float | None = None
    by_bound: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_basis: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_dtype: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    kernels: set[str] = field(default_factory=set)

    def add(self, seconds: float, exposed: float, bound: str, basis: str) -> None:
        """Add an operator of which a share `exposed` is not hidden."""
        self.time += seconds * exposed
        self.hidden += seconds * (1.0 - exposed)
        self.by_bound[bound] += seconds
        self.by_basis[basis] += seconds

    def scaled(self, factor: float) -> Entry:
        """Return the line with all its times longer by a factor."""
        return replace(
            self,
            time=self.time * factor,
            hidden=self.hidden * factor,
            by_bound=defaultdict(float, {name: seconds * factor for name, seconds in self.by_bound.items()}),
            by_basis=defaultdict(float, {name: seconds * factor for name, seconds in self.by_basis.items()}),
        )

    def add_work(self, count: float, flop: float, traffic: float | None, dtype: str | None) -> None:
        """Add `count` runs of an operator. flop, traffic: of one run; dtype: of its products, null without any."""
        self.count += count
        self.flop += count * flop
        if traffic is not None:
            self.traffic = (self.traffic or 0.0) + count * traffic
        if dtype is not None:
            self.by_dtype[dtype] += count * flop

    @property
    def dtype(self) -> str | None:
        """Return the number format of most of its products, null without any."""
        return max(self.by_dtype, key=lambda name: self.by_dtype[name]) if self.by_dtype else None

    @property
    def arithmetic_intensity(self) -> float | None:
        """Return FLOP over bytes of device memory [FLOP/B], null where FLOP or traffic are not counted."""
        return self.flop / self.traffic if self.flop and self.traffic else None

    @property
    def flop_rate(self) -> float | None:
        """Return the rate while it runs, FLOP over exposed and hidden time [FLOP/s], null without FLOP."""
        busy = self.time + self.hidden
        return self.flop / busy if self.flop and busy else None

    @property
    def bound(self) -> str:
        """Return the bound of most of its time."""
        return max(self.by_bound, key=lambda name: self.by_bound[name])

    @property
    def basis(self) -> str:
        """Return the basis of most of its time."""
        return max(self.by_basis, key=lambda name: self.by_basis[name])


def whole_of(headline: float | None, breakdown: Sequence[Entry]) -> float:
    """Return the time that lines are shares of: the headline, or their sum where it has no value or no end."""
    return headline if headline and math.isfinite(headline) else math.fsum(entry.time for entry in breakdown)


class Point(Record):
    """One scenario at one point, complete.

    headline: the metric that breakdown and bubble sum to.
    memory: bytes by part, null for a bound.
    host_memory: bytes that a device keeps on its host, null where it keeps none there (tensors: weights, states,
    gradients and activations; kv_cache).
    reason: why the point is infeasible, null where it is not.
    reasons: why each null metric is null.
    verdict: whether an engine keeps up with its load, percentiles: of a request's times in seconds, both null but for
    serving.
    offer: the device's peaks [FLOP/s] by number format, its memory [B, B/s] from the nearest level to the farthest, and
    its prices [$/s, $] with kind, date and source, as in the document.
    routing: what is known of expert layers, null where there are none.
    goodput: shares of a run that failures interrupt, null where no checkpoints are stated.
    anchor: what measured steps of the site say, null without any.
    details: more of a phase's own, by the keys of the document.
    """

    phase: str
    cluster: str
    devices: int
    headline: str
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    breakdown: Sequence[Entry]
    memory: Mapping[str, float] | None
    capacity: float
    schedule: Mapping[str, float] | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    offer: Mapping[str, Any] | None = None
    routing: Mapping[str, float] | None = None
    host_memory: Mapping[str, float] | None = None
    goodput: Mapping[str, float] | None = None
    verdict: str | None = None
    percentiles: Mapping[str, Mapping[str, float]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    anchor: Mapping[str, Any] | None = None

    @property
    def fits(self) -> bool:
        """Tell whether the scenario can run."""
        return self.reason is None

    @property
    def on_device(self) -> float:
        """Return the bytes that a device holds, without what it keeps on its host."""
        return math.fsum((self.memory or {}).values())

    @property
    def on_host(self) -> float:
        """Return the bytes that a device keeps on its host."""
        return math.fsum((self.host_memory or {}).values())

    @property
    def whole(self) -> float:
        """Return the time that lines are shares of: the headline. Without one, as of a queue that grows, their sum."""
        return whole_of(self.metrics.get(self.headline), self.breakdown)

    @property
    def bound(self) -> str:
        """Return what limits most of the exposed time. `capacity` where the scenario cannot run."""
        if not self.fits:
            return "capacity"
        totals: dict[str, float] = defaultdict(float)
        for entry in self.breakdown:
            totals[entry.bound] += entry.time
        return max(totals, key=lambda name: totals[name])

    def basis(self) -> dict[str, float]:
        """Return the shares of the time that rest on each basis: on measured steps of the site, all of it."""
        totals = dict.fromkeys(BASES, 0.0)
        if self.anchor is not None:
            return {**totals, ANCHORED: 1.0}
        for entry in self.breakdown:
            for name, seconds in entry.by_basis.items():
                totals[name] = totals.get(name, 0.0) + seconds
        whole = math.fsum(totals.values())
        return {name: seconds / whole if whole else 0.0 for name, seconds in totals.items()}

    def document(self) -> dict[str, Any]:
        """Return the point as the documented JSON object: finite numbers or null."""
        whole = self.whole
        memory = dict.fromkeys(_MEMORY_KEYS, 0.0) if self.memory is None else dict(self.memory)
        document: dict[str, Any] = {
            "phase": self.phase,
            "cluster": self.cluster,
            "devices": self.devices,
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "reasons": dict(self.reasons),
            "intervals": {
                name: None if pair is None else [_finite(bound) for bound in pair]
                for name, pair in self.intervals.items()
            },
            "bound": self.bound,
            "breakdown": [
                {
                    "name": entry.name, "time": entry.time, "share": entry.time / whole if whole else 0.0,
                    "bound": entry.bound, "basis": entry.basis, "hidden": entry.hidden, "count": entry.count,
                    "flop": entry.flop, "traffic": entry.traffic, "dtype": entry.dtype,
                    "arithmetic_intensity": entry.arithmetic_intensity, "flop_rate": entry.flop_rate,
                }
                for entry in self.breakdown
            ],
            "memory": {**memory, "capacity": self.capacity, "fits": self.fits},
            "basis": self.basis(),
        }  # fmt: skip
        more: dict[str, Any] = {
            "host_memory": self.host_memory, "hardware": self.offer, "schedule": self.schedule, "anchor": self.anchor,
            "goodput": self.goodput,
            "routing": self.routing and {name: _finite(value) for name, value in self.routing.items()},
            "verdict": self.verdict, "percentiles": self.percentiles, "reason": self.reason,
            "notes": list(self.notes) or None,
        }  # fmt: skip
        return {**document, **self.details, **{name: each for name, each in more.items() if each is not None}}


_MEMORY_KEYS = ("weights", "gradients", "optimizer", "activations", "kv_cache", "communication", "reserve")


class Result(Record, dict=True):
    """One scenario over a grid: an array of the grid's shape for every metric, a float where there are no axes.

    metrics are NaN (None for a single point) where the scenario cannot run; fits is the mask and reason an index into
    `REASONS`. Documents of points are computed when asked for, intervals the first time that they are.
    """

    scenario: str
    metrics: Metrics
    fits: Mask
    reason: int | npt.NDArray[np.int8]
    _intervals: Callable[[Collection[str]], dict[str, Interval]] | None  # null: those of its one point
    _point: Callable[[tuple[int, ...]], Point]
    _routing: Callable[[], Mapping[str, Quantity] | None]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in ("scenario", "metrics", "fits", "reason"))
        return f"Result({', '.join(shown)})"

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Return the 80 % interval (low, high) of every metric."""
        return dict(self.point().intervals) if self._intervals is None else self._intervals(list(self.metrics))

    def interval(self, metric: str) -> Interval:
        """Return the 80 % interval (low, high) of one metric."""
        return self.point().intervals[metric] if self._intervals is None else self._intervals([metric])[metric]

    @property
    def routing(self) -> Mapping[str, Quantity] | None:
        """Return what is known of expert layers (load of the fullest rank, its experts, drops), null without such."""
        return self._routing()

    @property
    def breakdown(self) -> Sequence[Entry]:
        """Return where the time goes, of a result without axes."""
        return self.point().breakdown

    def point(self, *index: int) -> Point:
        """Return one point of the grid, complete. The index has one number for each axis."""
        return self._point(index)

    def at(self, *index: int) -> dict[str, Any]:
        """Return the document of one point, the same that `simulate` prints for it."""
        return self._point(index).document()


def empty_grid(shape: tuple[int, ...]) -> Array:
    """Return a grid of NaN."""
    return np.full(shape, np.nan)


def _finite(value: float | None) -> float | None:
    """Return a number as JSON can hold it: null for none and for what is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None
