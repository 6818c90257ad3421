"""Experts in BF16 on H800: as fast as on the same die with more NVLinks, and as a published training run says."""

from __future__ import annotations

import math

import pytest

import costmodel


def experts(cluster: str) -> float:
    point = costmodel.load("mixtral_8x7b_h100", cluster=cluster, scenarios=["prefill"]).points()["prefill"]
    return math.fsum(entry.time for entry in point.breakdown if entry.name in ("expert up", "expert down"))


def test_products_of_many_rows_take_as_long_on_h800_as_on_h100() -> None:
    assert experts("nodes/hgx-h800") == pytest.approx(experts("nodes/dgx-h100"), rel=0.1)


def test_deepseek_v2_takes_the_published_device_hours() -> None:
    """172.8 thousand H800 hours for a trillion tokens [DeepSeek-V2, arXiv 2405.04434, section 3.2.3]."""
    metrics = costmodel.load("deepseek_v2").points()["training"].metrics
    assert metrics["device_hours_per_trillion_tokens"] == pytest.approx(172.8e3, rel=0.15)
