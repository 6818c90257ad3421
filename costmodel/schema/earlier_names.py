"""What keys of calibration files and fit plans were called before: an error at such a key names the one of today."""

from __future__ import annotations

FORM_KINDS = {"switched": "two_tile_gemm", "plain": "scaled_roofline", "stream": "elementwise"}
_EFFICIENCIES = {"compute": "compute_efficiency", "memory": "hbm_efficiency", "sharpness": "overlap_p"}
_TILE = {
    "load": "cta_load_rate", "cache": "l2_rate", "fill": "cta_overhead", "turn": "k_step", "edge": "small_tile_loss",
}  # fmt: skip
_GRID = {
    "alone": "single_cta_efficiency", "fill": "cta_overhead", "tail": "wave_tail_loss", "balance": "critical_path_p",
}  # fmt: skip
_DECODE = {
    **_EFFICIENCIES, "gather": "gqa_gather", "regroup": "gqa_regroup", "pad": "head_dim_pad", "load": "cta_load_rate",
    "cache": "l2_rate", "resident": "warm_l2_share", "fill": "cta_overhead", "reach": "cta_overhead_per_dim",
    "combine": "combine_latency", "merge": "combine_per_split", "crowd": "tpc_contention", "packed": "pack_gqa",
    "splits": "split_kv_rule", "rows": "q_tile", "elements": "kv_tile_elements", "slots": "occupancy",
}  # fmt: skip
_ALL_TO_ALL = {
    "hop": "inter_hops", "slot": "expert_latency", "peer": "rank_latency", "token": "token_latency",
    "rate": "send_bandwidth", "share": "intra_efficiency", "nic": "inter_efficiency", "sharpness": "overlap_p",
    "direct": "uses_intra_links", "relay": "forward_cost", "crowd": "fabric_exponent",
}  # fmt: skip
FORM_KEYS: dict[str, dict[str, str]] = {
    "gemm": {
        **_EFFICIENCIES, **_TILE, "split": "splitk_bytes", "combine": "splitk_latency", "sag": "clock_droop",
        "dirty": "writeback_ratio", "ramp": "writeback_limit", "sync": "multicast_sync",
        "exposed": "exposed_promotion", "overhang": "partial_tile_loss", "shared": "partial_tile_clusters",
        "refetch": "reread_share", "reach": "reread_onset", "cached": "warm_l2_rate", "copies": "warm_weight_sets",
        "resident": "warm_l2_share", "scan": "group_latency", "splits": "has_split_k", "rule": "tile_rule",
        "limits": "tile_m_limits", "paired": "multicast_min_m", "clusters": "cluster_shapes",
    },
    "two_tile_gemm": {
        "memory": "hbm_efficiency", "sharpness": "overlap_p", "compute": "large_compute_efficiency",
        "few_compute": "small_compute_efficiency", "few_tiles": "small_tiles", "tiles": "large_tiles",
        **{f"few_{before}": f"small_{now}" for before, now in _TILE.items()},
        **{before: f"large_{now}" for before, now in _TILE.items()},
        "sag": "large_clock_droop", "refetch": "large_reread_share", "reach": "large_reread_onset",
    },
    "scaled_roofline": _EFFICIENCIES,
    "prefill": {
        **_EFFICIENCIES, **_GRID, "reach": "cta_overhead_per_dim", "scatter": "paged_kv_penalty",
        "combine": "combine_latency", "packed": "pack_gqa", "splits": "split_kv_rule",
    },
    "decode": _DECODE,
    "latent": _DECODE,
    "xqa": {
        **_DECODE, "widest": "max_q_per_kv", "blocks": "min_block_factor", "tile": "kv_tile",
        "padded": "q_multiple", "slot_elements": "occupancy_elements", "each": "epilogue_per_q_dim",
        "single_launch": "mmha_launch", "single_compute": "mmha_compute_efficiency",
        "single_load": "mmha_cta_load_rate", "single_fill": "mmha_cta_overhead",
        "single_reach": "mmha_cta_overhead_per_dim", "single_combine": "mmha_combine_latency",
        "single_merge": "mmha_combine_per_split", "single_parted": "mmha_split_load_rate",
        "single_splits": "mmha_split_kv_rule", "single_elements": "mmha_kv_tile_elements",
        "plain_launch": "narrow_head_launch", "plain_fill": "narrow_head_cta_overhead",
        "plain_width": "narrow_head_max_dims", "plain_slots": "narrow_head_occupancy",
    },
    "varlen": {**_EFFICIENCIES, **_GRID, "idle": "empty_cta_cycles", "resident": "l2_share", "slots": "occupancy"},
    "elementwise": {
        "memory": "hbm_efficiency", "cached": "l2_efficiency", "resident": "l2_share", "load": "cta_load_rate",
        "fill": "row_cycles",
    },
    "collective": {
        "hop": "small_step", "stride": "large_step", "share": "small_efficiency", "bulk": "large_efficiency",
        "start": "large_latency", "switch": "protocol_switch", "sharpness": "switch_sharpness",
        "reduced": "nvls_efficiency", "settle": "nvls_latency", "once": "one_shot_efficiency",
        "twice": "two_shot_efficiency", "staged": "host_staged_efficiency", "across": "inter_efficiency",
        "inside": "intra_step", "between": "inter_step", "level": "tree_step",
    },
    "low_latency": _ALL_TO_ALL,
    "normal": _ALL_TO_ALL,
}  # fmt: skip
"""Kind of form -> key before -> key of today."""
FAMILY_FIT_KEYS = {
    "compute": "compute_efficiency`, or of backward attention `backward_rate", "memory": "hbm_efficiency",
    "network": "network_efficiency", "launch": "launch_factor", "query_keys": "extra_keys_per_query",
}  # fmt: skip
ACCURACY_KEYS = {"inside": "coverage", "data": "shape_only"}
RECIPE_KEYS = {"choices": "constants", "beside": "companion"}
_ENDINGS = {"_narrow": "_kvquant", "_turned": "_wgrad", "-turned": "-wgrad"}


def name_of_today(name: str) -> str:
    """Return a `family/variant`, or the name of an implementation, with the ending that it has today."""
    for before, now in _ENDINGS.items():
        if name.endswith(before):
            return name.removesuffix(before) + now
    return name
