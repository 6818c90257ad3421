"""An objective that no request can keep, or that limits nothing, is told with what was probably meant."""

from __future__ import annotations

import re

import pytest

import costmodel


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ({"ttft": "500 us"}, ["slo.ttft of 500 us is", "no request keeps it; did you mean 500 ms?"]),
        ({"tpot": "50 s"}, ["slo.tpot of 50 s is", "it limits nothing; did you mean 50 ms?"]),
        ({"e2e": "20 s", "ttft": "2 s", "tpot": "40 ms"}, []),
    ],
)
def test_limits_far_from_what_is_predicted_are_told(slo: dict[str, str], said: list[str]) -> None:
    changes: dict[str, object] = {f"scenarios.serving.slo.{key}": value for key, value in slo.items()}
    point = costmodel.load("llama3_8b_rtx4090", set=changes, scenarios=["serving"]).points(["serving"])["serving"]
    notes = [note for note in point.notes if note.startswith("slo.")]
    assert len(notes) == bool(said)
    assert all(part in note for note in notes for part in said)
    for note in notes:
        limit, times, value = re.findall(r"([\d.e+-]+) (?:us|ms|s|times)", note)[:3]
        unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
        of, predicted = (unit[each] for each in re.findall(r"[\d.] (us|ms|s)\b", note)[:2])
        assert float(times) == pytest.approx(float(limit) * of / (float(value) * predicted), rel=0.1)
