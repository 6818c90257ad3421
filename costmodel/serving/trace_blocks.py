"""Prefix blocks of a trace as blocks of an engine's cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location

Ints = npt.NDArray[np.int64]
SIZES = tuple(2**power for power in range(12))  # tokens of a trace's block


def block_arrays(
    blocks: Ints, number: Ints, prompt: Ints, block: int, shown: str
) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Return the engine's blocks of each request: where they begin, and their numbers, equal for equal prefixes.

    blocks: of the trace, one request's after the other's, chained: an equal number is an equal text up to there
    number: of each request. Only full blocks of the engine count.
    Raises InputError where the trace's blocks have no size, or none that the engine's goes with.
    """
    if not number.any():
        return np.zeros(len(number) + 1, np.int64), np.zeros(0, np.int32)
    size = trace_block(number, prompt, shown)
    if max(size, block) % min(size, block):
        raise InputError.single(
            f"its blocks of {size} tokens do not go with the cache's of {block}", field="requests.trace",
            hint=f"write `memory: {{block: {size}}}`", location=Location(shown),
        )  # fmt: skip
    known = np.minimum(number * size, prompt) // block
    first = np.concatenate([[0], np.cumsum(number)])
    first_id = np.concatenate([[0], np.cumsum(known)])
    inside = np.arange(first_id[-1]) - np.repeat(first_id[:-1], known)  # place of an engine's block in its request
    # The trace's block that holds the last token of the engine's one, and which part of it that is.
    last = (inside + 1) * block - 1
    parts = max(size // block, 1)
    ids = blocks[np.repeat(first[:-1], known) + last // size] * parts + last % size // block
    return first_id, np.unique(ids, return_inverse=True)[1].astype(np.int32)


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
