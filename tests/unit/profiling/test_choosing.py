"""Which kernels are timed first: far from what is measured, where predictions are least sure, each once."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.profiling.rows import most_informative
from costmodel.profiling.shapes import SUITES, ProfileLimits, Shape, collectives, shapes
from costmodel.records import replace

SMALL = ProfileLimits({"fp32": 1e11, "bf16": 4e11}, 2e10, 1e8, 1e-3, gpu=False)


def product(m: int, n: int = 64, sub_op: str = "") -> Shape:
    return Shape("gemm", "gemm", "bf16", (("m", m), ("n", n), ("k", 64)), sub_op)


def order(some, measured=(), widths=None):
    widths = np.ones(len(some)) if widths is None else np.array(widths, dtype=float)
    return list(most_informative(some, frozenset(measured), widths))


def test_every_kernel_comes_once_and_none_that_is_measured():
    some = [product(2**power) for power in range(12)]
    found = order(some, {some[3].row_id, some[7].row_id})
    assert len(found) == 10
    assert {shape.row_id for shape in found} == {shape.row_id for shape in some} - {some[3].row_id, some[7].row_id}


def test_the_next_kernel_is_the_farthest_from_all_measured_ones():
    some = [product(2**power) for power in range(9)]
    first, second, third, *_ = order(some, {some[0].row_id})
    assert [first.size("m"), second.size("m")] == [256, 16]  # the other end, then half way between both
    assert third.size("m") in (4, 64)


def test_prefixes_cover_the_space_within_twice_the_best_possible_radius():
    # Gonzalez' bound of the greedy design, against the known optimum of a line: n points leave a gap of 12 / (2 n).
    some = [product(2**power) for power in range(13)]
    found = order(some)
    for count in (2, 3, 4):
        chosen = np.array([shape.point()[0] for shape in found[:count]])
        radius = max(np.abs(chosen - place).min() for place in range(13))
        assert radius <= 2 * np.ceil((13 - count) / (2 * count))


def test_what_is_predicted_least_surely_comes_first():
    sure = [product(2**power) for power in range(8)]
    unsure = [product(2**power, sub_op="dgrad") for power in range(8)]
    found = order([*sure, *unsure], {sure[0].row_id, unsure[0].row_id}, [0.1] * 8 + [0.8] * 8)
    assert [shape.sub_op for shape in found[:4]] == ["dgrad"] * 4


def test_a_family_that_can_be_fitted_leaves_the_time_to_others():
    unknown = [Shape("gemm", "bmm", "bf16", (("m", 2**m), ("n", 2**n))) for m in range(10) for n in range(10)]
    fitted = [Shape("gemm", "softmax", "bf16", (("m", 2**m), ("n", 2**n))) for m in range(10) for n in range(10)]
    found = order([*unknown, *fitted], (), [1.0] * 100 + [0.2] * 100)
    counts = [sum(shape.op == "bmm" for shape in found[:count]) for count in (20, 60)]
    assert counts[0] >= 18
    assert 25 <= counts[1] <= 45


def test_a_family_without_measurements_begins_in_its_middle():
    some = [product(2**power) for power in range(9)]
    assert order(some)[0].size("m") == 16


def test_families_that_do_not_count_come_last_even_where_they_would_lead():
    streams = [Shape("copies", "elementwise", "bf16", (("m", 2**power),), "add") for power in range(5)]
    some = [product(2**power) for power in range(5)] + streams
    assert [shape.op for shape in order(some)] == ["gemm"] * 5 + ["elementwise"] * 5
    assert [shape.op for shape in order(some, widths=[0.0] * 5 + [0.1] * 5)] == ["elementwise"] * 5 + ["gemm"] * 5


def test_families_of_the_most_time_come_first_until_they_can_be_fitted():
    leading = [product(2**m, 64 * 2**n) for m in range(8) for n in range(8)]
    others = [Shape("elementwise", "elementwise", "bf16", (("m", 2**m),), "add") for m in range(40)]
    ops = [shape.op for shape in order([*others, *leading], (), [1.0] * 40 + [0.01] * 64)]
    assert ops[:20] == ["gemm"] * 20
    assert ops[20] == "elementwise"


def test_a_family_whose_rows_cost_more_gets_fewer_of_them():
    cheap = [Shape("s", "softmax", "bf16", (("m", 2**m), ("n", 2**n))) for m in range(12) for n in range(12)]
    costly = [Shape("s", "mla_decode", "bf16", (("m", 2**m), ("n", 2**n))) for m in range(12) for n in range(12)]
    costs = {cheap[0].family: 0.02, costly[0].family: 0.5}
    chosen = list(most_informative([*cheap, *costly], frozenset(), np.full(288, 0.3), costs))[:100]
    rows = [sum(shape.op == op for shape in chosen) for op in ("softmax", "mla_decode")]
    assert rows[0] > 3 * rows[1] > 0


def test_the_same_candidates_give_the_same_order():
    some = shapes(["gemm"], SMALL)
    assert [one.row_id for one in order(some)[:50]] == [one.row_id for one in order(some)[:50]]


@pytest.mark.parametrize("suite", [name for name in SUITES if name != "collectives"])
def test_a_suite_holds_kernels_that_are_short_fit_and_differ(suite):
    found = shapes([suite], SMALL)
    assert found
    assert len({shape.row_id for shape in found}) == len(found)
    for shape in found:
        assert shape.traffic <= SMALL.memory
        if shape.flop:
            assert shape.flop / SMALL.peaks[shape.dtype] <= SMALL.longest
        assert all(value >= 1 for _, value in shape.sizes)


def test_the_designed_kernels_are_five_of_each_family():
    found, whole = shapes(["gemm", "designed"], SMALL), shapes(["gemm"], SMALL)
    families = {shape.family for shape in whole if not shape.secondary}
    for family in families:
        own = [shape for shape in found if shape.family == family]
        every = [shape for shape in whole if shape.family == family]
        longer = sorted(every, key=SMALL.least_time)[len(every) // 2 :]
        intensity = sorted(shape.flop / shape.traffic for shape in longer)
        assert own[0] == min(every, key=SMALL.least_time)
        assert [shape.flop / shape.traffic for shape in own[1:]] == [*intensity[:2], *intensity[-2:]]
        assert len(own) == 5
    assert {shape.family for shape in found} == families
    everything = shapes(["designed"], SMALL)
    assert not any(shape.secondary for shape in everything)
    assert {shape.suite for shape in found} < {shape.suite for shape in everything}


def test_more_time_and_libraries_only_add_kernels():
    small = replace(SMALL, gpu=True)
    larger = replace(small, longest=1e-2, versions={"torch": "", "flash_attn": "2.8"})
    few, many = shapes([], small), shapes([], larger)
    assert {shape.row_id for shape in few} < {shape.row_id for shape in many}
    assert {shape.library for shape in few} == {"torch"}
    assert "flash_attn" in {shape.library for shape in many}


def test_messages_are_of_groups_only():
    assert collectives(SMALL) == []
    group = ProfileLimits(SMALL.peaks, SMALL.bandwidth, SMALL.memory, 1.0, ranks=8, local=4)
    found = collectives(group)
    assert {shape.op for shape in found} == {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"}
    assert all(shape.size("bytes") % (2 * 8) == 0 for shape in found)  # whole BF16 elements for every rank
    assert {(shape.size("world_size"), shape.size("gpus_per_node")) for shape in found} == {(8, 4)}


def test_an_unknown_suite_is_told_with_the_known_ones():
    with pytest.raises(InputError, match=r"no suite `gem`; known: copies, gemm"):
        shapes(["gem"], SMALL)
