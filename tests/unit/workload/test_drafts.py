"""Drafts of an EAGLE-3 head, of another model and of looked-up words: what they compute, hold and cost."""

from __future__ import annotations

from typing import Any

import pytest
from builders import DENSE_MODEL, context

import costmodel
from costmodel.errors import InputError
from costmodel.quantities import sum_of
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Drafter
from costmodel.workload.drafts import draft_layers, own_eagle_head
from costmodel.workload.operators import Gemm
from costmodel.workload.passes import Pass, pass_work
from costmodel.workload.plans import Speculative, draft_passes, drafted_tokens, tokens_per_step
from costmodel.workload.scenario import Parallelism
from costmodel.workload.work import LayerWork

HIDDEN, HEADS, KV_HEADS, HEAD, INNER, WORDS = 1024.0, 16.0, 4.0, 64.0, 2816.0, 8000.0
SERVER = {
    "phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"tp": 2},
    "input_tokens": 512, "output_tokens": 128, "concurrency": 4, "requests": {"count": 40, "arrivals": "closed_loop"},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "eagle3": {"drafter": "eagle3"}, "model": {"drafter": "model", "model": "models/llama-3-8b"},
    "ngram": {"drafter": "ngram"},
}  # fmt: skip


def with_head(words: float = WORDS) -> Architecture:
    drafter = own_eagle_head(DENSE_MODEL)
    return replace(DENSE_MODEL, drafter=replace(drafter, architecture=replace(drafter.architecture, vocabulary=words)))


def flop(work: LayerWork) -> float:
    return float(sum_of(each.flop for each in work.forward if isinstance(each, Gemm)))


def weights(work: LayerWork) -> float:
    return float(sum_of(each.local for each in work.parameters))


def test_an_eagle_head_has_the_products_and_weights_that_one_counts_by_hand() -> None:
    """8 requests verify 4 tokens each: 3d -> d, 2d -> queries, keys and values, heads -> d, SwiGLU, own words."""
    verify = context(with_head(), phase="decode", sequences=8.0, new_tokens=4.0, kv_len=1003.0)
    projection = 3 * HIDDEN * HIDDEN
    attention = 2 * HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD + HEADS * HEAD * HIDDEN
    layer, head = attention + 3 * HIDDEN * INNER, HIDDEN * WORDS
    ((runs, first),) = draft_layers(verify, first=True)
    assert runs == 1
    assert flop(first) == 2 * 32 * (projection + layer) + 2 * 8 * head
    norms = 4 * HIDDEN  # of embedding, hidden state, FFN, and the last one
    assert weights(first) == projection + layer + head + norms
    ((_, later),) = draft_layers(replace(verify, new_tokens=1.0), first=False)
    assert flop(later) == 2 * 8 * (layer + head)


def test_an_eagle_head_is_stored_in_16_bits_and_caches_one_layer() -> None:
    """A prompt of 1,000 tokens: 2 * 4 heads * 64 elements of 2 bytes a token more than the model's eight layers."""
    server = {"tp": 2}, "models/llama-3-8b"
    plain, drafting = (loaded(None, *server), loaded({"depth": 2, "acceptance": 0.5, "drafter": "eagle3"}, *server))
    head = 3 * 4096 * 4096 + (2 * 4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336 + 4096 * 128256) / 2 + 4 * 4096
    assert drafting["memory"]["weights"] - plain["memory"]["weights"] == pytest.approx(2 * head, rel=1e-9)
    per_block = [one["memory"]["kv_cache"] / one["metrics"]["kv_blocks"] for one in (plain, drafting)]
    assert per_block[1] / per_block[0] == pytest.approx(33 / 32)


def test_another_model_computes_its_own_step_for_the_last_token_of_every_request() -> None:
    small = replace(DENSE_MODEL, hidden=512.0, layers=(replace(DENSE_MODEL.layers[0], repeat=2),))
    both = replace(DENSE_MODEL, drafter=Drafter(small, is_head=False))
    verify = context(both, phase="decode", sequences=8.0, new_tokens=4.0, kv_len=1003.0)
    drafts = pass_work(Pass((verify,), 1, (1.0, 1.0, 1.0))).drafts
    layer = 512 * (HEADS + 2 * KV_HEADS) * HEAD + HEADS * HEAD * 512 + 3 * 512 * INNER
    first, later = drafts[:3], drafts[3:]
    assert [runs for runs, _ in first] == [1, 2, 1]
    assert [runs for runs, _ in later] == [2, 4, 2]
    assert sum(runs * flop(work) for runs, work in first) == 2 * (32 * 2 * layer + 8 * 512 * 32_000)
    assert sum(runs * flop(work) for runs, work in later) == 2 * 2 * 8 * (2 * layer + 512 * 32_000)


def test_a_level_of_a_tree_goes_on_from_the_candidates_before_it() -> None:
    """4, behind each 2, behind each 1: the head goes on from the last token, from 4 candidates, from 8."""
    tree = Speculative(3.0, 0.5, branches=(4.0, 2.0, 1.0), drafter="eagle3")
    assert draft_passes(tree) == (1.0, 4.0, 8.0)
    verify = context(with_head(), phase="decode", sequences=2.0, new_tokens=21.0, kv_len=1020.0)
    drafts = pass_work(Pass((verify,), 1, draft_passes(tree))).drafts
    rows = [
        next(each.m for each in work.forward if isinstance(each, Gemm) and "qkv" in each.name) for _, work in drafts
    ]
    assert rows == [2 * 21.0, 2 * 4.0, 2 * 8.0]


def test_looking_words_up_takes_no_pass_and_verifies_as_many_tokens() -> None:
    found = Speculative(3.0, 0.5, drafter="ngram")
    assert draft_passes(found) == ()
    assert drafted_tokens(found) == 3.0
    assert tokens_per_step(found) == 1.875


def test_ranks_that_split_a_head_compute_the_whole_one_together() -> None:
    one = context(with_head(), phase="decode", sequences=8.0, new_tokens=4.0, kv_len=1003.0)
    ((_, whole),) = draft_layers(one, first=True)
    ((_, half),) = draft_layers(replace(one, parallel=Parallelism(tp=2.0)), first=True)
    replicated = 2 * 32 * 3 * HIDDEN * HIDDEN  # the projection of hidden states
    assert 2 * (flop(half) - replicated) == flop(whole) - replicated


# ---- Servers: the limits that any kind of draft has to keep ----------------------------------------------------------


def loaded(drafts: dict[str, Any] | None, parallel: dict[str, int], model: str, engine: str = "analytic") -> Any:
    run = {**SERVER, "parallel": parallel, **({} if drafts is None else {"speculative": drafts})}
    document = {"schema": "costmodel/workload@1", "model": model, "scenarios": {"run": run}}
    return costmodel.load(document).simulate(engine=engine)["scenarios"]["run"]


def tpot(drafts: dict[str, Any] | None, engine: str = "analytic") -> float:
    return float(loaded(drafts, {"tp": 4}, "models/llama-3-70b", engine)["metrics"]["tpot"])


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_no_levels_are_no_drafts_and_drafts_that_are_never_kept_only_cost(engine: str) -> None:
    none = tpot(None, engine)
    costs = {}
    for kind, drafter in KINDS.items():
        assert tpot({"depth": 0, "acceptance": 0.9, **drafter}, engine) == none
        costs[kind] = tpot({"depth": 3, "acceptance": 0.0, **drafter}, engine)
        kept = [tpot({"depth": 3, "acceptance": each, **drafter}, engine) for each in (0.5, 1.0)]
        assert costs[kind] > kept[0] > kept[1]
    assert none < costs["ngram"] < costs["eagle3"] < costs["model"]


def test_words_that_are_looked_up_cost_their_verification_alone() -> None:
    """Other lines of a step are as without drafts; those of the same step take four tokens a request."""

    def step(drafts: dict[str, Any] | None) -> Any:
        run = {"phase": "decode", "batch_per_device": 8, "input_tokens": 512, "output_tokens": 128}
        run |= {"cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"tp": 4}}
        run |= {} if drafts is None else {"speculative": drafts}
        document = {"schema": "costmodel/workload@1", "model": "models/llama-3-70b", "scenarios": {"run": run}}
        return costmodel.load(document).simulate()["scenarios"]["run"]

    plain, never, always = (
        step(None),
        step({"depth": 3, "acceptance": 0.0, **KINDS["ngram"]}),
        step({"depth": 3, "acceptance": 1.0, **KINDS["ngram"]}),
    )
    assert {line["name"] for line in never["breakdown"]} == {line["name"] for line in plain["breakdown"]}
    assert never["memory"]["weights"] == plain["memory"]["weights"]
    assert always["metrics"]["tpot"] == pytest.approx(never["metrics"]["tpot"] / 4, rel=1e-12)
    assert plain["metrics"]["tpot"] < never["metrics"]["tpot"] < 4 * plain["metrics"]["tpot"]


def test_both_engines_price_a_draft_alike() -> None:
    for drafter in KINDS.values():
        drafts = {"depth": 2, "acceptances": [0.8, 0.5], **drafter}
        assert tpot(drafts, "event") == pytest.approx(tpot(drafts), rel=0.1)


@pytest.mark.parametrize(
    ("model", "speculative", "problem"),
    [
        ("models/llama-3-8b", {"drafter": "model"}, "needs a `model`"),
        ("models/llama-3-8b", {"drafter": "ngram", "model": "models/llama-3-8b"}, "belongs to"),
        ("models/llama-3-8b", {"drafter": "mtp"}, "no MTP module"),
        ("models/deepseek-v3", {"drafter": "eagle3"}, "dense layers of grouped-query attention"),
        ("models/llama-3-8b", {"drafter": "eagle3", "model": "models/deepseek-v3"}, "needs grouped-query attention"),
    ],
)
def test_what_cannot_draft_is_refused_with_the_fix(model: str, speculative: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        loaded({"depth": 2, "acceptance": 0.5, **speculative}, {"tp": 8}, model)
