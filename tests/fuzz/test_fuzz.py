"""No mutation of a shipped file, another input or a flag ends in a traceback, a hang, gigabytes, or silent nonsense.

`PYTHONPATH=tests python -m fuzz` runs as many as are asked for; `seeds.json` keeps those that once went wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fuzz.accepted import FOR_PEOPLE, LEFT_OUT, NUMBER, SAME, reason
from fuzz.inputs import KINDS, Input, inputs, mutate_input
from fuzz.mutations import ROOT, Mutation, files, mutate
from fuzz.outcomes import ACCEPTED, BAD, good_files, judge, judge_input, warm

KEPT = json.loads((Path(__file__).parent / "seeds.json").read_text(encoding="utf-8"))
SHORT, LONG = 6, 1000
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and limits memory as Linux does")


def test_mutations_of_shipped_files_are_refused_clearly_or_answered_sensibly(tmp_path: Path, long: bool) -> None:
    warm()
    names = files()
    chosen = [(names[number * 37 % len(names)], number // len(names)) for number in range(LONG if long else SHORT)]
    outcomes = [judge(mutate(*pair), tmp_path / str(number)) for number, pair in enumerate(chosen)]
    assert [outcome for outcome in outcomes if outcome.kind in BAD] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_mutations_of_other_inputs_and_of_flags_are_refused_clearly_or_answered(
    seed: int, tmp_path: Path, long: bool
) -> None:
    """Every kind with `--long`; else another sixth of them with each seed."""
    warm()
    chosen = inputs() if long else inputs()[seed * 3 :: 6]
    outcomes = [judge_input(mutate_input(kind, seed, good_files()), tmp_path / kind) for kind in chosen]
    assert [outcome for outcome in outcomes if outcome.kind in BAD] == []


def test_inputs_that_nobody_changed_are_answered(tmp_path: Path, long: bool) -> None:
    """Else their mutations would show nothing."""
    for kind in KINDS if long else ("agentic", "checkpoint"):
        own = KINDS[kind]
        data = good_files().get(kind, own.text.encode())
        assert judge_input(Input(kind, 0, "", own.name, data, own.words), tmp_path / kind).kind == ACCEPTED, kind


def test_what_is_accepted_has_a_reason() -> None:
    """Of a document that is as it was, of one without an optional key, of another number."""
    shipped = "workloads/llama3_8b_rtx4090.yaml"
    text = (ROOT / shipped).read_text(encoding="utf-8")
    number, title = text.replace("input_tokens: 512", "input_tokens: 513"), text.replace("title: Llama", "title: x")
    left_out = text.replace("    output_tokens: 256\n", "")
    for changed, why in ((text + "# words\n", SAME), (number, NUMBER), (title, FOR_PEOPLE), (left_out, LEFT_OUT)):
        assert changed != text
        assert reason(Mutation(shipped, 0, "insert", "", changed)) == why


@pytest.mark.parametrize(("file", "seed"), [tuple(pair) for pair in KEPT])
def test_what_once_went_wrong_does_so_no_more(file: str, seed: int, tmp_path: Path) -> None:
    warm()
    outcome = judge(mutate(file, seed), tmp_path / "one")
    assert outcome.kind not in BAD, outcome
