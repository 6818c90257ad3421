"""Decoding where the library has two kernels: one for query heads that share a cache, one for those that do not."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.attention import NO_COPIES, DecodeForm, SplitKvRule, load_on_memory
from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like, mechanism, optional, record
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, time_where
from costmodel.quantities import Mask, Quantity, ceil, floor, log2, maximum, minimum, where
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel

_HISTORY = 128.0  # tokens of the cache to a CTA, by which the library counts CTAs when it chooses


class MmhaKernel(DeclaredRecord, kw_only=True):
    """The masked multi-head kernel: each query head reads its keys again and computes by itself."""

    launch: float = like(DecodeForm, "launch")
    compute_efficiency: float = fitted("1", 0.02, 1e-4, 1.3, "of the dense peak")
    cta_load_rate: float = like(DecodeForm, "cta_load_rate")
    cta_overhead: float = like(DecodeForm, "cta_overhead")
    cta_overhead_per_dim: float = like(DecodeForm, "cta_overhead_per_dim")
    combine_latency: float = like(DecodeForm, "combine_latency")
    combine_per_split: float = like(DecodeForm, "combine_per_split")
    split_load_rate: float = optional("B/cycle", 15.0, 2.0, 500.0, "load of one processor where keys are split")
    split_kv_rule: SplitKvRule = like(DecodeForm, "split_kv_rule")
    kv_tile_elements: int = constant("elements of keys and values in a tile; null: as the XQA kernel", "count", 0)


class NarrowHeadKernel(DeclaredRecord, kw_only=True):
    """The kernel that replaces XQA's for narrow heads."""

    launch: float = like(DecodeForm, "launch")
    cta_overhead: float = like(DecodeForm, "cta_overhead")
    max_dims: int = constant("q + v up to which the kernel runs", "count")
    occupancy: int = constant("CTAs that a processor holds; null: as the XQA kernel", "count", 0)


class XqaForm(DeclaredRecord, kw_only=True):
    """TensorRT-LLM's decoding: XQA on tensor cores where few enough queries share a key head.

    That is, where 1 < queries per key head <= max_q_per_kv and min_block_factor * sequences * key heads * max(kv_len /
    128, 1) >= processors. Elsewhere the masked multi-head kernel runs (`mmha_…`). Both are a `DecodeForm`, XQA with
    packed queries, the other with a single row. They share the device's memory and L2.

    A CTA of XQA takes all queries of a key head, in multiples of `q_multiple`, over heads padded to a power of two. As
    many CTAs share a processor as have `occupancy_elements` together (queries times q + v), at most `occupancy`, at
    least one. XQA never splits fewer than `kv_tile` keys (kMinHistoryTokensPerBlock), the other kernel no tile.

    max_q_per_kv is what the measurements show. The count of CTAs, and that of splits, are those of mayHavePerfGain and
    kTargetWaveFactor in NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/kernels/decoderMaskedMultiheadAttention
    (decoderXQAImplJIT/decoderXQAImplJIT.cpp, decoderXQAConstants.h).
    """

    SECTION: ClassVar[str] = "19.2"
    AXES: ClassVar[dict[str, float]] = {"kv_len": 2.0, "ctas": 2.0, "q_tile": 1.0, "head_dims": 2.0}

    launch: float = like(DecodeForm, "launch")
    compute_efficiency: float = like(DecodeForm, "compute_efficiency")
    hbm_efficiency: float = like(DecodeForm, "hbm_efficiency")
    cta_load_rate: float = like(DecodeForm, "cta_load_rate")
    l2_rate: float = like(DecodeForm, "l2_rate")
    warm_l2_share: float = like(DecodeForm, "warm_l2_share")
    cta_overhead: float = like(DecodeForm, "cta_overhead")
    cta_overhead_per_dim: float = like(DecodeForm, "cta_overhead_per_dim")
    combine_latency: float = like(DecodeForm, "combine_latency")
    combine_per_split: float = like(DecodeForm, "combine_per_split")
    overlap_p: float = like(DecodeForm, "overlap_p")
    mmha: MmhaKernel = record(MmhaKernel, "mmha_")
    epilogue_per_q_dim: float = optional("cycles", 0.3, 1e-4, 20.0, "end of a CTA for each element of each query")
    narrow_head: NarrowHeadKernel | None = mechanism(NarrowHeadKernel, "narrow_head_")

    split_kv_rule: SplitKvRule = like(DecodeForm, "split_kv_rule")
    q_tile: int = like(DecodeForm, "q_tile")
    kv_tile_elements: int = like(DecodeForm, "kv_tile_elements")
    occupancy: int = like(DecodeForm, "occupancy")
    max_q_per_kv: int = constant("queries that share a key head, up to which XQA runs", "count")
    min_block_factor: int = constant("XQA runs where this times the CTAs fill the processors", "count")
    kv_tile: int = constant("keys that XQA does not split; null: a tile", "count", 0)
    q_multiple: int = constant("queries of a key head come in multiples of this", "count", 0)
    occupancy_elements: int = constant("queries times q + v of XQA's CTAs on one processor; null: any", "count", 0)

    def on_memory(self, ratio: float, l2_load: float) -> XqaForm:
        """Return the form on another device. ratio, l2_load: as of a `DecodeForm`."""
        mmha = replace(
            self.mmha,
            cta_load_rate=load_on_memory(self.mmha.cta_load_rate, ratio, l2_load),
            split_load_rate=load_on_memory(self.mmha.split_load_rate, ratio, l2_load),
        )
        return replace(self, cta_load_rate=load_on_memory(self.cta_load_rate, ratio, l2_load), mmha=mmha)

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the time of the kernel that runs."""
        runs_xqa = self._runs_xqa(attention, machine)
        xqa, mmha = self._xqa(attention).time(attention, machine), self._mmha.time(attention, machine)
        time = time_where(runs_xqa, xqa, mmha)
        if self.narrow_head is None:
            return time
        is_narrow = runs_xqa & (attention.macs_per_pair <= self.narrow_head.max_dims)
        return time_where(is_narrow, self._narrow(attention, self.narrow_head).time(attention, machine), time)

    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms of the equation at one size, of the kernel that runs."""
        if not self._runs_xqa(attention, machine):
            return {"runs_xqa": 0.0, **self._mmha.terms(attention, machine)}
        if self.narrow_head is None or attention.macs_per_pair > self.narrow_head.max_dims:
            return {"runs_xqa": 1.0, **self._xqa(attention).terms(attention, machine)}
        return {"runs_xqa": 1.0, **self._narrow(attention, self.narrow_head).terms(attention, machine)}

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of keys, CTAs before keys are split, queries of a tile, and q + v."""
        q_per_kv = attention.heads / attention.kv_heads
        grouped = self._may_group(q_per_kv)
        queries = where(grouped, self._padded(q_per_kv), 1.0)
        ctas = attention.sequences * where(grouped, attention.kv_heads, attention.heads)
        return log2(attention.kv_len), log2(ctas), log2(queries), log2(attention.macs_per_pair)

    def _runs_xqa(self, attention: AttentionKernel, machine: Machine) -> Mask:
        ctas = attention.sequences * attention.kv_heads * maximum(floor(attention.kv_len / _HISTORY), 1.0)
        is_full = ctas * self.min_block_factor >= machine.device.processors
        return self._may_group(attention.heads / attention.kv_heads) & is_full

    def _may_group(self, q_per_kv: Quantity) -> Mask:
        return (q_per_kv > 1.0) & (q_per_kv <= self.max_q_per_kv)

    def _padded(self, q_per_kv: Quantity) -> Quantity:
        """Return the queries of a CTA, padded to whole tiles."""
        multiple = self.q_multiple or self.q_tile
        return ceil(q_per_kv / multiple) * multiple

    def _xqa(self, attention: AttentionKernel) -> DecodeForm:
        occupancy: Quantity = self.occupancy
        q_tile: Quantity = self.q_tile
        epilogue: Quantity = self.epilogue_per_q_dim
        if self.q_multiple:
            q_per_kv, head_dims = attention.heads / attention.kv_heads, attention.macs_per_pair
            q_tile = self._padded(q_per_kv) * 2.0 ** ceil(log2(head_dims)) / head_dims
            epilogue = self.epilogue_per_q_dim * q_tile / q_per_kv
            if self.occupancy_elements:
                fitting = floor(self.occupancy_elements / (q_tile * head_dims))
                occupancy = maximum(minimum(fitting, self.occupancy), 1.0)
        return DecodeForm(
            launch=self.launch, copies=NO_COPIES, compute_efficiency=self.compute_efficiency,
            hbm_efficiency=self.hbm_efficiency, cta_load_rate=self.cta_load_rate, l2_rate=self.l2_rate,
            warm_l2_share=self.warm_l2_share, cta_overhead=self.cta_overhead,
            cta_overhead_per_dim=self.cta_overhead_per_dim, combine_latency=self.combine_latency,
            combine_per_split=self.combine_per_split, tpc_contention=0.0, overlap_p=self.overlap_p, pack_gqa=True,
            split_kv_rule=self.split_kv_rule, q_tile=q_tile, kv_tile_elements=self.kv_tile_elements,
            occupancy=occupancy, kv_tile=self.kv_tile, epilogue_per_q_dim=epilogue,
        )  # fmt: skip

    def _narrow(self, attention: AttentionKernel, kernel: NarrowHeadKernel) -> DecodeForm:
        return replace(
            self._xqa(attention), launch=kernel.launch, cta_overhead=kernel.cta_overhead,
            occupancy=kernel.occupancy or self.occupancy,
        )  # fmt: skip

    @property
    def _mmha(self) -> DecodeForm:
        kernel = self.mmha
        return DecodeForm(
            launch=kernel.launch, copies=NO_COPIES, compute_efficiency=kernel.compute_efficiency,
            hbm_efficiency=self.hbm_efficiency, cta_load_rate=kernel.cta_load_rate, l2_rate=self.l2_rate,
            warm_l2_share=self.warm_l2_share, cta_overhead=kernel.cta_overhead,
            cta_overhead_per_dim=kernel.cta_overhead_per_dim, combine_latency=kernel.combine_latency,
            combine_per_split=kernel.combine_per_split, tpc_contention=0.0, overlap_p=self.overlap_p, pack_gqa=False,
            split_kv_rule=kernel.split_kv_rule, q_tile=1,
            kv_tile_elements=kernel.kv_tile_elements or self.kv_tile_elements, occupancy=self.occupancy,
            split_load_rate=kernel.split_load_rate,
        )  # fmt: skip
