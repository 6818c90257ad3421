"""How inference engines exchange tokens, and what they do in kernels of their own."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DENSE_MODEL, FRAMEWORK, MOE_MODEL, context

from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.workload.context import Context
from costmodel.workload.framework_parts import TunedTiles
from costmodel.workload.operators import Collective, Elementwise, ExpertAllToAll, Gemm, Operator
from costmodel.workload.passes import Pass, PassWork, pass_work
from costmodel.workload.scenario import Communication, Parallelism

GATHER = Communication(exchange="gather")


def decoding(parallel: Parallelism, sequences: Count = 16.0, phase: str = "decode") -> Context:
    new = 1.0 if phase == "decode" else 128.0
    return context(MOE_MODEL, parallel, phase, sequences=sequences, new_tokens=new, kv_len=900.0)


def named(found: list[Operator], start: str) -> list[Operator]:
    return [one for one in found if one.name.startswith(start)]


def work(*contexts: Context) -> PassWork:
    return pass_work(Pass(contexts, 1))


def expert_gemms(found: PassWork) -> list[Gemm]:
    return [one for one in found.operators() if isinstance(one, Gemm) and "expert" in one.name]


def test_layers_of_experts_with_tuned_tiles_say_so() -> None:
    tuned = TunedTiles({"bf16": {64: (512,), 32: (512, 128)}})
    ranks = np.array([1.0, 2.0, 4.0])  # 64 routed experts of 512, which `tp` ranks split
    alone = replace(decoding(Parallelism(tp=ranks)), framework=replace(FRAMEWORK, tuned_tiles=tuned))
    routed = [one for one in expert_gemms(work(alone)) if one.family == "grouped_gemm"]
    assert [one.tuned.tolist() for one in routed] == [[1.0, 0.0, 0.0]] * 2
    apart = replace(alone, framework=replace(FRAMEWORK, tuned_tiles=tuned), parallel=Parallelism(dp=2.0, ep=ranks))
    routed = [one for one in expert_gemms(work(apart)) if one.family == "grouped_gemm"]
    assert [np.asarray(one.tuned).tolist() for one in routed] == [[1.0, 1.0, 0.0]] * 2
    single = replace(apart, parallel=Parallelism(dp=2.0, ep=2.0))
    routed = [one for one in expert_gemms(work(single)) if one.family == "grouped_gemm"]
    assert [one.tuned for one in routed] == [1.0, 1.0]


def messages(parallel: Parallelism) -> dict[str, Collective]:
    here = replace(decoding(parallel), communication=GATHER)
    found = [one for one in work(here).operators() if one.name in ("dispatch", "combine")]
    assert not any(isinstance(one, ExpertAllToAll) for one in found)
    return {one.name: one for one in found if isinstance(one, Collective)}


def test_ranks_gather_all_tokens_and_scatter_the_sums() -> None:
    found = messages(Parallelism(dp=8.0, ep=8.0))
    buffer = 8 * 16 * MOE_MODEL.hidden * 2.0
    assert [(one.kind, one.size, one.group.size) for one in found.values()] == [
        ("all_gather", buffer, 8.0),
        ("reduce_scatter", buffer, 8.0),
    ]


def test_groups_of_tensor_parallel_ranks_gather_what_the_others_have() -> None:
    found = messages(Parallelism(tp=2.0, dp=4.0, ep=8.0))
    assert {(one.group.size, one.group.stride) for one in found.values()} == {(4.0, 2.0)}
    alone = messages(Parallelism(tp=8.0, ep=8.0))  # all have the same tokens
    assert {one.group.size for one in alone.values()} == {1.0}


def llama(tokens: Count) -> list[Operator]:
    """Return the operators of a prompt whose four-bit weights a program expands from 65 rows on."""
    prompt = context(DENSE_MODEL, Parallelism(), "prefill", new_tokens=tokens, kv_len=tokens)
    narrow = replace(prompt.precision, weights="int4", weight_bits=4.5)
    kernels = replace(FRAMEWORK, expands_above=64.0, scores="fp32", implementations={"attention_prefill": ("unfused",)})
    return list(work(replace(prompt, precision=narrow, framework=kernels)).operators())


def test_weights_are_expanded_once_a_pass_for_more_rows_than_a_kernel_takes() -> None:
    few, many, both = llama(64.0), llama(65.0), llama(np.array([64.0, 65.0]))
    assert not named(few, "ffn up expansion")
    (narrow,), (wide,) = named(few, "ffn up"), named(many, "ffn up")[1:]
    (expansion,) = named(many, "ffn up expansion")
    assert isinstance(narrow, Gemm)
    assert isinstance(wide, Gemm)
    assert (narrow.b_bytes, wide.b_bytes) == (4.5 / 8, 2.0)
    assert isinstance(expansion, Elementwise)
    assert expansion.traffic == wide.k * wide.n * (4.5 / 8 + 2.0)
    swept, product = named(both, "ffn up")
    assert isinstance(swept, Elementwise)
    assert isinstance(product, Gemm)
    assert list(np.asarray(swept.traffic)) == [0.0, expansion.traffic]
    assert list(np.asarray(product.b_bytes)) == [4.5 / 8, 2.0]


def test_scores_of_another_format_are_converted_on_both_sides_of_the_softmax() -> None:
    found = [one.name for one in llama(128.0)]
    place = found.index("softmax")
    assert found[place - 1 : place + 2] == ["score conversion", "softmax", "score conversion"]
    (first, _) = named(llama(128.0), "score conversion")
    (scores,) = named(llama(128.0), "attention scores")
    assert isinstance(scores, Gemm)
    assert isinstance(first, Elementwise)
    assert first.traffic == pytest.approx(scores.groups * scores.m * scores.n * (2.0 + 4.0))
