"""What dispatch and combine carry: formats of one element with its share of a tile's scales."""

from __future__ import annotations

from costmodel.errors import InputError
from costmodel.quantities import Bytes
from costmodel.workload.dtypes import SCALE_BYTES, element_bytes

# Elements that share scales: FP8 tiles of arXiv 2412.19437, section 3.3.2, LogFMT's of arXiv 2505.09343, section 3.2.
TILE = 128.0

_LOGARITHMIC = {"logfmt8": 8, "logfmt10": 10}  # bits of an element
PAYLOADS = ("bf16", "fp16", "fp8", *_LOGARITHMIC)


def payload_bytes(name: str) -> Bytes:
    """Return the bytes of one element of a payload [B]; raise InputError where it is unknown.

        fp8      1 + 4/128                a tile has one FP32 scale
        logfmtN  N/8 + 2*4/128            a tile has its least logarithm and the step between levels

    That LogFMT's two numbers are FP32, as FP8's scale is, is assumed: the paper does not say.
    """
    if name in _LOGARITHMIC:
        return _LOGARITHMIC[name] / 8 + 2 * SCALE_BYTES / TILE
    if name not in PAYLOADS:
        raise InputError.single(f"no payload is named {name!r}", hint=f"write one of {', '.join(PAYLOADS)}")
    return element_bytes(name, TILE)
