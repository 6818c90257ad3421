"""Attention of several populations in one kernel, from the fit of a kernel that takes sequences of any length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost.attention import mean_tiles
from costmodel.cost.gemm import p_norm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time, busy_kernel
from costmodel.quantities import Bytes, Count, Quantity, ceil, log2, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel, MixedAttention, clamp_sizes


@dataclass(frozen=True, slots=True, eq=False)
class VarlenForm:
    """The fitted form of one grid over all sequences, with as many query tiles for each as the longest one has.

        t = launch + (chip^p + memory^p)^(1/p)
        chip    = (longest^b + grid^b)^(1/b) / clock
        longest = max over parts of fill + key tiles * step / alone                                   [cycles]
        grid    = (sum over parts of blocks * (fill + mean * step / compute) + empty * idle) / processors, with a `tail`
        step    = 2*m_t*n_t*(q + v) / flop per cycle                                                  [cycles]
        memory  = (traffic + reloads) / (memory * bandwidth)
        reloads = missing * (sharing / together - 1) * the bytes of all caches

    Query heads are not packed: each is a block of its own that reads the key head's cache again. Blocks are started
    head by head, so that `together` = slots * processors / (blocks of one head) of the heads that share a cache run at
    a time, and read it once; the others find it in L2 unless all sequences' caches of one key head exceed `resident` of
    its capacity (`missing`: from none at once to all at twice of that). empty: tiles of sequences that are shorter than
    the longest.

    launch: fixed time [s]; compute: share of the peak that full processors reach; alone: that of a block by itself;
    memory: share of the bandwidth; fill: start and end of a block [cycles]; idle: an empty block [cycles]; tail: of a
    wave that is not full, the share that is lost; balance, sharpness: b and p; tile: (queries, keys); slots: blocks
    that a processor holds.

    (flash_attn_varlen_func of FlashAttention-2, arXiv 2307.08691: grid of query tiles x sequences x heads.)
    """

    launch: float
    compute: float
    alone: float
    memory: float
    fill: float
    idle: float
    tail: float
    resident: float
    balance: float
    sharpness: float
    tile: tuple[int, int]
    slots: int

    AXES = ("rows", "keys", "sequences", "other_keys", "other_sequences", "sharing")
    FORMULA: ClassVar[str] = (
        "t = launch + p-norm of (chip, memory), chip = b-norm of the longest block and the whole grid"
    )

    def time(self, core: MixedAttention, machine: Machine) -> Time:
        """Return the kernel's time."""
        unit = machine.device.math[core.parts[0].dtype]
        most = maximum(*(self._panels(part) for part in core.parts))
        grid, longest, blocks = 0.0, 0.0, 0.0  # type: tuple[Quantity, Quantity, Quantity]
        for part in core.parts:
            panels, heads = self._panels(part), part.sequences * part.heads
            step = 2.0 * self.tile[0] * self.tile[1] * part.macs_per_pair / unit.flop_per_cycle
            block = self.fill + mean_tiles(part, panels, self.tile[1]) * step / self.compute
            grid = grid + heads * (panels * block + (most - panels) * self.idle)
            alone = self.fill + ceil(part.kv_len / self.tile[1]) * step / self.alone
            longest = maximum(longest, where(heads > 0, alone, 0.0))
            blocks = blocks + heads * panels
        filled = blocks / machine.processors
        lost = 1.0 + self.tail * (ceil(filled) - filled) / filled
        chip = p_norm(self.balance, longest, lost * grid / machine.processors) / unit.clock
        traffic = core.traffic + self._reloads(core, machine, blocks)
        memory = traffic / (self.memory * machine.memory_bandwidth)
        busy = p_norm(self.sharpness, chip, memory)
        return busy_kernel(self.launch, busy, memory, self.sharpness)

    def features(self, core: MixedAttention) -> Features:
        """Return log2 of the first part's query rows, keys and sequences, the last one's, and queries per key head."""
        first, last = (clamp_sizes(part) for part in (core.parts[0], core.parts[-1]))
        return (
            log2(first.q_len), log2(first.kv_len), log2(first.sequences), log2(last.kv_len), log2(last.sequences),
            log2(first.heads / first.kv_heads),
        )  # fmt: skip

    def _panels(self, part: AttentionKernel) -> Count:
        """Return the query tiles of one sequence and head."""
        return ceil(part.q_len / self.tile[0])

    def _reloads(self, core: MixedAttention, machine: Machine, blocks: Count) -> Bytes:
        """Return what is read again from device memory because query heads that share a cache run one after another."""
        first, level = core.parts[0], machine.device.level("l2")
        if level is None:
            return 0.0
        caches: Quantity = 0.0
        for part in core.parts:
            caches = caches + part.sequences * part.kv_len * part.kv_token_bytes
        sharing = first.heads / first.kv_heads
        together_now = minimum(maximum(self.slots * machine.processors * first.heads / blocks, 1.0), sharing)
        missing = minimum(maximum(caches / (self.resident * level.capacity) - 1.0, 0.0), 1.0)
        return missing * (sharing / together_now - 1.0) * caches * first.kv_heads
