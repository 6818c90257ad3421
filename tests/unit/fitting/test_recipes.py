"""What the rows of a fit say of its form beside the parameters."""

from __future__ import annotations

import numpy as np
from builders import CLUSTER, DEVICE, FRAMEWORK
from unit.cost.test_collective_forms import NORMAL

from costmodel.cost.calibration import Calibration
from costmodel.fitting.family_fit import Recipe
from costmodel.fitting.samples import Samples
from costmodel.measurements.row_group import OperatorRows
from costmodel.records import replace
from costmodel.workload.operators import ExpertAllToAll, Group


def exchanges(ranks: float) -> OperatorRows:
    operator = ExpertAllToAll(
        "dispatch", tokens=np.array([128.0, 4096.0]), token_bytes=7392.0, top_k=8, experts=256.0, expert_groups=1.0,
        group_top_k=1, group=Group(ranks), mode="normal", expert_load=1.0, family="moe_dispatch",
    )  # fmt: skip
    return OperatorRows("moe_dispatch", np.arange(2), DEVICE, (operator,), cluster=CLUSTER)


def test_an_exponent_s_range_is_that_of_the_widest_group_of_the_rows() -> None:
    node = float(CLUSTER.node.count)
    parts = (exchanges(node), exchanges(4.0 * node))
    samples = Samples("moe_dispatch", parts, np.ones(4), np.array(["a"] * 4, dtype=object), Calibration(), FRAMEWORK)
    assert Recipe("normal", {"processors": 20}).within(samples).constants["fabric_max_nodes"] == 4
    assert Recipe("low_latency").within(samples).constants == {}
    stated = Recipe("normal", {"fabric_max_nodes": 2})  # as a plan says
    assert stated.within(samples).constants["fabric_max_nodes"] == 2


def test_a_row_without_a_second_operator_has_no_time_of_one() -> None:
    """Rows of two exchanges and of one: the columns of times are those operators' own, and zero where there is none."""
    one, node = exchanges(8.0), float(CLUSTER.node.count)
    both = replace(exchanges(8.0), operators=(*one.operators, *exchanges(4.0 * node).operators))
    samples = Samples(
        "moe_dispatch", (both, one), np.ones(4), np.array(["a"] * 4, dtype=object), Calibration(), FRAMEWORK
    )  # fmt: skip
    form = NORMAL
    first, second = samples.form_times(form, 2)
    own = both.machine(FRAMEWORK)
    np.testing.assert_allclose(first, np.tile(form.time(one.operators[0], own).seconds, 2))
    np.testing.assert_allclose(second, [*form.time(both.operators[1], own).seconds, 0.0, 0.0])
    left, right = samples.features(NORMAL, 2)  # those of the last where there is no second
    for found, own in zip((left, right), both.operators, strict=True):
        expected = np.stack(np.broadcast_arrays(*NORMAL.features(own)), axis=1)
        np.testing.assert_allclose(found[:2], expected)
    np.testing.assert_allclose(left[2:], left[:2])
    np.testing.assert_allclose(right[2:], left[:2])
