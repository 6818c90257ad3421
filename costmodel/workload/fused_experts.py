"""The streams of a fused layer of experts, as inference engines run it and tables time it."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count, maximum
from costmodel.records import Record, replace
from costmodel.workload.operators import Elementwise


class FusedExperts(Record):
    """What streams around the two grouped GEMMs of a rank's experts, from tokens to one sum a token.

        first       (rows or tokens)*d*(e + e_operand)     + zeros to the rows of other ranks' experts
        activation  copies*f*(inputs*e + e_operand)
        sum         (copies + tokens)*d*e                  each token's results, weighted: one kernel

    Kernels that copy together have copies = rows, those of this rank's experts, and read a row for each. Kernels in
    place (Triton, Marlin) read tokens where they are and keep a row for each of the top_k copies of every token. zeros
    = (copies - rows)*(inputs*f + d)*e. [vllm-project/vllm, fused_moe.py: moe_align_block_size, moe_sum;
    NVIDIA/TensorRT-LLM, moe_kernels.cu: expandInputRows, finalizeMoeRouting]

    tokens: that the rank sees, whichever experts they choose.
    rows: on its own experts.
    top_k: experts of a token.
    hidden, width: d and f on this rank.
    inputs: of the activation, 2 with a gate.
    wide, narrow: bytes of an element, and of one as the GEMMs read it.
    product: `family/variant` of the GEMMs.
    """

    product: str
    tokens: Count
    rows: Count
    top_k: Count
    hidden: Count
    width: Count
    inputs: float
    wide: Bytes
    narrow: Bytes

    def streams(self, *, in_place: bool) -> tuple[Elementwise, Elementwise, Elementwise]:
        """Return what runs before the GEMMs, between and after them."""
        copies = self.tokens * self.top_k if in_place else self.rows
        zeros = maximum(copies - self.rows, 0.0) * (self.inputs * self.width + self.hidden) * self.wide
        moved = (self.tokens if in_place else self.rows) * self.hidden * (self.wide + self.narrow)
        activated = copies * self.width * (self.inputs * self.wide + self.narrow)
        summed = (copies + self.tokens) * self.hidden * self.wide

        def stream(name: str, size: Bytes, kind: str) -> Elementwise:
            return Elementwise(name, size, kind=kind, rows=copies, product=self.product)

        return (
            stream("expert permute", zeros + moved, "permute"),
            stream("expert activation", activated, "activation"),
            stream("expert sum", summed, "permute"),
        )

    def either(self) -> tuple[Elementwise, Elementwise, Elementwise]:
        """Return the streams of kernels that copy, each with that of kernels in place: which of them run, fits know."""
        first, activation, last = (
            replace(copying, in_place=placed)
            for copying, placed in zip(self.streams(in_place=False), self.streams(in_place=True), strict=True)
        )
        return first, activation, last
