"""Which fit a family gets: the named kernel's, a sibling's, or the roofline's spread."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import FRAMEWORK
from small_world import write

from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.kernels import gemm_time
from costmodel.cost.time import Machine
from costmodel.errors import InputError
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm

LARGE = Gemm(
    "large", m=8192.0, n=8192.0, k=8192.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0
)  # limited by arithmetic


def busy_time(fit: FamilyFit, world: Path) -> float:
    device = load_device("chip", [world])
    return float(gemm_time(LARGE, Machine(device, FRAMEWORK, device.processors), fit).compute)


def test_without_a_named_implementation_every_family_has_the_spread_of_the_roofline():
    calibration = load_calibration("l4", "default")
    gemm = calibration.family("gemm")
    assert (gemm.compute_efficiency, gemm.hbm_efficiency, gemm.basis) == (1.0, 1.0, "roofline")
    assert all(
        low <= median <= high
        for low, median, high in zip(gemm.spread.low, gemm.spread.median, gemm.spread.high, strict=True)
    )
    assert not gemm.spread.is_exact
    assert list(calibration.notes) == []


def test_half_the_arithmetic_efficiency_doubles_the_busy_time(world):
    plain = load_calibration("chip", "default", [world]).family("gemm")
    fitted = load_calibration("chip", "fast", [world]).family("gemm")
    assert fitted.basis == "fitted"
    assert busy_time(fitted, world) == pytest.approx(2 * busy_time(plain, world), rel=1e-12)


def test_families_that_a_fit_does_not_cover_stay_at_the_roofline(world):
    calibration = load_calibration("chip", "fast", [world])
    assert calibration.family("elementwise").basis == "roofline"


def test_a_device_without_measurements_borrows_those_of_its_sibling(world):
    calibration = load_calibration("sibling", "fast", [world])
    assert calibration.family("gemm").basis == "transferred"
    assert calibration.family("gemm").compute_efficiency == 0.5
    assert list(calibration.notes) == ["gemm: sibling has no fit of library; using library, measured on chip"]


def test_kernels_of_a_family_with_the_same_note_are_told_once():
    notes = ["elementwise/norm: using a", "gemm: using b", "elementwise/rotary: using a", "elementwise/add: using b"]
    assert Calibration(notes=notes).told(()) == (
        "elementwise/norm, rotary: using a", "gemm: using b", "elementwise/add: using b"
    )  # fmt: skip


def test_a_sibling_s_file_is_read_only_where_the_device_has_no_fit_of_its_own(world):
    own = (world / "hardware/calibrations/chip/library.yaml").read_text(encoding="utf-8").replace("0.5", "0.25")
    write(world, "hardware/calibrations/sibling/library.yaml", own.replace("chip", "sibling"))
    write(world, "hardware/calibrations/chip/library.yaml", "schema: costmodel/calibration@1\nname: broken\n")
    calibration = load_calibration("sibling", "fast", [world])
    gemm = calibration.family("gemm")
    assert (gemm.compute_efficiency, gemm.basis) == (0.25, "fitted")
    with pytest.raises(InputError, match=r"library\.yaml"):
        load_calibration("chip", "fast", [world]).family("gemm")


def test_an_unknown_implementation_is_priced_at_the_roofline_and_named(world):
    write(world, "hardware/frameworks/fast.yaml", """
schema: costmodel/framework@1
extends: frameworks/default
name: fast
implementations: {gemm: nobody}
""")  # fmt: skip
    calibration = load_calibration("sibling", "fast", [world])
    assert calibration.family("gemm").basis == "roofline"
    assert list(calibration.notes) == [
        "gemm: sibling has no measurements of nobody; using the closest available fit, or the roofline if there is none"
    ]


def test_the_same_kernel_of_the_nearest_device_of_the_die_comes_before_another_kernel_of_the_device(world):
    chip = (world / "hardware/devices/chip.yaml").read_text()
    library = (world / "hardware/calibrations/chip/library.yaml").read_text(encoding="utf-8")
    die = chip.replace("architecture: test", "architecture: test\ndie: d1")
    write(world, "hardware/devices/chip.yaml", die)
    write(
        world,
        "hardware/devices/far.yaml",
        die.replace("name: chip", "name: far").replace("2 TB/s", "8 TB/s").replace("CHIP", "FAR"),
    )
    write(world, "hardware/calibrations/far/library.yaml", library.replace("chip", "far").replace("0.5", "0.125"))
    own = die.replace("name: chip", "name: own").replace("CHIP", "OWN") + "calibration: {default: {gemm: other}}\n"
    write(world, "hardware/devices/own.yaml", own)
    write(
        world,
        "hardware/calibrations/own/other.yaml",
        library.replace("chip/library", "own/other").replace("devices/chip", "devices/own").replace("0.5", "0.25"),
    )
    calibration = load_calibration("own", "fast", [world])
    assert (calibration.family("gemm").compute_efficiency, calibration.family("gemm").basis) == (0.5, "transferred")
    assert list(calibration.notes) == ["gemm: own has no fit of library; using library, measured on chip"]


def test_devices_that_inherit_in_a_cycle_are_an_error(world):
    chip = (world / "hardware/devices/chip.yaml").read_text()
    write(world, "hardware/devices/chip.yaml", chip + "calibration: {inherit: sibling}\n")
    (world / "hardware/calibrations/chip/library.yaml").unlink()
    with pytest.raises(InputError, match="cycle: chip -> sibling -> chip"):
        load_calibration("chip", "fast", [world])


def test_a_share_above_one_and_a_misspelt_key_are_both_reported(world):
    write(world, "hardware/calibrations/chip/library.yaml", """
schema: costmodel/calibration@1
name: chip/library
device: devices/chip
basis: fitted
families:
  gemm:
    compute_efficiency: 1.5
    hbm_eficiency: 0.9
    spread: [{time: 1 ms, low: 2, median: 1, high: 3, rows: 1}]
    rows: 1
""")  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_calibration("chip", "fast", [world]).family("gemm")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "families.gemm.compute_efficiency" in text
    assert "did you mean `hbm_efficiency`" in text
    assert "2, 1, 3 are not in order" in text


def test_the_same_arguments_give_the_same_object(world):
    assert load_calibration("chip", "fast", [world]) is load_calibration("chip", "fast", [world])
