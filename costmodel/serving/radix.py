"""Blocks of prompts as paths in a radix tree: blocks that always follow each other become one run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.serving.state import Paths

Ints = npt.NDArray[np.int64]
ROOT = -1


def paths_of_blocks(blocks: Ints, number: Ints, sizes: Ints | None = None) -> Paths:
    """Return the paths of requests whose blocks have numbers, one request's after the other's.

    A node is a number with all that comes before it; a run begins where no node is the parent, or it has several
    children. number: of blocks of each request; sizes: blocks that each number stands for, one by default.
    """
    count = len(number)
    opens = np.zeros(len(blocks), bool)
    opens[(np.cumsum(number) - number)[number > 0]] = True
    node, parent = _nodes(blocks, opens)
    of_parent = np.full(int(node.max(initial=-1)) + 1, ROOT)
    of_parent[node] = parent
    children = np.bincount(of_parent[of_parent >= 0], minlength=len(of_parent))
    begins = (of_parent < 0) | (children[of_parent] > 1)  # a run
    run_of = np.cumsum(begins) - 1
    heads = begins[node]
    last_head = np.maximum.accumulate(np.where(heads, np.arange(len(node)), 0))
    run = np.zeros(len(of_parent), np.int64)
    run[node] = run_of[node[last_head]]
    request = np.repeat(np.arange(count), number)
    first = np.concatenate([[0], np.cumsum(np.bincount(request[heads], minlength=count))])
    weight = np.ones(len(run), np.int64)
    if sizes is not None:
        weight[node] = sizes[blocks]
    of_run = np.bincount(run, weight, minlength=int(begins.sum()))
    return Paths(
        first.astype(np.int64), run_of[node[heads]].astype(np.int32), number.astype(np.int32), of_run.astype(np.int32)
    )


def _nodes(blocks: Ints, opens: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return the number of each block in the tree, and of the one before it. opens: first blocks of requests."""
    node: Ints = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
    parent = np.where(opens, ROOT, np.roll(node, 1))
    of_parent = np.full(int(node.max(initial=-1)) + 1, ROOT)
    of_parent[node] = parent
    if np.array_equal(of_parent[node], parent):
        return node, parent
    # Numbers that do not tell what is before them: level by level, pairs of the node before and the number do.
    start = np.flatnonzero(opens)
    length = np.diff(np.append(start, len(blocks)))
    tree, before, nodes, distinct = np.empty_like(node), np.full(len(start), ROOT), 0, len(of_parent)
    for level in range(int(length.max())):
        alive = length > level
        at = start[alive] + level
        pairs, index = np.unique((before[alive] + 1) * distinct + node[at], return_inverse=True)
        tree[at] = before[alive] = nodes + index
        nodes += len(pairs)
    return tree, np.where(opens, ROOT, np.roll(tree, 1))
