"""SplitMix64 [Steele, Lea, Flood, OOPSLA 2014]: arrays of 64-bit words, or one word inside what numba compiles."""

from __future__ import annotations

from typing import Any

import numpy as np


def mixed(word: Any) -> Any:
    """Return 64 well-mixed bits of each word."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def hashed(first: Any, second: Any) -> Any:
    """Return 64 well-mixed bits of two numbers."""
    return mixed(np.uint64(first) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(second))
