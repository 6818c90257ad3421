"""Families with recurrences beside attention.

Sources: huggingface/transformers 4.57 and 5, src/transformers/models/FAMILY/modeling_*.py. For nemotron_h, kimi_linear
and minimax also the modeling files beside the weights (nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16,
moonshotai/Kimi-Linear-48B-A3B-Instruct, MiniMaxAI/MiniMax-Text-01). For Kimi K3 vllm-project/vllm,
vllm/models/kimi_k3/nvidia.
"""

from __future__ import annotations

from costmodel.schema.hugging_face.base_families import DELTA_NET, LLAMA, LOCAL_EXPERTS, MAMBA_2, QWEN_MOE
from costmodel.schema.hugging_face.keys import Family, First, Key, Switch

_SHARED_EXPERT: Family = {
    "shared": 1, "shared_intermediate": Key("shared_expert_intermediate_size"), "shared_gate": True,
}  # fmt: skip
# fmt: off
_QWEN_HYBRID: Family = LLAMA | {
    "head_dim": Key("head_dim", default=256),
    "bias": Key("attention_bias", default=False),
    "qk_norm": "head",
    "output_gate": Switch(Key("attn_output_gate", default=True), {True: "element", False: None}),
    "rotary_share": First((
        Key("partial_rotary_factor", default=None), Key("rope_parameters.partial_rotary_factor", default=0.25),
    )),
    "types": Key("layer_types", default=None),
    "type_names": {"full_attention": "full", "linear_attention": "linear"},
    "full_every": Key("full_attention_interval", default=4),
    "kinds": {"linear": DELTA_NET | {"state": Key("mamba_ssm_dtype", default=None)}},
    "inert": ("output_gate_type", "mtp_use_dedicated_embeddings", "rope_parameters"),
}
_NEMOTRON: Family = LLAMA | {
    "depth": Key("num_hidden_layers", default=None),  # else as many as `types` names
    "kv_heads": Key("num_key_value_heads", default=8),
    "head_dim": First((Key("head_dim", default=None), Key("attention_head_dim", default=128))),
    "bias": Key("attention_bias", default=False),
    "ffn_bias": Key("mlp_bias", default=False),
    "rotary": False,
    "gated": False,
    "experts": Key("n_routed_experts", default=8),
    "top_k": Key("num_experts_per_tok", default=2),
    "expert_intermediate": Key("moe_intermediate_size", default=None),
    "shared": Key("n_shared_experts", default=None),
    "shared_intermediate": Key("moe_shared_expert_intermediate_size", default=None),
    "groups": Key("n_group", default=None),
    "group_top_k": Key("topk_group", default=None),
    "latent": Key("moe_latent_size", default=None),
    "types": First((Key("hybrid_override_pattern", default=None), Key("layers_block_type"))),
    "type_names": {
        "M": ("mamba", "none"), "E": ("none", "moe"), "*": ("full", "none"), "-": ("none", "dense"),
        "mamba": ("mamba", "none"), "moe": ("none", "moe"), "attention": ("full", "none"), "mlp": ("none", "dense"),
    },
    "mtp": Key("num_nextn_predict_layers", default=None),
    "mtp_types": First((
        Key("mtp_hybrid_override_pattern", default=None), Key("mtp_layers_block_type", default=None),
    )),
    "kinds": {"none": {"mixer": "none"}, "mamba": MAMBA_2 | {
        "heads": Key("mamba_num_heads"),
        "value_dim": Key("mamba_head_dim"),
        "key_dim": Key("ssm_state_size", default=128),
        "key_heads": Key("n_groups", default=8),
        "chunk": Key("chunk_size", default=128),
        "short_conv": Key("conv_kernel", default=4),
        "conv_bias": Key("use_conv_bias", default=True),
        "state": Key("mamba_ssm_cache_dtype", default=None),
    }},
    "must": {"mamba_proj_bias": False, "use_bias": False},
    "inert": (
        "expand", "hidden_dropout", "mamba_hidden_act", "mlp_hidden_act", "num_logits_to_keep", "partial_rotary_factor",
        "rescale_prenorm_residual", "residual_in_fp32", "sliding_window", "time_step_floor", "time_step_limit",
        "time_step_max", "time_step_min", "use_mamba_kernels", "moe_shared_expert_overlap",
    ),
}
_KIMI: Family = {
    "hidden": Key("hidden_size"),
    "vocabulary": Key("vocab_size"),
    "depth": Key("num_hidden_layers"),
    "heads": Key("num_attention_heads"),
    "q_lora": Key("q_lora_rank", default=None),
    "kv_lora": Key("kv_lora_rank"),
    "nope_dim": Key("qk_nope_head_dim"),
    "rope_dim": Key("qk_rope_head_dim"),
    "v_head_dim": Key("v_head_dim"),
    "rotary": Switch(Key("mla_use_nope", default=False), {True: False, False: True}),
    "output_gate": Key("mla_use_output_gate", default=False),
    "intermediate": Key("intermediate_size"),
    "experts": Key("num_experts"),
    "top_k": Key("num_experts_per_token", older_name="num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "shared": Key("num_shared_experts", default=None),
    "groups": Key("num_expert_group", default=None),
    "group_top_k": Key("topk_group", default=None),
    "moe_from": Key("first_k_dense_replace", default=0),
    "moe_every": Key("moe_layer_freq", default=1),
    "latent": Key("routed_expert_hidden_size", default=None),
    "latent_norm": Key("latent_moe_use_norm", default=False),
    "residual_block": Key("attn_res_block_size", default=None),
    "mtp": Key("num_nextn_predict_layers", default=None),
    "mtp_kind": ("full", "moe"),
    "tied": Key("tie_word_embeddings", default=False),
    "gated": True, "norm": "rms",
    "types_from_one": Key("linear_attn_config.kda_layers"),  # numbers of the layers with a recurrence, from 1
    "kinds": {"linear": {
        "mixer": "recurrence", "decay": "channel_delta", "chunk": 64, "output_gate": True, "output_norm": "head",
        "heads": Key("linear_attn_config.num_heads"),
        "key_dim": Key("linear_attn_config.head_dim"),
        "value_dim": Key("linear_attn_config.head_dim"),
        "short_conv": Key("linear_attn_config.short_conv_kernel_size", default=4),
        "gate_rank": Switch(
            Key("linear_attn_config.use_full_rank_gate", default=False),
            {True: None, False: Key("linear_attn_config.head_dim")},
        ),
        "decay_rank": Key("linear_attn_config.head_dim"),
        "channel_parameters": True,  # a bias per channel and a rate per head
    }},
    "inert": (
        "head_dim", "num_key_value_heads", "linear_attn_config.full_attn_layers", "moe_renormalize",
        "moe_router_activation_func", "use_grouped_topk", "model_max_length", "activation_situ_beta",
        "activation_situ_linear_beta", "linear_attn_config.gate_lower_bound", "attn_res_block_type",
    ),
}
_LIGHTNING: Family = LLAMA | LOCAL_EXPERTS | {
    "rotary_dim": Key("rotary_dim", default=None),
    "shared": Switch(Key("shared_intermediate_size", default=0), {0: None}),
    "types": First((Key("attn_type_list", default=None), Key("layer_types", default=None))),
    "type_names": {0: "linear", 1: "full", "linear_attention": "linear", "full_attention": "full"},
    "alternates": ("linear", "full"),
    "kinds": {"linear": {
        "mixer": "recurrence", "decay": "scalar", "output_gate": True, "output_norm": "projection",
        "heads": Key("num_attention_heads"),
        "key_dim": Key("head_dim", default=None),
        "value_dim": Key("head_dim", default=None),
        "chunk": Key("block_size", default=256),
    }},
    "inert": (
        "postnorm", "shared_moe_mode", "sliding_window", "router_jitter_noise", "full_attn_alpha_factor",
        "full_attn_beta_factor", "linear_attn_alpha_factor", "linear_attn_beta_factor", "mlp_alpha_factor",
        "mlp_beta_factor", "layernorm_full_attention_alpha", "layernorm_full_attention_beta",
        "layernorm_linear_attention_alpha", "layernorm_linear_attention_beta", "layernorm_mlp_alpha",
        "layernorm_mlp_beta",
    ),
}
_GRANITE: Family = LLAMA | LOCAL_EXPERTS | {
    "bias": Key("attention_bias", default=False),
    "rotary": Switch(Key("position_embedding_type", default="nope"), {"nope": False, "rope": True}),
    "shared": 1,
    "shared_intermediate": Key("shared_intermediate_size"),
    "no_experts": "shared_intermediate",  # without routed experts the shared one is a dense FFN
    "types": Key("layer_types"),
    "type_names": {"mamba": "mamba", "attention": "full"},
    "kinds": {"mamba": MAMBA_2 | {
        "heads": Key("mamba_n_heads", default=128),
        "value_dim": Key("mamba_d_head"),
        "key_dim": Key("mamba_d_state", default=256),
        "key_heads": Key("mamba_n_groups", default=1),
        "chunk": Key("mamba_chunk_size", default=256),
        "short_conv": Key("mamba_d_conv", default=4),
        "conv_bias": Key("mamba_conv_bias", default=True),
    }},
    "must": {"mamba_proj_bias": False},
    "inert": (
        "embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier", "mamba_expand",
        "normalization_function", "init_method", "time_step_limit", "time_step_max", "time_step_min",
    ),
}
HYBRID_FAMILIES: dict[str, Family] = {
    "qwen3_next": _QWEN_HYBRID | QWEN_MOE | _SHARED_EXPERT | {
        "mtp": Key("num_nextn_predict_layers", default=None),
    },
    "qwen3_5_text": _QWEN_HYBRID | {"mtp": Key("mtp_num_hidden_layers", default=None), "mtp_kind": ("full", "dense")},
    "qwen3_5_moe_text": _QWEN_HYBRID | QWEN_MOE | _SHARED_EXPERT | {
        "intermediate": Key("intermediate_size", default=None),
        "mtp": Key("mtp_num_hidden_layers", default=None),
        "mtp_kind": ("full", "moe"),
    },
    "nemotron_h": _NEMOTRON,
    "kimi_linear": _KIMI,
    "minimax": _LIGHTNING,
    "minimax_text_01": _LIGHTNING,
    "minimax_m1": _LIGHTNING,
    "granitemoehybrid": _GRANITE,
    "bamba": LLAMA | {
        "bias": Key("attention_bias", default=False),
        "ffn_bias": Key("mlp_bias", default=False),
        "types_from_zero": Key("attn_layer_indices"),  # numbers of the layers with attention, from 0
        "rotary_share": Key("partial_rotary_factor", default=0.5),
        "kinds": {"mamba": _GRANITE["kinds"]["mamba"]},
        "must": {"mamba_proj_bias": False},
        "inert": ("mamba_expand", "num_logits_to_keep", "z_loss_coefficient"),
    },
    "jamba": LLAMA | {
        "experts": Key("num_experts", default=16),
        "top_k": Key("num_experts_per_tok", default=2),
        "expert_intermediate": Key("intermediate_size"),
        "moe_period": Key("expert_layer_period", default=2),
        "moe_offset": Key("expert_layer_offset", default=1),
        "full_period": Key("attn_layer_period", default=8),
        "full_offset": Key("attn_layer_offset", default=4),
        "rotary": False,
        "kinds": {"mamba": {
            "mixer": "selective_scan",
            "expansion": Key("mamba_expand", default=2),
            "state_size": Key("mamba_d_state", default=16),
            "rank": Key("mamba_dt_rank", default="auto"),
            "short_conv": Key("mamba_d_conv", default=4),
            "conv_bias": Key("mamba_conv_bias", default=True),
            "normed": True,
        }},
        "must": {"mamba_proj_bias": False},
        "inert": ("num_logits_to_keep", "use_mamba_kernels", "sliding_window"),
    },
}
# fmt: on
HYBRID_FAMILIES["MiniMaxText01"] = HYBRID_FAMILIES["minimax_text_01"]
HYBRID_FAMILIES["qwen3_5"] = HYBRID_FAMILIES["qwen3_5_text"]
HYBRID_FAMILIES["qwen3_5_moe"] = HYBRID_FAMILIES["qwen3_5_moe_text"]
