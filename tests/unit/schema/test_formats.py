"""Quantised formats in files: what is said of a stored format, what stands in for it, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_world import problems_of, write

from costmodel import load
from costmodel.quantities import Quantity
from costmodel.schema import SI, ResolvedWorkload
from costmodel.schema.files import list_names
from costmodel.schema.resolve import resolve
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.scenario import Precision

W4 = """
schema: costmodel/precision@1
extends: precisions/bf16
name: w4
weights: int4
weight_group: 64
weight_zero: int4
master: null
"""
NVFP4 = """
schema: costmodel/precision@1
extends: precisions/bf16
name: nvfp4
linear: nvfp4
weights: nvfp4
"""


def decoding(world: Path, precision: str, **changes: object) -> Precision:
    """Return the formats of the small workload's decoding."""
    return resolved(world, precision, **changes).scenarios["decode"].precision


def resolved(world: Path, precision: str, **changes: object) -> ResolvedWorkload:
    write(world, "workloads/precisions/w4.yaml", W4)
    write(world, "workloads/precisions/nvfp4.yaml", NVFP4)
    chosen = precision if precision.startswith("{") else f"{{compute: {precision}}}"
    overrides = {"scenarios.decode.precision": chosen} | {
        f"scenarios.decode.precision.{key}": value for key, value in changes.items()
    }
    return resolve("small", overrides=overrides, search_path=[world], scenarios=["decode"])


def scaling(found: GroupScaling) -> tuple[Quantity | None, str, str | None]:
    return found.group, found.scale, found.zero


def test_storing_needs_no_math_unit(world: Path) -> None:
    """The chip multiplies bf16 and fp32 only."""
    found = decoding(world, "w4")
    assert (found.linear, found.weights) == ("bf16", "int4")
    assert scaling(found.weight_scaling) == (64, "fp16", "int4")
    assert found.weight_only
    assert decoding(world, "{compute: bf16, weights: q6_k, kv_cache: nvfp4}").weights == "q6_k"


def test_computing_in_fp4_blocks_needs_the_fp4_unit(world: Path) -> None:
    (problem,) = problems_of(lambda: decoding(world, "nvfp4"))
    assert "chip has no math unit for fp4" in problem.message
    assert "fallback: bf16" in problem.hint
    assert "`precision: {compute: bf16, weights: nvfp4}` to store weights in nvfp4, or" in problem.hint
    assert decoding(world, "{compute: bf16, weights: nvfp4}").weights == "nvfp4"


@pytest.mark.parametrize("phase", ["training", "decode"])
def test_scales_of_mx_blocks_need_a_unit_that_applies_them(phase: str) -> None:
    """Hopper multiplies E4M3, and knows no scale of 32 elements."""

    def of(cluster: str, precision: str) -> Precision:
        changes = {f"scenarios.{phase}.precision": precision, f"scenarios.{phase}.cluster": cluster}
        return resolve("deepseek_v3", overrides=changes, scenarios=[phase]).scenarios[phase].precision

    hopper, blackwell = "clusters/h800-2048-mpft", "nodes/gb300-nvl72"
    stated = "{compute: mxfp8, weights: bf16}"
    (problem,) = problems_of(lambda: of(hopper, stated))
    assert problem.message == "h800-sxm has no math unit for mxfp8"
    assert "`precision: {compute: mxfp8, fallback: bf16}`" in problem.hint
    assert of(blackwell, stated).linear == "mxfp8"
    found = of(hopper, "{compute: mxfp8, fallback: bf16}")
    assert (found.linear, found.activations) == ("bf16", "bf16")


def test_a_device_without_bf16_is_offered_fp16() -> None:
    decoded = {"phase": "decode", "cluster": "nodes/v100-pcie-x1", "input_tokens": 8, "output_tokens": 8}
    workload = {"model": "models/gpt2", "scenarios": {"s": {**decoded, "batch_per_device": 1}}}
    (problem,) = problems_of(lambda: load(workload))
    assert problem.message == "v100-pcie-32gb has no math unit for bf16"
    assert "fallback: fp16}" in problem.hint


def test_a_fallback_brings_what_it_says_of_the_formats_that_stand_in(world: Path) -> None:
    found = decoding(world, "{compute: nvfp4, fallback: w4}")
    assert (found.linear, found.weights) == ("bf16", "int4")
    assert scaling(found.weight_scaling) == (64, "fp16", "int4")
    plain = decoding(world, "{compute: nvfp4, fallback: bf16, kv_group: 32}")
    assert (plain.linear, plain.weights) == ("bf16", "bf16")
    assert (plain.weight_scaling.group, plain.kv_scaling.group) == (None, 32)


def test_scales_of_a_set_may_be_changed_one_by_one(world: Path) -> None:
    found = decoding(world, "w4", weight_zero="null", weight_group="32", kv_cache="int8", kv_group="16", kv_zero="fp16")
    assert scaling(found.weight_scaling) == (32, "fp16", None)
    assert (found.kv_cache, found.kv_scaling.group) == ("int8", 16)
    assert found.kv_element == 1 + 4 / 16
    bits = decoding(world, "w4", weight_bits=SI(np.array([4.0, 5.0]))).weight_bits
    assert np.array_equal(np.asarray(bits), [4, 5])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("weights", "int5", "unknown value 'int5'; did you mean `int8` or `int4`?"),
        ("weights", "q4km", "did you mean `q4_k`?"),
        ("kv_cache", "fp9", "did you mean `fp8` or `fp4`?"),
        ("linear", "q4_k", "unknown value 'q4_k'"),
        ("head_weights", "q6k", "did you mean `q6_k`?"),
        ("weight_group", "0", "0 is too small; write at least 1"),
        ("weight_group", "64.5", "64.5 is not a whole number; write 64"),
        ("kv_group", "-128", "-128 is too small"),
        ("weight_bits", "0.5", "0.5 is too small; write a value of at least 1"),
        ("weight_bits", "99", "99 is too large; write at most 64"),
        ("weight_bits", ".nan", "nan is not a finite number"),
        ("weight_bits", "4 B", "4 B"),
        ("weight_scale", "null", "weight_scale"),
        ("weight_grup", "64", "unknown key; did you mean `weight_group`"),
    ],
)
def test_an_invalid_format_is_an_error_with_its_fix(world: Path, path: str, value: str, message: str) -> None:
    (problem,) = problems_of(lambda: decoding(world, "w4", **{path: value}))
    assert str(problem).startswith(f"--set scenarios.decode.precision.{path}={value}: ")
    assert message in str(problem)


def test_an_average_of_quantised_weights_needs_quantised_weights(world: Path) -> None:
    (problem,) = problems_of(lambda: decoding(world, "bf16", weight_bits="4.5"))
    assert problem.field == "scenarios.decode.precision.weight_bits"
    assert "the weights are bf16" in problem.message
    assert "weight_bits: null" in problem.hint
    assert decoding(world, "{compute: bf16, weights: int4}", weight_bits="4.5").weight_bits == 4.5


@pytest.mark.parametrize("name", ["w4a16", "w8a16", "int8", "fp8-kv", "int8-kv", "int4-kv", "q4_k_m"])
def test_every_set_of_inference_decodes_on_an_rtx_4090(name: str) -> None:
    changes = {"scenarios.decode.precision": name, "scenarios.decode.cluster": "nodes/rtx-4090-x8"}
    scenario = resolve("deepseek_v3", overrides=changes, scenarios=["decode"]).scenarios["decode"]
    wide = f"`precision: {name}` keeps weights in bf16, the published ones are fp8"
    assert [note.partition(";")[0] for note in scenario.notes] == ([wide] if name.endswith("-kv") else [])
    if name == "int8-kv":
        mapping = "{kv_cache: int8, kv_group: 128, kv_scale: fp16, kv_zero: fp16}"
        assert scenario.notes[0].endswith(f"`precision: {mapping}` changes the published formats")
    assert scenario.precision.master is None


@pytest.mark.parametrize("name", list_names("precisions"))
def test_only_sets_with_master_weights_train(name: str) -> None:
    """Without masters an optimizer has nothing to update: FP4 weights trained in 11 GiB on one device."""

    def training(precision: str) -> Precision:
        changes = {"scenarios.training.precision": precision, "scenarios.training.cluster": "nodes/gb300-nvl72"}
        return resolve("deepseek_v3", overrides=changes, scenarios=["training"]).scenarios["training"].precision

    if name in ("bf16", "fp16", "fp8", "fp8-te", "mxfp4", "mxfp8", "nvfp4-train"):
        assert training(name).master == "fp32"
        return
    (problem,) = problems_of(lambda: training(name))
    assert problem.field == "scenarios.training.precision.compute"
    assert f"`precision: {name}` is for inference" in problem.message
    sets = "bf16, fp16, fp8, fp8-te, mxfp4, mxfp8, nvfp4-train"
    assert problem.hint == f"train with one of {sets}, or state `master` beside `compute`"
    if name not in (
        "q4_k_m",
        "w4a16",
        "w8a16",
    ):  # products of wider formats than the weights have cannot be trained at all
        assert training(f"{{compute: {name}, master: fp32}}").master == "fp32"
