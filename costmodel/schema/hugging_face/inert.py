"""Keys of a config.json that affect no family's cost."""

from __future__ import annotations

INERT = frozenset(
    {
        "_attn_implementation", "add_cross_attention", "bad_words_ids", "begin_suppress_tokens",
        "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
        "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder",
        "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
        "output_scores", "prefix", "problem_type",
        "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
        "sep_token_id", "suppress_tokens", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "top_p",
        "torchscript", "typical_p", "use_bfloat16", "_name_or_path", "activation", "activation_function",
        "architectures",
        "aux_loss_alpha", "auto_map", "bos_token_id", "dtype", "eos_token_id", "gradient_checkpointing", "hidden_act",
        "hidden_activation", "initializer_range", "layer_norm_eps", "layer_norm_epsilon", "max_position_embeddings",
        "model_type", "norm_eps", "norm_epsilon", "norm_topk_prob", "output_router_logits", "pad_token_id",
        "pretraining_tp", "rms_norm_eps", "rope_interleave", "rope_parameters", "rope_scaling", "rope_theta",
        "rotary_emb_base", "routed_scaling_factor", "router_aux_loss_coef", "scoring_func", "seq_aux",
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "task_specific_params", "tokenizer_class", "tokenizer_name", "torch_dtype", "transformers_version", "use_cache",
        "vision_config",  # read by a table of its own, or refused
        "top_k",  # of sampling; no family's experts have this key
    }
)  # fmt: skip
"""Keys that affect no family's cost: formats, token ids, scale factors, details of rotary embeddings."""
