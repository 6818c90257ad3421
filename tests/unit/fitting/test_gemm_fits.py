"""Fits of matrix products to made-up measurements: what went in comes out, and siblings say what own rows cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import FRAMEWORK

from costmodel.cost.calibration import Calibration
from costmodel.cost.gemm import GemmForm
from costmodel.cost.parameter import build
from costmodel.fitting.family_fit import FamilyFitResult, Recipe, Samples, fit_family
from costmodel.measurements.row_group import OperatorRows
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Elementwise, Gemm

TRUE = {
    "launch": 2.5e-6, "compute_efficiency": 0.85, "hbm_efficiency": 0.85, "cta_load_rate": 400.0, "l2_rate": 400.0,
    "cta_overhead": 2000.0, "k_step": 210.0, "small_tile_loss": 0.05, "overlap_p": 4.0, "exposed_promotion": 0.3,
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "tiles": ((64, 64), (64, 128), (128, 128)), "has_split_k": False, "tile_rule": "waves",
}  # fmt: skip
RECIPE = Recipe("gemm", CONSTANTS, ("exposed_promotion",))
SHAPES = [(512, 16384), (576, 7168), (4096, 7168), (7168, 2048), (7168, 18432), (24576, 1536), (2048, 7168)]


def samples(device_name: str, seed: int) -> Samples:
    """Return rows that the true form makes on a device, each off by about 1 %."""
    random, device = np.random.default_rng(seed), load_device(device_name)
    shapes = np.array([(m, n, k) for n, k in SHAPES for m in 2.0 ** np.arange(4, 15)], dtype=np.float64)
    m, n, k = shapes.T
    gemm = Gemm("product", m=m, n=n, k=k, dtype="fp8", a_bytes=1.03, b_bytes=1.0, out_bytes=2.0, block_scaled=True)
    part = OperatorRows("gemm", np.arange(len(m)), device, (gemm,))
    true = build(GemmForm, TRUE | CONSTANTS).time(gemm, part.machine(FRAMEWORK)).seconds
    groups = np.array([f"{a:g}x{b:g}" for a, b in zip(n, k, strict=True)], dtype=np.object_)
    measured = np.asarray(true) * np.exp(random.normal(0.0, 0.01, len(m)))
    return Samples("gemm/fp8_block", (part,), measured, groups, Calibration(), FRAMEWORK)


@pytest.fixture(scope="module")
def joint() -> FamilyFitResult:
    return fit_family(replace(samples("h800-sxm", 1), siblings=(samples("h20", 2),)), RECIPE)


def test_the_fit_predicts_weight_shapes_that_it_has_not_seen(joint: FamilyFitResult) -> None:
    assert joint.errors["form"].mean < 0.03
    assert joint.errors["residual"].mean < 0.03
    assert joint.errors["roofline"].mean > 0.2


def test_parameters_that_bind_are_recovered(joint: FamilyFitResult) -> None:
    for name in ("launch", "hbm_efficiency", "k_step"):
        assert joint.estimate.values[name] == pytest.approx(TRUE[name], rel=0.1), name


def test_rows_of_a_sibling_are_explained_but_never_scored(joint: FamilyFitResult) -> None:
    own = samples("h800-sxm", 1)
    assert joint.rows == len(joint.predictions) == len(own)


def test_a_cast_that_only_the_products_rows_show_is_fitted_with_them() -> None:
    # 4 us and 2 TB/s for a cast of three bytes an element, whose rows are too many for any to be long.
    bare = samples("h800-sxm", 3)
    (part,) = bare.parts
    (gemm,) = part.operators
    assert isinstance(gemm, Gemm)
    cast = Elementwise("cast", gemm.m * gemm.k * 3.0, kind="cast", rows=gemm.m)
    rows = replace(
        bare,
        parts=(replace(part, operators=(cast, gemm)),),
        seconds=bare.seconds + 4e-6 + np.asarray(cast.traffic) / 2e12,
    )
    found = fit_family(rows, replace(RECIPE, companion="elementwise/cast"))
    assert found.errors["residual"].mean < 0.05
    assert found.companion is not None
    large = Elementwise("cast", 3e9, kind="cast", rows=16384.0)
    assert found.companion.form.time(large, part.machine(FRAMEWORK)).seconds == pytest.approx(1.5e-3, rel=0.1)


def test_arithmetic_and_promotion_together_are_known_better_than_either(joint: FamilyFitResult) -> None:
    # A tile of 128^3: 512 cycles of products over `compute_efficiency`, 128 times `exposed_promotion` to promote.
    values = joint.estimate.values
    total = 512 / values["compute_efficiency"] + 128 * values["exposed_promotion"]
    assert total == pytest.approx(512 / TRUE["compute_efficiency"] + 128 * TRUE["exposed_promotion"], rel=0.03)
