"""Number formats: bytes of an element, and the math unit that multiplies it."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count
from costmodel.records import Record

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
    "fp8_fp16": 1.0,  # FP8 GEMMs with FP16 accumulation: a unit of its own, the same operands
    "int8": 1.0,
    "moments8": 260 / 256,  # 256 of 8 bits and their FP32 scale (Dettmers et al., arXiv 2110.02861; bitsandbytes)
    "int4": 0.5,
    "fp4": 0.5,
    # Block formats: a block of (bytes / elements) holds its scales, by definition.
    "mxfp4": 17 / 32,  # 32 E2M1 and one E8M0 scale (OCP Microscaling Formats specification v1.0, section 5.3.3)
    "mxfp8": 33 / 32,  # 32 E4M3 or E5M2 and one E8M0 scale (the same, section 5.3.1)
    "nf4": (33 + 1 / 64) / 64,  # 64 NormalFloat4 and an 8-bit scale; 256 scales have one FP32 (arXiv 2305.14314)
    "nvfp4": 9 / 16,  # 16 E2M1 and one E4M3 scale; the one FP32 scale of a tensor does not count
    "q4_0": 18 / 32,  # GGUF: block_q4_0 … block_q6_K of llama.cpp, ggml/src/ggml-common.h
    "q8_0": 34 / 32,
    "q4_k": 144 / 256,
    "q5_k": 176 / 256,
    "q6_k": 210 / 256,
}
DOUBLE_SCALED = {"nf4": 64}  # elements per scale, where scales are quantised too
GGUF_FORMATS = frozenset(("q4_0", "q8_0", "q4_k", "q5_k", "q6_k"))
BLOCK_FORMATS = frozenset(("mxfp4", "mxfp8", "nvfp4", "nf4")) | GGUF_FORMATS
# Blocks lie along the dimension that a product adds up, so that training has two copies of an operand, which one kernel
# makes [NVIDIA/TransformerEngine, user guide, MXFP8 and NVFP4: row-wise and column-wise quantised tensors].
COPIED_FORMATS = frozenset(("mxfp8", "nvfp4"))
SCALE_BYTES = 4.0  # a block scale is one FP32
# LogFMT-nBit of arXiv 2505.09343, section 3.2: a sign and n - 1 bits that count equal steps between the least and the
# greatest logarithm of a tile of 1 x 128 values. Only messages use these formats.
LOGARITHMIC = {"logfmt8": 8, "logfmt10": 10}
LOGFMT_TILE = 128.0  # elements per pair of LogFMT bounds, or per FP8 scale, in a message (arXiv 2412.19437, 3.3.2)
BITS_PER_BYTE = 8.0
_UNITS = {"mxfp4": "fp4", "mxfp8": "fp8", "nvfp4": "fp4"}


def math_unit(dtype: str) -> str:
    """Return the math unit that multiplies a format, whatever the scales of its blocks."""
    return _UNITS.get(dtype, dtype)


def element_bytes(dtype: str, scale_block: Count | None = None) -> Bytes:
    """Return the bytes of one stored element, its share of a block scale included [B].

    b = width + 4 / scale_block        for one-byte and narrower formats that do not define their scales
    """
    width = ELEMENT_BYTES[dtype]
    if scale_block is None or width > 1.0 or dtype in BLOCK_FORMATS:
        return width
    return width + SCALE_BYTES / scale_block


def payload_width(dtype: str) -> float:
    """Return the bytes of one element of a message, without scales or bounds [B]."""
    return LOGARITHMIC[dtype] / BITS_PER_BYTE if dtype in LOGARITHMIC else ELEMENT_BYTES[dtype]


def payload_element(dtype: str, scale_block: Count | None = None) -> Bytes:
    """Return the bytes of one element of a message, its share of scales or bounds included [B].

        logfmtN   N/8 + 2*4/128      a tile of 1 x 128 has the least and the greatest logarithm; others as stored

    The two bounds of LogFMT are assumed to be FP32, as FP8's scale is: the paper does not say.
    """
    if dtype in LOGARITHMIC:
        return payload_width(dtype) + 2 * SCALE_BYTES / LOGFMT_TILE
    return element_bytes(dtype, scale_block)


class GroupScaling(Record):
    """Scales of a quantised tensor.

    group: elements per scale and zero point (null: one per channel or tensor, which does not count).
    scale, zero: their formats (zero null: symmetric, none is stored).
    """

    group: Count | None = None
    scale: str = "fp16"
    zero: str | None = None

    def element_bytes(self, dtype: str) -> Bytes:
        """Return the bytes of one stored element, its share of scale and zero point included [B].

        b = width + (b_scale + b_zero) / group        for one-byte and narrower formats that do not define their scales
        """
        width = ELEMENT_BYTES[dtype]
        if self.group is None or width > 1.0 or dtype in BLOCK_FORMATS:
            return width
        zero = 0.0 if self.zero is None else ELEMENT_BYTES[self.zero]
        return width + (ELEMENT_BYTES[self.scale] + zero) / self.group
