"""The calibration of a device under a framework: fits of the kernels that it names, over the spread of the roofline."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from costmodel.calibration.residual_files import read_residuals
from costmodel.cost.calibration import Calibration, FamilyFit, Form, Spread
from costmodel.cost.form_registry import FORMS, freeze
from costmodel.cost.residual import Domain, Nearness, Residual
from costmodel.errors import InputError, Location, Problem
from costmodel.hardware import Device
from costmodel.schema import build
from costmodel.schema.assemble import Assembly
from costmodel.schema.calibration import FamilyFitFile, FitsFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.forms import FormFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.references import FOLDERS, Library, display_path, suggest
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree
from costmodel.workload.operators import GEMM_FAMILIES, gemm_family
from costmodel.workload.scenario import Framework

File = TypeVar("File", bound=Strict)

DEFAULT_FRAMEWORK = "default"  # names no library
COMPOSITION = "composition"  # calibrations/composition: whole runs
SOURCES = "sources"  # calibrations/sources: one source's times over another's
BACKWARD = "backward"  # calibrations/backward: backward attention against the forward fit of its device
ROOFLINE = "roofline"  # calibrations/roofline: the spread of every family about the bare cost functions
_KIND = "calibrations"
# Kernels of a variant that nobody measured are nearest to those of another: the same products in the other 16-bit
# format, the same cache in the products' format, FP8 with the other kind of scales.
_NEAREST = {"fp16": ("bf16",), "bf16": ("fp16",), "fp8": ("fp8_block",), "fp8_block": ("fp8",)}
_ATTENTION = (
    "attention_prefill",
    "attention_decode",
)  # whose FP8 kernels read a cache as narrow as those of 16 bits may
_ELEMENTWISE = "elementwise"
# Families whose kernels stand in for those that a device has no fit of. Backward cores run at a measured share of the
# forward ones' rate; a batched product is a product of several groups; one that expands narrow weights reads them as
# they are stored and multiplies as the plain one does.
GRADIENTS = {"attention_backward": "attention_prefill", "mla_backward": "mla_prefill"}
_EXPANDING = {gemm_family(family, weight_only=True): family for family in GEMM_FAMILIES}
_SUBSTITUTES = {**GRADIENTS, **_EXPANDING, "bmm": "gemm"}
_ELEMENTWISE_KINDS = ("activation", "add", "norm", "rotary")  # a kernel of another kind streams as these do


def load_calibration(
    device: Device | str, framework: Framework | str, search_path: Sequence[str | Path] = ()
) -> Calibration:
    """Return the fit of every operator family on `device` with the kernels that `framework` names.

    A family starts from `calibrations/roofline`. Over it stands the fit of the implementation that the framework names
    for the family or its variant, else that of the device's own `calibration: {default: …}`, in
    `calibrations/DEVICE/IMPLEMENTATION`; where the device has none, the same of the devices that it inherits from in
    turn, which lowers the basis to `transferred`. Files are read when an operator first asks for them. Raises
    InputError with the problems of a file that is found.
    """
    library = Library(search_path)
    if isinstance(framework, str):
        framework = build.framework(read(library, "frameworks", framework, FrameworkFile))
    chosen = dict(framework.implementations)
    name = device if isinstance(device, str) else device.name
    return _loaded(
        name.removeprefix("devices/"), tuple(sorted(chosen.items())), tuple(map(Path.resolve, library.roots))
    )


@functools.lru_cache(maxsize=256)
def _loaded(
    device: str, implementations: tuple[tuple[str, tuple[str, ...]], ...], roots: tuple[Path, ...]
) -> Calibration:
    fits = FitLookup(_fit_store(roots), device, dict(implementations))
    return Calibration(ROOFLINE, fits, fits.notes)


@functools.lru_cache(maxsize=8)
def _fit_store(roots: tuple[Path, ...]) -> FitStore:
    """Return the files of a search path, which all devices and frameworks share."""
    return FitStore(Library(roots))


def basis_of(device: str, search_path: Sequence[str | Path] = ()) -> str:
    """Return the best basis that a device's times can rest on.

    That of its own fits, `transferred` where a sibling has some that it inherits, `roofline` otherwise.
    """
    library = Library(search_path)
    names = library.names(_KIND)
    for owner, _ in _chain(library, device):
        own = [name for name in names if name.startswith(f"{owner}/")]
        if own:
            return read(library, _KIND, own[0], FitsFile).basis if owner == device else "transferred"
    return ROOFLINE


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFits:
    """A calibration file with its residuals, and the device that it is of."""

    file: FitsFile
    residuals: Mapping[str, Residual]
    device: str

    def fit(self, key: str, asked: str) -> FamilyFit | None:
        """Return the fit of a `family/variant` or family for the device `asked`; None where the file has none."""
        family = self.file.families.get(key)
        if family is None:
            return None
        basis = self.file.basis if self.device == asked else "transferred"
        source = f"{_KIND}/{self.file.name}"
        return replace(family_fit(family, basis, self.residuals.get(key)), source=source)


def _check_axes(path: Path, held: DeviceFits) -> None:
    """Raise InputError where a family's domain or residual is not over the axes of its form."""
    for key, family in held.file.families.items():
        if family.form is None:
            continue
        axes = FORMS[family.form.kind].axes
        residual = held.residuals.get(key)
        for name, given in (
            ("domain", tuple(family.domain) or axes), ("residual", axes if residual is None else residual.axes)
        ):  # fmt: skip
            if given != axes:
                message = f"is over {', '.join(given)}, but a `{family.form.kind}` has {', '.join(axes)}"
                place = Location(display_path(path))
                raise InputError([Problem(place, f"families.{key}.{name}", message, "fit the calibration again")])


_COLLECTIVES = {  # kinds of messages by those that move alike
    "all_reduce": ("reduce_scatter", "all_gather"), "all_gather": ("reduce_scatter",),
    "reduce_scatter": ("all_gather",), "broadcast": ("all_gather", "reduce_scatter"),
    "all_to_all": ("all_gather", "reduce_scatter"),
}  # fmt: skip
_PAIRWISE = ("all_to_all", "all_gather")  # of a message between two ranks


def nearest_keys(family: str, variant: str) -> tuple[str, ...]:
    """Return the `family/variant` of the kernels that stand in for those of another one, the most alike first."""
    if family == "send_recv":
        return tuple(f"collective/{kind}" for kind in _PAIRWISE)
    if family == "collective":
        return tuple(f"{family}/{kind}" for kind in _COLLECTIVES.get(variant, ("all_gather",)))
    return tuple(f"{family}/{other}" for other in nearest_variants(family, variant))


def nearest_variants(family: str, variant: str) -> tuple[str, ...]:
    """Return the variants of a family whose kernels stand in for those of `variant`, the most alike first."""
    if family == _ELEMENTWISE:
        return tuple(kind for kind in _ELEMENTWISE_KINDS if kind != variant)
    plain = variant.removesuffix("_narrow").removesuffix("_turned").removesuffix("_masked")
    own: tuple[str, ...] = () if plain == variant else (plain,)
    if variant == "fp8" and family in _ATTENTION:
        own = ("bf16_narrow",)
    return own + _NEAREST.get(plain, ())


class FitStore:
    """Reads calibration files, each once, and the chain of devices that a device borrows from."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._held: dict[str, DeviceFits | None] = {}

    def device_fits(self, device: str, implementation: str) -> DeviceFits | None:
        """Return the file `calibrations/DEVICE/IMPLEMENTATION`; None where there is none.

        An implementation may name the device itself, as `DEVICE/IMPLEMENTATION`.
        """
        name = implementation if "/" in implementation else f"{device}/{implementation}"
        if name not in self._held:
            owner = name.partition("/")[0]
            self._held[name] = self._read(owner, name) if _exists(self._library, _KIND, name) else None
        return self._held[name]

    def names(self, device: str) -> list[str]:
        """Return the implementations that any root of the search path has of a device."""
        folders = [root / FOLDERS[_KIND] / _KIND / device for root in self._library.roots]
        return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})

    def roofline(self) -> FitsFile:
        """Return the spread of the bare cost functions."""
        return read(self._library, _KIND, ROOFLINE, FitsFile)

    def composition(self) -> Mapping[str, FamilyFitFile]:
        """Return how measured times of whole runs scatter about predicted ones, by class; nothing without a file."""
        if not _exists(self._library, _KIND, COMPOSITION):
            return {}
        return read(self._library, _KIND, COMPOSITION, FitsFile).families

    def source_agreement(self, kin: str, family: str, variant: str) -> Spread | None:
        """Return how far two sources differ that timed the same kernels; None without a file.

        kin: `same` or `other` library. That of the very variant, else of its family, else of all kernels.
        """
        if not _exists(self._library, _KIND, SOURCES):
            return None
        families = read(self._library, _KIND, SOURCES, FitsFile).families
        names = (f"{kin}/{family}/{variant}", f"{kin}/{family}", kin)
        return next((family_fit(families[name], "fitted").spread for name in names if name in families), None)

    def backward(self, family: str, device: str) -> FamilyFit:
        """Return the share of the forward kernels' rate that a family of backward cores reaches, and its spread.

        That of the device, else of those that it inherits from in turn, else that of no device in particular.
        """
        for owner, _ in self.chain(device):
            held = self.device_fits(owner, BACKWARD)
            if held is not None and family in held.file.families:
                return family_fit(held.file.families[family], "transferred")
        return family_fit(read(self._library, _KIND, BACKWARD, FitsFile).families[family], "transferred")

    def same_die(self, device: str, implementation: str) -> list[str]:
        """Return the other devices of the same die that have a fit of the implementation, the nearest first.

        Distance: the logarithms of processors and device memory bandwidth, which is what products of one die differ in.
        """
        own = self._device_file(device)
        if own is None or own.die is None or "/" in implementation:
            return []
        folders = [root / FOLDERS[_KIND] / _KIND for root in self._library.roots]
        names = {path.parent.name for folder in folders for path in folder.glob(f"*/{implementation}.yaml")}
        siblings = ((name, self._device_file(name)) for name in sorted(names - {device}))
        return [
            name
            for _, name in sorted(
                (_distance(own, file), name) for name, file in siblings if file and file.die == own.die
            )
        ]

    def _device_file(self, device: str) -> DeviceFile | None:
        """Return a device's file; None for a device that was made in Python."""
        if not _exists(self._library, "devices", device):
            return None
        return read(self._library, "devices", device, DeviceFile)

    def chain(self, device: str) -> list[tuple[str, Mapping[str, str]]]:
        """Return the device with its default implementations, then those that it inherits from in turn."""
        return list(_chain(self._library, device))

    def _read(self, device: str, name: str) -> DeviceFits:
        file = read(self._library, _KIND, name, FitsFile)
        stored = file.residuals
        path = self._library.find(name, _KIND)
        held = DeviceFits(file, {} if stored is None else read_residuals(path.parent / stored), device)
        _check_axes(path, held)
        return held


class FitLookup(Mapping[str, FamilyFit]):
    """The fits of a device by `family/variant` and by family, each looked up when it is first asked for.

    chosen: implementations that stand before the device's defaults, by family or `family/variant`; of several the first
    that the device has, else that a device has which it inherits from.
    """

    def __init__(self, shelf: FitStore, device: str, chosen: Mapping[str, Sequence[str]]) -> None:
        self._shelf, self._device, self._chosen = shelf, device, chosen
        self._chain = shelf.chain(device)
        base = shelf.roofline()
        known = {family: family_fit(fit, base.basis) for family, fit in base.families.items()}
        # No table has rows of products that expand narrow weights: they start from the spread of the plain ones.
        expanding = {family: known[plain] for family, plain in _EXPANDING.items() if plain in known}
        gradients = {family: known["attention_backward"] for family in GRADIENTS if "attention_backward" in known}
        # Nor are mixed attention kernels compared with the bare roofline: they start from the spread of prompts'.
        mixed = {"attention_mixed": known["attention_prefill"]} if "attention_prefill" in known else {}
        whole = {family: family_fit(fit, base.basis) for family, fit in shelf.composition().items()}
        self._base = expanding | gradients | mixed | known | whole
        self._known: dict[str, FamilyFit | None] = {}
        self.notes: list[str] = []

    def __getitem__(self, key: str) -> FamilyFit:
        if key not in self._known:
            self._known[key] = self._find(key)
        found = self._known[key]
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter({**self._base, **{key: None for key, fit in self._known.items() if fit is not None}})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _find(self, key: str) -> FamilyFit | None:
        family, _, variant = key.partition("/")
        fit = self._in_family(key, set())
        if fit is None and variant:
            fit = self._substitute(family, variant)
        return self._base.get(family) if fit is None and not variant else fit

    def _in_family(self, key: str, seen: set[str]) -> FamilyFit | None:
        """Return the fit that files state, else that of the variant whose kernels are most alike, as `transferred`.

        A stream of no kind in particular is priced as the nearest kind that is known.
        """
        family, _, variant = key.partition("/")
        seen.add(key)
        stated = self._stated(key)
        if stated is not None or not (variant or family == _ELEMENTWISE):
            return stated
        for other in nearest_keys(family, variant):
            fit = None if other in seen else self._in_family(other, seen)
            if fit is not None and (fit.form is not None or family == _ELEMENTWISE):
                return replace(fit, basis="transferred")
        return None

    def _stated(self, key: str) -> FamilyFit | None:
        """Return the fit of the implementations that the framework names, else of the device's defaults."""
        family = key.partition("/")[0]
        wanted = self._chosen.get(key, self._chosen.get(family, ()))
        fit = self._by_name(key, wanted) if wanted else None
        if fit is not None:
            return fit
        for place, (_, defaults) in enumerate(self._chain):
            named = defaults.get(key, defaults.get(family))
            for held in () if named is None else self._defaults(place, named):
                fit = self._of(held, key)
                if fit is not None:
                    return fit
        return None

    def _substitute(self, family: str, variant: str) -> FamilyFit | None:
        """Return the fit of the family whose kernels stand in for those of one that the device has none of."""
        lender = _SUBSTITUTES.get(family)
        fit = None if lender is None else self.get(f"{lender}/{variant}" if variant else lender)
        if fit is None or fit.form is None:
            return None
        if family in GRADIENTS:
            gradient = self._shelf.backward(family, self._device)
            fit = replace(
                fit,
                compute=gradient.compute,
                extra_keys_per_query=gradient.extra_keys_per_query,
                spread=gradient.spread,
            )
        return replace(fit, basis="transferred")

    def _by_name(self, key: str, wanted: Sequence[str]) -> FamilyFit | None:
        """Return the first fit of some implementations, and note what stands in for it.

        Looked for here, on the devices that this one inherits from, then on others of the same die: the same kernel on
        the same die is nearer than another kernel on this device.
        """
        family, named = key.partition("/")[0], " or ".join(wanted)
        is_known = False
        chain = [device for device, _ in self._chain]
        siblings = (
            (device, each)
            for each in wanted
            for device in self._shelf.same_die(self._device, each)
            if device not in chain
        )
        for device, each in itertools.chain(itertools.product(chain, wanted), siblings):
            held = self._shelf.device_fits(device, each)
            fit = None if held is None else self._of(held, key)
            is_known = is_known or held is not None
            if fit is not None:
                if device != self._device:
                    self._note(f"{key}: {each} of {device} stands in for {named} on {self._device}")
                return fit
        unknown = f"{key}: {named} is not fitted on {self._device}" if is_known else (
            f"{family}: nothing is known of {named} on {self._device}"
        )  # fmt: skip
        self._note(f"{unknown}; the nearest fit stands in, or the roofline")
        return None

    def _defaults(self, place: int, named: str) -> Iterator[DeviceFits]:
        """Yield the files of a device's default: its own, or those of the devices it borrows from, each when asked."""
        chain = [device for device, _ in self._chain[place:]]
        is_known = False
        for device in chain:
            held = self._shelf.device_fits(device, named)
            if held is not None:
                is_known = True
                yield held
        if not is_known:
            device = chain[0]
            raise InputError.single(
                f"devices/{device} names `{named}`, but there is no {_KIND}/{device}/{named}",
                hint=suggest(named, self._shelf.names(device)), field="calibration.default",
            )  # fmt: skip

    def _of(self, held: DeviceFits, key: str) -> FamilyFit | None:
        """Return a file's fit of the very variant, else of the family as a whole."""
        fit = held.fit(key, self._device)
        return held.fit(key.partition("/")[0], self._device) if fit is None else fit

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _distance(own: DeviceFile, other: DeviceFile) -> float:
    """Return how far two devices of one die are apart: the sum of |log| of what they differ in."""

    def sizes(file: DeviceFile) -> tuple[float, float]:
        return float(file.processors), float(file.memory[-1].bandwidth or np.nan)

    return float(sum(abs(np.log(mine / theirs)) for mine, theirs in zip(sizes(own), sizes(other), strict=True)))


def _chain(library: Library, device: str) -> Iterator[tuple[str, Mapping[str, str]]]:
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
            yield following, {}
            return  # a device that was made in Python
        read(library, "devices", following, DeviceFile)  # raises what is wrong with it
        own = library.read_unextended(library.find(following, "devices"), "device")
        yield following, _named(own)
        lender = _donor(own)
        following = None if lender is None else lender.removeprefix("devices/")


def _named(own: Tree) -> dict[str, str]:
    """Return the defaults that a device's file states itself; what it extends has a place of its own in the chain."""
    calibration = own.child("calibration")
    default = None if calibration is None else calibration.child("default")
    return {} if default is None else {key: str(named.value) for key, named in default.value.items()}


def _donor(own: Tree) -> str | None:
    """Return the device from which this one inherits, as its file says, else the one that the file extends."""
    calibration, base = own.child("calibration"), own.child("extends")
    stated = None if calibration is None else calibration.child("inherit")
    lender = base if stated is None else stated
    return None if lender is None or lender.value is None else str(lender.value)


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
    stated = file.nearness
    nearness = None if stated is None else Nearness(float(stated.near), float(stated.far), float(stated.share))
    return FamilyFit(
        compute=file.compute, memory=file.memory, network=file.network, launch=file.launch, spread=spread, basis=basis,
        form=form, residual=residual, domain=_domain(file), nearness=nearness,
        extra_keys_per_query=file.query_keys,
    )  # fmt: skip


def _form(file: FormFile) -> Form:
    """Return the form with the parameters that the file states."""
    kind = FORMS[file.kind]
    given = {name: value for name, value in file.model_dump().items() if value is not None and name != "kind"}
    values = {name: float(value) for name, value in given.items() if name in kind.names}
    return kind.build(values, {name: freeze(value) for name, value in given.items() if name not in kind.names})


def _domain(file: FamilyFitFile) -> Domain | None:
    """Return the measured shapes that the file states, in octaves."""
    if not file.domain or file.radius is None:
        return None
    low, high = (np.log2([float(pair[side]) for pair in file.domain.values()]) for side in (0, 1))
    return Domain(low, high, float(file.radius))


def default_framework(search_path: Sequence[str | Path] = ()) -> Framework:
    """Return the framework that names no library."""
    return build.framework(read(Library(search_path), "frameworks", DEFAULT_FRAMEWORK, FrameworkFile))
