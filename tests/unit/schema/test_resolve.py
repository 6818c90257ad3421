"""`resolve`: the document, the scenarios, the origin of each value, and changes from outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_world import FILES, edit, problems_of, write

import costmodel
from costmodel.errors import InputError
from costmodel.schema import SI, ResolvedWorkload
from costmodel.schema.build import Ranks, share_of_node
from costmodel.schema.resolve import resolve
from costmodel.workload.plans import Decode, Training


def small(world: Path, **overrides: object) -> ResolvedWorkload:
    """Return the small workload; `__` in a name stands for a dot."""
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return resolve("small", overrides=changes, search_path=[world])


def test_a_device_stands_for_a_node_that_holds_it_alone(world: Path) -> None:
    """By its name or its file. One that lacks much is told of everything at once."""
    alone = {"overrides": {"scenarios.decode.parallel.tp": 1}, "search_path": [world], "scenarios": ["decode"]}
    for name in ("devices/chip", "chip", "./hardware/devices/chip.yaml"):
        cluster = resolve("small", cluster=name, **alone).scenarios["decode"].cluster  # type: ignore[arg-type]
        assert (cluster.node.device.name, cluster.node.count, cluster.count, cluster.node.nic) == ("chip", 1, 1, None)
        assert cluster.node.intra.name == cluster.node.host.link == "fast"
    write(world, "mine.yaml", "schema: costmodel/device@1\nname: mine\nmath: {fp9: {peak: 1 TFLOP/s}}\nmemory: []\n")
    with pytest.raises(InputError) as told:
        resolve("small", cluster="./mine.yaml", **alone)  # type: ignore[arg-type]
    for lacking in (
        "architecture: is missing",
        "math lacks fp32",
        "unknown value 'fp9'",
        "links: has no link to a host",
    ):
        assert lacking in str(told.value)


def test_scenarios_and_document_hold_si_values(world: Path) -> None:
    workload = small(world)
    train = workload.scenarios["train"]
    assert isinstance(train.plan, Training)
    assert train.plan.global_batch == 16
    assert isinstance(workload.scenarios["decode"].plan, Decode)
    assert train.cluster.devices == 8
    assert train.cluster.node.intra.bandwidth == 100e9
    assert workload.document["model"]["hidden"] == 64
    hardware = workload.document["scenarios"]["train"]["hardware"]
    assert hardware["node"]["nic"]["bandwidth"] == 50e9
    assert hardware["network"]["latency"] == {"same_leaf": 3e-6, "cross_leaf": None}
    assert hardware["device"]["math"]["bf16"]["peak"] == 10e12
    assert workload.value("hardware.memory.hbm.bandwidth") == 1e12
    assert workload.value("scenarios.decode.parallel.tp") == 8
    assert workload.value("model.layers.0.mixer.q_heads") == 8


def test_levels_per_processor_are_totals_in_the_device(world: Path) -> None:
    smem = small(world).scenarios["train"].cluster.device.level("smem")
    assert smem is not None
    assert smem.capacity == 10 * 100 * 1024
    assert smem.bandwidth == 1e12


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("hardware.memory.hbm.bandwidth", "hardware/devices/chip.yaml:11:46"),
        ("hardware.device.processors", "hardware/devices/chip.yaml:4:13"),
        ("hardware.node.nic.latency", "hardware/nodes/box.yaml:6:54"),
        ("scenarios.train.hardware.network.radix", "hardware/clusters/pair.yaml:5:38"),
        ("scenarios.train.parallel.dp", "workloads/small.yaml:7:27"),
        ("scenarios.train.parallel.pp", "default"),
        ("scenarios.train.precision.router", "workloads/precisions/bf16.yaml:5:9"),
        ("scenarios.train.framework.launch", "hardware/frameworks/default.yaml:6:9"),
        ("model.layers.0.ffn.intermediate", "workloads/models/tiny.yaml:8:36"),
    ],
)
def test_every_value_has_an_origin(world: Path, path: str, origin: str) -> None:
    assert str(small(world).origin(path)) == origin


def test_a_host_has_memory_arithmetic_and_a_link_to_each_device(world: Path) -> None:
    host = small(world).scenarios["train"].cluster.node.host
    assert (host.memory, host.bandwidth, host.sockets, host.peak, host.link) == (None, None, None, {}, "pcie")
    stated = "host: {memory: 1 TB, bandwidth: 600 GB/s, sockets: 2, peak: {bf16: 40 TFLOP/s}, link: fast}"
    edit(world, "hardware/nodes/box.yaml", "intra: fast", f"intra: fast\n{stated}")
    workload = small(world)
    host = workload.scenarios["train"].cluster.node.host
    assert (host.memory, host.bandwidth, host.sockets, host.peak, host.link) == (
        1e12, 600e9, 2, {"bf16": 40e12}, "fast",
    )  # fmt: skip
    assert workload.value("hardware.node.host.peak.bf16") == 40e12
    faster = small(world, **{"hardware.node.host.peak.bf16": "80 TFLOP/s", "hardware.node.host.bandwidth": "1 TB/s"})
    assert faster.scenarios["decode"].cluster.node.host.peak["bf16"] == 80e12
    assert faster.scenarios["decode"].cluster.node.host.bandwidth == 1e12


def test_a_path_that_is_not_there_has_no_origin_and_no_value(world: Path) -> None:
    workload = small(world)
    assert workload.origin("hardware.memory.hbn.bandwidth") is None
    (problem,) = problems_of(lambda: workload.value("hardware.memory.hbn.bandwidth"))
    assert "did you mean `hbm`" in problem.hint


def test_a_change_reaches_all_scenarios_or_one(world: Path) -> None:
    workload = small(world, hardware__memory__hbm__bandwidth="2 TB/s")
    assert {s.cluster.device.device_memory.bandwidth for s in workload.scenarios.values()} == {2e12}
    assert str(workload.origin("hardware.memory.hbm.bandwidth")) == "--set hardware.memory.hbm.bandwidth=2 TB/s"
    one = small(world, scenarios__decode__hardware__memory__hbm__bandwidth="2 TB/s")
    assert one.scenarios["train"].cluster.device.device_memory.bandwidth == 1e12
    assert one.scenarios["decode"].cluster.device.device_memory.bandwidth == 2e12


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("hardware.node.nic.bandwidth", "800 Gbit/s", 100e9),
        ("hardware.node.count", "2", 2),
        ("hardware.network.latency.cross_leaf", "5 us", 5e-6),
        ("hardware.clock", "1.6 GHz", {"tensor_reference": 1.6e9, "max": 2e9}),
        ("hardware.links.fast.bandwidth", "300 GB/s", 300e9),
        ("hardware.links.fast.bandwidth", "{bidirectional: 300 GB/s}", 150e9),
        ("model.layers.0.mixer.kv_heads", "4", 4),
        ("model.layers.0.repeat", "3", 3),
        ("scenarios.train.optimizer.zero", "1", 1),
        ("scenarios.train.precision", "{compute: bf16, master: null}", None),
        ("scenarios.train.precision.moments", "bf16", "bf16"),
        ("scenarios.train.framework.launch", "3 us", 3e-6),
        ("scenarios.train.cluster.count", "4", 4),
        ("scenarios.train.recompute", "[ffn_up, attention_core]", ["attention_core", "ffn_up"]),
    ],
)
def test_a_change_is_typed_and_unit_checked(world: Path, path: str, text: str, value: object) -> None:
    overrides = {path: text}
    if path == "hardware.node.count":
        overrides |= {"scenarios.train.parallel.dp": "2", "scenarios.train.global_batch": "16"}
    workload = resolve("small", overrides=overrides, search_path=[world])
    if path == "scenarios.train.precision":
        assert workload.value("scenarios.train.precision.master") is value
    else:
        assert workload.value(path) == value


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("hardware.memory.hbn.bandwidth", "1 TB/s", "unknown field 'hbn'; did you mean `hbm`?"),
        ("hardware.memory.hbm.bandwith", "1 TB/s", "memory.hbm.bandwith: unknown key; did you mean `bandwidth`?"),
        ("hardware.memory.hbm.bandwidth", "1000", 'memory.hbm.bandwidth: 1000 has no unit; write "1000 GB/s"'),
        ("hardware.memory.hbm.bandwidth", "1 Tb/s", 'write "1 Tbit/s" or "0.125 TB/s"'),
        ("hardware.links.fats.bandwidth", "1 TB/s", "unknown field 'fats'; did you mean `fast`?"),
        ("hardware.math.bf61.peak", "1 TFLOP/s", "unknown field 'bf61'; did you mean `bf16`?"),
        ("hardware.processors.count", "1", "'count' is inside a number that has no fields"),
        ("model.layers.5.repeat", "1", "unknown field '5'; available: 0"),
        ("scenarios.trian.parallel.tp", "1", "unknown scenario 'trian'; did you mean `train`?"),
        ("scenario.train.parallel.tp", "1", "unknown path 'scenario'; did you mean `scenarios`?"),
        ("parallel.tp", "1", "did you mean `scenarios.train.parallel.tp`"),
        ("hardware", "1", "is a section, not a value"),
        ("scenarios.train.global_batch", "[", "is not valid YAML"),
        ("scenarios.train.global_batch", "many", "must be a whole number, not 'many'"),
    ],
)
def test_an_invalid_override_is_an_error_at_the_override(world: Path, path: str, text: str, problem: str) -> None:
    problems = problems_of(lambda: resolve("small", overrides={path: text}, search_path=[world]))
    assert any(problem in str(one) and str(one).startswith(f"--set {path}={text}") for one in problems), problems


def test_peaks_scale_with_processors_and_clock(world: Path) -> None:
    def peaks(**overrides: object) -> tuple[float, float]:
        device = small(world, **overrides).scenarios["train"].cluster.device
        return float(device.peak("bf16")), float(device.peak("fp32"))

    assert peaks() == (10e12, 2e12)
    assert peaks(hardware__processors="20") == (20e12, 4e12)
    assert peaks(hardware__clock="2 GHz") == (20e12, 2e12)
    assert peaks(hardware__clock__max="4 GHz") == (10e12, 4e12)
    assert peaks(hardware__processors="20", hardware__math__bf16__peak="30 TFLOP/s") == (30e12, 4e12)
    document = small(world, hardware__processors="20").document
    assert document["scenarios"]["train"]["hardware"]["device"]["math"]["bf16"]["peak"] == 20e12


def test_arrays_are_values_too(world: Path) -> None:
    processors = np.array([[10.0], [20.0]])
    bandwidth = np.array([[1e12, 2e12, 3e12]])
    overrides = {
        "hardware.processors": SI(processors), "hardware.memory.hbm.bandwidth": SI(bandwidth),
        "scenarios.train.micro_batch": np.array([1, 2, 4]),
    }  # fmt: skip
    train = resolve("small", overrides=overrides, scenarios=["train"], search_path=[world]).scenarios["train"]
    device = train.cluster.device
    assert np.array_equal(device.peak("bf16"), processors * 1e12)
    assert np.array_equal(np.asarray(device.device_memory.bandwidth), bandwidth)
    smem = device.level("smem")
    assert smem is not None
    assert np.array_equal(np.asarray(smem.capacity), processors * 102400)
    assert isinstance(train.plan, Training)
    assert isinstance(train.plan.micro_batch, np.ndarray)
    assert train.plan.micro_batch.dtype == np.float64


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("hardware.memory.hbm.bandwidth", SI(np.array([1e12, -1.0])), "-1 .. 1e.12 is too small"),
        ("hardware.memory.hbm.bandwidth", SI(np.array([1e12, np.nan])), "has an element that is not finite"),
        ("hardware.memory.hbm.bandwidth", np.array([1e12]), "is an array without a unit; pass SI(array)"),
        ("hardware.memory.hbm.bandwidth", 1e12, "has no unit"),
        ("scenarios.train.micro_batch", np.array([1.5]), "is not a whole number"),
        ("scenarios.train.micro_batch", np.array([True]), "must be an array of numbers|cannot be an array"),
        ("scenarios.train.optimizer.zero", np.array([1, 2]), "cannot be an array; write one whole number"),
    ],
)
def test_every_element_of_an_array_is_checked(world: Path, path: str, value: object, problem: str) -> None:
    with pytest.raises(Exception, match=problem.replace("(", r"\(").replace(")", r"\)")):
        resolve("small", overrides={path: value}, search_path=[world])


def test_numbers_from_python_are_taken_as_they_are(world: Path) -> None:
    workload = resolve(
        "small", overrides={"scenarios.train.global_batch": 32, "hardware.power.tdp": SI(500.0)}, search_path=[world]
    )
    assert workload.value("scenarios.train.global_batch") == 32
    assert workload.value("hardware.power.tdp") == 500.0


def test_another_cluster_replaces_every_scenarios_own(world: Path) -> None:
    workload = resolve("small", cluster="box", search_path=[world])
    assert {scenario.cluster.name for scenario in workload.scenarios.values()} == {"box"}
    assert workload.scenarios["train"].cluster.count == 2


def test_a_cluster_that_is_too_small_is_an_error_with_the_numbers(world: Path) -> None:
    edit(world, "workloads/small.yaml", "dp: 4", "dp: 8")
    problems = problems_of(lambda: resolve("small", cluster="clusters/pair", search_path=[world]))
    assert any("16 devices, the cluster has 8" in problem.message for problem in problems)


def test_a_node_in_place_of_a_cluster_means_the_fewest_that_hold_the_layout(world: Path) -> None:
    cluster = small(world).scenarios["decode"].cluster
    assert (cluster.count, cluster.node.count, cluster.devices) == (2, 4, 8)
    assert cluster.network is not None
    assert cluster.network.topology == "unspecified"
    assert cluster.network.radix == 8
    assert cluster.network.bandwidth is None


def test_a_node_in_place_of_a_cluster_works_for_arrays_of_layouts(world: Path) -> None:
    degrees = {"scenarios.decode.parallel.tp": np.array([1, 4, 8])}
    workload = resolve("small", overrides=degrees, scenarios=["decode"], search_path=[world])
    assert np.array_equal(np.asarray(workload.scenarios["decode"].cluster.count), [1, 1, 2])


def test_one_node_has_no_network(world: Path) -> None:
    assert small(world, scenarios__decode__parallel__tp="4").scenarios["decode"].cluster.network is None


def test_nodes_without_a_nic_have_no_network(world: Path) -> None:
    edit(world, "workloads/small.yaml", "nodes/box", "nodes/lone")
    cluster = resolve("small", search_path=[world]).scenarios["decode"].cluster
    assert cluster.count == 2
    assert cluster.network is None


def test_devices_takes_the_first_ranks(world: Path) -> None:
    half = small(world, scenarios__train__devices="4", scenarios__train__parallel__dp="2")
    assert half.scenarios["train"].cluster.devices == 4
    assert not any("requested" in note for note in half.scenarios["train"].notes)
    spare = small(world, scenarios__train__devices="4", scenarios__train__parallel__dp="1")
    assert any("4 requested, but the parallel degrees use 2" in note for note in spare.scenarios["train"].notes)
    part = small(world, scenarios__train__devices="2", scenarios__train__parallel__dp="1")
    assert (part.scenarios["train"].cluster.count, part.scenarios["train"].cluster.node.count) == (1, 2)
    problems = problems_of(lambda: small(world, scenarios__train__devices="6"))
    assert any("cannot use the first 6 devices of 2 nodes with 4 each" in problem.message for problem in problems)


@pytest.mark.parametrize(
    ("cluster", "degrees", "nodes", "used"),
    [
        ("nodes/gb300-nvl72", {"tp": 8, "dp": 64}, 8, 64),
        ("nodes/gb300-nvl72", {"tp": 16, "dp": 64}, 16, 64),
        ("nodes/gb200-nvl72", {"tp": 8, "dp": 72}, 8, 72),
        ("{node: nodes/gb300-nvl72, count: 10}", {"tp": 8, "dp": 64}, 10, 64),
        ("{node: nodes/gb300-nvl72, count: 7}", {"tp": 8, "dp": 63}, 7, 72),
        ("nodes/dgx-h100", {"tp": 2, "dp": 6}, 2, 6),
        ("nodes/dgx-h100", {"tp": 4, "dp": 3}, 2, 8),  # halves of 6 would cut groups of 4: one node and a half
        ("nodes/dgx-h100", {"tp": 1, "dp": 11}, 2, 8),
    ],
)
def test_a_job_uses_as_many_devices_of_every_node(cluster: str, degrees: dict[str, int], nodes: int, used: int) -> None:
    changes = {
        "scenarios.selective.parallel": json.dumps(degrees | {"pp": 1}),
        "scenarios.selective.global_batch": 8 * degrees["dp"],
    }
    changes |= {"scenarios.selective.schedule": "1f1b", "scenarios.selective.cluster": cluster}
    scenario = resolve("gpt3_175b_a100", overrides=changes, scenarios=["selective"]).scenarios["selective"]
    assert (scenario.cluster.count, scenario.cluster.node.count) == (nodes, used)
    told = [note for note in scenario.notes if "devices in use in each" in note]
    assert len(told) == (used in (64, 6))


def test_the_first_devices_may_be_a_part_of_every_rack() -> None:
    changes = {"scenarios.selective.cluster": "nodes/gb300-nvl72", "scenarios.selective.devices": 512}
    changes |= {"scenarios.selective.parallel": "{tp: 8, dp: 64}", "scenarios.selective.schedule": "1f1b"}
    scenario = resolve("gpt3_175b_a100", overrides=changes, scenarios=["selective"]).scenarios["selective"]
    assert (scenario.cluster.count, scenario.cluster.node.count, scenario.cluster.devices) == (8, 64, 512)


def test_groups_of_experts_stay_in_a_rack_that_holds_them() -> None:
    """64 of 72 devices are the most that divide 1,920, but cut groups of 20 ranks that share experts; 60 do not."""
    devices, blocks = np.array([1920.0, 1920.0, 64.0, 144.0]), np.array([1.0, 20.0, 64.0, 1.0])
    used = share_of_node(Ranks(devices, 4.0, blocks), 72.0, np.inf)
    assert list(np.asarray(used)) == [64, 60, 72, 72]


def test_nodes_without_a_network_share_one_switch_also_inline(world: Path) -> None:
    """`cluster: nodes/box` takes as many as the layout needs; an inline cluster that says no more is the same."""
    edit(world, "workloads/small.yaml", "cluster: clusters/pair", "cluster: {node: nodes/box, count: 2}")
    workload = small(world)
    inline, named = (workload.scenarios[name].cluster for name in ("train", "decode"))
    assert inline.count == named.count == 2
    for cluster in (inline, named):
        assert cluster.network is not None
        assert (cluster.network.topology, cluster.network.radix) == ("unspecified", 8)
        assert cluster.network.latency_same_leaf is None  # the NIC's counts


def test_a_network_may_have_prices_of_its_parts(world: Path) -> None:
    edit(world, "hardware/clusters/pair.yaml", "radix: 64", "radix: 64, price: {switch: 100 $, link: 10 $}")
    network = small(world).scenarios["train"].cluster.network
    assert network is not None
    assert (network.price.switch, network.price.link, network.price.endpoint_link) == (100.0, 10.0, None)
    changed = small(world, **{"hardware.network.price.endpoint_link": "5 $"})
    assert changed.value("scenarios.train.hardware.network.price") == {"switch": 100, "link": 10, "endpoint_link": 5}


def test_a_cluster_may_be_inline(world: Path) -> None:
    edit(world, "workloads/small.yaml", "cluster: clusters/pair", "cluster: {node: nodes/box, count: 2}")
    assert small(world).scenarios["train"].cluster.devices == 8
    edit(world, "workloads/small.yaml", "count: 2}", "cuont: 2}")
    (problem,) = problems_of(lambda: resolve("small", search_path=[world]))
    assert str(problem).startswith("workloads/small.yaml:6:32: scenarios.train.cluster.cuont: unknown key")


def test_a_model_may_be_inline_and_extend_another(world: Path) -> None:
    edit(world, "workloads/small.yaml", "model: models/tiny", "model: {extends: models/tiny, name: wide, hidden: 128}")
    architecture = small(world).architecture
    assert (architecture.name, architecture.hidden, architecture.vocabulary) == ("wide", 128, 512)


def test_a_format_that_the_device_lacks_is_an_error_unless_a_fallback_is_named(world: Path) -> None:
    edit(world, "workloads/small.yaml", "global_batch: 16", "global_batch: 16\n    precision: fp8")
    (problem,) = problems_of(lambda: small(world))
    assert str(problem) == (
        "workloads/small.yaml:9:16: scenarios.train.precision: chip has no math unit for fp8; "
        "write `precision: {compute: fp8, fallback: bf16}`, or name another device"
    )
    precision = small(world, scenarios__train__precision__fallback="bf16").scenarios["train"].precision
    assert (precision.linear, precision.activations, precision.scale_block) == ("bf16", "bf16", None)


def test_payloads_of_dispatch_need_no_math_unit(world: Path) -> None:
    workload = small(world, scenarios__train__communication__dispatch="fp8")
    assert workload.scenarios["train"].communication.dispatch == "fp8"


def test_a_node_or_device_can_be_swapped(world: Path) -> None:
    for folder, name in (("devices", "chip"), ("nodes", "box")):
        text = FILES[f"hardware/{folder}/{name}.yaml"].replace(f"name: {name}", f"name: {name}2")
        write(world, f"hardware/{folder}/{name}2.yaml", text)
    workload = small(world, hardware__device="devices/chip2", hardware__node="nodes/box2")
    node = workload.scenarios["train"].cluster.node
    assert (node.name, node.device.name) == ("box2", "chip2")
    assert workload.value("hardware.device.name") == "chip2"


def test_named_sets_of_recomputed_operators_stay_names(world: Path) -> None:
    def recomputed(text: str) -> frozenset[str]:
        plan = small(world, scenarios__train__recompute=text).scenarios["train"].plan
        assert isinstance(plan, Training)
        return plan.recompute

    assert recomputed("none") == frozenset()
    assert recomputed("selective") == {"selective"}
    assert recomputed("[ffn_up]") == {"ffn_up"}


def test_only_the_selected_scenarios_are_resolved(world: Path) -> None:
    edit(world, "workloads/small.yaml", "nodes/box", "nodes/gone")
    assert list(resolve("small", scenarios=["train"], search_path=[world]).scenarios) == ["train"]
    (problem,) = problems_of(lambda: resolve("small", scenarios=["trains"], search_path=[world]))
    assert "did you mean `train`" in problem.hint


def test_the_same_input_resolves_to_the_same_document(world: Path) -> None:
    assert small(world).document == small(world).document


def test_an_override_of_the_network_skips_scenarios_without_one(world: Path) -> None:
    overrides = {"hardware.network.latency.same_leaf": "9 us", "scenarios.decode.parallel.tp": "4"}
    workload = resolve("small", overrides=overrides, search_path=[world])
    network = workload.scenarios["train"].cluster.network
    assert network is not None
    assert network.latency_same_leaf == 9e-6
    assert workload.scenarios["decode"].cluster.network is None
    (problem,) = problems_of(lambda: resolve("small", overrides=overrides, scenarios=["decode"], search_path=[world]))
    assert str(problem).startswith("--set hardware.network.latency.same_leaf=9 us: has no effect")


@pytest.mark.parametrize(
    ("schedule", "stages"), [("1f1b", 1), ("gpipe", 1), ("zb-h1", 1), ("zb-v", 2), ("dualpipe-v", 2)]
)
def test_virtual_stages_default_to_those_of_the_schedule(world: Path, schedule: str, stages: int) -> None:
    workload = small(world, scenarios__train__schedule=schedule)
    assert workload.scenarios["train"].parallel.virtual == stages
    assert workload.scenarios["decode"].parallel.virtual == 1


def test_a_schedule_that_needs_other_stages_says_so_at_the_value(world: Path) -> None:
    edit(world, "workloads/small.yaml", "{tp: 2, dp: 4}", "{tp: 2, dp: 4, virtual: 2}")
    (problem,) = problems_of(lambda: small(world))
    assert problem.field == "scenarios.train.parallel.virtual"
    assert str(problem.location).endswith("workloads/small.yaml:7:39")
    assert "`schedule: interleaved`" in problem.hint


def test_an_unknown_schedule_is_an_error_that_names_the_nearest(world: Path) -> None:
    (problem,) = problems_of(lambda: small(world, scenarios__train__schedule="zbv"))
    assert "unknown value 'zbv'; did you mean `zb-v`?" in str(problem)


@pytest.mark.parametrize(("stated", "taken"), [({}, "ring"), ({"parallel.context": "gather"}, "gather")])
def test_a_framework_s_exchange_of_keys_is_that_of_its_training_where_none_is_stated(
    stated: dict[str, str], taken: str
) -> None:
    own = {"framework": "nemo", "parallel.cp": 2, "sequence": 4096, "global_batch": 16, **stated}
    training = {f"scenarios.training.{key}": value for key, value in own.items()}
    loaded = costmodel.load("llama-3-8b", training, cluster="nodes/dgx-h100", phases=("training",))
    assert loaded.scenario("training").parallel.context == taken
    prompts = {"scenarios.prefill.framework": "nemo", "scenarios.prefill.parallel.cp": 2}
    loaded = costmodel.load("llama-3-8b", prompts, cluster="nodes/dgx-h100", phases=("prefill",))
    assert loaded.scenario("prefill").parallel.context == "gather"
