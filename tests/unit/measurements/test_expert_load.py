"""What a benchmark gives the fullest rank: rows are conserved, and leftovers go where its revision sends them."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.measurements.gemm_rows import expected_routing

ROW = {
    "op": "moe_layer", "num_experts": 256, "topk": 8, "ep_size": 8, "tp_size": 1, "num_tokens": 1, "hidden": 64,
    "inter": 128, "distribution": "power_law_1.01",
}  # fmt: skip
OLD, MIDDLE, NEW = "trtllm 1.0.0", "vllm 0.14.0", "vllm 0.24.0"


@pytest.fixture
def routing(table, catalogue):
    """Return (rows, experts with any, deviation) of the timed rank of one row."""

    def of(**changes):
        from costmodel.measurements.row_group import RowGroup

        rows = table(ROW | changes)
        found = expected_routing(RowGroup(rows, catalogue.device("CHIP"), catalogue))
        return tuple(float(each[0]) for each in found)

    return of


def test_few_rows_stand_together_in_old_benchmarks_and_on_all_ranks_in_new_ones(routing):
    assert routing(framework=OLD)[:2] == (8.0, 8.0)
    assert routing(framework=MIDDLE)[:2] == (8.0, 8.0)
    assert routing(framework=NEW)[:2] == (1.0, 1.0)


def test_old_benchmarks_give_leftovers_to_full_experts_so_that_fewer_have_any(routing):
    few = {name: routing(framework=name, num_tokens=8, ep_size=1) for name in (OLD, MIDDLE)}
    assert few[OLD][0] == few[MIDDLE][0] == 64.0
    assert few[OLD][1] < few[MIDDLE][1]


@pytest.mark.parametrize("framework", [OLD, MIDDLE, NEW])
@pytest.mark.parametrize("tokens", [3, 64, 1000])
def test_one_rank_gets_every_row_and_no_expert_more_than_all_tokens(routing, framework, tokens):
    rows, active, deviation = routing(framework=framework, num_tokens=tokens, ep_size=1)
    assert rows == pytest.approx(8.0 * tokens)
    assert active <= 256
    assert (rows / active) ** 2 + deviation**2 <= tokens * rows / active * (1 + 1e-9)  # x <= T for every expert


@pytest.mark.parametrize("framework", [OLD, MIDDLE, NEW])
def test_the_fullest_rank_has_at_least_the_mean(routing, framework):
    for tokens in (1, 16, 512):
        assert routing(framework=framework, num_tokens=tokens)[0] >= max(tokens * 8 / 8, 1.0)


def test_a_steeper_law_fills_the_fullest_rank_more(routing):
    even, steep = (routing(framework=NEW, num_tokens=4096, distribution=f"power_law_{a}") for a in (1.01, 1.6))
    assert steep[0] > even[0]


def test_balanced_rows_do_not_deviate(routing):
    rows, active, deviation = routing(distribution="balanced", num_tokens=1024)
    assert (rows, active, deviation) == (1024.0, 32.0, 0.0)
    assert np.isfinite(rows)
