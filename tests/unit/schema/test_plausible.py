"""Hardware unlike all that is known: an error of `validate`, a warning elsewhere, unless the file says it is meant."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_world import write

import costmodel
from costmodel.errors import ImplausibleInput, InputError
from costmodel.hardware import TOPOLOGIES
from costmodel.network.topologies import TOPOLOGIES as BUILT
from costmodel.schema.files import list_names, validate
from costmodel.schema.kernel_names import FAMILIES, VARIANTS
from costmodel.schema.references import Library, package_root

H800 = "schema: costmodel/device@1\nextends: devices/h800-sxm\nname: mine\n"
VLLM = "schema: costmodel/framework@1\nextends: frameworks/vllm\nname: mine\n"
HGX = "schema: costmodel/node@1\nextends: nodes/hgx-h800\nname: mine\n"
MPFT = "schema: costmodel/cluster@1\nextends: clusters/h800-2048-mpft\nname: mine\n"


def problems(tmp_path: Path, text: str) -> list[str]:
    return [str(problem) for problem in validate(write(tmp_path, "mine.yaml", text))]


@pytest.mark.parametrize(
    ("text", "field", "meant"),
    [
        (H800 + "memory: [{name: hbm, bandwidth: 3.35 GB/s}]", "memory.hbm.bandwidth", "3.35 TB/s"),
        (H800 + "memory: [{name: hbm, capacity: 80 TiB}]", "memory.hbm.capacity", "GB"),
        (H800 + "clock: {max: 1980 kHz}", "clock.max", "1.98 GHz"),
        (H800 + "power: {tdp: 700 kW}", "power.tdp", "700 W"),
        (H800 + "math: {bf16: {peak: 989.4 GFLOP/s}}", "math.bf16.peak", "989.4 TFLOP/s"),
        (H800 + "processors: 132000", "processors", "132"),
        (H800 + "price: {rental: 200 $/h}", "price.rental", "2 $/h"),
        (VLLM + "engine: {request: 6.1 s}", "engine.request", "6.1 ms"),
        (VLLM + "launch: 1.7 ms", "launch", "1.7 us"),
        (VLLM + "host: {recurrence: 590 ns}", "host.recurrence", "590 us"),
        (HGX + "nic: {bandwidth: 400 GB/s}", "nic.bandwidth", "400 Gbit/s (50 GB/s)"),
        (HGX + "nic: {latency: 2.8 ms}", "nic.latency", "2.8 us"),
        (HGX + "host: {peak: {bf16: 128 MFLOP/s}}", "host.peak.bf16", "128 GFLOP/s"),
        (VLLM + "engine: {memory: {utilization: 0.9 %}}", "engine.memory.utilization", "90 %"),
        (MPFT + "network: {planes: 8000000000}", "network.planes", "8"),
        (
            MPFT + "network: {price: {switch: 1501900 $, link: 2599 $, endpoint_link: 1094 $}}",
            "network.price.switch",
            "1.502e+04 $",
        ),
    ],
)
def test_a_wrong_unit_is_told_with_the_value_that_was_probably_meant(
    tmp_path: Path, text: str, field: str, meant: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert f"{field}: " in problem
    assert "is implausible" in problem
    assert f"did you mean {meant}" in problem or meant == "GB"
    kept = f"{text}\nplausible: [{field}]\n"
    assert problems(tmp_path, kept) == []


RUBIN = """schema: costmodel/device@1
name: rubin
{year}architecture: rubin
processors: 224
clock: {{tensor_reference: 2384 MHz, max: 2267 MHz}}
math:
  fp64: {{peak: 33 TFLOP/s, accumulate: fp64, clock: max}}
  fp32: {{peak: 130 TFLOP/s, clock: max}}
  tf32: {{peak: 2 PFLOP/s}}
  bf16: {{peak: 4 PFLOP/s}}
  fp8: {{peak: {fp8}}}
  fp4: {{peak: {fp4}, scaling: native}}
memory:
  - {{name: smem, capacity: 228 KiB, per: processor, bandwidth: null}}
  - {{name: hbm, capacity: {capacity}, bandwidth: {bandwidth}}}
links:
  nvlink: {{bandwidth: {{bidirectional: {nvlink}}}, latency: null}}
power: {{tdp: 2300 W}}
"""
DATASHEET = {
    "fp8": "17.5 PFLOP/s", "fp4": "50 PFLOP/s", "capacity": "288 GB", "bandwidth": "22 TB/s", "nvlink": "3.6 TB/s",
}  # fmt: skip


@pytest.mark.parametrize("year", ["", "announced: 2026\n"])
def test_the_next_generation_is_plausible(tmp_path: Path, year: str) -> None:
    """Bands of what ships were learnt up to 2025; what doubles in a generation goes on doubling."""
    assert problems(tmp_path, RUBIN.format(year=year, **DATASHEET)) == []


@pytest.mark.parametrize(
    ("field", "value", "place", "meant"),
    [
        ("fp8", "17.5 TFLOP/s", "math.fp8.peak", "17.5 PFLOP/s"),
        ("fp4", "50 EFLOP/s", "math.fp4.peak", "50 PFLOP/s"),
        ("bandwidth", "22 GB/s", "memory.hbm.bandwidth", "22 TB/s"),
        ("bandwidth", "176 TB/s", "memory.hbm.bandwidth", "176 Tbit/s (22 TB/s)"),
        ("capacity", "288 TB", "memory.hbm.capacity", "288 GB"),
        ("capacity", "2304 GB", "memory.hbm.capacity", "288 GB"),
        ("nvlink", "3.6 GB/s", "links.nvlink.bandwidth", "1.8 TB/s"),
        ("nvlink", "28.8 TB/s", "links.nvlink.bandwidth", "14.4 Tbit/s (1.8 TB/s)"),
    ],
)
def test_a_wrong_unit_of_the_next_generation_is_told(
    tmp_path: Path, field: str, value: str, place: str, meant: str
) -> None:
    found = problems(tmp_path, RUBIN.format(year="", **DATASHEET | {field: value}))
    (problem,) = [each for each in found if place in each]
    assert f"did you mean {meant}?" in problem


def test_a_device_is_judged_by_its_own_year(tmp_path: Path) -> None:
    """22 TB/s are the memory of 2026; a device of 2020 has 22 Tbit/s."""
    old = problems(tmp_path, RUBIN.format(year="announced: 2020\n", **DATASHEET))
    assert any("memory.hbm.bandwidth: 22 TB/s is implausible" in each for each in old)


def test_levels_are_ordered_and_peaks_are_whole(tmp_path: Path) -> None:
    (slow,) = problems(tmp_path, H800 + "memory: [{name: l2, bandwidth: 2 TB/s}]")
    assert "no nearer level is slower" in slow
    (clock,) = problems(tmp_path, H800 + "math: {fp8: {peak: 1800 TFLOP/s}}")
    assert "FLOP a cycle of a processor, not 8192" in clock


def test_links_of_devices_go_with_their_memory(tmp_path: Path) -> None:
    """A B200 with 900 Gbit/s for GB/s has too little beside its memory, though some link is as slow."""
    own = "schema: costmodel/device@1\nextends: devices/b200-sxm\nname: mine\nlinks: {nvlink: {bandwidth: 900 Gbit/s}}"
    (slow,) = problems(tmp_path, own)
    assert "0.01461 of the bandwidth of memory is implausible" in slow


@pytest.mark.parametrize(
    ("device", "text", "field"),
    [
        ("tpu-v6e", "links: {ici: {bandwidth: {bidirectional: 800 Gbit/s}}}", "links.ici.bandwidth"),
        ("ascend-910c", "memory: [{name: hbm, bandwidth: 3.2 Tbit/s}]", "memory.hbm.bandwidth"),
        ("tpu-v6e", "links: {ici: {bandwidth: {bidirectional: 6400 Gbit/s}}}", ""),  # the same as it is shipped
    ],
)
def test_bits_that_go_with_no_device_are_asked_about(tmp_path: Path, device: str, text: str, field: str) -> None:
    found = problems(tmp_path, f"schema: costmodel/device@1\nextends: devices/{device}\nname: mine\n{text}")
    assert [f"{field}: " in each and "did you mean bytes?" in each for each in found] == [True] * bool(field)


def test_no_nvlink_is_slower_than_the_link_to_the_host(tmp_path: Path) -> None:
    (slow,) = problems(tmp_path, H800 + "links: {nvlink: {bandwidth: 450 Gbit/s}}")
    assert "links.nvlink.bandwidth: is implausible: 56.25 GB/s, but pcie has 64 GB/s" in slow


@pytest.mark.parametrize("path", ["links.pcie.bandwidth", "links.nvlink.bandwidth", "node.nic.bandwidth"])
def test_an_axis_of_links_is_no_mistake(path: str) -> None:
    loaded = costmodel.load("llama-3-8b", cluster="clusters/h100-superpod", phases=("decode",))
    times = loaded.evaluate("decode", vary={f"hardware.{path}": (6.25e9, 9e11)}).metrics["tpot"]
    assert np.shape(times) == (2,)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("hardware.links.nvlink.bandwidth", "450 Gbit/s", "an eighth of the 450 GB/s that the file states"),
        ("hardware.node.nic.bandwidth", "50 Gbit/s", "an eighth of the 50 GB/s that the file states"),
        ("hardware.node.nic.bandwidth", "200 Gbit/s", ""),
        ("hardware.node.nic.bandwidth", "6.25 GB/s", ""),
        ("scenarios.serving.output_tokens", "1000000", r"1e\+06 is implausible: answers are .*did you mean 1000\?"),
        ("scenarios.serving.input_tokens", "20000000", r"did you mean 2e\+04\?"),
        ("scenarios.serving.input_tokens", "1000000", ""),
        ("scenarios.serving.input_tokens", "8", "prompts of servers have a mean of"),
        ("scenarios.serving.requests", "{count: 9, prefix: {tokens: 10}}", "prefixes that engines keep"),
        ("scenarios.serving.requests", "{count: 9, prefix: {tokens: 16}}", ""),
        *(
            ("scenarios.serving.requests", f"{{count: 9, sessions: {{turns: {{mean: 3}}, {each}}}}}", told)
            for each, told in (
                ("first: {mean: 4}", "prompts of servers have a mean of"),
                ("first: {mean: 4000}", ""),
                ("think_time: {mean: 4 ms}", r"pauses between turns.*did you mean 4 s\?"),
                ("think_time: {mean: 4 s}", ""),
                ("think_time: {distribution: lognormal, mean: 4 s, deviation: 6 ms}", "of the mean is implausible"),
                ("think_time: {distribution: lognormal, mean: 4 s, deviation: 6 s}", ""),
                ("agents: {share: 0.06 %, count: {mean: 2}, turns: {mean: 2}}", r"agents start.*did you mean 6 %\?"),
                ("agents: {share: 6 %, count: {mean: 2}, turns: {mean: 2}}", ""),
            )
        ),
        ("scenarios.serving.prefix_hit_rate", "0.56 %", r"did you mean 56 %\?"),
        ("scenarios.serving.memory.utilization", "0.9 %", r"did you mean 90 %\?"),
        ("scenarios.serving.scheduler.token_budget", "2048000", r"did you mean 2048\?"),
    ],
)
def test_a_change_in_bits_and_tokens_in_thousands_are_asked_about(path: str, value: str, told: str) -> None:
    changes = {path: value, "scenarios.serving.parallel.tp": 8}
    with pytest.warns(ImplausibleInput, match=told) if told else nullcontext():
        costmodel.load("llama-3-70b", changes, cluster="clusters/h100-superpod", phases=("serving",))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("0,1000,200\n1,2000,100\n2,800,50\n", ""),
        ("0,1000000,200\n1,2000000,100\n2,800000,50\n", "prompts of traces have a mean of"),
        ("0,1000,200000\n1,2000,100000\n2,800,50000\n", "answers of traces have a mean of"),
        ("0,1000,200\n1000,2000,100\n2000,800,50\n", "requests of published traces come at"),
        ("0,1000,200\n0.001,2000,100\n0.002,800,50\n", "published traces last"),
    ],
)
def test_a_trace_in_other_units_is_asked_about(tmp_path: Path, rows: str, told: str) -> None:
    """Tokens for thousands of them, milliseconds where the column has seconds."""
    write(tmp_path, "t.csv", f"arrival_s,input_tokens,output_tokens\n{rows}")
    text = "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  s: {phase: serving, "
    path = write(tmp_path, "w.yaml", text + "cluster: nodes/h100-x1, requests: {trace: ./t.csv}}\n")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        costmodel.load(path)
    odd = [str(each.message) for each in warned if issubclass(each.category, ImplausibleInput)]
    assert [told in each for each in odd] == ([True] if told else [])


def test_what_is_meant_has_to_be_a_field(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, H800 + "plausible: [memory.hbn]")
    assert "did you mean `hbm`" in problem


def test_simulate_warns_and_says_so_in_the_document() -> None:
    with pytest.warns(ImplausibleInput, match="did you mean 1.008 TB/s"):
        workload = costmodel.load("llama3_8b_rtx4090", set={"hardware.memory.hbm.bandwidth": "1.008 GB/s"})
    assert "is implausible" in workload.simulate()["warnings"][0]
    assert "warnings" not in costmodel.load("llama3_8b_rtx4090").simulate()


@pytest.mark.parametrize("kind", ["devices", "nodes", "clusters"])
def test_every_shipped_file_is_plausible(kind: str) -> None:
    library = Library()
    for name in list_names(kind):
        assert validate(library.find(name, kind)) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (H800 + "calibration: {inherit: h100-sxmm}", "did you mean `h100-sxm`"),
        (H800 + "calibration: {default: {gemn: cublas-vllm}}", "unknown operator family 'gemn'"),
        (H800 + "calibration: {default: {gemm: cublas-vlm}}", "did you mean `cublas-vllm`"),
        (H800 + "calibration: {default: {elementwise/nrom: vllm}}", "unknown kernel 'nrom' of elementwise"),
        (H800 + "calibration: {default: {'gemm/fp8 ': cublas-vllm}}", "'fp8 ' is no number format"),
        (H800 + "memory: [{name: hbn, capacity: 80 GB}]", "did you mean `hbm`"),
        (
            "schema: costmodel/framework@1\nextends: frameworks/vllm\nname: m\nimplementations: {gemm: [cublas-vlm]}",
            "did you mean `cublas-vllm`",
        ),
        (
            "schema: costmodel/cluster@1\nextends: clusters/h800-2048-mpft\nname: m\nnetwork: {topology: fat_tree}",
            "did you mean `fat-tree`",
        ),
    ],
)
def test_unknown_names_are_errors_with_the_nearest_one(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in problem for problem in problems(tmp_path, text))


def test_a_framework_of_ones_own_is_no_proof_of_a_kernel_that_it_names(tmp_path: Path) -> None:
    text = "schema: costmodel/framework@1\nextends: frameworks/vllm\nname: m\nimplementations: {gemm: [cublas-vlm]}"
    (tmp_path / "hardware/frameworks").mkdir(parents=True)
    (tmp_path / "hardware/frameworks/m.yaml").write_text(text)
    assert "unknown implementation 'cublas-vlm'" in str(
        validate(tmp_path / "hardware/frameworks/m.yaml", [tmp_path])[0]
    )


def test_kernels_that_are_fitted_apart_are_known() -> None:
    """Else a shipped file could name one that its own check refuses."""
    keys: set[str] = set()
    for path in (package_root() / "hardware/calibrations").glob("*/*.yaml"):
        keys |= set(yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["families"])
    for family, variants in VARIANTS.items():
        assert {key.partition("/")[2] for key in keys if key.startswith(f"{family}/")} - {""} <= set(variants)


def test_topologies_are_those_that_can_be_counted() -> None:
    assert set(TOPOLOGIES) == {*BUILT, "unspecified"}


def test_families_are_those_that_calibrations_and_operators_have() -> None:
    library = Library()
    roofline = library.read(library.find("roofline", "calibrations"), "calibration")
    families = roofline.at(["families"])
    assert families is not None
    assert {key.partition("/")[0] for key in families.value} <= set(FAMILIES)


ATTENTION = """schema: costmodel/model@1
extends: models/deepseek-v3
name: mine
layers:
  - {repeat: 61, mixer: {type: attention, q_heads: 32, kv_heads: %s, head_dim: 128},
     ffn: {type: moe, experts: 256, intermediate: 2048, top_k: 8, groups: %s, group_top_k: %s}}
"""


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (("8", "8", "4"), ""),
        (("7", "8", "4"), "32 query heads do not group over 7 key-value heads"),
        (("8", "7", "4"), "256 experts do not divide over 7 groups"),
        (("8", "64", "1"), "the chosen groups have 4 experts, fewer than top_k = 8"),
    ],
)
def test_heads_and_experts_that_do_not_group_are_errors(tmp_path: Path, sizes: tuple[str, ...], told: str) -> None:
    found = problems(tmp_path, ATTENTION % sizes)
    assert (told in found[0]) if told else found == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"simulation.slowdowns": "[{rank: 64, slows: compute, speed: 0.5}]"}, "there is no rank 64"),
        ({"simulation.slowdowns": "[{slows: compute, speed: 0.5, begin: 2 s, end: 1 s}]"}, "end must come after begin"),
        ({"simulation.replicas": "9999"}, "9999 replicas are more than the layout has"),
    ],
)
def test_disturbances_of_what_is_not_there_are_errors(changes: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        costmodel.load("deepseek_v3", set={f"scenarios.training.{key}": value for key, value in changes.items()})


def test_a_renamed_copy_keeps_the_fits_and_changed_hardware_transfers_them(tmp_path: Path) -> None:
    write(tmp_path, "copy.yaml", H800 + "price: {rental: 3 $/h}\n")
    write(
        tmp_path,
        "faster.yaml",
        H800.replace("devices/h800-sxm", "./copy.yaml").replace("mine", "other") + "power: {tdp: 690 W}\n",
    )
    results = []
    for device in ("devices/h800-sxm", "./copy.yaml", "./faster.yaml"):
        write(tmp_path, "node.yaml", HGX + f"device: {device}\n")
        text = "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  one: {phase: prefill, "
        text += "cluster: ./node.yaml, input_tokens: 1024, tokens_per_device: 1024}\n"
        workload = costmodel.load(write(tmp_path, "work.yaml", text))
        results.append(workload.simulate()["scenarios"]["one"])
    own, copy, faster = results
    assert copy["metrics"]["ttft"] == own["metrics"]["ttft"]
    assert copy["intervals"]["ttft"] == own["intervals"]["ttft"]
    assert copy["basis"] == own["basis"]
    rested = {name for name, share in faster["basis"].items() if share > 0.0}
    assert rested <= {"transferred", "roofline"}  # the prior of all devices may lead where kin share a vote
    assert faster["basis"]["transferred"] > 0.95
