"""Families of mixtures of experts with ordinary attention.

Source: huggingface/transformers 4.57 and 5, src/transformers/models/FAMILY/configuration_*.py and modeling_*.py. For
minimax_m2 the modeling file beside the weights (MiniMaxAI/MiniMax-M2).
"""

from __future__ import annotations

from costmodel.schema.hugging_face.base_families import DEEPSEEK, LLAMA, LOCAL_EXPERTS, ROUTED
from costmodel.schema.hugging_face.keys import Family, First, Key, Switch

# fmt: off
EXPERT_FAMILIES: dict[str, Family] = {
    "glm4_moe": LLAMA | ROUTED | {
        "bias": Key("attention_bias", default=False),
        "output_bias": False,
        "qk_norm": Switch(Key("use_qk_norm", default=False), {True: "head", False: None}),
        "rotary_share": Key("partial_rotary_factor", default=0.5),
        "inert": ("topk_method",),
    },
    "glm4_moe_lite": DEEPSEEK | {"moe_types": Key("mlp_layer_types", default=None)},
    "minimax_m2": LLAMA | LOCAL_EXPERTS | {
        "rotary_dim": Key("rotary_dim", default=None),
        "qk_norm": Switch(Key("use_qk_norm", default=True), {
            True: Switch(Key("qk_norm_type", default="per_layer"), {"per_layer": "projection", "per_head": "head"}),
            False: None,
        }),
        "mtp": Switch(Key("use_mtp", default=False), {True: Key("num_mtp_modules", default=None), False: None}),
        "must": {"shared_intermediate_size": 0, "mtp_transformer_layers": 1},
        "types": Key("attn_type_list", default=None),
        "type_names": {1: "full"},
        "inert": ("use_routing_bias", "partial_rotary_factor", "sliding_window", "router_jitter_noise", "layer_types"),
    },
    "ernie4_5_moe": LLAMA | {
        "bias": Key("use_bias", default=False),
        "ffn_bias": Key("use_bias", default=False),
        "tied": Key("tie_word_embeddings", default=True),
        "experts": Key("moe_num_experts"),
        "top_k": Key("moe_k", default=2),
        "expert_intermediate": Key("moe_intermediate_size"),
        "shared": Key("moe_num_shared_experts", default=2),
        "moe_from": Key("moe_layer_start_index", default=1),
        "moe_until": Key("moe_layer_end_index", default=None),
        "moe_step": Key("moe_layer_interval", default=1),
        "inert": ("moe_capacity", "moe_norm_min", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers"),
    },
    "hunyuan_v1_moe": LLAMA | {
        "bias": Key("attention_bias", default=False),
        "qk_norm": "head",
        "experts": Key("num_experts"),
        "top_k": Key("moe_topk"),
        "expert_intermediate": First((Key("moe_intermediate_size", default=None), Key("intermediate_size"))),
        "shared": Key("num_shared_expert", default=1),
        "inert": ("use_qk_norm", "use_mixed_mlp_moe", "attention_head_dim", "org_vocab_size"),
    },
    "dots1": LLAMA | ROUTED | {
        "bias": Key("attention_bias", default=False), "qk_norm": "head", "mtp": None,
        "inert": ("topk_method", "max_window_layers", "layer_types", "sliding_window", "use_sliding_window"),
    },
    "olmoe": LLAMA | {
        "bias": Key("attention_bias", default=False), "qk_norm": "projection",
        "experts": Key("num_experts"), "top_k": Key("num_experts_per_tok"),
        "expert_intermediate": Key("intermediate_size"), "inert": ("clip_qkv",),
    },
    "phimoe": LLAMA | LOCAL_EXPERTS | {
        "bias": Key("attention_bias", default=False), "norm": "layer", "head_bias": Key("lm_head_bias", default=False),
        "inert": ("router_jitter_noise", "input_jitter_noise", "sliding_window", "hidden_dropout"),
    },
    "granitemoe": LLAMA | LOCAL_EXPERTS | {
        "bias": Key("attention_bias", default=False),
        "inert": ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
    },
    "granitemoeshared": LLAMA | LOCAL_EXPERTS | {
        "bias": Key("attention_bias", default=False), "shared": 1,
        "shared_intermediate": Key("shared_intermediate_size"),
        "inert": ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
    },
}
# fmt: on
