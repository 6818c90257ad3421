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
    requests = len(number)
    is_first = np.zeros(len(blocks), bool)
    is_first[(np.cumsum(number) - number)[number > 0]] = True
    node, parent = _nodes(blocks, is_first)
    # By node: its parent, whether a run begins with it, and its run.
    nodes = int(node.max(initial=-1)) + 1
    parent_of = np.full(nodes, ROOT)
    parent_of[node] = parent
    children = np.bincount(parent_of[parent_of >= 0], minlength=nodes)
    is_head = (parent_of < 0) | (children[parent_of] > 1)
    run_of_head = np.cumsum(is_head) - 1
    # By block: the head before it in its request, whose run it is in.
    begins_run = is_head[node]
    head_before = np.maximum.accumulate(np.where(begins_run, np.arange(len(node)), 0))
    run_of = np.zeros(nodes, np.int64)
    run_of[node] = run_of_head[node[head_before]]
    blocks_of = np.ones(nodes, np.int64)
    if sizes is not None:
        blocks_of[node] = sizes[blocks]
    request_of_block = np.repeat(np.arange(requests), number)
    runs_of_request = np.bincount(request_of_block[begins_run], minlength=requests)
    first = np.concatenate([[0], np.cumsum(runs_of_request)])
    run_sizes = np.bincount(run_of, blocks_of, minlength=int(is_head.sum()))
    return Paths(
        first.astype(np.int64), run_of_head[node[begins_run]].astype(np.int32), number.astype(np.int32),
        run_sizes.astype(np.int32),
    )  # fmt: skip


def _nodes(blocks: Ints, is_first: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    node: Ints = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
    parent = np.where(is_first, ROOT, np.roll(node, 1))
    parent_of = np.full(int(node.max(initial=-1)) + 1, ROOT)
    parent_of[node] = parent
    if np.array_equal(parent_of[node], parent):
        return node, parent
    # Numbers that do not tell what is before them: level by level, pairs of the node before and the number do.
    start = np.flatnonzero(is_first)
    length = np.diff(np.append(start, len(blocks)))
    tree, before, nodes, distinct = np.empty_like(node), np.full(len(start), ROOT), 0, len(parent_of)
    for level in range(int(length.max())):
        alive = length > level
        at = start[alive] + level
        pairs, index = np.unique((before[alive] + 1) * distinct + node[at], return_inverse=True)
        tree[at] = before[alive] = nodes + index
        nodes += len(pairs)
    return tree, np.where(is_first, ROOT, np.roll(tree, 1))
