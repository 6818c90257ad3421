"""Which fit is expected to miss least: of another device, library or build."""

from __future__ import annotations

import math

import pytest
from small_world import write

from costmodel.calibration.expected_error import StepErrors, relation
from costmodel.calibration.fit_files import FitStore, read
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.calibration.fit_search import FitSearch
from costmodel.cost.gemm import scaled_droop
from costmodel.cost.spread import Spread
from costmodel.schema.calibration import FitsFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.files import load_device
from costmodel.schema.references import Library

STEPS = """
schema: costmodel/calibration@1
name: transfer
device: null
basis: fitted
families:
"""


def steps(root, **errors: float) -> StepErrors:
    """Return step errors by name, such as `die`, `stand_in` or `die/gemm/bf16`, as factors."""
    lines = "".join(
        f"  {name}: {{spread: [{{time: 1 s, low: {1 / factor}, median: 1, high: {factor}, rows: 9}}], rows: 9}}\n"
        for name, factor in errors.items()
    )
    write(root, "hardware/calibrations/transfer.yaml", STEPS + lines)
    return StepErrors(read(Library([root]), "calibrations", "transfer", FitsFile).families)


def device(name: str) -> DeviceFile:
    return read(Library(()), "devices", name, DeviceFile)


@pytest.mark.parametrize(
    ("own", "other", "related"),
    [
        ("h100-sxm", "h800-sxm", "die"), ("h200-sxm", "h100-sxm", "die"), ("h20", "h100-sxm", "rebalanced"),
        ("a100-sxm-80gb", "a40", "architecture"), ("b300-sxm", "b200-sxm", "refresh"),
        ("gb300", "rtx-pro-6000", "architecture"), ("b200-sxm", "h100-sxm", "other"),
    ],
)  # fmt: skip
def test_devices_are_related_by_die_balance_and_architecture(own, other, related):
    assert relation(device(own), device(other), same=False) == related


def test_a_transfer_costs_what_was_measured_of_the_very_kernels_first(world):
    known = steps(world, **{"die": 1.3, "die/gemm": 1.2, "die/gemm/bf16": 1.1, "rebalanced/gemm/fp8": 1.5, "other": 2})
    assert known.transfer("own", "gemm/bf16") == 0.0
    assert known.transfer("die", "gemm/bf16") == pytest.approx(math.log(1.1))
    assert known.transfer("die", "gemm/fp8") == pytest.approx(math.log(1.5))  # a nearer device is no worse
    assert known.transfer("die", "gemm/int8") == pytest.approx(math.log(1.2))
    assert known.transfer("die", "bmm/bf16") == pytest.approx(math.log(1.3))
    assert known.transfer("architecture", "bmm/bf16") == pytest.approx(math.log(2.0))


def test_the_next_die_of_the_same_size_bounds_nothing_of_another_balance(world):
    known = steps(world, **{"refresh/gemm/bf16": 1.1, "other/gemm/bf16": 1.6})
    assert known.transfer("rebalanced", "gemm/bf16") == pytest.approx(math.log(1.6))
    assert known.transfer("die", "gemm/bf16") == pytest.approx(math.log(1.1))


def test_standing_in_for_a_library_costs_what_was_measured_of_the_pair_first(world):
    known = steps(world, **{"stand_in": 2, "fa3+triton": 4})
    assert known.stand_in("fa3", "fa3", "gemm/bf16") == 0.0
    assert known.stand_in("triton", "fa3", "gemm/bf16") == pytest.approx(math.log(4.0))
    assert known.stand_in("fa3", "cublas", "gemm/bf16") == pytest.approx(math.log(2.0))


def test_builds_of_tuned_layers_have_a_step_of_their_own_where_it_was_measured(world):
    known = steps(world, **{"version/grouped_gemm/bf16": 2, "version/grouped_gemm/bf16_tuned": 1.1})
    assert known.version("grouped_gemm/bf16") == pytest.approx(math.log(2.0))
    assert known.tuned("grouped_gemm/bf16") == pytest.approx(math.log(1.1))
    assert known.tuned("grouped_gemm/fp8") is None


def test_a_further_error_widens_both_sides_of_a_spread_in_quadrature():
    spread = Spread((1.0,), (0.8,), (1.0,), (1.25,)).widened(math.log(1.25))
    assert spread.high[0] == pytest.approx(1.25 ** math.sqrt(2.0))
    assert spread.low[0] == pytest.approx(0.8 ** math.sqrt(2.0))


@pytest.mark.parametrize(
    ("stand_in", "source"), [(1.1, "calibrations/sibling/other"), (3.0, "calibrations/chip/library")]
)
def test_the_fit_of_least_expected_error_answers(world, stand_in, source):
    steps(world, die=1.5, architecture=1.5, other=1.5, stand_in=stand_in)
    own = (world / "hardware/calibrations/chip/library.yaml").read_text(encoding="utf-8").replace("0.5", "0.25")
    own = own.replace("chip/library", "sibling/other").replace("chip", "sibling")
    write(world, "hardware/calibrations/sibling/other.yaml", own)
    path = world / "hardware/devices/sibling.yaml"
    text = path.read_text(encoding="utf-8").replace("{inherit: chip}", "{inherit: chip, default: {gemm: other}}")
    path.write_text(text, encoding="utf-8")
    found = FitLookup(FitStore(Library([world])), "sibling", {"gemm": ("library",)})
    assert found["gemm"].source == source
    told = [str(one) for one in found.considered("gemm")]
    assert told[-1].startswith(source)
    assert all("expected error" in one for one in told if "no such file" not in one)


def test_a_named_kernels_library_is_that_of_its_file_whatever_the_files_name_is(world):
    steps(world, version=1.5, stand_in=3)
    own = (world / "hardware/calibrations/chip/library.yaml").read_text(encoding="utf-8")
    for name in ("conv-a", "conv-b", "conv-c"):
        library = "library: two\n" if name == "conv-c" else "library: one\n"
        write(world, f"hardware/calibrations/chip/{name}.yaml", own.replace("chip/library", f"chip/{name}") + library)
    search = FitSearch(FitStore(Library([world])), "chip")
    error = {one.implementation: search.steps("gemm", ["conv-a"], one) for one in search.compared("gemm", ["conv-a"])}
    assert error["conv-a"] == 0.0
    assert error["conv-b"] == pytest.approx(math.log(1.5))
    assert error["conv-c"] == pytest.approx(math.log(3.0))


def test_the_clock_of_a_die_falls_with_the_power_that_it_has_and_not_below_it():
    assert scaled_droop(0.2, 1.0) == pytest.approx(0.2)
    assert scaled_droop(0.2, 0.2) == 0.0
    assert scaled_droop(0.2, 8.0) == pytest.approx(1.4)
    assert scaled_droop(0.0, 8.0) == 0.0


def test_small_tiles_lose_as_many_cycles_where_a_die_multiplies_more_slowly():
    key, vllm = "grouped_gemm_weight_only/bf16_mxfp4", "vllm"
    own, slower = (load_calibration(device, vllm).families[key].form for device in ("h200-sxm", "h20"))

    def lost(form, flop_per_cycle):
        return form.small_tile_loss * 2.0 / (form.compute_efficiency * flop_per_cycle)  # cycles a multiply-add

    rates = [load_device(device).math["bf16"].flop_per_cycle for device in ("h200-sxm", "h20")]
    assert rates[1] == pytest.approx(rates[0] / 4.0, rel=0.01)
    assert lost(slower, rates[1]) == pytest.approx(lost(own, rates[0]), rel=0.01)


@pytest.mark.parametrize(
    ("framework", "key", "source"),
    [
        ("sglang", "attention_decode/bf16", "h20/flashinfer"), ("sglang", "gemm/fp8_block", "h20/deepgemm"),
        ("sglang", "attention_prefill/bf16", "h20/fa3-sglang"),
    ],
)  # fmt: skip
def test_what_h20_measured_of_a_library_comes_before_other_balances_of_its_die(framework, key, source):
    assert load_calibration("h20", framework).families[key].source == f"calibrations/{source}"


def test_deepgemm_of_the_same_die_comes_before_tritons_experts():
    found = load_calibration("h100-sxm", "deepseek").families["grouped_gemm/fp8_block"]
    assert (found.source, found.basis) == ("calibrations/h800-sxm/deepgemm", "transferred")
