"""A serving engine: how it schedules requests, and what it takes of a device's memory before its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from costmodel.declared import Bandwidth, Size
from costmodel.hardware import Device
from costmodel.quantities import Bytes, Count, Mask, Quantity, Seconds, where
from costmodel.records import Record, field

FREE, TOTAL, STATIC = "free", "total", "static"


class SchedulerRule(Record, kw_only=True):
    """Defaults of a scheduler on some devices.

    from_capacity: of the memory that programs see [B].
    except_architectures: that keep the next rule's.
    ranks: tensor-parallel ranks from which the rule holds.
    max_num_seqs: requests that one step processes at most.
    token_budget: tokens of a step, prompts and decodes.
    """

    from_capacity: Bytes = 0.0
    except_architectures: tuple[str, ...] = ()
    ranks: Count = 1.0
    max_num_seqs: Count
    token_budget: Count
    graph_limit: Count | None = None


class Scheduler(Record, kw_only=True):
    """The scheduler of one engine. Null: no limit, and without a budget prompts run in steps of their own.

    policy: order of waiting requests.
    overlapped: the host prepares the next step while one runs.
    preemption: what becomes of the cache of a request that loses its seat, `none`: it starts when there are blocks for
    all its tokens.
    mixed: prompts run in steps that decode as well.
    look_steps: that only decode between two looks for new requests.
    whole_prompts: those that fit into a step are not cut.
    align_steps: that prompts wait at most until every rank that shares experts has one, 0: not at all.
    recurrent_overlapped: `overlapped` for models with recurrences, null: alike.
    """

    max_num_seqs: Count | None = None
    token_budget: Count | None = None
    policy: str = "fcfs"
    overlapped: bool = False
    preemption: str = "recompute"
    graph_limit: Count | None = None
    mixed: bool = True
    look_steps: Count = 1.0
    whole_prompts: bool = False
    align_steps: Count = 0.0
    recurrent_overlapped: bool | None = None

    @property
    def mixes(self) -> bool:
        """Tell whether a step carries chunks of prompts and decoding requests."""
        return self.mixed and self.token_budget is not None


class EngineMemory(Record, kw_only=True):
    """What an engine takes of a device before its KV cache.

    utilization: its share, of the `total` memory, of what is `free` besides weights and activations, or what
    weights and
        cache take of all (`static`); null: all but `reserve`.
    block: tokens of a block.
    process, rank: outside its allocator for every process, and in addition for one of several ranks [B].
    workspace: of libraries, within the allocator [B].
    logit: of sampling, per sequence and word [B].
    graph, first_graph: per CUDA graph and of the first one [B].
    graphs_in_budget: counted in its share.
    reserve: left free: fixed, per token of the budget, per sequence of the largest graph, per rank [B].
    tiers: that keep prefix blocks which the device loses, the nearest first.
    """

    utilization: Quantity | None
    of: str = TOTAL
    block: Count = 16.0
    process: Bytes = 0.0
    rank: Bytes = 0.0
    workspace: Bytes = 0.0
    logit: Bytes = 0.0
    graph: Bytes = 0.0
    first_graph: Bytes = 0.0
    graphs_in_budget: bool = False
    reserve: Reserve = field(default_factory=lambda: Reserve())
    tiers: tuple[CacheTier, ...] = ()


class CacheTier(Record, kw_only=True):
    """Memory behind the KV cache of an engine, of each of its devices."""

    capacity: Annotated[Size, "for blocks of one device"]
    bandwidth: Annotated[Bandwidth, "to one device"]


class Reserve(Record, kw_only=True):
    """Memory that an engine leaves free: fixed, per token of a step, per sequence of a graph, per rank [B]."""

    fixed: Bytes = 0.0
    token: Bytes = 0.0
    graph_sequence: Bytes = 0.0
    rank: Bytes = 0.0


class Engine(Record):
    """What a framework is as a serving engine.

    version: whose defaults these are.
    rules: of its scheduler, of which the first that holds counts.
    graph_sizes: sequences that CUDA graphs are captured for, ascending. Steps are padded to the next one.
    prompt_graphs: graphs are captured for steps with prompts too.
    request, request_token: time that client and front end add to a request's first token, and for each token of its
        prompt [s].
    """

    version: str
    rules: tuple[SchedulerRule, ...]
    scheduler: Scheduler
    memory: EngineMemory
    graph_sizes: tuple[int, ...] = ()
    prompt_graphs: bool = False
    request: Quantity = 0.0
    request_token: Quantity = 0.0

    def rule(self, device: Device, tp: Count) -> SchedulerRule:
        """Return the first rule that holds on a device. The last one holds everywhere.

        Where capacity or ranks vary over a grid so do the limits, each point's those of its own rule.
        """
        capacity, room = device.device_memory.visible_capacity, self.rules[-1]
        for rule in reversed(self.rules[:-1]):
            if device.architecture not in rule.except_architectures:
                holds = np.logical_and(capacity >= rule.from_capacity, tp >= rule.ranks)
                room = self._either(holds, rule, room)
        return room

    def _either(self, holds: Mask, rule: SchedulerRule, other: SchedulerRule) -> SchedulerRule:
        """Return the limits of a rule where it holds, of another one elsewhere."""
        if np.all(holds) or not np.any(holds):
            return rule if np.all(holds) else other
        graphs = None
        if rule.graph_limit is not None and other.graph_limit is not None:
            graphs = where(holds, rule.graph_limit, other.graph_limit)
        return SchedulerRule(
            max_num_seqs=where(holds, rule.max_num_seqs, other.max_num_seqs),
            token_budget=where(holds, rule.token_budget, other.token_budget),
            graph_limit=graphs,
        )

    def front_end(self, prompt: Count) -> Seconds:
        """Return what client and front end add to the first token: request + request_token * tokens of the prompt."""
        return self.request + self.request_token * prompt

    def graphs(self, max_num_seqs: Count, token_budget: Count) -> Count:
        """Return the CUDA graphs of an engine: for steps that decode, and for those with prompts.

        Those that decode go up to the most sequences, those with prompts to twice as many rows or the budget.
        """
        sizes = np.asarray(self.graph_sizes, dtype=np.float64)
        if sizes.size == 0:
            return 0.0
        decoding = np.searchsorted(sizes, max_num_seqs, side="right")
        prompts = np.searchsorted(sizes, np.minimum(2.0 * np.asarray(max_num_seqs), token_budget), side="right")
        total = decoding + (prompts if self.prompt_graphs else 0)
        return total.astype(np.float64) if np.ndim(total) else float(total)


def padded_rows(sizes: Sequence[int], rows: Count) -> Count:
    """Return the rows of a decoding step with those that pad it to the next captured size."""
    if not sizes:
        return rows
    known = np.asarray(sizes, dtype=np.float64)
    index = np.minimum(np.searchsorted(known, rows, side="left"), len(known) - 1)
    size = known[index]
    padded: Quantity = size if isinstance(rows, np.ndarray) else float(size)
    return where(rows <= known[-1], padded, rows)
