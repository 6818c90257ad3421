"""Families of config.json that a model file cannot express."""

from __future__ import annotations

REFUSED = {  # family -> what the grammar of a model file lacks for it
    "falcon_h1": "attention and a state-space layer side by side in one layer",
    "gemma3n": "several predicted streams (AltUp) and low-rank residual branches (LAuReL)",
    "lfm2": "gated short convolutions as mixers",
    "longcat_flash": "experts that begin beside one attention and end behind the next",
    "mllama": "cross-attention to image tokens",
    "qwen3_omni_moe": "a second language model that speaks",
    "rwkv": "token shifts between layers",
    "t5": "cross-attention of a decoder to an encoder",
    "whisper": "cross-attention of a decoder to an encoder",
    "zamba2": "one attention block that several layers share, each with a low-rank change of its own",
}
