"""The number formats of a scenario: a named set, the scenario's changes to it, and what stands in for missing units."""

from __future__ import annotations

from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.assemble import Assembly, Part
from costmodel.schema.framework import PrecisionFile
from costmodel.schema.tree import Tree, merge

_PLAIN = "bf16"  # the set of a scenario that names none
_COMPUTED = ("linear", "attention", "router", "head")  # what a math unit works in; the others are only stored
_FORMATS = (
    *_COMPUTED, "residual", "weights", "master", "gradients", "moments", "kv_cache", "activations", "attention_output",
)  # fmt: skip


def spelt_out(scenario: Tree) -> Tree:
    """Return a scenario with `precision: NAME` as the mapping that it is short for."""
    precision = scenario.child("precision")
    if precision is None or not isinstance(precision.value, str):
        return scenario
    chosen = Tree({"compute": Tree(precision.value, precision.location)}, precision.location, precision.key)
    return scenario.having(precision=chosen)


def choose_formats(
    assembly: Assembly, chosen: Tree, device: Device, field: str
) -> tuple[Part[PrecisionFile], list[str]]:
    """Return the formats of a scenario on a device, and those that the fallback set stands in for.

    Where the device has no unit for a format that is computed in, every field of that format takes the fallback set's.
    What dispatch and combine carry is a payload and stays as it is.
    """
    merged = merge(_named_set(assembly, chosen, "compute", field), chosen.without("compute", "fallback"))
    part = assembly.part(PrecisionFile, merged, field=field)
    lacking = replaced = _lacking(part, device)
    if lacking and chosen.child("fallback") is not None:
        instead = assembly.part(PrecisionFile, _named_set(assembly, chosen, "fallback", field), field=field)
        entries = {
            name: instead.tree.value[name] for name in _FORMATS
            if getattr(part.file, name) in lacking and name in instead.tree.value
        }  # fmt: skip
        block = instead.tree.child("scale_block") or Tree(None, chosen.location)
        part = assembly.part(PrecisionFile, merged.having(**entries, scale_block=block), field=field)
        lacking = _lacking(part, device)
    if lacking:
        compute = (chosen.child("compute") or Tree(_PLAIN)).value
        raise InputError.single(
            f"{device.name} has no math unit for {' and '.join(lacking)}",
            hint=f"write `precision: {{compute: {compute}, fallback: {_PLAIN}}}`, or name another device",
            field=field, location=chosen.location,
        )  # fmt: skip
    return part, replaced


def _named_set(assembly: Assembly, chosen: Tree, key: str, field: str) -> Tree:
    named = chosen.child(key) or Tree(_PLAIN, chosen.location)
    return assembly.library.document(named, "precisions", "precision", f"{field}.{key}")


def _lacking(part: Part[PrecisionFile], device: Device) -> list[str]:
    """Return the formats that are computed in and that the device has no unit for."""
    return sorted({getattr(part.file, name) for name in _COMPUTED} - set(device.math))
