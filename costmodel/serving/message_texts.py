"""Messages of chats as a tree of texts: which tokens prompts have in common, of messages that begin alike."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Message = dict[str, Any]
Ints = npt.NDArray[np.int64]


class Texts:
    """A tree of messages. Where a message ends in tokens is known of prompts and answers, whose tokens are counted.

    Messages in between end where their share of the characters says.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, bytes], int] = {}
        self.begin: list[int] = []  # of each message [tokens from the start of its prompt]
        self.end: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.end)

    def path(self, messages: list[Message], prompt: int, answer: Message | None, output: int) -> tuple[int, ...]:
        """Return the messages of a prompt of so many tokens, and of its answer, as nodes of the tree."""
        nodes: list[int] = []
        texts = [_canonical(each) for each in messages]
        for text in texts:
            known = self._nodes.get((nodes[-1] if nodes else -1, _digest(text)))
            if known is None or self.end[known] > prompt:
                break
            nodes.append(known)
        start = self.end[nodes[-1]] if nodes else 0
        rest = texts[len(nodes) :]
        ends = start + np.rint((prompt - start) * np.cumsum([len(each) for each in rest]) / max(sum(map(len, rest)), 1))
        for text, end in zip(rest, ends.astype(int).tolist(), strict=True):
            nodes.append(self._add(nodes[-1] if nodes else -1, text, start, end))
            start = end
        if answer is not None and nodes:
            text, last = _canonical(answer), nodes[-1]
            known = self._nodes.get((last, _digest(text)))
            nodes.append(self._add(last, text, prompt, prompt + output) if known is None else known)
        return tuple(nodes)

    def _add(self, parent: int, text: str, begin: int, end: int) -> int:
        node = self._nodes[parent, _digest(text)] = len(self.end)
        self.begin.append(begin)
        self.end.append(end)
        return node

    def blocks(self, size: int) -> Ints:
        """Return of each message how many blocks of so many tokens end in it."""
        return np.array(self.end, np.int64) // size - np.array(self.begin, np.int64) // size


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _canonical(message: Message) -> str:
    """Return what a model sees of a message."""
    seen = {key: message[key] for key in ("role", "content", "tool_calls", "tool_call_id", "name") if message.get(key)}
    return json.dumps(seen, sort_keys=True, ensure_ascii=False)


def _within(entry: Any, *keys: str) -> Any:
    for key in keys:
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry


def usage_of(entry: Message) -> Message | None:
    """Return how many tokens a request had: its own key, or its response's."""
    known = (_within(entry, "usage"), _within(entry, "response", "usage"), _within(entry, "response", "body", "usage"))
    return next((each for each in known if isinstance(each, dict)), None)


def messages_of(entry: Message) -> list[Message] | None:
    """Return the messages of a request, none where it has none, null where they are no list of objects."""
    places = (("messages",), ("request", "messages"), ("body", "messages"), ("request", "body", "messages"))
    messages: Any = next((each for each in (_within(entry, *keys) for keys in places) if each is not None), [])
    is_list = isinstance(messages, list) and all(isinstance(each, dict) for each in messages)
    return messages if is_list else None


def answer_of(entry: Message) -> Message | None:
    """Return the message that answers a request, null where it is not there."""
    places = ((), ("response",), ("response", "body"))
    for keys in places:
        choices = _within(entry, *keys, "choices")
        message = _within(choices[0], "message") if isinstance(choices, list) and choices else None
        if isinstance(message, dict):
            return message
    return None
