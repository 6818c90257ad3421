"""What a device takes of which nothing was measured."""

from __future__ import annotations

import math

import pytest
from small_world import write

from costmodel.calibration.device_chain import same_device
from costmodel.calibration.device_relations import bytes_per_cycle, distance, is_of_one_maker, memory_step
from costmodel.calibration.fit_files import PRIOR, FitStore, framework_of, read
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.calibration.fit_search import FitSearch
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.cost.attention import load_on_memory
from costmodel.cost.calibration import FamilyFit, MeanFit
from costmodel.schema.device import DeviceFile
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm

BLACKWELL = frozenset({"b200-sxm", "gb200", "b300-sxm", "gb300", "rtx-pro-6000", "rtx-pro-6000-server", "rtx-5090"})
PRODUCT = Gemm("product", m=512.0, n=4096.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


def hidden(device: str, framework: str) -> FitLookup:
    """Return the fits of a device while all of Blackwell is hidden."""
    library = Library(())
    store = FitStore(library, BLACKWELL)
    return FitLookup(store, same_device(device, store.library), dict(framework_of(framework, library).implementations))


def device(name: str) -> DeviceFile:
    return read(Library(()), "devices", name, DeviceFile)


def parts(fit: FamilyFit) -> list[str]:
    """Return the files whose fits may have a part in an answer."""
    others = () if fit.others is None else fit.others.fits
    return [each.source.removeprefix("calibrations/") for each in (fit, *others)]


def test_the_nearest_devices_of_other_dies_lend_the_named_kernels_and_what_all_share_joins_them() -> None:
    fits = hidden("b200-sxm", "sglang")
    answer = fits.considered("gemm/bf16")[-1]
    assert answer.source.removeprefix("calibrations/") in ("h100-sxm/cublas-sglang", "h200-sxm/cublas-sglang")
    assert answer.role == "named by the framework"
    fit = fits["gemm/bf16"]
    assert fit.basis == "transferred"
    assert {"h100-sxm/cublas-sglang", "h200-sxm/cublas-sglang", "prior"} <= set(parts(fit))
    mean = fit.at(PRODUCT)
    assert isinstance(mean, MeanFit)
    assert sum(mean.weights) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "rate"), [("h20", 0.25), ("rtx-3090", 0.5), ("rtx-4090", 0.5), ("h200-sxm", 1.0), ("mi300x", 1.0)]
)
def test_a_device_has_a_share_of_the_rate_of_its_die_and_what_kernels_share_reaches_more_of_its_peak(name, rate):
    store = FitStore(Library(()))
    assert store.rate_on_die(name) == pytest.approx(rate, rel=0.01)
    (shared,) = FitSearch(store, name).shared("gemm/bf16")
    stated = float(store.families(PRIOR)["gemm/bf16"].form.compute_efficiency)
    lost = 1.0 / shared.fit.form.compute_efficiency - 1.0
    if name != "mi300x":  # whose whole runs change it
        assert lost == pytest.approx(rate * (1.0 / stated - 1.0), rel=0.01)


def test_a_processor_loads_more_where_its_memory_is_faster_and_no_less_elsewhere() -> None:
    store = FitStore(Library(()))
    fits = store.device_fits("h100-sxm", "trtllm")
    assert fits is not None
    at_home, on_b200, on_a100 = (
        store.on_device(fits.fit("mla_decode/bf16_kvquant", name), name, "h100-sxm").form.cta_load_rate
        for name in ("h100-sxm", "b200-sxm", "a100-sxm-80gb")
    )
    assert at_home == on_a100 < on_b200 < 2.1 * at_home  # 2.0 times the bytes of a processor and cycle
    assert load_on_memory(20.0, 2.0, 47.0) == 40.0
    assert load_on_memory(40.0, 2.0, 47.0) == 47.0  # at most what L2 gives
    assert load_on_memory(100.0, 2.0, 47.0) == 100.0
    two = store.device_fits("h100-sxm", "trtllm").fit("attention_decode/bf16", "b200-sxm")
    moved = store.on_device(two, "b200-sxm", "h100-sxm").form
    assert moved.mmha.split_load_rate == pytest.approx(2.0 * two.form.mmha.split_load_rate, rel=0.05)
    assert moved.mmha.cta_load_rate > two.form.mmha.cta_load_rate


def test_l2_gives_a_processor_what_its_device_states_else_as_much_as_on_the_lender() -> None:
    files = {name: read(Library(()), "devices", name, DeviceFile) for name in ("a100-sxm-80gb", "b200-sxm", "h100-sxm")}
    a100, b200, h100 = files.values()
    of_a100, of_h100 = 5.4e12 / 108 / 1.41e9, 9.7e12 / 132 / 1.83e9
    assert memory_step(a100, h100)[1] == pytest.approx(of_a100)
    assert memory_step(b200, h100)[1] == pytest.approx(of_h100)  # no source states B200's
    assert memory_step(b200, b200) == (1.0, math.inf)
    assert memory_step(b200, h100)[0] == pytest.approx(bytes_per_cycle(b200) / bytes_per_cycle(h100))


def test_fits_of_another_balance_are_joined_at_any_shape_and_those_of_the_device_are_not() -> None:
    frameworks = framework_of("deepseek", Library(()))
    h20, h800 = (load_calibration(load_device(name), frameworks).families for name in ("h20", "h800-sxm"))
    assert isinstance(h20["gemm/bf16"].at(PRODUCT), MeanFit)
    own = h800["gemm/fp8_block"]  # its own DeepGEMM
    assert own.others is not None
    assert own.others.is_own


def test_without_a_name_it_is_the_default_of_the_nearest_device() -> None:
    assert hidden("b200-sxm", "default").considered("gemm/bf16")[-1].role in (
        "default of h200-sxm",
        "default of h100-sxm",
    )


def test_a_measured_row_takes_its_own_kernel_of_another_device() -> None:
    choice = Chooser("b200-sxm", (), BLACKWELL).choose("gemm", "bf16", Kernel("trtllm 1.0", "cublas", ""))
    assert choice.why.split("/")[0] in ("h200-sxm", "h100-sxm")


@pytest.mark.parametrize("name", ["h20", "h100-pcie", "l4", "h200-sxm", "b300-sxm"])
def test_a_row_that_names_no_program_takes_what_a_simulation_without_one_takes(name: str) -> None:
    chooser, simulated = Chooser(name), load_calibration(name, "default").families
    for key in ("gemm/bf16", "attention_prefill/bf16", "mla_decode/bf16", "grouped_gemm/fp8_block"):
        family, _, variant = key.partition("/")
        predicted = chooser.choose(family, variant, Kernel("", "", "")).calibration.families
        assert predicted[key].sources == simulated[key].sources


@pytest.mark.parametrize(
    ("family", "variant", "kernel", "others"),
    [
        # TensorRT-LLM's latent decoding is of no other device of the die: B200 lends it, H200's FlashAttention-3 joins
        ("mla_decode", "bf16", Kernel("trtllm 1.3.0rc20", "default", ""), {"b200-sxm/trtllm", "h200-sxm/mla-sglang"}),
        # `torch_flow` names kernels of several libraries: on B200 that of block-scaled products is DeepGEMM
        ("gemm", "fp8_block", Kernel("trtllm 1.3.0rc20", "torch_flow", ""), {"h800-sxm/deepgemm", "h20/deepgemm"}),
        # a copy of the cache stands in for no library that has a kernel
        ("mla_decode", "bf16_kvquant", Kernel("trtllm 1.3.0rc20", "default", ""), {"b200-sxm/trtllm"}),
    ],
)  # fmt: skip
def test_a_kernel_that_the_die_lacks_is_stood_in_for(family, variant, kernel, others) -> None:
    choice = Chooser("h100-sxm", (), frozenset({"h100-sxm"})).choose(family, variant, kernel)
    fit = choice.calibration.families[f"{family}/{variant}"]
    assert fit.others is not None
    assert others <= set(parts(fit))
    assert "h200-sxm/mla-sglang" in others or "h200-sxm/mla-sglang" not in parts(fit)


def test_a_kernel_that_nobody_measured_is_stood_in_for_by_what_the_die_runs() -> None:
    hidden = frozenset({"h100-sxm"})
    choice = Chooser("h100-sxm", (), hidden).choose("mla_decode", "bf16", Kernel("new 1", "novel", ""))
    stated = choice.calibration.families["mla_decode/bf16"]
    assert choice.why.endswith("stands in for kernel novel")
    assert set(parts(stated)) == {"h20/flashinfer", "h200-sxm/mla-sglang", "h800-sxm/flashinfer", "prior"}


def test_untuned_rows_answer_for_their_own_device_alone() -> None:
    kernel = Kernel("vllm 0.24.0", "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts", "")
    untuned = "calibrations/h200-sxm/flashinfer-moe-vllm"
    own = Chooser("h200-sxm").choose("grouped_gemm", "fp8", kernel).calibration.families["grouped_gemm/fp8"]
    assert own.source == untuned
    sibling = Chooser("h100-sxm", (), frozenset({"h100-sxm"})).choose("grouped_gemm", "fp8", kernel).calibration
    found = sibling.families["grouped_gemm/fp8"]
    assert untuned.removeprefix("calibrations/") not in parts(found)
    simulated = load_calibration(load_device("h200-sxm"), "vllm").families
    assert simulated["grouped_gemm/fp8"].source == "calibrations/h100-sxm/trtllm-moe-fp8"
    passed = [str(each) for each in simulated.considered("grouped_gemm/fp8") if each.source == untuned]
    assert passed == [f"{untuned} (named by the framework): ran untuned, as engines do not run it"]
    block = load_calibration(load_device("h200-sxm"), "vllm").families["grouped_gemm/fp8_block"]
    assert block.source != untuned  # its tactics are not tuned at all: the rows are as an engine runs them


def test_a_hidden_file_leaves_the_others_of_its_device() -> None:
    store = FitStore(Library(), frozenset({"h800-sxm/deepgemm", "gb200/trtllm"}))
    names = set(FitStore(Library()).names("h800-sxm")) - set(store.names("h800-sxm"))
    assert names == {"deepgemm"}
    assert store.device_fits("h800-sxm", "deepgemm") is None
    assert store.device_fits("h800-sxm", "cutlass-vllm") is not None
    assert "deepgemm" not in store.chain("h800-sxm")[0][1].values()
    assert store.device_fits("gb200", "trtllm") is None  # as rows of the device move those of another one
    assert FitStore(Library()).device_fits("gb200", "trtllm") is not None


def test_a_row_of_a_library_that_its_device_lacks_takes_that_of_another_device() -> None:
    hidden = frozenset({"a100-sxm-80gb/trtllm-moe"})
    kernel = Kernel("trtllm 1.0.0", "moe_torch_flow", "")
    fits = Chooser("a100-sxm-80gb", (), hidden).choose("grouped_gemm", "bf16", kernel).calibration.families
    assert isinstance(fits, FitLookup)
    lead = fits.considered("grouped_gemm/bf16")[-1]
    assert (lead.implementation, lead.device != "a100-sxm-80gb") == ("trtllm-moe", True)


def test_a_published_rate_is_not_lent_for_a_measured_row() -> None:
    choice = Chooser("b200-sxm", (), BLACKWELL).choose(
        "attention_prefill", "bf16", Kernel("sglang 0.5.14", "trtllm_mha", "")
    )
    assert choice.why.split(" ")[0].partition("/")[2] in ("trtllm", "fa3-sglang")


def test_another_maker_s_kernels_are_not_lent() -> None:
    fits = load_calibration(load_device("mi300x"), "default").families
    assert fits["gemm/bf16"].source == "calibrations/prior"
    assert not is_of_one_maker(device("mi300x"), device("h100-sxm"))


def test_nothing_is_borrowed_where_the_file_says_so(world) -> None:
    text = "schema: costmodel/device@1\nextends: devices/chip\nname: alone\ncalibration: {inherit: null}\n"
    write(world, "hardware/devices/alone.yaml", text)
    store = FitStore(Library([world]))
    assert not store.may_borrow("alone")
    assert store.may_borrow("sibling")


@pytest.mark.parametrize(("near", "far"), [("h200-sxm", "l40s"), ("h100-sxm", "rtx-4090")])
def test_devices_are_near_whose_sizes_are_alike(near, far) -> None:
    own = device("b200-sxm")
    assert distance(own, device(near)) < distance(own, device(far))
    assert distance(own, own) == 0.0


def test_devices_are_near_whose_tiles_are_as_large() -> None:
    """Processors, bandwidth and peak of RTX PRO 6000 are nearer to H100's than B200's, its shared memory is not."""
    assert distance(device("h100-sxm"), device("b200-sxm")) < distance(device("h100-sxm"), device("rtx-pro-6000"))
    assert FitStore(Library(())).others("h100-sxm", same_die=False)[0] == "b200-sxm"
