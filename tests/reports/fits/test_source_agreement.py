"""How far two sources differ that timed the same shapes."""

from __future__ import annotations

import numpy as np
import pytest
from small_world import write

from costmodel.calibration.fit_files import read
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library
from reports.fits.source_agreement import FEWEST, pooled, ratios, render

PLAN = """
schema: costmodel/fit_plan@1
name: test
recipes:
  products: {form: scaled_roofline, held_out: [n]}
implementations:
  - {name: chip/a, library: one, device: devices/chip, frameworks: [a], families: {gemm/bf16: products}}
  - {name: chip/b, library: one, device: devices/chip, frameworks: [b], families: {gemm/bf16: products}}
  - {name: chip/c, library: two, device: devices/chip, frameworks: [c], families: {gemm/bf16: products}}
"""


def timed(framework: str, factor: float, count: int) -> list[dict[str, object]]:
    """Return rows of products that take `factor` times 100 us."""
    sizes = [{"m": 64 * size, "n": 4096, "k": 4096} for size in range(1, count + 1)]
    return [{"op": "gemm", "framework": framework, "time_us": 100 * factor, **size} for size in sizes]


def compared(world, table, catalogue, *rows):
    write(world, "hardware/fit_plans/test.yaml", PLAN)
    return ratios(table(*rows), read(Library([world]), "fit_plans", "test", FitPlanFile), catalogue)


@pytest.fixture
def found(world, table, catalogue):
    return compared(world, table, catalogue, *timed("a", 1.0, 30), *timed("b", 1.2, 25), *timed("c", 2.0, 20))


def test_shapes_that_two_sources_timed_are_compared_by_library(found):
    assert {key: sorted(pairs) for key, pairs in found.items()} == {
        "other/gemm/bf16": [("chip/a", "chip/c"), ("chip/b", "chip/c")], "same/gemm/bf16": [("chip/a", "chip/b")]
    }  # fmt: skip
    logs = found["same/gemm/bf16"]["chip/a", "chip/b"]
    assert len(logs) == 25
    assert logs == pytest.approx(np.log(1.2))


def test_points_are_of_kernels_families_and_all_and_pairs_weigh_the_same(found):
    points = {name: (reach, rows, pairs) for name, reach, rows, pairs in pooled(found)}
    assert set(points) == {"same", "same/gemm", "same/gemm/bf16", "other", "other/gemm", "other/gemm/bf16"}
    assert points["same"] == (pytest.approx(np.log(1.2)), 25, 1)
    assert points["other"][0] == pytest.approx(np.log(2.0), rel=0.1)
    assert points["other"][1:] == (40, 2)


def test_the_file_states_both_sides(found):
    text = render(found)
    assert "same/gemm/bf16:\n    spread: [{time: 1 s, low: 0.833, median: 1, high: 1.2, rows: 25}]" in text
    assert 'note: "One pair of sources."' in text
    assert 'note: "2 pairs of sources, each with the same weight."' in text


def test_few_shapes_say_nothing(world, table, catalogue):
    few = FEWEST - 1
    assert compared(world, table, catalogue, *timed("a", 1.0, few), *timed("b", 1.2, few)) == {}
