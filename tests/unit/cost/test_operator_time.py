"""Every kind of operators has a time without a fit."""

from __future__ import annotations

from typing import get_args

from costmodel.cost.operator_time import TERMS
from costmodel.workload.operators import KINDS, Operator


def test_every_kind_is_known_and_has_a_time() -> None:
    assert set(get_args(Operator)) == set(KINDS) == set(TERMS)
