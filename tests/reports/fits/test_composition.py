"""The file of what whole runs add to the intervals of their kernels: a family for each class and condition."""

from __future__ import annotations

import math

import pytest
import yaml

from reports.fits.composition import document, render
from reports.fits.run_scatter import RunError, Scales

SCALES = Scales(classes={"training": 0.13, "serving": 0.14}, conditions={"unknown": 0.33}, kernels=0.5)


def row(case_class: str, publication: str, unknown: float = 0.0) -> RunError:
    return RunError(case_class, publication, "step", 0.1, 0.02, 0.02, {"unknown": unknown}, "hopper")


def test_a_file_has_one_family_a_class_and_a_condition_with_their_counts() -> None:
    rows = [row("training", "one"), row("training", "two", unknown=1.0), row("serving", "two")]
    found = yaml.safe_load(render(rows, SCALES))
    assert set(found["families"]) == {
        f"composition_{name}" for name in ("training", "serving", "unknown", "kernels", "tried/hopper")
    }
    assert [found["families"][f"composition_{name}"]["rows"] for name in ("training", "serving", "unknown")] == [
        2,
        1,
        1,
    ]
    assert "2 figures of 2 publications" in found["families"]["composition_training"]["note"]
    assert found["sources"][0]["rests_on"] == ["one", "two"]


def test_ends_are_as_far_above_the_prediction_as_below() -> None:
    (point,) = yaml.safe_load(render([row("training", "one")], SCALES))["families"]["composition_training"]["spread"]
    assert math.log(point["high"]) == pytest.approx(0.13, abs=1e-3)
    assert math.log(point["low"]) == pytest.approx(-0.13, abs=1e-3)


def test_scales_without_a_publication_stand_under_its_name() -> None:
    assert document({"one": SCALES}) == {
        "one": {
            "composition_training": 0.13,
            "composition_serving": 0.14,
            "composition_unknown": 0.33,
            "composition_kernels": 0.5,
        }
    }
