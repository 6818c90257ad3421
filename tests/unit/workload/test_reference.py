"""FLOP and bytes of whole operators against loops over every query and key, on small shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from builders import DENSE_MODEL, GQA, context

from costmodel.records import replace
from costmodel.workload.architecture import HeadGroup
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel
from costmodel.workload.patterns import (
    Axis,
    ChunkTopK,
    ElasticWindow,
    Neighbourhood,
    Pattern,
    SinkRecent,
    StridedBlocks,
)

LENGTH, SEQUENCES, E = 48, 4, 2  # tokens of a prompt, sequences of the view below, bytes of an element
HEADS, KEY_HEADS, WIDTH = int(GQA.q_heads), int(GQA.kv_heads), int(GQA.head_dim + GQA.v_head_dim)
Visible = Callable[[int, int], bool]  # (place of the query, place of the key)


def strided(query: int, key: int) -> bool:
    """Last 2 blocks of 8 keys, and one in 3 before them; whole blocks are computed."""
    row, block = query // 8, key // 8
    if block > row:
        return False
    older = row + 1 - 2
    return block > row - 2 or (block < (older // 3) * 3 and block % 3 == 0)


def near(query: int, key: int) -> bool:
    """A window of 5 of the 48 places, which moves inwards at the borders."""
    first = min(max(query - 2, 0), LENGTH - 5)
    return first <= key < first + 5


# pattern, mask of a prompt, whether queries see later keys
CASES: dict[str, tuple[Pattern, Visible, bool]] = {
    "full": (Pattern(), lambda q, k: k <= q, True),
    "bidirectional": (Pattern(), lambda _q, _k: True, False),
    "window": (Pattern("window", 7.0), lambda q, k: q - 7 < k <= q, True),
    "sink_recent": (SinkRecent(sink=3.0, recent=5.0), lambda q, k: k <= q and (k < 3 or k > q - 5), True),
    "elastic_window": (ElasticWindow(alpha=2.0, beta=0.25), lambda q, k: q - 14 < k <= q, True),
    "strided_blocks": (StridedBlocks(block=8.0, local=2.0, stride=3.0), strided, True),
    "neighbourhood": (Neighbourhood(axes=(Axis(LENGTH, 5.0),)), near, False),
    "chunk_topk": (ChunkTopK(chunk=4.0, attend=12.0), lambda q, k: q - 12 < k <= q, True),
}


def cores(pattern: Pattern, phase: str, *, causal: bool) -> list[AttentionKernel]:
    mixer = replace(GQA, head_groups=(HeadGroup(1.0, pattern),), causal=causal)
    model = replace(DENSE_MODEL, layers=(replace(DENSE_MODEL.layers[0], mixer=mixer),))
    new = 1.0 if phase == "decode" else float(LENGTH)
    seen = context(model, phase=phase, new_tokens=new, kv_len=float(LENGTH), sequences=float(SEQUENCES))
    return [each for each in model_work(seen).layers[0].forward if isinstance(each, AttentionKernel)]


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_s_core_does_two_products_a_pair(name: str) -> None:
    pattern, visible, causal = CASES[name]
    flop = 0
    for query in range(LENGTH):
        for key in range(LENGTH):
            flop += 2 * WIDTH * visible(query, key)  # a multiply-add for each element of the key, and of the value
    (core,) = cores(pattern, "prefill", causal=causal)
    assert core.flop == SEQUENCES * HEADS * flop
    queries_and_results = LENGTH * HEADS * WIDTH
    assert core.traffic == SEQUENCES * (queries_and_results + LENGTH * KEY_HEADS * WIDTH) * E


@pytest.mark.parametrize("name", [name for name, (_, _, causal) in CASES.items() if causal])
def test_a_decoding_step_s_core_reads_each_visible_key_once(name: str) -> None:
    pattern, visible, _ = CASES[name]
    read = [key for key in range(LENGTH) if visible(LENGTH - 1, key)]
    (core,) = cores(pattern, "decode", causal=True)
    assert core.flop == SEQUENCES * HEADS * 2 * WIDTH * len(read)
    assert core.traffic == SEQUENCES * (HEADS * WIDTH + len(read) * KEY_HEADS * WIDTH) * E
