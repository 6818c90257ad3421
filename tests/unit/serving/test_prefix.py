"""The prefix cache as a tree of runs: the same as one that has every block by itself, with as much work as branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_engines import POLICY, fleet, new, serve, shared, stream

from costmodel.serving.blocks import take_blocks
from costmodel.serving.prefix import cached_blocks, free_request, hold_prefix, idle_cached, run_with, share_prefix
from costmodel.serving.routing import ROUND_ROBIN, engine_of
from costmodel.serving.rows import as_objects
from costmodel.serving.state import Engine
from costmodel.serving.tiers import from_tiers
from costmodel.serving.trace_requests import paths_of_blocks

TIMES = (1.0, 100.0)


class PlainCache:
    """Blocks one by one: a list of free ones, the one that is reused first in front, and lists of the tiers."""

    def __init__(self, blocks: int, tiers: tuple[int, int]) -> None:
        self.free: list[Any] = [None] * blocks
        self.references: dict[Any, int] = {}
        self.sizes, self.tiers = tiers, ([], [])

    def cached(self, text: list[Any]) -> int:
        return next((i for i, block in enumerate(text) if block not in self.references), len(text))

    def hold(self, text: list[Any]) -> None:
        for block in text:
            if self.references[block] == 0:
                self.free.remove(block)
            self.references[block] += 1

    def take(self, number: int) -> None:
        for block in self.free[:number]:
            self.references.pop(block, None)
        del self.free[:number]

    def share(self, text: list[Any]) -> None:
        for block in text:
            if block not in self.references:
                self.references[block] = 0
            else:  # the request's own block is free
                if self.references[block] == 0:
                    self.free.remove(block)
                self.free.append(None)
            self.references[block] += 1

    def release(self, text: list[Any], own: int) -> None:
        self.free += [None] * own
        for block in reversed(text):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free.append(block)
        for tier in self.tiers:
            tier[:] = [block for block in tier if block not in text]
        if not self.sizes[0]:
            return
        self.tiers[0].extend(reversed(text))
        for level, tier in enumerate(self.tiers):
            out = tier[: max(len(tier) - self.sizes[level], 0)]
            del tier[: len(out)]
            if level == 0 and self.sizes[1]:
                self.tiers[1].extend(out)

    def behind(self, text: list[Any]) -> tuple[int, float]:
        number, seconds = 0, 0.0
        for block in text:
            level = next((i for i, tier in enumerate(self.tiers) if block in tier), None)
            if level is None:
                break
            number, seconds = number + 1, seconds + TIMES[level]
        return number, seconds


def texts(draw: np.random.Generator, count: int) -> list[list[tuple[int, ...]]]:
    """Return texts that begin alike: each goes on from a place in another one. A block is all up to it."""
    letters: list[list[int]] = [[]]
    for number in range(count):
        origin = letters[draw.integers(len(letters))]
        kept = origin[: draw.integers(len(origin) + 1)]
        letters.append([*kept, *(1000 * (number + 1) + np.arange(draw.integers(0, 9))).tolist()])
    return [[tuple(text[: i + 1]) for i in range(len(text))] for text in letters[1:]]


class Both:
    """One engine and a plain cache that do the same."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.texts = texts(draw, 12)
        names = {block: i for i, block in enumerate({block: 0 for text in self.texts for block in text})}
        blocks, tiers = int(draw.integers(8, 40)), (int(draw.integers(0, 2) * draw.integers(1, 20)),
                                                    int(draw.integers(0, 30)))  # fmt: skip
        policy = POLICY._replace(block=1, blocks=blocks, caching=True, tier_blocks=tiers, tier_time=TIMES)
        requests = stream([0.0] * 12, [(max(len(text), 1), 2) for text in self.texts])
        requests = shared(requests, [[names[block] for block in text] for text in self.texts])
        self.plain, self.running = PlainCache(blocks, tiers), dict[int, tuple[int, int]]()
        with as_objects(new(requests, policy, fleet(1), ROUND_ROBIN)) as service:
            self.engine: Engine = engine_of(service, 0)

    def start(self, request: int, most: int) -> None:
        engine, text = self.engine, self.texts[request]
        cached = cached_blocks(engine, request, most)
        loaded = from_tiers(engine, request, cached, most)
        assert loaded == self.plain.behind(text[cached:most])
        needed = len(text) - cached + 1
        if needed > engine.state.free - idle_cached(engine, request, cached):
            return
        hold_prefix(engine, request, cached)
        self.plain.hold(text[:cached])
        take_blocks(engine, needed)
        self.plain.take(needed)
        engine.requests[request].own = needed
        self.running[request] = (cached, needed)
        self.go_on(request, cached + loaded[0])

    def go_on(self, request: int, tokens: int) -> None:
        held, own = self.running[request]
        share_prefix(self.engine, request, tokens)
        end = max(min(tokens, len(self.texts[request])), held)
        self.plain.share(self.texts[request][held:end])
        self.running[request] = (end, own - (end - held))

    def stop(self, request: int) -> None:
        held, own = self.running.pop(request)
        assert (self.engine.requests[request].held, self.engine.requests[request].own) == (held, own)
        self.engine.requests[request].finish = 1.0
        free_request(self.engine, request)
        self.plain.release(self.texts[request][:held], own)

    def check(self) -> None:
        assert self.engine.state.free == len(self.plain.free)
        for request, text in enumerate(self.texts):
            cached = self.plain.cached(text)
            assert cached_blocks(self.engine, request, len(text)) == cached
            idle = sum(self.plain.references[block] == 0 for block in text[:cached])
            assert idle_cached(self.engine, request, cached) == idle
            assert from_tiers(self.engine, request, 0, len(text)) == self.plain.behind(text)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_hits_are_those_of_a_cache_that_has_every_block_by_itself(seed: int) -> None:
    draw = np.random.default_rng(seed)
    both = Both(draw)
    for _ in range(60):
        request = int(draw.integers(12))
        length = len(both.texts[request])
        if request not in both.running:
            both.start(request, int(draw.integers(length + 1)))
        elif draw.random() < 0.5:
            both.go_on(request, int(draw.integers(length + 1)))
        else:
            both.stop(request)
        both.check()


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=8))
def test_paths_are_those_of_a_tree(numbers: list[list[int]]) -> None:
    """Two requests share as many blocks as their texts have in common at the start, and no run could be longer."""
    paths = paths_of_blocks(
        np.array([i for each in numbers for i in each], np.int64), np.array(list(map(len, numbers)))
    )
    of = [paths.runs[paths.first[i] : paths.first[i + 1]].tolist() for i in range(len(numbers))]
    blocks = [[(run, i) for run in each for i in range(paths.sizes[run])][: len(text)]
              for each, text in zip(of, numbers, strict=True)]  # fmt: skip
    for one, text in zip(blocks, numbers, strict=True):
        assert len(one) == len(text)
        for other, others in zip(blocks, numbers, strict=True):
            alike = [a == b for a, b in zip(text, others, strict=False)]
            common = [*alike, False].index(False)
            assert one[:common] == other[:common]
            assert not set(one[common:]) & set(other[common:])
    for run in range(len(paths.sizes)):
        after = {each[each.index(run) + 1] for each in of if run in each[:-1]}
        assert len(after) != 1, "a run that only one other follows is one with it"


def test_a_session_is_one_run_however_long_it_is() -> None:
    turns = [list(range(length)) for length in range(100, 1100, 100)]
    paths = paths_of_blocks(np.concatenate(turns), np.array(list(map(len, turns))))
    assert (len(paths.runs), paths.sizes.tolist()) == (10, [1000])


def test_a_block_is_in_the_run_that_has_it() -> None:
    requests = shared(stream([0.0, 0.0], [(8, 1), (8, 1)]), [[0, 1, 2, 3], [0, 1, 7]])
    with as_objects(new(requests, POLICY, fleet(1), ROUND_ROBIN)) as service:
        engine = engine_of(service, 0)
    runs = [[run_with(engine, request, block) for block in range(3)] for request in range(2)]
    assert [each[0] == each[1] != each[2] for each in runs] == [True, True]
    assert runs[0][0] == runs[1][0]
    assert runs[0][2] != runs[1][2]


@pytest.mark.parametrize("blocks", [45, 60, 100, 200, 1000])
def test_tokens_are_cached_or_computed(blocks: int) -> None:
    """What prompts have is what the cache had of them and what was computed, and a larger cache has no less."""
    turns = [(list(range(100 * s, 100 * s + 10 * (t + 1))), 40 * (t + 1)) for t in range(4) for s in range(5)]
    requests = shared(stream(np.arange(20.0) * 50.0, [(tokens, 4) for _, tokens in turns]), [each for each, _ in turns])
    hits = []
    for size in (blocks, 2 * blocks):
        _, progress, engines = serve(requests, POLICY._replace(blocks=size, caching=True))
        computed = engines.state["prompt_tokens"].sum()
        assert progress["hit"].sum() + computed == progress["prompt"].sum() + engines.state["recomputed"].sum()
        hits.append(progress["hit"].sum())
    assert hits[0] <= hits[1]
