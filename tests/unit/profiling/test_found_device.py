"""What a GPU is said to be by torch and by the driver's tools of both vendors, held against stand-ins of them."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch finds the device: pip install 'costmodel[profile]'")

from pretended_gpu import OneRank, PretendedGpu  # noqa: E402

from costmodel.errors import InputError, Notice  # noqa: E402
from costmodel.profiling import found_device  # noqa: E402
from costmodel.profiling.machine import _formats, _formats_of_amd  # noqa: E402
from costmodel.profiling.operands import Operands, fp8_type  # noqa: E402
from costmodel.profiling.running import ProfileRequest, run_on  # noqa: E402
from costmodel.records import replace  # noqa: E402

MI300X = {
    "name": "AMD Instinct MI300X", "major": 9, "minor": 4, "gcnArchName": "gfx942:sramecc+:xnack-",
    "multi_processor_count": 304, "total_memory": 192 * 2**30, "L2_cache_size": 4 * 2**20,
}  # fmt: skip


@pytest.fixture
def rocm(monkeypatch):
    """Return a function that makes torch one of ROCm with a device of some properties, and its library's answers."""

    def put(properties=MI300X, clock=None, power=None, limit=None):
        monkeypatch.setattr(torch.version, "hip", "7.0")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(**properties))
        monkeypatch.setattr(torch.cuda, "_get_amdsmi_handler", lambda _: "handle", raising=False)
        module = types.ModuleType("amdsmi")
        if clock is not None:
            vars(module).update(
                AmdSmiClkType=types.SimpleNamespace(GFX="gfx"), amdsmi_get_clock_info=lambda *_: clock,
                amdsmi_get_power_info=lambda _: power, amdsmi_get_power_cap_info=lambda _: {"power_cap": limit},
                amdsmi_get_gpu_driver_info=lambda _: {"driver_version": "6.12"},
            )  # fmt: skip
        monkeypatch.setitem(sys.modules, "amdsmi", module)

    return put


POWER = {"current_socket_power": "N/A", "average_socket_power": 141}


@pytest.mark.parametrize("limit", [750_000_000, 750])
def test_amds_library_states_clocks_in_megahertz_and_limits_in_microwatts_or_watts(rocm, limit):
    rocm(clock={"clk": 132, "min_clk": 132, "max_clk": 2100}, power=POWER, limit=limit)
    facts = found_device.gpu_facts()
    assert (facts.clock, facts.clock_max, facts.power) == (2.1e9, 2.1e9, 750.0)
    assert (facts.architecture, facts.driver) == ("cdna3", "6.12")
    assert found_device.smi()[:2] == ["132", "141"]


def test_torch_states_a_clock_in_kilohertz_where_no_tool_does(rocm):
    rocm(MI300X | {"clock_rate": 2_100_000})
    assert found_device.gpu_facts().clock == 2.1e9


def test_a_clock_that_nobody_states_is_none(rocm):
    rocm()
    with pytest.warns(Notice, match="amdsmi does not state clock, power and driver: AttributeError"):
        facts = found_device.gpu_facts()
    assert facts.clock is None
    assert facts.power is None


def test_a_device_without_a_clock_is_an_error_before_anything_runs_unless_a_file_describes_it(tmp_path):
    gpu = PretendedGpu()
    gpu.facts = replace(gpu.facts, clock=None, clock_max=None)
    request = ProfileRequest("cuda", ("launch",), 0.1, tmp_path / "new" / "mine.csv")

    def run(name):
        return run_on(gpu, request, OneRank(), lambda rows: np.full(len(rows), 0.3), lambda _: None, lambda _: name)

    with pytest.raises(InputError, match="neither torch nor the driver's tools state the clock of Pretended H100"):
        run(None)
    assert (gpu.built, list(tmp_path.iterdir())) == ([], [])
    assert run("h100-sxm").device == "h100-sxm"


def test_fp8_is_the_format_that_the_device_multiplies():
    assert fp8_type("cdna3") == torch.float8_e4m3fnuz
    assert {fp8_type(name) for name in ("cdna4", "gfx1201", "sm90")} == {torch.float8_e4m3fn}
    operands = Operands("cpu", 2**20, fp8=fp8_type("cdna3"))
    assert operands.tensor("fp8_e4m3", 4, 4).dtype == operands.zeros("fp8_e4m3", 4).dtype == torch.float8_e4m3fnuz


def test_fp4_is_two_elements_in_a_byte():
    drawn = Operands("cpu", 2**20).tensor("nvfp4", 3, 64)
    assert (drawn.shape, drawn.dtype) == ((3, 32), torch.float4_e2m1fn_x2)


def test_formats_follow_the_architecture_and_amds_have_no_scales_of_blocks():
    assert _formats_of_amd("cdna2") == ("bf16", "fp16", "fp32")
    assert _formats_of_amd("cdna3") == _formats_of_amd("gfx1201") == ("bf16", "fp8_e4m3", "fp16", "fp32")
    assert "fp8_e4m3" not in _formats((8, 0))
    assert ["nvfp4" in _formats(each) for each in ((9, 0), (10, 0), (12, 0))] == [False, True, True]
    assert "fp8_e4m3_blk128" in _formats((9, 0))
