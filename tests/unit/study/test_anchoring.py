"""What a benchmark measured becomes entries of `anchor`."""

from __future__ import annotations

import pytest

from costmodel.measurements.importing.serving import Benchmark
from costmodel.study.anchoring import _stated


@pytest.mark.parametrize(
    ("metrics", "anchors"),
    [
        ({"ttft": 0.2, "tpot": 0.01, "latency": 3.0}, {"ttft": 0.2, "tpot": 0.01}),
        ({"ttft": 0.0, "tpot": 0.01, "latency": 3.0}, {"tpot": 0.01}),  # no time is none
        ({"requests_per_second": 2.0, "latency": 3.0}, {"latency": 3.0}),  # one of what follows from the other
        ({"tokens_per_second": 0.0}, {}),
    ],
)
def test_times_of_tokens_anchor_and_only_without_them_one_other_figure(
    metrics: dict[str, float], anchors: dict[str, float]
) -> None:
    assert _stated(Benchmark("model", metrics)) == anchors
