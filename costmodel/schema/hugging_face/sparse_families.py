"""Families whose queries select keys or attend to pooled ones.

Sources: deepseek-ai/DeepSeek-V3.2-Exp, inference/model.py; huggingface/transformers 5, src/transformers/models/
deepseek_v32, deepseek_v4, glm_moe_dsa. Vllm-project/vllm, vllm/models/minimax_m3/nvidia/model.py.
"""

from __future__ import annotations

from costmodel.schema.hugging_face.base_families import DEEPSEEK, LLAMA, SPARSE_INDEX
from costmodel.schema.hugging_face.keys import Family, First, Key, Switch

# fmt: off
_GLM_DSA: Family = DEEPSEEK | SPARSE_INDEX | {
    "types": Key("indexer_types", default=None),
    "type_names": {"full": "full", "shared": "reused"},
    "kinds": {"reused": {"index_reused": True}},
    "moe_types": Key("mlp_layer_types", default=None),
    "inert": (
        *DEEPSEEK["inert"], "layer_types", "indexer_rope_interleave", "moe_router_dtype", "num_experts",
        "index_share_for_mtp_iteration", "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern",
    ),
}
SPARSE_FAMILIES: dict[str, Family] = {
    "deepseek_v32": DEEPSEEK | SPARSE_INDEX,
    "glm_moe_dsa": _GLM_DSA,
    "deepseek_v4": {
        "hidden": Key("hidden_size"),
        "vocabulary": Key("vocab_size"),
        "depth": Key("num_hidden_layers"),
        "heads": Key("num_attention_heads"),
        "head_dim": Key("head_dim", default=512),
        "rotary_dim": Key("qk_rope_head_dim", default=64),
        "q_lora": Key("q_lora_rank"),
        "output_groups": Key("o_groups", default=8),
        "output_rank": Key("o_lora_rank", default=1024),
        "window": Key("sliding_window", default=128),
        "streams": Key("hc_mult", default=4),
        "experts": Key("n_routed_experts"),
        "top_k": Key("num_experts_per_tok"),
        "expert_intermediate": Key("moe_intermediate_size"),
        "shared": Key("n_shared_experts", default=1),
        "mtp": Key("num_nextn_predict_layers", default=None),
        "tied": Key("tie_word_embeddings", default=False),
        "types": First((Key("compress_ratios", default=None), Key("layer_types", default=None))),
        "type_names": {
            0: "near", 4: "selected", 128: "pooled", "sliding_attention": "near",
            "compressed_sparse_attention": "selected", "heavily_compressed_attention": "pooled",
        },
        "longer_types": True,  # the list goes on with the MTP modules
        "mixer": "compressed",
        "kinds": {
            "near": {},
            "selected": SPARSE_INDEX | {
                "ratio": Key("compress_rates.compressed_sparse_attention", default=4), "overlap": True,
            },
            "pooled": {"ratio": Key("compress_rates.heavily_compressed_attention", default=128)},
        },
        "mtp_kind": ("near", "moe"),
        "gated": True, "norm": "rms",
        "must": {"num_key_value_heads": 1, "attention_bias": False},
        "inert": (
            "hc_eps", "hc_sinkhorn_iters", "swiglu_limit", "compress_rope_theta", "num_hash_layers", "mlp_layer_types",
            "topk_method", "attention_dropout", "expert_dtype", "partial_rotary_factor",
        ),
    },
    "minimax_m3": LLAMA | {
        "intermediate": Key("dense_intermediate_size"),
        "experts": Key("num_local_experts"),
        "top_k": Key("num_experts_per_tok"),
        "expert_intermediate": First((Key("moe_intermediate_size", default=None), Key("intermediate_size"))),
        "shared": Key("n_shared_experts", default=None),
        "shared_intermediate": Key("shared_intermediate_size", default=None),
        "moe_types": Key("moe_layer_freq", default=None),
        "moe_from": Key("first_k_dense_replace", default=0),
        "qk_norm": Switch(Key("qk_norm_type", default="per_head"), {"per_head": "head", "per_layer": "projection"}),
        "rotary_dim": Key("rotary_dim", default=None),
        "output_gate": Switch(Key("attention_output_gate", default=False), {False: None, True: "element"}),
        "mtp": Key("num_mtp_modules", default=None),
        "types": Key("sparse_attention_config.sparse_attention_freq", default=None),
        "type_names": {0: "full", 1: "sparse"},
        "kinds": {"sparse": {
            "index_heads": Key("sparse_attention_config.sparse_num_index_heads"),
            "index_dim": Key("sparse_attention_config.sparse_index_dim"),
            "index_block": Key("sparse_attention_config.sparse_block_size"),
            "index_blocks": Key("sparse_attention_config.sparse_topk_blocks"),
            "index_weighted": False,
        }},
        "must": {"use_qk_norm": True},
        "inert": (
            "num_nextn_predict_layers", "partial_rotary_factor", "swiglu_alpha", "swiglu_beta", "swiglu_limit",
            "use_gemma_norm", "use_routing_bias", "sparse_attention_config.sparse_disable_index_value",
            "sparse_attention_config.sparse_init_block", "sparse_attention_config.sparse_local_block",
            "sparse_attention_config.sparse_score_type", "sparse_attention_config.use_sparse_attention",
        ),
    },
}
# fmt: on
"""`types`: kinds of the layers, by `type_names`; `kinds`: facts of one kind of layer over those of the model."""
SPARSE_FAMILIES["minimax_m3_text"] = SPARSE_FAMILIES["minimax_m3_sparse"] = SPARSE_FAMILIES["minimax_m3"]
