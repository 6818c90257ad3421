"""Prefix blocks of a trace as blocks of an engine's cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location
from costmodel.serving.radix import paths_of_blocks
from costmodel.serving.state import Paths

Ints = npt.NDArray[np.int64]
SIZES = tuple(2**power for power in range(12))  # tokens of a trace's block


def paths_of_trace(blocks: Ints, number: Ints, tokens: Ints, block: int, size: int) -> Paths:
    """Return the paths of requests in blocks of the engine, of those of a trace: equal numbers are equal texts.

    blocks: of the trace, one request's after the other's; number: of each request; tokens: of each prompt, with what is
    known of its answer; size: tokens of one of the trace's. Only full blocks of the engine count.
    """
    known = np.minimum(number * size, tokens) // block
    step = max(block // size, 1)  # blocks of the trace in one of the engine
    taken = known if step > 1 else -(-known * block // size)
    first = np.cumsum(number) - number
    place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    paths = paths_of_blocks(blocks[np.repeat(first, taken) + (place + 1) * step - 1], taken)
    return paths._replace(blocks=known.astype(np.int32), sizes=paths.sizes * max(size // block, 1))


def check_sizes(size: int, block: int, shown: str) -> None:
    """Raise InputError where blocks of a trace and of the cache do not go together."""
    if max(size, block) % min(size, block):
        raise InputError.single(
            f"its blocks of {size} tokens do not go with the cache's of {block}", field="requests.trace",
            hint=f"write `memory: {{block: {size}}}`", location=Location(shown),
        )  # fmt: skip


def trace_block(number: Ints, prompt: Ints, shown: str) -> int:
    """Return the tokens of a trace's block: the size with which every prompt has its number of blocks.

    The last one may be incomplete: it has a number in some traces and none in others.
    """
    has = number > 0
    fits = [
        size for size in SIZES
        if np.all((number == prompt // size)[has]) or np.all((number == -(-prompt // size))[has])
    ]  # fmt: skip
    if len(fits) == 1:
        return int(fits[0])
    raise InputError.single(
        "its numbers of blocks go with no size of a block" if not fits else "any size of a block goes with it",
        field="requests.trace", hint="give every prompt the blocks of all its tokens", location=Location(shown),
    )  # fmt: skip
