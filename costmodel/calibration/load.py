"""The calibration of a device under a framework: fits of the kernels that it names, over the spread of the roofline."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from costmodel.cost.calibration import Calibration, FamilyFit, Spread
from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.assemble import Assembly
from costmodel.schema.calibration import FamilyFitFile, FitsFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.references import FOLDERS, Library
from costmodel.schema.strict import Strict
from costmodel.workload.operators import PRODUCTS, product_family
from costmodel.workload.scenario import Framework

File = TypeVar("File", bound=Strict)

ROOFLINE = "roofline"  # calibrations/roofline: the spread of every family about the bare cost functions
_KIND = "calibrations"


def load_calibration(
    device: Device | str, framework: Framework | str, search_path: Sequence[str | Path] = ()
) -> Calibration:
    """Return the fit of every operator family on `device` with the kernels that `framework` names.

    A family starts from `calibrations/roofline`. Where the framework names an implementation of it, the first file of
    `calibrations/DEVICE/IMPLEMENTATION`, `calibrations/SIBLING/IMPLEMENTATION` … that covers the family replaces this;
    the siblings are those that the device file's `calibration: {inherit: …}` names, in turn, and lower the basis to
    `transferred`. Raises InputError with the problems of a file that is found.
    """
    library = Library(search_path)
    if isinstance(framework, str):
        chosen = read(library, "frameworks", framework, FrameworkFile).implementations
    else:
        chosen = dict(framework.implementations)
    name = device if isinstance(device, str) else device.name
    return _loaded(
        name.removeprefix("devices/"), tuple(sorted(chosen.items())), tuple(map(Path.resolve, library.roots))
    )


@functools.lru_cache(maxsize=256)
def _loaded(device: str, implementations: tuple[tuple[str, str], ...], roots: tuple[Path, ...]) -> Calibration:
    library = Library(roots)
    base = read(library, _KIND, ROOFLINE, FitsFile)
    fits = {family: family_fit(fit, base.basis) for family, fit in base.families.items()}
    # No table has rows of products that expand narrow weights: they start from the spread of the plain ones.
    fits = {product_family(family, weight_only=True): fits[family] for family in PRODUCTS if family in fits} | fits
    names, notes = [], []
    for family, implementation in implementations:
        found = _search(library, device, family, implementation)
        if found is None:
            notes.append(f"{family}: nothing is known of {implementation} on {device}; priced at the roofline")
            continue
        file, owner = found
        borrowed = owner != device
        fits[family] = family_fit(file.families[family], "transferred" if borrowed else file.basis)
        names.append(file.name)
        if borrowed:
            notes.append(f"{family}: {file.name}, measured on {owner}, stands in for {implementation} on {device}")
    return Calibration(", ".join(dict.fromkeys(names)) or base.name, fits, tuple(notes))


def basis_of(device: str, search_path: Sequence[str | Path] = ()) -> str:
    """Return the best basis that a device's times can rest on.

    That of its own fits, `transferred` where a sibling has some that it inherits, `roofline` otherwise.
    """
    library = Library(search_path)
    names = library.names(_KIND)
    for owner in _chain(library, device):
        own = [name for name in names if name.startswith(f"{owner}/")]
        if own:
            return read(library, _KIND, own[0], FitsFile).basis if owner == device else "transferred"
    return ROOFLINE


def _search(library: Library, device: str, family: str, implementation: str) -> tuple[FitsFile, str] | None:
    """Return the nearest fit of a family, and the device that it is of; None where no device of the chain has one."""
    for owner in _chain(library, device):
        name = f"{owner}/{implementation}"
        if _exists(library, _KIND, name):
            file = read(library, _KIND, name, FitsFile)
            if family in file.families:
                return file, owner
    return None


def _chain(library: Library, device: str) -> Iterator[str]:
    """Yield the device, then those that it inherits from in turn."""
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
        yield following
        if not _exists(library, "devices", following):
            return  # a device that was made in Python
        inherited = read(library, "devices", following, DeviceFile).calibration
        following = inherited.inherit.removeprefix("devices/") if inherited else None


def _exists(library: Library, kind: str, name: str) -> bool:
    """Tell whether a file is there, without the search for similar names that an error message would make."""
    return any((root / FOLDERS[kind] / kind / f"{name}.yaml").is_file() for root in library.roots)


def read(library: Library, kind: str, name: str, model: type[File]) -> File:
    """Return the checked file `kind/name`; raise InputError with all its problems."""
    assembly = Assembly(library)
    schema = kind.removesuffix("s")
    part = assembly.part(model, library.read(library.find(name, kind), schema))
    if assembly.problems:
        raise InputError(assembly.problems)
    return part.file


def family_fit(file: FamilyFitFile, basis: str) -> FamilyFit:
    """Return the fit that a file states."""
    knots = sorted(file.spread, key=lambda knot: knot.time)
    spread = Spread(
        tuple(float(knot.time) for knot in knots),
        tuple(float(knot.low) for knot in knots),
        tuple(float(knot.median) for knot in knots),
        tuple(float(knot.high) for knot in knots),
    )
    return FamilyFit(file.compute, file.memory, file.network, file.launch, spread, basis)
