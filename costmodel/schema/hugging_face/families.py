"""What the keys of a Hugging Face config.json mean, by family: a table, no code.

Each family maps our words to keys of its config.json, or to constants fixed by its code. Defaults are those of the
family's own configuration class. A config.json need not repeat them.

Source: huggingface/transformers 4.57, src/transformers/models/FAMILY/configuration_*.py and modeling_*.py. For mpt also
mosaicml/llm-foundry. For internlm the modeling files beside the weights (internlm/internlm-7b, internlm/internlm2-7b).
"""

from __future__ import annotations

from costmodel.schema.hugging_face.base_families import (
    ALTERNATE,
    DEEPSEEK,
    LLAMA,
    LLAMA_BIASES,
    LOCAL_EXPERTS,
    QWEN_MOE,
    QWEN_WINDOW,
    WINDOW,
)
from costmodel.schema.hugging_face.expert_families import EXPERT_FAMILIES
from costmodel.schema.hugging_face.hybrid_families import HYBRID_FAMILIES
from costmodel.schema.hugging_face.keys import Family, Key
from costmodel.schema.hugging_face.sparse_families import SPARSE_FAMILIES
from costmodel.schema.hugging_face.windowed_families import WINDOWED_FAMILIES

# fmt: off
_GPT2: Family = {
    "hidden": Key("n_embd"),
    "vocabulary": Key("vocab_size"),
    "depth": Key("n_layer"),
    "heads": Key("n_head"),
    "intermediate": Key("n_inner", default=None),
    "tied": Key("tie_word_embeddings", default=True),
    "positions": Key("n_positions"),
    "dropout": (Key("resid_pdrop", default=0.1), Key("attn_pdrop", default=0.1)),
    "bias": True, "ffn_bias": True, "rotary": False, "gated": False, "norm": "layer",
    "inert": (
        "n_ctx", "embd_pdrop", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
    ),
}

FAMILIES: dict[str, Family] = {
    "llama": LLAMA | LLAMA_BIASES,
    "granite": LLAMA | LLAMA_BIASES | {
        "inert": ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
    },
    "mistral": LLAMA | WINDOW,
    "mixtral": LLAMA | WINDOW | LOCAL_EXPERTS | {"inert": ("router_jitter_noise",)},
    "qwen2": LLAMA | QWEN_WINDOW | {"bias": True, "output_bias": False},
    "qwen2_moe": LLAMA | QWEN_WINDOW | QWEN_MOE | {
        "bias": Key("qkv_bias", default=True),
        "output_bias": False, "shared": 1,
        "shared_intermediate": Key("shared_expert_intermediate_size"),
        "shared_gate": True,
    },
    "qwen3": LLAMA | QWEN_WINDOW | {
        "bias": Key("attention_bias", default=False), "qk_norm": "head", "head_dim": Key("head_dim", default=128),
    },
    "qwen3_moe": LLAMA | QWEN_MOE | {
        "window": Key("sliding_window", default=None),
        "window_used": Key("use_sliding_window", default=False),
        "bias": Key("attention_bias", default=False),
        "qk_norm": "head", "inert": ("max_window_layers",),
    },
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "kimi_k2": DEEPSEEK,
    "gpt_oss": LLAMA | ALTERNATE | LOCAL_EXPERTS | {
        "bias": Key("attention_bias", default=True),
        "expert_bias": True, "clamped": True, "router_bias": True, "sinks": True,
        "inert": ("experts_per_token", "initial_context_length", "swiglu_limit"),
    },
    "gemma": LLAMA | {
        "head_dim": Key("head_dim", default=256),
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("attention_bias", default=False),
    },
    "gemma2": LLAMA | ALTERNATE | {
        "head_dim": Key("head_dim", default=256),
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("attention_bias", default=False),
        "norm_position": "both", "inert": ("query_pre_attn_scalar", "cache_implementation"),
    },
    "internlm": LLAMA | {"bias": Key("bias", default=True)},
    "internlm2": LLAMA | {"bias": Key("bias", default=True), "inert": ("attn_implementation",)},
    "olmo2": LLAMA | {"bias": Key("attention_bias", default=False), "norm_position": "after", "qk_norm": "projection"},
    "phi3": LLAMA | WINDOW | {
        "rotary_share": Key("partial_rotary_factor", default=1.0),
        "dropout": (Key("resid_pdrop", default=0.0), Key("attention_dropout", default=0.0)),
        "must": {"attention_bias": False, "mlp_bias": False, "lm_head_bias": False},
        "inert": ("embd_pdrop", "original_max_position_embeddings"),
    },
    "starcoder2": LLAMA | WINDOW | {
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("use_bias", default=True),
        "ffn_bias": Key("use_bias", default=True),
        "dropout": (Key("residual_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "gated": False, "norm": "layer", "inert": ("embedding_dropout", "mlp_type", "norm_type"),
    },
    "stablelm": LLAMA | {
        "bias": Key("use_qkv_bias", default=False),
        "output_bias": False,
        "parallel": Key("use_parallel_residual", default=False),
        "shared_norm": True,
        "rotary_share": Key("partial_rotary_factor", default=0.25, older_name="rope_pct"),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "norm": "layer", "must": {"qk_layernorm": False},
    },
    "cohere": LLAMA | {
        "bias": Key("attention_bias", default=False),
        "tied": Key("tie_word_embeddings", default=True),
        "parallel": True, "shared_norm": True, "norm": "layer_no_bias", "must": {"use_qk_norm": False},
        "inert": ("logit_scale",),
    },
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2 | {
        "multi_query": Key("multi_query", default=True),
        "inert": (
            *_GPT2["inert"], "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner",
            "pre_allocate_kv_cache", "max_sequence_length", "max_batch_size", "pad_key_length",
        ),
    },
    "gptj": _GPT2 | {
        "tied": Key("tie_word_embeddings", default=False),
        "positions": None, "rotary": True,
        "rotary_dim": Key("rotary_dim", default=None),
        "dropout": (Key("resid_pdrop", default=0.0), Key("attn_pdrop", default=0.0)),
        "bias": False, "head_bias": True, "parallel": True, "shared_norm": True,
        "inert": (*_GPT2["inert"], "n_positions", "rotary"),
    },
    "gpt_neox": LLAMA | {
        "kv_heads": None, "head_dim": None,
        "bias": Key("attention_bias", default=True),
        "ffn_bias": True,
        "parallel": Key("use_parallel_residual", default=True),
        "rotary_share": Key("rotary_pct", default=0.25),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "gated": False, "norm": "layer", "inert": ("classifier_dropout",),
    },
    "phi": LLAMA | {
        "bias": True, "ffn_bias": True, "head_bias": True, "parallel": True, "shared_norm": True,
        "rotary_share": Key("partial_rotary_factor", default=0.5),
        "dropout": (Key("resid_pdrop", default=0.0), Key("attention_dropout", default=0.0)),
        "gated": False, "norm": "layer", "must": {"qk_layernorm": False}, "inert": ("embd_pdrop",),
    },
    "falcon": {
        "hidden": Key("hidden_size"),
        "vocabulary": Key("vocab_size"),
        "depth": Key("num_hidden_layers", older_name="n_layer"),
        "heads": Key("num_attention_heads", older_name="n_head"),
        "kv_heads": Key("num_kv_heads", default=None, older_name="n_head_kv"),
        "multi_query": Key("multi_query", default=True),
        "grouped": Key("new_decoder_architecture", default=False),
        "intermediate": Key("ffn_hidden_size", default=None),
        "tied": Key("tie_word_embeddings", default=True),
        "parallel": Key("parallel_attn", default=True),
        "norms": Key("num_ln_in_parallel_attn", default=None),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "bias": Key("bias", default=False),
        "ffn_bias": Key("bias", default=False),
        "alibi": Key("alibi", default=False),
        "rotary": True, "gated": False, "norm": "layer", "inert": ("apply_residual_connection_post_layernorm",),
    },
    "bloom": {
        "hidden": Key("hidden_size", older_name="n_embed"),
        "vocabulary": Key("vocab_size"),
        "depth": Key("n_layer", older_name="num_hidden_layers"),
        "heads": Key("n_head", older_name="num_attention_heads"),
        "intermediate": None,
        "tied": Key("tie_word_embeddings", default=True),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "bias": True, "ffn_bias": True, "alibi": True, "rotary": False, "gated": False, "norm": "layer",
        "embedding_norm": "layer",
        "inert": (
            "seq_length", "slow_but_exact", "skip_bias_add", "skip_bias_add_qkv", "offset_alibi",
            "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "unk_token_id",
            "apply_residual_connection_post_layernorm",
        ),
    },
    "opt": LLAMA | {
        "kv_heads": None, "head_dim": None,
        "intermediate": Key("ffn_dim"),
        "tied": Key("tie_word_embeddings", default=True),
        "positions": Key("max_position_embeddings"),
        "positions_more": 2,  # the table has two rows that are not positions
        "dropout": (Key("dropout", default=0.1), Key("attention_dropout", default=0.0)),
        "bias": Key("enable_bias", default=True),
        "ffn_bias": Key("enable_bias", default=True),
        "rotary": False, "gated": False, "norm": "layer",
        "must": {"do_layer_norm_before": True, "_remove_final_layer_norm": False, "word_embed_proj_dim": "hidden_size"},
        "inert": ("layerdrop", "init_std", "prefix", "activation_dropout", "layer_norm_elementwise_affine"),
    },
    "mpt": {
        "hidden": Key("d_model"),
        "vocabulary": Key("vocab_size"),
        "depth": Key("n_layers"),
        "heads": Key("n_heads"),
        "kv_heads": Key("attn_config.kv_n_heads", default=None),
        "expansion": Key("expansion_ratio", default=4),
        "tied": Key("tie_word_embeddings", default=True),
        "positions": Key("max_seq_len"),
        "positions_used": Key("learned_pos_emb", default=True),
        "rotary": Key("attn_config.rope", default=False),
        "alibi": Key("attn_config.alibi", default=True),
        "no_bias": Key("no_bias", default=True),
        "attention_type": Key("attn_config.attn_type", default="multihead_attention"),
        "dropout": (Key("resid_pdrop", default=0.0), Key("attn_config.attn_pdrop", default=0.0)),
        "gated": False, "norm": "layer", "must": {"attn_config.qk_ln": False, "attn_config.qk_gn": False},
        "inert": (
            "emb_pdrop", "embedding_fraction", "init_config", "init_device", "logit_scale", "norm_type", "verbose",
            "attn_config.alibi_bias_max", "attn_config.attn_impl", "attn_config.attn_uses_sequence_id",
            "attn_config.prefix_lm", "attn_config.softmax_scale",
        ),
    },
}
# fmt: on
"""`model_type` -> the meaning of its keys; `must`: values that other variants change; `inert`: ignored keys."""
FAMILIES["RefinedWeb"] = FAMILIES["falcon"] | {"grouped": True}  # first model_type of falcon-40b, then of falcon-7b
FAMILIES["RefinedWebModel"] = FAMILIES["falcon"] | {"grouped": False}
FAMILIES |= EXPERT_FAMILIES | HYBRID_FAMILIES | SPARSE_FAMILIES | WINDOWED_FAMILIES
