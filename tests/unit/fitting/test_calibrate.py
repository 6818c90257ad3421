"""Fits of synthetic tables: known parameters, the noise as error, intervals that hold, and what is told of the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_tables import FILES
from small_world import write
from synthetic import HEADER, LAUNCH, MEMORY, NOISE, stream_table

from costmodel.calibration.fit_files import FitStore
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.row_prediction import predict
from costmodel.errors import InputError
from costmodel.fitting.calibrate import calibrate, default_families
from costmodel.fitting.writing import Origin, write_calibration
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import read_tables
from costmodel.records import replace
from costmodel.schema.references import Library

MEAN_OF_NORMAL = float(np.sqrt(2 / np.pi))  # of its absolute value, in standard deviations


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Return the root, and what a calibration of its table found."""
    root = tmp_path_factory.mktemp("calibrated")
    for name, text in FILES.items():
        write(root, name, text)
    table = stream_table(root, "mine.csv")
    return root, calibrate([table], "chip", root / "hardware/calibrations/chip/mine.yaml", [root])


def test_known_parameters_are_found_again(calibrated):
    _, found = calibrated
    fit = found.outcome.evidence.fitted["elementwise/activation"]
    assert fit.rows == 400
    assert fit.estimate.values["launch"] == pytest.approx(LAUNCH, rel=0.05)
    assert fit.estimate.values["hbm_efficiency"] == pytest.approx(MEMORY, rel=0.05)
    for name in ("launch", "hbm_efficiency"):
        miss = abs(np.log(fit.estimate.values[name] / {"launch": LAUNCH, "hbm_efficiency": MEMORY}[name]))
        assert miss < 4 * fit.estimate.errors[name]


def test_the_cross_validated_error_is_the_noise(calibrated):
    _, found = calibrated
    fit = found.outcome.evidence.fitted["elementwise/activation"]
    assert fit.errors["form"].mean == pytest.approx(NOISE * MEAN_OF_NORMAL, rel=0.2)
    assert fit.errors["residual"].mean < 1.25 * NOISE * MEAN_OF_NORMAL
    assert abs(fit.errors["residual"].bias) < NOISE / 4
    assert fit.errors["roofline"].mean > 3 * fit.errors["residual"].mean


def test_intervals_hold_four_fifths_of_new_rows_and_every_prediction(calibrated):
    root, _ = calibrated
    table = read_tables(stream_table(root, "new.csv", rows=1000, seed=1))
    found = predict(table, [root])
    inside = (table.seconds >= found.low) & (table.seconds <= found.high)
    assert 0.72 < inside.mean() < 0.88
    assert (found.low <= found.seconds).all()
    assert (found.seconds <= found.high).all()
    assert (np.abs(found.seconds / table.seconds - 1).mean()) < 1.3 * NOISE * MEAN_OF_NORMAL
    assert set(found.why) == {"chip/mine"}
    assert set(found.basis) <= {"measured", "fitted", "extrapolated"}


def test_the_file_says_what_was_measured_and_how_it_was_made(calibrated):
    root, _ = calibrated
    text = (root / "hardware/calibrations/chip/mine.yaml").read_text()
    assert 'frameworks: ["lib, 1.0"]' in text
    assert "costmodel calibrate mine.csv --device chip --output mine.yaml" in text
    assert str(root) not in text
    assert json.loads((root / "hardware/calibrations/chip/mine.json").read_text())["families"]


def test_the_same_table_gives_the_same_bytes(calibrated):
    root, _ = calibrated
    folder = root / "hardware/calibrations/chip"
    before = [(folder / name).read_bytes() for name in ("mine.yaml", "mine.json")]
    calibrate([root / "mine.csv"], "chip", folder / "mine.yaml", [root])
    assert [(folder / name).read_bytes() for name in ("mine.yaml", "mine.json")] == before


def test_what_is_read_back_predicts_what_was_fitted(calibrated):
    root, found = calibrated
    fitted = found.outcome.evidence.fitted["elementwise/activation"]
    read = FitLookup(FitStore(Library([root])), "chip", {"elementwise": ("mine",)})["elementwise/activation"]
    assert read.form is not None
    assert read.residual is not None
    for features in ([12.0], [20.0], [30.0]):
        if len(read.residual.axes) == 1:
            assert read.residual.factor(features) == pytest.approx(fitted.residual.factor(features), rel=1e-4)
    assert read.residual.weights == pytest.approx(fitted.residual.weights, rel=1e-5, abs=1e-9)


def test_variants_are_fitted_apart_and_those_with_few_rows_are_told(world):
    stream_table(world, "t/a.csv", rows=60)
    stream_table(world, "t/b.csv", rows=40, seed=2, sub_op="layernorm")
    stream_table(world, "t/c.csv", rows=7, seed=3, sub_op="rope")
    stream_table(world, "t/d.csv", rows=5, seed=4, device="SIBLING")
    found = calibrate([world / "t"], "chip", world / "mine.yaml", [world])
    assert list(found.outcome.evidence.fitted) == ["elementwise/activation", "elementwise/norm"]
    assert found.too_few == {"elementwise/rotary": 7}
    assert found.other_devices == 5
    assert found.inherits is None


def test_formats_of_one_family_are_not_pooled(table, catalogue):
    row = {"op": "gemm", "m": 64, "n": 64, "k": 64}
    rows = [row, row | {"dtype_in": "fp32"}, {"op": "grouped_gemm", "m": 64, "n": 64, "k": 64, "num_groups": 2}]
    mapped, _ = map_rows(table(*rows), catalogue)
    families, without = default_families({"gemm": "any", "gemm/fp32": "own"}, mapped)
    assert families == {"gemm/bf16": "any", "gemm/fp32": "own"}
    assert without == {"grouped_gemm/bf16": 1}


def few_shapes(world, rows, shapes):
    """Write a table in which shapes come again; return its path."""
    line = "{},CHIP,elementwise,silu_and_mul,bf16,{},1024,,,,{}"
    lines = [HEADER, *(line.format(row, 2 ** (row % shapes + 1), 10.0 + row) for row in range(rows))]
    return write(world, "t.csv", "\n".join(lines) + "\n")


def test_shapes_are_held_out_together_where_groups_are_few(world):
    found = calibrate([few_shapes(world, 60, 10)], "chip", world / "mine.yaml", [world])
    evidence = found.outcome.evidence
    assert evidence.held_out == {"elementwise/activation": "shape"}
    assert evidence.fitted["elementwise/activation"].groups == 10
    assert 'held_out: "shape", groups: 10' in (world / "mine.yaml").read_text()


def test_rows_too_few_for_a_fit_stand_in_a_table_of_their_own(world):
    table = stream_table(world, "t.csv", rows=19)
    found = calibrate([table], "chip", world / "mine.yaml", [world])
    assert (found.anchors, dict(found.moved)) == (world / "mine.csv", {"elementwise/activation": 19})
    assert not (world / "mine.yaml").exists()
    assert not (world / "mine.json").exists()
    again, before = (read_tables(path) for path in (world / "mine.csv", table))
    assert again.seconds.tolist() == pytest.approx(before.seconds.tolist())
    for column in ("m", "n"):
        np.testing.assert_array_equal(again.number(column), before.number(column))
    with pytest.raises(InputError, match=r"t\.csv is itself a table of measurements"):
        calibrate([table], "chip", world / "t.yaml", [world])


def test_messages_too_few_for_a_fit_say_how_many_each_family_has(world):
    lines = [HEADER, "1,CHIP,all_reduce,,bf16,,,,1048576,2,12.5"]
    table = write(world, "t.csv", "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"no kernel has the 20 rows"):
        calibrate([table], "chip", world / "mine.yaml", [world])
    assert not (world / "mine.csv").exists()


@pytest.mark.parametrize(("factor", "told"), [(1e3, "nanoseconds"), (1e-3, "milliseconds"), (10.0, None)])
def test_times_in_another_unit_are_refused(world, factor, told):
    """Fitted as microseconds, nanoseconds made a device that is a thousand times slower."""
    table = stream_table(world, "t.csv", rows=25)
    head, *rows = table.read_text().splitlines()
    assert head.endswith(",time_us")
    parts = [row.rpartition(",") for row in rows]
    lines = [head, *(f"{row},{float(time) * factor!r}" for row, _, time in parts)]
    write(world, "t.csv", "\n".join(lines) + "\n")
    if told is None:
        assert calibrate([table], "chip", world / "mine.yaml", [world]).outcome.evidence.fitted
        return
    with pytest.raises(InputError, match=f"these seem to be {told}: write microseconds") as caught:
        calibrate([table], "chip", world / "mine.yaml", [world])
    assert caught.value.problems[0].field == "time_us"
    assert not (world / "mine.yaml").exists()


def test_a_table_of_other_devices_says_which(world):
    table = stream_table(world, "t.csv", rows=25, device="SIBLING")
    with pytest.raises(InputError, match=r"no row is of chip; the tables have sibling"):
        calibrate([table], "chip", world / "mine.yaml", [world])


def test_the_output_has_to_be_yaml(world):
    with pytest.raises(InputError, match=r"is no \.yaml file"):
        calibrate([stream_table(world, "t.csv", rows=25)], "chip", world / "mine.json", [world])


def test_a_file_of_any_name_can_be_read_again(world):
    folder = world / "hardware/calibrations/chip"
    evidence = calibrate([few_shapes(world, 20, 5)], "chip", folder / "no.yaml", [world]).outcome.evidence
    for stem in ("no", "null", "1", "1e3", "FA2.8_x-y"):
        if stem != "no":
            file = evidence.file.model_copy(update={"name": f"chip/{stem}", "library": stem})
            write_calibration(folder / f"{stem}.yaml", replace(evidence, file=file), Origin("rows", "calibrate"))
        read = FitLookup(FitStore(Library([world])), "chip", {"elementwise": (stem,)})
        assert read["elementwise/activation"].form is not None, stem


@pytest.mark.parametrize("stem", ["a b", "ü", "x: y", "#c"])
def test_a_name_that_nothing_can_refer_to_is_refused_before_the_fit(world, stem):
    with pytest.raises(InputError, match="cannot be the name of a file"):
        calibrate([world / "none.csv"], "chip", world / f"{stem}.yaml", [world])


def test_backends_of_a_library_are_never_fitted_together(tmp_path):
    for name, text in FILES.items():
        write(tmp_path, name, text)
    lines = stream_table(tmp_path, "mine.csv", rows=100).read_text().splitlines()
    slow = []
    for number, line in enumerate(lines[1:51], start=1000):  # the second backend takes three times as long
        cells = line.split(",")
        slow.append(",".join([str(number), *cells[1:-1], f"{3.0 * float(cells[-1]):.6g}"]) + ",other")
    table = [lines[0] + ",backend", *(f"{line},usual" for line in lines[1:]), *slow]
    write(tmp_path, "both.csv", "\n".join(table) + "\n")
    output = tmp_path / "hardware/calibrations/chip/mine.yaml"
    run = calibrate([tmp_path / "both.csv"], "chip", output, [tmp_path])
    fit = run.outcome.evidence.fitted["elementwise/activation"]
    assert fit.rows == 100
    assert fit.errors["form"].mean < 1.25 * NOISE
    ((path, other),) = run.backends.items()
    assert path == output.with_name("mine-other.yaml")
    assert path.is_file()
    slower = other.outcome.evidence.fitted["elementwise/activation"]
    assert slower.rows == 50
    assert fit.estimate.values["hbm_efficiency"] / slower.estimate.values["hbm_efficiency"] == pytest.approx(3, rel=0.1)
