"""Conversations of ShareGPT as pairs of lengths, counted with the tokenizer of a model.

The first message is the prompt and the second one the answer. Those of fewer than 4 tokens, prompts beyond 1,024 and
requests beyond 2,048 are left out, as by vLLM's benchmark (vllm/benchmarks/datasets.py, ShareGPTDataset,
is_valid_sequence). The file says nothing about when requests arrive.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location
from costmodel.schema.references import display_path
from costmodel.schema.results import read_json

MAX_BYTES = 2**30  # of the file; the published one has 0.6 GB
FEWEST, MOST_PROMPT, MOST = 4, 1024, 2048  # tokens
_SURROGATE = re.compile("[\ud800-\udfff]")  # is no character: tokenizers refuse it
Ints = npt.NDArray[np.int64]


def read_pairs(path: Path, tokenizer: Path) -> tuple[Ints, Ints]:
    """Return lengths of prompts and answers. tokenizer: a tokenizer.json.

    Raises InputError at the conversation that is wrong, and without the package `tokenizers`.
    """
    shown = display_path(path)
    conversations = [_messages(entry, shown, number) for number, entry in enumerate(_entries(path, shown), 1)]
    texts = [pair for pair in conversations if pair is not None]
    if not texts:
        raise _problem(shown, None, "has no conversation of two messages", "write {conversations: [{value: …}, …]}")
    counter = _loaded(tokenizer)
    prompt, answer = (_counted(counter, [pair[part] for pair in texts], tokenizer) for part in (0, 1))
    kept = counts(prompt, answer)
    if not kept.any():
        raise _problem(shown, None, "has no conversation of a length that counts", f"{FEWEST} to {MOST:,} tokens do")
    return prompt[kept], answer[kept]


def _counted(counter: Any, texts: list[str], tokenizer: Path) -> Ints:
    """Return the tokens of texts. Raises InputError where the tokenizer fails: its panics are no `Exception`."""
    try:
        return np.array([len(each.ids) for each in counter.encode_batch(texts)], dtype=np.int64)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise _problem(display_path(tokenizer), None, f"cannot count a text: {error}", "name another one") from None


def counts(prompt: Ints, answer: Ints) -> npt.NDArray[np.bool_]:
    """Tell which conversations the benchmark keeps, of their tokens."""
    return (prompt >= FEWEST) & (answer >= FEWEST) & (prompt <= MOST_PROMPT) & (prompt + answer <= MOST)


def is_sharegpt(document: Any) -> bool:
    """Tell whether a JSON document is a list of conversations."""
    return isinstance(document, list) and bool(document) and isinstance(document[0], dict) and (
        "conversations" in document[0]
    )  # fmt: skip


def _entries(path: Path, shown: str) -> list[Any]:
    document = read_json(path, "name a ShareGPT file", MAX_BYTES)
    if not is_sharegpt(document):
        raise _problem(shown, None, "is no list of conversations", "name a ShareGPT file, or leave `tokenizer` out")
    return list(document)


def _messages(entry: Any, shown: str, number: int) -> tuple[str, str] | None:
    """Return the first two messages of a conversation, null where there are fewer."""
    messages = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(messages, list):
        raise _problem(shown, number, "is no conversation", "write {conversations: [{value: …}, …]}")
    texts = [each.get("value") if isinstance(each, dict) else None for each in messages[:2]]
    if any(not isinstance(text, str) or _SURROGATE.search(text) for text in texts):
        raise _problem(
            shown, number, "has a message without a text, or with half a character", "write {from: human, value: TEXT}"
        )
    return (texts[0], texts[1]) if len(texts) == 2 else None  # type: ignore[return-value]


def _loaded(path: Path) -> Any:
    if find_spec("tokenizers") is None:
        raise InputError.single(
            "counting the tokens of texts needs the package `tokenizers`", field="requests.tokenizer",
            hint="pip install tokenizers, or name a file that has lengths",
        )  # fmt: skip
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more precise
        raise _problem(display_path(path), None, f"is no tokenizer: {error}", "name a tokenizer.json") from None


def _problem(shown: str, number: int | None, message: str, hint: str) -> InputError:
    return InputError.single(message, field="requests.pairs", hint=hint, location=Location(shown, number))
