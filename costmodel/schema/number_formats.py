"""The number formats of a scenario: a named precision set, changes to it, and substitutes for missing math units."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from costmodel.hardware import Device
from costmodel.schema.assemble import Assembly, DocumentPart
from costmodel.schema.framework import PartFormatsFile, PrecisionFile, QuantizationFile
from costmodel.schema.loader import parse_tree
from costmodel.schema.resolved import AS_PUBLISHED
from costmodel.schema.tree import Tree, merge
from costmodel.workload.dtypes import ELEMENT_BYTES, math_unit

_DEFAULT_SET = "bf16"
_COMPUTED = ("linear", "attention", "router", "head")  # formats of math units; the others are only stored
_FORMATS = (
    *_COMPUTED, "residual", "weights", "head_weights", "master", "gradients", "moments", "kv_cache", "activations",
    "attention_output",
)  # fmt: skip
_MXFP8 = {"linear": "fp8", "scale_block": 128}  # an FP32 scale per 128 elements takes what an E8M0 one per 32 does
_SCALES = {
    "weights": ("weight_group", "weight_scale", "weight_zero", "weight_bits"),
    "kv_cache": ("kv_group", "kv_scale", "kv_zero"),
}
"""Stored format -> the fields that describe its scales."""


def expand_set_name(scenario: Tree) -> Tree:
    """Return a scenario with `precision: NAME` as the mapping that it is short for."""
    precision = scenario.child("precision")
    if precision is None or not isinstance(precision.value, str):
        return scenario
    chosen = Tree({"compute": Tree(precision.value, precision.location)}, precision.location, precision.key)
    return scenario.with_entries(precision=chosen)


def shipped_formats(file: QuantizationFile, device: Device, *, mxfp8_experts: bool = False) -> tuple[Tree, str]:
    """Return the formats of a published checkpoint on a device, as a scenario's `precision`, and a note that says them.

    GEMMs whose format the device has no math unit for expand the weights to 16 bits.
    mxfp8_experts: those of MXFP4 weights multiply activations in MXFP8, as the engine does on the device.
    """
    wide = _DEFAULT_SET if _DEFAULT_SET in device.math else "fp16"
    dumped = file.model_dump()
    expanded: set[str] = set()

    def on_device(formats: dict[str, Any]) -> dict[str, Any]:
        if formats.get("linear") is None or math_unit(formats["linear"]) in device.math:
            return formats
        expanded.add(math_unit(formats["linear"]))
        return formats | {"linear": wide}

    own = on_device({key: value for key, value in dumped.items() if value is not None and key != "parts"})
    parts = {name: on_device(part) for name, part in dumped["parts"].items()}
    experts = parts.get("experts", {key: own[key] for key in PartFormatsFile.model_fields if key in own})
    narrowed = mxfp8_experts and experts.get("weights") == "mxfp4" and experts.get("linear", wide) == wide
    if narrowed:
        parts["experts"] = experts | _MXFP8
    chosen = {"compute": wide} | own | ({"parts": parts} if parts else {})
    stored = [("weights", own), *parts.items()]
    start = ", ".join(f"{name} {formats['weights']}" for name, formats in stored if "weights" in formats)
    note = f"{AS_PUBLISHED} ({start}); write `precision` for others"
    if expanded:
        units = " and ".join(unit.upper() for unit in sorted(expanded))
        note += f"; {device.name} has no unit for {units}: GEMMs expand these weights to {wide}"
    if narrowed:
        note += "; the engine multiplies its MXFP4 experts with activations in MXFP8"
    return parse_tree(json.dumps(chosen), "the model's quantization"), note


def changed_formats(shipped: Tree, note: str, stated: Tree) -> tuple[Tree, str]:
    """Return a checkpoint's formats with the keys that a scenario's mapping states, and the note that says so."""
    changed = ", ".join(f"`{key}`" for key in stated.value if key != "fallback")
    return merge(shipped, stated), note + (f"; the scenario's own are {changed}" if changed else "")


def wide_weights(stated: Tree | None, chosen: PrecisionFile, published: QuantizationFile | None) -> list[str]:
    """Return a note where a named set narrows something in inference, but not the weights: that the checkpoint stores
    them narrower, or where it has no formats of its own, that products take narrower ones.

    stated: the scenario's `precision`.
    chosen: its formats.
    published: those of the checkpoint.
    """
    if stated is None or stated.child("compute") is None or stated.child("weights") is not None:
        return []
    if any(map(_is_narrow, (chosen.weights, *(part.weights for part in chosen.parts.values())))):
        return []
    name = f"`precision: {stated.text('compute')}`"
    own = {key: getattr(chosen, key) for key in ("linear", "attention", "kv_cache")}
    own = {key: dtype for key, dtype in own.items() if _is_narrow(dtype)}
    if chosen.kv_group is not None:
        own |= {key: getattr(chosen, key) for key in _SCALES["kv_cache"] if getattr(chosen, key) is not None}
    changes = ", ".join(f"{key}: {value if isinstance(value, str) else f'{value:g}'}" for key, value in own.items())
    if published is not None:
        stored = {published.weights, *(part.weights for part in published.parts.values())}
        narrow = " and ".join(sorted(dtype for dtype in stored if dtype is not None and _is_narrow(dtype)))
        start = f"{name} keeps weights in {chosen.weights}, the published ones are {narrow}; "
        return [f"{start}`precision: {{{changes}}}` changes the published formats"] if narrow and changes else []
    if not _is_narrow(chosen.linear):
        return []
    start = f"{name} is a recipe of training: products in {chosen.linear}, weights in memory in {chosen.weights}; "
    if chosen.linear != "fp8":
        return [f"{start}`weights: {chosen.linear}` keeps them in {chosen.linear}"]
    keeps = "fp8-tensor" if chosen.scale_block is None else "fp8-inference"
    return [f"{start}`precision: {keeps}` keeps them in fp8"]


def _is_narrow(dtype: str) -> bool:
    return ELEMENT_BYTES[dtype] <= 1.0


def choose_formats(
    assembly: Assembly, chosen: Tree, device: Device, field: str, own: Mapping[str, str | None]
) -> tuple[DocumentPart[PrecisionFile], list[str]]:
    """Return the formats of a scenario on a device, and those that the fallback set replaces.

    If the device has no math unit for a format, every field of that format takes the fallback set's. Payloads of
    dispatch and combine need no math unit and stay.
    own: the framework's fields of BF16 runs, which a scenario may replace. Null: the set's.
    """
    named = _named_set(assembly, chosen, "compute", field)
    if named.text("residual") == "bf16":
        named = named.with_entries(**{name: Tree(value) for name, value in own.items() if value is not None})
    merged = merge(named, chosen.without("compute", "fallback"))
    part = assembly.part(PrecisionFile, merged, field=field)
    missing = replaced = _missing_units(part, device)
    if missing and chosen.child("fallback") is not None:
        fallback = assembly.part(PrecisionFile, _named_set(assembly, chosen, "fallback", field), field=field)
        part = assembly.part(PrecisionFile, _with_fallback(part, missing, merged, fallback.tree), field=field)
        missing = _missing_units(part, device)
    if missing:
        compute = (chosen.child("compute") or Tree(_DEFAULT_SET)).value
        standing_in, weights = "fp16" if "bf16" in missing else _DEFAULT_SET, part.file.weights
        kept = f"`precision: {{compute: {standing_in}, weights: {weights}}}` to store weights in {weights}, or "
        raise chosen.error(
            f"{device.name} has no math unit for {' and '.join(missing)}",
            f"write {kept if _is_narrow(weights) else ''}`precision: {{compute: {compute}, fallback: {standing_in}}}`, "
            "or name another device", field,
        )  # fmt: skip
    _check_bits(part, chosen, field)
    return part, replaced


def check_masters(assembly: Assembly, chosen: Tree, field: str) -> None:
    """Raise InputError if a training scenario names a set without master weights and states none itself."""
    if _keeps_masters(_named_set(assembly, chosen, "compute", field)) or chosen.child("master") is not None:
        return
    compute = chosen.child("compute") or chosen
    sets = ((name, Tree({"compute": Tree(name)})) for name in assembly.library.names("precisions"))
    trained = [name for name, each in sets if _keeps_masters(_named_set(assembly, each, "compute", field))]
    raise compute.error(
        f"`precision: {compute.value}` is for inference: the optimizer has no master weights to update",
        f"train with one of {', '.join(trained)}, or state `master` beside `compute`", f"{field}.compute",
    )  # fmt: skip


def _keeps_masters(named: Tree) -> bool:
    master = named.child("master")
    return master is not None and master.value is not None


def _with_fallback(part: DocumentPart[PrecisionFile], missing: list[str], merged: Tree, fallback: Tree) -> Tree:
    """Return the formats, with the fallback's where the device has no math unit."""
    names = [
        name for name in _FORMATS
        if name in fallback.value and math_unit(getattr(part.file, name) or "") in set(map(math_unit, missing))
    ]  # fmt: skip
    scales = [scale for name in names for scale in _SCALES.get(name, ())]
    entries = {name: fallback.value[name] for name in (*names, *scales) if name in fallback.value}
    block = fallback.child("scale_block") or Tree(None, fallback.location)
    return merged.without(*scales).with_entries(**entries, scale_block=block)


def _check_bits(part: DocumentPart[PrecisionFile], chosen: Tree, field: str) -> None:
    """Raise InputError if `weight_bits` is given for weights that are not quantised."""
    file = part.file
    if file.weight_bits is None or ELEMENT_BYTES[file.weights] <= 1.0:
        return
    bits = part.tree.child("weight_bits") or chosen
    raise bits.error(
        f"weight_bits is the average of quantised weights, but the weights are {file.weights}",
        "write `weight_bits: null`, or a format of at most eight bits for `weights`", f"{field}.weight_bits",
    )  # fmt: skip


def _named_set(assembly: Assembly, chosen: Tree, key: str, field: str) -> Tree:
    name = chosen.child(key) or Tree(_DEFAULT_SET, chosen.location)
    return assembly.library.document(name, "precisions", "precision", f"{field}.{key}")


def _missing_units(part: DocumentPart[PrecisionFile], device: Device) -> list[str]:
    """Return the formats of operators for which the device has no math unit."""
    used = {getattr(part.file, name) for name in _COMPUTED} | {own.linear for own in part.file.parts.values()}
    return sorted(filter(None, {lacked(dtype, device) for dtype in used}))


def lacked(dtype: str, device: Device) -> str | None:
    """Return the math unit that a device lacks for products in a format, null where it has it.

    Scales of MX blocks, one for 32 elements, take a unit that applies them by itself.
    """
    unit = device.math.get(math_unit(dtype))
    if unit is None:
        return math_unit(dtype)
    return dtype if dtype.startswith("mx") and unit.scaling != "native" else None
