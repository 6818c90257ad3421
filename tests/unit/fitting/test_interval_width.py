"""The width of intervals: wide where misses are large, and together they hold the share of rows that they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.residual_files import read_residuals, write_residuals
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.residual import Dispersion, Residual
from costmodel.errors import InputError
from costmodel.fitting.interval_width import INTERVAL, HalfWidths, HeldOutPredictions, Shapes, Widths, interval_widths
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.workload.operators import Elementwise

ROWS, FOLDS = 2000, 5
SMALL, LARGE = 0.02, 0.2  # relative misses below and above a size of 2^10


def made(small: float, large: float) -> tuple[Array, Widths, HalfWidths, Array]:
    """Return sizes in octaves, the widths found for misses by size, the halves of intervals, and the ratios."""
    random = np.random.default_rng(1)
    octaves = random.uniform(0.0, 20.0, ROWS)
    ratio = np.exp(random.normal(0.0, np.where(octaves < 10.0, small, large)))
    predicted = np.full(ROWS, 5e-5)
    unseen = HeldOutPredictions(predicted, np.ones(ROWS))
    shapes = Shapes(("size",), octaves[:, None], np.array([2.0]))
    found = interval_widths(unseen, unseen, predicted * ratio, shapes, np.arange(ROWS) % FOLDS)
    return octaves, found, HalfWidths.of(predicted, ratio), ratio


def test_intervals_hold_the_share_of_unseen_rows_that_they_state() -> None:
    _, found, halves, ratio = made(SMALL, LARGE)
    assert float((halves.errors(ratio) <= found.of_rows).mean()) == pytest.approx(INTERVAL, abs=0.002)


def test_shapes_with_larger_misses_have_wider_intervals() -> None:
    octaves, found, halves, ratio = made(SMALL, LARGE)
    narrow, wide = (found.of_rows[mask] for mask in (octaves < 8.0, octaves > 12.0))
    assert np.median(wide) / np.median(narrow) == pytest.approx(LARGE / SMALL, rel=0.3)
    for mask in (octaves < 8.0, octaves > 12.0):
        assert float((halves.errors(ratio) <= found.of_rows)[mask].mean()) == pytest.approx(INTERVAL, abs=0.06)


def test_where_all_shapes_miss_alike_all_widths_are_alike() -> None:
    _, found, _, _ = made(0.1, 0.1)
    assert found.dispersion is not None
    assert np.quantile(found.of_rows, 0.9) / np.quantile(found.of_rows, 0.1) < 1.3


def test_the_same_rows_give_the_same_widths() -> None:
    first, second = (made(SMALL, LARGE)[1].of_rows for _ in range(2))
    assert np.array_equal(first, second)


def scattered() -> Residual:
    """Return a residual whose spread is three times as wide at 2^7 rows, half as wide far away."""
    axes, lengths, centres = ("rows", "bytes"), np.array([2.0, 2.0]), np.array([[7.0, 20.0]])
    bumps = Residual(axes, lengths, centres, np.array([np.log(6.0)]))
    return Residual(axes, lengths, centres, np.array([0.1]), Dispersion(bumps, 0.5))


def test_a_dispersion_is_its_level_far_away_and_its_height_at_a_support() -> None:
    dispersion = scattered().dispersion
    assert dispersion is not None
    assert dispersion.width([7.0, 20.0]) == pytest.approx(3.0)
    assert np.asarray(dispersion.width([np.array([7.0, 70.0]), np.array([20.0, 20.0])])).tolist() == pytest.approx(
        [3, 0.5]
    )


def test_a_fit_takes_its_width_from_the_dispersion_of_its_residual() -> None:
    operator = Elementwise("norm", traffic=2.0**27, rows=2.0**7)
    form = ElementwiseForm(
        launch=1e-6, hbm_efficiency=0.9, l2_efficiency=1.0, l2_share=0.5, cta_load_rate=10.0, row_cycles=1.0
    )
    fit = FamilyFit(basis="fitted", form=form, residual=scattered())
    assert fit.width(operator) == pytest.approx(3.0)
    assert replace(fit, residual=replace(scattered(), dispersion=None)).width(operator) == 1.0


def test_a_dispersion_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_residuals(tmp_path / "a.json", {"elementwise": scattered()})
    found = read_residuals(tmp_path / "a.json")["elementwise"]
    assert found.dispersion is not None
    assert found.dispersion.width([8.0, 20.0]) == pytest.approx(scattered().dispersion.width([8.0, 20.0]), rel=1e-5)  # type: ignore[union-attr]


def test_one_width_for_all_shapes_is_read_as_it_was_written(tmp_path: Path) -> None:
    residual = scattered()
    none = Residual(residual.axes, residual.lengths, np.zeros((0, 2)), np.zeros(0))
    write_residuals(tmp_path / "a.json", {"elementwise": replace(residual, dispersion=Dispersion(none, 0.7))})
    found = read_residuals(tmp_path / "a.json")["elementwise"]
    assert found.dispersion is not None
    assert found.dispersion.width([7.0, 20.0]) == pytest.approx(0.7)
    assert np.asarray(found.dispersion.width([np.array([7.0, 9.0]), np.array([20.0, 20.0])])) == pytest.approx(0.7)


@pytest.mark.parametrize("level", ["0", "-1", "Infinity"])
def test_a_dispersion_without_a_positive_level_is_an_error_at_its_file(tmp_path: Path, level: str) -> None:
    path = tmp_path / "a.json"
    write_residuals(path, {"elementwise": scattered()})
    path.write_text(path.read_text().replace('"level": 0.5', f'"level": {level}'))
    with pytest.raises(InputError, match=r"a\.json.*level"):
        read_residuals(path)
