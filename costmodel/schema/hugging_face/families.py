"""What the keys of a Hugging Face config.json mean, by family: a table, no code.

Each family maps our words to keys of its config.json, or to constants fixed by its code. Defaults are those of the
family's own configuration class; a config.json need not repeat them.

Source: huggingface/transformers 4.57, src/transformers/models/FAMILY/configuration_*.py and modeling_*.py; for mpt also
mosaicml/llm-foundry; for internlm the modeling files beside the weights (internlm/internlm-7b, internlm/internlm2-7b).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

REQUIRED: Final = object()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of config.json, dotted if it is inside another.

    default: value if the file omits the key or sets it to null; REQUIRED: the file must have it.
    older_name: spelling of older files.
    """

    name: str
    default: Any = REQUIRED
    older_name: str = ""


Family: TypeAlias = dict[str, Any]

# fmt: off
_LLAMA: Family = {
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
_LLAMA_BIASES: Family = {"bias": Key("attention_bias", default=False), "ffn_bias": Key("mlp_bias", default=False)}
_WINDOW: Family = {"window": Key("sliding_window", default=None)}
_QWEN_WINDOW: Family = {
    "window": Key("sliding_window", default=None),
    "window_used": Key("use_sliding_window", default=False),
    "window_from": Key("max_window_layers", default=28),
    "layer_types": Key("layer_types", default=None),
}
_ALTERNATE: Family = {
    "window": Key("sliding_window"),
    "window_every": 2,
    "layer_types": Key("layer_types", default=None),
}
_QWEN_MOE: Family = {
    "experts": Key("num_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "moe_step": Key("decoder_sparse_step", default=1),
    "dense_layers": Key("mlp_only_layers", default=None),
}
_LOCAL_EXPERTS: Family = {
    "experts": Key("num_local_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("intermediate_size"),
}
_DEEPSEEK: Family = {
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
    "experts": Key("n_routed_experts"),
    "top_k": Key("num_experts_per_tok"),
    "expert_intermediate": Key("moe_intermediate_size"),
    "shared": Key("n_shared_experts", default=None),
    "groups": Key("n_group", default=None),
    "group_top_k": Key("topk_group", default=None),
    "moe_from": Key("first_k_dense_replace", default=0),
    "moe_every": Key("moe_layer_freq", default=1),
    "mtp": Key("num_nextn_predict_layers", default=None),
    "tied": Key("tie_word_embeddings", default=False),
    "dropout": (Key("attention_dropout", default=0.0),),
    "gated": True, "norm": "rms", "must": {"attention_bias": False, "mlp_bias": False},
    "inert": ("num_key_value_heads", "ep_size", "topk_method"),
}
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
    "llama": _LLAMA | _LLAMA_BIASES,
    "granite": _LLAMA | _LLAMA_BIASES | {
        "inert": ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"),
    },
    "mistral": _LLAMA | _WINDOW,
    "mixtral": _LLAMA | _WINDOW | _LOCAL_EXPERTS | {"inert": ("router_jitter_noise",)},
    "qwen2": _LLAMA | _QWEN_WINDOW | {"bias": True, "output_bias": False},
    "qwen2_moe": _LLAMA | _QWEN_WINDOW | _QWEN_MOE | {
        "bias": Key("qkv_bias", default=True),
        "output_bias": False, "shared": 1,
        "shared_intermediate": Key("shared_expert_intermediate_size"),
        "shared_gate": True,
    },
    "qwen3": _LLAMA | _QWEN_WINDOW | {
        "bias": Key("attention_bias", default=False), "qk_norm": "head", "head_dim": Key("head_dim", default=128),
    },
    "qwen3_moe": _LLAMA | _QWEN_MOE | {
        "window": Key("sliding_window", default=None),
        "window_used": Key("use_sliding_window", default=False),
        "bias": Key("attention_bias", default=False),
        "qk_norm": "head", "inert": ("max_window_layers",),
    },
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "gpt_oss": _LLAMA | _ALTERNATE | _LOCAL_EXPERTS | {
        "bias": Key("attention_bias", default=True),
        "expert_bias": True, "router_bias": True,
        "inert": ("experts_per_token", "initial_context_length", "swiglu_limit"),
    },
    "gemma": _LLAMA | {
        "head_dim": Key("head_dim", default=256),
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("attention_bias", default=False),
    },
    "gemma2": _LLAMA | _ALTERNATE | {
        "head_dim": Key("head_dim", default=256),
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("attention_bias", default=False),
        "norm_position": "both", "inert": ("query_pre_attn_scalar", "cache_implementation"),
    },
    "internlm": _LLAMA | {"bias": Key("bias", default=True)},
    "internlm2": _LLAMA | {"bias": Key("bias", default=True), "inert": ("attn_implementation",)},
    "olmo2": _LLAMA | {"bias": Key("attention_bias", default=False), "norm_position": "after", "qk_norm": "projection"},
    "phi3": _LLAMA | _WINDOW | {
        "rotary_share": Key("partial_rotary_factor", default=1.0),
        "dropout": (Key("resid_pdrop", default=0.0), Key("attention_dropout", default=0.0)),
        "must": {"attention_bias": False, "mlp_bias": False, "lm_head_bias": False},
        "inert": ("embd_pdrop", "original_max_position_embeddings"),
    },
    "starcoder2": _LLAMA | _WINDOW | {
        "tied": Key("tie_word_embeddings", default=True),
        "bias": Key("use_bias", default=True),
        "ffn_bias": Key("use_bias", default=True),
        "dropout": (Key("residual_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "gated": False, "norm": "layer", "inert": ("embedding_dropout", "mlp_type", "norm_type"),
    },
    "stablelm": _LLAMA | {
        "bias": Key("use_qkv_bias", default=False),
        "output_bias": False,
        "parallel": Key("use_parallel_residual", default=False),
        "shared_norm": True,
        "rotary_share": Key("partial_rotary_factor", default=0.25, older_name="rope_pct"),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "norm": "layer", "must": {"qk_layernorm": False},
    },
    "cohere": _LLAMA | {
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
    "gpt_neox": _LLAMA | {
        "kv_heads": None, "head_dim": None,
        "bias": Key("attention_bias", default=True),
        "ffn_bias": True,
        "parallel": Key("use_parallel_residual", default=True),
        "rotary_share": Key("rotary_pct", default=0.25),
        "dropout": (Key("hidden_dropout", default=0.0), Key("attention_dropout", default=0.0)),
        "gated": False, "norm": "layer", "inert": ("classifier_dropout",),
    },
    "phi": _LLAMA | {
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
    "opt": _LLAMA | {
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

INERT = frozenset(
    {
        "_attn_implementation", "_name_or_path", "activation", "activation_function", "architectures",
        "aux_loss_alpha", "auto_map", "bos_token_id", "dtype", "eos_token_id", "gradient_checkpointing", "hidden_act",
        "hidden_activation", "initializer_range", "layer_norm_eps", "layer_norm_epsilon", "max_position_embeddings",
        "model_type", "norm_eps", "norm_epsilon", "norm_topk_prob", "output_router_logits", "pad_token_id",
        "pretraining_tp", "rms_norm_eps", "rope_interleave", "rope_parameters", "rope_scaling", "rope_theta",
        "rotary_emb_base", "routed_scaling_factor", "router_aux_loss_coef", "scoring_func", "seq_aux",
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "task_specific_params", "tokenizer_class", "tokenizer_name", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Keys that affect no family's cost: formats, token ids, scale factors, details of rotary embeddings."""


def keys_of(family: Family) -> Iterator[Key]:
    """Yield the keys that a family reads."""
    for source in family.values():
        for key in source if isinstance(source, tuple) else (source,):
            if isinstance(key, Key):
                yield key
