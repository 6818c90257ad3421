"""The scoreboard: what is frozen stays, figures at first sight are scored apart, regressions are lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.study.reproduce import Comparison
from reports.scoreboard.__main__ import add, regressions


def figure(name: str, error: float, state: str = "unseen") -> Comparison:
    return Comparison(
        id=name, publication="paper", case_class="training", metric="step_time", unit="s", published=1.0,
        predicted=1.0 + error, low=0.8, high=1.2, error=error, verdict="pass", source="", state=state, group=name,
    )  # fmt: skip


def test_a_release_is_frozen_once_and_new_figures_are_scored_apart(tmp_path: Path) -> None:
    add(tmp_path, "1", "2026-11-01", [figure("a", 0.1), figure("b", 0.5, "in-sample")])
    frozen = (tmp_path / "frozen" / "1.csv").read_bytes()
    with pytest.raises(InputError, match="frozen already"):
        add(tmp_path, "1", "2026-11-02", [figure("a", 0.0)])
    add(tmp_path, "2", "2026-12-01", [figure("a", 0.1), figure("c", 0.3)])
    assert (tmp_path / "frozen" / "1.csv").read_bytes() == frozen
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| training | unseen | 1 | 2026-11-01 | 1 | 1 | 10.0% |" in page
    assert "| training | first seen | 2 | 2026-12-01 | 1 | 1 | 30.0% |" in page
    assert "**training became worse by 10.0 points** from 1 (10.0%) to 2 (20.0%)" in page


def test_less_than_two_points_is_no_line() -> None:
    rows = [
        {"class": "serving", "which": "unseen", "release": name, "mean": mean}
        for name, mean in (("1", "0.1"), ("2", "0.119"), ("3", "0.05"))
    ]
    assert not list(regressions(rows))
