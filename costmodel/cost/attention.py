"""The time of fused attention from the fit of one library's kernels: query tiles, or a few queries over split keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

from costmodel.cost.parameter import DeclaredRecord, constant, fitted, mechanism, optional, record
from costmodel.cost.residual import Features
from costmodel.cost.time import Machine, Terms, Time, busy_kernel, p_norm
from costmodel.equations import equation
from costmodel.quantities import Bytes, Count, Mask, Quantity, Seconds, ceil, floor, log2, maximum, minimum, where
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel

SplitKvRule: TypeAlias = Literal["never", "once", "twice", "xqa", "fa2", "fa2_shared", "fa3"]
UNEVEN = "once"  # whose pieces differ by a tile: processors are dealt tiles [deepseek-ai/FlashMLA, get_mla_metadata]
_XQA_WAVES = 8.0  # that TensorRT-LLM's XQA aims at (kTargetWaveFactor, decoderXQAConstants.h)
_XQA_PIECES = 8.0  # it takes no more than sqrt(8 * tiles) (computeMultiBlockCount, decoderXQAImplCommon.h)
_MAX_SPLITS = 128  # of FlashAttention's rule
_FULL_GRID = 0.8  # of the processors: a grid that fills these is not split
_GOOD_USE = 0.85  # of the best use of whole waves: the fewest splits that reach this are taken
_WAVES = 8  # within which the best use is looked for; the published loop goes on, and splits 3 % of grids otherwise
_FEW_TILES = 4.0  # of keys, up to which FlashAttention-3 does not split


def split_keys(rule: SplitKvRule, ctas: Count, processors: Count, tiles: Count, shared: Mask) -> Count:
    """Return the pieces that each CTA's keys are split into.

    rule:
        `once`, `twice`: as many as fill the processors once, or twice (FlashInfer's plan: two CTAs a processor).
        `xqa`: eight times, sqrt(8 * tiles) at most, since joining the pieces costs time as well.
        `fa2`, `fa3`: the fewest with 85 % of the best use of whole waves of two CTAs or one a processor (num_splits
        heuristics of FlashAttention-2, csrc/flash_attn/flash_api.cpp, and -3, hopper/heuristics.h).
        `fa2_shared`: as `fa2` where queries share a key head, as vLLM's calls do.
    ctas: of the grid before the split.
    tiles: of keys in one CTA, which are not split themselves.
    shared: whether several queries share a key head.
    """
    if rule == "once":
        return _filling(ctas, processors, tiles)
    if rule == "twice":
        return _filling(ctas, 2.0 * processors, tiles)
    if rule == "xqa":
        return _filling(ctas, _XQA_WAVES * processors, minimum(tiles, floor((_XQA_PIECES * tiles) ** 0.5 + 0.5)))
    if rule == "fa3":
        return _efficient(ctas, processors, tiles, _FEW_TILES)
    if rule in ("fa2", "fa2_shared"):
        splits = _efficient(ctas, 2.0 * processors, tiles, 1.0)
        return splits if rule == "fa2" else where(shared, splits, 1.0)
    return 1.0


def _filling(ctas: Count, slots: Count, tiles: Count) -> Count:
    """Return the largest number of splits that fits into one wave of `slots` CTAs."""
    return maximum(minimum(floor(slots / ctas), tiles), 1.0)


def _efficient(ctas: Count, slots: Count, tiles: Count, few: Count) -> Count:
    """Return the fewest splits s whose use ctas*s / (slots * waves) is 85 % of the best. One where that is enough.

    Within w waves the use grows with s, so that each wave has one candidate for the best and one for the fewest.
    """
    most = minimum(tiles, _MAX_SPLITS)
    best: Quantity = 0.0
    for wave in range(1, _WAVES + 1):
        splits = maximum(minimum(floor(wave * slots / ctas), most), 1.0)
        filled = ctas * splits / slots
        best = maximum(best, filled / ceil(filled))
    fewest = most
    for wave in range(_WAVES, 0, -1):
        needed = ceil(_GOOD_USE * best * wave * slots / ctas - 1e-9)
        needed = maximum(needed, floor((wave - 1) * slots / ctas) + 1.0)
        fewest = where(needed * ctas <= wave * slots, minimum(needed, most), fewest)
    return where((ctas >= _FULL_GRID * slots) | (most <= few), 1.0, maximum(fewest, 1.0))


class PrefillForm(DeclaredRecord, kw_only=True):
    """Attention kernels whose CTAs take one tile of queries each.

    Longest: the CTA of the last queries, whose key tiles run one after another. Grid: all CTAs, each with the mean key
    tiles. Two CTAs on a processor hide each other's waits, so the two have efficiencies of their own. Of several tiles
    the fastest runs, or the one that the library's rule takes (`tile_q_limits`).

    FlashAttention-2, arXiv 2307.08691, section 3.2 (one CTA for a tile of queries). -3, arXiv 2407.08608. FlashInfer,
    include/flashinfer/utils.cuh, FA2DetermineCtaTileQ, and attention/prefill.cuh.
    """

    SECTION: ClassVar[str] = "19.1"
    AXES: ClassVar[dict[str, float]] = {
        "q_len": 2.0, "kv_len": 4.0, "batch_heads": 2.0, "heads": 4.0, "q_per_kv": 3.0, "head_dims": 2.0,
    }  # fmt: skip

    launch: float = fitted("s", 3e-6, 3e-7, 3e-4, "kernel overhead")
    compute_efficiency: float = fitted("1", 0.85, 0.05, 1.3, "of the dense peak, of full processors")
    single_cta_efficiency: float = fitted("1", 0.6, 0.02, 2.0, "the same of a CTA that has a processor to itself")
    hbm_efficiency: float = fitted("1", 0.85, 0.05, 1.0, "of the HBM bandwidth")
    cta_overhead: float = fitted("cycles", 1000.0, 1.0, 3e4, "prologue and epilogue of a CTA")
    cta_overhead_per_dim: float = fitted("cycles", 3.0, 0.01, 200.0, "the same for each element of q + v")
    wave_tail_loss: float = fitted("1", 0.5, 0.01, 1.0, "share lost of a wave that is not full")
    critical_path_p: float = fitted("1", 3.0, 1.0, 12.0, "p-norm that joins the longest CTA and the whole grid")
    overlap_p: float = fitted("1", 2.0, 1.0, 12.0, "p-norm that joins times which overlap")
    paged_kv_penalty: float = fitted("1", 0.5, 1e-3, 20.0, "how much more a byte of the KV cache costs, in pages")
    combine_latency: float = fitted("s", 3e-6, 1e-9, 1e-4, "fixed time where keys are split")
    masked_tiles: float = optional("1", 0.4, 1e-3, 1.0, "cost of a tile that a window masks whole, over that of others")
    warm_l2_share: float = optional("1", 0.6, 0.01, 3.0, "share of L2 that a warm benchmark finds again")
    fragment_loss: float = optional("1", 0.3, 1e-3, 4.0, "slowdown of a warp of 16 rows by its reads of shared memory")

    pack_gqa: bool = constant("queries that share a key head fill one tile")
    split_kv_rule: SplitKvRule = constant("rule by which keys are split over CTAs")
    tiles: tuple[tuple[int, int], ...] = constant("candidate tiles, queries by keys")
    tile_q_limits: tuple[int, ...] = constant("largest rows of queries of each tile but the last, by rule", default=())
    wide_head_dims: int = constant("q + v from which on the rule leaves the last tile out", "count", 0)
    warp_rows: tuple[int, ...] = constant("rows of queries of a warp, of each tile", default=())

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        tiles = [self._tile_terms(attention, machine, at)["cta_time"] for at in range(len(self.tiles))]
        terms = self._total_terms(
            attention, machine, self._of_rule(attention, tiles) if self.tile_q_limits else minimum(*tiles)
        )
        return busy_kernel(self.launch, terms["busy_time"], terms["hbm_time"], self.overlap_p)

    @equation
    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms at one size, of the tile that runs.

        t = launch + busy_time
        """
        tiles = [self._tile_terms(attention, machine, at) for at in range(len(self.tiles))]
        if self.tile_q_limits:
            taken = tiles[int(self._of_rule(attention, range(len(tiles))))]
        else:
            taken = min(tiles, key=lambda terms: float(terms["cta_time"]))
        return self._total_terms(attention, machine, taken["cta_time"]) | taken

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of queries, keys, heads of all sequences, heads, queries per key head, and q + v."""
        return (
            log2(attention.q_len), log2(attention.kv_len), log2(attention.sequences * attention.heads),
            log2(attention.heads), log2(attention.heads / attention.kv_heads), log2(attention.macs_per_pair),
        )  # fmt: skip

    def _of_rule(self, attention: AttentionKernel, values: Sequence[Quantity]) -> Quantity:
        """Return the value of the tile that the library's rule takes: by rows of queries, and by the heads' width."""
        rows = attention.q_len * (attention.heads / attention.kv_heads if self.pack_gqa else 1.0)
        wide = (attention.macs_per_pair >= self.wide_head_dims) & (self.wide_head_dims > 0)
        taken = where(wide, values[-2], values[-1])
        for value, limit in zip(values[-2::-1], self.tile_q_limits[::-1], strict=True):
            taken = where(rows <= limit, value, taken)
        return taken

    @equation
    def _total_terms(self, attention: AttentionKernel, machine: Machine, cta_time: Seconds) -> Terms:
        """Return the terms that all tiles share. cta_time: of the tile that runs.

        busy_time = (cta_time**overlap_p + hbm_time**overlap_p) ** (1 / overlap_p)
        hbm_time = hbm_bytes / (hbm_efficiency * machine.hbm_bandwidth)
        hbm_bytes = attention.traffic + paged_kv_penalty * kv_bytes      less what a warm benchmark finds in L2
        kv_bytes = attention.sequences * attention.kv_heads * attention.kv_len * attention.kv_token_bytes
        """
        kv_bytes = attention.sequences * attention.kv_heads * attention.kv_len * attention.kv_token_bytes
        hbm_bytes = attention.traffic + self.paged_kv_penalty * kv_bytes
        if self.warm_l2_share:
            hbm_bytes = l2_miss_bytes(hbm_bytes, machine, self.warm_l2_share)
        hbm_time = hbm_bytes / (self.hbm_efficiency * machine.hbm_bandwidth)
        busy = p_norm(self.overlap_p, cta_time, hbm_time)
        return {"busy_time": busy, "hbm_time": hbm_time, "kv_bytes": kv_bytes, "l2_miss_bytes": hbm_bytes}

    @equation
    def _tile_terms(self, attention: AttentionKernel, machine: Machine, at: int) -> Terms:
        """Return the terms of one of the tiles: the time of all CTAs on the processors.

        cta_time = (longest**critical_path_p + grid**critical_path_p) ** (1 / critical_path_p) / unit.clock
        longest = overhead + serial_tiles * step / single_cta_efficiency + combine
        serial_tiles = ceil(kv_tiles / splits) + masked_tiles * (all_tiles - kv_tiles)      of the last queries
        grid = waves * (overhead + mean / splits * step / compute_efficiency)
        waves = max(filled + wave_tail_loss * (ceil(filled) - filled), 1)
        filled = ctas / machine.processors
        ctas = unsplit * splits
        overhead = cta_overhead + cta_overhead_per_dim * attention.macs_per_pair
        step = 2 * q_tile * kv_tile * attention.macs_per_pair / unit.flop_per_cycle * fragments
        mean := key tiles of a CTA, those that a window masks whole at `masked_tiles` of the others
        """
        q_tile, kv_tile = map(float, self.tiles[at])
        unit = machine.device.math[attention.dtype]
        fragments = 1.0 + self.fragment_loss * 16.0 / self.warp_rows[at] if self.warp_rows else 1.0
        step = 2.0 * q_tile * kv_tile * attention.macs_per_pair / unit.flop_per_cycle * fragments
        overhead = self.cta_overhead + self.cta_overhead_per_dim * attention.macs_per_pair
        q_per_kv = attention.heads / attention.kv_heads
        q_tiles = ceil(attention.q_len * (q_per_kv if self.pack_gqa else 1.0) / q_tile)
        last = attention.kv_len if attention.last_query_kv_len is None else attention.last_query_kv_len
        kv_tiles, all_tiles = ceil(last / kv_tile), ceil(attention.kv_len / kv_tile)
        unsplit = attention.sequences * (attention.kv_heads if self.pack_gqa else attention.heads) * q_tiles
        splits = split_keys(self.split_kv_rule, unsplit, machine.processors, kv_tiles, q_per_kv > 1.0)
        combine = where(splits > 1.0, self.combine_latency * unit.clock, 0.0)
        serial_tiles = ceil(kv_tiles / splits) + self.masked_tiles * (all_tiles - kv_tiles)
        longest = overhead + serial_tiles * step / self.single_cta_efficiency + combine
        ctas = unsplit * splits
        filled = ctas / machine.processors
        waves = maximum(filled + self.wave_tail_loss * (ceil(filled) - filled), 1.0)
        mean = mean_kv_tiles(attention, q_tiles, kv_tile)
        causal = attention.kv_len - (attention.q_len - 1.0) / 2.0  # keys of a query that sees all up to its own
        masked = where(last < attention.kv_len, _kv_tiles(attention, causal, q_tiles, kv_tile) - mean, 0.0)
        mean = mean + self.masked_tiles * maximum(masked, 0.0)
        grid = waves * (overhead + mean / splits * step / self.compute_efficiency)
        return {
            "cta_time": p_norm(self.critical_path_p, longest, grid) / unit.clock,
            "longest_cycles": longest, "grid_cycles": grid, "combine_cycles": combine, "step_cycles": step,
            "overhead_cycles": overhead, "m_t": q_tile, "n_t": kv_tile, "kv_tiles": kv_tiles,
            "serial_tiles": serial_tiles, "mean_kv_tiles": mean,
            "splits": splits, "ctas": ctas, "filled": filled, "waves": waves,
        }  # fmt: skip


def mean_kv_tiles(attention: AttentionKernel, q_tiles: Count, kv_tile: float) -> Count:
    """Return the key tiles of a CTA on the mean: of its queries, and half a tile that the diagonal cuts through."""
    return _kv_tiles(attention, attention.qk_pairs / attention.q_len, q_tiles, kv_tile)


def _kv_tiles(attention: AttentionKernel, keys: Count, q_tiles: Count, kv_tile: float) -> Count:
    """Return the key tiles of a CTA on the mean. keys: of a query on the mean."""
    last = ceil(attention.kv_len / kv_tile)
    return where(q_tiles <= 1.0, last, minimum(keys / kv_tile + 0.5, last))


class QueryCopies(DeclaredRecord, kw_only=True):
    """Fixed times of the kernels that sort and pad queries before the attention kernel."""

    gqa_gather: float = fitted("s", 1e-6, 1e-9, 1e-4, "fixed time where heads share keys")
    gqa_regroup: float = fitted("s", 1e-6, 1e-9, 1e-4, "fixed time where they do, with several key heads and sequences")
    head_dim_pad: float = fitted("s", 1e-6, 1e-9, 1e-4, "fixed time where q + v is no power of two")

    def fixed_time(self, launch: Seconds, attention: AttentionKernel) -> Seconds:
        """Return `launch` and the fixed times of the copies that a shape needs."""
        shared = attention.heads > attention.kv_heads
        several = (attention.kv_heads > 1.0) & (attention.sequences > 1.0)
        fixed = launch + where(shared, self.gqa_gather, 0.0) + where(shared & several, self.gqa_regroup, 0.0)
        return fixed + where(log2(attention.macs_per_pair) % 1.0 > 0.0, self.head_dim_pad, 0.0)


NO_COPIES = QueryCopies(gqa_gather=0.0, gqa_regroup=0.0, head_dim_pad=0.0)


class UnsplitKernel(DeclaredRecord, kw_only=True):
    """The kernel that a library runs where keys stay in one piece, if it is another than the one that splits them."""

    q_tile: Count = constant("query rows of a tile where keys are not split", "count")
    compute_efficiency: float = fitted("1", 0.6, 0.02, 1.3, "of the dense peak where keys are not split")


def load_on_memory(rate: float, ratio: float, l2_load: float) -> float:
    """Return what a processor loads on another device [B/cycle].

    rate: where it was fitted.
    ratio: what memory gives a processor in a cycle, over that.
    l2_load: what L2 gives it. A kernel keeps as many bytes on the way as its device's memory needs, so that a rate that
    was determined on a slower memory is a lower bound.
    """
    return max(rate, min(rate * ratio, l2_load))


class WidenedCache(DeclaredRecord, kw_only=True):
    """A copy of the cache in the format of the queries, which a library without kernels for narrow ones reads instead.

    SGLang with FlashAttention-3 and latent attention: sgl-project/sglang, issue 35291.
    """

    factor: float = constant("bytes of an element of the copy, over those of the cache", "1")
    rate: float = fitted("1", 0.3, 0.02, 1.0, "of the HBM bandwidth, while the cache is copied")

    def time(self, cache: Bytes, machine: Machine) -> Seconds:
        """Return the time of reading `cache` bytes and writing them wider [s]."""
        return (1.0 + self.factor) * cache / (self.rate * machine.hbm_bandwidth)

    def read(self, attention: AttentionKernel, cache: Bytes) -> AttentionKernel:
        """Return the kernel that reads the copy."""
        more = (self.factor - 1.0) * cache
        return replace(
            attention, traffic=attention.traffic + more, kv_token_bytes=self.factor * attention.kv_token_bytes
        )


class DecodeForm(DeclaredRecord, kw_only=True):
    """Attention kernels that read a cache for a few queries, with the keys split over processors.

    A CTA takes one key head of a sequence (`pack_gqa`: its queries fill the `q_tile` rows of a tile; else each query
    head reads its keys again) over one piece of its keys, whole tiles of `kv_tile_elements` / (q + v) keys. Pieces are
    of equal length, so that there may be fewer than the rule wants. By `once` their lengths differ by a tile. A wave is
    `occupancy` CTAs on each processor. It waits for its CTAs or its bytes, so that a few CTAs too many cost the time of
    one, not their share of the bandwidth. Two processors that are both in use share a path to L2 (`contention`).

    kv_tile: keys of a tile, where that is a number whatever the width of a head.
    zero: by elements.
    split_load_rate: what one processor loads where keys are split [B/cycle].
    zero: as `cta_load_rate`.
    epilogue_per_q_dim: end of a CTA for each element of each of its queries [cycles].
    unsplit: whose tile and efficiency stand for the form's own where keys are not split. Null: the same kernel.

    Split keys: FlashDecoding. FlashInfer, arXiv 2501.01005.
    """

    SECTION: ClassVar[str] = "19.2"
    AXES: ClassVar[dict[str, float]] = {
        "kv_len": 2.0, "sequences": 2.0, "heads": 2.0, "q_per_kv": 2.0, "head_dims": 2.0,
    }  # fmt: skip

    launch: float = fitted("s", 3e-6, 3e-7, 3e-4, "kernel overhead")
    copies: QueryCopies = record(QueryCopies, "")
    compute_efficiency: float = fitted("1", 0.5, 0.02, 1.3, "of the dense peak")
    hbm_efficiency: float = fitted("1", 0.85, 0.05, 1.0, "of the HBM bandwidth")
    cta_load_rate: float = fitted("B/cycle", 30.0, 2.0, 500.0, "load of one processor")
    l2_rate: float = fitted("B/cycle", 60.0, 5.0, 1000.0, "what L2 gives each processor, all loading")
    warm_l2_share: float = fitted("1", 0.6, 0.01, 3.0, "share of L2 that a warm benchmark finds again")
    cta_overhead: float = fitted("cycles", 2000.0, 1.0, 1e5, "prologue and epilogue of a CTA")
    cta_overhead_per_dim: float = fitted("cycles", 5.0, 0.01, 200.0, "the same for each element of q + v")
    combine_latency: float = fitted("s", 1e-6, 1e-9, 1e-4, "fixed time where keys are split")
    combine_per_split: float = fitted("s", 1e-7, 1e-10, 1e-5, "the same for each split")
    tpc_contention: float = fitted("1", 0.1, 1e-3, 2.0, "how much slower two neighbouring processors are than one")
    overlap_p: float = fitted("1", 3.0, 1.2, 12.0, "p-norm that joins times which overlap")

    pack_gqa: bool = constant("queries that share a key head fill one tile")
    split_kv_rule: SplitKvRule = constant("rule by which keys are split over CTAs")
    q_tile: Count = constant("query rows of a tile", "count")
    kv_tile_elements: int = constant("elements of keys and values in a tile", "count")
    occupancy: Count = constant("CTAs that a processor holds", "count")
    unsplit: UnsplitKernel | None = mechanism(UnsplitKernel, "unsplit_")
    widening: WidenedCache | None = mechanism(WidenedCache, "widening_")
    kv_tile: int = 0
    split_load_rate: float = 0.0
    epilogue_per_q_dim: Quantity = 0.0

    def on_memory(self, ratio: float, l2_load: float) -> DecodeForm:
        """Return the form on another device.

        ratio: bytes of memory in a processor's cycle, over those at home.
        l2_load: what L2 gives it [B/cycle].
        """
        return replace(self, cta_load_rate=load_on_memory(self.cta_load_rate, ratio, l2_load))

    def time(self, attention: AttentionKernel, machine: Machine) -> Time:
        """Return the kernel's time."""
        terms = self.terms(attention, machine)
        fixed, copied = terms["fixed_time"], terms.get("widening_time")
        if copied is None:
            return busy_kernel(fixed, terms["busy_time"], terms["hbm_time"], self.overlap_p)
        return busy_kernel(fixed, copied + terms["busy_time"], copied + terms["hbm_time"], self.overlap_p)

    @equation
    def terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms.

        t = fixed_time + busy_time
        t = fixed_time + widening_time + busy_time      where the cache is copied in another format before it is read
        """
        if self.widening is not None:
            cache = attention.sequences * attention.kv_heads * attention.kv_len * attention.kv_token_bytes
            copied = {"widening_time": self.widening.time(cache, machine)}
            return copied | self._kernel_terms(self.widening.read(attention, cache), machine)
        return self._kernel_terms(attention, machine)

    @equation
    def _kernel_terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms of the attention kernel itself.

        hbm_time = miss / (hbm_efficiency * machine.hbm_bandwidth)      of all bytes, none in L2 from a run before
        """
        miss = l2_miss_bytes(attention.traffic, machine, self.warm_l2_share)
        hbm_time = miss / (self.hbm_efficiency * machine.hbm_bandwidth)
        cta = self._cta_terms(attention, machine)
        fixed = self.copies.fixed_time(self.launch, attention)
        waves = self._wave_terms(attention, machine, cta, hbm_time)
        return {"fixed_time": fixed, "hbm_time": hbm_time, "l2_miss_bytes": miss, **waves, **cta}

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of keys, sequences, heads, queries per key head, and q + v."""
        return (
            log2(attention.kv_len), log2(attention.sequences), log2(attention.heads),
            log2(attention.heads / attention.kv_heads), log2(attention.macs_per_pair),
        )  # fmt: skip

    @equation
    def _wave_terms(self, attention: AttentionKernel, machine: Machine, cta: Terms, hbm_time: Seconds) -> Terms:
        """Return the terms of all waves and of joining the pieces. cta: terms of a CTA; hbm_time: of all bytes.

        busy_time = full_waves * wave_time + last_wave_time + combine_time
        wave_time = ((occupancy * (1 + tpc_contention) * cta_time) ** p
                     + (occupancy * processors * share) ** p) ** (1 / p)
        last_wave_time = where(last_ctas > 0, ((max(ceil(last_ctas / processors), 1) * contention * cta_time) ** p
                               + (last_ctas * share) ** p) ** (1 / p), 0)
        last_ctas = ctas - full * occupancy * processors
        full = floor(ctas / (occupancy * processors))
        contention = 1 + tpc_contention * min(max(2 * last_ctas / processors - 1, 0), 1)
        share = (hbm_time**p + l2_time**p) ** (1 / p) / ctas
        l2_time = attention.traffic / (l2_rate * machine.device.processors * clock)
        combine_time = where(cta.splits > 1, combine_latency + combine_per_split * cta.splits, 0)
        """
        clock, processors, p = machine.device.math[attention.dtype].clock, machine.processors, self.overlap_p
        ctas, cta_time = cta["ctas"], cta["cta_time"]
        l2_time = attention.traffic / (self.l2_rate * machine.device.processors * clock)
        share = p_norm(p, hbm_time, l2_time) / ctas
        full = floor(ctas / (self.occupancy * processors))
        last_ctas = ctas - full * self.occupancy * processors
        contention = 1.0 + self.tpc_contention * minimum(maximum(2.0 * last_ctas / processors - 1.0, 0.0), 1.0)
        wave = p_norm(
            p, self.occupancy * (1.0 + self.tpc_contention) * cta_time, self.occupancy * processors * share
        )  # fmt: skip
        last = p_norm(p, maximum(ceil(last_ctas / processors), 1.0) * contention * cta_time, last_ctas * share)
        last = where(last_ctas > 0.0, last, 0.0)
        combine = where(cta["splits"] > 1.0, self.combine_latency + self.combine_per_split * cta["splits"], 0.0)
        return {
            "busy_time": full * wave + last + combine, "wave_time": wave, "last_wave_time": last,
            "combine_time": combine, "full_waves": full, "last_ctas": last_ctas, "contention": contention,
            "share_time": share, "l2_time": l2_time,
        }  # fmt: skip

    @equation
    def _cta_terms(self, attention: AttentionKernel, machine: Machine) -> Terms:
        """Return the terms of a CTA over one piece of the keys, whole tiles.

        cta_time = cta_cycles / unit.clock
        cta_cycles = max(load, math_cycles) + cta_overhead + head_dim_cycles
        load = min(keys, attention.kv_len) * attention.kv_token_bytes / rate
        math_cycles = 2 * rows_per_peak * keys * attention.macs_per_pair / unit.flop_per_cycle
        head_dim_cycles = per_dim * attention.macs_per_pair
        keys = piece * kv_tile                           of a piece
        ctas = unsplit * splits
        """
        unit = machine.device.math[attention.dtype]
        q_per_kv = attention.heads / attention.kv_heads
        kv_tile = self.kv_tile or self.kv_tile_elements / attention.macs_per_pair
        kv_tiles = ceil(attention.kv_len / kv_tile)
        q_tiles = ceil(attention.q_len * (q_per_kv if self.pack_gqa else 1.0) / self.q_tile)
        unsplit = attention.sequences * (attention.kv_heads if self.pack_gqa else attention.heads) * q_tiles
        wanted = split_keys(self.split_kv_rule, unsplit, machine.processors, kv_tiles, q_per_kv > 1.0)
        piece = ceil(kv_tiles / wanted)
        splits, keys = wanted if self.split_kv_rule == UNEVEN else ceil(kv_tiles / piece), piece * kv_tile
        rate = (
            where(splits > 1.0, self.split_load_rate, self.cta_load_rate)
            if self.split_load_rate
            else self.cta_load_rate
        )
        load = minimum(keys, attention.kv_len) * attention.kv_token_bytes / rate
        rows_per_peak = self.q_tile / self.compute_efficiency
        if self.unsplit is not None:
            whole = self.unsplit.q_tile / self.unsplit.compute_efficiency
            rows_per_peak = where(splits > 1.0, rows_per_peak, whole)
        math_cycles = 2.0 * rows_per_peak * keys * attention.macs_per_pair / unit.flop_per_cycle
        per_dim = self.cta_overhead_per_dim + self.epilogue_per_q_dim * (q_per_kv if self.pack_gqa else 1.0)
        head_dim_cycles = per_dim * attention.macs_per_pair
        cta_cycles = maximum(load, math_cycles) + self.cta_overhead + head_dim_cycles
        return {
            "cta_time": cta_cycles / unit.clock, "load_cycles": load, "math_cycles": math_cycles,
            "head_dim_cycles": head_dim_cycles,
            "ctas": unsplit * splits, "splits": splits, "piece_keys": keys, "q_tiles": q_tiles,
        }  # fmt: skip


class LatentForm(DecodeForm, kw_only=True):
    """A `DecodeForm` of kernels whose query heads all share one cache (MLA): their number is no axis of its own."""

    AXES: ClassVar[dict[str, float]] = {"kv_len": 2.0, "batch_kv_heads": 2.0, "q_per_kv": 2.0, "head_dims": 2.0}

    def features(self, attention: AttentionKernel) -> Features:
        """Return log2 of keys, sequences times key heads, queries per key head, and q + v."""
        return (
            log2(attention.kv_len), log2(attention.sequences * attention.kv_heads),
            log2(attention.heads / attention.kv_heads), log2(attention.macs_per_pair),
        )  # fmt: skip


def l2_miss_bytes(traffic: Bytes, machine: Machine, share: float) -> Bytes:
    """Return what of a kernel's bytes is not in L2 from the run before, which is all of it where none was.

    L2 keeps everything up to `share` of its capacity, and ever less until at twice of that each byte was displaced
    before it is read again.
    """
    level = machine.device.level("l2")
    if not machine.warm_l2 or level is None:
        return traffic
    return traffic * minimum(maximum(traffic / (share * level.capacity) - 1.0, 0.0), 1.0)
