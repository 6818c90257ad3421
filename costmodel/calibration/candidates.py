"""Fits that may answer for a kernel, before one of them does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from costmodel.cost.calibration import FamilyFit
from costmodel.records import Record, replace
from costmodel.workload.operators import GEMM_FAMILIES, Operator, gemm_family
from costmodel.workload.variant import Variant

NAMED, DEFAULT, OTHER = "named by the framework", "default of", "another library"  # roles
_SHOWN = 0.005  # of an error: half a per cent
_ROOFLINE = "roofline"  # basis of what no device's own rows determine


class Candidate(Record):
    """A fit that may answer for a kernel, or where one was looked for in vain.

    source: the file.
    key: `family/variant` or family whose kernels it is of.
    role: why it is looked at.
    fit: what it states. None where it is passed over.
    passed_over: why it is.
    device, implementation, library: of the file. Blank where it is none of a device.
    held_out: its error on unseen rows of its own, half of an 80 % interval [log].
    unshared: what its device, and its program, do not share with the kernels that are asked for, likewise.
    is_compared: its error was compared with those of others.
    shape: what the shape that is asked for adds, likewise.
    weight: its share in the answer at a shape, none where no shape is asked for.
    """

    source: str
    key: str
    role: str
    fit: FamilyFit | None = None
    passed_over: str = ""
    device: str = ""
    implementation: str = ""
    library: str = ""
    held_out: float = 0.0
    unshared: tuple[float, float] = (0.0, 0.0)
    is_compared: bool = False
    shape: float = 0.0
    weight: float | None = None

    def is_of(self, name: str) -> bool:
        """Tell whether it is of an implementation, which may name its device: `rtx-4090/vllm`."""
        return name in (self.implementation, self.source.partition("/")[2])

    @property
    def elsewhere(self) -> float:
        """Return what the steps from its own kernels to those that are asked for add to its error [log]."""
        return math.hypot(*self.unshared)

    @property
    def error(self) -> float:
        """Return its expected error for the kernels that are asked for, at sizes that it was made from [log]."""
        return math.hypot(self.held_out, self.elsewhere)

    def at(self, operator: Operator) -> Candidate:
        """Return it with what the shape of an operator adds to its error."""
        return self if self.fit is None else replace(self, shape=float(self.fit.beyond(operator)))

    def __str__(self) -> str:
        parts = {
            "unseen rows": self.held_out,
            "device": self.unshared[0],
            "program": self.unshared[1],
            "shape": self.shape,
        }
        said = {name: _percent(half) for name, half in parts.items() if half >= _SHOWN}
        of = f" ({', '.join(f'{name} {half}' for name, half in said.items())})" if set(said) - {"unseen rows"} else ""
        expected = f", expected error {_percent(math.hypot(self.error, self.shape))}{of}" if self.is_compared else ""
        expected += f", weight {100 * self.weight:.0f} %" if self.weight is not None and self.weight < 1.0 else ""
        return f"{self.source} ({self.role}): {self.passed_over or self.key}{expected}"


def _percent(half: float) -> str:
    return f"{100 * math.expm1(half):.0f} %"


class Resolution(Record):
    """The fit that answers for a key, None where there is none, and the candidates up to it."""

    fit: FamilyFit | None
    considered: tuple[Candidate, ...]


def passed_over(candidate: Candidate) -> Candidate:
    """Return a candidate that does not answer."""
    return replace(candidate, fit=None, passed_over=candidate.key)


def first(candidates: Iterator[Candidate] | tuple[()]) -> Resolution:
    """Return the first of some candidates that has a fit: the order of the candidates is the choice."""
    considered: list[Candidate] = []
    for candidate in candidates:
        considered.append(candidate)
        if candidate.fit is not None:
            return Resolution(candidate.fit, tuple(considered))
    return Resolution(None, tuple(considered))


def transferred(candidate: Candidate, key: str, *, has_form: bool) -> Candidate:
    """Return a candidate for other kernels than its own. Shares of the peaks are not transferred where `has_form`."""
    role = f"nearest kernels, of {key}"
    assert candidate.fit is not None
    if has_form and candidate.fit.form is None:
        return Candidate(candidate.source, key, role, passed_over="states shares of the peaks, of its own kernels only")
    return replace(candidate, key=key, role=role, fit=changed(candidate.fit, _elsewhere), device="")


def _elsewhere(fit: FamilyFit) -> FamilyFit:
    return fit if fit.basis == _ROOFLINE else replace(fit, basis="transferred")


def as_backward(backward: FamilyFit, forward: FamilyFit) -> FamilyFit:
    """Return the fit of a backward kernel that borrows a forward one's form."""
    return replace(
        forward, backward_rate=backward.backward_rate, spread=backward.spread,
        extra_keys_per_query=backward.extra_keys_per_query,
    )  # fmt: skip


def changed(fit: FamilyFit, change: Callable[[FamilyFit], FamilyFit]) -> FamilyFit:
    """Return a fit that is changed, and the others that join it in the same way."""
    others = fit.others and replace(fit.others, fits=tuple(map(change, fit.others.fits)))
    return replace(change(fit), others=others)


def library_of(implementation: str) -> str:
    """Return the first word of the name of an implementation: `deepgemm` of `deepgemm-sglang`, mostly its library."""
    return implementation.rpartition("/")[2].partition("-")[0]


# ---- Which kernels substitute for those that nobody measured: of another variant, of another family ------------------

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
LATENT = {"sparse_mla_decode": "mla_decode", "compressed_attention_decode": "mla_decode"}
SUBSTITUTES = {**GRADIENTS, **EXPANDING, **LATENT, "bmm": "gemm"}
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
