"""How libraries split the keys of attention over processors where there are too few blocks for all of them."""

from __future__ import annotations

from costmodel.quantities import Count, Mask, Quantity, ceil, floor, maximum, minimum, where

SPLITS = ("never", "once", "twice", "xqa", "fa2", "fa2_shared", "fa3")
_XQA_WAVES = 8.0  # that TensorRT-LLM's XQA aims at (kTargetWaveFactor, decoderXQAConstants.h)
_XQA_PIECES = 8.0  # it takes no more than sqrt(8 * tiles) (computeMultiBlockCount, decoderXQAImplCommon.h)
_MOST = 128  # splits, in FlashAttention's rule
_ENOUGH = 0.8  # of the processors: a grid that fills these is not split
_GOOD = 0.85  # of the best use of whole waves: the fewest splits that reach this are taken
_WAVES = 8  # within which the best use is looked for; the published loop goes on, and splits 3 % of grids otherwise
_FEW_TILES = 4.0  # of keys, up to which FlashAttention-3 does not split


def split_keys(rule: str, blocks: Count, processors: Count, tiles: Count, shared: Mask) -> Count:
    """Return the pieces that each block's keys are split into.

    `once`, `twice`, `xqa`: as many as fill the processors once, twice (FlashInfer's plan keeps to two blocks a
    processor) or eight times; `xqa` takes sqrt(8 * tiles) at most, since joining the pieces costs time as well;
    `fa2`, `fa3`: the fewest with 85 % of the best use of whole waves of two blocks or one a processor (num_splits
    heuristics of FlashAttention-2, csrc/flash_attn/flash_api.cpp, and -3, hopper/heuristics.h); `fa2_shared`: the same
    where queries share a key head, as vLLM's calls do. blocks: of the grid before the split; tiles: of keys in one
    block, which are not split themselves; shared: whether several queries share a key head.
    """
    if rule == "once":
        return _filling(blocks, processors, tiles)
    if rule == "twice":
        return _filling(blocks, 2.0 * processors, tiles)
    if rule == "xqa":
        return _filling(blocks, _XQA_WAVES * processors, minimum(tiles, floor((_XQA_PIECES * tiles) ** 0.5 + 0.5)))
    if rule == "fa3":
        return _efficient(blocks, processors, tiles, _FEW_TILES)
    if rule in ("fa2", "fa2_shared"):
        found = _efficient(blocks, 2.0 * processors, tiles, 1.0)
        return found if rule == "fa2" else where(shared, found, 1.0)
    return 1.0


def _filling(blocks: Count, slots: Count, tiles: Count) -> Count:
    """Return the largest number of splits that fits into one wave of `slots` blocks."""
    return maximum(minimum(floor(slots / blocks), tiles), 1.0)


def _efficient(blocks: Count, slots: Count, tiles: Count, few: Count) -> Count:
    """Return the fewest splits s whose use blocks*s / (slots * waves) is 85 % of the best; one where that is enough.

    Within w waves the use grows with s, so that each wave has one candidate for the best and one for the fewest.
    """
    most = minimum(tiles, _MOST)
    best: Quantity = 0.0
    for wave in range(1, _WAVES + 1):
        split = maximum(minimum(floor(wave * slots / blocks), most), 1.0)
        filled = blocks * split / slots
        best = maximum(best, filled / ceil(filled))
    chosen = most
    for wave in range(_WAVES, 0, -1):
        needed = ceil(_GOOD * best * wave * slots / blocks - 1e-9)
        needed = maximum(needed, floor((wave - 1) * slots / blocks) + 1.0)
        chosen = where(needed * blocks <= wave * slots, minimum(needed, most), chosen)
    return where((blocks >= _ENOUGH * slots) | (most <= few), 1.0, maximum(chosen, 1.0))
