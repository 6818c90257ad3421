"""Which kernels of a family run an operator: those of a number format with their marks, or those of a kind."""

from __future__ import annotations

from costmodel.records import ValueRecord, replace

_ENDINGS = {
    "block_scaled": "_block", "masked": "_masked", "is_wgrad": "_wgrad", "quantized_kv": "_kvquant",
    "microscaled": "_mxfp4",
}  # fmt: skip


class Variant(ValueRecord):
    """Kernels of a family that are measured and fitted separately. In files the text that `str` gives.

    kind: number format, kind of element-wise kernel or kind of collective.
    blank: the family as a whole.
    block_scaled: operands carry a scale for every block of elements.
    masked: groups have buffers of fixed size.
    is_wgrad: weight gradient of block-scaled operands, whose scales run along their rows.
    quantized_kv: the KV cache is narrower than the products.
    microscaled: weights are expanded from MXFP4, whose kernels are others than those of INT4.
    """

    kind: str
    block_scaled: bool = False
    masked: bool = False
    is_wgrad: bool = False
    quantized_kv: bool = False
    microscaled: bool = False

    @staticmethod
    def parse(text: str) -> Variant:
        """Return the variant that a file names."""
        flags: dict[str, bool] = {}
        for name, ending in reversed(_ENDINGS.items()):
            flags[name] = text.endswith(ending)
            text = text.removesuffix(ending)
        return Variant(text, **flags)

    def __str__(self) -> str:
        return self.kind + "".join(ending for name, ending in _ENDINGS.items() if getattr(self, name))

    @property
    def base(self) -> Variant:
        """Return the variant of the same format without what distinguishes its kernels."""
        return replace(self, masked=False, is_wgrad=False, quantized_kv=False, microscaled=False)
