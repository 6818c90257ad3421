"""Payload formats of dispatch and combine: bytes of one element with its share of a tile's scales."""

from __future__ import annotations

from costmodel.errors import InputError
from costmodel.quantities import Bytes
from costmodel.workload.dtypes import LOGARITHMIC, LOGFMT_TILE, payload_element

PAYLOADS = ("bf16", "fp16", "fp8", *LOGARITHMIC)


def payload_bytes(name: str) -> Bytes:
    """Return the bytes of one element of a payload [B]. Raises InputError where it is unknown.

    fp8      1 + 4/128                a tile has one FP32 scale
    logfmtN  N/8 + 2*4/128            a tile has its least and its greatest logarithm
    """
    if name not in PAYLOADS:
        raise InputError.single(f"unknown payload {name!r}", hint=f"write one of {', '.join(PAYLOADS)}")
    return payload_element(name, LOGFMT_TILE)
