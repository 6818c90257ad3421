"""The calibration of a device under a framework: fits of the kernels that it names, over the spread of the roofline."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from costmodel.calibration.forms import FORMS
from costmodel.calibration.residuals import read_residuals
from costmodel.cost.calibration import Calibration, FamilyFit, Form, Spread
from costmodel.cost.residual import Domain, Residual
from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.assemble import Assembly
from costmodel.schema.calibration import FamilyFitFile, FitsFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.forms import FormFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.references import FOLDERS, Library
from costmodel.schema.strict import Strict
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
    names, notes = [], []
    chosen = dict(implementations)
    for family in sorted({*fits, *chosen}):
        found = _search(library, device, family, chosen.get(family))
        if found is None:
            if family in chosen:
                notes.append(f"{family}: nothing is known of {chosen[family]} on {device}; priced at the roofline")
            continue
        fits |= _fits(found, family, borrowed=found.device != device)
        names.append(found.file.name)
        if found.device != device and family in chosen:
            notes.append(
                f"{family}: {found.file.name}, measured on {found.device}, stands in for {chosen[family]} on {device}"
            )
    return Calibration(", ".join(dict.fromkeys(names)) or base.name, fits, tuple(notes))


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A calibration file, where it stands, and the device that it is of."""

    file: FitsFile
    path: Path
    device: str


def _fits(found: _Found, family: str, *, borrowed: bool) -> dict[str, FamilyFit]:
    """Return the fits of a family and its variants in a file."""
    basis = "transferred" if borrowed else found.file.basis
    own = {name: fit for name, fit in found.file.families.items() if name.partition("/")[0] == family}
    stored = found.file.residuals
    residuals = read_residuals(found.path.parent / stored) if stored is not None else {}
    return {name: family_fit(fit, basis, residuals.get(name)) for name, fit in own.items()}


def _search(library: Library, device: str, family: str, implementation: str | None) -> _Found | None:
    """Return the nearest file that covers a family; None where no device of the chain has one.

    Of each device in turn: the named implementation, or, where none is named, the first of the device's defaults.
    """
    for owner, defaults in _chain(library, device):
        for each in defaults if implementation is None else (implementation,):
            name = f"{owner}/{each}"
            if not _exists(library, _KIND, name):
                continue
            path = library.find(name, _KIND)
            file = read(library, _KIND, name, FitsFile)
            if any(key.partition("/")[0] == family for key in file.families):
                return _Found(file, path, owner)
    return None


def _chain(library: Library, device: str) -> Iterator[tuple[str, tuple[str, ...]]]:
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
        if not _exists(library, "devices", following):
            yield following, ()
            return  # a device that was made in Python
        stated = read(library, "devices", following, DeviceFile).calibration
        yield following, () if stated is None else tuple(stated.default)
        inherited = None if stated is None else stated.inherit
        following = None if inherited is None else inherited.removeprefix("devices/")


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


def family_fit(file: FamilyFitFile, basis: str, residual: Residual | None = None) -> FamilyFit:
    """Return the fit that a file states, with its residual from the file beside it."""
    knots = sorted(file.spread, key=lambda knot: knot.time)
    spread = Spread(
        tuple(float(knot.time) for knot in knots),
        tuple(float(knot.low) for knot in knots),
        tuple(float(knot.median) for knot in knots),
        tuple(float(knot.high) for knot in knots),
    )
    form = None if file.form is None else _form(file.form)
    return FamilyFit(
        file.compute, file.memory, file.network, file.launch, spread, basis, form, residual, _domain(file)
    )  # fmt: skip


def _form(file: FormFile) -> Form:
    """Return the form with the parameters that the file states."""
    kind = FORMS[file.kind]
    values = {name: float(getattr(file, name)) for name in kind.bounds}
    choices = {name: value for name, value in file.model_dump().items() if name not in kind.bounds and name != "kind"}
    if "tiles" in choices:
        choices["tiles"] = tuple((int(rows), int(columns)) for rows, columns in choices["tiles"])
    return kind.build(values, choices)


def _domain(file: FamilyFitFile) -> Domain | None:
    """Return the measured shapes that the file states, in octaves."""
    if not file.domain or file.radius is None:
        return None
    low, high = (np.log2([float(pair[side]) for pair in file.domain.values()]) for side in (0, 1))
    return Domain(low, high, float(file.radius))
