"""What a simulation of requests knows, as arrays: requests, their progress, and engines.

Names in capitals are places in an engine's arrays of clocks and counts, which compiled functions change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Clocks of an engine [s].
MOMENT = 0  # of the next decision what to run
BUSY_UNTIL = 1  # end of the last step decided on
BUSY = 2  # sum of steps
TOKEN_END = 3  # end of the last step that decoded
BIN_WIDTH = 4  # of the engine's occupancy
LOOKED = 5  # when it last looked for new requests
STARTED = 6  # when the host has started all kernels of the last step with prompts
CLOCKS = 7

# Counts of an engine.
HEAD, TAIL = 0, 1  # of the queue of requests, -1: none
UNSEEN = 2  # first of the queue that had not arrived when the engine last looked
DECODING = 3  # requests that decode
PARTIAL = 4  # the request whose prompt is computed in part, -1: none
ENDING = 5  # requests whose last token is not returned yet; they hold their place
STARTING = 6  # requests whose prompt ends with the next step
FREE = 7  # blocks that no request holds
FREE_HEAD, FREE_TAIL = 8, 9  # of the list of free blocks, -1: none
SPARE = 10  # entries that are not in use
TICK = 11  # tokens that each decoding request has got since the start
STEPS = 12
KEYS = 13  # cached tokens of all decoding requests
NEXT_FINISH = 14  # tick at which the next request ends
BLOCKED = 15  # 1: the first waiting request cannot start until another ends
SETTLED = 16  # decoding requests that had a token in the last decoding step
PREEMPTIONS = 17
RECOMPUTED = 18  # tokens
WAITING = 19  # requests in the queue
PROMPT_TOKENS = 20  # computed
DECODE_STEPS = 21
OUTSIDE = 22  # 1: a step was larger than the table of step times
LONGEST = 23  # most cached tokens of a decoding request, less the tick
PROMPTS_ONLY = 24  # 1: the engine computes prompts, and others decode
HOST_FREE = 25  # blocks of host memory that no preempted request holds
SWAPPED_OUT = 26  # tokens whose cache was moved to host memory
LOADED = 27  # tokens whose cache came from a tier
TIER_OLDEST, TIER_NEWEST, TIER_USED = (
    27,
    29,
    31,
)  # of tiers 1 and 2, at this place plus the tier: blocks used first, last
ROOT = 34  # of the heap of requests that wait in order of priority, -1: none
UNLOOKED = 35  # steps since the engine looked for new requests
UNALIGNED = 36  # steps since prompts of ranks in lockstep started, kept by the first of them
COUNTS = 37

# Columns of requests' lengths, times and counts, of engines' lists and entries.
PROMPT, OUTPUT = 0, 1
QUEUED, SCHEDULED, FIRST, FINISH, LAST, JOINED = 0, 1, 2, 3, 4, 5
TIMES = 6
COMPUTED, TARGET, GENERATED, START, END, HELD, OWN, HIT = 0, 1, 2, 3, 4, 5, 6, 7
PREEMPTED, SEGMENT, FOLLOWING, REPLICA, CALLED, MOVED = 8, 9, 10, 11, 12, 13
SWAPPED = 14
COLUMNS = 15
KEY, CHILD = 15, 16  # only where the queue has an order of its own
ORDERED_COLUMNS = 17
FCFS, PRIORITY, LONGEST_PREFIX = 0, 1, 2  # order of waiting requests
DECODERS, ENDERS, STARTERS = 0, 1, 2
BEFORE, AFTER, SIZE, OWNER, REFERENCES, UNUSED = 0, 1, 2, 3, 4, 5
LEVEL, OLDER, NEWER = 0, 1, 2  # of a prefix block in tiers
COPIES = 6  # of a step: what it waits for copies from and to host memory [s]

NEVER = np.iinfo(np.int64).max
NOBODY, NEXT = -1, -2
ANONYMOUS = -1  # owner of free blocks whose content nobody can use again


class Requests(NamedTuple):
    """All requests of a run in order of arrival.

    arrival: [s], infinite for one that another request's end calls.
    length: tokens of prompt and output.
    calls: request that each one's end calls, `NOBODY`, or `NEXT`: the first that nobody has called yet; pause: until
        the called one arrives [s].
    first_id: of each request's blocks in `ids`, with the end of the last one.
    ids: chained prefix blocks: equal numbers are equal content up to there. priority: of each request, the least first,
    empty where none is stated.
    """

    arrival: Any
    length: Any
    calls: Any
    pause: Any
    first_id: Any
    ids: Any
    priority: Any = np.zeros(0, np.int32)


class Progress(NamedTuple):
    """What became of each request.

    time [s]:
        QUEUED: its engine took it in.
        SCHEDULED: it was first computed.
        FIRST, FINISH: first and last token.
        LAST: token before it was preempted, or before it decodes.
        JOINED: the engine that decodes it started it, where another one computed its prompt.
    count:
        COMPUTED: tokens in the cache before it decodes.
        TARGET: tokens that are computed before its next token.
        GENERATED: tokens returned when it began to decode.
        START, END: the engine's tick then, and that of its last token.
        HELD, OWN: leading blocks shared by the prefix cache, and its other blocks until it decodes.
        HIT: prompt tokens found in the cache at first.
        PREEMPTED: how often.
        SEGMENT: entry of the free list that holds its blocks since it was preempted, -1: none.
        FOLLOWING: next in the engine's queue, -1: none.
        REPLICA: its engine.
        CALLED: 1: its end has called the next request.
        MOVED: cached tokens that come with it from another engine.
        SWAPPED: tokens whose cache waits in host memory, 0: none.
        KEY: priority, or cached blocks when the queue was last sorted.
        CHILD: in the heap, the first of those behind it, whose FOLLOWING are its others.
    """

    time: Any
    count: Any


class Engine(NamedTuple):
    """One engine. A fleet has one row more in front.

    clock, count: see above.
    list: requests that decode, end and start, each in order of admission.
    phase: decoding requests by (cached tokens - tick) modulo the block.
    entry: of blocks: BEFORE and AFTER it among free ones, from the one that is reused first; SIZE; OWNER; REFERENCES;
        UNUSED: stack of entries not in use.
    cached_entry: entry of each prefix block, -1: not cached.
    tier: of each prefix block: LEVEL: the tier that keeps it, 0: none. The blocks used before and after it there.
    step: decoding requests, their keys, prompt chunks, their tokens, their keys weighted by tokens, the most keys of a
        decoding request, and COPIES.
    gaps: tokens by the time since the one before, in logarithmic bins.
    occupancy: over bins of time: busy [s], requests, blocks and cached tokens weighted by busy time, tokens of prompts
        and of requests that decode.
    """

    clock: Any
    count: Any
    list: Any
    phase: Any
    entry: Any
    cached_entry: Any
    tier: Any
    step: Any
    gaps: Any
    occupancy: Any


class Policy(NamedTuple):
    """How engines schedule.

    max_seqs: requests at a time.
    budget: tokens of a step.
    block: tokens.
    overlapped: a step is decided on while the one before it runs.
    mixed: prompts and decoding requests share steps.
    caching: prefix cache.
    reserve: a request starts only when blocks for its last token are free.
    drafts: tokens verified with each new one.
    tokens_per_step: of a decoding request.
    jump: quiet steps at once.
    swap_time: of moving a block of a preempted request to host memory or back [s], 0: its tokens are computed again.
    host_blocks: that fit there.
    tier_blocks: that the tiers behind the cache keep.
    tier_time: of loading a block from each [s].
    order: of waiting requests.
    look_steps: that only decode between two looks for new requests.
    whole_prompts: that fit into a step are not cut.
    align_steps: that prompts of ranks in lockstep wait at most for each other.
    """

    max_seqs: int
    budget: int
    block: int
    blocks: int
    overlapped: bool
    mixed: bool
    caching: bool
    reserve: bool
    drafts: int
    tokens_per_step: float
    jump: bool
    swap_time: float = 0.0
    host_blocks: int = 0
    tier_blocks: tuple[int, int] = (0, 0)
    tier_time: tuple[float, float] = (0.0, 0.0)
    order: int = FCFS
    look_steps: int = 1
    whole_prompts: bool = False
    align_steps: int = 0


FIRST_BIN_WIDTH = 0.125  # [s]; it doubles where a run is longer than all bins
GAP_BINS, SHORTEST_GAP, GAPS_PER_FACTOR_E = 2000, 1e-5, 100.0  # 1 % wide, from 10 us to 5,000 s


def new_progress(requests: Requests, order: int = FCFS) -> Progress:
    """Return the progress of requests before the first one arrives. order: of those that wait."""
    number = len(requests.arrival)
    # Ticks and tokens of an engine are at most all outputs of the run.
    kind = np.int32 if requests.length.sum(dtype=np.float64) < np.iinfo(np.int32).max else np.int64
    columns = COLUMNS if order == FCFS else ORDERED_COLUMNS
    progress = Progress(np.full((number, TIMES), np.nan), np.zeros((number, columns), dtype=kind))
    if order == PRIORITY:
        progress.count[:, KEY] = requests.priority
    progress.count[:, TARGET] = requests.length[:, PROMPT]
    progress.count[:, SEGMENT] = progress.count[:, FOLLOWING] = -1
    return progress


def new_fleet(replicas: int, policy: Policy, requests: Requests, bins: int) -> Engine:
    """Return idle engines, one a row of each array, whose blocks are all free."""
    nodes = int(requests.ids.max()) + 1 if len(requests.ids) else 0
    entries = int(min(policy.blocks, 3 * len(requests.arrival) + len(requests.ids)) + 2)
    fleet = Engine(
        clock=np.zeros((replicas, CLOCKS)), count=np.zeros((replicas, COUNTS), dtype=np.int64),
        list=np.zeros((replicas, 3, policy.max_seqs), dtype=np.int64),
        phase=np.zeros((replicas, policy.block), dtype=np.int64),
        entry=np.zeros((replicas, entries, 6), dtype=np.int32),
        cached_entry=np.full((replicas, nodes), -1, dtype=np.int32),
        tier=np.zeros((replicas, nodes if policy.tier_blocks[0] else 0, 3), dtype=np.int32),
        step=np.zeros((replicas, 7)), gaps=np.zeros((replicas, GAP_BINS)), occupancy=np.zeros((replicas, bins, 6)),
    )  # fmt: skip
    fleet.clock[:, MOMENT] = np.inf
    fleet.clock[:, BIN_WIDTH] = FIRST_BIN_WIDTH
    for slot in (
        HEAD,
        TAIL,
        UNSEEN,
        PARTIAL,
        ROOT,
        *(first + tier for first in (TIER_OLDEST, TIER_NEWEST) for tier in (1, 2)),
    ):
        fleet.count[:, slot] = -1
    fleet.count[:, HOST_FREE] = policy.host_blocks
    fleet.count[:, NEXT_FINISH], fleet.count[:, LONGEST] = NEVER, -NEVER
    fleet.count[:, FREE] = policy.blocks
    fleet.count[:, SPARE] = entries - 1
    fleet.entry[:, :, UNUSED] = np.arange(entries - 1, -1, -1)
    first = fleet.entry[:, 0]  # holds every block; the list of free ones begins and ends with it
    first[:, SIZE], first[:, OWNER], first[:, BEFORE], first[:, AFTER] = policy.blocks, ANONYMOUS, -1, -1
    return fleet
