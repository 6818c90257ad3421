"""Drafted tokens: chances of each level, and trees of candidates."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.workload.plans import Speculative, drafted_tokens, tokens_per_step

LLAMA = "deepseek_v3"


def test_each_level_has_a_chance_of_its_own() -> None:
    chain = Speculative(3.0, 0.9, acceptances=(0.9, 0.8, 0.5))
    assert tokens_per_step(chain) == pytest.approx(1 + 0.9 + 0.9 * 0.8 + 0.9 * 0.8 * 0.5)
    assert drafted_tokens(chain) == 3


def test_a_pass_verifies_every_candidate_of_a_tree() -> None:
    """Four candidates, behind each two, behind each one: 4 + 8 + 8."""
    tree = Speculative(3.0, 0.5, branches=(4.0, 2.0, 1.0))
    assert drafted_tokens(tree) == 4 + 8 + 8
    assert tokens_per_step(tree) == pytest.approx(1 + 0.5 + 0.25 + 0.125)


def test_a_tree_takes_more_time_a_pass_and_a_chain_of_equal_chances_is_the_plain_one() -> None:
    def tpot(speculative: dict[str, object]) -> float:
        loaded = costmodel.load(LLAMA, set={"scenarios.decode.speculative": speculative}, scenarios=["decode"])
        value = loaded.points()["decode"].metrics["tpot"]
        assert value is not None
        return value

    chain = tpot({"depth": 2, "acceptance": 0.5})
    assert tpot({"depth": 2, "acceptances": [0.5, 0.5]}) == chain
    assert tpot({"depth": 2, "acceptance": 0.5, "branches": [1, 1]}) == chain
    assert tpot({"depth": 2, "acceptance": 0.5, "branches": [2, 2]}) > chain
    assert tpot({"depth": 2, "acceptances": [0.5, 0.9]}) < chain


@pytest.mark.parametrize(
    ("speculative", "problem"),
    [
        ({"depth": 2}, "either `acceptance` or `acceptances`"),
        ({"depth": 2, "acceptance": 0.5, "acceptances": [0.5, 0.5]}, "either `acceptance` or `acceptances`"),
        ({"depth": 2, "acceptances": [0.5]}, "acceptances has 1 levels"),
        ({"depth": 2, "acceptance": 0.5, "branches": [2, 2, 2]}, "branches has 3 levels"),
    ],
)
def test_levels_that_do_not_match_are_refused(speculative: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        costmodel.load(LLAMA, set={"scenarios.decode.speculative": speculative}, scenarios=["decode"])
