"""Which config.json files are read, by family, tower and class of the weights; which are refused, and why."""

from __future__ import annotations

from typing import Any

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


def support() -> dict[str, Any]:
    """Return what is read and what is not, by name, with the counts."""
    from costmodel.schema.hugging_face.encoders import ENCODERS
    from costmodel.schema.hugging_face.families import FAMILIES
    from costmodel.schema.hugging_face.wrappers import ALIASES, ARCHITECTURES, TEXT_FAMILIES

    families = {
        name: sorted({alias for table in (ALIASES, TEXT_FAMILIES) for alias, family in table.items() if family == name})
        for name in sorted(FAMILIES)
    }
    return {
        "families": families,
        "encoders": sorted(ENCODERS),
        "architectures": dict(sorted(ARCHITECTURES.items())),
        "refused": dict(sorted(REFUSED.items())),
        "counts": {"families": len(families), "encoders": len(ENCODERS), "refused": len(REFUSED)},
    }
