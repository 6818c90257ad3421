"""What a simulation of requests knows: requests, their progress, and engines, as records (`rows`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.rows import Records, Row, Rows, Short

PROMPT, OUTPUT = 0, 1  # columns of lengths
FCFS, PRIORITY, LONGEST_PREFIX = 0, 1, 2  # order of waiting requests
NEVER = np.iinfo(np.int64).max
NOBODY, NEXT = -1, -2
ANONYMOUS = -1  # owner of free blocks whose content nobody can use again
LEVELS = 2  # of tiers behind the cache


class Requests(NamedTuple):
    """Requests of a run in order of arrival, before the first one arrives."""

    arrival: Any  # [s], infinite for one that another request's end calls
    length: Any  # tokens of prompt and output
    calls: Any  # request that each one's end calls, `NOBODY`, or `NEXT`: the first that nobody has called yet
    pause: Any  # until the called one arrives [s]
    first_id: Any  # of each request's blocks in `ids`, with the end of the last one
    ids: Any  # chained prefix blocks: equal numbers are equal content up to there
    priority: Any = np.zeros(0, np.int32)  # of each request, the least first; empty where none is stated


class Request(Row):
    """A request, and what became of it."""

    arrival: float  # [s], infinite until another request calls it
    pause: float  # from its end until the one that it calls arrives [s]
    queued: float  # its engine took it in [s]
    scheduled: float  # it was first computed [s]
    first: float  # first token [s]
    finish: float  # last token [s]
    last: float  # token before it was preempted, or before it decodes [s]
    joined: float  # the engine that decodes it started it, where another one computed its prompt [s]
    first_id: int  # of its prefix blocks in the list of those of all requests
    start: int  # the engine's tick when it began to decode
    end: int  # the engine's tick at its last token
    prompt: Short  # tokens
    output: Short  # tokens
    calls: Short  # request that its end calls, `NOBODY` or `NEXT`
    blocks: Short  # prefix blocks
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
    called: Short  # 1: its end has called the next request
    moved: Short  # cached tokens that come with it from another engine
    swapped: Short  # tokens whose cache waits in host memory, 0: none
    key: Short  # cached blocks when the queue was last sorted by them
    priority: Short  # the least is served first
    die: Short  # a random engine, where the router draws
    other_die: Short  # another one
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
    longest: int  # most cached tokens of a decoding request, less the tick
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
    longest: float  # most keys of a decoding request
    copies: float  # what it waits for copies from and to host memory [s]


class Entry(Row):
    """Blocks that stand together in the list of free ones, or one block of the prefix cache."""

    before: Short  # entry before it among free ones, from the one that is reused first; -1: none
    after: Short  # entry after it, -1: none
    size: Short  # blocks
    owner: Short  # prefix block, `ANONYMOUS`, or -2 - r: the preempted request r, which may take them again
    references: Short  # requests that hold it
    unused: Short  # stack of entries not in use


class Tier(Row):
    """A tier behind the cache, whose blocks form a list from the one used first to the one used last, -1: none."""

    oldest: int
    newest: int
    used: int


class TierBlock(Row):
    """A prefix block in the tiers. level: of its tier, 0: none; older, newer: blocks used before and after it."""

    level: Short
    older: Short
    newer: Short


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
    cached_entry: Any  # entry of each prefix block, -1: not cached
    tiers: Any  # by level, the first of which is no tier
    tier_block: Any  # of each prefix block
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
    ids: Any
    policy: Policy
    state: EngineState
    step: Step
    decoders: Any
    enders: Any
    starters: Any
    phase: Any
    entry: Rows[Entry]
    cached_entry: Any
    tiers: Rows[Tier]
    tier_block: Rows[TierBlock]
    gaps: Any
    occupancy: Rows[Occupancy]


FIRST_BIN_WIDTH = 0.125  # [s]; it doubles where a run is longer than all bins
GAP_BINS, SHORTEST_GAP, GAPS_PER_FACTOR_E = 2000, 1e-5, 100.0  # 1 % wide, from 10 us to 5,000 s
NONE_AT_FIRST = ("head", "tail", "unseen", "partial", "root")


def new_records(stream: Requests) -> Records:
    """Return the records of requests before the first one arrives."""
    requests = Request.zeros(len(stream.arrival))
    for field in ("arrival", "calls", "pause"):
        requests[field] = getattr(stream, field)
    requests["prompt"], requests["output"] = stream.length.T
    requests["first_id"], requests["blocks"] = stream.first_id[:-1], np.diff(stream.first_id)
    for moment in ("queued", "scheduled", "first", "finish", "last", "joined"):
        requests[moment] = np.nan
    if len(stream.priority):
        requests["priority"] = stream.priority
    requests["target"] = requests["prompt"]
    requests["segment"] = requests["following"] = -1
    return requests


def count_nodes(requests: Requests) -> int:
    """Return the number of different prefix blocks."""
    return int(requests.ids.max()) + 1 if len(requests.ids) else 0


def new_engines(number: int, policy: Policy, requests: Requests, bins: int, nodes: int | None = None) -> Engines:
    """Return idle engines whose blocks are all free.

    nodes: prefix blocks of all requests, where `requests` are only the first of them.
    """
    entries = policy.blocks + 2
    if nodes is None:
        nodes = count_nodes(requests)
        entries = int(min(policy.blocks, 3 * len(requests.arrival) + len(requests.ids)) + 2)
    decoders, enders, starters = np.zeros((3, number, policy.max_seqs), dtype=np.int64)
    engines = Engines(
        EngineState.zeros(number), Step.zeros(number), decoders, enders, starters,
        phase=np.zeros((number, policy.block), dtype=np.int64), entry=Entry.zeros(number, entries),
        cached_entry=np.full((number, nodes), -1, dtype=np.int32), tiers=Tier.zeros(number, LEVELS + 1),
        tier_block=TierBlock.zeros(number, nodes if policy.tier_blocks[0] else 0),
        gaps=np.zeros((number, GAP_BINS)), occupancy=Occupancy.zeros(number, bins),
    )  # fmt: skip
    state, entry = engines.state, engines.entry
    state["moment"], state["bin_width"] = np.inf, FIRST_BIN_WIDTH
    for field in NONE_AT_FIRST:
        state[field] = -1
    engines.tiers["oldest"] = engines.tiers["newest"] = -1
    state["host_free"], state["free"], state["spare"] = policy.host_blocks, policy.blocks, entries - 1
    state["next_finish"], state["longest"] = NEVER, -NEVER
    entry["unused"] = np.arange(entries - 1, -1, -1)
    first = entry[:, 0]  # holds every block; the list of free ones begins and ends with it
    first["size"], first["owner"], first["before"], first["after"] = policy.blocks, ANONYMOUS, -1, -1
    return engines
