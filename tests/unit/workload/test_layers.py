"""What a layer consists of: operators of each pass, tensors kept for the backward pass, recomputation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from builders import BF16, DENSE_MODEL, FP8, GPT_22B, GPT_LAYER, GQA, MOE, MOE_MODEL, UNFUSED, context
from layer_facts import kept, named, traffic

from costmodel.records import replace
from costmodel.workload.architecture import Architecture, DenseFfn, Layer, MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.engine import Engine, SchedulerRule
from costmodel.workload.expert_load import ExpertLoad, expert_load
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.layers import model_work
from costmodel.workload.norms import add_norm
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, ExpertAllToAll, Gemm, Operator
from costmodel.workload.order_statistics import expected_tiles, normal_maximum
from costmodel.workload.plans import OPERATORS, SETS, expand
from costmodel.workload.scenario import MASKED, Communication, Framework, Parallelism
from costmodel.workload.work import EVERY_OTHER, LayerWork, WorkBuilder

MEGATRON = replace(UNFUSED, implementations={"attention_prefill": (MASKED,)}, training=TrainingProgram(eager="layers"))
SEQUENCE, BATCH, HIDDEN, HEADS = 2048, 4, 6144, 64  # of Megatron's 22B


def gpt(parallel: Parallelism, recompute: str = "none") -> LayerWork:
    """Return one layer of the 22B model of Korthikanti et al., unfused attention, 16 bits."""
    seen = context(GPT_22B, parallel, sequences=float(BATCH), new_tokens=float(SEQUENCE))
    return model_work(replace(seen, framework=UNFUSED, recompute=expand([recompute]))).layers[0]


def started(operators: Iterable[Operator]) -> float:
    """Return how many kernels and messages the host starts."""
    return float(sum(item.calls if isinstance(item, Elementwise) else 1.0 for item in operators))


def flop(operators: Iterable[Operator]) -> float:
    return float(sum(item.flop for item in operators if isinstance(item, Gemm | AttentionKernel)))


# ---- activations: Korthikanti et al., arXiv 2205.05198, equations 1 to 5 --------------------------------------------


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_activations_of_a_gpt_layer_follow_the_published_formula(tp: int) -> None:
    formula = SEQUENCE * BATCH * HIDDEN * (10 + 24 / tp + 5 * HEADS * SEQUENCE / (HIDDEN * tp))
    assert kept(gpt(Parallelism(tp=float(tp)))) == pytest.approx(formula, rel=1e-3)


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_sequence_parallelism_splits_all_activations(tp: int) -> None:
    parallel = Parallelism(tp=float(tp), sequence_parallel=True)
    formula = SEQUENCE * BATCH * HIDDEN * 34 / tp
    scores = SEQUENCE * BATCH * 5 * HEADS * SEQUENCE / tp
    assert kept(gpt(parallel)) == pytest.approx(formula + scores, rel=1e-3)
    assert kept(gpt(parallel, "selective")) == pytest.approx(formula, rel=1e-3)


def test_selective_recomputation_without_sequence_parallelism_keeps_all_but_the_scores() -> None:
    formula = SEQUENCE * BATCH * HIDDEN * (10 + 24 / 8)
    assert kept(gpt(Parallelism(tp=8.0), "selective")) == pytest.approx(formula, rel=1e-3)


def test_full_recomputation_keeps_the_input_of_a_layer() -> None:
    assert kept(gpt(Parallelism(tp=8.0), "full")) == 2 * SEQUENCE * BATCH * HIDDEN
    assert kept(gpt(Parallelism(tp=8.0, sequence_parallel=True), "full")) == 2 * SEQUENCE * BATCH * HIDDEN / 8


def test_without_dropout_two_bytes_a_mask_less_are_kept() -> None:
    plain = replace(GPT_22B, layers=(replace(GPT_LAYER, dropout=False),))
    seen = replace(context(plain, sequences=float(BATCH), new_tokens=float(SEQUENCE)), framework=UNFUSED)
    dropped = kept(gpt(Parallelism())) - kept(model_work(seen).layers[0])
    scores = SEQUENCE * BATCH * HEADS * SEQUENCE
    assert dropped == pytest.approx(2 * SEQUENCE * BATCH * HIDDEN + 3 * scores)


def test_fused_attention_keeps_no_scores_but_a_statistic_a_row() -> None:
    seen = context(GPT_22B, sequences=float(BATCH), new_tokens=float(SEQUENCE))
    fused = model_work(seen).layers[0]
    linear = SEQUENCE * BATCH * HIDDEN * 34
    assert kept(fused) == pytest.approx(linear + 4 * SEQUENCE * BATCH * HEADS)


# ---- recomputation --------------------------------------------------------------------------------------------------


def moe_layer(recompute: Iterable[str] = (), architecture: Architecture = MOE_MODEL) -> LayerWork:
    seen = replace(context(architecture, Parallelism(dp=8.0, ep=8.0)), precision=FP8, recompute=frozenset(recompute))
    return model_work(replace(seen, communication=Communication(dispatch="fp8"))).layers[-1]


@pytest.mark.parametrize("operator", sorted(OPERATORS - {"layer", EVERY_OTHER}))
@pytest.mark.parametrize("layer", ["moe", "dense"])
def test_recomputing_an_operator_drops_its_tensors_and_repeats_its_forward(operator: str, layer: str) -> None:
    model = MOE_MODEL if layer == "moe" else replace(GPT_22B, layers=(replace(GPT_LAYER, mixer=GQA),))
    plain, again = moe_layer((), model), moe_layer([operator], model)
    dropped = [item for item in plain.saved if item.producer == operator]
    assert [item.name for item in again.saved] == [item.name for item in plain.saved if item.producer != operator]
    assert again.working_bytes == pytest.approx(sum(item.size for item in dropped))
    repeated = [item.name for item in again.input_gradient]
    for item in plain.input_gradient:
        repeated.remove(item.name)
    assert set(repeated) <= {item.name for item in plain.forward}
    assert again.forward.__len__() == len(plain.forward)
    assert [item.name for item in again.weight_gradient] == [item.name for item in plain.weight_gradient]
    if dropped:
        makers = [name for name in repeated if not name.endswith("cast")]
        assert makers, f"{[item.name for item in dropped]} are dropped, but nothing makes them again"


@pytest.mark.parametrize(
    ("operator", "repeats"),
    [
        ("norm", {"attention norm", "query latent norm", "key-value latent norm", "ffn norm"}),
        ("mla_up", {"query up", "key-value up"}),
        ("activation", {"expert activation", "shared expert activation"}),
        ("ffn_up", {"expert up", "shared expert up"}),
        ("dispatch", {"dispatch"}),
    ],
)
def test_a_recomputed_operator_runs_again_before_its_gradient(operator: str, repeats: set[str]) -> None:
    again = [item.name for item in moe_layer([operator]).input_gradient]
    for name in repeats:
        assert name in again
        gradients = [
            place for place, other in enumerate(again) if other in {f"{name} gradient", f"{name} input gradient"}
        ]
        assert all(again.index(name) < place for place in gradients)


def test_heads_that_are_recomputed_are_rotated_again() -> None:
    """Queries and keys are kept rotated: making them again takes the rotation as well as the projection."""
    assert "rotary" in [item.name for item in moe_layer(SETS["deepseek_v3"]).input_gradient]


def test_full_recomputation_repeats_exactly_the_forward_pass() -> None:
    plain, full = moe_layer(), moe_layer(SETS["full"])
    assert [item.name for item in full.input_gradient] == [
        *(item.name for item in plain.forward),
        *(item.name for item in plain.input_gradient),
    ]
    assert flop(full.input_gradient) - flop(plain.input_gradient) == flop(plain.forward)


def test_full_recomputation_repeats_layers_and_not_the_embedding() -> None:
    seen = replace(context(), recompute=SETS["full"])
    plain, full = model_work(context()).embedding, model_work(seen).embedding
    assert [item.name for item in full.input_gradient] == [item.name for item in plain.input_gradient]


def test_selective_recomputation_repeats_the_scores_that_go_through_memory() -> None:
    plain, again = gpt(Parallelism()), gpt(Parallelism(), "selective")
    repeated = [item.name for item in again.input_gradient if item.name not in {o.name for o in plain.input_gradient}]
    assert [name for name in repeated if "ring" not in name] == ["attention scores", "softmax", "attention values"]


def test_every_other_product_keeps_queries_values_gates_and_repeats_keys_outputs_ups() -> None:
    """In order: q, k, v, o, gate, up, down. A layer's last product is not needed again; attention's core is kept."""
    tokens, hidden, kv, width = 1024.0, 1024.0, 256.0, 2816.0
    plain, again = (
        model_work(replace(context(), recompute=expand([name]))).layers[0] for name in ("none", EVERY_OTHER)
    )
    repeated = 2.0 * tokens * hidden * (kv + hidden + width)
    assert flop(again.input_gradient) - flop(plain.input_gradient) == pytest.approx(repeated)
    stream, core, statistics = 2 * hidden, hidden, 16 * 4.0
    assert kept(again) == pytest.approx(tokens * (2.0 * (stream + hidden + kv + core + width) + statistics))
    names = [item.name for item in again.input_gradient]
    assert {"attention norm", "ffn norm", "rotary", "ffn activation"} <= set(names)
    assert not {"attention core", "ffn down"} & set(names)
    assert [item.name for item in again.weight_gradient] == [item.name for item in plain.weight_gradient]


def test_more_recomputation_keeps_less() -> None:
    none, selective, full = (kept(gpt(Parallelism(tp=8.0), name)) for name in ("none", "selective", "full"))
    assert full < selective < none
    none, deepseek, full = (kept(moe_layer(SETS[name])) for name in ("none", "deepseek_v3", "full"))
    assert full < deepseek < none


# ---- passes ---------------------------------------------------------------------------------------------------------


def test_every_product_has_an_input_and_a_weight_gradient_as_large_as_itself() -> None:
    work = moe_layer()
    for item in work.forward:
        if isinstance(item, Gemm):
            assert flop([named(work.input_gradient, f"{item.name} input gradient")]) == pytest.approx(item.flop)
            assert flop([named(work.weight_gradient, f"{item.name} weight gradient")]) == pytest.approx(item.flop)


def test_gradients_run_in_the_opposite_order_of_the_forward_pass() -> None:
    work = moe_layer()
    forward = [item.name for item in work.forward if isinstance(item, Gemm)]
    backward = [item.name.removesuffix(" input gradient") for item in work.input_gradient if isinstance(item, Gemm)]
    assert backward == forward[::-1]


def test_attention_backward_recomputes_the_scores() -> None:
    work = model_work(context(DENSE_MODEL)).layers[0]  # q = v: five products instead of two
    assert flop([named(work.input_gradient, "attention core gradient")]) == pytest.approx(
        2.5 * flop([named(work.forward, "attention core")])
    )
    latent = moe_layer()  # q = 96, v = 64
    assert flop([named(latent.input_gradient, "attention core gradient")]) == pytest.approx(
        (3 * 96 + 2 * 64) / (96 + 64) * flop([named(latent.forward, "attention core")])
    )


def test_unfused_attention_counts_all_pairs_four_times_backwards() -> None:
    work = gpt(Parallelism())
    pairs = BATCH * HEADS * SEQUENCE * SEQUENCE
    core = [item for item in work.input_gradient if isinstance(item, Gemm) and item.family == "bmm"]
    assert flop(core) == 2 * pairs * 4 * 96


def test_causal_pairs_are_half_and_the_diagonal() -> None:
    core = named(model_work(context(new_tokens=1000.0)).layers[0].forward, "attention core")
    assert isinstance(core, AttentionKernel)
    assert core.qk_pairs == 1000 * 1001 / 2


def test_weight_gradients_read_and_write_their_sum() -> None:
    product = named(moe_layer().weight_gradient, "query up weight gradient")
    assert isinstance(product, Gemm)
    assert product.out_bytes == 8.0  # a 4-byte read and a 4-byte write


def test_narrow_products_cast_their_inputs_both_ways_and_turn_them_for_the_weight_gradient() -> None:
    tokens, block = 1024, 1 + 4 / 128
    narrow = moe_layer()
    assert traffic(named(narrow.forward, "output projection cast")) == tokens * 1024 * (2 + block)
    assert traffic(named(narrow.input_gradient, "output projection gradient cast")) == tokens * 1024 * (2 + block)
    turned = tokens * 1024 * 2 * block + tokens * 1024 * (2 + block)
    assert traffic(named(narrow.weight_gradient, "output projection transposed casts")) == turned
    wide = model_work(context(MOE_MODEL)).layers[-1]
    assert not [
        item.name for item in (*wide.forward, *wide.input_gradient, *wide.weight_gradient) if "cast" in item.name
    ]


def test_absorbed_decoding_reads_the_latent_once_for_all_heads() -> None:
    seen = context(MOE_MODEL, phase="decode", sequences=32.0, new_tokens=1.0, kv_len=1000.0)
    core = named(model_work(seen).layers[0].forward, "attention core")
    assert isinstance(core, AttentionKernel)
    width = 128 + 32
    assert core.flop == 2 * 32 * 16 * 1000 * (width + 128)
    assert core.traffic == 32 * 1000 * width * 2 + 32 * 16 * (width + 128) * 2
    split = named(model_work(replace(seen, parallel=Parallelism(tp=4.0))).layers[0].forward, "attention core")
    assert isinstance(split, AttentionKernel)
    assert split.flop == core.flop / 4
    assert split.traffic > 32 * 1000 * width * 2


def test_absorbed_decoding_has_the_parameters_of_the_expanded_form() -> None:
    expanded = model_work(context(MOE_MODEL)).layers[-1]
    absorbed = model_work(context(MOE_MODEL, phase="decode", new_tokens=1.0, kv_len=1000.0)).layers[-1]
    assert sum(item.total for item in absorbed.parameters) == sum(item.total for item in expanded.parameters)


def test_inference_writes_the_cache_and_training_does_not() -> None:
    for model in (DENSE_MODEL, MOE_MODEL):
        writes = [
            "kv cache write" in [item.name for item in model_work(context(model, phase=phase)).layers[0].forward]
            for phase in ("training", "prefill", "decode")
        ]
        assert writes == [False, True, True]


def test_the_head_of_inference_sees_one_token_a_sequence() -> None:
    def rows(phase: str) -> float:
        product = named(model_work(context(phase=phase, sequences=3.0)).head.forward, "vocabulary projection")
        assert isinstance(product, Gemm)
        return float(product.m)

    assert [rows("training"), rows("prefill")] == [3 * 1024, 3]


# ---- communication --------------------------------------------------------------------------------------------------


def collectives(parallel: Parallelism) -> list[tuple[str, float]]:
    work = model_work(context(parallel=parallel)).layers[0]
    found = [item for item in (*work.forward, *work.input_gradient) if isinstance(item, Collective)]
    return [(item.kind, float(item.size)) for item in found if float(item.group.size) > 1]


def test_engines_gather_the_logits_of_all_words_and_cast_them_before_they_take_the_largest() -> None:
    """8 requests, 32,000 words: 2 bytes a logit gathered over both ranks; 2 + 4 of the cast, 4 of the comparison."""
    seen = context(DENSE_MODEL, Parallelism(tp=2.0), phase="decode", sequences=8.0, new_tokens=1.0, kv_len=1000.0)
    engine = Engine("1", (SchedulerRule(max_num_seqs=8.0, token_budget=512.0),))
    head = model_work(replace(seen, framework=replace(seen.framework, engine=engine))).head
    gather, cast, largest = head.forward[-3:]
    assert isinstance(gather, Collective)
    assert isinstance(cast, Elementwise)
    assert isinstance(largest, Elementwise)
    assert (gather.kind, gather.size, gather.group.size) == ("all_gather", 2 * 8 * 32_000, 2)
    assert (cast.traffic, largest.traffic) == (6 * 8 * 32_000, 4 * 8 * 32_000)
    assert model_work(seen).head.forward[-1].name == "vocabulary projection"  # no engine, none of its kernels


def test_tensor_parallelism_reduces_twice_forward_and_twice_backward() -> None:
    size = 1024 * 1024 * 2
    assert collectives(Parallelism(tp=4.0)) == [("all_reduce", size)] * 4


def test_sequence_parallelism_gathers_and_scatters_instead() -> None:
    found = collectives(Parallelism(tp=4.0, sequence_parallel=True))
    assert sorted(kind for kind, _ in found) == ["all_gather"] * 4 + ["reduce_scatter"] * 4


def test_context_parallelism_passes_keys_and_values_round_and_their_gradients_back() -> None:
    whole = 1024 * 4 * 128 * 2  # keys and values of all tokens
    assert collectives(Parallelism(cp=4.0)) == [("all_gather", whole)] * 2 + [("reduce_scatter", whole)]


def exchange(name: str) -> ExpertAllToAll:
    work = moe_layer()
    found = named([*work.forward, *work.input_gradient], name)
    assert isinstance(found, ExpertAllToAll)
    return found


def test_dispatch_is_narrow_and_combine_wide_and_their_gradients_the_other_way_round() -> None:
    narrow, wide = 1024 * (1 + 4 / 128), 1024 * 2
    widths = {
        name: exchange(name).token_bytes for name in ("dispatch", "combine", "combine gradient", "dispatch gradient")
    }
    assert widths == {"dispatch": narrow, "combine": wide, "combine gradient": narrow, "dispatch gradient": wide}
    assert exchange("dispatch").tokens == 1024
    assert traffic(named(moe_layer().input_gradient, "combine gradient cast")) == 1024 * (wide + narrow)


def stated(load: float | None, ranks: float = 8.0, tokens: float = 1024.0) -> ExpertLoad:
    own = context(MOE_MODEL, Parallelism(dp=ranks, ep=ranks), sequences=1.0, new_tokens=tokens)
    seen = replace(own, communication=Communication(expert_load=load))
    ffn = next(layer.ffn for layer in MOE_MODEL.layers if isinstance(layer.ffn, MoeFfn))
    return expert_load(seen, ffn)


def test_rows_of_experts_differ_as_the_loads_of_independent_ranks_do() -> None:
    found = stated(1.3)
    ranks, experts = 8, round(float(found.local_experts))
    mean = float(found.rows / found.load / found.active_experts)
    apart = 0.3 / float(normal_maximum(ranks))  # of a rank's load; of an expert's sqrt(experts) times as much
    draws = mean * (1 + apart * experts**0.5 * np.random.default_rng(0).normal(size=(20_000, ranks, experts)))
    fullest = draws[np.arange(len(draws)), draws.sum(axis=2).argmax(axis=1)]
    assert float(found.rows / found.active_experts) == pytest.approx(fullest.mean(), rel=0.02)
    assert float(found.rows_std) == pytest.approx(fullest.std(), rel=0.05)


def test_a_load_close_to_even_has_hardly_another_tile() -> None:
    """Even experts fill their tiles to the last row; a whole further row is seldom needed at 1.0001."""
    tokens = 128 * 1024.0 / float(stated(None).rows / stated(None).active_experts)
    even, near, more = (stated(load, tokens=tokens) for load in (None, 1.0001, 1.05))
    assert even.rows_std == 0.0
    assert even.rows / even.active_experts == pytest.approx(128.0)

    def tiles(found: ExpertLoad) -> float:
        return float(expected_tiles(float(found.rows / found.active_experts), float(found.rows_std), 128.0))

    assert tiles(even) == 1.0
    assert tiles(near) == pytest.approx(1.0, abs=0.03)
    assert tiles(more) > 1.6  # eight experts of a rank differ: some keep to one tile


def test_one_rank_alone_has_no_spread_but_whole_rows() -> None:
    found = stated(1.25, ranks=1.0)
    part = float(found.rows / found.active_experts) % 1.0
    assert float(found.rows_std) == pytest.approx((part * (1 - part)) ** 0.5)


def test_the_fullest_rank_s_load_multiplies_expert_rows_and_copies() -> None:
    def loaded(load: float) -> tuple[float, float]:
        seen = replace(context(MOE_MODEL, Parallelism(dp=8.0, ep=8.0)), communication=Communication(expert_load=load))
        work = model_work(seen).layers[-1]
        sent = named(work.forward, "dispatch")
        assert isinstance(sent, ExpertAllToAll)
        return flop([named(work.forward, "expert up")]), float(sent.expert_load)

    assert loaded(1.5) == (1.5 * loaded(1.0)[0], 1.5)
    seen = replace(context(MOE_MODEL, Parallelism(dp=8.0, ep=8.0)), communication=Communication(expert_load=2.0))
    sent = named(model_work(seen).layers[-1].forward, "dispatch")
    assert isinstance(sent, ExpertAllToAll)
    assert sent.most_loaded(8.0) == pytest.approx(2.0)


def test_a_mixture_without_shared_experts_runs_no_kernels_for_them() -> None:
    layer = Layer(1, GQA, replace(MOE, shared=0.0))
    work = model_work(context(replace(MOE_MODEL, layers=(layer,), mtp=None))).layers[0]
    idle = [item.name for item in (*work.forward, *work.input_gradient, *work.weight_gradient) if "shared" in item.name]
    assert idle == []


def test_shared_experts_may_have_a_width_of_their_own() -> None:
    def width(ffn: MoeFfn) -> float:
        seen: Context = context(replace(MOE_MODEL, layers=(Layer(1, GQA, ffn),), mtp=None))
        product = named(model_work(seen).layers[0].forward, "shared expert up")
        assert isinstance(product, Gemm)
        return float(product.n)

    assert width(replace(MOE, shared=2.0)) == 2 * 2 * 512
    assert width(replace(MOE, shared=1.0, shared_intermediate=4096.0)) == 2 * 4096


def test_a_gate_doubles_the_up_projection() -> None:
    gated, plain = (
        model_work(context(replace(DENSE_MODEL, layers=(Layer(1, GQA, DenseFfn(4096.0, gated=gate)),)))).layers[0]
        for gate in (True, False)
    )
    assert flop([named(gated.forward, "ffn up")]) == 2 * flop([named(plain.forward, "ffn up")])


def test_precision_decides_what_is_kept_of_an_input() -> None:
    def size(precision: object) -> float:
        chosen = BF16 if precision is BF16 else FP8
        seen = replace(context(MOE_MODEL), precision=chosen)
        return sum(float(item.size) for item in model_work(seen).layers[-1].saved if item.name == "expert up input")

    rows = 1024 * 4
    assert size(BF16) == rows * 1024 * 2
    assert size(FP8) == rows * 1024 * (1 + 4 / 128)


# ---- frameworks that start PyTorch's operators one after the other ---------------------------------------------------


def test_megatron_starts_as_many_kernels_as_its_code_has() -> None:
    """Full recomputation of a layer: 17 kernels forwards, of which two are messages, 17 again, and those of gradients.

    Backwards: drop-outs (2), products (8), GELU, norms (input, two for parameters, two that add these to earlier ones,
    10), sums (2), the core with its soft-max and drop-out (6), two that scale, one that joins, biases (8), messages.
    """
    seen = context(GPT_22B, Parallelism(tp=8.0), sequences=float(BATCH), new_tokens=float(SEQUENCE))
    layer = model_work(replace(seen, framework=MEGATRON, recompute=expand(["full"]))).layers[0]
    messages = [item for item in layer.forward if isinstance(item, Collective) and item.group.size > 1]
    assert len(messages) == 2
    alone = [item for item in (*layer.forward, *layer.input_gradient) if _sent_to_itself(item)]
    forward = [item for item in layer.forward if not _sent_to_itself(item)]
    gradients = [*layer.input_gradient[len(layer.forward) :], *layer.weight_gradient]
    assert started(forward) == 17
    assert started(item for item in gradients if item not in alone) == 2 + 8 + 1 + 10 + 2 + 6 + 2 + 1 + 8 + 2


def _sent_to_itself(item: Operator) -> bool:
    return isinstance(item, Collective) and bool(item.group.size == 1)


@pytest.mark.parametrize("framework", [MEGATRON, replace(MEGATRON, implementations={})])
def test_gradients_of_queries_keys_and_values_are_joined_where_nothing_is_fused(framework: Framework) -> None:
    seen = context(GPT_22B, Parallelism(tp=2.0), sequences=float(BATCH), new_tokens=float(SEQUENCE))
    layer = model_work(replace(seen, framework=framework)).layers[0]
    joined = named(layer.input_gradient, "query, key, value gradient join")
    assert traffic(joined) == 2 * 2 * BATCH * SEQUENCE * 3 * HIDDEN / 2
    order = [item.name for item in layer.input_gradient]
    assert order.index(joined.name) < order.index("qkv projection input gradient")
    plain = model_work(replace(seen, framework=replace(framework, training=TrainingProgram()))).layers[0]
    assert all(item.name != joined.name for item in plain.input_gradient)


@pytest.mark.parametrize(("tp", "held"), [(1, 8.0), (2, 12.0)])
def test_the_backward_pass_of_an_eager_loss_holds_more_of_its_logits(tp: int, held: float) -> None:
    seen = context(GPT_22B, Parallelism(tp=float(tp)))
    fused, eager = (
        model_work(replace(seen, framework=replace(seen.framework, training=TrainingProgram(eager=eager)))).head
        for eager in ("none", "loss")
    )
    logits = float(named(eager.forward, "vocabulary projection").m) * GPT_22B.vocabulary / tp  # type: ignore[union-attr]
    assert fused.working_bytes == 0.0
    assert eager.working_bytes == pytest.approx(held * logits)
    assert kept(eager) == kept(fused)
    assert traffic(named(eager.forward, "loss")) > traffic(named(fused.forward, "loss"))


def test_a_loss_over_a_split_vocabulary_passes_its_logits_more_often() -> None:
    seen = context(GPT_22B, Parallelism(tp=8.0), sequences=float(BATCH), new_tokens=float(SEQUENCE))
    logits = BATCH * SEQUENCE * GPT_22B.vocabulary / 8
    plain, split = (
        model_work(replace(seen, framework=framework)).head
        for framework in (replace(MEGATRON, implementations={}), MEGATRON)
    )
    assert traffic(named(plain.forward, "loss")) == logits * (2 + 12)
    assert traffic(named(split.forward, "loss")) == logits * (2 + 36)
    assert traffic(named(split.input_gradient, "loss gradient")) == logits * (2 + 12)
    assert started(split.forward) - started(plain.forward) == 6 + 16 - 2
    token = 2 * 4 * BATCH * SEQUENCE  # an FP32 number of each token in and out
    assert traffic(named(split.forward, "loss of targets")) == 16 * token
    assert traffic(named(split.input_gradient, "loss gradient of targets")) == 8 * token


@pytest.mark.parametrize(("kind", "vectors"), [("layer", 2.0), ("rms", 1.0), ("none", 0.0)])
def test_the_gradient_of_an_unfused_norm_starts_two_kernels_and_one_a_vector(kind: str, vectors: float) -> None:
    seen = replace(context(DENSE_MODEL), framework=MEGATRON)
    builder = WorkBuilder("one")
    add_norm(builder, seen, "norm", kind, 8.0, 16.0)
    (found,) = (each for each in builder.build().input_gradient if each.name == "norm parameter gradients")
    assert isinstance(found, Elementwise)
    assert (found.calls, found.traffic) == (2.0 + vectors, 2.0 * 8.0 * 16.0 * seen.residual)


def test_dropout_of_scores_reads_and_writes_them_once_more_and_a_byte_each_way() -> None:
    plain = replace(GPT_22B, layers=(replace(GPT_LAYER, dropout=False),))
    seen = replace(context(plain, sequences=float(BATCH), new_tokens=float(SEQUENCE)), framework=UNFUSED)
    with_it, without = gpt(Parallelism()), model_work(seen).layers[0]
    scores = BATCH * HEADS * SEQUENCE * SEQUENCE
    for passed, name in (("forward", "softmax"), ("input_gradient", "softmax gradient")):
        both = (named(getattr(work, passed), name) for work in (with_it, without))
        dropped, bare = (traffic(each) for each in both)
        assert (bare, dropped) == (4 * 2 * scores, (4 * 2 + 2 * 2 + 1) * scores)
