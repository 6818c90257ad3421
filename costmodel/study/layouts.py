"""Every layout of a scenario on some devices.

Degrees are all divisors: tp of the attention heads, pp and cp of the devices, ep of the experts, micro-batches of a
rank's share of the batch. What does not divide is masked by the rules that every evaluation goes by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from costmodel.api import Workload
from costmodel.errors import InputError
from costmodel.quantities import Array, Indices
from costmodel.records import Record, replace
from costmodel.study.axes import Axis
from costmodel.workload.architecture import Architecture, MoeFfn, even_split
from costmodel.workload.plans import SETS, Decode, Prefill, Serving, Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.catalogue import SCHEDULES
from costmodel.workload.split_rules import heads_of

BATCHES = tuple(2.0**power for power in range(13))  # requests a device that a search of decoding tries
DEGREES = ("tp", "pp", "dp", "ep", "virtual", "cp")
ZERO_STAGES = (0, 1, 2, 3)
VARIED = ("schedule", "recompute", "optimizer.zero", "parallel.sequence_parallel")  # what of a layout is structure
LAYOUT = (*(f"parallel.{name}" for name in DEGREES), "micro_batch")
SLICES = "parallel.expert_tensor"
REPLICAS = "replicas.count"
PASSES = "guidance_parallel"
OWN = (*LAYOUT, SLICES, "global_batch", "batch_per_device", REPLICAS, PASSES)  # columns, by path below the scenario
MOST_LAYOUTS = 20_000_000  # of one search, at all values of its axes


class Space(Record):
    """Layouts as columns, path below the scenario (of an axis: its own path) -> values. All of one length."""

    columns: Mapping[str, Array]

    @property
    def size(self) -> int:
        """Return the number of layouts."""
        return len(next(iter(self.columns.values())))

    def paths(self, head: str) -> tuple[str, ...]:
        """Return the columns' paths in the resolved document. head: what stands before those below the scenario."""
        return tuple(head + name if name in OWN else name for name in self.columns)

    def at(self, row: int) -> dict[str, float | int]:
        """Return the values of one layout, whole numbers as ints."""
        values = {name: float(column[row]) for name, column in self.columns.items()}
        return {name: int(value) if value.is_integer() else value for name, value in values.items()}

    def select(self, rows: Indices) -> Space:
        """Return some of the layouts."""
        return Space({name: column[rows] for name, column in self.columns.items()})

    def crossed(self, axes: Sequence[Sequence[Axis]], head: str) -> Space:
        """Return these layouts at every value of some axes, dimension by dimension.

        An axis over something that layouts have keeps those that have one of its values. Raises InputError where there
        are too many.
        """
        columns = dict(self.columns)
        for together in axes:
            named = {_own(axis.path, head): axis.values for axis in together}
            own = [name for name in named if name in self.columns and name != SLICES]
            number, size = len(together[0].values), len(next(iter(columns.values())))
            if own:
                having = [np.all([columns[name] == named[name][at] for name in own], axis=0) for at in range(number)]
                rows = [np.flatnonzero(mask) for mask in having]
            else:
                check_size(number * size)
                rows = [np.arange(size)] * number
            check_size(sum(map(len, rows)))
            kept, times = np.concatenate(rows), [len(each) for each in rows]
            others = {name: np.repeat(values, times) for name, values in named.items() if name not in own}
            columns = {name: column[kept] for name, column in columns.items()} | others
        return Space(columns)


def _own(path: str, head: str) -> str:
    """Return the path below the scenario of what is a column of layouts, else the path."""
    below = path.removeprefix(head)
    return below if below in OWN else path


def check_size(layouts: int) -> None:
    """Raise InputError where a search would have to look at too many layouts."""
    if layouts > MOST_LAYOUTS:
        raise InputError.single(
            f"{layouts:,} layouts at the values of the axes, {MOST_LAYOUTS:,} are the most",
            hint="write coarser axes, or fewer numbers of --devices", field="axes",
        )  # fmt: skip


class Variant(Record):
    """What of a layout is structure: the schedule, what the backward pass computes again, the ZeRO stage, and whether
    activations outside the tensor-parallel region are split too."""

    schedule: str
    recompute: frozenset[str]
    zero: int
    sequence_parallel: bool

    @property
    def layer_work(self) -> tuple[frozenset[str], bool]:
        """Return what of a variant decides the work of a layer."""
        return self.recompute, self.sequence_parallel

    def of(self, scenario: Scenario, stages: tuple[int, ...] | None = None) -> Scenario:
        """Return the scenario in this variant. stages: layers of each, null: as even as possible."""
        assert isinstance(scenario.plan, Training)
        plan = replace(scenario.plan, schedule=self.schedule, recompute=self.recompute, zero=self.zero, stages=stages)
        parallel = replace(scenario.parallel, sequence_parallel=self.sequence_parallel)
        return replace(scenario, plan=plan, parallel=parallel)

    def planned(self, scenario: Scenario) -> tuple[Scenario, Training]:
        """Return the scenario in this variant, its stages even, and its step."""
        varied = self.of(scenario)
        assert isinstance(varied.plan, Training)
        return varied, varied.plan

    def document(self) -> dict[str, object]:
        """Return the variant as paths below the scenario."""
        named = next((name for name, operators in SETS.items() if {name} == self.recompute), None)
        recompute = named or ", ".join(sorted(self.recompute)) or "none"
        return {
            "schedule": self.schedule,
            "recompute": recompute,
            "optimizer.zero": self.zero,
            "parallel.sequence_parallel": self.sequence_parallel,
        }


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, the smallest first."""
    return [each for each in range(1, number + 1) if number % each == 0]


def training_space(scenario: Scenario, plan: Training, devices: int, batch: int | None = None) -> Space:
    """Return every layout of a training step on some devices, experts whole unless the scenario states a degree.

    batch: sequences of a step. Null: as the plan says.
    """
    architecture = scenario.architecture
    batch = int(np.max(plan.global_batch)) if batch is None else batch
    rows = []
    sequence = int(np.max(plan.sequence))
    for tp, pp, ep in _degrees(architecture, devices):
        for cp in divisors(devices // (tp * pp)):
            dp = devices // (tp * pp * cp)
            if sequence % cp or batch % dp or (dp * tp * cp) % ep:
                continue
            micro_batches = divisors(batch // dp) if cp == 1 else [1]  # ranks take whole sequences where there are more
            for micro, virtual in product(micro_batches, _virtual(plan.schedule, pp, architecture.depth)):
                rows.append((tp, pp, dp, ep, virtual, cp, micro))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 7).T
    space: dict[str, Array] = dict(zip(LAYOUT, columns, strict=True))
    if scenario.parallel.slices_experts and scenario.parallel.expert_tensor is None and architecture.has_experts:
        space[SLICES] = np.where(space["parallel.ep"] == 1.0, space["parallel.tp"], 1.0)
    return Space(space)


def inference_space(scenario: Scenario, devices: Sequence[int], batches: Sequence[float] = BATCHES) -> Space:
    """Return every layout of a pass on some devices. Of decoding with the batches that it may hold."""
    rows = []
    batches = batches if isinstance(scenario.plan, Decode) else (0.0,)
    for number in devices:
        for tp, pp, ep in _degrees(scenario.architecture, number):
            dp = number // (tp * pp)
            if (dp * tp) % ep == 0:
                rows += [(tp, pp, dp, ep, batch) for batch in batches]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    names = [*(f"parallel.{name}" for name in DEGREES[:4]), "batch_per_device"]
    return Space(dict(zip(names[: len(names) if batches[0] else -1], columns, strict=False)))


def diffusion_space(scenario: Scenario, devices: Sequence[int]) -> Space:
    """Return every layout of images or videos on some devices: ranks that split a sequence, or the passes of a step."""
    rows = []
    for number in devices:
        for tp, pp, _ in _degrees(scenario.architecture, number):
            for cp in divisors(number // tp) if pp == 1 else ():
                dp = number // (tp * cp)
                rows += [(tp, cp, dp, passes) for passes in (1, 2) if dp % passes == 0]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Space(dict(zip((*(f"parallel.{name}" for name in ("tp", "cp", "dp")), PASSES), columns, strict=True)))


def server_space(scenario: Scenario, devices: Sequence[int]) -> Space:
    """Return every layout of servers on some devices: of each engine, and how many engines alike there are.

    Engines stand on a part of a node that divides it, or on whole nodes. Those of a model without experts have one
    data-parallel group: another group is another engine. All ranks of an engine that gathers tokens share its experts,
    in slices where these are more than `ep`, unless the scenario states a degree:

        expert_tensor = tp * dp / ep

    [vLLM, FusedMoEParallelConfig.make; SGLang, moe_tp_size; TensorRT-LLM, Mapping.moe_tp_size]
    """
    gathers, stated = scenario.communication.exchange == "gather", scenario.parallel.expert_tensor is not None
    rows, slices = [], scenario.architecture.has_experts and gathers and not stated
    node = int(np.max(scenario.cluster.node.count))
    for number in devices:
        for engine in (each for each in divisors(number) if node % each == 0 or each % node == 0):
            for tp, pp, ep in _degrees(scenario.architecture, engine):
                dp = engine // (tp * pp)
                if (dp * tp) % ep == 0 and (dp == 1 or ep > tp or slices):
                    rows.append((tp, pp, dp, ep, number // engine))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    space = dict(zip((*(f"parallel.{name}" for name in DEGREES[:4]), REPLICAS), columns, strict=True))
    if slices:
        space[SLICES] = space["parallel.tp"] * space["parallel.dp"] / space["parallel.ep"]
    return Space(space)


def variants(plan: Training, fixed: Collection[str] = (), *, splits_sequence: bool = False) -> list[Variant]:
    """Return the structures of a training step: schedules of one family, recomputation, ZeRO stages, and with and
    without sequence parallelism.

    fixed: those of `VARIED` that stay as the scenario has them.
    splits_sequence: whether it has sequence parallelism.
    """
    family = ("1f1b", "interleaved") if plan.schedule in ("1f1b", "interleaved") else (plan.schedule,)
    schedules = (plan.schedule,) if "schedule" in fixed else family
    recomputed = [plan.recompute, *(frozenset({name}) for name in ("none", "selective", "full"))]
    stages = (plan.zero,) if "optimizer.zero" in fixed else ZERO_STAGES
    chosen = [plan.recompute] if "recompute" in fixed else list(dict.fromkeys(recomputed))
    splits = (splits_sequence,) if "parallel.sequence_parallel" in fixed else (False, True)
    return [Variant(*each) for each in product(schedules, chosen, stages, splits)]


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
    if schedule == "combined-1f1b" and pp > 1:
        return [each for each in divisors(max(depth // pp, 1)) if each > 1 and depth % (pp * each) == 0]
    if schedule not in ("1f1b", "interleaved"):
        return [SCHEDULES[schedule].virtual or 1]
    return [each for each in divisors(max(depth // pp, 1)) if depth % (pp * each) == 0 or each == 1] if pp > 1 else [1]


# ---- Which layers stand on which stage where a search tries other numbers of stages than the scenario states ---------
#
# A scenario that states `stages` says with them how many layers its ends weigh: as many as their stages have fewer than
# the longest. On another number of stages they weigh the same, and layers are spread as evenly as that allows.

_ENDS = ("embedding", "head", "mtp")


def stage_sizes(architecture: Architecture, plan: Training, stages: int) -> tuple[int, ...] | None:
    """Return the layers of each of `stages` stages. Null for as even as possible, where the scenario states none.

    Stated sizes stand where the number of stages is theirs. Elsewhere layer after layer goes to the stage with the
    least on it, the first of equal ones, after each end has been put on its stage with the weight that the stated sizes
    give it.
    """
    stated = plan.stages
    if stated is None or len(stated) == stages:
        return stated
    weights = end_weights(plan)
    if not any(weights.values()):
        return even_split(architecture.depth, stages)
    load = [0] * stages
    for stage_of, weight in weights.items():
        load[stage_of % stages] += weight
    sizes = [0] * stages
    for _ in range(architecture.depth):
        lightest = min(range(stages), key=lambda stage: load[stage])
        load[lightest] += 1
        sizes[lightest] += 1
    return tuple(sizes)


def end_weights(plan: Training) -> dict[int, int]:
    """Return the weight in layers of what stands on each stage with an end: place -> layers fewer than the longest."""
    sizes = plan.stages or ()
    places = {getattr(plan.placement, name) % len(sizes): getattr(plan.placement, name) for name in _ENDS}
    return {stage_of: max(sizes) - sizes[stage] for stage, stage_of in places.items()}


# ---- The ways in which a search lets ranks of expert parallelism exchange their tokens -------------------------------

_MODES = {Prefill: "normal", Decode: "low_latency", Serving: "low_latency"}


def exchange_axis(workload: Workload, name: str) -> str | None:
    """Return the axis, as `--vary` takes it, over a framework's own gather and DeepEP, null where there is no choice.

    There is one where a scenario of a model with routed experts states no exchange of its own, its framework gathers by
    default and says that it can use DeepEP on the device (`low_latency_experts`). Dispatched tokens are in FP8 where
    linear layers are. A prefill takes DeepEP's normal kernels, decoding and a server those of low latency.
    """
    scenario, head = workload.scenario(name), f"scenarios.{name}"
    mode = _MODES.get(type(scenario.plan))  # none for a training step
    if mode is None or not scenario.architecture.has_experts or scenario.communication.exchange != "gather":
        return None
    value = workload.resolved.value
    able = value(f"{head}.framework.low_latency_experts") or ()
    if value(f"{head}.communication.exchange") is not None or value(f"{head}.hardware.device.die") not in able:
        return None
    tokens = "fp8" if scenario.precision.linear.startswith("fp8") else "bf16"
    path = f"{head}.communication"
    return f"{path}.exchange=gather,all_to_all; {path}.mode=normal,{mode}; {path}.dispatch=bf16,{tokens}"
