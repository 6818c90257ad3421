"""Which calibration file answers for a kernel that a table names: the same kernel's, else the nearest that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path

from costmodel.calibration.fit_files import CALIBRATIONS, DeviceFits, FitStore
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.fit_search import UNKNOWN
from costmodel.calibration.row_times import Choice
from costmodel.calibration.substitutes import ELEMENTWISE, GRADIENTS, nearest_keys
from costmodel.cost.calibration import Calibration
from costmodel.records import Record, ValueRecord
from costmodel.schema.references import Library


class Kernel(ValueRecord):
    """How a row names what ran: framework, kernel and timing method, blank where it does not say."""

    framework: str
    kernel: str
    timing: str


UNNAMED = Kernel("", "", "")


class _Candidate(Record):
    """A calibration file of the chain.

    distance: devices between its device and the one asked for.
    defaults: of its device, by family or `family/variant`.
    is_own: it is of the device asked for.
    """

    fits: DeviceFits
    implementation: str
    distance: int
    defaults: Mapping[str, str]
    is_own: bool = True

    def covers(self, key: str) -> bool:
        """Tell whether the file has the very `family/variant`, or the family as a whole. Untuned only at home."""
        file = self.fits.file
        known = file.families.keys() - (() if self.is_own else file.untuned)
        return not {key, key.partition("/")[0]}.isdisjoint(known)

    def mismatch(self, kernel: Kernel) -> tuple[int, ...]:
        """Return how far the file is from a kernel, the weightiest first. What a row does not say does not count.

        A kernel that no file names is nearest to those of the library whose name its own holds. A file without names of
        kernels has those of its frameworks and of its library. One that says of no rows that it is theirs only the
        latter.
        """
        file = self.fits.file
        names = [framework.partition(" ")[0] for framework in file.frameworks]
        elsewhere = _differs(kernel.framework.partition(" ")[0], names)
        unnamed = 0 if not kernel.kernel or self.is_named(kernel) else elsewhere if self.names_rows else 1
        other = _differs(kernel.kernel, file.kernels) if file.kernels else unnamed
        elsewhere = elsewhere or int(bool(other) and not self.names_rows)
        return (
            other, int(bool(other) and not self.is_named(kernel)), elsewhere,
            _differs(kernel.framework, file.frameworks), _differs(kernel.timing, file.timings),
        )  # fmt: skip

    def is_named(self, kernel: Kernel) -> bool:
        """Tell whether the names of a kernel and its framework hold the words of the file's library, as `fa3-vit`."""
        library, named = self.fits.file.library, f"{kernel.kernel} {kernel.framework}".lower()
        return library is not None and all(word in named for word in library.split("-"))

    def is_of_other_library(self, kernel: Kernel) -> bool:
        """Tell whether a kernel is none of the file's library, as far as its row says."""
        return all(self.mismatch(kernel)[:2])

    @property
    def is_measured(self) -> bool:
        """Tell whether the file was fitted to rows, rather than states a published rate."""
        return any(family.form is not None for family in self.fits.file.families.values())

    @property
    def names_rows(self) -> bool:
        """Tell whether the file says which rows it is of, by framework, kernel or timing."""
        file = self.fits.file
        return bool(file.frameworks or file.kernels or file.timings)

    def answers(self, kernel: Kernel) -> bool:
        """Tell whether the file may answer for a kernel while another has rows: one that states a rate may not."""
        return self.is_measured or self.names_rows or self.is_named(kernel)

    def library_relation(self, kernel: Kernel) -> str | None:
        """Return whether a kernel of another source is of the `same` library or an `other`. None: it is of this source.

        A row that names its framework or its kernel alone, and not how it was timed, is of some other source. Of which
        kernel one is that names nothing, nobody knows. A file that states a published rate has no source of rows.
        """
        mismatch = self.mismatch(kernel)
        is_bare = not kernel.timing and not (kernel.framework and kernel.kernel)
        if not self.is_measured or not (any(mismatch) or is_bare):
            return None
        return "other" if mismatch[1] or kernel == UNNAMED else "same"

    def order(self, kernel: Kernel, key: str) -> tuple[int | str, ...]:
        """Return what candidates for a kernel are ordered by.

        Those of its library on any device of the chain, the nearest device, the least mismatch, the device's default.
        """
        default = self.defaults.get(key, self.defaults.get(key.partition("/")[0]))
        mismatch = self.mismatch(kernel)
        other_library = int(self.is_of_other_library(kernel))
        return (other_library, self.distance, *mismatch, int(self.implementation != default), self.implementation)


class Chooser:
    """Finds the fits for kernels on one device. Files are read once. hidden: devices whose fits are not looked at."""

    def __init__(
        self, device: str, search_path: Sequence[str | Path] = (), hidden: frozenset[str] = frozenset()
    ) -> None:  # fmt: skip
        self._device = device
        self._store = FitStore(Library(search_path), hidden)
        self._choices: dict[tuple[str, str, Kernel], Choice] = {}

    def choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        """Return the fits for a kernel of a family.

        Order: the kernel itself on this device. Another kernel, framework or version of it here. The same on the
        devices that this one inherits from, in turn. The nearest variant that any of these has. A published rate of a
        kernel that no row names. The roofline. The file answers for all families that it covers, such as the decoding
        part of a mixed call. The others keep the device's defaults. A row that names nothing is the kernel that runs
        where no program is meant: the device's own default, else what others lend it.
        """
        key = (family, variant, kernel)
        if key not in self._choices:
            self._choices[key] = self._choose(family, variant, kernel)
        return self._choices[key]

    def _choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        default = self._of_no_program(family, variant) if kernel == UNNAMED else None
        if default is not None:
            return default
        forward = (f"{GRADIENTS[family]}/{variant}",) if family in GRADIENTS else ()  # at a share of its rate
        requested = f"{family}/{variant}"
        measured = [candidate for candidate in self._candidates if candidate.answers(kernel)]
        keys = (requested, *nearest_keys(family, variant), *forward)
        for candidates, key in product((measured, self._candidates), keys):
            covering = [candidate for candidate in candidates if candidate.covers(key)]
            if covering:
                best = min(covering, key=lambda candidate: candidate.order(kernel, key))
                is_stand_in = best.distance > 0 and best.is_measured and best.is_of_other_library(kernel)
                substitute = self._standing_in(kernel, requested) if is_stand_in else None
                return substitute or self._choice(best, kernel, requested, key)
        other = self._of_others(kernel, requested)
        if other is not None:
            return other
        fits = FitLookup(self._store, self._device, {})
        return Choice(Calibration(self._device, fits), f"no fit of {requested} for {self._device}; roofline used")

    def _of_no_program(self, family: str, variant: str) -> Choice | None:
        """Return the measured fits that a simulation takes where the framework names no kernel, null without any."""
        requested = f"{family}/{variant}"
        fits = FitLookup(self._store, self._device, {})
        considered = fits.considered(requested)
        best = considered[-1] if considered else None
        if best is None or best.fit is None or best.fit.form is None or not best.device:
            return None
        lender = "" if best.device == self._device else f" (fit of {best.device})"
        instead = "" if best.key in (requested, family) else f", {best.key} substitutes for {requested}"
        why = f"{best.source.removeprefix(f'{CALIBRATIONS}/')}{lender}{instead}"
        across = self._store.source_agreement("other", family, variant)
        return Choice(Calibration(self._device, fits), why, across)

    def _of_others(self, kernel: Kernel, requested: str) -> Choice | None:
        """Return the fits of the kernel itself that other devices lend, those of the die first, null without any.

        The kernel and its framework come first, then the nearest device, then the framework's version and the timing.
        """
        if self._candidates or not self._store.may_borrow(self._device):
            return None
        same_die, other_dies = self._store.same_die(self._device), self._store.of_other_dies(self._device)
        for devices in (same_die, other_dies):
            others = self._files_of([self._store.chain(device)[0] for device in devices])
            covering = [each for each in others if each.covers(requested) and each.names_rows]
            if covering:
                best = min(covering, key=lambda each: (*each.mismatch(kernel)[:3], *each.order(kernel, requested)))
                substitute = self._standing_in(kernel, requested) if best.is_of_other_library(kernel) else None
                return substitute or self._choice(best, kernel, requested, requested)
        return None

    def _standing_in(self, kernel: Kernel, requested: str) -> Choice | None:
        """Return the fits that stand in for a kernel of a library that no device so near has, null without any.

        They are those that a simulation takes whose framework names the kernel: it on the nearest device that has it,
        and what the die's devices run instead, each by its expected error.
        """
        scope: dict[str, tuple[str, ...]] = {requested: (self._name_elsewhere(kernel, requested),)}
        fits = FitLookup(self._store, self._device, self._elementwise(kernel) | scope)
        considered = fits.considered(requested)
        best = considered[-1] if considered else None
        if best is None or best.fit is None or best.fit.form is None or not best.device:
            return None
        said = f"kernel {kernel.kernel}" if kernel.kernel else f"framework {kernel.framework}"
        instead = "" if best.key == requested else f", {best.key} substitutes for {requested}"
        lender = "" if best.device == self._device else f" (fit of {best.device})"
        why = f"{best.source.removeprefix(f'{CALIBRATIONS}/')}{lender} stands in for {said}{instead}"
        return Choice(Calibration(self._device, fits), why, None)

    def _name_elsewhere(self, kernel: Kernel, requested: str) -> str:
        """Return how the nearest device of another die names a kernel's implementation, `unknown` where none has it.

        A name that files of several libraries have is that of a framework's path: it means what the framework runs on
        the nearest device.
        """
        others = self._files_of([self._store.chain(device)[0] for device in self._store.of_other_dies(self._device)])
        covering = [each for each in others if each.covers(requested) and each.names_rows]
        libraries = {each.fits.file.library for each in others if kernel.kernel in each.fits.file.kernels}
        if len(libraries) > 1 and kernel.framework:
            own = [each for each in covering if not each.mismatch(kernel)[2]]
            nearest = min(own, key=lambda each: (each.distance, *each.mismatch(kernel)), default=None)
        else:
            own = [each for each in covering if not each.is_of_other_library(kernel)]
            nearest = min(own, key=lambda each: (*each.mismatch(kernel)[:2], each.distance), default=None)
        return UNKNOWN if nearest is None else nearest.implementation

    def _choice(self, best: _Candidate, kernel: Kernel, requested: str, key: str) -> Choice:
        """Return the fits of a device with those of one file before its defaults. key: what the file is taken for."""
        file = best.fits.file
        name = file.name if file.untuned and best.is_own else best.implementation
        scopes: dict[str, tuple[str, ...]] = {_scope(key): (name,) for key in file.families}
        calibration = Calibration(
            self._device, FitLookup(self._store, self._device, self._elementwise(kernel) | scopes)
        )  # fmt: skip
        instead = "" if key == requested else f", {key} substitutes for {requested}"
        relation = best.library_relation(kernel)
        family, _, variant = requested.partition("/")
        across = None if relation is None else self._store.source_agreement(relation, family, variant)
        return Choice(calibration, _why(best, kernel) + instead, across)

    def _elementwise(self, kernel: Kernel) -> dict[str, tuple[str, ...]]:
        """Return the implementations of the element-wise kernels that run in the same rows as others, kind by kind."""
        best: dict[str, _Candidate] = {}
        for candidate in self._candidates:
            for key in candidate.fits.file.families:
                if key.startswith(f"{ELEMENTWISE}/"):
                    pair = (best.setdefault(key, candidate), candidate)
                    best[key] = min(pair, key=lambda each: each.order(kernel, key))
        return {key: (candidate.implementation,) for key, candidate in best.items()}

    @cached_property
    def _candidates(self) -> list[_Candidate]:
        return self._files_of(self._store.chain(self._device))

    def _files_of(self, devices: Sequence[tuple[str, Mapping[str, str]]]) -> list[_Candidate]:
        candidates = []
        for distance, (device, defaults) in enumerate(devices):
            for implementation in self._store.names(device):
                fits = self._store.device_fits(device, implementation)
                if fits is not None:
                    is_own = device == self._device
                    candidates.append(_Candidate(fits, implementation, distance, defaults, is_own))
        return candidates


def _scope(key: str) -> str:
    """Return for what a file is chosen that has `family/variant`: the family. Of streams the kind alone."""
    return key if key.startswith(f"{ELEMENTWISE}/") else key.partition("/")[0]


def _why(best: _Candidate, kernel: Kernel) -> str:
    name = best.fits.file.name
    if best.distance:
        return f"{name} (fit of {best.fits.device})"
    mismatch = best.mismatch(kernel)
    if not any(mismatch):
        return name
    said = (
        *(f"kernel {kernel.kernel}",) * 2, f"framework {kernel.framework}", kernel.framework, f"timing {kernel.timing}",
    )  # fmt: skip
    closest = next(text for text, differs in zip(said, mismatch, strict=True) if differs)
    return f"{name} (closest match for {closest})"


def _differs(stated: str, known: Sequence[str]) -> int:
    return int(bool(stated) and bool(known) and stated not in known)
