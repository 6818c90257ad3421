"""The number formats of a scenario: a named set, the scenario's changes to it, and what stands in for missing units."""

from __future__ import annotations

from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.assemble import Assembly, DocumentPart
from costmodel.schema.framework import PrecisionFile
from costmodel.schema.tree import Tree, merge
from costmodel.workload.dtypes import ELEMENT_BYTES, math_unit

_PLAIN = "bf16"  # the set of a scenario that names none
_COMPUTED = ("linear", "attention", "router", "head")  # what a math unit works in; the others are only stored
_FORMATS = (
    *_COMPUTED, "residual", "weights", "head_weights", "master", "gradients", "moments", "kv_cache", "activations",
    "attention_output",
)  # fmt: skip
_SCALES = {
    "weights": ("weight_group", "weight_scale", "weight_zero", "weight_bits"),
    "kv_cache": ("kv_group", "kv_scale", "kv_zero"),
}
"""What is said of a stored format beside its name."""


def expand_set_name(scenario: Tree) -> Tree:
    """Return a scenario with `precision: NAME` as the mapping that it is short for."""
    precision = scenario.child("precision")
    if precision is None or not isinstance(precision.value, str):
        return scenario
    chosen = Tree({"compute": Tree(precision.value, precision.location)}, precision.location, precision.key)
    return scenario.with_entries(precision=chosen)


def choose_formats(
    assembly: Assembly, chosen: Tree, device: Device, field: str
) -> tuple[DocumentPart[PrecisionFile], list[str]]:
    """Return the formats of a scenario on a device, and those that the fallback set stands in for.

    Where the device has no unit for a format that is computed in, every field of that format takes the fallback set's.
    What dispatch and combine carry is a payload and stays as it is.
    """
    merged = merge(_named_set(assembly, chosen, "compute", field), chosen.without("compute", "fallback"))
    part = assembly.part(PrecisionFile, merged, field=field)
    lacking = replaced = _lacking(part, device)
    if lacking and chosen.child("fallback") is not None:
        instead = assembly.part(PrecisionFile, _named_set(assembly, chosen, "fallback", field), field=field)
        part = assembly.part(PrecisionFile, _standing_in(part, lacking, merged, instead.tree), field=field)
        lacking = _lacking(part, device)
    if lacking:
        compute = (chosen.child("compute") or Tree(_PLAIN)).value
        raise InputError.single(
            f"{device.name} has no math unit for {' and '.join(lacking)}",
            hint=f"write `precision: {{compute: {compute}, fallback: {_PLAIN}}}`, or name another device",
            field=field, location=chosen.location,
        )  # fmt: skip
    _check_bits(part, chosen, field)
    return part, replaced


def _standing_in(part: DocumentPart[PrecisionFile], lacking: list[str], merged: Tree, instead: Tree) -> Tree:
    """Return the formats with those of a fallback set wherever one has a unit that the device lacks."""
    names = [
        name for name in _FORMATS
        if name in instead.value and math_unit(getattr(part.file, name) or "") in lacking
    ]  # fmt: skip
    scales = [scale for name in names for scale in _SCALES.get(name, ())]
    entries = {name: instead.value[name] for name in (*names, *scales) if name in instead.value}
    block = instead.child("scale_block") or Tree(None, instead.location)
    return merged.without(*scales).with_entries(**entries, scale_block=block)


def _check_bits(part: DocumentPart[PrecisionFile], chosen: Tree, field: str) -> None:
    """Raise InputError where an average of quantised weights is stated and the weights are not quantised."""
    file = part.file
    if file.weight_bits is None or ELEMENT_BYTES[file.weights] <= 1.0:
        return
    stated = part.tree.child("weight_bits") or chosen
    raise InputError.single(
        f"weight_bits is the average of quantised weights, and these are {file.weights}",
        hint="write `weight_bits: null`, or a format of eight bits or fewer for `weights`",
        field=f"{field}.weight_bits", location=stated.location,
    )  # fmt: skip


def _named_set(assembly: Assembly, chosen: Tree, key: str, field: str) -> Tree:
    named = chosen.child(key) or Tree(_PLAIN, chosen.location)
    return assembly.library.document(named, "precisions", "precision", f"{field}.{key}")


def _lacking(part: DocumentPart[PrecisionFile], device: Device) -> list[str]:
    """Return the formats that are computed in and that the device has no unit for."""
    return sorted({math_unit(getattr(part.file, name)) for name in _COMPUTED} - set(device.math))
