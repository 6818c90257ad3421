"""The device files against published datasheet rows, and what of them follows from each other."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping

import pytest

from costmodel.hardware import Device
from costmodel.schema.files import list_names, load_device, load_node
from costmodel.schema.references import package_root
from costmodel.units import parse

ROWS = package_root().parent / "shared/published/published_dev.csv"
TIGHT = 0.0006  # a datasheet rounds 1,978.9 to 1,978
NOMINAL = 0.01  # "80 GB" of device memory are 80 GiB, of which the driver keeps a little

SYSTEMS = {
    "H800 SXM": "h800-sxm",
    "A100 SXM 80GB": "a100-sxm-80gb",
    "A100 PCIe 80GB": "a100-pcie-80gb",
    "RTX 4090": "rtx-4090",
    "H100 SXM": "h100-sxm",
    "H200 SXM": "h200-sxm",
    "B200 SXM": "b200-sxm",
    "GB200": "gb200",
    "L40S": "l40s",
    "H20": "h20",
    "MI300X": "mi300x",
}
Figure = tuple[Callable[[Device], float | None], str, str]  # ours, unit, dimension
METRICS: Mapping[str, Figure] = {
    "BF16 dense": (lambda device: device.peak("bf16"), "TFLOP/s", "flop_rate"),
    "FP16 dense": (lambda device: device.peak("fp16"), "TFLOP/s", "flop_rate"),
    "FP16 dense FP32-acc": (lambda device: device.peak("fp16"), "TFLOP/s", "flop_rate"),
    "FP8 dense": (lambda device: device.peak("fp8"), "TFLOP/s", "flop_rate"),
    "FP8 dense FP32-acc": (lambda device: device.peak("fp8"), "TFLOP/s", "flop_rate"),
    "FP8 dense FP16-acc": (lambda device: device.peak("fp8_fp16"), "TFLOP/s", "flop_rate"),
    "FP4 dense": (lambda device: device.peak("fp4"), "TFLOP/s", "flop_rate"),
    "FP64": (lambda device: device.peak("fp64"), "TFLOP/s", "flop_rate"),
    "SMs": (lambda device: device.processors, "", "count"),
    "CUs": (lambda device: device.processors, "", "count"),
    "HBM": (lambda device: device.device_memory.capacity, "GiB", "size"),
    "memory": (lambda device: device.device_memory.capacity, "GiB", "size"),
    "L2": (lambda device: device.level("l2").capacity, "MiB", "size"),
    "HBM bandwidth": (lambda device: device.device_memory.bandwidth, "GB/s", "bandwidth"),
    "memory bandwidth": (lambda device: device.device_memory.bandwidth, "GB/s", "bandwidth"),
    "NVLink bidirectional": (lambda device: 2 * device.links["nvlink"].bandwidth, "GB/s", "bandwidth"),
    "NVLink per direction": (lambda device: device.links["nvlink"].bandwidth, "GB/s", "bandwidth"),
    "boost": (lambda device: device.clock, "MHz", "frequency"),
    "TDP": (lambda device: device.power.tdp, "W", "power"),
    "MSRP": (lambda device: device.price.purchase, "$", "money"),
}
DIFFERENT = {
    # The datasheet prints 362.05, the L40's figure, beside a sparse 733 that is twice 366: see the file's own note.
    ("l40s", "FP16 dense"): 366.0 / 362.0
}
ABSENT = {
    # An FP16 sum of FP16 products has no use in training or serving here, and no format name.
    ("rtx-4090", "FP16 dense FP16-acc")
}


def verified() -> list[dict[str, str]]:
    """Return the datasheet rows that somebody read at their source."""
    with ROWS.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["kind"] == "datasheet" and row["verified"] == "yes"]


def test_every_published_figure_is_ours() -> None:
    if not ROWS.is_file():
        pytest.skip("the published rows stand beside the repository, in ../shared, and are not there")
    wrong = []
    for row in verified():
        name, metric = SYSTEMS[row["system/hardware"]], row["metric"]
        if (name, metric) in ABSENT:
            continue
        ours, unit, dimension = METRICS[metric]
        published = parse(f"{row['value']} {unit}".strip(), dimension) * DIFFERENT.get((name, metric), 1.0)
        tolerance = NOMINAL if metric in ("HBM", "memory") else TIGHT
        value = ours(load_device(name))
        if value is None or abs(value / published - 1) > tolerance:
            wrong.append(f"{row['id']}: {value:g}, published {published:g}")
    assert not wrong


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("h800-sxm", "bf16", 989.4), ("h800-sxm", "fp8", 1978.9), ("a100-sxm-80gb", "bf16", 312.0),
        ("rtx-4090", "bf16", 165.2), ("rtx-4090", "fp8", 330.3), ("rtx-4090", "fp8_fp16", 660.6),
        ("mi300x", "bf16", 1307.4),
    ],
)  # fmt: skip
def test_dense_peaks_of_the_first_devices(name: str, dtype: str, teraflops: float) -> None:
    assert load_device(name).peak(dtype) == pytest.approx(teraflops * 1e12, rel=1e-9)


def test_the_reference_clock_of_h800_is_that_of_its_tensor_peak() -> None:
    """132 SMs x 4,096 FLOP x 1.83 GHz; the CUDA cores' peak is at 1.98 GHz."""
    device = load_device("h800-sxm")
    assert device.peak("bf16") == pytest.approx(132 * 4096 * 1.83e9, rel=1e-3)
    assert device.peak("fp32") == pytest.approx(132 * 256 * 1.98e9, rel=1e-3)


def test_h800_nvlink_is_400_gb_s_in_both_directions_together() -> None:
    assert load_device("h800-sxm").links["nvlink"].bandwidth == 200e9


@pytest.mark.parametrize("name", list_names("devices"))
def test_a_tensor_peak_is_a_power_of_two_of_flop_a_cycle(name: str) -> None:
    """Arrays of multipliers come in powers of two: a peak that is none was read off the wrong column or clock.

    Blackwell Ultra's FP4 is half as much again: 15 PFLOP/s beside 5 of FP8 (GB300 NVL72, NVIDIA's product page).
    Rubin's 4 PFLOP/s of 16 bits are rounded to a digit.
    """
    device = load_device(name)
    for dtype in {"bf16", "fp16", "fp8", "fp8_fp16", "fp4", "int8"} & set(device.math):
        again = 1.5 if dtype == "fp4" and name in ("b300-sxm", "gb300") else 1.0
        doublings = math.log2(float(device.math[dtype].flop_per_cycle) / again)
        known = 0.17 if device.peak(dtype) == 4e15 else 0.01  # log2 of 4.5 over 4
        assert doublings == pytest.approx(round(doublings), abs=known), dtype


@pytest.mark.parametrize(
    ("name", "dtype", "units", "flop", "clock", "teraflops"),
    [
        ("gb10", "fp4", 48, 4096, 2543e6, 500),
        ("mi300a", "bf16", 228, 2048, 2100e6, 980.6),
        ("vr200", "fp8", 224, 32768, 2384e6, 17500),
        ("tpu-v6e", "bf16", 4, 2 * 256 * 256, 1751e6, 918),
        ("tpu-v7", "fp8", 2, 2**20, 2200e6, 4614),
        ("trainium2", "bf16", 8, 2 * 128 * 128, 2400e6, 8 * 79),
        ("trainium3", "fp8", 8, 8 * 128 * 128, 2400e6, 2517),
        ("ascend-910c", "bf16", 2 * 24, 2 * 16**3, 1912e6, 2 * 376),
        ("gaudi-3", "bf16", 8, 2 * 256 * 256, 1750e6, 1835),
        ("h100-nvl", "bf16", 132, 4096, 1545e6, 835.5),
    ],
)
def test_peaks_are_units_times_clock_times_flop(
    name: str, dtype: str, units: int, flop: int, clock: float, teraflops: float
) -> None:
    assert units * flop * clock == pytest.approx(teraflops * 1e12, rel=0.006)  # 79 TFLOP/s have two digits
    assert load_device(name).peak(dtype) == pytest.approx(teraflops * 1e12)


def test_links_of_a_chip_are_the_sum_of_its_ports() -> None:
    for name in ("tpu-v6e", "tpu-v7", "trainium2"):
        node = load_node("trn2-x1" if name == "trainium2" else f"{name}-x1")
        assert node.nic is not None
        assert node.nic.bandwidth * node.nic.per_device == pytest.approx(node.intra.bandwidth, rel=1e-3)
    assert load_device("gaudi-3").links["roce"].bandwidth == 21 * 25e9
    assert load_device("ascend-910c").links["ub"].bandwidth == 392e9  # one direction; others are stated for both
