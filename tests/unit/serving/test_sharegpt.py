"""Conversations of ShareGPT as lengths, with a tokenizer that counts words."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.serving.sharegpt import counts, read_pairs
from costmodel.serving.traces import read_rows

LENGTHS = [(3, 20), (20, 3), (1025, 20), (1000, 1049), (1000, 1048)]


def words(number: int) -> str:
    return " ".join(["a"] * number)


def file(path: Path, lengths: Sequence[tuple[int, ...]]) -> Path:
    """Write conversations with messages of so many words."""
    entries = [{"id": str(i), "conversations": [{"from": "human", "value": words(n)} for n in one]}
               for i, one in enumerate(lengths)]  # fmt: skip
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    package: Any = pytest.importorskip("tokenizers", reason="counts the texts")
    models, split = (importlib.import_module(f"tokenizers.{name}") for name in ("models", "pre_tokenizers"))
    counter = package.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    counter.pre_tokenizer = split.Whitespace()
    counter.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_the_first_two_messages_are_prompt_and_answer(tmp_path: Path, tokenizer: Path) -> None:
    prompt, answer = read_pairs(file(tmp_path / "share.json", [(10, 20, 30), (40, 50), (9,)]), tokenizer)
    assert prompt.tolist() == [10, 40]
    assert answer.tolist() == [20, 50]


def test_lengths_that_the_benchmark_leaves_out_are_left_out(tmp_path: Path, tokenizer: Path) -> None:
    prompt, answer = read_pairs(file(tmp_path / "share.json", LENGTHS), tokenizer)
    assert (prompt.tolist(), answer.tolist()) == ([1000], [1048])


def test_what_the_benchmark_leaves_out_is_told_by_tokens_alone() -> None:
    prompt, answer = np.array(LENGTHS).T
    assert counts(prompt, answer).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"conversations": [{"value": 5}, {"value": "b"}]}]', "1: requests.pairs: has a message without a text"),
        ('[{"conversations": []}]', "has no conversation of two messages"),
        ('[{"conversations": [{"value": "a"}, {"value": "b"}]}, 7]', "2: requests.pairs: is no conversation"),
        ('{"a": 1}', "is no list of conversations"),
        ("[", "not a complete JSON document"),
    ],
)
def test_a_bad_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "share.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(path, tmp_path / "none.json")


def test_conversations_are_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a ShareGPT file: texts, which come at no time"):
        next(read_rows(file(tmp_path / "share.json", [(10, 20)])))
