"""The calibration of a device under a framework: for every kernel the fit that is expected to miss it least."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from costmodel.calibration.candidates import (
    Candidate,
    Resolution,
    as_backward,
    first,
    passed_over,
    transferred,
    with_competitors,
)
from costmodel.calibration.expected_error import expected
from costmodel.calibration.fit_files import CALIBRATIONS, ROOFLINE, FitStore, family_fit, framework_of
from costmodel.calibration.fit_search import NAMED, FitSearch, library_of
from costmodel.calibration.substitutes import (
    COLLECTIVE,
    ELEMENTWISE,
    EXPANDING,
    GRADIENTS,
    ROOFLINE_ALIKE,
    SEND_RECV,
    SUBSTITUTES,
    nearest_keys,
)
from costmodel.cost.anchored_fit import AnchoredFit, KernelAnchors
from costmodel.cost.calibration import Calibration, FamilyFit, JoinedFit
from costmodel.hardware import Device
from costmodel.records import replace
from costmodel.schema.references import Library
from costmodel.workload.operators import Operator
from costmodel.workload.scenario import Framework


def load_calibration(
    device: Device | str,
    framework: Framework | str,
    search_path: Sequence[str | Path] = (),
    hidden: frozenset[str] = frozenset(),
) -> Calibration:
    """Return the fit of every operator family on `device` with the kernels that `framework` names.

    A family starts from `calibrations/roofline`. Over it stands the fit of the implementation that the framework names
    for the family or its variant, else that of the device's own `calibration: {default: …}`, in
    `calibrations/DEVICE/IMPLEMENTATION`. Where the device has none, the same of the devices that it inherits from in
    turn, which lowers the basis to `transferred`. Files are read when an operator first asks for them. hidden: devices
    whose fits are taken as not there. Raises InputError with the problems of a file that is determined.
    """
    library = Library(search_path)
    if isinstance(framework, str):
        framework = framework_of(framework, library)
    name, file = (device, None) if isinstance(device, str) else (device.name, device.path)
    implementations = tuple(sorted(framework.implementations.items()))
    library_key = (file, tuple(map(Path.resolve, library.roots)))
    return _loaded(name.removeprefix("devices/"), library_key, implementations, hidden)


@functools.lru_cache(maxsize=256)
def _loaded(
    device: str,
    library_key: tuple[str | None, tuple[Path, ...]],
    implementations: tuple[tuple[str, tuple[str, ...]], ...],
    hidden: frozenset[str],
) -> Calibration:
    file, roots = library_key
    store = _fit_store(roots, (device, file) if file else None, hidden)
    fits = FitLookup(store, store.same_device(device), dict(implementations))
    return Calibration(ROOFLINE, fits, fits.notes, fits.notes_of)


@functools.lru_cache(maxsize=8)
def _fit_store(roots: tuple[Path, ...], own_file: tuple[str, str] | None, hidden: frozenset[str]) -> FitStore:
    """Return the files of a search path, which all devices and frameworks share. own_file: a device not on it."""
    return store_of(roots, own_file, hidden)


def store_of(roots: Sequence[Path], own_file: tuple[str, str] | None, hidden: frozenset[str] = frozenset()) -> FitStore:
    """Return the calibration files of a search path. own_file: name and file of a device not on it."""
    library = Library(roots)
    if own_file is not None:
        library.know("devices", own_file[0], Path(own_file[1]))
    return FitStore(library, hidden)


class FitLookup(Mapping[str, FamilyFit]):
    """The fits of a device by `family/variant` and by family, each looked up when it is first asked for.

    implementations: those that come before the device's defaults, by family or `family/variant`. Of several the first
    that the device has, else that a device has which it inherits from. is_anchored: rows of the device, too few for
    fits of their own, move what others lend it.
    """

    def __init__(
        self, store: FitStore, device: str, implementations: Mapping[str, Sequence[str]], *, is_anchored: bool = True
    ) -> None:
        self._store, self._device, self._implementations = store, device, implementations
        self._is_anchored = is_anchored
        self._search = FitSearch(store, device)
        self._without = store.without(device)
        self._base = _rooflines(store)
        self._resolutions: dict[str, Resolution] = {}
        self._competitors_of: dict[tuple[str, tuple[str, ...]], tuple[Candidate, ...]] = {}
        self._anchored: dict[str, AnchoredFit] = {}
        self.notes: list[str] = []
        self._notes_of: dict[str, tuple[str, ...]] = {}
        self._asked: list[dict[str, None]] = []  # notes so far of each key that is being looked up, the innermost last

    def __getitem__(self, key: str) -> FamilyFit:
        resolved = self._resolve(key)
        if resolved.fit is None:
            raise KeyError(key)
        anchors = self._anchors.get(key)
        if anchors is None or resolved.fit.form is None or resolved.considered[-1].device == self._device:
            return resolved.fit
        if key not in self._anchored:
            count = len(anchors.errors)
            moved = f"{key}: moved by {count} row{'' if count == 1 else 's'} of {anchors.source}"
            self._note(moved)
            self._notes_of[key] = (*self._notes_of[key], moved)
            self._anchored[key] = AnchoredFit.of(resolved.fit, anchors)
        return self._anchored[key]

    @property
    def base(self) -> tuple[str, ...]:
        """Return the families that every device has."""
        return tuple(self._base)

    @property
    def has_rows(self) -> bool:
        """Tell whether rows of the device move what others lend it."""
        return bool(self._anchors)

    def read_anchors(self) -> None:
        """Read the rows that the device's file names. Raises InputError where they cannot move a fit."""
        self._anchors  # noqa: B018  read when first asked for

    @cached_property
    def _anchors(self) -> Mapping[str, KernelAnchors]:
        """Return the rows of the device that move transferred fits, by `family/variant`."""
        name = self._store.anchor(self._device) if self._is_anchored else None
        if name is None:
            return {}
        from costmodel.calibration.kernel_anchors import read_anchors  # few devices have rows: tables load with them

        donor = FitLookup(self._store, self._device, self._implementations, is_anchored=False)
        return read_anchors(self._store.library, self._device, name, donor)

    def __iter__(self) -> Iterator[str]:
        known = (key for key, each in self._resolutions.items() if each.fit is not None)
        return iter({**self._base, **dict.fromkeys(known)})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def considered(self, key: str) -> tuple[Candidate, ...]:
        """Return the candidates for a `family/variant` in the order of the choice. The last one answers."""
        resolved = self._resolve(key)
        family, _, variant = key.partition("/")
        return resolved.considered if resolved.fit is not None or not variant else (
            *resolved.considered, *self._resolve(family).considered
        )  # fmt: skip

    def considered_at(self, key: str, operator: Operator) -> tuple[Candidate, ...]:
        """Return the candidates for an operator with their expected errors at its shape. The last one answers."""
        considered = self.considered(key)
        taken = considered[-1] if considered else None
        if taken is None or taken.fit is None or taken.fit.competitors is None:
            return considered
        fits = {fit.source: fit for fit in (*taken.fit.competitors(), taken.fit)}
        own_last = sorted(self._competitors_of.items(), key=lambda item: item[0][0] == key)
        known = {each.source: each for _, fits_of_key in own_last for each in fits_of_key} | {taken.source: taken}
        answer, weights = taken.fit.at(operator), {taken.source: 1.0}
        if isinstance(answer, JoinedFit):
            weights = {part.source: float(weight) for part, weight in zip(answer.parts, answer.weights, strict=True)}
        compared = [
            replace(known[source], fit=fit, error=float(fit.expected_error(operator)), weight=weights.get(source, 0.0))
            for source, fit in fits.items()
        ]
        compared.sort(key=lambda each: each.source == answer.source)
        passed = (each for each in considered if each.source not in fits)
        return (*passed, *map(passed_over, compared[:-1]), compared[-1])

    def _resolve(self, key: str) -> Resolution:
        if key not in self._resolutions:
            notes: dict[str, None] = {}
            self._asked.append(notes)
            try:
                self._resolutions[key] = first(self._candidates(key))
            finally:
                self._asked.pop()
            self._notes_of[key] = tuple(notes)
        for outer in self._asked[-1:]:
            outer.update(dict.fromkeys(self._notes_of[key]))
        return self._resolutions[key]

    def notes_of(self, key: str) -> tuple[str, ...]:
        """Return what stands in for the fit of a `family/variant`, and for that of its family where it has none."""
        resolved = self._resolve(key)
        family, _, variant = key.partition("/")
        own = self._notes_of[key]
        return own if resolved.fit is not None or not variant else (*own, *self.notes_of(family))

    def _candidates(self, key: str) -> Iterator[Candidate]:
        """Yield what may answer for a key, the best first: its family's fits, other families', the roofline."""
        family, _, variant = key.partition("/")
        yield from self._in_family(key, set())
        if variant:
            yield from self._of_other_family(family, variant)
            yield from self._expected(key)
            return
        yield from self._expected(family)
        if family in self._base:
            yield Candidate(f"{CALIBRATIONS}/{ROOFLINE}", family, "no fit of the device", self._base[family])

    def _expected(self, key: str) -> Iterator[Candidate]:
        """Yield the expected time of kernels of which no device that this one inherits from has any default.

        Where it has one for other kernels of the family, their closed form stays the bare one.
        """
        family = key.partition("/")[0]
        defaults = (names for _, names in self._store.chain(self._device))
        known = any(each.partition("/")[0] == family for names in defaults for each in names)
        if not known:
            yield from self._search.shared(key)

    def _in_family(self, key: str, seen: set[str]) -> Iterator[Candidate]:
        """Yield the fits that files state of a key, then those of the variants whose kernels are most similar.

        A stream of no kind in particular is timed as the nearest kind that is known.
        """
        family, _, variant = key.partition("/")
        seen.add(key)
        yield from self._stated(key)
        if not (variant or family == ELEMENTWISE):
            return
        for other in nearest_keys(family, variant):
            nearest = first(() if other in seen else self._in_family(other, seen))
            yield from nearest.considered[:-1] if nearest.fit else nearest.considered
            if nearest.fit is not None:
                yield transferred(nearest.considered[-1], other, has_form=family != ELEMENTWISE)

    def _stated(self, key: str) -> Iterator[Candidate]:
        """Yield the fits that files state of a key: those passed over, and the one of least expected error.

        A fit of this very device answers if the framework names its implementation, or if it names none and the device
        has a default. Else all are compared: the named kernels on the devices inherited from and on others of the same
        die, other builds of their library here, and the devices' defaults. Either meets all others as competitors where
        it is asked for shapes far from those that it was made from.
        """
        named = self._named(key)
        compared: list[Candidate] = []
        for candidate in self._search.compared(key, named):
            if candidate.fit is None:
                yield candidate
            elif candidate.device == self._device and (not named or candidate.role == NAMED):
                yield from map(passed_over, compared)
                yield self._with_competitors(key, replace(candidate, error=self._search.held_out(candidate)))
                return
            else:
                compared.append(candidate)
        if not compared:
            compared = list(self._search.donors(key, named))
        best = self._search.least(key, named, compared) if compared else None
        if named:
            self._tell(key, named, best)
        if best is not None:
            yield from (
                passed_over(each) for each in self._search.measured(key, named, compared) if each.source != best.source
            )
            yield self._with_competitors(key, best)

    def _named(self, key: str) -> Sequence[str]:
        """Return what the framework names for a key, of libraries that run on the device."""
        named = self._implementations.get(key, self._implementations.get(key.partition("/")[0], ()))
        return [name for name in named if library_of(name) not in self._without]

    def _with_competitors(self, key: str, best: Candidate) -> Candidate:
        """Return a candidate whose fit gives way to others at shapes where they are expected to miss less.

        Where the framework names kernels and this device was measured with some of them, others stand in for these. Of
        collectives it names several since each takes messages of its own sizes.
        """
        if best.fit is None or best.fit.form is None or best.error is None or key.startswith(_EXPERT_MESSAGES):
            return best
        named = tuple(self._named(key))
        stands_in = bool(named) and best.role != NAMED
        is_own = best.device == self._device and not stands_in and not key.startswith(COLLECTIVE)
        wanted = (best.implementation,) if named and is_own else named
        competitors = partial(self._competitors, key, wanted, best)
        transfer_error, agreement = self._search.transfer_error(key, named, best), self._store.agreement()
        likeness = self._store.likeness(self._device, best.device)
        fit = replace(
            best.fit,
            error=best.error,
            competitors=competitors,
            transfer_error=transfer_error,
            agreement=agreement,
            likeness=likeness,
        )
        return replace(best, fit=fit)

    def _competitors(self, key: str, wanted: tuple[str, ...], best: Candidate) -> tuple[FamilyFit, ...]:
        """Return the fits that may answer for a key besides the best. Those of its device equal this one as it does."""
        likeness = self._store.likeness(self._device, best.device)
        return tuple(
            replace(each.fit, likeness=likeness) if each.device == best.device else each.fit
            for each in self._all(key, wanted)
            if each.source != best.source and each.fit is not None
        )

    def _all(self, key: str, wanted: tuple[str, ...]) -> tuple[Candidate, ...]:
        """Return all that may answer for a key with their errors inside what they were made from. Read once."""
        if (key, wanted) not in self._competitors_of:
            candidates = itertools.chain(self._search.compared(key, wanted), self._search.of_the_die(key, wanted))
            by_source: dict[str, Candidate] = {}
            for each in candidates:
                if each.fit is not None:
                    by_source.setdefault(each.source, each)
            compared, competitors = list(by_source.values()), []
            for each in (*self._search.measured(key, wanted, compared), *self._search.shared(key)):
                if each.fit is not None and each.fit.form is not None and each.error is not None:
                    steps = self._search.steps(key, wanted, each) if each.device else 0.0
                    spread = each.fit.spread.widened(steps)
                    competitors.append(replace(each, fit=replace(each.fit, error=each.error, spread=spread)))
            self._competitors_of[key, wanted] = (*competitors, *self._of_other_messages(key))
        return self._competitors_of[key, wanted]

    def _of_other_messages(self, key: str) -> Iterator[Candidate]:
        """Yield what moves a message between two ranks as well: the collectives that are made of such messages."""
        family, _, variant = key.partition("/")
        for other in nearest_keys(family, variant) if family == SEND_RECV else ():
            resolved = self._resolve(other)
            if resolved.fit is None or resolved.fit.form is None or resolved.considered[-1].error is None:
                continue
            candidate = transferred(resolved.considered[-1], other, has_form=True)
            step = self._search.version(other)
            error = expected(resolved.considered[-1].error, step)
            fit = replace(
                resolved.fit,
                basis="transferred",
                error=error,
                spread=resolved.fit.spread.widened(step),
                competitors=None,
            )
            yield replace(candidate, source=f"{candidate.source}, {other}", fit=fit, error=error)

    def _tell(self, key: str, named: Sequence[str], best: Candidate | None) -> None:
        """Note what substitutes for kernels that the framework names and the device has no fit of."""
        family, names = key.partition("/")[0], " or ".join(named)
        if best is not None and best.role == NAMED:
            self._note(
                f"{key}: {self._device} has no fit of {names}; using {best.implementation}, measured on {best.device}"
            )
            return
        chain = [device for device, _ in self._store.chain(self._device)]
        pairs = itertools.product(chain, named)
        is_known = any(self._store.device_fits(*pair) is not None for pair in pairs)
        lacking = f"{key}: {self._device} has no fit of {names} for this operation" if is_known else (
            f"{family}: {self._device} has no measurements of {names}"
        )  # fmt: skip
        self._note(f"{lacking}; using the closest available fit, or the roofline if there is none")

    def _of_other_family(self, family: str, variant: str) -> Iterator[Candidate]:
        """Yield the fit of the family whose kernels substitute for those of one that the device has none of."""
        donor = SUBSTITUTES.get(family)
        if donor is None:
            return
        key = f"{donor}/{variant}"
        resolved = self._resolve(key)
        if resolved.fit is None:
            yield from resolved.considered
            return
        yield from resolved.considered[:-1]
        candidate = transferred(resolved.considered[-1], key, has_form=True)
        if candidate.fit is not None and family in GRADIENTS:
            backward = self._store.backward(family, self._device)
            candidate = replace(candidate, fit=with_competitors(candidate.fit, partial(as_backward, backward)))
        yield candidate

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
        for notes in self._asked[-1:]:
            notes[text] = None


_EXPERT_MESSAGES = "moe_"  # families of which the links say more than another device


def _rooflines(store: FitStore) -> dict[str, FamilyFit]:
    """Return the spreads of families about the bare roofline, and those of whole runs by class and of boards' power.

    Families that are never compared with it start from another one's: no table has rows of GEMMs that expand narrow
    weights, of latent backward attention, of selected keys, of recurrences, nor of mixed attention by itself.
    """
    base = store.roofline()
    known = {family: family_fit(fit, base.basis) for family, fit in base.families.items()}
    gradients = dict.fromkeys(GRADIENTS, "attention_backward")
    same_form = {**EXPANDING, **ROOFLINE_ALIKE, **gradients, "attention_mixed": "attention_prefill"}
    borrowed = {family: known[other] for family, other in same_form.items() if other in known}
    whole = store.composition()
    runs = {family: family_fit(fit, base.basis) for family, fit in whole.items()}
    return borrowed | known | runs
