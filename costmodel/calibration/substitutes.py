"""Which kernels substitute for those that nobody measured: of another variant, of another family."""

from __future__ import annotations

from costmodel.records import replace
from costmodel.workload.operators import GEMM_FAMILIES, gemm_family
from costmodel.workload.variant import Variant

ELEMENTWISE = "elementwise"
COLLECTIVE, SEND_RECV = "collective", "send_recv"
# Backward attention runs at a measured share of the forward kernels' rate.
GRADIENTS = {"attention_backward": "attention_prefill", "mla_backward": "mla_prefill"}
# A GEMM that expands narrow weights reads them as they are stored and multiplies as the plain one does.
EXPANDING = {gemm_family(family, weight_only=True): family for family in GEMM_FAMILIES}
EXPERTS = ("grouped_gemm", gemm_family("grouped_gemm", weight_only=True))
COMPANION = f"{ELEMENTWISE}/permute"  # what runs in the rows of layers of experts and is fitted with their products
IN_PLACE = ("triton", "marlin")  # libraries whose experts read tokens where they are, a row for every copy
# Family -> the one whose kernels substitute for it; a batched GEMM is a GEMM of several groups.
# Attention whose queries select their keys reads a latent cache as the dense kernels do, of fewer keys.
_LATENT = {"sparse_mla_decode": "mla_decode", "compressed_attention_decode": "mla_decode"}
SUBSTITUTES = {**GRADIENTS, **EXPANDING, **_LATENT, "bmm": "gemm"}
# Family without rows of its own besides the roofline -> the one whose kernels are as far from it.
ROOFLINE_ALIKE = {
    "mqa_logits_backward": "attention_backward", "compressed_attention_prefill": "attention_prefill",
    "compressed_attention_decode": "mla_decode", "compressed_attention_backward": "attention_backward",
    "linear_attention_prefill": "attention_prefill", "linear_attention_decode": "attention_decode",
}  # fmt: skip
_ATTENTION = ("attention_prefill", "attention_decode")  # whose FP8 kernels read a cache as narrow as 16-bit ones may
_SCAN = "linear_attention"  # whose variants are what they compute, none like another
_ELEMENTWISE_KINDS = ("activation", "add", "norm", "rotary")  # a kernel of another kind streams as these do
_COLLECTIVES = {  # kinds by those that move equal amounts
    "all_reduce": ("reduce_scatter", "all_gather"), "all_gather": ("reduce_scatter",),
    "reduce_scatter": ("all_gather",), "broadcast": ("all_gather", "reduce_scatter"),
    "all_to_all": ("all_gather", "reduce_scatter"),
}  # fmt: skip
_PAIRWISE = ("all_to_all", "all_gather")  # of a message between two ranks


def nearest_keys(family: str, variant: str) -> tuple[str, ...]:
    """Return the `family/variant` of the kernels that substitute for those of another one, the most similar first."""
    if family == SEND_RECV:
        return tuple(f"{COLLECTIVE}/{kind}" for kind in _PAIRWISE)
    if family == COLLECTIVE:
        return tuple(f"{family}/{kind}" for kind in _COLLECTIVES.get(variant, ("all_gather",)))
    return tuple(f"{family}/{other}" for other in nearest_variants(family, variant))


def nearest_variants(family: str, variant: str) -> tuple[str, ...]:
    """Return the variants of a family whose kernels substitute for those of `variant`, the most similar first.

    Kernels without what distinguishes a variant. Then those of the other 16-bit format, or FP8 with the other kind of
    scales. FP8 attention reads a cache as 16-bit attention with a narrow cache does.
    """
    if family == ELEMENTWISE:
        return tuple(kind for kind in _ELEMENTWISE_KINDS if kind != variant)
    if family.startswith(_SCAN):
        return ()
    own = Variant.parse(variant)
    nearest = [own.base] if own != own.base else []
    if own == Variant("fp8") and family in _ATTENTION:
        nearest = [Variant("bf16", quantized_kv=True)]
    if own.kind == "fp8":
        nearest.append(replace(own.base, block_scaled=not own.block_scaled))
    elif own.kind in ("fp16", "bf16") and not own.block_scaled:
        nearest.append(Variant("bf16" if own.kind == "fp16" else "fp16"))
    return tuple(map(str, nearest))
