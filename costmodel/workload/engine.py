"""A serving engine: how it schedules requests, and what it takes of a device's memory before its KV cache."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from costmodel.declared import Bandwidth, Key, Moment, Number, NumberOrZero, Share, Size, SizeOrZero, Whole
from costmodel.hardware import Device
from costmodel.quantities import Count, Mask, Seconds, where
from costmodel.records import Record, field

FREE, TOTAL, STATIC = "free", "total", "static"


class SchedulerRule(Record, kw_only=True):
    """Defaults of a scheduler on some devices."""

    from_capacity: Annotated[SizeOrZero, "least memory that the driver reports"] = 0.0
    except_architectures: Annotated[tuple[str, ...], "architectures that the rule leaves out"] = ()
    ranks: Annotated[Number, "least tensor-parallel ranks"] = 1.0
    max_num_seqs: Annotated[Number, "requests that a step processes at most"]
    token_budget: Annotated[Number, "tokens of a step at most, prompts and decoding requests together"]
    graph_limit: Annotated[
        Number | None, "sequences that CUDA graphs are captured for at most; null: all of `graph_sizes`"
    ] = None


class Scheduler(Record, kw_only=True):
    """The scheduler of one engine. Null: no limit, and without a budget prompts run in steps of their own."""

    max_num_seqs: Count | None = None
    token_budget: Count | None = None
    policy: Annotated[Literal["fcfs", "priority", "lpm"], "order of waiting requests"] = "fcfs"
    overlapped: Annotated[bool, Key("async"), "the host prepares a step while the one before it runs"] = False
    preemption: Annotated[
        Literal["recompute", "swap", "none"],
        "what becomes of the cache of a preempted request; none: a request starts when there are blocks for all its "
        "tokens",
    ] = "recompute"
    graph_limit: Count | None = None
    mixed: Annotated[bool, "chunks of prompts run beside decoding requests; else in steps of their own, first"] = True
    look_steps: Annotated[Number, "steps that only decode between two looks for requests; an idle engine sees them"] = (
        1.0
    )
    whole_prompts: Annotated[bool, "prompts that fit into a step are not cut into chunks"] = False
    align_steps: Annotated[
        NumberOrZero, "steps that prompts wait at most until each data-parallel rank that shares experts has one"
    ] = 0.0
    recurrent_overlapped: Annotated[
        bool | None, Key("recurrent_async"), "the same for models with recurrences; null: as for others"
    ] = None

    @property
    def mixes(self) -> bool:
        """Tell whether a step carries chunks of prompts and decoding requests."""
        return self.mixed and self.token_budget is not None


class Reserve(Record, kw_only=True):
    """Memory that an engine leaves free: fixed, per token of a step, per sequence of a graph, per rank [B]."""

    fixed: Annotated[SizeOrZero, "whatever the limits"] = 0.0
    token: Annotated[SizeOrZero, "per token of `token_budget`"] = 0.0
    graph_sequence: Annotated[SizeOrZero, "per sequence of the largest CUDA graph"] = 0.0
    rank: Annotated[SizeOrZero, "per tensor- and pipeline-parallel rank"] = 0.0


class EngineMemory(Record, kw_only=True):
    """What an engine takes of a device before its KV cache.

    tiers: that keep prefix blocks which the device loses, the nearest first.
    """

    utilization: Annotated[Share | None, "share of the memory named by `of`; null: all but `reserve`"] = None
    of: Annotated[
        Literal["total", "free", "static"],
        "total: what the driver reports, weights and activations come out of it; free: what these leave; static: as "
        "total, but activations come out of the rest",
    ] = "total"
    block: Annotated[Number, "tokens of a block of the KV cache"] = 16.0
    process: Annotated[SizeOrZero, "outside the allocator, per process"] = 0.0
    rank: Annotated[SizeOrZero, "outside the allocator, in addition where there are several ranks"] = 0.0
    workspace: Annotated[SizeOrZero, "of libraries, in the allocator"] = 0.0
    logit: Annotated[SizeOrZero, "of sampling, per sequence of `max_num_seqs` and word"] = 0.0
    graph: Annotated[SizeOrZero, "per CUDA graph"] = 0.0
    first_graph: Annotated[SizeOrZero, "of the first CUDA graph, in addition"] = 0.0
    graphs_in_budget: Annotated[bool, "CUDA graphs count in the share"] = False
    reserve: Annotated[Reserve, "what is left free"] = field(default_factory=Reserve)
    tiers: tuple[CacheTier, ...] = ()


class CacheTier(Record, kw_only=True):
    """Memory behind the KV cache of an engine, of each of its devices."""

    capacity: Annotated[Size, "for blocks of one device"]
    bandwidth: Annotated[Bandwidth, "to one device"]


class Engine(Record):
    """What a framework is as a serving engine.

    rules: of its scheduler, of which the first that holds counts.
    """

    version: Annotated[str, "version whose defaults these are"]
    rules: tuple[SchedulerRule, ...]
    scheduler: Annotated[Scheduler, "how it schedules"] = field(default_factory=Scheduler)
    memory: Annotated[EngineMemory, "memory beside the KV cache"] = field(default_factory=EngineMemory)
    graph_sizes: Annotated[
        tuple[Annotated[int, Whole(1, single=True)], ...],
        "sequences that CUDA graphs are captured for; steps are padded to the next one",
    ] = ()
    prompt_graphs: Annotated[bool, "CUDA graphs of steps with prompts as well"] = False
    request: Annotated[Moment, "time that client and front end add to the first token of a request"] = 0.0
    request_token: Annotated[Moment, "the same for each token of its prompt, whose text they split"] = 0.0

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
