"""Families whose layers differ in the reach of attention: windows, chunks, layers without positions.

Source: huggingface/transformers 4.57 and 5, src/transformers/models/FAMILY/configuration_*.py and modeling_*.py. For
mimo and mimo_v2_flash the modeling files beside the weights (XiaomiMiMo/MiMo-7B-Base, MiMo-V2-Flash). For step3p5
vllm-project/vllm, vllm/model_executor/models/step3p5.py.
"""

from __future__ import annotations

from costmodel.schema.hugging_face.base_families import LLAMA, LLAMA_BIASES, QWEN_WINDOW, WINDOW
from costmodel.schema.hugging_face.keys import Family, First, Key, Switch

_ATTENTION_BIAS: Family = {"bias": Key("attention_bias", default=False)}
_REACH: dict[str | int, str] = {"full_attention": "full", "sliding_attention": "window", "chunked_attention": "chunked"}
# fmt: off
_GEMMA: Family = LLAMA | _ATTENTION_BIAS | {
    "head_dim": Key("head_dim", default=256),
    "tied": Key("tie_word_embeddings", default=True),
    "norm_position": "both", "qk_norm": "head",
    "window": Key("sliding_window", default=4096),
    "types": Key("layer_types", default=None),
    "type_names": _REACH,
    "inert": (
        "query_pre_attn_scalar", "cache_implementation", "rope_local_base_freq", "use_bidirectional_attention",
    ),
}
_GEMMA_3: Family = _GEMMA | {  # files state only what differs from the configuration class
    "vocabulary": Key("vocab_size", default=262_208),
    "heads": Key("num_attention_heads", default=8),
    "kv_heads": Key("num_key_value_heads", default=4),
    "full_every": Key("sliding_window_pattern", default=6, older_name="_sliding_window_pattern"),
    "every_kinds": ("window", "full"),
    "kinds": {"window": {"reach": "window"}},
}
_GEMMA_4: Family = _GEMMA | {
    "vocabulary": Key("vocab_size", default=262_144),
    "window": Key("sliding_window", default=512),
    "full_every": 6,
    "every_kinds": ("window", "full"),
    "borrowed": Key("num_kv_shared_layers", default=0),
    "doubled": Key("use_double_wide_mlp", default=False),
    "layer_embedding": Key("hidden_size_per_layer_input", default=256),
    "layer_embedding_rows": Key("vocab_size_per_layer_input", default=262_144),
    "with_experts": Key("enable_moe_block", default=False),
    "modules": {"experts": ("experts.0.up_proj",), "shared_experts": ("mlp.up_proj",)},
    "experts": Key("num_experts", default=None),
    "top_k": Key("top_k_experts", default=None),
    "expert_intermediate": Key("moe_intermediate_size", default=None),
    "shared": 1,
    "shared_intermediate": Key("intermediate_size"),
    "kinds": {"window": {"reach": "window"}, "full": {
        "head_dim": Key("global_head_dim", default=512),
        "kv_heads": First((Key("num_global_key_value_heads", default=None), Key("num_key_value_heads"))),
        "shared_values": Key("attention_k_eq_v", default=False),
        "rotary_share": Key("rope_parameters.full_attention.partial_rotary_factor", default=0.25),
    }},
    "inert": (*_GEMMA["inert"], "rope_parameters", "final_logit_softcapping"),
}
_LLAMA_4: Family = LLAMA | _ATTENTION_BIAS | {
    "vocabulary": Key("vocab_size", default=202_048),
    "heads": Key("num_attention_heads", default=40),
    "kv_heads": Key("num_key_value_heads", default=8),
    "head_dim": Key("head_dim", default=128),
    "intermediate": Key("intermediate_size_mlp", default=16_384),
    "experts": Key("num_local_experts", default=16),
    "top_k": Key("num_experts_per_tok", default=1),
    "expert_intermediate": Key("intermediate_size", default=8192),
    "shared": 1,
    "moe_step": Key("interleave_moe_layer_step", default=1),
    "moe_layers": Key("moe_layers", default=None),
    "chunk_length": Key("attention_chunk_size", default=8192),
    "qk_norm": Switch(Key("use_qk_norm", default=True), {True: "plain", False: None}),
    "types": First((Key("layer_types", default=None), Key("no_rope_layers", default=None))),
    "type_names": {**_REACH, 0: "full", 1: "chunked"},
    "full_every": Key("no_rope_layer_interval", default=4),
    "every_kinds": ("chunked", "full"),
    "kinds": {"chunked": {"reach": "chunked"}, "full": {"rotary": False, "qk_norm": None}},
    "inert": (
        "attn_scale", "attn_temperature_tuning", "floor_scale", "for_llm_compressor", "output_router_logits",
        "router_jitter_noise", "attention_dropout", "cache_implementation",
    ),
}
_MIMO_V2: Family = LLAMA | _ATTENTION_BIAS | {
    "v_head_dim": Key("v_head_dim", default=None),
    "rotary_share": Key("partial_rotary_factor", default=1.0),
    "sinks": Key("add_full_attention_sink_bias", default=False),
    "experts": Key("n_routed_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "shared": Key("n_shared_experts", default=None),
    "groups": Key("n_group", default=None),
    "group_top_k": Key("topk_group", default=None),
    "moe_types": Key("moe_layer_freq", default=None),
    "mtp": Key("num_nextn_predict_layers", default=None),
    "mtp_kind": ("window", "dense"),
    "types": Key("hybrid_layer_pattern"),
    "type_names": {0: "full", 1: "window"},
    "kinds": {"window": {
        "reach": "window",
        "window": Key("sliding_window", older_name="sliding_window_size"),
        "heads": Key("swa_num_attention_heads"),
        "kv_heads": Key("swa_num_key_value_heads"),
        "head_dim": Key("swa_head_dim"),
        "v_head_dim": Key("swa_v_head_dim"),
        "sinks": Key("add_swa_attention_sink_bias", default=False),
    }},
    "inert": (
        "swa_rope_theta", "sliding_window_size", "attention_chunk_size", "attention_value_scale", "topk_method",
        "layernorm_epsilon",
    ),
}
_STEP: Family = LLAMA | _ATTENTION_BIAS | {
    "kv_heads": First((Key("num_attention_groups", default=None), Key("num_key_value_heads"))),
    "qk_norm": "head",
    "output_gate": Switch(Key("use_head_wise_attn_gate", default=False), {True: "head", False: None}),
    "experts": First((Key("moe_num_experts", default=None), Key("num_experts"))),
    "top_k": First((Key("moe_top_k", default=None), Key("num_experts_per_tok"))),
    "expert_intermediate": Key("moe_intermediate_size"),
    "shared": Key("n_shared_experts", default=1),
    "shared_intermediate": Key("share_expert_dim"),
    "moe_from": Key("first_k_dense_replace", default=1),
    "moe_numbers": Key("moe_layers_enum", default=None),
    "window": Key("sliding_window"),
    "types": Key("layer_types"),
    "longer_types": True,  # the list goes on with the MTP modules
    "type_names": _REACH,
    "mtp": Key("num_nextn_predict_layers", default=None),
    "mtp_kind": ("window", "dense"),
    "kinds": {"window": {
        "reach": "window",
        "heads": First((
            Key("attention_other_setting.num_attention_heads", default=None),
            Key("swa_num_attention_heads", default=None), Key("num_attention_heads"),
        )),
        "kv_heads": First((
            Key("attention_other_setting.num_attention_groups", default=None),
            Key("num_attention_groups", default=None), Key("num_key_value_heads"),
        )),
        "head_dim": First((Key("attention_other_setting.head_dim", default=None), Key("head_dim"))),
    }},
    "inert": (
        "att_impl_type", "attention_other_setting.attention_type", "moe_router_activation", "moe_router_scaling_factor",
        "need_fp32_gate", "norm_expert_weight", "partial_rotary_factors", "share_expert_dims", "swiglu_limits",
        "swiglu_limits_shared", "use_moe", "use_moe_router_bias", "use_rope_layers", "yarn_only_types",
        "attention_other_setting.true_head_dim", "use_qk_norm", "sink", "max_seq_len", "zero_centered",
    ),
}
_NO_ROPE_IN_FULL: Family = {  # window layers rotate, full ones have no positions
    "types": Key("layer_types", default=None),
    "type_names": _REACH,
    "full_every": Key("sliding_window_pattern", default=4, older_name="_sliding_window_pattern"),
    "every_kinds": ("window", "full"),
    "kinds": {"window": {"reach": "window"}, "full": {"rotary": False}},
}
WINDOWED_FAMILIES: dict[str, Family] = {
    "nemotron-nas": LLAMA | LLAMA_BIASES | {
        "intermediate": Key("intermediate_size", default=None),
        "blocks": Key("block_configs"),  # every layer as a search chose it
        "must": {"attention_bias": False, "mlp_bias": False},
        "inert": ("num_key_value_heads",),
    },
    "gemma3_text": _GEMMA_3,
    "gemma4_text": _GEMMA_4,
    "llama4_text": _LLAMA_4,
    "mimo": LLAMA | QWEN_WINDOW | {
        "bias": True, "output_bias": False, "mtp": Key("num_nextn_predict_layers", default=None),
        "inert": ("attention_bias", "use_mrope"),
    },
    "mimo_v2_flash": _MIMO_V2,
    "step3p5": _STEP,
    "step3p7": _STEP,
    "cohere2": LLAMA | WINDOW | _ATTENTION_BIAS | _NO_ROPE_IN_FULL | {
        "tied": Key("tie_word_embeddings", default=True),
        "parallel": True, "shared_norm": True, "norm": "layer_no_bias",
        "must": {"use_qk_norm": False},
        "inert": (
            "logit_scale", "cache_implementation", "position_embedding_type", "rotary_pct", "use_embedding_sharing",
            "use_gated_activation", "use_parallel_block", "use_parallel_embedding", "order_of_interleaved_layers",
        ),
    },
    "exaone4": LLAMA | WINDOW | _NO_ROPE_IN_FULL | {
        "norm_position": "after", "qk_norm": "head", "window": Key("sliding_window"),
    },
    "olmo3": LLAMA | WINDOW | _ATTENTION_BIAS | {
        "norm_position": "after", "qk_norm": "projection",
        "types": Key("layer_types", default=None), "type_names": _REACH,
        "full_every": 4, "every_kinds": ("window", "full"), "kinds": {"window": {"reach": "window"}},
    },
    "smollm3": LLAMA | LLAMA_BIASES | {
        "tied": Key("tie_word_embeddings", default=True),
        "types": Key("no_rope_layers", default=None), "type_names": {0: "unrotated", 1: "full"},
        "full_every": Key("no_rope_layer_interval", default=4), "every_kinds": ("full", "unrotated"),
        "kinds": {"unrotated": {"rotary": False}},
        "inert": ("layer_types", "max_window_layers", "sliding_window", "use_sliding_window"),
    },
    "ministral": LLAMA | WINDOW | {
        "types": Key("layer_types", default=None), "type_names": _REACH, "kinds": {"window": {"reach": "window"}},
    },
    "ministral3": LLAMA | WINDOW,
    "seed_oss": LLAMA | {
        "head_dim": Key("head_dim", default=128),
        "bias": Key("attention_bias", default=True),
        "output_bias": Key("attention_out_bias", default=False),
        "ffn_bias": Key("mlp_bias", default=False),
        "inert": ("residual_dropout",),
    },
    "hunyuan_v1_dense": LLAMA | _ATTENTION_BIAS | {
        "qk_norm": "head", "inert": ("use_qk_norm", "attention_head_dim", "org_vocab_size"),
    },
    "internlm3": LLAMA | {
        "bias": Key("qkv_bias", default=False),
        "output_bias": Key("bias", default=False),
        "ffn_bias": Key("bias", default=False),
    },
    "arcee": LLAMA | LLAMA_BIASES | {"gated": False},
    "apertus": LLAMA | _ATTENTION_BIAS | {"gated": False, "qk_norm": "head"},
    "nemotron": LLAMA | LLAMA_BIASES | {
        "gated": False, "norm": "layer", "rotary_share": Key("partial_rotary_factor", default=0.5),
    },
    "glm": LLAMA | {
        "head_dim": Key("head_dim", default=128), "bias": Key("attention_bias", default=True), "output_bias": False,
        "rotary_share": Key("partial_rotary_factor", default=0.5),
    },
    "glm4": LLAMA | {
        "head_dim": Key("head_dim", default=128), "bias": Key("attention_bias", default=True), "output_bias": False,
        "rotary_share": Key("partial_rotary_factor", default=0.5), "norm_position": "both",
    },
    "ernie4_5": LLAMA | {
        "bias": Key("use_bias", default=False), "ffn_bias": Key("use_bias", default=False),
        "tied": Key("tie_word_embeddings", default=True),
    },
}
# fmt: on
WINDOWED_FAMILIES["gemma4"] = WINDOWED_FAMILIES["gemma4_text"]
WINDOWED_FAMILIES["deci"] = WINDOWED_FAMILIES["nemotron-nas"]
