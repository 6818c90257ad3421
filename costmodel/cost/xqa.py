"""Decoding where the library has two kernels: one for query heads that share a cache, one for those that do not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from costmodel.cost.attention import DecodeForm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Mask, Quantity, ceil, floor, log2, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel

_HISTORY = 128.0  # tokens of the cache to a block, by which the library counts blocks when it chooses


@dataclass(frozen=True, slots=True, eq=False)
class XqaForm:
    """The fitted form of TensorRT-LLM's decoding: XQA on tensor cores where `widest` queries or fewer share.

    That is, where 1 < queries per key head <= widest and blocks * sequences * key heads * max(keys / 128, 1) >=
    processors. Elsewhere the masked multi-head kernel runs, where each query head reads its keys again and computes by
    itself. Both are a `DecodeForm`: XQA with packed queries, the other with a single row and the parameters named
    `single_…`; they share the device's memory and L2.

    A block of XQA takes all queries of a key head, in multiples of `padded`, over heads padded to a power of two. As
    many blocks share a processor as have `slot_elements` together (queries times q + v), at most `slots`, at least one.
    Heads of q + v <= `plain_width` run on another kernel, of which `plain_slots` share a processor and whose start and
    end of a block are `plain_launch` and `plain_fill`.

    XQA never splits fewer than `tile` keys (kMinHistoryTokensPerBlock), the other kernel no tile of `single_elements`.
    widest is what the measurements show; the count of blocks, and that of splits, are those of mayHavePerfGain and
    kTargetWaveFactor in NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/kernels/decoderMaskedMultiheadAttention
    (decoderXQAImplJIT/decoderXQAImplJIT.cpp, decoderXQAConstants.h).
    """

    launch: float
    compute: float
    memory: float
    load: float
    cache: float
    resident: float
    fill: float
    reach: float
    combine: float
    merge: float
    sharpness: float
    single_launch: float
    single_compute: float
    single_load: float
    single_fill: float
    single_reach: float
    single_combine: float
    single_merge: float
    splits: str
    single_splits: str
    rows: int
    elements: int
    slots: int
    widest: int
    blocks: int
    tile: int = 0
    single_elements: int = 0
    single_parted: float = 0.0
    each: float = 0.0
    plain_launch: float = 0.0
    plain_fill: float = 0.0
    plain_width: int = 0
    plain_slots: int = 0
    padded: int = 0
    slot_elements: int = 0

    AXES = ("keys", "blocks", "queries", "width")
    FORMULA: ClassVar[str] = DecodeForm.FORMULA

    def time(self, core: AttentionKernel, machine: Machine) -> Time:
        """Return the core's time."""
        sharing = core.heads / core.kv_heads
        blocks = core.sequences * core.kv_heads * maximum(floor(core.kv_len / _HISTORY), 1.0)
        busy = blocks * self.blocks >= machine.device.processors
        time = _either(self._groups(sharing) & busy, self._shared(core), self._single, core, machine)
        if not self.plain_width:
            return time
        plain = replace(
            self._shared(core), launch=self.plain_launch, fill=self.plain_fill, slots=self.plain_slots or self.slots
        )
        other = self._groups(sharing) & busy & (core.macs_per_pair <= self.plain_width)
        return _chosen(other, plain.time(core, machine), time)

    def features(self, core: AttentionKernel) -> Features:
        """Return log2 of keys, blocks before keys are split, queries of a tile, and width of the products."""
        sharing = core.heads / core.kv_heads
        grouped = self._groups(sharing)
        queries = where(grouped, self._tile(sharing), 1.0)
        blocks = core.sequences * where(grouped, core.kv_heads, core.heads)
        return log2(core.kv_len), log2(blocks), log2(queries), log2(core.macs_per_pair)

    def _groups(self, sharing: Quantity) -> Mask:
        """Tell where queries that share a key head may run together."""
        return (sharing > 1.0) & (sharing <= self.widest)

    def _tile(self, sharing: Quantity) -> Quantity:
        """Return the queries of a block, padded to whole tiles."""
        tile = self.padded or self.rows
        return ceil(sharing / tile) * tile

    def _shared(self, core: AttentionKernel) -> DecodeForm:
        """Return the form of XQA."""
        slots: Quantity = self.slots
        rows: Quantity = self.rows
        each: Quantity = self.each
        if self.padded:
            sharing = core.heads / core.kv_heads
            rows = self._tile(sharing) * 2.0 ** ceil(log2(core.macs_per_pair)) / core.macs_per_pair
            each = self.each * rows / sharing
            if self.slot_elements:
                slots = maximum(minimum(floor(self.slot_elements / (rows * core.macs_per_pair)), self.slots), 1.0)
        return DecodeForm(
            launch=self.launch, gather=0.0, regroup=0.0, pad=0.0, compute=self.compute, memory=self.memory,
            load=self.load, cache=self.cache, resident=self.resident, fill=self.fill,
            reach=self.reach, combine=self.combine, merge=self.merge, crowd=0.0, sharpness=self.sharpness, packed=True,
            splits=self.splits, rows=rows, elements=self.elements,
            slots=slots, tile=self.tile, parted=0.0, each=each,
        )  # fmt: skip

    @property
    def _single(self) -> DecodeForm:
        """Return the form of the kernel that takes each query head by itself."""
        return DecodeForm(
            launch=self.single_launch, gather=0.0, regroup=0.0, pad=0.0, compute=self.single_compute,
            memory=self.memory, load=self.single_load, cache=self.cache,
            resident=self.resident, fill=self.single_fill, reach=self.single_reach, combine=self.single_combine,
            merge=self.single_merge, crowd=0.0,
            sharpness=self.sharpness, packed=False, splits=self.single_splits, rows=1,
            elements=self.single_elements or self.elements,
            slots=self.slots, tile=0, parted=self.single_parted,
        )  # fmt: skip


def _either(mask: Mask, yes: DecodeForm, no: DecodeForm, core: AttentionKernel, machine: Machine) -> Time:
    """Return a core's time by one form where a mask holds, by another elsewhere."""
    return _chosen(mask, yes.time(core, machine), no.time(core, machine))


def _chosen(mask: Mask, yes: Time, no: Time) -> Time:
    """Return one time where a mask holds, another elsewhere."""
    return Time(
        where(mask, yes.seconds, no.seconds), where(mask, yes.compute, no.compute), where(mask, yes.memory, no.memory),
        fixed=where(mask, yes.fixed, no.fixed),
    )  # fmt: skip
