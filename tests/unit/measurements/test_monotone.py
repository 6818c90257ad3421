"""Predicted times rise with work on shipped devices, but where rows or a library's rule say otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.monotone import LADDERS, MEASURED, RULE, Climb, climbs
from costmodel.measurements.row_group import Catalogue

DEEP = -0.05


def climbed(device: str, op: str, **cells: str) -> Iterator[Climb]:
    """Yield the series of one operation on a device that have some cells."""
    ladders = [ladder for ladder in LADDERS if ladder.op == op]
    for climb in climbs(device, Catalogue(), ladders):
        if cells.items() <= dict(climb.series).items():
            yield climb


@pytest.mark.parametrize(
    ("device", "op", "cells"),
    [
        ("rtx-pro-6000-server", "mla_decode", {}),
        ("a100-pcie-80gb", "all_reduce", {}),
        ("h100-sxm", "linear_attention_prefill", {"sub_op": "gdn_conv"}),
    ],
)
def test_no_time_falls_deep_as_work_grows(device: str, op: str, cells: dict[str, str]) -> None:
    found = list(climbed(device, op, **cells))
    assert found
    told = [
        climb.told(int(step))
        for climb in found for step in np.flatnonzero(climb.changes < DEEP)
        if climb.kernels in ("", "conv-sglang") and not climb.reason(int(step))
    ]  # fmt: skip
    assert told == []


@pytest.mark.parametrize(
    ("device", "op", "cells", "reason"),
    [
        ("h800-sxm", "elementwise", {"sub_op": "embedding", "n": "4096"}, {RULE, MEASURED}),
        ("l40s", "reduce_scatter", {"world_size": "8"}, {RULE, MEASURED}),
    ],
)
def test_a_fall_that_rows_or_rules_show_has_its_reason(
    device: str, op: str, cells: dict[str, str], reason: set[str]
) -> None:
    climb = next(climbed(device, op, **cells))
    (deepest,) = np.flatnonzero(climb.changes == climb.changes.min())[:1]
    assert climb.changes[deepest] < DEEP
    assert climb.reason(int(deepest)) in reason
