"""Digests of what shipped inputs predict."""

from pathlib import Path

import pytest

from reports.digest import compare, main


def test_a_move_beyond_the_tolerance_is_printed_with_its_size_and_differs(capsys: pytest.CaptureFixture[str]):
    before = {"scenarios": {"step": 2.0, "tpot": 1.0, "bound": "memory"}}
    assert compare(before, {"scenarios": {"step": 2.0 * (1 + 1e-12), "tpot": 1.0, "bound": "memory"}}, 1e-9) == 0
    assert compare(before, {"scenarios": {"step": 1.0, "tpot": 1.0, "bound": "memory"}}, 1e-9) == 1
    printed = capsys.readouterr().out
    assert "0 of 3 values moved" in printed
    assert "1 of 3 values moved\n  +50 %  step: 2.0 -> 1.0" in printed


@pytest.mark.parametrize("after", [{"tpot": 1.0}, {"step": None, "tpot": 1.0}, {"step": 2.0, "tpot": 1.0, "new": "x"}])
def test_what_appears_or_goes_differs(after: dict[str, object]):
    assert compare({"cases": {"step": 2.0, "tpot": 1.0}}, {"cases": after}, 1e-9) == 1  # type: ignore[dict-item]


def test_messages_are_the_same_in_two_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("reports.digest.MESSAGES", 20)
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        assert main(["--output", str(file), "--part", "messages"]) == 0
    assert files[0].stat().st_size > 1000
    assert main(["--compare", *map(str, files)]) == 0
