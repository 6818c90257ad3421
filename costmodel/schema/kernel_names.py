"""Names of kernels in files of devices and frameworks: operator families, implementations, and devices to inherit from.

A misspelt one would be passed over in silence, and the roofline would answer for the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from costmodel.errors import Problem, suggest
from costmodel.schema.references import Library, package_root
from costmodel.schema.tree import KEPT, Tree
from costmodel.workload.operators import GEMM_FAMILIES, gemm_family

_ATTENTION = ("attention", "mla", "sparse_mla", "compressed_attention", "linear_attention")
_EXCHANGES = ("moe_dispatch", "moe_combine")
FAMILIES = (
    *GEMM_FAMILIES, *(gemm_family(family, weight_only=True) for family in GEMM_FAMILIES), "bmm", "elementwise",
    *(f"{kind}_{part}" for kind in _ATTENTION for part in ("prefill", "decode", "backward")),
    "attention_decode_skewed", "attention_mixed", "mqa_logits", "paged_mqa_logits", "mqa_logits_backward",
    "host_product", "collective", "send_recv", *_EXCHANGES, *(f"{name}_low_latency" for name in _EXCHANGES),
)  # fmt: skip
"""Operator families that a device or framework may name kernels of."""

VARIANTS = {
    "elementwise": (
        "activation", "add", "cache_write", "cast", "compressor", "conv", "conv_update", "embedding",
        "hyper_connection_post", "hyper_connection_pre", "norm", "optimizer", "permute", "residual_attention", "rotary",
        "selective_scan", "softmax", "stable", "topk_select", "topk_select_ties",
    ),
    "collective": ("all_gather", "all_reduce", "all_to_all", "broadcast", "reduce_scatter"),
}  # fmt: skip
"""Kernels of a family that are fitted apart; of other families they are number formats, and names of recurrences."""

UNFUSED = ("unfused", "masked-softmax")  # attention in separate kernels: no implementation with a file of its own


def unknown_names(library: Library, document: Tree) -> Iterator[Problem]:
    """Yield what a device or framework names that nothing knows: families, implementations, a device to inherit."""
    calibration = document.child("calibration")
    inherit = None if calibration is None else calibration.child("inherit")
    if inherit is not None and isinstance(inherit.value, str):
        name = inherit.value.removeprefix("devices/")
        if not name.startswith("./") and not library.has("devices", name):
            yield Problem(
                inherit.location, "calibration.inherit", f"unknown device {inherit.value!r}",
                suggest(name, library.names("devices")),
            )  # fmt: skip
    for path in (("calibration", "default"), ("implementations",)):
        names = document.at(path)
        if names is not None and names.is_mapping:
            field = ".".join(path)
            yield from _unknown_families(names, field)
            yield from _unknown_implementations(library, names, field)


@lru_cache(maxsize=KEPT)
def _unknown_families(names: Tree, field: str) -> tuple[Problem, ...]:
    """Return the keys of a mapping from families to implementations that nothing knows."""
    problems: list[Problem] = []
    for key, named in names.value.items():
        family, _, variant = key.partition("/")
        if family not in FAMILIES:
            hint = suggest(family, FAMILIES)
            problems.append(Problem(named.key, f"{field}.{key}", f"unknown operator family {family!r}", hint))
        problems.extend(_unknown_variant(named, family, variant, f"{field}.{key}"))
    return tuple(problems)


def _unknown_implementations(library: Library, names: Tree, field: str) -> Iterator[Problem]:
    for key, item in _own_kernels(names):
        name, measured = str(item.value), library.implementations()
        if name in measured or name.rpartition("/")[2] in measured or name in UNFUSED:
            continue
        known = {*measured, *UNFUSED, *_of_frameworks(library)}
        if name not in known:
            yield Problem(
                item.location, f"{field}.{key}", f"unknown implementation {name!r}", suggest(name, sorted(known))
            )


@lru_cache(maxsize=KEPT)
def _own_kernels(names: Tree) -> tuple[tuple[str, Tree], ...]:
    """Return each key with its kernels, less those that the package's own data name, which need no measured rows."""
    return tuple(
        (key, item)
        for key, named in names.value.items()
        for item in (named.value if isinstance(named.value, list) else [named])
        if not _is_shipped(item)
    )


def _unknown_variant(named: Tree, family: str, variant: str, field: str) -> Iterator[Problem]:
    known = VARIANTS.get(family)
    if known is not None and variant and variant not in known:
        yield Problem(named.key, field, f"unknown kernel {variant!r} of {family}", suggest(variant, known))
    elif not re.fullmatch(r"\w*", variant):
        yield Problem(named.key, field, f"{variant!r} is no number format", "write letters, digits and _ alone")


def _is_shipped(item: Tree) -> bool:
    """Tell whether a value is written in the package's own data."""
    written = item.location
    if written is None or written.line is None:
        return False
    return Path(written.source).resolve().is_relative_to(package_root())


def _of_frameworks(library: Library) -> Iterator[str]:
    """Yield the implementations that shipped frameworks name. Those of a user's own could be misspelt themselves."""
    for path in sorted((package_root() / "hardware/frameworks").glob("*.yaml")):
        tree = library.read_unextended(path, "framework").child("implementations")
        for named in tree.value.values() if tree is not None and tree.is_mapping else ():
            yield from (str(item.value) for item in (named.value if isinstance(named.value, list) else [named]))
