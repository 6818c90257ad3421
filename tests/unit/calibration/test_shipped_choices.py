"""Which shipped fit a framework's kernels rest on."""

from __future__ import annotations

import pytest

from costmodel.analytic.messages import CollectiveRequest, answer
from costmodel.calibration.candidates import library_of
from costmodel.calibration.fit_files import framework_of
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.schema.files import load_cluster
from costmodel.schema.references import Library

HOPPER = ("h100-sxm", "h200-sxm", "h800-sxm")


@pytest.mark.parametrize(
    ("device", "source"),
    [("h20", "h20/flashinfer"), ("h800-sxm", "h100-sxm/fa3-vllm"), ("h100-sxm", "h100-sxm/fa3-vllm")],
)
def test_the_first_kernel_that_a_framework_names_of_the_die_answers_before_later_ones_of_the_device(
    device: str, source: str
) -> None:
    fit = load_calibration(device, "vllm").families["attention_decode/bf16"]
    assert fit.source == f"calibrations/{source}"


@pytest.mark.parametrize(
    ("framework", "kernels"),
    [("vllm-2024", "flash2"), ("torch-compile", "flash2"), ("pytorch", "flash2"), ("vllm", "fa3-vllm")],
)
def test_hopper_runs_the_flash_attention_of_the_program_s_date(framework: str, kernels: str) -> None:
    fit = load_calibration("h100-sxm", framework).families["attention_prefill/bf16"]
    assert fit.source == f"calibrations/h100-sxm/{kernels}"


@pytest.mark.parametrize(
    ("die", "key", "library"),
    [
        (HOPPER, "elementwise/norm", "vllm"), (HOPPER, "elementwise/add", "torch"),
        (HOPPER, "grouped_gemm/fp8_block", "deepgemm"), (HOPPER, "attention_prefill/bf16", "fa3"),
        (HOPPER, "attention_decode/bf16", "fa3"), (HOPPER, "elementwise/cast", "deepgemm"),
        (("b300-sxm", "gb300"), "attention_prefill/bf16", "trtllm"), (("b300-sxm", "gb300"), "mla_prefill/bf16", "mla"),
    ],
)  # fmt: skip
def test_without_a_program_devices_of_one_die_run_one_library(die: tuple[str, ...], key: str, library: str) -> None:
    sources = [load_calibration(device, "default").families[key].source for device in die]
    assert {library_of(source) for source in sources} == {library}


@pytest.mark.parametrize("device", ["b200-sxm", "b300-sxm", "gb200"])
@pytest.mark.parametrize("phase", ["attention_prefill", "attention_decode"])
def test_vllm_runs_tensorrt_llm_s_attention_on_blackwell(device: str, phase: str) -> None:
    fit = load_calibration(device, "vllm").families[f"{phase}/bf16"]
    _, owner, implementation = fit.source.split("/")
    assert implementation == "trtllm-gen-sglang"
    assert owner == device if device != "b300-sxm" else owner in ("b200-sxm", "gb300")  # which has no rows of it


@pytest.mark.parametrize(
    ("device", "variant", "source"),
    [
        ("h200-sxm", "bf16", "h200-sxm/mla-sglang"), ("b200-sxm", "bf16", "b200-sxm/mla-sglang"),
        ("b200-sxm", "bf16_kvquant", "b200-sxm/mla-sglang"), ("h100-sxm", "bf16_kvquant", "h800-sxm/flashmla"),
    ],
)  # fmt: skip
def test_sglang_decodes_selected_keys_with_its_latent_kernel_and_not_with_that_of_prompts(
    device: str, variant: str, source: str
) -> None:
    fits = load_calibration(device, "sglang").families
    assert fits[f"sparse_mla_decode/{variant}"].source == f"calibrations/{source}"
    assert fits[f"sparse_mla_prefill/{variant}"].source.endswith("/dsa-sglang")
    other = load_calibration(device, "vllm").families[f"sparse_mla_decode/{variant}"]
    assert other.source.endswith("/dsa-sglang")


def test_disturbed_rows_of_a_device_say_nothing() -> None:
    """H200's rows of gated delta under SGLang are 1.3 to 2.7 times H100's where its memory is 1.4 times as fast."""
    fits = load_calibration("h200-sxm", "sglang").families
    for phase in ("prefill", "decode"):
        assert fits[f"linear_attention_{phase}/delta"].source == "calibrations/h100-sxm/fla-sglang"
    assert fits["elementwise/conv"].source == "calibrations/h100-sxm/conv-sglang"
    assert fits["linear_attention_decode/channel_delta"].source == "calibrations/h200-sxm/fla-sglang"


def all_reduce(node: str, size: float) -> tuple[float, str]:
    """Return the time of an all-reduce of eight devices under vLLM, and what it rests on."""
    cluster = load_cluster(f"nodes/{node}")
    fits, vllm = load_calibration(cluster.device, "vllm"), framework_of("vllm", Library(()))
    found = answer(CollectiveRequest("all_reduce", 8, size), cluster, fits, vllm, "analytic")
    return float(found.time), found.basis


def test_small_messages_of_a_device_that_only_large_ones_were_measured_on_are_near_those_of_its_die() -> None:
    a800, a100 = all_reduce("hgx-a800", 64e3)[0], all_reduce("dgx-a100", 64e3)[0]
    assert a100 < a800 < 4.0 * a100  # A800's own fit alone says 64 us: the fixed time of messages of 2 MiB and more
    assert all_reduce("hgx-a800", 64e6)[1] == "measured"


@pytest.mark.parametrize("device", ["rtx-4090", "rtx-4090d", "rtx-5090"])
def test_boards_without_access_to_each_other_run_no_kernel_that_needs_it(device: str) -> None:
    fits = load_calibration(device, "vllm").families
    assert fits["collective/all_reduce"].source.endswith("/nccl")


@pytest.mark.parametrize("device", ["b200-sxm", "b300-sxm", "gb200", "gb300"])
@pytest.mark.parametrize("variant", ["fp8_block", "fp4"])
def test_streams_of_experts_come_from_the_rows_of_their_products(device: str, variant: str) -> None:
    """Also where a relative's fit answers: the two were fitted to one time, and either alone means nothing."""
    products = load_calibration(device, "sglang").families[f"grouped_gemm/{variant}"]
    assert "elementwise/permute" in products.companions
