"""The mark of a ranking: rows that the model cannot tell from one beside them."""

from __future__ import annotations

from itertools import pairwise

import costmodel
from costmodel.study.goals import Candidate, ranked
from costmodel.study.sensitivity import sensitivities


def tied(*intervals: tuple[float, float] | None) -> list[bool]:
    return [one.tied for one in ranked([Candidate({}, 8, 1.0, {}, interval) for interval in intervals])]


def test_both_rows_of_an_overlap_are_marked() -> None:
    assert tied((1.0, 2.0), (1.5, 3.0), (2.9, 4.0)) == [True, True, True]
    assert tied((1.0, 2.0), (2.5, 3.0), (2.9, 4.0)) == [False, True, True]
    assert tied((1.0, 2.0), (1.5, 3.0), (3.5, 4.0)) == [True, True, False]


def test_rows_without_an_interval_or_a_neighbour_are_not_marked() -> None:
    assert tied((1.0, 2.0), None, (1.0, 2.0)) == [False, False, False]
    assert tied((1.0, 2.0)) == [False]
    assert tied() == []


def test_rows_are_open_by_what_they_are_ranked_by() -> None:
    def row(objective: float, own: tuple[float, float] | None, headline: tuple[float, float]) -> Candidate:
        return Candidate({}, 8, objective, {}, headline, own)

    rates = [row(9.0, (8.0, 10.0), (1.0, 2.0)), row(5.0, (4.0, 6.0), (1.5, 3.0))]
    assert [one.tied for one in ranked(rates)] == [False, False]
    devices = [row(8.0, (8.0, 8.0), (1.0, 2.0)), row(8.0, (8.0, 8.0), (1.5, 3.0)), row(16.0, (16.0, 16.0), (2.0, 3.0))]
    assert [one.tied for one in ranked(devices)] == [True, True, False]


def test_parameters_whose_order_is_open_are_marked_on_both_sides() -> None:
    rows = sensitivities(costmodel.load("deepseek_v3", scenarios=["decode"]), "decode", "tpot")
    assert [row.gain for row in rows] == sorted((row.gain for row in rows), reverse=True)
    meet = [False, *(one.loss < after.loss for one, after in pairwise(rows)), False]
    assert any(meet)
    assert [row.tied for row in rows] == [before or behind for before, behind in pairwise(meet)]
