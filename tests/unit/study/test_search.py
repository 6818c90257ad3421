"""A search finds what trying every layout finds; its bounds hold; sensitivities are those of single evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

import costmodel
from costmodel.analytic.grid import evaluate_grid
from costmodel.errors import InputError
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.study.axes import Axis
from costmodel.study.bounds import Bounder
from costmodel.study.goals import Candidate, Goal, SearchResult, read_goal
from costmodel.study.layouts import Variant, divisors, stage_sizes, training_space, variants
from costmodel.study.search import Space, search, searched, settings
from costmodel.study.search_steps import _placement, alike_layers
from costmodel.study.sensitivity import STEP, sensitivities
from costmodel.study.sweep import NOTHING, Wanted
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario

SMALL = {
    "model.layers.0.repeat": 4, "scenarios.selective.global_batch": 4, "hardware.memory.hbm.capacity": "32 GiB",
    "scenarios.selective.parallel.pp": 2, "scenarios.selective.parallel.virtual": 2,
}  # fmt: skip


ONE_STAGE = ("scenarios.selective.optimizer.zero=1",)  # of ZeRO: a quarter of the variants


@pytest.fixture(scope="module")
def small() -> costmodel.Workload:
    return costmodel.load("gpt3_175b_a100", set=SMALL, scenarios=["selective"])


def goal_of(
    workload: costmodel.Workload, scenario: str, objective: str | None = None, constraints: tuple[str, ...] = (),
    derived: Mapping[str, str] | None = None,
) -> Goal:  # fmt: skip
    return read_goal(workload.scenario(scenario).result_kind, scenario, objective, constraints, derived or {})


@dataclass(frozen=True)
class Tried:
    """Layouts of some devices, and step time and fit of each variant of a step in all of them, as one grid."""

    columns: Mapping[str, Array]
    results: list[tuple[Variant, Array, npt.NDArray[np.bool_]]]
    base: Scenario

    @classmethod
    def of(
        cls, workload: costmodel.Workload, some: Callable[[Sequence[Variant]], Sequence[Variant]] = tuple,
        scenario: str = "selective", devices: int = 8,
    ) -> Tried:  # fmt: skip
        """Try some of the variants, by default all."""
        chosen = workload.scenario(scenario)
        assert isinstance(chosen.plan, Training)
        space = training_space(chosen, chosen.plan, devices)
        paths = {tuple(f"scenarios.{scenario}.{name}" for name in space.columns): tuple(space.columns.values())}
        base, shape = workload.varied(scenario, paths)
        calibration = workload.calibration(base)
        found = []
        for variant in some(variants(chosen.plan)):
            result = evaluate_grid(variant.of(base), calibration, shape)
            found.append((variant, np.asarray(result.metrics["step_time"]), np.asarray(result.fits)))
        return cls(space.columns, found, base)

    def sorted(self) -> list[tuple[float, dict[str, object]]]:
        """Return the step time of every layout that runs, the shortest first."""
        found = []
        for variant, times, fits in self.results:
            for row in np.flatnonzero(fits):
                interleaved = self.columns["parallel.virtual"][row] > 1
                if interleaved == (variant.schedule == "interleaved"):
                    at = {name: int(column[row]) for name, column in self.columns.items()}
                    found.append((float(times[row]), {**at, **variant.document()}))
        return sorted(found, key=lambda each: each[0])


@pytest.fixture(scope="module")
def tried(small: costmodel.Workload) -> Tried:
    """Try all schedules, recomputations and splits of the sequence; ZeRO's stages are below."""
    return Tried.of(small, lambda every: [one for one in every if one.zero == 1])


@pytest.fixture(scope="module")
def found(small: costmodel.Workload) -> SearchResult:
    return searched(small, "selective", None, NOTHING, Space((8,), ONE_STAGE))


def test_the_best_three_are_those_of_trying_every_layout(tried: Tried, found: SearchResult) -> None:
    layouts = [(f"{time:.12g}", *(at[name] for name in tried.columns)) for time, at in tried.sorted()]
    best = [float(time) for time, *_ in dict.fromkeys(layouts)]  # variants that take the same time are one
    assert [one.objective for one in found.best] == pytest.approx(best[:3], rel=1e-9)
    assert found.best[0].at == tried.sorted()[0][1]
    assert found.scheduled < found.feasible < found.looked_at


def assert_no_layout_beats_its_bounds(workload: costmodel.Workload, tried: Tried) -> None:
    plan, calibration = tried.base.plan, workload.calibration(tried.base)
    assert isinstance(plan, Training)
    count = np.asarray(plan.global_batch) / (tried.columns["parallel.dp"] * tried.columns["micro_batch"])
    capacity = tried.base.cluster.device.device_memory.capacity
    bounder = Bounder(calibration, tried.base, alike_layers(tried.base, tried.columns, count))
    for variant, times, runs in tried.results:
        assert np.all(times[runs] >= bounder.step(variant)[runs])
        assert np.all(bounder.memory(variant)[runs] <= capacity)


def test_no_layout_beats_its_bounds(small: costmodel.Workload, tried: Tried) -> None:
    assert_no_layout_beats_its_bounds(small, tried)


SLOW = {
    "scenarios.selective.optimizer.zero": 2, "scenarios.selective.optimizer.overlap": True,
    "hardware.device.links.nvlink.bandwidth": "2 GB/s", "hardware.memory.hbm.capacity": "200 GiB",
}  # fmt: skip


SUMS = {"scenarios.selective.framework.training.accumulation": "autograd"}


ANCHORED = {"scenarios.selective.anchor": "{metric: step_time, value: 10 s}"}


@pytest.mark.parametrize(
    ("also", "some"),
    [
        (SLOW, lambda every: [one for one in every if one.zero == 2 and one.sequence_parallel]),
        (SUMS, lambda every: every[::7]),  # each schedule, recomputation and stage several times
        (ANCHORED, lambda every: every[:1]),
    ],
    ids=["reductions that run on", "sums by autograd", "anchored"],
)
def test_no_layout_beats_its_bounds_under_other_options_either(
    also: dict[str, object], some: Callable[[Sequence[Variant]], Sequence[Variant]]
) -> None:
    workload = costmodel.load("gpt3_175b_a100", set=SMALL | also, scenarios=["selective"])
    assert_no_layout_beats_its_bounds(workload, Tried.of(workload, some))


@pytest.mark.parametrize(
    ("schedule", "at"), [("dualpipe", 3), ("dualpipe-v", 24), ("combined-1f1b", 3), ("zb-h1", 24), ("zb-v", 3)]
)
def test_no_layout_of_a_mixture_beats_its_bounds_in_any_schedule(schedule: str, at: int) -> None:
    """Exchanges of experts run beside kernels, and slow them, where passes of two micro-batches overlap."""
    training = {"stages": None, "schedule": schedule, "global_batch": 8, "parallel.dp": 2, "parallel.pp": 2,
                "parallel.ep": 2, "parallel.virtual": 1 if schedule in ("dualpipe", "zb-h1") else 2}  # fmt: skip
    changes = {f"scenarios.training.{name}": value for name, value in training.items()}
    sizes = {"model.layers.0.repeat": 1, "model.layers.1.repeat": 3, "hardware.memory.hbm.capacity": "100 TiB"}
    workload = costmodel.load("deepseek_v3", set=changes | sizes, scenarios=["training"])
    tried = Tried.of(workload, lambda every: [every[at]], "training", 4)
    assert all(runs.any() for _, _, runs in tried.results)
    assert_no_layout_beats_its_bounds(workload, tried)


def test_the_fewest_devices_that_meet_a_target_are_found(small: costmodel.Workload, found: SearchResult) -> None:
    target = 0.99 * found.best[0].objective  # of eight devices
    wanted = Wanted({}, (f"step_time <= {target} s",))
    best = searched(small, "selective", "minimise devices", wanted, Space((4, 8, 16), ONE_STAGE)).best[0]
    assert best.devices == 16
    assert (best.metrics["step_time"] or np.inf) <= target


FIXED = ("scenarios.training.optimizer.zero=1", "scenarios.training.recompute=selective")


@pytest.mark.parametrize("capacity", [25.0, 60.0], ids=["bounds above it", "bounds below it"])
def test_where_no_layout_fits_the_least_need_is_one_of_a_layout(capacity: float) -> None:
    """The layers of a mixture differ, so that the first rank, whose memory bounds are of, is not the fullest."""
    layout = {f"scenarios.training.parallel.{name}": count for name, count in (("pp", 1), ("dp", 8), ("ep", 8))}
    changes = {**layout, "model.layers.1.repeat": 7, "scenarios.training.global_batch": 8}

    def found(capacity: float) -> SearchResult:
        sizes = {**changes, "hardware.memory.hbm.capacity": capacity}
        workload = costmodel.load("deepseek_v2", set=sizes, scenarios=["training"])
        return searched(workload, "training", None, NOTHING, Space((8,), (), FIXED))

    least = found(capacity * 2**30).least
    assert least is not None
    assert least.capacity == capacity * 2**30
    assert found(0.999999 * least.memory).least == (least.memory, 0.999999 * least.memory)
    assert found(1.000001 * least.memory).best


def test_the_best_of_several_numbers_of_devices_may_be_on_the_first(small: costmodel.Workload) -> None:
    goal = "maximise tokens_per_second_per_device"
    alone, both = (searched(small, "selective", goal, NOTHING, Space(each, ONE_STAGE)) for each in ((8,), (8, 16)))
    assert both.best[0].at == alone.best[0].at
    assert both.best[0].devices == 8
    assert both.looked_at > alone.looked_at
    assert both.devices == (8, 16)


def test_of_layouts_alike_but_for_rounding_the_fewest_devices_are_first() -> None:
    workload = costmodel.load("llama-3-8b", cluster="h100-x1", phases=["prefill"])
    found = search(workload, "prefill", goal_of(workload, "prefill"), Space((1, 2, 4))).best
    assert [one.devices for one in found] == [1, 2, 4]
    assert found[0].objective == pytest.approx(found[2].objective, rel=1e-12)


def test_an_axis_of_one_value_rules_out_as_many_layouts_as_the_scenarios_own(small: costmodel.Workload) -> None:
    """An axis over the batch of a step does not switch bounds off for rates and costs: nor do several values."""
    path, cost = "scenarios.selective.global_batch", "minimise cost_per_trillion_tokens"
    others = {name: value for name, value in SMALL.items() if name != path}
    free = costmodel.load("gpt3_175b_a100", set=others, scenarios=["selective"])
    own = searched(small, "selective", cost, NOTHING, Space((8,)))
    four, eight = (searched(free, "selective", cost, NOTHING, Space((8,), (), (f"{path}={at}",))) for at in (4, 8))
    assert four.scheduled == own.scheduled
    assert four.best[0].objective == pytest.approx(own.best[0].objective, rel=1e-12)
    both = searched(free, "selective", cost, NOTHING, Space((8,), (f"{path}=4,8",)))
    assert both.best[0].objective == pytest.approx(min(four.best[0].objective, eight.best[0].objective), rel=1e-12)
    assert both.scheduled < 0.1 * both.feasible


def test_more_devices_than_the_cluster_has_are_left_out_by_name(small: costmodel.Workload) -> None:
    """A node means as many as hold the layout; a cluster has as many as it has."""
    pod = costmodel.load("gpt3_175b_a100", set=SMALL, cluster="clusters/a100-superpod", scenarios=["selective"])
    most = int(pod.scenario("selective").cluster.devices)
    goal = goal_of(pod, "selective")
    some = search(pod, "selective", goal, Space((8, most + 8)))
    assert some.best[0].devices == 8
    assert [note for note in some.all_notes if "left out" in note] == [
        f"a100-superpod has {most:,} devices: {most + 8:,} were left out"
    ]
    none = search(pod, "selective", goal, Space((most + 8,)))
    assert not none.best
    assert f"has {most:,} devices, fewer than {most + 8:,}" in (none.why or "")
    several = search(small, "selective", goal, Space((16,)))
    assert several.best[0].devices == 16
    assert not [note for note in several.all_notes if "left out" in note]


@pytest.mark.parametrize("phase", ["training", "decode"])
def test_progress_only_grows_up_to_the_whole(small: costmodel.Workload, phase: str) -> None:
    workload, name = (small, "selective") if phase == "training" else (costmodel.load("deepseek_v3"), "decode")
    shares: list[float] = []
    fixed = ONE_STAGE if phase == "training" else ()
    searched(workload, name, None, NOTHING, Space((8, 16), fixed), on_progress=shares.append)
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert 0.6 < shares[-1] <= 1.0


def test_a_step_that_arithmetic_hardly_limits_says_what_does(small: costmodel.Workload) -> None:
    slow = small.changed({"hardware.node.device.links.nvlink.bandwidth": "20 GB/s"})
    (note,) = [
        each
        for each in search(slow, "selective", goal_of(slow, "selective"), Space([16])).all_notes
        if "mfu is" in each
    ]
    assert "network" in note
    assert "global_batch" in note


def test_a_search_says_once_what_a_result_of_its_best_layout_says(small: costmodel.Workload) -> None:
    found = searched(small, "selective", None, NOTHING, Space((8, 16), ONE_STAGE))
    best = small.changed(settings(small, found)).points()["selective"]
    assert best.notes
    assert set(best.notes) <= set(found.all_notes)
    assert len(set(found.all_notes)) == len(found.all_notes)


def test_a_search_of_decoding_gives_the_best_rate_under_a_limit_and_the_front() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    goal = goal_of(workload, "decode", None, ("tpot <= 50 ms",), {"rate": "devices / tpot"})
    found = search(workload, "decode", goal, Space((64, 128)))
    assert all(one.metrics["tpot"] is not None and one.metrics["tpot"] <= 0.05 for one in found.best)
    rates = [
        (one.metrics["tokens_per_second_per_device"], one.metrics["tokens_per_second_per_user"]) for one in found.front
    ]
    for one, after in itertools.pairwise(rates):
        assert after[0] > one[0]  # type: ignore[operator]
        assert after[1] <= one[1]  # type: ignore[operator]
    best = max(one.metrics["tokens_per_second_per_device"] or 0.0 for one in found.front)
    assert found.best[0].objective == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "constraints", "told"),
    [
        ("fastest", (), "is no objective"),
        ("minimise step_tim", (), "did you mean `step_time`"),
        ("minimise step_time", ("step_time < 3 GB",), "step_time is a duration"),
        ("minimise __import__('os')", (), "is not allowed"),
    ],
)
def test_a_bad_goal_is_told(small: costmodel.Workload, objective: str, constraints: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        goal_of(small, "selective", objective, constraints)


def test_divisors_are_all_of_them() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_an_elasticity_is_that_of_two_evaluations() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    rows = {row.path: row for row in sensitivities(workload, "decode", "tpot")}
    path = "hardware.device.memory.hbm.bandwidth"
    ends = [
        costmodel.load("deepseek_v3", set={path: f"{3.35 * (1 + side * STEP)} TB/s"}, scenarios=["decode"])
        .evaluate("decode").metrics["tpot"]
        for side in (1, -1)
    ]  # fmt: skip
    expected = np.log(float(ends[0]) / float(ends[1])) / np.log((1 + STEP) / (1 - STEP))  # type: ignore[arg-type]
    assert rows[path].elasticity == pytest.approx(expected, rel=1e-6)
    assert rows[path].saved is not None
    assert rows[path].saved > 0


def test_a_change_is_that_of_an_evaluation_with_a_tenth_more_and_less_and_whole_processors() -> None:
    """One processor more is a wave of tiles more or none: no slope, and no chip that anybody would make."""
    workload = costmodel.load("llama3_8b_rtx4090", scenarios=["serving"])
    rows = sensitivities(workload, "serving", "latency")
    known = {row.path.removeprefix("hardware.device."): row for row in rows}
    base = workload.evaluate("serving").metrics["latency"]
    assert known["processors"].values == (115.0, 141.0)
    for path, values in {"processors": (115, 141), "memory.hbm.bandwidth": ("907.2 GB/s", "1108.8 GB/s")}.items():
        for value, change in zip(values, (known[path].less, known[path].more), strict=True):
            changed = workload.changed({f"scenarios.serving.hardware.device.{path}": value})
            assert changed.evaluate("serving").metrics["latency"] / base - 1 == pytest.approx(change, rel=1e-6)  # type: ignore[operator]
    assert rows[0].path == "hardware.device.memory.hbm.bandwidth"
    assert abs(known["processors"].elasticity) < abs(known["memory.hbm.bandwidth"].elasticity)


def test_the_bound_follows_its_one_bandwidth_alone() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode_ep_bound"])
    rows = sensitivities(workload, "decode_ep_bound", "tpot")
    assert [(row.path, round(row.elasticity, 6)) for row in rows] == [("hardware.node.nic.bandwidth", -1.0)]


def test_an_unknown_metric_is_told() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    with pytest.raises(InputError, match="did you mean `tpot`"):
        sensitivities(workload, "decode", "tpott")


def test_stated_stages_hold_on_their_number_and_give_the_ends_weight_on_others() -> None:
    chosen = costmodel.load("deepseek_v3", scenarios=["training"]).scenario("training")
    plan, architecture = chosen.plan, chosen.architecture
    assert isinstance(plan, Training)
    assert stage_sizes(architecture, plan, 16) == plan.stages == (*[4] * 15, 1)
    assert stage_sizes(architecture, plan, 4) == (16, 16, 16, 13)
    assert stage_sizes(architecture, plan, 32) == (*[2] * 30, 1, 0)
    assert all(sum(stage_sizes(architecture, plan, number) or ()) == 61 for number in range(1, 62))
    assert stage_sizes(architecture, replace(plan, stages=None), 8) is None
    uneven = replace(plan, stages=(3, *[4] * 14, 2))
    assert stage_sizes(architecture, uneven, 4) == (15, 16, 16, 14)
    first, last = "the first stage's end weighs as much as 1 layer", "the last stage's end weighs as much as 2 layers"
    assert f" evenly where {first} and {last}, as there" in (_placement(uneven) or "")


STUDY = (
    "scenarios.decode.batch_per_device=16,48,64; hardware.node.nic.bandwidth=40 GB/s,50 GB/s,100 GB/s",
    "scenarios.decode.parallel.ep=32,64",
    "scenarios.decode.input_tokens=1024,8192",
    "scenarios.decode.communication.combine=bf16,fp8",
)


def test_the_axes_of_a_study_are_part_of_its_search() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    wanted = Wanted({}, ("scenarios.decode.batch_per_device <= 48", "tpot <= 100 ms"))
    found = searched(workload, "decode", "maximise tokens_per_second_per_device", wanted, Space((64,), STUDY))
    best = found.best[0]
    assert best.at["batch_per_device"] == 48
    assert best.at["hardware.node.nic.bandwidth"] == 50e9
    assert best.at["scenarios.decode.input_tokens"] == 1024
    assert best.at["scenarios.decode.communication.combine"] == "fp8"
    assert {one.at["parallel.ep"] for one in [*found.best, *found.front]} <= {32, 64}
    point = costmodel.load("deepseek_v3", scenarios=["decode"], set={
        "scenarios.decode.communication.combine": "fp8", "hardware.node.nic.bandwidth": 50e9,
        "scenarios.decode.input_tokens": 1024, "scenarios.decode.batch_per_device": 48,
        **{f"scenarios.decode.{name}": value for name, value in best.at.items() if name.startswith("parallel.")},
    }).evaluate("decode")  # fmt: skip
    assert best.objective == pytest.approx(float(point.metrics["tokens_per_second_per_device"]), rel=1e-9)  # type: ignore[arg-type]


def test_axes_of_a_training_step_leave_the_layouts_that_have_their_values() -> None:
    varied = (
        "scenarios.selective.global_batch=4,8", "scenarios.selective.schedule=1f1b",
        "hardware.memory.hbm.bandwidth=1.5 TB/s,3 TB/s", "scenarios.selective.optimizer.zero=1",
        "scenarios.selective.recompute=selective", "scenarios.selective.sequence=1024",
    )  # fmt: skip
    changes = {path: value for path, value in SMALL.items() if not path.endswith("global_batch")}
    workload = costmodel.load("gpt3_175b_a100", set=changes, scenarios=["selective"])
    found = searched(workload, "selective", "maximise tokens_per_second", NOTHING, Space((8,), varied))
    assert found.best[0].at["global_batch"] == 8
    assert found.best[0].at["hardware.memory.hbm.bandwidth"] == 3e12
    assert found.best[0].at["scenarios.selective.sequence"] == 1024
    assert {tuple(one.at[name] for name in ("schedule", "optimizer.zero", "recompute")) for one in found.best} == {
        ("1f1b", 1, "selective")
    }


@pytest.mark.parametrize("framework", ["megatron", "megatron-bridge"])
def test_layouts_keep_experts_whole_unless_an_axis_says_otherwise(framework: str) -> None:
    changes = {"scenarios.training.framework": framework, "scenarios.training.parallel.ep": 1}
    chosen = costmodel.load("deepseek_v2", set=changes, scenarios=["training"]).scenario("training")
    assert isinstance(chosen.plan, Training)
    space = training_space(chosen, chosen.plan, 8)
    assert ("parallel.expert_tensor" in space.columns) == (framework == "megatron")
    if framework == "megatron":
        sizes = [space.columns[f"parallel.{name}"] for name in ("ep", "tp", "expert_tensor")]
        assert all(split == (tp if ep == 1 else 1) for ep, tp, split in zip(*sizes, strict=True))
    axis = Axis("scenarios.training.parallel.expert_tensor", np.array([1.0, 2.0]), "count", whole=True)
    tried = space.crossed([[axis]], "scenarios.training.")
    assert tried.size == 2 * space.size
    assert set(tried.columns["parallel.expert_tensor"]) == {1.0, 2.0}


def test_too_many_layouts_are_refused_with_their_number(small: costmodel.Workload) -> None:
    axis = "hardware.node.nic.bandwidth=1GB/s..50GB/s:99999"
    with pytest.raises(InputError, match=r"\d,\d+ layouts at the values of the axes, 20,000,000 are the most"):
        searched(
            small, "selective", None, NOTHING, Space((8,), (axis, "hardware.memory.hbm.bandwidth=1TB/s..2TB/s:999"))
        )


def test_an_objective_that_needs_a_price_says_which() -> None:
    workload = costmodel.load("gpt3_175b_a100", set={"hardware.price.rental": "null"}, scenarios=["selective"])
    with pytest.raises(InputError, match=r"a100-sxm-80gb has no rental price: set hardware.price.rental"):
        searched(workload, "selective", "minimise cost_per_trillion_tokens", NOTHING)


def test_settings_of_a_model_state_how_its_experts_are_sliced() -> None:
    """A layout of other degrees would choose that anew, and may not fit."""
    workload = costmodel.load("deepseek-v3", cluster="nodes/hgx-h800", phases=["training"])
    assert workload.scenario("training").parallel.expert_tensor == 1
    result = SearchResult("training", "minimise", "step_time", ())
    result.best = [Candidate({"parallel.tp": 2, "parallel.ep": 32}, 2048, 1.0, {}, None)]
    assert settings(workload, result)["scenarios.training.parallel.expert_tensor"] == "1"
