"""A few rows of a device move what others lend it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from small_world import write

from costmodel.calibration.fit_files import framework_of
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.calibration.row_prediction import predict
from costmodel.cost.anchored_fit import AnchoredFit, SharedErrors, half_width, time_shares
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.expected_roofline import bare_times
from costmodel.cost.operator_time import operator_time
from costmodel.cost.spread import Spread
from costmodel.cost.time import Machine, Time
from costmodel.errors import InputError
from costmodel.measurements.tables import read_tables
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.study.checking import check_file
from costmodel.workload.operators import Gemm

KEY = "gemm/bf16"
HEAD = "device,op,dtype_in,dtype_out,m,n,k,time_us\n"
LARGE = Gemm("large", m=8192.0, n=8192.0, k=8192.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
TINY = Gemm("tiny", m=1.0, n=128.0, k=128.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


@pytest.fixture
def lookup(tmp_path):
    """Return a function from rows to the fits of a device that has none but these."""

    folders = map(str, itertools.count())  # files are read once, so that each set has its own

    def of(*rows: str) -> FitLookup:
        root = tmp_path / next(folders)
        anchor = "\ncalibration: {anchor: mine}" if rows else ""
        device = f"schema: costmodel/device@1\nextends: devices/rtx-5090\nname: mine{anchor}\naliases: []\n"
        write(root, "hardware/devices/mine.yaml", device)
        write(root, "hardware/calibrations/mine/mine.csv", HEAD + "".join(f"{row}\n" for row in rows))
        path = (str(root),)
        families = load_calibration(load_device("mine", path), framework_of("default", Library(path)), path).families
        assert isinstance(families, FitLookup)
        return families

    return of


def machine(tmp_path) -> Machine:
    path = (str(tmp_path / "0"),)
    device = load_device("mine", path)
    return Machine(device, framework_of("default", Library(path)), device.processors)


def test_shares_are_those_of_the_largest_part(lookup, tmp_path):
    lookup()
    large, tiny = (time_shares([each], machine(tmp_path)) for each in (LARGE, TINY))
    assert large[1] > 0.9
    assert tiny[0] > 0.9
    assert large.sum() == pytest.approx(1.0)


def test_shares_are_squares_of_times_at_the_peaks(lookup, tmp_path):
    lookup()
    on = machine(tmp_path)
    chip, hbm = bare_times(LARGE, on, 1.0)
    parts = np.array([on.framework.launch, chip, hbm])
    assert time_shares([LARGE], on) == pytest.approx(parts**2 / (parts**2).sum())
    twice = np.array([2.0, 2.0, 2.0]) * parts
    assert time_shares([LARGE, LARGE], on) == pytest.approx(twice**2 / (twice**2).sum())


def test_a_variance_is_of_squared_shares():
    shared = SharedErrors(0.1, 0.2, 0.3, 0.4, 0.05)
    assert float(shared.variance(np.array([0.5, 0.3, 0.2]))) == pytest.approx(
        0.1 + 0.2 * 0.25 + 0.3 * 0.09 + 0.4 * 0.04 + 0.05
    )


def test_half_a_width_is_half_the_logarithm_of_high_over_low():
    fit = FamilyFit(spread=Spread((1.0,), (0.8,), (1.0,), (1.25,)))
    assert float(half_width(fit, LARGE, Time(1.0))) == pytest.approx(math.log(1.25))


def test_what_unseen_groups_add_shrinks_too(lookup):
    far = replace(LARGE, n=2.0**18)
    lent = lookup()[KEY].at(far)
    moved = lookup("mine,gemm,bf16,bf16,8192,8192,8192,9000")[KEY].at(far)
    assert isinstance(moved, AnchoredFit)
    left = float(moved.anchors.left(far))
    assert 0.0 < left < 1.0
    assert float(half_width(moved, far, Time(1.0))) == pytest.approx(left * float(half_width(lent, far, Time(1.0))))


def test_one_row_moves_its_own_kernel_by_hand(lookup, tmp_path):
    lent = lookup()[KEY].at(LARGE)
    on = machine(tmp_path)
    time = operator_time(LARGE, on, None, lent)
    seconds, half, ratio = time.seconds, float(half_width(lent, LARGE, time)), 1.25
    moved = lookup(f"mine,gemm,bf16,bf16,8192,8192,8192,{seconds * ratio * 1e6:.9g}")[KEY].at(LARGE)
    assert isinstance(moved, AnchoredFit)
    shared, shares = moved.anchors.shared, time_shares([LARGE], on)
    z = math.log(ratio) / half
    alike = shared.common + float(shares**2 @ [shared.launch, shared.compute, shared.memory])
    own = shared.own
    for _ in range(100):  # the weight of the row, settled
        told = alike / (alike + own)
        own = shared.own * (4.0 + ((z - told * z) ** 2 + alike * (1.0 - told)) / shared.own) / 5.0
    assert operator_time(LARGE, on, None, moved).seconds == pytest.approx(seconds * math.exp(half * told * z), rel=1e-3)
    left = math.sqrt(1.0 - alike * alike / (alike + own) / (alike + shared.own))
    before, after = (
        math.log(fit.ratio(time, seconds, 0.0, 1.0) / fit.ratio(time, seconds, 0.0, 0.0)) for fit in (lent, moved)
    )
    assert after == pytest.approx(left * before, rel=1e-3)
    assert moved.basis_at(LARGE) == "anchored"
    assert "calibrations/mine/mine" in moved.sources


def test_a_predicted_row_names_the_rows_that_moved_it(lookup, tmp_path):
    row = "mine,gemm,bf16,bf16,8192,8192,8192,9000"
    lookup(row)
    table = read_tables(write(tmp_path, "more.csv", HEAD + row.replace("8192,8192,8192", "512,4096,4096") + "\n"))
    found = predict(table, (str(tmp_path / "0"),))
    assert found.basis.tolist() == ["anchored"]
    assert found.why[0].endswith(", moved by calibrations/mine/mine")


def test_a_row_says_more_of_kernels_like_it(lookup, tmp_path):
    lent, on = lookup()[KEY], machine(tmp_path)
    times = [operator_time(each, on, None, lent.at(each)) for each in (LARGE, TINY)]
    moved = lookup(f"mine,gemm,bf16,bf16,8192,8192,8192,{times[0].seconds * 1.3e6:.9g}")[KEY]
    large, tiny = (
        math.log(operator_time(each, on, None, moved.at(each)).seconds / before.seconds)
        / float(half_width(lent.at(each), each, before))
        for each, before in zip((LARGE, TINY), times, strict=True)
    )
    assert 0.0 < tiny < large < math.log(1.3) / float(half_width(lent.at(LARGE), LARGE, times[0]))


def test_more_rows_leave_less_and_none_leaves_more():
    shared = SharedErrors(0.1, 0.25, 0.2, 0.2, 0.25)
    shares = np.array([[0.1, 0.9, 0.0], [0.0, 0.8, 0.2], [0.9, 0.1, 0.0]])
    errors = np.array([0.3, 0.4, -0.2])
    left = []
    for count in (1, 2, 3):
        between = shared.covariance(shares[0], shares[:count])
        inverse = shared.inverse(shares[:count], errors[:count])
        left.append(1.0 - float(between @ inverse @ between) / float(shared.variance(shares[0])))
    assert 1.0 > left[0] > left[1] > left[2] > 0.0


def test_an_odd_row_counts_less():
    shared, shares = SharedErrors(0.1, 0.25, 0.2, 0.2, 0.25), np.array([[0.0, 1.0, 0.0]])
    told = [
        float(shared.covariance(shares[0], shares) @ shared.inverse(shares, np.array([z])) @ np.array([z])) / z
        for z in (0.5, 3.0, 10.0)
    ]
    assert told[0] > told[1] > told[2]


def test_grids_are_their_points(lookup):
    moved = lookup("mine,gemm,bf16,bf16,8192,8192,8192,9000")[KEY]
    sizes = np.array([1.0, 64.0, 8192.0])
    grid = Gemm("grid", m=sizes, n=4096.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
    assert isinstance(moved, AnchoredFit)
    points = [Gemm("p", m=m, n=4096.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0) for m in sizes]
    assert moved.anchors.expected(grid) == pytest.approx([float(moved.anchors.expected(each)) for each in points])
    assert moved.anchors.left(grid) == pytest.approx([float(moved.anchors.left(each)) for each in points])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("h100-sxm,gemm,bf16,bf16,8192,8192,8192,9000", "has rows of h100-sxm"),
        ("mine,gemm,bf16,bf16,8192,,8192,9000", "`n` is empty"),
        ("mine,gemm,bf16,bf16,8192,8192,8192,900", "faster than the dense peak"),
        ("mine,gemm,bf16,bf16,8192,8192,8192,-1", "cannot move a fit"),
    ],
)
def test_rows_that_cannot_move_a_fit_are_refused(lookup, row, message):
    with pytest.raises(InputError, match=message):
        lookup(row)[KEY]


def test_a_device_file_is_checked_with_its_rows(lookup, tmp_path):
    lookup("h100-sxm,gemm,bf16,bf16,8192,8192,8192,900")
    (problem,) = check_file(str(tmp_path / "0/hardware/devices/mine.yaml"), [str(tmp_path / "0")])
    assert problem.field == "calibration.anchor"
    assert problem.location is not None
    assert problem.location.line == 4
    lookup("mine,gemm,bf16,bf16,8192,8192,8192,9000")
    assert check_file(str(tmp_path / "1/hardware/devices/mine.yaml"), [str(tmp_path / "1")]) == []


def test_a_table_that_is_not_there_is_named(lookup, tmp_path):
    fits = lookup("mine,gemm,bf16,bf16,8192,8192,8192,9000")
    (tmp_path / "0/hardware/calibrations/mine/mine.csv").unlink()
    with pytest.raises(InputError, match=r"there is no calibrations/mine/mine\.csv"):
        fits[KEY]


def test_other_kernels_and_own_fits_stay(lookup):
    fits = lookup("mine,gemm,bf16,bf16,8192,8192,8192,9000")
    assert not isinstance(fits["attention_prefill/bf16"], AnchoredFit)
    assert fits.notes == [] or all("gemm" not in note for note in fits.notes)
    assert isinstance(fits[KEY], AnchoredFit)
    assert "gemm/bf16: moved by 1 row of calibrations/mine/mine" in fits.notes
