"""Reads calibration files: the fits that they state, and the chain of devices that a device inherits from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from costmodel.calibration.candidates import COMPANION, EXPERTS, IN_PLACE
from costmodel.calibration.device_chain import CALIBRATIONS, chain_of
from costmodel.calibration.device_relations import cycle_rate, distance, is_of_one_maker, memory_step, relation
from costmodel.calibration.effects import Effects
from costmodel.calibration.residual_files import read_residuals
from costmodel.cost.anchored_fit import RelativeFit
from costmodel.cost.attention import DecodeForm
from costmodel.cost.calibration import FamilyFit, Form
from costmodel.cost.form_registry import FORMS
from costmodel.cost.gemm import GemmForm, TwoTileForm
from costmodel.cost.parameter import build, freeze
from costmodel.cost.residual import Domain, Nearness, Residual
from costmodel.cost.spread import Spread
from costmodel.cost.xqa import XqaForm
from costmodel.errors import InputError, Location, Problem
from costmodel.records import Record, replace
from costmodel.schema.build import framework as framework_record
from costmodel.schema.calibration import (
    EffectsFile,
    FamilyFitFile,
    FitsFile,
    FormFile,
    RelativeFile,
    RelativeFitFile,
    RelativesFile,
    SpreadFile,
)
from costmodel.schema.device import DeviceFile, WholeRunsFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.references import Library, display_path
from costmodel.schema.strict import Strict, checked
from costmodel.workload.scenario import Framework

File = TypeVar("File", bound=Strict)

DEFAULT_FRAMEWORK = "default"  # names no library
COMPOSITION = "composition"  # calibrations/composition: how whole runs scatter about predictions, by class
SOURCES = "sources"  # calibrations/sources: one source's times over another's
BACKWARD = "backward"  # calibrations/backward: backward attention against the forward fit of its device
SINGLE_SHAPES = "shape"  # what `accuracy.held_out` says where cross-validation held out single shapes
EFFECTS = "effects"  # calibrations/effects: what kernels of other devices, libraries and shapes do not share
RELATIVES = "relatives"  # calibrations/relatives: fits of other devices, moved by rows of a device
PRIOR = "prior"  # calibrations/prior: what kernels of all devices share, by `family/variant` and by family
_HOST = "host_product"  # family of kernels of the host, which say nothing of the device's
ROOFLINE = "roofline"  # calibrations/roofline: the spread of every family about the bare cost functions


class DeviceFits(Record):
    """A calibration file with its residuals, and the device that it is of."""

    file: FitsFile
    residuals: Mapping[str, Residual]
    device: str
    effects: Effects | None = None

    def fit(self, key: str, device: str) -> FamilyFit | None:
        """Return the fit of a `family/variant` or family for a device. None where the file has none."""
        family = self.file.families.get(key)
        if family is None:
            return None
        basis = self.file.basis if self.device == device else "transferred"
        source = f"{CALIBRATIONS}/{self.file.name}"
        fit = replace(family_fit(family, basis, self.residuals.get(key)), source=source)
        single_shapes = family.accuracy is None or family.accuracy.held_out == SINGLE_SHAPES
        if key.partition("/")[0] in EXPERTS and COMPANION in self.file.families:
            companion = replace(family_fit(self.file.families[COMPANION], basis), source=source)
            fit = replace(fit, companions={COMPANION: companion})
        effects = self.effects
        unseen = None if effects is None else effects.unseen(key, is_shape_wise=single_shapes)
        return replace(fit, in_place=self.file.library in IN_PLACE, unseen=unseen)


class RelativeFits(DeviceFits, kw_only=True):
    """A calibration file of a relative, as rows of a device move it.

    factors: by `family/variant`.
    lent: returns a fit of the relative as its terms go on the device.
    """

    factors: Mapping[str, RelativeFitFile]
    lent: Callable[[FamilyFit], FamilyFit]

    def fit(self, key: str, device: str) -> FamilyFit | None:
        """Return the fit of a `family/variant` for a device, moved. None where no rows say anything of it."""
        fit, own = super().fit(key, device), self.factors.get(key)
        if fit is None or own is None:
            return None
        logs = math.log(float(own.launch)), math.log(float(own.compute)), math.log(float(own.memory))
        streams = {name: RelativeFit.of(each, logs) for name, each in fit.companions.items()}
        return RelativeFit.of(replace(self.lent(fit), companions=streams), logs)


class FitStore:
    """Reads calibration files, each once, and the chain of devices that a device inherits from.

    hidden: devices, and files as `DEVICE/IMPLEMENTATION`, that are taken as not there, for what would be predicted
        without them.
    generation: what an architecture without fits adds to intervals, null: as `calibrations/effects` has it.
    """

    def __init__(
        self, library: Library, hidden: frozenset[str] = frozenset(), generation: float | None = None
    ) -> None:  # fmt: skip
        self.library = library
        self._hidden, self._generation = hidden, generation
        self._files: dict[str, DeviceFits | None] = {}
        self._device_files: dict[str, DeviceFile] = {}
        self._chains: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        self._shared: dict[str, Mapping[str, FamilyFitFile]] = {}
        self._others_of: dict[str, dict[bool, list[str]]] = {}

    def __reduce__(self) -> tuple[type[FitStore], tuple[Library, frozenset[str], float | None]]:
        """Return how another process makes it: from the search path, files read anew."""
        return FitStore, (self.library, self._hidden, self._generation)

    def device_fits(self, device: str, implementation: str) -> DeviceFits | None:
        """Return the file `calibrations/DEVICE/IMPLEMENTATION`. None where there is none.

        An implementation may name the device itself, as `DEVICE/IMPLEMENTATION`.
        """
        name = implementation if "/" in implementation else f"{device}/{implementation}"
        if name not in self._files:
            owner = name.partition("/")[0]
            is_hidden = not self._hidden.isdisjoint((owner, name))
            own = self._read(owner, name) if not is_hidden and self.library.has(CALIBRATIONS, name) else None
            self._files[name] = own if own or is_hidden else self._of_relative(owner, name.partition("/")[2])
        return self._files[name]

    def names(self, device: str) -> list[str]:
        """Return the implementations that any root of the search path has of a device."""
        names = () if device in self._hidden else self._implementations.get(device, ())
        return [name for name in names if f"{device}/{name}" not in self._hidden]

    @cached_property
    def _implementations(self) -> Mapping[str, list[str]]:
        """Return the implementations of every device that has a file, sorted."""
        names: dict[str, list[str]] = {}
        for name in self.library.names(CALIBRATIONS):
            device, _, implementation = name.partition("/")
            if implementation and "/" not in implementation:
                names.setdefault(device, []).append(implementation)
        for device, relative in self._relatives.items():
            names[device] = sorted({*names.get(device, ()), *relative.fits})
        return names

    @cached_property
    def _relatives(self) -> Mapping[str, RelativeFile]:
        """Return what rows of devices say of a relative's fits, nothing without a file."""
        return _relatives(self.library)

    def _of_relative(self, device: str, implementation: str) -> DeviceFits | None:
        """Return a relative's file as a device's rows move it. None where they say nothing of it."""
        relative = self._relatives.get(device)
        factors = {} if relative is None else relative.fits.get(implementation, {})
        fits = self.device_fits(relative.of, implementation) if relative is not None and factors else None
        if relative is None or fits is None:
            return None
        families = {
            key: known.model_copy(
                update={"accuracy": None, "nearness": None, "spread": _spread_of(own), "rows": own.rows}
            )
            for key, own in factors.items()
            if (known := fits.file.families.get(key)) is not None
        }
        families |= {key: known for key, known in fits.file.families.items() if key == COMPANION}
        file = fits.file.model_copy(update={"name": f"{device}/{implementation}", "families": families})
        lent = partial(self.on_device, device=device, lender=relative.of)
        return RelativeFits(
            file=file, residuals=fits.residuals, device=device, effects=fits.effects, factors=factors, lent=lent
        )

    def roofline(self) -> FitsFile:
        """Return the spread of the bare cost functions."""
        return read(self.library, CALIBRATIONS, ROOFLINE, FitsFile)

    def source_agreement(self, library: str, family: str, variant: str) -> Spread | None:
        """Return how far two sources differ that timed the same kernels. None without a file.

        library: `same` or `other` library. That of the very variant, else of its family, else of all kernels.
        """
        families = self.families(SOURCES)
        names = (f"{library}/{family}/{variant}", f"{library}/{family}", library)
        return next((family_fit(families[name], "fitted").spread for name in names if name in families), None)

    def backward(self, family: str, device: str) -> FamilyFit:
        """Return the rate that backward attention reaches over the forward kernels', and its spread.

        That of the device, else of those that it inherits from in turn, else that of no device in particular.
        """
        for owner, _ in self.chain(device):
            fits = self.device_fits(owner, BACKWARD)
            if fits is not None and family in fits.file.families:
                return family_fit(fits.file.families[family], "transferred")
        return family_fit(read(self.library, CALIBRATIONS, BACKWARD, FitsFile).families[family], "transferred")

    def others(self, device: str, *, same_die: bool) -> list[str]:
        """Return the other devices of a die, or of the same maker's other dies, that have fits, the nearest first."""
        if device not in self._others_of:
            own, near = self._device_file(device), []
            for name in self._implementations.keys() - {device} - self._hidden:
                other = self._device_file(name)
                if own and other and is_of_one_maker(own, other):
                    near.append((distance(own, other), name, own.die is not None and own.die == other.die))
            near.sort()
            self._others_of[device] = {
                die: [name for _, name, is_same in near if is_same == die] for die in (True, False)
            }
        return self._others_of[device][same_die]

    def may_borrow(self, device: str) -> bool:
        """Tell whether others may lend their fits to a device: not where its file says `inherit: null`."""
        if not self.library.has("devices", device):
            return False
        own = self.library.read_unextended(self.library.find(device, "devices"), "device")
        calibration = own.child("calibration")
        inherit = None if calibration is None else calibration.child("inherit")
        return inherit is None or inherit.value is not None

    def anchor(self, device: str) -> str | None:
        """Return the table of a device's few rows, as its file names it."""
        file = self._device_file(device)
        return None if file is None or file.calibration is None else file.calibration.anchor

    def without(self, device: str) -> frozenset[str]:
        """Return the libraries that do not run on a device."""
        file = self._device_file(device)
        return frozenset(() if file is None or file.calibration is None else file.calibration.without)

    @cached_property
    def effects(self) -> Effects:
        """Return what kernels of other devices, programs and shapes do not share, nothing without a file."""
        has = self.library.has(CALIBRATIONS, EFFECTS)
        families = read(self.library, CALIBRATIONS, EFFECTS, EffectsFile, EFFECTS).families if has else {}
        return Effects(families, self.relation)

    def families(self, name: str) -> Mapping[str, FamilyFitFile]:
        """Return what a file of no device in particular states by family, nothing without the file."""
        if name not in self._shared:
            has = self.library.has(CALIBRATIONS, name)
            self._shared[name] = read(self.library, CALIBRATIONS, name, FitsFile).families if has else {}
        return self._shared[name]

    def whole_runs(self, device: str) -> WholeRunsFile | None:
        """Return what whole runs say of a device's unmeasured kernels: its own, else those of the nearest sibling."""
        for owner, _ in self.chain(device):
            file = self._device_file(owner)
            if file is not None and file.calibration is not None and file.calibration.whole_runs is not None:
                return file.calibration.whole_runs
        return None

    def relation(self, device: str, other: str) -> str:
        """Return how two devices are related."""
        same = device == other
        files = (None, None) if same else (self._device_file(device), self._device_file(other))
        return relation(*files, same=same)

    def novelty(self, device: str) -> float:
        """Return what an architecture without fits adds to the error of what others lend a device, else zero."""
        own, known = self._device_file(device), map(self._device_file, self._implementations.keys() - self._hidden)
        if own is None or own.architecture in {each.architecture for each in known if each is not None}:
            return 0.0
        return self.effects.generation if self._generation is None else self._generation

    def on_device(self, fit: FamilyFit, device: str, lender: str) -> FamilyFit:
        """Return the fit of another device as its terms go on this one.

        What a processor loads of a cache grows with the memory's bandwidth, up to what L2 gives. On the same die the
        clock of products is that which this device's power allows, and small tiles take as many cycles.
        """
        own, other = (None, None) if device == lender else (self._device_file(device), self._device_file(lender))
        if own is None or other is None:
            return fit
        if isinstance(fit.form, DecodeForm | XqaForm):
            return replace(fit, form=fit.form.on_memory(*memory_step(own, other)))
        if own.die is None or own.die != other.die or not isinstance(fit.form, GemmForm | TwoTileForm):
            return fit
        unit = next((name for name in own.math if name in ("bf16", "fp16") and name in other.math), None)
        if unit is None:
            return fit
        peaks = float(own.math[unit].peak) / float(other.math[unit].peak)
        power = float(own.power.tdp) / float(other.power.tdp) if own.power.tdp and other.power.tdp else peaks
        return replace(fit, form=fit.form.on_die(peaks / power, cycle_rate(own) / cycle_rate(other)))

    def rate_on_die(self, device: str) -> float:
        """Return the FLOP of a processor in a cycle over the most of the die's devices that have fits, at most one."""
        own = self._device_file(device)
        if own is None or own.die is None:
            return 1.0
        relatives = (
            file for file in map(self._device_file, self._implementations) if file is not None and file.die == own.die
        )
        return min(cycle_rate(own) / max(map(cycle_rate, relatives), default=cycle_rate(own)), 1.0)

    def _device_file(self, device: str) -> DeviceFile | None:
        if device not in self._device_files and self.library.has("devices", device):
            self._device_files[device] = read(self.library, "devices", device, DeviceFile)
        return self._device_files.get(device)

    def chain(self, device: str) -> list[tuple[str, Mapping[str, str]]]:
        """Return the device with its default implementations, then those that it inherits from in turn."""
        if device not in self._chains:
            chain = chain_of(self.library, device)
            self._chains[device] = [
                (name, {key: one for key, one in defaults.items() if self._hidden.isdisjoint(_of_default(name, one))})
                for name, defaults in chain
            ]
        return self._chains[device]

    def _read(self, device: str, name: str) -> DeviceFits:
        file = read(self.library, CALIBRATIONS, name, FitsFile)
        path = self.library.find(name, CALIBRATIONS)
        if file.name != name:  # results and other fits find it by its name
            raise InputError.single(
                f"{file.name!r} is not where the file is", hint=f"write `name: {name}`", field="name",
                location=Location(display_path(path)),
            )  # fmt: skip
        residuals = {} if file.residuals is None else read_residuals(path.parent / file.residuals)
        fits = DeviceFits(file, residuals, device, self.effects)
        _check_axes(path, fits)
        return fits


def _of_default(device: str, name: str) -> tuple[str, ...]:
    """Return the devices and the file that a device's default is of."""
    return (device, name.partition("/")[0], name) if "/" in name else (device, f"{device}/{name}")


def _spread_of(own: RelativeFitFile) -> list[SpreadFile]:
    half = float(own.half_width)
    return [SpreadFile.model_construct(time=1.0, low=math.exp(-half), median=1.0, high=math.exp(half), rows=own.rows)]


def _relatives(library: Library) -> Mapping[str, RelativeFile]:
    """Return what rows of devices say of a relative's fits, nothing without a file."""
    has = library.has(CALIBRATIONS, RELATIVES)
    return read(library, CALIBRATIONS, RELATIVES, RelativesFile, RELATIVES).devices if has else {}


def basis_of(device: str, search_path: Sequence[str | Path] = ()) -> str:
    """Return the best basis that a device's times can rest on.

    That of its own fits, `transferred` where a sibling has some that it inherits, `roofline` otherwise.
    """
    library = Library(search_path)
    names, relatives = library.names(CALIBRATIONS), _relatives(library)
    for owner, _ in chain_of(library, device):
        if owner in relatives:
            return "fitted" if owner == device else "transferred"
        files = (read(library, CALIBRATIONS, name, FitsFile) for name in names if name.startswith(f"{owner}/"))
        own = next((file for file in files if set(file.families) != {_HOST}), None)
        if own is not None:
            return own.basis if owner == device else "transferred"
    return ROOFLINE


def _check_axes(path: Path, fits: DeviceFits) -> None:
    """Raise InputError where a family's domain or residual is not over the axes of its form."""
    for key, family in fits.file.families.items():
        if family.form is None:
            continue
        axes = tuple(FORMS[family.form.kind].AXES)
        residual = fits.residuals.get(key)
        for name, stated in (
            ("domain", tuple(family.domain) or axes), ("residual", axes if residual is None else residual.axes)
        ):  # fmt: skip
            if stated != axes:
                message = f"is over {', '.join(stated)}, but a `{family.form.kind}` has {', '.join(axes)}"
                location = Location(display_path(path))
                raise InputError([Problem(location, f"families.{key}.{name}", message, "fit the calibration again")])


def read(library: Library, kind: str, name: str, model: type[File], schema: str = "") -> File:
    """Return the checked file `kind/name`; raise InputError with all its problems. schema: blank for the kind's own."""
    return checked(model, library.read(library.find(name, kind), schema or kind.removesuffix("s")))


def family_fit(file: FamilyFitFile, basis: str, residual: Residual | None = None) -> FamilyFit:
    """Return the fit that a file states, with its residual from the file next to it."""
    knots = sorted(file.spread, key=lambda knot: knot.time)
    spread = Spread(
        tuple(float(knot.time) for knot in knots),
        tuple(float(knot.low) for knot in knots),
        tuple(float(knot.median) for knot in knots),
        tuple(float(knot.high) for knot in knots),
    )
    near = file.nearness
    return FamilyFit(
        compute_efficiency=file.compute_efficiency, hbm_efficiency=file.hbm_efficiency,
        network_efficiency=file.network_efficiency, launch_factor=file.launch_factor,
        form=None if file.form is None else _form(file.form), residual=residual, domain=_domain(file),
        nearness=None if near is None else Nearness(float(near.near), float(near.far), float(near.share)),
        backward_rate=file.backward_rate, extra_keys_per_query=file.extra_keys_per_query, spread=spread, basis=basis,
    )  # fmt: skip


def _form(file: FormFile) -> Form:
    stated = {name: freeze(value) for name, value in file if value is not None and name != "kind"}
    return build(FORMS[file.kind], stated)


def _domain(file: FamilyFitFile) -> Domain | None:
    """Return the measured shapes that the file states, in octaves."""
    if not file.domain or file.radius is None:
        return None
    low, high = (np.log2([float(pair[side]) for pair in file.domain.values()]) for side in (0, 1))
    return Domain(low, high, float(file.radius))


def default_framework(search_path: Sequence[str | Path] = ()) -> Framework:
    """Return the framework that names no library."""
    return framework_of(DEFAULT_FRAMEWORK, Library(search_path))


def framework_of(name: str, library: Library) -> Framework:
    """Return a framework by the name of its file."""
    return framework_record(read(library, "frameworks", name, FrameworkFile))
