"""Attention kernels and their forms on a device of round numbers, for tests by hand."""

from __future__ import annotations

from builders import DEVICE, FRAMEWORK, with_level

from costmodel.cost.attention import DecodeForm, PrefillForm, QueryCopies
from costmodel.cost.mixed_attention import VarlenForm
from costmodel.cost.time import Machine
from costmodel.cost.xqa import MmhaKernel, XqaForm
from costmodel.hardware import Device
from costmodel.quantities import Quantity
from costmodel.workload.operators import AttentionKernel

# The device: 100 processors at 1 GHz with 10,000 FLOP a cycle each in BF16, L2 of 50 MB, memory of 2 TB/s.
CLOCK, PROCESSORS, RATE, MEMORY, L2 = 1e9, 100.0, 10_000.0, 2e12, 5e7
WIDTH = 256.0  # 128 of keys and 128 of values
FREE = with_level(with_level(DEVICE, "hbm", 1e18), "l2", 1e18)
LAUNCH, SHARP = 1e-6, 12.0


def machine(device: Device = FREE, *, warm: bool = False) -> Machine:
    return Machine(device, FRAMEWORK, PROCESSORS, warm)


def core(
    sequences: Quantity, heads: float, rows: Quantity, keys: Quantity, kv_heads: float | None = None
) -> AttentionKernel:
    """Return a causal core of `rows` new tokens at the end of `keys`."""
    shared = heads if kv_heads is None else kv_heads
    pairs = rows * (keys - rows) + rows * (rows + 1) / 2
    traffic = sequences * (heads * rows * WIDTH + shared * keys * WIDTH) * 2.0
    family = "attention_prefill"
    return AttentionKernel(
        "core", sequences=sequences, heads=heads, q_len=rows, qk_pairs=pairs, macs_per_pair=WIDTH, dtype="bf16",
        traffic=traffic, family=family, kv_heads=shared, kv_len=keys,
        kv_token_bytes=2 * WIDTH,
    )  # fmt: skip


PREFILL = PrefillForm(
    launch=LAUNCH, compute_efficiency=0.5, single_cta_efficiency=1.0, hbm_efficiency=1.0, cta_overhead=1000.0,
    cta_overhead_per_dim=1.0, wave_tail_loss=1.0, critical_path_p=SHARP, overlap_p=SHARP,
    paged_kv_penalty=0.0, combine_latency=5e-6, pack_gqa=False, split_kv_rule="never", tiles=((64, 128),),
)  # fmt: skip
STEP = 2 * 64 * 128 * WIDTH / RATE  # cycles of a key tile at the peak
FILL = 1000.0 + WIDTH

DECODE = DecodeForm(
    launch=LAUNCH, copies=QueryCopies(gqa_gather=2e-6, gqa_regroup=4e-6, head_dim_pad=8e-6), compute_efficiency=0.5,
    hbm_efficiency=1.0, cta_load_rate=1e9, l2_rate=1e9, warm_l2_share=1.0, cta_overhead=1000.0,
    cta_overhead_per_dim=1.0, combine_latency=3e-6, combine_per_split=1e-7, tpc_contention=0.0, overlap_p=SHARP,
    pack_gqa=True, split_kv_rule="never", q_tile=64, kv_tile_elements=32_768, occupancy=1,
)  # fmt: skip
VARLEN = VarlenForm(
    launch=LAUNCH, compute_efficiency=0.5, single_cta_efficiency=1.0, hbm_efficiency=1.0, cta_overhead=1000.0,
    empty_cta_cycles=100.0, wave_tail_loss=1e-9, l2_share=1.0, critical_path_p=SHARP,
    overlap_p=SHARP, tile=(64, 128), occupancy=1,
)  # fmt: skip
MMHA = MmhaKernel(
    launch=9e-6, compute_efficiency=0.01, cta_load_rate=1e9, cta_overhead=1000.0, cta_overhead_per_dim=1.0,
    combine_latency=3e-6, combine_per_split=1e-7, split_kv_rule="never",
)  # fmt: skip
XQA = XqaForm(
    launch=LAUNCH, compute_efficiency=0.5, hbm_efficiency=1.0, cta_load_rate=1e9, l2_rate=1e9, warm_l2_share=1.0,
    cta_overhead=1000.0, cta_overhead_per_dim=1.0, combine_latency=3e-6, combine_per_split=1e-7, overlap_p=SHARP,
    mmha=MMHA, split_kv_rule="never", q_tile=16, kv_tile_elements=32_768, occupancy=1, max_q_per_kv=32,
    min_block_factor=4,
)  # fmt: skip
