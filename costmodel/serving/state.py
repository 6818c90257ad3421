"""What a simulation of requests knows: requests, their progress, and engines, as records (`rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.rows import Records, Row, Rows, Short

PROMPT, OUTPUT = 0, 1  # columns of lengths
FCFS, PRIORITY, LONGEST_PREFIX = 0, 1, 2  # order of waiting requests
NEVER = np.iinfo(np.int64).max
NOBODY, NEXT = -1, -2
ANONYMOUS = -1  # owner of free blocks whose content nobody can use again
LEVELS = 2  # of tiers behind the cache


class Paths(NamedTuple):
    """Blocks of prompts as a radix tree, whose nodes are runs of blocks: each request's path from the root on.

    A run begins where texts part. Of the last one of its path a request may have only the first blocks.
    """

    first: Any  # of each request's runs in `runs`, with the end of the last one
    runs: Any  # of all paths, one after the other; a run has one before it, the same in every path
    blocks: Any  # of each request
    sizes: Any  # blocks of each run

    @classmethod
    def none(cls, count: int) -> Paths:
        """Return the paths of so many requests of whose prompts nothing is known."""
        nothing = np.zeros(0, np.int32)
        return cls(np.zeros(count + 1, np.int64), nothing, np.zeros(count, np.int32), nothing)

    def of(self, chosen: Any) -> Paths:
        """Return the paths of some requests."""
        number = np.diff(self.first)[chosen]
        first = np.concatenate([[0], np.cumsum(number)])
        source = np.repeat(self.first[:-1][chosen] - first[:-1], number) + np.arange(first[-1])
        return Paths(first, self.runs[source], self.blocks[chosen], self.sizes)


class Calls(NamedTuple):
    """Which requests the end of each one calls. One that several call arrives when the last of these has ended."""

    first: Any  # of each request's calls, with the end of the last one
    called: Any  # request, or `NEXT`: the first that nobody has called yet
    delay: Any  # from the end until it may arrive [s]

    @classmethod
    def none(cls, count: int) -> Calls:
        """Return that so many requests call none."""
        return cls(np.zeros(count + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def of(cls, count: int, caller: Any, called: Any, delay: Any) -> Calls:
        """Return calls in the order of their callers."""
        order = np.argsort(caller, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(caller, minlength=count))])
        return cls(first, np.asarray(called)[order], np.asarray(delay, np.float64)[order])

    def renamed(self, order: Any) -> Calls:
        """Return the calls with requests in another order."""
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        caller = np.repeat(position, np.diff(self.first))
        called = np.where(self.called >= 0, position[np.maximum(self.called, 0)], self.called)
        return Calls.of(len(order), caller, called, self.delay)

    @property
    def callers(self) -> Any:
        """Return how many requests call each one by its number."""
        return np.bincount(self.called[self.called >= 0], minlength=len(self.first) - 1)


class Requests(NamedTuple):
    """Requests of a run in order of arrival, before the first one arrives: those that are called last."""

    arrival: Any  # [s], infinite for one that another request's end calls
    length: Any  # tokens of prompt and output
    calls: Calls
    paths: Paths
    priority: Any = np.zeros(0, np.int32)  # of each request, the least first; empty where none is stated
    earliest: Any = 0.0  # before which a called one does not arrive [s]
    kind: Any = 0  # class of each request among those of the scenario


class Request(Row):
    """A request, and what became of it."""

    arrival: float  # [s], infinite until other requests have called it
    earliest: float  # it may arrive, as known from those that have called it [s]
    queued: float  # its engine took it in [s]
    scheduled: float  # it was first computed [s]
    first: float  # first token [s]
    finish: float  # last token [s]
    last: float  # token before it was preempted, or before it decodes [s]
    joined: float  # the engine that decodes it started it, where another one computed its prompt [s]
    first_run: int  # of its path in the list of those of all requests
    first_call: int  # of those that its end calls in the list of all
    start: int  # the engine's tick when it began to decode
    end: int  # the engine's tick at its last token
    prompt: Short  # tokens
    output: Short  # tokens
    calls: Short  # requests that its end calls
    waits: Short  # for so many ends until it arrives
    blocks: Short  # of its path
    computed: Short  # tokens in the cache before it decodes
    target: Short  # tokens that are computed before its next token
    generated: Short  # tokens returned when it began to decode
    held: Short  # leading blocks shared by the prefix cache
    own: Short  # its other blocks until it decodes
    hit: Short  # prompt tokens that the cache held at first
    preempted: Short  # how often
    segment: Short  # entry of the free list that holds its blocks since it was preempted, -1: none
    following: Short  # next in the engine's queue, -1: none
    replica: Short  # its engine, -1: it was rejected
    called: Short  # 1: its end has called others
    moved: Short  # cached tokens that come with it from another engine
    swapped: Short  # tokens whose cache waits in host memory, 0: none
    key: Short  # cached blocks when the queue was last sorted by them
    priority: Short  # the least is served first
    die: Short  # a random engine, where the router draws
    other_die: Short  # another one
    kind: Short  # class of requests
    child: Short  # in the heap, the first of those behind it, whose `following` are its others


class EngineState(Row):
    """Clocks and counts of one engine. A tick is a token of every request that decodes."""

    moment: float  # of the next decision what to run [s]
    busy_until: float  # end of the last step decided on [s]
    busy: float  # sum of steps [s]
    token_end: float  # end of the last step that decoded [s]
    bin_width: float  # of the engine's occupancy [s]
    looked: float  # when it last looked for new requests [s]
    started: float  # when the host has started all kernels of the last step with prompts [s]
    head: int  # of the queue of requests, -1: none
    tail: int  # of the queue of requests, -1: none
    unseen: int  # first of the queue that had not arrived when the engine last looked
    root: int  # of the heap of requests that wait in order of priority, -1: none
    waiting: int  # requests in the queue
    blocked: int  # 1: the first waiting request cannot start until another ends
    partial: int  # the request whose prompt is computed in part, -1: none
    starting: int  # requests whose prompt ends with the next step
    decoding: int  # requests that decode
    settled: int  # decoding requests that had a token in the last decoding step
    ending: int  # requests whose last token is not returned yet; they hold their seat
    tick: int  # tokens that each decoding request has got since the start
    next_finish: int  # tick at which the next request ends
    keys: int  # cached tokens of all decoding requests
    free: int  # blocks that no request holds
    free_head: int  # first of the list of free blocks, -1: none
    free_tail: int  # last of it
    spare: int  # entries of blocks that are not in use
    host_free: int  # blocks of host memory that no preempted request holds
    steps: int  # so far
    decode_steps: int  # so far
    prompt_tokens: int  # computed
    preemptions: int  # so far
    recomputed: int  # tokens
    swapped_out: int  # tokens whose cache was moved to host memory
    loaded: int  # tokens whose cache came from a tier
    outside: int  # 1: a step was larger than the table of step times
    prompts_only: int  # 1: the engine computes prompts, and others decode
    unlooked: int  # steps since the engine looked for new requests
    unaligned: int  # steps since prompts of ranks in lockstep started, kept by the first of them


class Step(Row):
    """A step of an engine."""

    decodes: float  # requests that decode
    keys: float  # of all of them
    chunks: float  # of prompts
    rows: float  # tokens of all chunks
    chunk_keys: float  # of all chunks, each weighted by its tokens
    copies: float  # what it waits for copies from and to host memory [s]


class Entry(Row):
    """Blocks that stand together in a list, the one that is reused first before the others: of a run a part of it."""

    before: Short  # entry before it in its list; -1: none
    after: Short  # entry after it, -1: none
    size: Short  # blocks
    owner: Short  # run, `ANONYMOUS`, or -2 - r: the preempted request r, which may take them again
    references: Short  # requests that hold it; it is in no list then
    level: Short  # of its tier; 0: of the device
    upper: Short  # entry of its run before it, nearer to the root, -1: none
    lower: Short  # entry of its run after it, -1: none
    unused: Short  # stack of entries not in use, each + 1; 0: one that was never used


class Tier(Row):
    """A tier behind the cache, whose entries form a list from the one used first to the one used last, -1: none."""

    oldest: int
    newest: int
    used: int  # blocks


class Run(Row):
    """A run of blocks as an engine has it: always the first ones of it, since the last ones are reused first."""

    entry: Short  # first one on the device, -1: none
    cached: Short  # blocks on the device
    stored: Short  # first entry in the tiers, -1: none


class Occupancy(Row):
    """What an engine did in a bin of time."""

    busy: float  # [s]
    requests: float  # that ran, weighted by busy time [s]
    blocks: float  # in use, weighted by busy time [s]
    keys: float  # cached tokens of those that decode [s]
    prompt_tokens: float  # computed
    decoded: float  # requests, summed over steps


class Engines(NamedTuple):
    """All engines, one a row of each array."""

    state: Any  # clocks and counts
    step: Any  # that was decided on
    decoders: Any  # requests that decode, in order of admission
    enders: Any  # requests that end
    starters: Any  # requests that start
    phase: Any  # decoding requests by (cached tokens - tick) modulo the block
    entry: Any  # of blocks
    run: Any  # of blocks
    tiers: Any  # by level, the first of which is no tier
    gaps: Any  # tokens by the time since the one before, in logarithmic bins
    occupancy: Any  # over bins of time


class Policy(NamedTuple):
    """How engines schedule."""

    max_seqs: int  # requests at a time
    budget: int  # tokens of a step
    block: int  # tokens
    blocks: int  # of an engine
    overlapped: bool  # a step is decided on while the one before it runs
    mixed: bool  # prompts and decoding requests share steps
    caching: bool  # prefix cache
    reserve: bool  # a request starts only when blocks for its last token are free
    drafts: int  # tokens verified with each new one
    tokens_per_step: float  # of a decoding request
    jump: bool  # quiet steps at once
    swap_time: float = 0.0  # of moving a block of a preempted request to host memory or back [s], 0: computed again
    host_blocks: int = 0  # that fit there
    tier_blocks: tuple[int, int] = (0, 0)  # that the tiers behind the cache keep
    tier_time: tuple[float, float] = (0.0, 0.0)  # of loading a block from each [s]
    order: int = FCFS  # of waiting requests
    look_steps: int = 1  # that only decode between two looks for new requests
    whole_prompts: bool = False  # that fit into a step are not cut
    align_steps: int = 0  # that prompts of ranks in lockstep wait at most for each other


class Engine(NamedTuple):
    """One engine: as of `Engines`, with what all of them share."""

    requests: Rows[Request]
    paths: Paths
    policy: Policy
    state: EngineState
    step: Step
    decoders: Any
    enders: Any
    starters: Any
    phase: Any
    entry: Rows[Entry]
    run: Rows[Run]
    tiers: Rows[Tier]
    gaps: Any
    occupancy: Rows[Occupancy]


FIRST_BIN_WIDTH = 0.125  # [s]; it doubles where a run is longer than all bins
GAP_BINS, SHORTEST_GAP, GAPS_PER_FACTOR_E = 2000, 1e-5, 100.0  # 1 % wide, from 10 us to 5,000 s
NONE_AT_FIRST = ("head", "tail", "unseen", "partial", "root")


def new_records(stream: Requests) -> Records:
    """Return the records of requests before the first one arrives."""
    requests, paths, calls = Request.zeros(len(stream.arrival)), stream.paths, stream.calls
    requests["arrival"], requests["earliest"] = stream.arrival, stream.earliest
    requests["prompt"], requests["output"] = stream.length.T
    requests["first_run"], requests["blocks"] = paths.first[:-1], paths.blocks
    requests["first_call"], requests["calls"], requests["waits"] = calls.first[:-1], np.diff(calls.first), calls.callers
    for moment in ("queued", "scheduled", "first", "finish", "last", "joined"):
        requests[moment] = np.nan
    if len(stream.priority):
        requests["priority"] = stream.priority
    requests["target"], requests["kind"] = requests["prompt"], stream.kind
    requests["segment"] = requests["following"] = -1
    return requests


def _entries(policy: Policy, sizes: Any, count: int | None) -> int:
    """Return the runs of blocks that an engine keeps at most. Arguments as of `new_engines`."""
    shared, kept = int(np.sum(sizes, dtype=np.int64)), sum(policy.tier_blocks)
    entries = policy.blocks if count is None else min(policy.blocks, 3 * count + shared)
    return int(entries + min(shared, kept) + 2)


def engine_bytes(policy: Policy, sizes: Any, count: int | None) -> int:
    """Return the size of what grows of an engine's arrays [B]. Arguments as of `new_engines`."""
    places = 8 * (3 * policy.max_seqs + policy.block + GAP_BINS)
    return places + Entry.dtype.itemsize * _entries(policy, sizes, count) + Run.dtype.itemsize * len(sizes)


def new_engines(
    number: int, policy: Policy, sizes: Any, bins: int, count: int | None = None,
    others: Sequence[tuple[slice, Policy]] = (),
) -> Engines:  # fmt: skip
    """Return idle engines whose blocks are all free.

    sizes: blocks of each run; count: requests, null where these are only the first of a run.
    others: engines of other policies.
    """
    if others:
        every = [(slice(None), policy), *others]
        wide = {name: max(getattr(own, name) for _, own in every) for name in ("max_seqs", "block", "blocks")}
        engines = new_engines(number, policy._replace(**wide), sizes, bins, count)
        for place, each in every:
            engines.state["free"][place] = engines.entry["size"][place, 0] = each.blocks
            engines.state["host_free"][place] = each.host_blocks
        return engines
    entries = _entries(policy, sizes, count)
    decoders, enders, starters = np.zeros((3, number, policy.max_seqs), dtype=np.int64)
    engines = Engines(
        EngineState.zeros(number), Step.zeros(number), decoders, enders, starters,
        phase=np.zeros((number, policy.block), dtype=np.int64), entry=Entry.zeros(number, entries),
        run=Run.zeros(number, len(sizes)), tiers=Tier.zeros(number, LEVELS + 1),
        gaps=np.zeros((number, GAP_BINS)), occupancy=Occupancy.zeros(number, bins),
    )  # fmt: skip
    state, entry = engines.state, engines.entry
    state["moment"], state["bin_width"] = np.inf, FIRST_BIN_WIDTH
    for field in NONE_AT_FIRST:
        state[field] = -1
    engines.tiers["oldest"] = engines.tiers["newest"] = engines.run["entry"] = engines.run["stored"] = -1
    state["host_free"], state["free"], state["spare"] = policy.host_blocks, policy.blocks, entries - 1
    state["next_finish"] = NEVER
    first = entry[:, 0]  # holds every block; the list of free ones begins and ends with it
    first["size"], first["owner"], first["before"], first["after"] = policy.blocks, ANONYMOUS, -1, -1
    return engines
