"""Which calibration file answers for a kernel that a table names: the same kernel's, else the nearest that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path

from costmodel.calibration.candidates import ELEMENTWISE, GRADIENTS, Candidate, nearest_keys
from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.calibration.device_relations import DIE, OWN, REBALANCED, TWIN
from costmodel.calibration.fit_files import DeviceFits, FitStore, default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.fit_search import UNKNOWN
from costmodel.calibration.row_times import Choice
from costmodel.cost.calibration import Calibration
from costmodel.records import Record, ValueRecord
from costmodel.schema.references import Library
from costmodel.workload.scenario import Framework


class Kernel(ValueRecord):
    """How a row names what ran: framework, kernel and timing method, blank where it does not say."""

    framework: str
    kernel: str
    timing: str


UNNAMED = Kernel("", "", "")


class _Candidate(Record):
    """A calibration file of the chain.

    distance: devices between its device and the one asked for.
    is_own: it is of the device asked for.
    is_near: it is of that or of another one of its die.
    """

    fits: DeviceFits
    implementation: str
    distance: int
    is_own: bool = True
    is_near: bool = True

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

    def order(self, kernel: Kernel) -> tuple[int | str, ...]:
        """Return what files are ordered by: library, die, kernel, device, then framework and timing."""
        mismatch = self.mismatch(kernel)
        other = int(self.is_of_other_library(kernel))
        return (other, int(not self.is_near), *mismatch[:2], self.distance, *mismatch[2:], self.implementation)


class Chooser:
    """Finds the fits for kernels on one device. Files are read once. hidden, generation: as of `FitStore`."""

    def __init__(
        self, device: str, search_path: Sequence[str | Path] = (), hidden: frozenset[str] = frozenset(),
        generation: float | None = None,
    ) -> None:  # fmt: skip
        self._device = device
        self._store = FitStore(Library(search_path), hidden, generation)
        self._unnamed = default_framework(search_path).implementations
        self._choices: dict[tuple[str, str, Kernel], Choice] = {}
        self._programs: dict[str, Choice] = {}

    def choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        """Return the fits for a kernel of a family: those that a simulation has whose framework names the kernel.

        Its name is that of the nearest device that has it; a kernel that no file is of is of an unknown library. The
        name holds for all families that its file covers, such as the decoding part of a mixed call. The others, and
        all of a row that names nothing, are those of the default framework.
        """
        key = (family, variant, kernel)
        if key not in self._choices:
            self._choices[key] = self._choose(family, variant, kernel)
        return self._choices[key]

    def under(self, program: Framework) -> Choice:
        """Return the fits that a simulation has under a framework."""
        if program.name not in self._programs:
            fits = FitLookup(self._store, self._device, program.implementations)
            self._programs[program.name] = Choice(Calibration(self._device, fits), f"kernels of {program.name}")
        return self._programs[program.name]

    def _choose(self, family: str, variant: str, kernel: Kernel) -> Choice:
        default = self._of_no_program(family, variant) if kernel == UNNAMED else None
        if default is not None:
            return default
        requested = f"{family}/{variant}"
        forward = (f"{GRADIENTS[family]}/{variant}",) if family in GRADIENTS else ()  # at a share of its rate
        keys = (requested, *nearest_keys(family, variant), *forward)
        for files, key in product(self._steps(kernel), keys):
            covering = [each for each in files if each.covers(key)]
            if covering:
                best = min(covering, key=lambda each: each.order(kernel))
                return self._choice(best, kernel, requested, key)
        fits = self._fits(self._elementwise(kernel))
        return Choice(Calibration(self._device, fits), f"no fit of {requested} for {self._device}; roofline used")

    def _fits(self, named: Mapping[str, Sequence[str]]) -> FitLookup:
        """Return the fits that a simulation has which names kernels by family, over those where no program is meant."""
        unnamed = {key: name for key, name in self._unnamed.items() if key.partition("/")[0] not in named}
        return FitLookup(self._store, self._device, {**unnamed, **named})

    def _steps(self, kernel: Kernel) -> Iterator[list[_Candidate]]:
        """Yield files that a kernel may be of, the likeliest first.

        Those of its library on the device and on those that it inherits from. The very kernel anywhere, of one name for
        several libraries that of its framework on the nearest device. Those of a library that it names, elsewhere:
        libraries differ by more than devices. Other measured files of the device, then published rates. Where it has no
        files, those of the library elsewhere, then any.
        """
        own, every = self._of_chain, self._files
        yield [each for each in own if each.answers(kernel) and not each.is_of_other_library(kernel)]
        very = [each for each in every if kernel.kernel and kernel.kernel in each.fits.file.kernels]
        if len({each.fits.file.library for each in very}) > 1 and kernel.framework:
            very = [each for each in very if not each.mismatch(kernel)[2]]
            for distance in sorted({each.distance for each in very}):
                yield [each for each in very if each.distance == distance]
        yield very
        yield [each for each in every if each.is_measured and each.is_named(kernel)]
        yield [each for each in own if each.answers(kernel)]
        yield own
        if not own:
            yield [each for each in every if each.answers(kernel) and not each.is_of_other_library(kernel)]
            yield [each for each in every if each.answers(kernel)]

    def _of_no_program(self, family: str, variant: str) -> Choice | None:
        """Return the measured fits that a simulation takes where the framework names no kernel, null without any."""
        requested = f"{family}/{variant}"
        fits = self._fits({})
        considered = fits.considered(requested)
        best = considered[-1] if considered else None
        if best is None or best.fit is None or best.fit.form is None or not best.device:
            return None
        lender = "" if best.device == self._device else f" (fit of {best.device})"
        instead = "" if best.key in (requested, family) else f", {best.key} substitutes for {requested}"
        why = f"{best.source.removeprefix(f'{CALIBRATIONS}/')}{lender}{instead}"
        across = self._store.source_agreement("other", family, variant)
        return Choice(Calibration(self._device, fits), why, across)

    def _choice(self, best: _Candidate, kernel: Kernel, requested: str, key: str) -> Choice:
        """Return the fits of a device where a kernel is that of a file. key: what the file is taken for."""
        file, is_other = best.fits.file, best.is_of_other_library(kernel)
        name = file.name if file.untuned and best.is_own else best.implementation
        name = UNKNOWN if is_other and not best.is_own else name
        scopes: dict[str, tuple[str, ...]] = {_scope(each): (name,) for each in file.families}
        if is_other and not best.is_own:
            scopes = {requested.partition("/")[0]: (UNKNOWN,)}
        fits = self._fits(self._elementwise(kernel) | scopes)
        considered = fits.considered(requested)
        taken = considered[-1] if considered else None
        why = self._why(best, kernel, taken)
        instead = "" if key == requested else f", {key} substitutes for {requested}"
        relation = best.library_relation(kernel)
        family, _, variant = requested.partition("/")
        across = None if relation is None else self._store.source_agreement(relation, family, variant)
        return Choice(Calibration(self._device, fits), why + instead, across)

    def _why(self, best: _Candidate, kernel: Kernel, taken: Candidate | None) -> str:
        """Return which file answers, and for what if it is of another kernel or device."""
        if taken is None or not taken.device:
            return _why(best, kernel)
        name = taken.source.removeprefix(f"{CALIBRATIONS}/")
        lender = "" if taken.device == self._device else f" (fit of {taken.device})"
        if name == best.fits.file.name and not lender:
            return _why(best, kernel)
        said = f"kernel {kernel.kernel}" if kernel.kernel else f"framework {kernel.framework}"
        is_it = taken.is_of(best.implementation) and not best.is_of_other_library(kernel)
        return f"{name}{lender}" if is_it else f"{name}{lender} stands in for {said}"

    def _elementwise(self, kernel: Kernel) -> dict[str, tuple[str, ...]]:
        """Return the implementations of the element-wise kernels that run in the same rows as others, kind by kind."""
        best: dict[str, _Candidate] = {}
        for candidate in self._of_chain:
            for key in candidate.fits.file.families:
                if key.startswith(f"{ELEMENTWISE}/"):
                    pair = (best.setdefault(key, candidate), candidate)
                    best[key] = min(pair, key=lambda each: (each.distance, *each.order(kernel)))
        return {key: (candidate.implementation,) for key, candidate in best.items()}

    @cached_property
    def _of_chain(self) -> list[_Candidate]:
        return self._files_of([name for name, _ in self._store.chain(self._device)])

    @cached_property
    def _files(self) -> list[_Candidate]:
        """Return the same, and those of its die and of other dies."""
        own = [name for name, _ in self._store.chain(self._device)]
        if not self._store.may_borrow(self._device):
            return self._of_chain
        others = (*self._store.others(self._device, same_die=True), *self._store.others(self._device, same_die=False))
        return self._files_of(list(dict.fromkeys((*own, *others))))

    def _files_of(self, devices: Sequence[str]) -> list[_Candidate]:
        candidates = []
        for distance, device in enumerate(devices):
            for implementation in self._store.names(device):
                fits = self._store.device_fits(device, implementation)
                if fits is not None:
                    is_own, related = device == self._device, self._store.relation(self._device, device)
                    is_near = related in (OWN, TWIN, DIE, REBALANCED)
                    candidates.append(_Candidate(fits, implementation, distance, is_own, is_near))
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
