"""Loads that come about by chance and by popularity, against draws of many tokens with a fixed seed."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.quantities import Array, Quantity
from costmodel.workload.operators import ExpertAllToAll, Group
from costmodel.workload.popularity import Popularity, RoutingLaw, expert_probabilities, place_experts

Draws = npt.NDArray[np.bool_]  # [draws, tokens, experts]


def drawn(choice: RoutingLaw, experts: int, exponent: float, tokens: int, draws: int) -> Draws:
    """Return which experts each token chooses: `top_k` distinct ones, each with its own chance.

    Systematic sampling over experts in random order: a comb of whole steps from a random offset over the summed
    chances.
    """
    random = np.random.default_rng(11)
    order = np.argsort(random.random((draws * tokens, experts)), axis=1)
    steps = np.cumsum(expert_probabilities(choice, experts, exponent)[order], axis=1) + 1e-12
    teeth = np.floor(steps - random.random((draws * tokens, 1)))
    chosen = np.empty((draws * tokens, experts), dtype=bool)
    np.put_along_axis(chosen, order, np.diff(teeth, axis=1, prepend=-1.0) > 0, axis=1)
    return chosen.reshape(draws, tokens, experts)


def grouped(groups: int, taken: int, experts: int, top_k: int, tokens: int, draws: int) -> Draws:
    """Return which experts each token chooses where it first chooses some groups, all alike."""
    random = np.random.default_rng(12)
    opened = np.argsort(random.random((draws * tokens, groups)), axis=1)[:, :taken]
    is_open = np.zeros((draws * tokens, groups), dtype=bool)
    np.put_along_axis(is_open, opened, True, axis=1)
    wish = np.where(np.repeat(is_open, experts // groups, axis=1), random.random((draws * tokens, experts)), 2.0)
    chosen = np.zeros((draws * tokens, experts), dtype=bool)
    np.put_along_axis(chosen, np.argpartition(wish, top_k - 1, axis=1)[:, :top_k], True, axis=1)
    return chosen.reshape(draws, tokens, experts)


def popularity(choice: RoutingLaw, experts: int, ranks: int, exponent: float, tokens: Quantity) -> Popularity:
    return Popularity(
        law=choice,
        experts=float(experts),
        groups=1.0,
        ranks=float(ranks),
        nodes=1.0,
        redundant=0.0,
        skew=exponent,
        tokens=tokens,
    )


@lru_cache
def sampled(experts: int, top_k: int, exponent: float, tokens: int) -> Draws:
    draws = int(np.clip(2e6 / (tokens * experts), 60, 1500))
    return drawn(RoutingLaw("zipf", top_k), experts, exponent, tokens, draws)


GRID = [
    (experts, ranks, top_k, exponent, tokens)
    for experts, ranks, top_k in ((8, 8, 2), (8, 2, 2), (16, 16, 1), (64, 8, 6), (256, 32, 8), (256, 128, 8))
    for exponent in (0.0, 1.0)
    for tokens in (4, 16, 64, 256)
]


@pytest.mark.parametrize(("experts", "ranks", "top_k", "exponent", "tokens"), GRID)
def test_the_fullest_rank_is_as_full_as_in_draws(
    experts: int, ranks: int, top_k: int, exponent: float, tokens: int
) -> None:
    chosen = sampled(experts, top_k, exponent, tokens)
    counts = chosen.sum(axis=1).reshape(len(chosen), ranks, -1)
    rows, hit, _ = popularity(RoutingLaw("zipf", top_k), experts, ranks, exponent, float(tokens)).most_loaded_rank()
    fullest = counts.sum(axis=2).max(axis=1)
    error = 3 * fullest.std() / len(chosen) ** 0.5
    assert rows == pytest.approx(fullest.mean(), abs=error + 0.03 * fullest.mean())
    assert hit == pytest.approx((counts > 0).sum(axis=2).max(axis=1).mean(), rel=0.15, abs=0.05)


@pytest.mark.parametrize("tokens", [1, 2])
def test_with_a_token_or_two_the_fullest_rank_is_still_close(tokens: int) -> None:
    for experts, ranks, top_k in ((8, 8, 2), (8, 2, 2), (64, 8, 6), (256, 32, 8), (256, 256, 8)):
        chosen = sampled(experts, top_k, 0.0, tokens)
        fullest = chosen.sum(axis=1).reshape(len(chosen), ranks, -1).sum(axis=2).max(axis=1)
        rows, _, _ = popularity(RoutingLaw("uniform", top_k), experts, ranks, 0.0, float(tokens)).most_loaded_rank()
        assert rows == pytest.approx(fullest.mean(), rel=0.07)


@pytest.mark.parametrize("tokens", [4, 32, 256])
@pytest.mark.parametrize(
    ("experts", "ranks", "top_k", "groups", "taken"),
    [(256, 32, 8, 8, 4), (256, 64, 8, 8, 4), (256, 8, 8, 8, 4), (256, 4, 8, 8, 4), (160, 8, 6, 8, 3)],
)
def test_limited_groups_spread_the_loads_further(
    experts: int, ranks: int, top_k: int, groups: int, taken: int, tokens: int
) -> None:
    chosen = grouped(groups, taken, experts, top_k, tokens, int(np.clip(4e6 / (tokens * experts), 60, 1000)))
    fullest = chosen.sum(axis=1).reshape(len(chosen), ranks, -1).sum(axis=2).max(axis=1)
    choice = RoutingLaw("uniform", top_k, group_top_k=taken)
    limited = Popularity(
        law=choice,
        experts=float(experts),
        groups=float(groups),
        ranks=float(ranks),
        nodes=1.0,
        redundant=0.0,
        skew=0.0,
        tokens=float(tokens),
    )
    rows, _, _ = limited.most_loaded_rank()
    error = 3 * fullest.std() / len(chosen) ** 0.5
    assert rows == pytest.approx(fullest.mean(), abs=error + 0.02 * fullest.mean())
    free, _, _ = popularity(RoutingLaw("uniform", top_k), experts, ranks, 0.0, float(tokens)).most_loaded_rank()
    assert rows > free


def test_groups_of_one_expert_are_experts() -> None:
    """Taking one of eight groups of one expert is taking one of eight experts."""
    grouped_choice = Popularity(
        law=RoutingLaw("uniform", 1, group_top_k=1),
        experts=8.0,
        groups=8.0,
        ranks=4.0,
        nodes=1.0,
        redundant=0.0,
        skew=0.0,
        tokens=100.0,
    )
    assert grouped_choice.most_loaded_rank() == pytest.approx(
        popularity(RoutingLaw("uniform", 1), 8, 4, 0.0, 100.0).most_loaded_rank()
    )


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("experts", "ranks", "top_k", "places"), [(64, 8, 6, 8), (256, 32, 8, 32), (256, 32, 8, 4)])
def test_the_fullest_place_gets_as_many_tokens_as_in_draws(
    experts: int, ranks: int, top_k: int, places: int, exponent: float
) -> None:
    """Deduplicated: a token counts once at a node or a rank, however many of its experts stand there."""
    tokens = 64
    chosen = sampled(experts, top_k, exponent, tokens)
    visits = chosen.reshape(len(chosen), tokens, places, -1).any(axis=3).sum(axis=1)
    origin = popularity(RoutingLaw("zipf", top_k), experts, ranks, exponent, float(tokens))
    sent = ExpertAllToAll(
        "dispatch", tokens=float(tokens) / ranks, token_bytes=1.0, top_k=top_k, experts=float(experts),
        expert_groups=1.0, group_top_k=1, group=Group(float(ranks)), mode="normal", expert_load=1.0,
        family="moe_dispatch", popularity=origin,
    )  # fmt: skip
    copies = sent.targets(float(places)) * sent.most_loaded(float(places)) * tokens / places
    fullest = visits.max(axis=1)
    error = 3 * fullest.std() / len(chosen) ** 0.5
    assert copies == pytest.approx(fullest.mean(), abs=error + 0.03 * fullest.mean())


def test_uniform_load_approaches_one_as_tokens_grow() -> None:
    tokens = np.array([1e2, 1e3, 1e4, 1e5, 1e6, 1e8])
    rows, hit, _ = popularity(RoutingLaw("uniform", 8), 256, 32, 0.0, tokens).most_loaded_rank()
    loads = np.asarray(rows) / (tokens * 8 / 32)
    assert np.all(np.diff(loads) < 0)
    assert 1 < loads[-1] < 1.001
    assert np.asarray(hit)[-1] == 8


@pytest.mark.parametrize("tokens", [1e4, 1e6])
def test_with_many_tokens_the_load_is_near_that_of_normal_counts(tokens: float) -> None:
    """MECHANISMS' form 1 + sqrt(2*ln R / n) bounds it: n rows a rank, and top-k choices vary less than single ones."""
    rows, _, _ = popularity(RoutingLaw("uniform", 8), 256, 64, 0.0, tokens).most_loaded_rank()
    mean = tokens * 8 / 64
    variance = 8 * (4 / 256) * (252 / 256) * (248 / 255) * tokens
    normal = np.random.default_rng(0).normal(size=(4000, 64))
    expected = np.sqrt(variance) * (normal - normal.mean(axis=1, keepdims=True)).max(axis=1).mean() * np.sqrt(64 / 63)
    assert rows - mean == pytest.approx(expected, rel=0.02 + 1 / mean**0.5)
    assert rows / mean < 1 + np.sqrt(2 * np.log(64) / mean)


@pytest.mark.parametrize("law", ["zipf", "lognormal"])
def test_a_law_without_skew_is_uniform(law: str) -> None:
    uniform = popularity(RoutingLaw("uniform", 8), 256, 32, 0.0, 512.0)
    zipf = popularity(RoutingLaw(law, 8), 256, 32, 0.0, 512.0)
    assert zipf.most_loaded_rank() == uniform.most_loaded_rank()
    assert zipf.most_loaded_target(32.0, 0.2) == uniform.most_loaded_target(32.0, 0.2)


@pytest.mark.parametrize(("experts", "ranks", "top_k"), [(8, 8, 2), (64, 8, 6), (160, 16, 6), (256, 32, 8), (72, 6, 4)])
@pytest.mark.parametrize("placement", ["sequential", "balanced"])
def test_expected_loads_grow_with_the_exponent(experts: int, ranks: int, top_k: int, placement: str) -> None:
    """As long as no expert gets every token: from there on only its companions on the rank lose."""
    choice = RoutingLaw("zipf", top_k, placement=placement)
    most = []
    for exponent in np.linspace(0, 2, 21):
        found = place_experts(choice, (float(experts), 1.0, float(ranks), 1.0, 0.0, float(exponent)))
        assert found is not None
        if found.probabilities.max() < 1:
            most.append(found.mean.max())
    assert len(most) > 8
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(most))


@given(
    experts=st.integers(1, 300),
    share=st.floats(0.0, 1.0),
    exponent=st.floats(0.0, 10.0, allow_subnormal=False),
    law=st.sampled_from(["zipf", "lognormal"]),
)
def test_a_token_chooses_top_k_experts_and_none_twice(experts: int, share: float, exponent: float, law: str) -> None:
    top_k = max(1, round(share * experts))
    each = expert_probabilities(RoutingLaw(law, top_k), experts, exponent)
    assert each.sum() == pytest.approx(top_k)
    assert np.all((each >= 0) & (each <= 1 + 1e-12))
    assert len(each) == experts


def test_the_logarithm_of_lognormal_chances_has_the_spread_as_its_deviation() -> None:
    """As long as no expert gets every token; the middle of 4,000 equal shares of a normal law is within 1 % of it."""
    each = expert_probabilities(RoutingLaw("lognormal", 8), 4000, 1.2)
    assert np.log(each).std() == pytest.approx(1.2, rel=0.01)
    assert each.max() < 1


@pytest.mark.parametrize(
    ("experts", "top_k", "sequences", "counted"),
    [(128, 8, 4, 24.8), (128, 8, 16, 58.7), (128, 8, 64, 94.0), (32, 4, 16, 18.2)],
)
def test_trained_routers_meet_as_many_experts_as_were_counted(
    experts: int, top_k: int, sequences: int, counted: float
) -> None:
    """Qwen3-30B-A3B and gpt-oss-20b [hardware/fit_plans/expert_popularity.csv]; alike experts are 17 to 55 % more."""
    found, alike = (
        popularity(RoutingLaw(law, top_k), experts, 1, 1.24, float(sequences)).most_loaded_rank()[1]
        for law in ("lognormal", "uniform")
    )
    assert found == pytest.approx(counted, rel=0.1)
    assert alike > 1.15 * counted


@given(data=st.data(), redundant=st.integers(0, 3))
def test_the_loads_of_all_ranks_sum_to_the_copies(data: st.DataObject, redundant: int) -> None:
    ranks = data.draw(st.sampled_from([1, 2, 4, 8]))
    counts = data.draw(st.lists(st.integers(1, 100), min_size=16, max_size=16))
    choice = RoutingLaw("counts", 2, tuple(map(float, counts)))
    found = place_experts(choice, (16.0, 1.0, float(ranks), 1.0, float(redundant * ranks), 0.0))
    assert found is not None
    assert found.probabilities.shape == (ranks, 16 // ranks + redundant)
    assert found.multiplicity @ found.mean == pytest.approx(2)


def test_counted_loads_are_taken_as_counted() -> None:
    """Eight experts on four ranks; the second rank has 60 of 160 tokens."""
    counts = (10.0, 20.0, 30.0, 30.0, 10.0, 20.0, 20.0, 20.0)
    rows, hit, deviation = popularity(RoutingLaw("counts", 2, counts), 8, 4, 0.0, 1000.0).most_loaded_rank()
    assert rows == pytest.approx(2000 * 60 / 160)
    assert (hit, deviation) == (2, pytest.approx(0.0, abs=1e-3))
    equal = popularity(RoutingLaw("counts", 2, (7.0,) * 8), 8, 4, 0.0, 1000.0)
    assert equal.most_loaded_rank()[0] == pytest.approx(500)
    assert equal.most_loaded_target(4.0, 0.4) == pytest.approx(0.4464 / 0.4, rel=0.2)


def test_an_expert_without_a_token_is_never_hit() -> None:
    counts = (4.0, 4.0, 4.0, 0.0, 0.0, 4.0, 4.0, 4.0)
    _, hit, _ = popularity(RoutingLaw("counts", 2, counts), 8, 1, 0.0, 1e6).most_loaded_rank()
    assert hit == pytest.approx(6)


def test_arrays_of_tokens_ranks_and_exponents_equal_single_points() -> None:
    tokens, ranks = np.array([1.0, 17.0, 4096.0])[:, None, None], np.array([2.0, 32.0, 3.0])[:, None]
    exponents, redundant = np.array([0.0, 0.7]), np.array([0.0, 32.0])[:, None, None, None]
    choice = RoutingLaw("zipf", 8, group_top_k=4)
    grid = Popularity(
        law=choice,
        experts=256.0,
        groups=8.0,
        ranks=ranks,
        nodes=ranks / 8,
        redundant=redundant,
        skew=exponents,
        tokens=tokens,
    )
    found = np.broadcast_arrays(*grid.most_loaded_rank())
    load = np.broadcast_to(grid.most_loaded_target(ranks, 0.3), found[0].shape)
    assert found[0].shape == (2, 3, 3, 2)
    for index in np.ndindex(*found[0].shape):
        more, token, rank, skew = index
        degree = float(ranks[rank, 0])
        alone = Popularity(
            law=choice, experts=256.0, groups=8.0, ranks=degree, nodes=degree / 8,
            redundant=float(redundant[more, 0, 0, 0]), skew=float(exponents[skew]),
            tokens=float(tokens[token, 0, 0]),
        )  # fmt: skip
        assert [float(each[index]) for each in found] == pytest.approx(list(alone.most_loaded_rank()), nan_ok=True)
        assert load[index] == pytest.approx(alone.most_loaded_target(degree, 0.3), nan_ok=True)
    assert np.isnan(found[0][0, :, 2]).all()  # 256 experts do not divide over three ranks, 288 do


def test_replicas_flatten_what_popular_experts_do_to_a_rank() -> None:
    def load(redundant: float, nodes: float) -> float:
        found = place_experts(RoutingLaw("zipf", 8, group_top_k=4), (256.0, 8.0, 32.0, nodes, redundant, 1.0))
        assert found is not None
        return float(found.mean.max() * 32 / 8)

    assert load(0.0, 4.0) > 4
    assert load(32.0, 4.0) < 1.3
    assert load(64.0, 4.0) > 1.15  # the node with the most popular expert stays fuller: groups do not leave their node
    assert load(64.0, 3.0) < 1.05  # globally


def test_twice_the_slots_cannot_level_equal_experts_on_a_number_of_ranks_that_does_not_divide_them() -> None:
    """288 slots on 144 ranks: 224 experts of one and 64 halves; some rank has two whole experts: 2 / (256/144)."""
    found = place_experts(RoutingLaw("uniform", 8), (256.0, 1.0, 144.0, 1.0, 32.0, 0.0))
    assert found is not None
    assert found.mean.max() * 144 / 8 == pytest.approx(2 / (256 / 144))


def test_popular_experts_are_spread_over_any_number_of_ranks() -> None:
    each: Array = expert_probabilities(RoutingLaw("zipf", 8), 256, 1.0)
    top = np.sort(each)[-8:]
    for ranks in (2, 4, 8):
        by_rank = each.reshape(ranks, -1)
        popular = np.isin(by_rank, top).sum(axis=1)
        assert set(popular) == {8 // ranks}
