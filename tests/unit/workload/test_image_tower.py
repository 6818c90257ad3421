"""The encoder of an image model: its operators counted by hand, its place in a prompt, its refusals."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from builders import BF16, CLUSTER, DENSE_MODEL, FP8, PREFILL, SERVING, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.event.evaluation import EventEngine
from costmodel.event.graph import Conditions
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.architecture import Attention, DenseFfn, Encoder, Layer
from costmodel.workload.operators import AttentionKernel, Collective, Gemm, Operator
from costmodel.workload.passes import prompt_context, tower_operators
from costmodel.workload.plans import Generate, Images, Prefill
from costmodel.workload.scenario import Parallelism, Precision, Scenario

HIDDEN, INPUTS, WIDE, LAYERS, MERGE = 256.0, 588.0, 1024.0, 3, 4.0
SEEING = Attention(4.0, 4.0, 64.0, 64.0, causal=False, rotary=False)
ENCODER = Encoder(
    hidden=HIDDEN,
    inputs=INPUTS,
    layers=(Layer(LAYERS, SEEING, DenseFfn(WIDE, gated=False), norm="layer"),),
    merge=MERGE,
    projectors=((MERGE * HIDDEN, 1024.0),),
    positions=256.0,
    final_norm="layer",
)
MODEL = replace(DENSE_MODEL, encoder=ENCODER)
TWO = Images(count=2.0, patches=1024.0)


def asked(plan: Prefill | Generate, tp: float = 1.0, precision: Precision = BF16) -> Scenario:
    return scenario(plan, MODEL, Parallelism(tp=tp), precision)


def prompts(
    plan: Prefill, tp: float = 1.0, precision: Precision = BF16, sequences: float = 3.0
) -> tuple[Operator, ...]:
    return tower_operators(prompt_context(asked(plan, tp, precision), sequences, plan.input_tokens, plan.input_tokens))


def flop(operators: Iterable[Operator]) -> Quantity:
    total: Quantity = 0.0
    for each in operators:
        if isinstance(each, Gemm):
            total = total + 2.0 * each.m * each.n * each.k
        if isinstance(each, AttentionKernel):
            total = total + 2.0 * each.qk_pairs * each.sequences * each.heads * each.macs_per_pair
    return total


def test_the_tower_multiplies_what_its_matrices_have() -> None:
    """2 * matrices * patches, and of each image all pairs of patches, in each layer."""
    images, patches = 3.0 * 2.0, 1024.0
    layer = 4 * HIDDEN**2 + 2 * HIDDEN * WIDE
    linear = 2 * images * patches * (INPUTS * HIDDEN + LAYERS * layer)
    projected = 2 * images * patches / MERGE * (MERGE * HIDDEN * 1024.0)
    attention = LAYERS * images * 2 * patches**2 * 4.0 * (64.0 + 64.0)
    operators = prompts(replace(PREFILL, images=TWO))
    assert flop(operators) == pytest.approx(linear + projected + attention)
    assert all(each.name.startswith("encoder: ") for each in operators)


def test_it_computes_unquantised() -> None:
    gemms = [each for each in prompts(replace(PREFILL, images=TWO), precision=FP8) if isinstance(each, Gemm)]
    assert {each.dtype for each in gemms} == {"bf16"}


def test_a_chunk_of_a_prompt_brings_its_share_of_the_images() -> None:
    plan = replace(PREFILL, images=TWO)
    whole = prompt_context(asked(plan), 3.0, plan.input_tokens, plan.input_tokens)
    chunk = prompt_context(asked(plan), 3.0, plan.input_tokens / 4, plan.input_tokens)
    assert (whole.images, chunk.images) == (6.0, 1.5)


@pytest.mark.parametrize(("tp", "split"), [(4.0, True), (8.0, False)])
def test_ranks_split_it_where_its_heads_divide(tp: float, split: bool) -> None:
    operators = prompts(replace(PREFILL, images=TWO), tp=tp)
    reduced = [each for each in operators if isinstance(each, Collective)]
    assert bool([each for each in reduced if each.group.size > 1]) == split
    one = prompts(replace(PREFILL, images=TWO))
    layers = [each for each in operators if isinstance(each, AttentionKernel)]
    assert layers[0].heads == (1.0 if split else 4.0)
    assert (flop(operators) < 0.5 * flop(one)) == split


def test_a_prompt_with_images_takes_the_time_of_both() -> None:
    none, one, two = (
        evaluate_point(asked(replace(PREFILL, images=images)), Calibration()).metrics["ttft"] or 0.0
        for images in (None, replace(TWO, count=1.0), TWO)
    )
    assert none < one < two


def test_both_engines_run_it() -> None:
    of = asked(replace(PREFILL, images=TWO, micro_batches=1))
    closed, event = evaluate_point(of, Calibration()), EventEngine(Conditions()).point(of, Calibration())
    assert event.metrics["ttft"] == pytest.approx(closed.metrics["ttft"], rel=1e-9)


def test_a_grid_of_images_is_its_points() -> None:
    counts = np.array([1.0, 2.0])
    grid = flop(prompts(replace(PREFILL, images=Images(counts, 1024.0))))
    assert grid == pytest.approx([flop(prompts(replace(PREFILL, images=Images(count, 1024.0)))) for count in counts])


def test_serving_waits_for_them() -> None:
    plans = (SERVING, replace(SERVING, images=TWO))
    without, seen = (
        evaluate_point(scenario(plan, MODEL, cluster=CLUSTER), Calibration()).metrics["ttft"] for plan in plans
    )
    assert without is not None
    assert seen is not None
    assert without < seen


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (scenario(replace(PREFILL, images=TWO)), "dense has no encoder that could see images"),
        (asked(replace(PREFILL, images=replace(TWO, count=9.0))), "9 images of 1024 patches are 2304 tokens"),
    ],
)
def test_images_need_an_encoder_and_room_in_the_prompt(of: Scenario, says: str) -> None:
    with pytest.raises(InputError, match=says):
        evaluate_point(of, Calibration())
