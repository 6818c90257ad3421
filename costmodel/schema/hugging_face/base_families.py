"""Tables of facts that several families share.

Source: huggingface/transformers 4.57, src/transformers/models/FAMILY/configuration_*.py.
"""

from __future__ import annotations

from costmodel.schema.hugging_face.keys import Family, Key

# fmt: off
LLAMA: Family = {
    "hidden": Key("hidden_size"),
    "vocabulary": Key("vocab_size"),
    "depth": Key("num_hidden_layers"),
    "heads": Key("num_attention_heads"),
    "kv_heads": Key("num_key_value_heads", default=None),
    "head_dim": Key("head_dim", default=None),
    "intermediate": Key("intermediate_size"),
    "tied": Key("tie_word_embeddings", default=False),
    "dropout": (Key("attention_dropout", default=0.0),),
    "rotary": True, "gated": True, "norm": "rms",
}
LLAMA_BIASES: Family = {"bias": Key("attention_bias", default=False), "ffn_bias": Key("mlp_bias", default=False)}
WINDOW: Family = {"window": Key("sliding_window", default=None)}
QWEN_WINDOW: Family = {
    "window": Key("sliding_window", default=None),
    "window_used": Key("use_sliding_window", default=False),
    "window_from": Key("max_window_layers", default=28),
    "layer_types": Key("layer_types", default=None),
}
ALTERNATE: Family = {
    "window": Key("sliding_window"),
    "window_every": 2,
    "layer_types": Key("layer_types", default=None),
}
QWEN_MOE: Family = {
    "experts": Key("num_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "moe_step": Key("decoder_sparse_step", default=1),
    "dense_layers": Key("mlp_only_layers", default=None),
}
LOCAL_EXPERTS: Family = {
    "experts": Key("num_local_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("intermediate_size"),
}
DEEPSEEK: Family = {
    "hidden": Key("hidden_size"),
    "vocabulary": Key("vocab_size"),
    "depth": Key("num_hidden_layers"),
    "heads": Key("num_attention_heads"),
    "q_lora": Key("q_lora_rank", default=None),
    "kv_lora": Key("kv_lora_rank"),
    "nope_dim": Key("qk_nope_head_dim"),
    "rope_dim": Key("qk_rope_head_dim"),
    "v_head_dim": Key("v_head_dim"),
    "intermediate": Key("intermediate_size"),
    "experts": Key("n_routed_experts", older_name="num_routed_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "shared": Key("n_shared_experts", default=None, older_name="num_shared_experts"),
    "groups": Key("n_group", default=None),
    "group_top_k": Key("topk_group", default=None),
    "moe_from": Key("first_k_dense_replace", default=0),
    "moe_every": Key("moe_layer_freq", default=1),
    "mtp": Key("num_nextn_predict_layers", default=None),
    "tied": Key("tie_word_embeddings", default=False),
    "dropout": (Key("attention_dropout", default=0.0),),
    "gated": True, "norm": "rms", "must": {"attention_bias": False, "mlp_bias": False},
    "inert": ("num_key_value_heads", "ep_size", "topk_method", "head_dim", "qk_head_dim"),
}
ROUTED: Family = {  # experts by DeepSeek's keys, with attention of another kind
    name: DEEPSEEK[name]
    for name in (
        "experts", "top_k", "expert_intermediate", "shared", "groups", "group_top_k", "moe_from", "moe_every", "mtp",
    )
}
SPARSE_INDEX: Family = {  # the reference keeps the indexer's keys in FP8, with one FP32 scale each
    "index_heads": Key("index_n_heads"),
    "index_dim": Key("index_head_dim"),
    "index_top_k": Key("index_topk"),
    "index_cache": "fp8",
}
MAMBA_2: Family = {  # a state-space layer as a recurrence: groups share inputs and outputs, every head has a decay
    "mixer": "recurrence", "decay": "gated", "output_gate": True, "output_norm": "projection", "head_parameters": 3,
}
DELTA_NET: Family = {  # one chunk length in all kernels: 64 [fla-org/flash-linear-attention, ops/gated_delta_rule]
    "mixer": "recurrence",
    "heads": Key("linear_num_value_heads", default=32),
    "key_heads": Key("linear_num_key_heads", default=16),
    "key_dim": Key("linear_key_head_dim", default=128),
    "value_dim": Key("linear_value_head_dim", default=128),
    "short_conv": Key("linear_conv_kernel_dim", default=4),
    "decay": "delta", "output_gate": True, "output_norm": "head", "head_parameters": 2, "chunk": 64,
}
# fmt: on
