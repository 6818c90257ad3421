"""Number formats: how many bytes one element takes."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count

# Widths by definition of the formats. E5M6 is the 12-bit format in which DeepSeek-V3 keeps the input of the linear
# layer after attention (arXiv 2412.19437, section 3.3.3).
ELEMENT_BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "e5m6": 1.5,
    "fp8": 1.0,
    "fp8_fp16": 1.0,  # FP8 products with FP16 accumulation: a unit of its own, the same operands
    "int8": 1.0,
    "fp4": 0.5,
}
SCALE_BYTES = 4.0  # a block scale is one FP32


def element_bytes(dtype: str, scale_block: Count | None = None) -> Bytes:
    """Return the bytes of one stored element, its share of a block scale included [B].

    b = width + 4 / scale_block        for one-byte and narrower formats that carry block scales
    """
    width = ELEMENT_BYTES[dtype]
    if scale_block is None or width > 1.0:
        return width
    return width + SCALE_BYTES / scale_block
