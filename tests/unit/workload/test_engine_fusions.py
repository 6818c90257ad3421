"""What inference engines fuse, and what they do in kernels of their own."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DENSE_MODEL, FRAMEWORK, MOE_MODEL, context

from costmodel.quantities import Count
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.operators import Collective, Elementwise, ExpertAllToAll, Gemm, Operator
from costmodel.workload.passes import Pass, PassWork, pass_work
from costmodel.workload.scenario import Communication, FusedNorms, Parallelism, Routing
from costmodel.workload.tuned_tiles import TunedTiles

FUSING = replace(FRAMEWORK, routed_shared_expert=True, fused_norms=FusedNorms(rows=64.0))
GATHER = Communication(exchange="gather")


def decoding(parallel: Parallelism, sequences: Count = 16.0, phase: str = "decode") -> Context:
    new = 1.0 if phase == "decode" else 128.0
    found = context(MOE_MODEL, parallel, phase, sequences=sequences, new_tokens=new, kv_len=900.0)
    return replace(found, framework=FUSING)


def moe(model: Architecture) -> MoeFfn:
    return next(layer.ffn for layer in model.layers if isinstance(layer.ffn, MoeFfn))


def named(found: list[Operator], start: str) -> list[Operator]:
    return [one for one in found if one.name.startswith(start)]


def work(*contexts: Context) -> PassWork:
    return pass_work(Pass(contexts, 1))


def parameters(found: PassWork) -> float:
    return sum(float(item.local) for kind in found.kinds for item in kind.parameters)


def expert_gemms(found: PassWork) -> list[Gemm]:
    return [one for one in found.operators() if isinstance(one, Gemm) and "expert" in one.name]


@pytest.mark.parametrize("routing", [Routing(), Routing(load="uniform")], ids=["balanced", "by chance"])
def test_a_routed_shared_expert_does_the_same_work_in_fewer_kernels(routing: Routing) -> None:
    alone = replace(decoding(Parallelism(tp=2.0)), routing=routing)
    together, apart = work(alone), work(replace(alone, framework=FRAMEWORK))
    assert not named(list(together.operators()), "shared expert")
    assert named(list(apart.operators()), "shared expert")
    flop = [sum(gemm.flop for gemm in expert_gemms(found)) for found in (together, apart)]
    assert flop[0] == pytest.approx(flop[1], rel=1e-12)
    assert parameters(together) == pytest.approx(parameters(apart), rel=1e-12)


def test_the_shared_expert_is_one_more_group_with_a_row_of_every_token() -> None:
    alone = decoding(Parallelism(tp=2.0))
    (routed,) = [gemm for gemm in expert_gemms(work(replace(alone, framework=FRAMEWORK))) if gemm.name == "expert up"]
    (both,) = [gemm for gemm in expert_gemms(work(alone)) if gemm.name == "expert up"]
    rows = np.append(np.full(1000, float(routed.m)), 16.0)
    weights = np.append(np.full(1000, float(routed.groups) / 1000), 1.0)
    mean = np.average(rows, weights=weights)
    assert both.groups == pytest.approx(routed.groups + 1.0)
    assert both.m == pytest.approx(mean)
    assert both.m_std == pytest.approx(np.sqrt(np.average((rows - mean) ** 2, weights=weights)))


def test_layers_of_experts_with_tuned_tiles_say_so() -> None:
    tuned = TunedTiles({"bf16": {65: (256,), 64: (512,), 32: (512, 128)}})
    ranks = np.array([1.0, 2.0, 4.0])  # 64 routed experts of 512 and one shared, which `tp` ranks split
    alone = replace(decoding(Parallelism(tp=ranks)), framework=replace(FUSING, tuned_tiles=tuned))
    assert [one.tuned.tolist() for one in expert_gemms(work(alone))] == [[0.0, 1.0, 0.0]] * 2
    apart = replace(alone, framework=replace(FRAMEWORK, tuned_tiles=tuned), parallel=Parallelism(dp=2.0, ep=ranks))
    routed = [one for one in expert_gemms(work(apart)) if one.family == "grouped_gemm"]
    assert [np.asarray(one.tuned).tolist() for one in routed] == [[1.0, 1.0, 0.0]] * 2
    single = replace(apart, parallel=Parallelism(dp=2.0, ep=2.0))
    routed = [one for one in expert_gemms(work(single)) if one.family == "grouped_gemm"]
    assert [one.tuned for one in routed] == [1.0, 1.0]


@pytest.mark.parametrize(
    "changed",
    [
        {"phase": "training"},
        {"parallel": Parallelism(tp=2.0, dp=8.0, ep=16.0)},
        {"shared": 2.0},
        {"shared_intermediate": 64.0},
        {"shared_gate": True},
    ],
    ids=str,
)
def test_it_stays_apart_where_engines_keep_it_so(changed: dict[str, object]) -> None:
    of_ffn = {key: value for key, value in changed.items() if key not in ("phase", "parallel")}
    ffn = replace(moe(MOE_MODEL), **of_ffn)  # type: ignore[arg-type]
    layers = tuple(replace(each, ffn=ffn if isinstance(each.ffn, MoeFfn) else each.ffn) for each in MOE_MODEL.layers)
    base = decoding(Parallelism(tp=2.0), phase="training" if "phase" in changed else "decode")
    here = replace(base, architecture=replace(MOE_MODEL, layers=layers))
    here = replace(here, parallel=changed.get("parallel", here.parallel))  # type: ignore[arg-type]
    assert named(list(work(here).operators()), "shared expert")


def norms(tp: Count, sequences: Count = 16.0) -> list[Elementwise]:
    found = [one for one in work(decoding(Parallelism(tp=tp), sequences)).operators() if isinstance(one, Elementwise)]
    return [one for one in found if one.name in ("attention norm", "ffn norm")]


def test_a_norm_behind_an_all_reduce_starts_no_kernel_of_its_own() -> None:
    assert {float(np.max(one.calls)) for one in norms(2.0)} == {0.0}
    assert {float(np.max(one.calls)) for one in norms(1.0)} == {1.0}  # no all-reduce
    assert {float(np.max(one.calls)) for one in norms(2.0, sequences=65.0)} == {1.0}  # a longer message
    for one, same in zip(norms(np.array([1.0, 2.0])), norms(2.0), strict=True):
        assert np.asarray(one.calls).tolist() == [1.0, 0.0]
        assert np.max(one.traffic) == same.traffic > 0  # its bytes still move


def test_a_mixed_step_fuses_norms_only_if_its_message_is_short_enough() -> None:
    chunk = decoding(Parallelism(tp=2.0), sequences=1.0, phase="prefill")
    found = [one for one in work(decoding(Parallelism(tp=2.0)), chunk).operators() if one.name == "ffn norm"]
    assert {float(one.calls) for one in found if isinstance(one, Elementwise)} == {1.0}


def test_only_models_with_experts_fuse_norms_where_the_engine_says_so() -> None:
    dense = replace(MOE_MODEL, layers=tuple(each for each in MOE_MODEL.layers if not isinstance(each.ffn, MoeFfn)))
    engine = replace(FRAMEWORK, fused_norms=FusedNorms(experts_only=True))
    here = replace(decoding(Parallelism(tp=2.0)), framework=engine)
    found = (named(list(work(each).operators()), "ffn norm") for each in (here, replace(here, architecture=dense)))
    assert [{float(one.calls) for one in each if isinstance(one, Elementwise)} for each in found] == [{0.0}, {1.0}]


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
