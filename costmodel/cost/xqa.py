"""Decoding where the library has two kernels: one for query heads that share a cache, one for those that do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from costmodel.cost.attention import DecodeForm
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Features
from costmodel.cost.time import Time
from costmodel.quantities import Quantity, floor, maximum, where
from costmodel.workload.operators import AttentionCore

_HISTORY = 128.0  # tokens of the cache to a block, by which the library counts blocks when it chooses


@dataclass(frozen=True, slots=True, eq=False)
class XqaForm:
    """The fitted form of TensorRT-LLM's decoding: XQA on tensor cores where `widest` queries or fewer share.

    That is, where 1 < queries per key head <= widest and blocks * sequences * key heads * max(keys / 128, 1) >=
    processors. Elsewhere the masked multi-head kernel runs, where each query head reads its keys again and computes by
    itself. Both are a `DecodeForm`: XQA with packed queries, the other with a single row and the parameters named
    `single_…`; they share the device's memory and L2.

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

    AXES = DecodeForm.AXES
    FORMULA: ClassVar[str] = DecodeForm.FORMULA

    def time(self, core: AttentionCore, machine: Machine) -> Time:
        """Return the core's time."""
        shared, single = self._shared.time(core, machine), self._single.time(core, machine)
        sharing = core.heads / core.kv_heads
        blocks = core.sequences * core.kv_heads * maximum(floor(core.keys / _HISTORY), 1.0)
        busy = blocks * self.blocks >= machine.device.processors
        grouped = (sharing > 1.0) & (sharing <= self.widest) & busy

        def chosen(yes: Quantity, no: Quantity) -> Quantity:
            return where(grouped, yes, no)

        return Time(
            chosen(shared.seconds, single.seconds), chosen(shared.compute, single.compute),
            chosen(shared.memory, single.memory), fixed=chosen(shared.fixed, single.fixed),
        )  # fmt: skip

    def features(self, core: AttentionCore) -> Features:
        """Return log2 of keys, sequences, heads, queries per key head, and width of the products."""
        return self._shared.features(core)

    @property
    def _shared(self) -> DecodeForm:
        """Return the form of XQA."""
        return DecodeForm(
            self.launch, 0.0, 0.0, 0.0, self.compute, self.memory, self.load, self.cache, self.resident, self.fill,
            self.reach, self.combine, self.merge, 0.0, self.sharpness, True, self.splits, self.rows, self.elements,
            self.slots, self.tile, 0.0, self.each,
        )  # fmt: skip

    @property
    def _single(self) -> DecodeForm:
        """Return the form of the kernel that takes each query head by itself."""
        return DecodeForm(
            self.single_launch, 0.0, 0.0, 0.0, self.single_compute, self.memory, self.single_load, self.cache,
            self.resident, self.single_fill, self.single_reach, self.single_combine, self.single_merge, 0.0,
            self.sharpness, False, self.single_splits, 1, self.single_elements or self.elements,
            self.slots, 0, self.single_parted,
        )  # fmt: skip
