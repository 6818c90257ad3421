"""Attention of several populations in one kernel, from the fit of a kernel that takes sequences of any length."""

from __future__ import annotations

from typing import ClassVar

from costmodel.cost.attention import PrefillForm, mean_kv_tiles
from costmodel.cost.parameter import DeclaredRecord, constant, fitted, like
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, ceil, log2, maximum, minimum, where
from costmodel.workload.operators import AttentionKernel, MixedAttention, clamp_sizes


class VarlenForm(DeclaredRecord, kw_only=True):
    """One grid over all sequences, with as many query tiles for each as the longest one has.

    Longest, grid: as of `PrefillForm`. Query heads are not packed: each is a CTA of its own that reads the key head's
    cache again. CTAs start head by head, so that `joint_heads` of those that share a cache run at a time and read it
    once. The others find it in L2 unless all sequences' caches of one key head exceed `l2_share` of it. Sequences
    shorter than the longest have empty tiles.

    flash_attn_varlen_func of FlashAttention-2, arXiv 2307.08691: grid of query tiles x sequences x heads.
    """

    SECTION: ClassVar[str] = "19.3"
    AXES: ClassVar[dict[str, float]] = {
        "q_len": 2.0, "kv_len": 2.0, "sequences": 2.0, "last_kv_len": 2.0, "last_sequences": 2.0, "q_per_kv": 4.0,
    }  # fmt: skip

    launch: float = like(PrefillForm, "launch")
    compute_efficiency: float = like(PrefillForm, "compute_efficiency")
    single_cta_efficiency: float = like(PrefillForm, "single_cta_efficiency")
    hbm_efficiency: float = like(PrefillForm, "hbm_efficiency")
    cta_overhead: float = like(PrefillForm, "cta_overhead")
    empty_cta_cycles: float = fitted("cycles", 500.0, 1.0, 1e4, "a CTA without work")
    wave_tail_loss: float = like(PrefillForm, "wave_tail_loss")
    l2_share: float = fitted("1", 1.0, 0.1, 10.0, "share of L2 that holds the caches of one key head")
    critical_path_p: float = like(PrefillForm, "critical_path_p")
    overlap_p: float = like(PrefillForm, "overlap_p")

    tile: tuple[int, int] = constant("queries by keys")
    occupancy: int = constant("CTAs that a processor holds", "count")

    def time(self, attention: MixedAttention, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(attention, machine)
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"], self.overlap_p)

    @equation
    def terms(self, attention: MixedAttention, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        busy_time = (cta_time**overlap_p + hbm_time**overlap_p) ** (1 / overlap_p)
        cta_time = (longest**critical_path_p + (tail * grid / machine.processors) ** critical_path_p
                    ) ** (1 / critical_path_p) / unit.clock
        longest := of the parts: cta_overhead + key tiles * cycles of a tile / single_cta_efficiency
        grid := of all CTAs: cta_overhead + mean key tiles * cycles of a tile / compute_efficiency, less of empty ones
        tail = 1 + wave_tail_loss * (ceil(filled) - filled) / filled
        filled = ctas / machine.processors
        hbm_time = (attention.traffic + reload.reload_bytes) / (hbm_efficiency * machine.hbm_bandwidth)
        """
        unit, kv_tile = machine.device.math[attention.parts[0].dtype], self.tile[1]
        most = maximum(*(self._q_tiles(part) for part in attention.parts))
        grid, longest, ctas = 0.0, 0.0, 0.0  # type: tuple[Quantity, Quantity, Quantity]
        for part in attention.parts:
            q_tiles, heads = self._q_tiles(part), part.sequences * part.heads
            step = 2.0 * self.tile[0] * kv_tile * part.macs_per_pair / unit.flop_per_cycle
            cta = self.cta_overhead + mean_kv_tiles(part, q_tiles, kv_tile) * step / self.compute_efficiency
            grid = grid + heads * (q_tiles * cta + (most - q_tiles) * self.empty_cta_cycles)
            single = self.cta_overhead + ceil(part.kv_len / kv_tile) * step / self.single_cta_efficiency
            longest = maximum(longest, where(heads > 0, single, 0.0))
            ctas = ctas + heads * q_tiles
        filled = ctas / machine.processors
        tail = 1.0 + self.wave_tail_loss * (ceil(filled) - filled) / filled
        cta_time = p_norm(self.critical_path_p, longest, tail * grid / machine.processors) / unit.clock
        reload = self._reload_terms(attention, machine, ctas)
        hbm_time = (attention.traffic + reload["reload_bytes"]) / (self.hbm_efficiency * machine.hbm_bandwidth)
        return {
            "busy_time": p_norm(self.overlap_p, cta_time, hbm_time), "cta_time": cta_time, "hbm_time": hbm_time,
            "longest_cycles": longest, "grid_cycles": grid, "ctas": ctas, "filled": filled, "tail_factor": tail,
            **reload,
        }  # fmt: skip

    def features(self, attention: MixedAttention) -> Features:
        """Return log2 of the first part's queries, keys and sequences, the last one's, and queries per key head."""
        first, last = (clamp_sizes(part) for part in (attention.parts[0], attention.parts[-1]))
        return (
            log2(first.q_len), log2(first.kv_len), log2(first.sequences), log2(last.kv_len), log2(last.sequences),
            log2(first.heads / first.kv_heads),
        )  # fmt: skip

    def _q_tiles(self, part: AttentionKernel) -> Count:
        return ceil(part.q_len / self.tile[0])

    @equation
    def _reload_terms(self, attention: MixedAttention, machine: Machine, ctas: Count) -> Terms:
        """Return what is read again from memory because query heads that share a cache run one after another.

        reload_bytes = misses * (q_per_kv / joint - 1) * caches * first.kv_heads
        joint = min(max(occupancy * machine.processors * first.heads / ctas, 1), q_per_kv)
        misses = min(max(caches / (l2_share * level.capacity) - 1, 0), 1)
        """
        first, level = attention.parts[0], machine.device.level("l2")
        if level is None:
            return {"reload_bytes": 0.0, "joint_heads": 1.0, "l2_misses": 0.0}
        caches: Quantity = 0.0
        for part in attention.parts:
            caches = caches + part.sequences * part.kv_len * part.kv_token_bytes
        q_per_kv = first.heads / first.kv_heads
        joint = minimum(maximum(self.occupancy * machine.processors * first.heads / ctas, 1.0), q_per_kv)
        misses = minimum(maximum(caches / (self.l2_share * level.capacity) - 1.0, 0.0), 1.0)
        reload = misses * (q_per_kv / joint - 1.0) * caches * first.kv_heads
        return {"reload_bytes": reload, "joint_heads": joint, "l2_misses": misses}


# ---- The time of attention whose queries each select their keys: one CTA a query, over all slots of its selection ----

OVERLAP_P = 4.0  # chosen: CTAs and bytes overlap, and the longer one counts


class SelectedForm(DeclaredRecord, kw_only=True):
    """Kernels that gather the selected keys of a query for all its heads.

    A selection has as many slots as keys may be chosen. Those that are empty take as long as the others. Heads fill
    whole tiles.

    deepseek-ai/FlashMLA, csrc/sm90/prefill/sparse/fwd.cu: a CTA takes one query and 64 heads, 64 keys at a time.
    """

    SECTION: ClassVar[str] = "19.6"
    AXES: ClassVar[dict[str, float]] = {"queries": 2.0, "kv_len": 3.0, "heads": 2.0, "slots": 2.0}

    launch: float = like(PrefillForm, "launch")
    compute_efficiency: float = like(PrefillForm, "compute_efficiency")
    hbm_efficiency: float = like(PrefillForm, "hbm_efficiency")
    cta_overhead: float = like(PrefillForm, "cta_overhead")
    wave_tail_loss: float = fitted("1", 0.5, 0.01, 1.0, "share lost of a wave that is not full")

    head_tile: int = constant("heads of a CTA", "count")

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(attention, machine)
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"], OVERLAP_P)

    @equation
    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms.

        t = launch + busy_time
        busy_time = (cta**OVERLAP_P + hbm**OVERLAP_P) ** (1 / OVERLAP_P)
        cta = waves * (cta_overhead + math) / unit.clock
        waves = max(filled + wave_tail_loss * (ceil(filled) - filled), 1)
        filled = ctas / machine.processors
        ctas = attention.sequences * attention.q_len * ceil(attention.heads / head_tile)
        math = 2 * head_tile * slots * attention.macs_per_pair / peak
        peak = compute_efficiency * unit.flop_per_cycle
        hbm = attention.traffic / (hbm_efficiency * machine.hbm_bandwidth)
        slots := keys that a query may select, or the pairs of a query where no selection has empty slots
        """
        unit, slots = machine.device.math[attention.dtype], _slots(attention)
        ctas = attention.sequences * attention.q_len * ceil(attention.heads / self.head_tile)
        filled = ctas / machine.processors
        waves = maximum(filled + self.wave_tail_loss * (ceil(filled) - filled), 1.0)
        peak = self.compute_efficiency * unit.flop_per_cycle
        math = 2.0 * self.head_tile * slots * attention.macs_per_pair / peak
        cta = waves * (self.cta_overhead + math) / unit.clock
        hbm = attention.traffic / (self.hbm_efficiency * machine.hbm_bandwidth)
        return {
            "busy_time": p_norm(OVERLAP_P, cta, hbm), "cta_time": cta, "hbm_time": hbm, "waves": waves,
            "filled": filled, "ctas": ctas, "math_cycles": math, "slots": slots,
        }  # fmt: skip

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of queries, keys, heads and slots."""
        return (
            log2(attention.sequences * attention.q_len), log2(attention.kv_len), log2(attention.heads),
            log2(_slots(attention)),
        )  # fmt: skip


def _slots(attention: AttentionKernel) -> Quantity:
    chosen: Count = attention.selected
    return where(chosen > 0.0, chosen, attention.qk_pairs / maximum(attention.q_len, 1.0))
