"""The calibration of a device under a framework: for every kernel the fit that is expected to miss it least."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

from costmodel.calibration.candidates import (
    COLLECTIVE,
    ELEMENTWISE,
    EXPANDING,
    GRADIENTS,
    NAMED,
    OTHER,
    ROOFLINE_ALIKE,
    SEND_RECV,
    SUBSTITUTES,
    Candidate,
    Resolution,
    as_backward,
    changed,
    first,
    library_of,
    nearest_keys,
    passed_over,
    transferred,
)
from costmodel.calibration.device_chain import CALIBRATIONS, same_device
from costmodel.calibration.fit_files import COMPOSITION, ROOFLINE, FitStore, family_fit, framework_of
from costmodel.calibration.fit_search import EXPERT_MESSAGES, Answer, FitSearch
from costmodel.cost.anchored_fit import AnchoredFit, KernelAnchors
from costmodel.cost.calibration import Calibration, FamilyFit, MeanFit, OtherFits
from costmodel.hardware import Device
from costmodel.records import replace
from costmodel.schema.references import Library
from costmodel.workload.operators import Operator
from costmodel.workload.scenario import Framework


def load_calibration(
    device: Device | str, framework: Framework | str, search_path: Sequence[str | Path] = ()
) -> Calibration:
    """Return the fit of every operator family on `device` with the kernels that `framework` names.

    A family starts from `calibrations/roofline`. Over it stands the fit of the implementation that the framework names
    for the family or its variant, else that of the device's own `calibration: {default: …}`, in
    `calibrations/DEVICE/IMPLEMENTATION`. Where the device has none, the same of the devices that it inherits from in
    turn, which lowers the basis to `transferred`. Files are read when an operator first asks for them. Raises
    InputError with the problems of a file that is determined.
    """
    library = Library(search_path)
    if isinstance(framework, str):
        framework = framework_of(framework, library)
    name, file = (device, None) if isinstance(device, str) else (device.name, device.path)
    implementations = tuple(sorted(framework.implementations.items()))
    library_key = (file, tuple(map(Path.resolve, library.roots)))
    return _loaded(name.removeprefix("devices/"), library_key, implementations)


@functools.lru_cache(maxsize=256)
def _loaded(
    device: str,
    library_key: tuple[str | None, tuple[Path, ...]],
    implementations: tuple[tuple[str, tuple[str, ...]], ...],
) -> Calibration:
    file, roots = library_key
    store = _fit_store(roots, (device, file) if file else None)
    fits = FitLookup(store, same_device(device, store.library), dict(implementations))
    return Calibration(ROOFLINE, fits, fits.notes, fits.notes_of)


def store_of(roots: tuple[Path, ...], own_file: tuple[str, str] | None) -> FitStore:
    """Return the calibration files of a search path. own_file: name and file of a device not on it."""
    library = Library(roots)
    if own_file is not None:
        library.know("devices", own_file[0], Path(own_file[1]))
    return FitStore(library)


_fit_store = functools.lru_cache(maxsize=8)(store_of)  # which all devices and frameworks share


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
        self._answers: dict[str, Answer] = {}
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
        """Return the candidates for an operator, with their weights in the mean at its shape. Its first is last."""
        considered = self.considered(key)
        taken = considered[-1] if considered else None
        if taken is None or taken.fit is None:
            return considered
        fit = taken.fit.at(operator)
        if not isinstance(fit, MeanFit):
            return (*considered[:-1], replace(taken.at(operator), weight=1.0))
        shares = {part.source: float(weight) for part, weight in zip(fit.parts, fit.weights, strict=True)}
        answer = self._answers.get(key, self._answers.get(taken.key))
        first_one, *others = (each.at(operator) for each in (() if answer is None else answer.candidates))
        joined = [passed_over(replace(each, weight=shares.get(each.source, 0.0))) for each in others]
        rest = (each for each in considered[:-1] if each.source not in {one.source for one in others})
        return (*rest, *joined, replace(first_one, fit=fit, weight=shares.get(first_one.source, 0.0)))

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
        yield from self._stated(key, self._search.near if self._search.is_measured else self._search.all)
        for other in nearest_keys(family, variant) if variant or family == ELEMENTWISE else ():
            nearest = first(() if other in seen else self._in_family(other, seen))
            yield from nearest.considered[:-1] if nearest.fit else nearest.considered
            if nearest.fit is not None:
                yield transferred(nearest.considered[-1], other, has_form=family != ELEMENTWISE)

    def _stated(self, key: str, look: Callable[[str, Sequence[str]], list[Candidate]]) -> Iterator[Candidate]:
        """Yield the fits that files state of a key: those passed over, and the one that leads the answer.

        A fit of this device, else of its die, answers by itself inside what it was made from, if it is of the kernels
        that are asked for. Else fits of other devices, builds and libraries are joined in a mean (`FamilyFit.at`).
        look: gives them.
        """
        named = self._named(key)
        own = self._search.on_device(self._device, key, named)
        lead = self._search.lead(key, named[:1], own)
        looked_at = [] if lead else look(key, named)
        lead = lead or self._search.lead(key, named, looked_at)
        if lead is not None:
            yield from (each for each in own if each.fit is None)
            if lead.device != self._device and lead.role == NAMED and "/" not in named[0]:
                self._tell(key, named, lead)
            yield self._with_others(key, named, lead)
            return
        known = [each for each in looked_at if each.fit is not None]
        best = self._joined(key, named, known) if known else None
        yield from (each for each in looked_at if each.fit is None)
        if named and (best is None or best.role != NAMED or best.device != self._device):
            self._tell(key, named, best)
        if best is not None:
            yield from (passed_over(each) for each in known if each.source != best.source)
            yield best

    def _with_others(self, key: str, named: Sequence[str], lead: Candidate) -> Candidate:
        """Return a fit of the very kernels, which others join outside what it was made from."""
        if lead.fit is None or lead.fit.form is None or key.startswith(EXPERT_MESSAGES):
            return lead
        formed = [each for each in self._search.near(key, named) if each.fit and each.fit.form]
        if lead.device != self._device:
            formed += self._search.shared(key)
        return self._answered(key, named, formed, lead)

    def _joined(self, key: str, named: Sequence[str], known: Sequence[Candidate]) -> Candidate:
        """Return the candidate that leads the mean of what others lend. known: fits of the key, the nearest first."""
        lead = self._search.answer(key, named, known).candidates[0]
        formed = [each for each in known if each.fit is not None and each.fit.form is not None]
        is_stated = lead.fit is not None and lead.fit.form is None and (lead.role != OTHER or not formed)
        if is_stated or key.startswith(EXPERT_MESSAGES):
            return lead if lead.fit is None else replace(lead, fit=lead.fit.widened(lead.elsewhere))
        return self._answered(key, named, [*formed, *self._search.shared(key)])

    def _answered(
        self, key: str, named: Sequence[str], known: Sequence[Candidate], own: Candidate | None = None
    ) -> Candidate:
        """Return the candidate that leads the answer of some fits with a form. own: it is of the very kernels."""
        answer = self._answers[key] = self._search.answer(key, named, known, own)
        lead, *rest = (replace(each, fit=each.fit and each.fit.widened(each.elsewhere)) for each in answer.candidates)
        lead, is_own = own or lead, own is not None or key.startswith(_LINKS)
        fits = tuple(each.fit for each in rest if each.fit is not None)
        if lead.fit is None or not fits:
            return lead
        errors = answer if own is None else answer.of_own
        is_lent = own is not None and own.device != self._device
        others = OtherFits(fits, errors.covariance, errors.tuned, is_own, is_lent)
        return replace(lead, fit=replace(lead.fit, others=others))

    def _named(self, key: str) -> Sequence[str]:
        """Return what the framework names for a key, of libraries that run on the device."""
        named = self._implementations.get(key, self._implementations.get(key.partition("/")[0], ()))
        return [name for name in named if library_of(name) not in self._without]

    def _tell(self, key: str, named: Sequence[str], best: Candidate | None) -> None:
        """Note what substitutes for kernels that the framework names and the device has no fit of."""
        family = key.partition("/")[0]
        names = " or ".join([name for name in named if "/" not in name] or named)  # else they name their device
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
            candidate = replace(candidate, fit=changed(candidate.fit, partial(as_backward, backward)))
        yield candidate

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
        for notes in self._asked[-1:]:
            notes[text] = None


_LINKS = (COLLECTIVE, SEND_RECV)  # of which the first named implementation has messages that it is made for


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
    whole = store.families(COMPOSITION)
    runs = {family: family_fit(fit, base.basis) for family, fit in whole.items()}
    return borrowed | known | runs
