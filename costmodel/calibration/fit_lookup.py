"""The calibration of a device under a framework: for every kernel the first of the fits that may answer for it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from costmodel.calibration.fit_files import (
    CALIBRATIONS,
    ROOFLINE,
    DeviceFits,
    FitStore,
    family_fit,
    framework_of,
)
from costmodel.calibration.substitutes import (
    ELEMENTWISE,
    EXPANDING,
    GRADIENTS,
    ROOFLINE_ALIKE,
    SUBSTITUTES,
    nearest_keys,
)
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.references import Library, suggest
from costmodel.workload.scenario import Framework


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
        framework = framework_of(framework, library)
    name = device if isinstance(device, str) else device.name
    implementations = tuple(sorted(framework.implementations.items()))
    return _loaded(name.removeprefix("devices/"), implementations, tuple(map(Path.resolve, library.roots)))


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


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A fit that may answer for a kernel, or a place where one was looked for in vain.

    source: the file.
    key: `family/variant` or family whose kernels it is of.
    role: why it is looked at.
    fit: what it states; None where it is passed over.
    passed_over: why it is.
    """

    source: str
    key: str
    role: str
    fit: FamilyFit | None = None
    passed_over: str = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.role}): {self.passed_over or self.key}"


@dataclass(frozen=True, slots=True, eq=False)
class _Resolution:
    """The fit that answers for a key, None where there is none, and the candidates up to it."""

    fit: FamilyFit | None
    considered: tuple[Candidate, ...]


class FitLookup(Mapping[str, FamilyFit]):
    """The fits of a device by `family/variant` and by family, each looked up when it is first asked for.

    implementations: those that come before the device's defaults, by family or `family/variant`; of several the first
    that the device has, else that a device has which it inherits from.
    """

    def __init__(self, store: FitStore, device: str, implementations: Mapping[str, Sequence[str]]) -> None:
        self._store, self._device, self._implementations = store, device, implementations
        self._chain = store.chain(device)
        self._base = _rooflines(store)
        self._resolutions: dict[str, _Resolution] = {}
        self.notes: list[str] = []

    def __getitem__(self, key: str) -> FamilyFit:
        fit = self._resolve(key).fit
        if fit is None:
            raise KeyError(key)
        return fit

    def __iter__(self) -> Iterator[str]:
        known = (key for key, each in self._resolutions.items() if each.fit is not None)
        return iter({**self._base, **dict.fromkeys(known)})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def considered(self, key: str) -> tuple[Candidate, ...]:
        """Return the candidates for a `family/variant` in the order of the choice; the last one answers."""
        found = self._resolve(key)
        family, _, variant = key.partition("/")
        return found.considered if found.fit is not None or not variant else (
            *found.considered, *self._resolve(family).considered
        )  # fmt: skip

    def _resolve(self, key: str) -> _Resolution:
        if key not in self._resolutions:
            self._resolutions[key] = _first(self._candidates(key))
        return self._resolutions[key]

    def _candidates(self, key: str) -> Iterator[Candidate]:
        """Yield what may answer for a key, the best first: its family's fits, other families', the roofline."""
        family, _, variant = key.partition("/")
        yield from self._in_family(key, set())
        if variant:
            yield from self._of_other_family(family, variant)
        elif family in self._base:
            yield Candidate(f"{CALIBRATIONS}/{ROOFLINE}", family, "no fit of the device", self._base[family])

    def _in_family(self, key: str, seen: set[str]) -> Iterator[Candidate]:
        """Yield the fits that files state of a key, then those of the variants whose kernels are most alike.

        A stream of no kind in particular is timed as the nearest kind that is known.
        """
        family, _, variant = key.partition("/")
        seen.add(key)
        yield from self._stated(key)
        if not (variant or family == ELEMENTWISE):
            return
        for other in nearest_keys(family, variant):
            nearest = _first(() if other in seen else self._in_family(other, seen))
            yield from nearest.considered[:-1] if nearest.fit else nearest.considered
            if nearest.fit is not None:
                yield _transferred(nearest.considered[-1], other, has_form=family != ELEMENTWISE)

    def _stated(self, key: str) -> Iterator[Candidate]:
        """Yield the fits of the implementations that the framework names, then those of the devices' defaults."""
        family = key.partition("/")[0]
        named = self._implementations.get(key, self._implementations.get(family, ()))
        if named:
            yield from self._by_name(key, named)
        for i, (device, defaults) in enumerate(self._chain):
            default = defaults.get(key, defaults.get(family))
            if default is not None:
                yield from (self._candidate(fits, key, f"default of {device}") for fits in self._defaults(i, default))

    def _by_name(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield the fits of some implementations, and note what substitutes.

        Here, on the devices inherited from, then on others of the same die: the same kernel on the same die is nearer
        than another kernel on this device.
        """
        family, names = key.partition("/")[0], " or ".join(named)
        is_known = False
        chain = [device for device, _ in self._chain]
        siblings = ((device, name) for name in named for device in self._store.same_die(self._device, name))
        others = ((device, name) for device, name in siblings if device not in chain)
        for device, implementation in itertools.chain(itertools.product(chain, named), others):
            fits = self._store.device_fits(device, implementation)
            if fits is None:
                source = implementation if "/" in implementation else f"{device}/{implementation}"
                yield Candidate(f"{CALIBRATIONS}/{source}", key, _NAMED, passed_over="no such file")
                continue
            is_known = True
            candidate = self._candidate(fits, key, _NAMED)
            if candidate.fit is not None and device != self._device:
                self._note(f"{key}: {self._device} has no fit of {names}; using {implementation}, measured on {device}")
            yield candidate
        lacking = f"{key}: {self._device} has no fit of {names} for this operation" if is_known else (
            f"{family}: {self._device} has no measurements of {names}"
        )  # fmt: skip
        self._note(f"{lacking}; using the closest available fit, or the roofline if there is none")

    def _defaults(self, place: int, named: str) -> Iterator[DeviceFits]:
        """Yield the files of a device's default: its own, then those of the devices it inherits from."""
        devices = [device for device, _ in self._chain[place:]]
        is_known = False
        for device in devices:
            fits = self._store.device_fits(device, named)
            if fits is not None:
                is_known = True
                yield fits
        if not is_known:
            device = devices[0]
            raise InputError.single(
                f"devices/{device} names `{named}`, but there is no {CALIBRATIONS}/{device}/{named}",
                hint=suggest(named, self._store.names(device)), field="calibration.default",
            )  # fmt: skip

    def _of_other_family(self, family: str, variant: str) -> Iterator[Candidate]:
        """Yield the fit of the family whose kernels substitute for those of one that the device has none of."""
        donor = SUBSTITUTES.get(family)
        if donor is None:
            return
        key = f"{donor}/{variant}"
        found = self._resolve(key)
        if found.fit is None:
            yield from found.considered
            return
        yield from found.considered[:-1]
        candidate = _transferred(found.considered[-1], key, has_form=True)
        if candidate.fit is not None and family in GRADIENTS:
            backward = self._store.backward(family, self._device)
            fit = replace(
                candidate.fit, backward_rate=backward.backward_rate, spread=backward.spread,
                extra_keys_per_query=backward.extra_keys_per_query,
            )  # fmt: skip
            candidate = replace(candidate, fit=fit)
        yield candidate

    def _candidate(self, fits: DeviceFits, key: str, role: str) -> Candidate:
        """Return a file's fit of the very variant, else of the family as a whole."""
        family, source = key.partition("/")[0], f"{CALIBRATIONS}/{fits.file.name}"
        for name in (key, family):
            fit = fits.fit(name, self._device)
            if fit is not None:
                return Candidate(source, name, role, fit)
        return Candidate(source, key, role, passed_over=f"has no fit of {key}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


_NAMED = "named by the framework"


def _first(candidates: Iterator[Candidate] | tuple[()]) -> _Resolution:
    """Return the first of some candidates that has a fit: the order of the candidates is the choice."""
    considered: list[Candidate] = []
    for candidate in candidates:
        considered.append(candidate)
        if candidate.fit is not None:
            return _Resolution(candidate.fit, tuple(considered))
    return _Resolution(None, tuple(considered))


def _transferred(candidate: Candidate, key: str, *, has_form: bool) -> Candidate:
    """Return a candidate for other kernels than its own; shares of the peaks are not transferred where `has_form`."""
    role = f"nearest kernels, of {key}"
    assert candidate.fit is not None
    if has_form and candidate.fit.form is None:
        return Candidate(candidate.source, key, role, passed_over="states shares of the peaks, of its own kernels only")
    return Candidate(candidate.source, key, role, replace(candidate.fit, basis="transferred"))


def _rooflines(store: FitStore) -> dict[str, FamilyFit]:
    """Return the spreads of families about the bare roofline, and those of whole runs by class.

    Families that are never compared with it start from another one's: no table has rows of GEMMs that expand narrow
    weights, of latent backward attention, of selected keys, of recurrences, nor of mixed attention by itself.
    """
    base = store.roofline()
    known = {family: family_fit(fit, base.basis) for family, fit in base.families.items()}
    gradients = dict.fromkeys(GRADIENTS, "attention_backward")
    alike = {**EXPANDING, **ROOFLINE_ALIKE, **gradients, "attention_mixed": "attention_prefill"}
    borrowed = {family: known[other] for family, other in alike.items() if other in known}
    runs = {family: family_fit(fit, base.basis) for family, fit in store.composition().items()}
    return borrowed | known | runs
