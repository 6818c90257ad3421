"""Every layout of a scenario on some devices, and a lower bound on the time of a training step that needs no schedule.

Degrees are all divisors: tp of the attention heads, pp of the devices, ep of the experts, micro-batches of a rank's
share of the batch. What does not divide is masked by the rules that every evaluation goes by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from costmodel.analytic.pricing import pricer
from costmodel.analytic.sums import NO_TIME, Sums, sums_of
from costmodel.analytic.training import micro_batch_count, training_context
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Quantity, ceil, floor, maximum
from costmodel.workload.architecture import Architecture, MoeFfn
from costmodel.workload.layers import model_work
from costmodel.workload.memory import least_memory
from costmodel.workload.recompute import SETS
from costmodel.workload.scenario import Decode, Scenario, Training
from costmodel.workload.schedules import SCHEDULES
from costmodel.workload.split_rules import heads_of
from costmodel.workload.work import Work

BATCHES = tuple(2.0**power for power in range(13))  # requests a device that a search of decoding tries
DEGREES = ("tp", "pp", "dp", "ep", "virtual")
ZERO_STAGES = (0, 1, 2, 3)
_ONE_WAY = ("gpipe", "1f1b", "interleaved")  # a chunk's backward pass is one, and all micro-batches go the same way
_TWICE = ("dualpipe",)  # schedules that keep each stage on two ranks
_SHARE = 1 - 1e-9  # of a bound: what rounding may take from it


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Layouts as columns, path below the scenario -> values; all of one length."""

    columns: Mapping[str, Array]

    @property
    def size(self) -> int:
        """Return the number of layouts."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """What of a layout is structure: the schedule, what the backward pass computes again, the ZeRO stage."""

    schedule: str
    recompute: frozenset[str]
    zero: int

    def of(self, scenario: Scenario) -> Scenario:
        """Return the scenario in this variant, its stages as even as possible."""
        assert isinstance(scenario.plan, Training)
        plan = replace(scenario.plan, schedule=self.schedule, recompute=self.recompute, zero=self.zero, stages=None)
        return replace(scenario, plan=plan)

    def document(self) -> dict[str, object]:
        """Return the variant as paths below the scenario."""
        named = next((name for name, operators in SETS.items() if {name} == self.recompute), None)
        recompute = named or ", ".join(sorted(self.recompute)) or "none"
        return {"schedule": self.schedule, "recompute": recompute, "optimizer.zero": self.zero}


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, the smallest first."""
    return [each for each in range(1, number + 1) if number % each == 0]


def training_space(scenario: Scenario, plan: Training, devices: int) -> Space:
    """Return every layout of a training step on some devices."""
    architecture, batch = scenario.architecture, int(np.max(plan.global_batch))
    rows = []
    for tp, pp, ep in _degrees(architecture, devices):
        dp = devices // (tp * pp)
        if batch % dp or (dp * tp) % ep:
            continue
        for micro, virtual in product(divisors(batch // dp), _virtual(plan.schedule, pp, architecture.depth)):
            rows.append((tp, pp, dp, ep, virtual, micro))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    names = (*(f"parallel.{name}" for name in DEGREES), "micro_batch")
    return Space(dict(zip(names, columns, strict=True)))


def inference_space(scenario: Scenario, devices: Sequence[int]) -> Space:
    """Return every layout of a pass on some devices; of decoding with the batches that it may hold."""
    rows = []
    batches = BATCHES if isinstance(scenario.plan, Decode) else (0.0,)
    for number in devices:
        for tp, pp, ep in _degrees(scenario.architecture, number):
            dp = number // (tp * pp)
            if (dp * tp) % ep == 0:
                rows += [(tp, pp, dp, ep, batch) for batch in batches]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    names = [*(f"parallel.{name}" for name in DEGREES[:4]), "batch_per_device"]
    return Space(dict(zip(names[: len(names) if batches[0] else -1], columns, strict=False)))


def variants(plan: Training) -> list[Variant]:
    """Return the structures of a training step: schedules of one family, recomputation, ZeRO stages."""
    schedules = ("1f1b", "interleaved") if plan.schedule in ("1f1b", "interleaved") else (plan.schedule,)
    recomputed = dict.fromkeys([plan.recompute, *(frozenset({name}) for name in ("none", "selective", "full"))])
    return [Variant(*each) for each in product(schedules, recomputed, ZERO_STAGES)]


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """What a training step takes at least, whatever its schedule does: seconds, and bytes on the fullest device."""

    step: Array
    memory: Array


def lower_bounds(scenario: Scenario, plan: Training, calibration: Calibration, step: Array | None = None) -> Bounds:
    """Return the lower bounds of every layout. step: the times, where another ZeRO stage has them already.

        step >= micro-batches * max(computation, exchanges) of all stages / pp

    since the slowest of pp ranks has at least the mean, and does at best one beside the other. Where one-way schedules
    run equal chunks, the last rank also waits for the first micro-batch, and the first rank for the last gradient:
    (pp - 1) / virtual more. There, too, the first rank keeps min(pp, micro-batches) of its activations. Of alike layers
    it has the most.
    """
    context = training_context(scenario, plan)
    work = model_work(context)
    parallel = scenario.parallel
    count = np.asarray(micro_batch_count(scenario, plan), dtype=np.float64)
    alike = plan.schedule in _ONE_WAY and len(scenario.architecture.kinds) == 1
    equal = alike & np.asarray(scenario.architecture.depth % (parallel.pp * parallel.virtual) == 0)
    if step is None:
        layers = _passes(scenario, work.layers, list(scenario.architecture.kinds.values()), calibration)
        ends = _passes(scenario, [work.embedding, work.head], [1, 1], calibration)
        mtp = scenario.architecture.mtp
        if work.mtp is not None and mtp is not None:
            ends = ends + _passes(scenario, [work.mtp], [mtp.depth], calibration)
        whole = layers + ends
        waits = np.where(equal, (parallel.pp - 1) / parallel.virtual, 0.0)
        of_layers = maximum(layers.compute, layers.exchanges)
        mean = (count * maximum(whole.compute, whole.exchanges) + waits * of_layers) / parallel.pp
        fullest = count * of_layers * _first_rank(scenario) if alike else 0.0
        step = np.asarray(_SHARE * maximum(mean, fullest), dtype=np.float64)
    chunks = np.where(equal, np.minimum(np.asarray(parallel.pp), count), 1.0)
    copies = 2 if plan.schedule in _TWICE else 1
    return Bounds(step, np.asarray(_SHARE * least_memory(context, plan, work, copies, chunks), dtype=np.float64))


def _first_rank(scenario: Scenario) -> Quantity:
    """Return the share of the layers on the first rank of a one-way schedule: longer stages come first."""
    depth, parallel = scenario.architecture.depth, scenario.parallel
    stages = parallel.pp * parallel.virtual
    return (parallel.virtual * floor(depth / stages) + ceil(depth % stages / parallel.pp)) / depth


def _passes(scenario: Scenario, works: Sequence[Work], counts: Sequence[int], calibration: Calibration) -> Sums:
    """Return the times of all passes of some layers for one micro-batch."""
    pricing = pricer(scenario, calibration)
    total = NO_TIME
    for count, kind in zip(counts, works, strict=True):
        priced = pricing.price_work(kind)
        for part in (priced.forward, priced.input_gradient, priced.weight_gradient):
            total = total + sums_of(part, None).times(count)
    return total


def _degrees(architecture: Architecture, devices: int) -> Iterator[tuple[int, int, int]]:
    """Yield (tp, pp, ep) that divide heads, devices and experts."""
    heads = [int(np.max(heads_of(layer.mixer))) for layer in architecture.kinds]
    experts = [int(np.max(layer.ffn.experts)) for layer in architecture.kinds if isinstance(layer.ffn, MoeFfn)]
    for tp in divisors(int(np.gcd.reduce(heads)) if heads else 1):
        for pp in divisors(devices) if devices % tp == 0 else ():
            if devices % (tp * pp) == 0 and pp <= architecture.depth:
                yield from ((tp, pp, ep) for ep in (divisors(int(np.gcd.reduce(experts))) if experts else [1]))


def _virtual(schedule: str, pp: int, depth: int) -> list[int]:
    """Return the stages of a rank that a family of schedules may have."""
    if schedule not in ("1f1b", "interleaved"):
        return [SCHEDULES[schedule].virtual or 1]
    return [each for each in divisors(max(depth // pp, 1)) if depth % (pp * each) == 0 or each == 1] if pp > 1 else [1]
