"""The chain of devices that a device inherits fits from, as device files say, and which device's fits are its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from costmodel.errors import InputError, Location
from costmodel.schema.device import DeviceFile
from costmodel.schema.references import Library
from costmodel.schema.strict import checked
from costmodel.schema.tree import Tree

CALIBRATIONS = "calibrations"
_LABELS = {"schema", "extends", "name", "aliases", "announced", "price", "sources", "plausible"}  # change no time


def chain_of(library: Library, device: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the device with its default implementations, then those that it inherits from in turn."""
    seen: list[str] = []
    following: str | None = device
    while following is not None:
        if following in seen:
            cycle = " -> ".join((*seen, following))
            raise InputError.single(
                f"devices inherit calibrations from each other in a cycle: {cycle}", field="calibration.inherit",
                hint="remove one of these `inherit`",
            )  # fmt: skip
        seen.append(following)
        if not library.has("devices", following):
            yield following, {}
            return  # a device that was made in Python
        path = library.find(following, "devices")
        checked(DeviceFile, library.read(path, "device"))  # raises what is wrong with it
        own = library.read_unextended(path, "device")
        yield following, _defaults(own)
        following = _donor(own, library)


def _defaults(own: Tree) -> dict[str, str]:
    """Return the defaults that a device's file states itself. What it extends is an entry of its own in the chain."""
    calibration = own.child("calibration")
    default = None if calibration is None else calibration.child("default")
    if default is None:
        return {}
    return {key: str(named.value) for key, named in default.value.items()}


def _donor(own: Tree, library: Library) -> str | None:
    """Return the device from which this one inherits, as its file says, else the one that the file extends."""
    calibration, base = own.child("calibration"), own.child("extends")
    inherit = None if calibration is None else calibration.child("inherit")
    donor = base if inherit is None else inherit
    if donor is None or donor.value is None:
        return None
    return _named(str(donor.value), library, donor.location)


def _named(reference: str, library: Library, origin: Location | None) -> str:
    """Return the name of the device that a reference means. One by its path is known by its name from then on."""
    if not reference.startswith("./"):
        return reference.removeprefix("devices/")
    path = library.find(reference, "devices", origin=origin)
    name = library.read_unextended(path, "device").text("name") or path.stem
    if not library.has("devices", name):
        library.know("devices", name, path)
    return name


def same_device(device: str, library: Library) -> str:
    """Return the device whose fits are those of this one: itself, or what its file extends without other hardware."""
    if not library.has("devices", device) or any(name.startswith(f"{device}/") for name in library.names(CALIBRATIONS)):
        return device
    own = library.read_unextended(library.find(device, "devices"), "device")
    base = own.child("extends")
    if base is None or not isinstance(base.value, str) or not set(own.value) <= {*_LABELS, "calibration"}:
        return device
    name = _named(base.value, library, base.location)
    calibration = own.child("calibration")
    if calibration is not None and (set(calibration.value) != {"inherit"} or _donor(own, library) != name):
        return device
    return same_device(name, library)
