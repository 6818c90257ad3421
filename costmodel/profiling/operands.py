"""Operands of kernels: slices of random numbers that no cache holds, since each is used once in a long while."""

from __future__ import annotations

import math
from typing import Any

import torch

from costmodel.profiling.shapes import FP4

TYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e4m3_blk128": torch.float8_e4m3fn, FP4: getattr(torch, "float4_e2m1fn_x2", torch.uint8),
}  # fmt: skip
FLUSH = 3  # times the last cache's capacity that lies between two uses of a slice, where memory allows
_ALIGNED = 256  # bytes at which slices begin
_LEAST = 64 * 2**20  # bytes of a pool
_SLACK = 1.25  # room over the bytes of one call, for what lies between aligned slices


def fp8_type(architecture: str) -> torch.dtype:
    """Return E4M3 as a device multiplies it: on CDNA3 without a negative zero (ROCm's precision support)."""
    return torch.float8_e4m3fnuz if architecture == "cdna3" else torch.float8_e4m3fn


class Operands:
    """Gives tensors of random numbers. Slices are handed out in turn, so that each was last touched long ago."""

    def __init__(self, device: str, cache: int, seed: int = 0, fp8: torch.dtype = torch.float8_e4m3fn) -> None:
        self.device, self._fp8 = device, fp8
        self._usual = self._bytes = max(FLUSH * cache, _LEAST)
        self._pools: dict[str, Any] = {}
        self._next: dict[str, int] = {}
        self._random = torch.Generator(device=device)
        self._random.manual_seed(seed)

    def tensor(self, dtype: str, *sizes: int) -> Any:
        """Return a tensor of a format and size, contiguous, its elements between -1 and 1."""
        if dtype == FP4:  # two elements in a byte
            halves = (*sizes[:-1], sizes[-1] // 2)
            drawn = torch.randint(256, halves, dtype=torch.uint8, device=self.device, generator=self._random)
            return drawn.view(TYPES[FP4])
        if dtype.startswith("fp8"):
            return self.tensor("bf16", *sizes).to(self._fp8)
        count = math.prod(sizes)
        pool = self._pool(dtype, count)
        begin = self._next[dtype]
        if begin + count > pool.numel():
            begin = 0
        step = _ALIGNED // pool.element_size()
        self._next[dtype] = begin + -(-count // step) * step
        return pool[begin : begin + count].view(*sizes)

    def zeros(self, dtype: str, *sizes: int) -> Any:
        """Return a tensor of zeros, which toggle no bits and so take the least power."""
        kind = self._fp8 if dtype.startswith("fp8") else TYPES[dtype]
        return torch.zeros(*sizes, dtype=kind, device=self.device)

    def like(self, dtype: str, other: Any) -> Any:
        """Return a tensor of a dense other one's sizes and strides: a gradient that nothing has to copy first."""
        return self.tensor(dtype, other.numel()).as_strided(other.shape, other.stride())

    def prepare(self, size: float) -> None:
        """Make room for one call's operands of some bytes, so that no two of its slices overlap.

        A GPU draws new numbers, which takes it no time. A CPU keeps those of its pool.
        """
        self._bytes = max(self._usual, int(_SLACK * size) + _LEAST // 16)
        if self.device != "cpu":
            for pool in self._pools.values():
                pool.uniform_(-1.0, 1.0, generator=self._random)

    def release(self) -> None:
        """Give the memory back."""
        self._pools.clear()
        self._next.clear()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _pool(self, dtype: str, count: int) -> Any:
        """Return the pool of a format, with room for all operands of a call and at least `count` elements."""
        kind = TYPES[dtype]
        pool = self._pools.get(dtype)
        room = max(count, self._bytes // kind.itemsize)
        if pool is None or pool.numel() < max(count, room if self._bytes > self._usual else 0):
            self._pools.pop(dtype, None)
            pool = torch.empty(room, dtype=kind, device=self.device)
            pool.uniform_(-1.0, 1.0, generator=self._random)
            self._pools[dtype] = pool
            self._next[dtype] = 0
        return pool
