"""No mutation of a shipped file ends in a traceback, a hang, gigabytes, or an absurd number in silence.

`PYTHONPATH=tests python -m fuzz` runs as many as are asked for; `seeds.json` keeps those that once went wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fuzz.mutations import files, mutate
from fuzz.outcomes import BAD, judge, warm

KEPT = json.loads((Path(__file__).parent / "seeds.json").read_text(encoding="utf-8"))
SHORT, LONG = 6, 1000
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and limits memory as Linux does")


def test_mutations_of_shipped_files_are_refused_clearly_or_answered_sensibly(tmp_path: Path, long: bool) -> None:
    warm()
    names = files()
    chosen = [(names[number * 37 % len(names)], number // len(names)) for number in range(LONG if long else SHORT)]
    outcomes = [judge(mutate(*pair), tmp_path / str(number)) for number, pair in enumerate(chosen)]
    assert [outcome for outcome in outcomes if outcome.kind in BAD] == []


@pytest.mark.parametrize(("file", "seed"), [tuple(pair) for pair in KEPT])
def test_what_once_went_wrong_does_so_no_more(file: str, seed: int, tmp_path: Path) -> None:
    warm()
    outcome = judge(mutate(file, seed), tmp_path / "one")
    assert outcome.kind not in BAD, outcome
