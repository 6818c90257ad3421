"""Numbers of the fitted forms that are chosen rather than fitted: results do not rest on them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.cost import elementwise, gemm, gemm_tiles
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.time import Machine
from costmodel.quantities import Array
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import Elementwise, Gemm, Operator

CALIBRATIONS = Path(__file__).parents[3] / "hardware" / "calibrations"
WIDTH = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1.0}
ROWS, COLUMNS, DEPTHS = np.ix_(2.0 ** np.arange(0, 16), [1024.0, 4096.0, 14336.0, 57344.0], [1024.0, 4096.0, 14336.0])
LINES, LENGTHS = np.ix_(2.0 ** np.arange(0, 16), 2.0 ** np.arange(8, 19))


def product(variant: str) -> Operator:
    width = WIDTH[variant]
    dtype = variant.removesuffix("_block")
    return Gemm(
        "x",
        m=ROWS,
        n=COLUMNS,
        k=DEPTHS,
        dtype=dtype,
        a_bytes=width,
        b_bytes=width,
        out_bytes=2.0,
        block_scaled=variant.endswith("block"),
    )


def fits(family: str) -> Iterator[tuple[Machine, Operator, FamilyFit]]:
    """Yield the shipped fits of a family, each with its device and many shapes."""
    shelf, framework = FitStore(Library()), default_framework()
    for folder in sorted(path for path in CALIBRATIONS.iterdir() if path.is_dir()):
        device = load_device(folder.name)
        for file in sorted(folder.glob("*.yaml")):
            held = shelf.device_fits(folder.name, file.stem)
            assert held is not None
            for key in held.file.families:
                name, _, variant = key.partition("/")
                fit = held.fit(key, folder.name)
                if name != family or fit is None or fit.form is None or (name == "gemm" and variant not in WIDTH):
                    continue
                some = Elementwise("x", LINES * LENGTHS, kind=variant, rows=LINES + 0 * LENGTHS)
                yield (
                    Machine(device, framework, device.processors, warm_l2=True),
                    (product(variant) if name == "gemm" else some),
                    fit,
                )


@cache
def known(family: str) -> list[tuple[Machine, Operator, FamilyFit]]:
    return list(fits(family))


def times(family: str) -> list[Array]:
    found = []
    for machine, operator, fit in known(family):
        assert fit.form is not None
        found.append(np.asarray(fit.fitted_time(fit.form, operator, machine).seconds))
    return found


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (gemm, "REREAD_STEEPNESS", 4.0),
        (gemm, "REREAD_STEEPNESS", 9.0),
        (gemm, "L2_STEEPNESS", 3.0),
        (gemm, "L2_STEEPNESS", 6.0),
        (gemm_tiles, "MIN_SPLIT_K", 128),
        (gemm_tiles, "MIN_SPLIT_K", 512),
        (elementwise, "OVERLAP_P", 3.0),
        (elementwise, "OVERLAP_P", 6.0),
    ],
)
def test_no_fit_s_times_rest_on_a_chosen_number(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: float
) -> None:
    """The mean over many shapes moves by less than 2 %, a shape in between by less than 25 %."""
    family = "elementwise" if module is elementwise else "gemm"
    before = times(family)
    monkeypatch.setattr(module, name, value)
    moved = [np.abs(after / own - 1.0) for after, own in zip(times(family), before, strict=True)]
    assert len(moved) > 10
    assert max(float(each.mean()) for each in moved) < 0.02
    assert max(float(each.max()) for each in moved) < 0.25
