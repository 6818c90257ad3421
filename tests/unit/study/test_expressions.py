"""Constraints and derived metrics: what they compute, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.errors import InputError, Location
from costmodel.study.expressions import read_expression

KNOWN = ("tpot", "mfu", "cost_per_million_tokens", "devices", "fits", "scenarios.decode.batch_per_device")
PLACE = Location("constraint")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("tpot <= 50 ms", {"tpot": 0.05}, True),
        ("tpot <= 50ms and mfu > 40 %", {"tpot": 0.01, "mfu": 0.4}, False),
        ("50 ms >= tpot", {"tpot": 0.051}, False),
        ("fits and not devices > 2 * 8", {"fits": True, "devices": 16.0}, True),
        ("scenarios.decode.batch_per_device >= 64", {"scenarios.decode.batch_per_device": 64.0}, True),
    ],
)
def test_a_condition_reads_units(text: str, names: dict[str, float], expected: bool) -> None:
    found = read_expression(text, KNOWN, PLACE, condition=True)
    assert set(found.names) == set(names)
    assert bool(found.value(names)) is expected


def test_arithmetic_is_that_of_arrays() -> None:
    found = read_expression("-max(devices, 2) ** 2 / (mfu - 1) + sqrt(4)", KNOWN, PLACE)
    values = found.value({"devices": np.array([1.0, 3.0]), "mfu": np.array([0.5, 1.0])})
    np.testing.assert_array_equal(values, [-4 / -0.5 + 2, -np.inf])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tpott <= 50 ms", "did you mean `tpot`?"),
        ("tpot <= 50 mss", "'mss' is no unit"),
        ("tpot <= 50", "write the bound with a unit such as s"),
        ("tpot <= 50 GB", "tpot is a duration"),
        ("tpot <=", "is no formula"),
        ("tpot", "is no condition"),
        ("", "is no formula"),
        ("__import__('os').system('true') < 1", "is not allowed"),
        ("fits.__class__ < 1", "is no metric"),
        ("(lambda: 1)() < 2", "is not allowed"),
        ("[x for x in (1,)] < 2", "is not allowed"),
        ("tpot[0] < 1 s", "is not allowed"),
        ("'a' < 'b'", "is not allowed"),
        ("1 < tpot < 2", "is not allowed"),
        ("(" * 100 + "tpot" + ")" * 100 + "< 1 s", "is too long"),
        ("_quantity_0 < 1", "is no metric"),
        ("True < 2", "True is no number"),
    ],
)
def test_what_is_no_condition_is_told_and_never_run(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_expression(text, KNOWN, PLACE, condition=True)
    assert told in str(caught.value)


def test_a_condition_is_no_derived_metric() -> None:
    with pytest.raises(InputError, match="is a condition"):
        read_expression("tpot < 1 s", KNOWN, PLACE)
