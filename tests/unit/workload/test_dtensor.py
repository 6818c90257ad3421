"""Tensor parallelism by PyTorch's DTensor, and matrices of one input that are products of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from builders import BF16, FP8, FRAMEWORK, context
from layer_facts import kept

from costmodel.records import replace
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.operators import Collective, Elementwise, Gemm, Operator
from costmodel.workload.plans import expand
from costmodel.workload.scenario import Parallelism, Precision
from costmodel.workload.work import EVERY_OTHER, LayerWork

TOKENS, HIDDEN, KV, WIDTH = 1024.0, 1024.0, 256.0, 2816.0  # of the builders' layer, K and V together 2 * KV
SPLIT = Parallelism(tp=4.0, sequence_parallel=True)


def model(
    parallel: Parallelism = SPLIT, precision: Precision = BF16, recompute: str = "none", **facts: object
) -> ModelWork:
    seen = context(parallel=parallel)
    program = TrainingProgram(**facts)  # type: ignore[arg-type]
    facts_of = {"framework": replace(FRAMEWORK, training=program), "precision": precision}
    return model_work(replace(seen, recompute=expand([recompute]), **facts_of))


def layer(*of: Any, **facts: Any) -> LayerWork:
    """Return the work of a layer of `model`."""
    return model(*of, **facts).layers[0]


def copies(operators: Iterable[Operator]) -> float:
    """Return the bytes of copies that order sequences."""
    return float(sum(item.traffic for item in operators if isinstance(item, Elementwise) and "copy" in item.name))


def sent(operators: Iterable[Operator], kind: str) -> list[float]:
    return [float(item.size) for item in messages(operators) if item.kind == kind]


def messages(operators: Iterable[Operator]) -> list[Collective]:
    """Return the messages of the tensor-parallel group."""
    return [item for item in operators if isinstance(item, Collective) and "key-value" not in item.name]


def products(operators: Iterable[Operator], name: str) -> list[Gemm]:
    return [item for item in operators if isinstance(item, Gemm) and item.name == name]


def test_every_message_of_a_layer_copies_its_tokens_once() -> None:
    """Two gathers and two reductions each way; a read and a write of all tokens at 2 bytes."""
    whole, plain = layer(dtensor=True), layer()
    assert copies(whole.forward) == copies(whole.input_gradient) == 4 * 2 * TOKENS * HIDDEN * 2.0
    assert copies(plain.operators) == 0.0
    assert [item.name for item in whole.forward if "copy" not in item.name] == [item.name for item in plain.forward]


def test_a_lone_rank_copies_nothing() -> None:
    work = layer(replace(SPLIT, tp=1.0), dtensor=True)
    assert copies(work.operators) == 0.0
    assert all(item.calls == 0.0 for item in work.operators if isinstance(item, Elementwise) and "copy" in item.name)


def test_products_that_are_cut_up_sum_their_parts_and_order_no_gathered_tokens() -> None:
    work = layer(dtensor=True, tensor_overlap="all")
    assert copies(work.forward) == copies(work.input_gradient) == 2 * (1 + 1 / 4) * TOKENS * HIDDEN * 2.0


def test_what_is_gathered_is_kept_whole() -> None:
    more = kept(layer(dtensor=True)) - kept(layer())
    assert more == pytest.approx(2 * TOKENS * HIDDEN * 2.0 * (1 - 1 / 4))  # the inputs of q, k, v and of the FFN


def test_gathers_are_operators_that_checkpoints_repeat_and_reductions_are_not() -> None:
    plain, again = (layer(recompute=name, dtensor=True).input_gradient for name in ("none", EVERY_OTHER))
    assert len(sent(again, "all_gather")) == len(sent(plain, "all_gather")) + 2
    assert len(sent(again, "reduce_scatter")) == len(sent(plain, "reduce_scatter"))
    megatron = [sent(layer(recompute=name).input_gradient, "all_gather") for name in ("none", EVERY_OTHER)]
    assert megatron[0] == megatron[1]


def test_sequences_are_gathered_in_fp8_and_each_rank_casts_its_own() -> None:
    whole, plain = layer(precision=FP8, dtensor=True), layer(precision=FP8)
    narrow, wide = sent(whole.forward, "all_gather"), sent(plain.forward, "all_gather")
    assert all(own < other for own, other in zip(narrow, wide, strict=True))
    assert sent(whole.forward, "reduce_scatter") == sent(plain.forward, "reduce_scatter")

    def cast(work: LayerWork, name: str) -> float:
        return float(
            sum(each.traffic for each in work.operators if isinstance(each, Elementwise) and each.name == name)
        )

    for name in ("qkv projection cast", "ffn up cast", "output projection gradient cast", "ffn down gradient cast"):
        assert cast(whole, name) == pytest.approx(cast(plain, name) / 4)
    for name in ("output projection cast", "ffn up gradient cast"):  # each rank has a part of its own
        assert cast(whole, name) == pytest.approx(cast(plain, name))


def test_heads_and_embeddings_travel_in_16_bits() -> None:
    work = model(precision=FP8, dtensor=True)
    gathers = sent(work.head.forward, "all_gather") + sent(work.embedding.input_gradient, "all_gather")
    assert gathers == [TOKENS * HIDDEN * 2.0] * 2


def test_matrices_of_one_input_are_products_with_the_same_work() -> None:
    apart, joined = layer(separate_products=True), layer()
    assert [item.n for item in products(apart.forward, "qkv projection")] == [HIDDEN / 4, KV / 4, KV / 4]
    assert [item.k for item in products(apart.input_gradient, "ffn up input gradient")] == [WIDTH / 4] * 2
    assert [item.n for item in products(apart.weight_gradient, "ffn up weight gradient")] == [WIDTH / 4] * 2
    for own, other in zip(
        (apart.forward, apart.input_gradient, apart.weight_gradient),
        (joined.forward, joined.input_gradient, joined.weight_gradient),
        strict=True,
    ):
        work = [sum(each.flop for each in found if isinstance(each, Gemm)) for found in (own, other)]
        assert work[0] == pytest.approx(work[1])


@pytest.mark.parametrize(("eager", "passes"), [("none", (3 + 1) + (2 + 1)), ("layers", 3 * 2 + 3 * 1)])
def test_gradients_of_one_input_are_added_up_by_one_kernel_or_one_a_sum(eager: str, passes: int) -> None:
    work = layer(separate_products=True, eager=eager)
    sums = [item for item in work.input_gradient if item.name.endswith("input gradient sum")]
    assert sum(item.traffic for item in sums if isinstance(item, Elementwise)) == passes * TOKENS * HIDDEN * 2.0


def test_a_sum_of_products_is_not_cut_up_beside_its_message() -> None:
    def beside(**facts: Any) -> list[str]:
        work = layer(tensor_overlap="all", **facts)
        return [item.name for item in messages(work.operators) if item.overlapped_gemm is None]

    assert beside() == []
    assert beside(dtensor=True, separate_products=True) == [
        "ffn gradient reduce-scatter", "attention gradient reduce-scatter",
    ]  # fmt: skip
