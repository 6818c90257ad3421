"""How libraries split the keys of attention over processors where there are too few CTAs for all of them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from costmodel.quantities import Count, Mask, Quantity, ceil, floor, maximum, minimum, where

SplitKvRule: TypeAlias = Literal["never", "once", "twice", "xqa", "fa2", "fa2_shared", "fa3"]
UNEVEN = "once"  # whose pieces differ by a tile: processors are dealt tiles [deepseek-ai/FlashMLA, get_mla_metadata]
_XQA_WAVES = 8.0  # that TensorRT-LLM's XQA aims at (kTargetWaveFactor, decoderXQAConstants.h)
_XQA_PIECES = 8.0  # it takes no more than sqrt(8 * tiles) (computeMultiBlockCount, decoderXQAImplCommon.h)
_MAX_SPLITS = 128  # of FlashAttention's rule
_FULL_GRID = 0.8  # of the processors: a grid that fills these is not split
_GOOD_USE = 0.85  # of the best use of whole waves: the fewest splits that reach this are taken
_WAVES = 8  # within which the best use is looked for; the published loop goes on, and splits 3 % of grids otherwise
_FEW_TILES = 4.0  # of keys, up to which FlashAttention-3 does not split


def split_keys(rule: SplitKvRule, ctas: Count, processors: Count, tiles: Count, shared: Mask) -> Count:
    """Return the pieces that each CTA's keys are split into.

    rule:
        `once`, `twice`: as many as fill the processors once, or twice (FlashInfer's plan: two CTAs a processor).
        `xqa`: eight times, sqrt(8 * tiles) at most, since joining the pieces costs time as well.
        `fa2`, `fa3`: the fewest with 85 % of the best use of whole waves of two CTAs or one a processor (num_splits
        heuristics of FlashAttention-2, csrc/flash_attn/flash_api.cpp, and -3, hopper/heuristics.h).
        `fa2_shared`: as `fa2` where queries share a key head, as vLLM's calls do.
    ctas: of the grid before the split.
    tiles: of keys in one CTA, which are not split themselves.
    shared: whether several queries share a key head.
    """
    if rule == "once":
        return _filling(ctas, processors, tiles)
    if rule == "twice":
        return _filling(ctas, 2.0 * processors, tiles)
    if rule == "xqa":
        return _filling(ctas, _XQA_WAVES * processors, minimum(tiles, floor((_XQA_PIECES * tiles) ** 0.5 + 0.5)))
    if rule == "fa3":
        return _efficient(ctas, processors, tiles, _FEW_TILES)
    if rule in ("fa2", "fa2_shared"):
        splits = _efficient(ctas, 2.0 * processors, tiles, 1.0)
        return splits if rule == "fa2" else where(shared, splits, 1.0)
    return 1.0


def _filling(ctas: Count, slots: Count, tiles: Count) -> Count:
    """Return the largest number of splits that fits into one wave of `slots` CTAs."""
    return maximum(minimum(floor(slots / ctas), tiles), 1.0)


def _efficient(ctas: Count, slots: Count, tiles: Count, few: Count) -> Count:
    """Return the fewest splits s whose use ctas*s / (slots * waves) is 85 % of the best. One where that is enough.

    Within w waves the use grows with s, so that each wave has one candidate for the best and one for the fewest.
    """
    most = minimum(tiles, _MAX_SPLITS)
    best: Quantity = 0.0
    for wave in range(1, _WAVES + 1):
        splits = maximum(minimum(floor(wave * slots / ctas), most), 1.0)
        filled = ctas * splits / slots
        best = maximum(best, filled / ceil(filled))
    fewest = most
    for wave in range(_WAVES, 0, -1):
        needed = ceil(_GOOD_USE * best * wave * slots / ctas - 1e-9)
        needed = maximum(needed, floor((wave - 1) * slots / ctas) + 1.0)
        fewest = where(needed * ctas <= wave * slots, minimum(needed, most), fewest)
    return where((ctas >= _FULL_GRID * slots) | (most <= few), 1.0, maximum(fewest, 1.0))
