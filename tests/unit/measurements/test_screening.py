"""Rows that cannot be what they say are told, with their lines, and left out of what is fitted and scored."""

from __future__ import annotations

import numpy as np
import pytest
from small_world import edit

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.row_prediction import Predictions
from costmodel.calibration.row_times import Choice, times_of
from costmodel.cost.calibration import Calibration
from costmodel.cost.spread import Spread
from costmodel.fitting.scoring import score, scores_of
from costmodel.measurements.exclusions import screen
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_all, map_rows
from costmodel.records import fields

GEMM = {"op": "gemm", "m": 128, "n": 256, "k": 512}
STREAM = {"op": "elementwise", "sub_op": "add", "m": 1_000_000, "n": 1000}  # 6 GB: 3 ms at the chip's 2 TB/s


def reasons(table, catalogue):
    return {one.reason: one for one in screen(table, catalogue).omissions}


def test_the_same_row_twice_is_left_out_once_with_both_lines(table, catalogue):
    rows = table(GEMM | {"row_id": 1}, GEMM | {"row_id": 2, "m": 64}, GEMM | {"row_id": 3}, GEMM | {"row_id": 4})
    found = screen(rows, catalogue)
    (twice,) = found.omissions
    assert (twice.op, twice.reason, twice.rows) == ("gemm", "the row stands twice", 2)
    first, second = twice.places
    assert first.endswith("table.csv:2")
    assert "table.csv:4 repeats " in first
    assert "table.csv:5 repeats " in second
    assert sorted(np.concatenate([part.rows for part in found.mapped]).tolist()) == [0, 1]


@pytest.mark.parametrize("change", [{"time_us": 1001}, {"m": 127}, {"kernel": "other"}, {"tier": "primary"}])
def test_rows_that_differ_anywhere_are_measurements_of_their_own(table, catalogue, change):
    assert screen(table(GEMM, GEMM | change), catalogue).omissions == []


def test_rows_without_a_time_repeat_nothing(table, catalogue):
    found = reasons(table(GEMM | {"time_us": -1}, GEMM | {"time_us": -1}), catalogue)
    assert list(found) == ["no time was published, only a rate"]
    assert found["no time was published, only a rate"].rows == 2


def test_products_faster_than_the_peak_at_the_highest_clock_are_left_out(world, table, catalogue):
    row = {"op": "gemm", "m": 4096, "n": 4096, "k": 4096}  # 137 us at 1000 TFLOP/s
    least = 2 * 4096**3 / 1000e12 * 1e6
    assert reasons(table(row | {"time_us": 1.01 * least}), catalogue) == {}
    (only,) = reasons(table(row | {"time_us": 0.99 * least}), catalogue).values()
    assert only.reason == "faster than the dense peak at the highest clock"
    edit(world, "hardware/devices/chip.yaml", "max: 1 GHz", "max: 2 GHz")
    assert reasons(table(row | {"time_us": 0.51 * least}), Catalogue([world])) == {}


def test_streams_faster_than_device_memory_are_left_out(table, catalogue):
    assert reasons(table(STREAM | {"time_us": 3001}), catalogue) == {}
    (only,) = reasons(table(STREAM | {"time_us": 2999}), catalogue).values()
    assert only.reason == "faster than device memory gives the bytes that L2 cannot hold"


def test_bytes_that_l2_may_hold_prove_nothing(world, table):
    edit(world, "hardware/devices/chip.yaml", "memory:\n", "memory:\n  - {name: l2, capacity: 2 GB, bandwidth: null}\n")
    catalogue = Catalogue([world])
    assert reasons(table(STREAM | {"time_us": 2001}), catalogue) == {}
    assert len(reasons(table(STREAM | {"time_us": 1999}), catalogue)) == 1
    assert reasons(table(STREAM | {"m": 300_000, "time_us": 1}), catalogue) == {}


def test_layers_of_experts_with_routing_on_average_are_not_judged(table, catalogue):
    row = {
        "op": "moe_layer", "num_experts": 8, "topk": 2, "ep_size": 1, "tp_size": 1, "num_tokens": 4096, "hidden": 4096,
        "inter": 4096, "distribution": "balanced", "time_us": 1,
    }  # fmt: skip
    assert reasons(table(row), catalogue) == {}
    exact = row | {"sub_op": "fused_experts", "m": 8192, "num_groups": 8}
    assert len(reasons(table(exact), catalogue)) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q_len": 9, "kv_len": 8}, "kv_len is less than q_len, whose tokens it counts too"),
        ({"q_heads": 10, "kv_heads": 4}, "kv_heads do not divide q_heads"),
    ],
)
def test_sizes_that_exclude_each_other_are_left_out_of_predictions_too(table, catalogue, change, reason):
    row = {
        "op": "attention_prefill", "batch": 1, "q_heads": 8, "kv_heads": 4, "head_dim": 64, "v_head_dim": 64,
        "q_len": 8, "kv_len": 8,
    }  # fmt: skip
    mapped, left_out = map_all(table(row, row | change), catalogue)
    assert [part.rows.tolist() for part in mapped] == [[0]]
    assert [(one.reason, one.rows.tolist()) for one in left_out] == [(reason, [1])]


def test_every_row_is_either_mapped_or_left_out_once(table, catalogue):
    rows = table(
        GEMM, GEMM, GEMM | {"time_us": 1e-6}, GEMM | {"time_us": -1}, GEMM | {"device": "NOBODY"},
        GEMM | {"tier": "secondary"}, GEMM | {"tier": "secondary", "flag": "host_overhead_included"},
        STREAM | {"time_us": 1}, GEMM | {"op": "mystery"}, GEMM | {"dtype_in": "fp7"}, STREAM,
    )  # fmt: skip
    found = screen(rows, catalogue)
    kept = sum(len(part.rows) for part in found.mapped)
    assert kept + sum(one.rows for one in found.omissions) == len(rows) == 11
    assert kept == 1  # the first product: both streams take less than 3 ms
    mapped, left_out = map_rows(rows, catalogue)
    told = np.concatenate([*(part.rows for part in mapped), *(one.rows for one in left_out)])
    assert sorted(told.tolist()) == list(range(11))


def test_scores_and_omissions_cover_the_table(table, world):
    rows = table(GEMM, GEMM, GEMM | {"m": 64}, GEMM | {"tier": "secondary"}, GEMM | {"op": "mystery"})
    found = score(rows, [world])
    assert sum(one.rows for one in found.scores) + sum(one.rows for one in found.left_out) == 5
    (product,) = [one for one in found.scores if one.op == "gemm"]
    assert (product.rows, product.left_out) == (2, 1)
    assert product.mean is not None


def test_a_score_has_the_mean_of_its_misses_and_the_median_of_its_signed_ones(table):
    """10 % slow, 20 % slow and 5 % fast; half of each interval is a tenth of the predicted time."""
    rows = table(GEMM, GEMM | {"m": 64}, GEMM | {"m": 32})
    seconds, blank = rows.seconds * np.array([1.1, 1.2, 0.95]), np.array(["", "", ""])
    (found,) = scores_of(rows, Predictions(seconds, 0.9 * seconds, 1.1 * seconds, blank, blank, blank))
    assert (found.rows, found.left_out) == (3, 0)
    assert (found.mean, found.median) == (pytest.approx(0.35 / 3), pytest.approx(0.1))
    assert (found.bias, found.half_width) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.inside == pytest.approx(2 / 3)  # not the one that is 20 % slow
    assert set(found.document()) == set(fields(found)) - {"by"}
    (split, _, _) = scores_of(rows, Predictions(seconds, seconds, seconds, blank, blank, blank), ["m"])
    assert split.document()["by"] == {"m": split.by["m"]}


def test_a_row_of_another_source_adds_what_sources_differ_by(table, catalogue):
    ((part,), _) = map_rows(table(GEMM), catalogue)
    differ = Spread(low=(0.7,), median=(1.0,), high=(1.5,))
    own, other = (times_of(part, Choice(Calibration(), "", across), default_framework()) for across in (None, differ))
    assert other[0] == pytest.approx(own[0])
    assert other[2] - own[0] == pytest.approx(np.hypot(own[2] - own[0], 0.5 * own[0]))
    assert other[1] <= own[1]
