"""Structural axes: a layout is judged at the values of the numeric axes; what makes none is a row, not an error."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.study.chunks import cutter, rows
from costmodel.study.sweep import plan_sweep

MODELS = "model=models/deepseek-v3,models/deepseek-v2"


def table(*varied: str) -> dict[str, list[object]]:
    sweep = plan_sweep(costmodel.load("deepseek_v3", scenarios=["decode"]), varied)
    cutting = cutter(sweep, "csv")
    parts = [rows(cutting.chunk(number)) for number in range(len(cutting.runs))]
    return {name: [value for part in parts for value in part[name].tolist()] for name in parts[0]}


def test_a_model_runs_where_the_numeric_axes_give_it_a_layout() -> None:
    found = table(MODELS, "scenarios.decode.parallel.ep=80,128", "scenarios.decode.parallel.dp=160,128,64")
    runs = {
        (model, ep, dp): fits
        for model, ep, dp, fits in zip(
            found["model"], found["scenarios.decode.parallel.ep"], found["scenarios.decode.parallel.dp"], found["fits"],
            strict=True,
        )
    }  # fmt: skip
    assert runs["models/deepseek-v2", 80.0, 160.0]
    assert not runs["models/deepseek-v2", 128.0, 128.0]
    assert runs["models/deepseek-v3", 128.0, 128.0]


def test_a_model_without_a_layout_is_rows_with_a_reason() -> None:
    found = table(MODELS, "scenarios.decode.batch_per_device=32,64")
    reasons = [reason for model, reason in zip(found["model"], found["reason"], strict=True) if model.endswith("v2")]  # type: ignore[attr-defined]
    assert len(reasons) == 2
    assert all("does not divide the experts" in str(reason) for reason in reasons)


def test_a_name_that_is_none_is_an_error() -> None:
    with pytest.raises(InputError, match="did you mean"):
        table("model=models/deepseek-v3,models/deepseek-v9")
