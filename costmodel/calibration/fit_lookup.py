"""The calibration of a device under a framework: for every kernel the fit that is expected to miss it least."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from costmodel.calibration.candidates import (
    Candidate,
    Resolution,
    as_backward,
    first,
    passed_over,
    transferred,
    with_rivals_alike,
)
from costmodel.calibration.expected_error import OWN, RELATIONS, expected, held_out_error
from costmodel.calibration.fit_files import (
    CALIBRATIONS,
    PRIOR,
    ROOFLINE,
    DeviceFits,
    FitStore,
    family_fit,
    framework_of,
)
from costmodel.calibration.kernel_anchors import read_anchors
from costmodel.calibration.substitutes import (
    ELEMENTWISE,
    EXPANDING,
    GRADIENTS,
    ROOFLINE_ALIKE,
    SUBSTITUTES,
    nearest_keys,
)
from costmodel.cost.anchored_fit import AnchoredFit, KernelAnchors
from costmodel.cost.calibration import Calibration, FamilyFit, JoinedFit
from costmodel.cost.expected_roofline import ExpectedForm
from costmodel.cost.gemm import GemmForm
from costmodel.cost.two_tile_gemm import TwoTileForm
from costmodel.errors import InputError
from costmodel.hardware import Device
from costmodel.schema.calibration import FamilyFitFile
from costmodel.schema.references import Library, suggest
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
    `calibrations/DEVICE/IMPLEMENTATION`; where the device has none, the same of the devices that it inherits from in
    turn, which lowers the basis to `transferred`. Files are read when an operator first asks for them. hidden: devices
    whose fits are taken as not there. Raises InputError with the problems of a file that is found.
    """
    library = Library(search_path)
    if isinstance(framework, str):
        framework = framework_of(framework, library)
    name, file = (device, None) if isinstance(device, str) else (device.name, device.path)
    implementations = tuple(sorted(framework.implementations.items()))
    place = (file, tuple(map(Path.resolve, library.roots)))
    return _loaded(name.removeprefix("devices/"), place, implementations, hidden)


@functools.lru_cache(maxsize=256)
def _loaded(
    device: str,
    place: tuple[str | None, tuple[Path, ...]],
    implementations: tuple[tuple[str, tuple[str, ...]], ...],
    hidden: frozenset[str],
) -> Calibration:
    file, roots = place
    store = _fit_store(roots, (device, file) if file else None, hidden)
    fits = FitLookup(store, store.same_device(device), dict(implementations))
    return Calibration(ROOFLINE, fits, fits.notes)


@functools.lru_cache(maxsize=8)
def _fit_store(roots: tuple[Path, ...], beside: tuple[str, str] | None, hidden: frozenset[str]) -> FitStore:
    """Return the files of a search path, which all devices and frameworks share. beside: a device not on it."""
    library = Library(roots)
    if beside is not None:
        library.know("devices", beside[0], Path(beside[1]))
    return FitStore(library, hidden)


class FitLookup(Mapping[str, FamilyFit]):
    """The fits of a device by `family/variant` and by family, each looked up when it is first asked for.

    implementations: those that come before the device's defaults, by family or `family/variant`; of several the first
    that the device has, else that a device has which it inherits from.
    is_anchored: rows of the device, too few for fits of their own, move what others lend it.
    """

    def __init__(
        self, store: FitStore, device: str, implementations: Mapping[str, Sequence[str]], *, is_anchored: bool = True
    ) -> None:
        self._store, self._device, self._implementations = store, device, implementations
        self._is_anchored = is_anchored
        self._chain = store.chain(device)
        self._base = _rooflines(store)
        self._resolutions: dict[str, Resolution] = {}
        self._rivals_of: dict[tuple[str, tuple[str, ...]], tuple[Candidate, ...]] = {}
        self._anchored: dict[str, AnchoredFit] = {}
        self.notes: list[str] = []

    def __getitem__(self, key: str) -> FamilyFit:
        found = self._resolve(key)
        if found.fit is None:
            raise KeyError(key)
        anchors = self._anchors.get(key)
        if anchors is None or found.fit.form is None or found.considered[-1].device == self._device:
            return found.fit
        if key not in self._anchored:
            count = len(anchors.errors)
            self._note(f"{key}: moved by {count} row{'' if count == 1 else 's'} of {anchors.source}")
            self._anchored[key] = AnchoredFit.of(found.fit, anchors)
        return self._anchored[key]

    def read_anchors(self) -> None:
        """Read the rows that the device's file names; raise InputError where they cannot move a fit."""
        self._anchors  # noqa: B018  read when first asked for

    @cached_property
    def _anchors(self) -> Mapping[str, KernelAnchors]:
        """Return the rows of the device that move lent fits, by `family/variant`."""
        name = self._store.anchor(self._device) if self._is_anchored else None
        if name is None:
            return {}
        lent = FitLookup(self._store, self._device, self._implementations, is_anchored=False)
        return read_anchors(self._store.library, self._device, name, lent)

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

    def considered_at(self, key: str, operator: Operator) -> tuple[Candidate, ...]:
        """Return the candidates for an operator with their expected errors at its shape; the last one answers."""
        considered = self.considered(key)
        taken = considered[-1] if considered else None
        if taken is None or taken.fit is None or taken.fit.rivals is None:
            return considered
        fits = {fit.source: fit for fit in (*taken.fit.rivals(), taken.fit)}
        known = {each.source: each for found in self._rivals_of.values() for each in found} | {taken.source: taken}
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
            self._resolutions[key] = first(self._candidates(key))
        return self._resolutions[key]

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
        known = any(each.partition("/")[0] == family for _, defaults in self._chain for each in defaults)
        if not known:
            yield from self._shared(key)

    def _as_in_whole_runs(self, fit: FamilyFit) -> FamilyFit:
        """Return the expected time of kernels as measured whole runs on the device change it."""
        source, runs, form = f"{CALIBRATIONS}/{PRIOR}", self._store.whole_runs(self._device), fit.form
        if runs is None or not isinstance(form, ExpectedForm):
            return replace(fit, source=source)
        changed = replace(
            form,
            launch=form.launch + float(runs.launch),
            compute_efficiency=min(form.compute_efficiency * float(runs.compute), 1.0),
            hbm_efficiency=min(form.hbm_efficiency * float(runs.hbm), 1.0),
        )
        return replace(fit, form=changed, source=source)

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
            nearest = first(() if other in seen else self._in_family(other, seen))
            yield from nearest.considered[:-1] if nearest.fit else nearest.considered
            if nearest.fit is not None:
                yield transferred(nearest.considered[-1], other, has_form=family != ELEMENTWISE)

    def _stated(self, key: str) -> Iterator[Candidate]:
        """Yield the fits that files state of a key: those passed over, and the one of least expected error.

        A fit of this very device answers if the framework names its implementation, or if it names none and the device
        has a default. Else all are compared: the named kernels on the devices inherited from and on others of the same
        die, other builds of their library here, and the devices' defaults. Either meets all others as rivals where it
        is asked for shapes far from those that it was made from.
        """
        named = self._named(key)
        compared: list[Candidate] = []
        for candidate in self._compared(key, named):
            if candidate.fit is None:
                yield candidate
            elif candidate.device == self._device and (not named or candidate.role == _NAMED):
                yield from map(passed_over, compared)
                yield self._with_rivals(key, replace(candidate, error=self._held_out(candidate)))
                return
            else:
                compared.append(candidate)
        if not compared:
            compared = list(self._lent(key, named))
        best = self._least(key, named, compared) if compared else None
        if named:
            self._tell(key, named, best)
        if best is not None:
            yield from (
                passed_over(each) for each in self._measured(key, named, compared) if each.source != best.source
            )
            yield self._with_rivals(key, best)

    def _named(self, key: str) -> Sequence[str]:
        return self._implementations.get(key, self._implementations.get(key.partition("/")[0], ()))

    def _with_rivals(self, key: str, best: Candidate) -> Candidate:
        """Return a candidate whose fit gives way to others at shapes where they are expected to miss less.

        Where the framework names kernels and this device was measured with some of them, others stand in for these.
        """
        if best.fit is None or best.fit.form is None or best.error is None or key.startswith(_MESSAGES):
            return best
        named = tuple(self._named(key))
        stands_in = bool(named) and best.role != _NAMED
        wanted = (best.implementation,) if named and best.device == self._device and not stands_in else named
        rivals = partial(self._rivals, key, wanted, best.source)
        fit = replace(best.fit, error=best.error, rivals=rivals, is_lent=best.fit.is_lent or stands_in)
        return replace(best, fit=fit)

    def _rivals(self, key: str, wanted: tuple[str, ...], source: str) -> tuple[FamilyFit, ...]:
        """Return the fits that may answer for a key beside that of `source`."""
        return tuple(each.fit for each in self._all(key, wanted) if each.source != source and each.fit is not None)

    def _all(self, key: str, wanted: tuple[str, ...]) -> tuple[Candidate, ...]:
        """Return all that may answer for a key with their errors inside what they were made from; read once."""
        if (key, wanted) not in self._rivals_of:
            candidates = itertools.chain(self._compared(key, wanted), self._of_the_die(key, wanted))
            by_source: dict[str, Candidate] = {}
            for each in candidates:
                if each.fit is not None:
                    by_source.setdefault(each.source, each)
            compared, found = list(by_source.values()), []
            for each in (*self._measured(key, wanted, compared), *self._shared(key)):
                if each.fit is not None and each.fit.form is not None and each.error is not None:
                    steps = self._steps(key, wanted, each) if each.device else 0.0
                    spread = each.fit.spread.widened(steps)
                    found.append(replace(each, fit=replace(each.fit, error=each.error, spread=spread)))
            self._rivals_of[key, wanted] = tuple(found)
        return self._rivals_of[key, wanted]

    def _compared(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield the fits that are compared for a key, and the places without one; the nearest first."""
        chain = [device for device, _ in self._chain]
        siblings = ((device, name) for name in named for device in self._store.same_die(self._device, name))
        others = ((device, name) for device, name in siblings if device not in chain)
        seen: set[str] = set()
        for device, implementation in itertools.chain(itertools.product(chain, named), others):
            source = implementation if "/" in implementation else f"{device}/{implementation}"
            if source not in seen:
                seen.add(source)
                fits = self._store.device_fits(device, implementation)
                if fits is None:
                    yield Candidate(f"{CALIBRATIONS}/{source}", key, _NAMED, passed_over="no such file")
                else:
                    yield self._candidate(fits, key, _NAMED)
        builds = (
            name for name in self._store.names(self._device) if name.partition("-")[0] in set(map(_library, named))
        )
        for name in builds:
            fits = self._store.device_fits(self._device, name)
            if fits is not None and f"{self._device}/{name}" not in seen:
                seen.add(f"{self._device}/{name}")
                candidate = self._candidate(fits, key, "another build of its library")
                if candidate.fit is not None:
                    yield candidate
        for i, (device, defaults) in enumerate(self._chain):
            default = defaults.get(key, defaults.get(key.partition("/")[0]))
            for fits in () if default is None else self._defaults(i, default):
                if fits.file.name not in seen:
                    yield self._candidate(fits, key, f"default of {device}")

    def _of_the_die(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield the fits of other devices of the same die: other builds of the named libraries, and their defaults."""
        libraries, family = set(map(_library, named)), key.partition("/")[0]
        for device in self._store.same_die(self._device):
            defaults = self._store.chain(device)[0][1]
            names = [name for name in self._store.names(device) if name.partition("-")[0] in libraries]
            for name in dict.fromkeys((*names, defaults.get(key, defaults.get(family, "")))):
                fits = self._store.device_fits(device, name) if name else None
                found = None if fits is None else self._candidate(fits, key, f"of the same die, {device}")
                if found is not None and found.fit is not None:
                    yield found

    def _lent(self, key: str, named: Sequence[str]) -> Iterator[Candidate]:
        """Yield fits of the nearest other device: of the named kernels, else of its default.

        Where neither this device nor those that it inherits from were measured at all. Devices of its die come first;
        the prior joins a fit of another die.
        """
        if not self._is_unmeasured:
            return
        family, kin = key.partition("/")[0], self._store.same_die(self._device)
        for device in (*kin, *self._store.strangers(self._device)):
            defaults = self._store.chain(device)[0][1]
            names = named or (defaults.get(key, defaults.get(family, "")),)
            role = _NAMED if named else f"default of {device}"
            files = (self._store.device_fits(device, name) for name in names if name and "/" not in name)
            found = (self._candidate(fits, key, role) for fits in files if fits is not None)
            is_lent = device not in kin
            lent = [replace(each, fit=replace(each.fit, is_lent=is_lent)) for each in found if each.fit is not None]
            if lent:
                yield from lent
                return

    @cached_property
    def _is_unmeasured(self) -> bool:
        """Tell whether no device of the chain has any fit, and others may lend theirs."""
        has_fits = any(self._store.names(device) for device, _ in self._chain)
        return not has_fits and self._store.may_borrow(self._device)

    def _shared(self, key: str) -> Iterator[Candidate]:
        """Yield what kernels of all devices share, with the error of backcasts."""
        prior = self._prior(key)
        if prior is not None and prior.form is not None:
            fit = self._as_in_whole_runs(family_fit(prior, ROOFLINE))
            yield Candidate(fit.source, key, "kernels of other devices", fit, error=held_out_error(prior))

    def _prior(self, key: str) -> FamilyFitFile | None:
        """Return what kernels of all devices share of a key; a GEMM that expands weights as its plain family does."""
        family, shared = key.partition("/")[0], self._store.prior()
        return shared.get(key, shared.get(key.replace(family, EXPANDING.get(family, family), 1)))

    def _least(self, key: str, named: Sequence[str], compared: Sequence[Candidate]) -> Candidate:
        """Return the candidate of least expected error, its interval as wide as that of the steps to it.

        Errors within `TIE` of the least are equal; then a fit of this device comes first, and then their order.
        """
        measured = self._nearest(self._measured(key, named, compared), named)
        least = min(each.error or 0.0 for each in measured)
        equal = [each for each in measured if (each.error or 0.0) <= TIE * least]
        best = next((each for each in equal if each.device == self._device), equal[0])
        assert best.fit is not None
        steps = self._steps(key, named, best)
        return replace(best, fit=replace(best.fit, spread=best.fit.spread.widened(steps))) if steps else best

    def _nearest(self, candidates: Sequence[Candidate], named: Sequence[str]) -> list[Candidate]:
        """Return candidates without the named kernels on farther devices than the nearest that has them.

        Of several names the first that devices so near have: a framework runs later ones elsewhere.
        """

        def rank(candidate: Candidate) -> int:
            return (OWN, *RELATIONS).index(self._store.relation(self._device, candidate.device))

        nearest = min((rank(each) for each in candidates if each.role == _NAMED), default=0)
        near = [each for each in candidates if each.role == _NAMED and rank(each) == nearest]
        first = next((name for name in named if any(each.is_of(name) for each in near)), "")
        others = (each for each in candidates if each.role != _NAMED)
        return [*(each for each in near if not first or each.is_of(first)), *others]

    def _measured(self, key: str, named: Sequence[str], compared: Sequence[Candidate]) -> list[Candidate]:
        """Return candidates with their expected errors."""
        return [replace(each, error=expected(self._held_out(each), self._steps(key, named, each))) for each in compared]

    def _held_out(self, candidate: Candidate) -> float:
        fits = self._store.device_fits(candidate.device, candidate.implementation)
        assert fits is not None
        return held_out_error(fits.file.families[candidate.key])

    def _steps(self, key: str, named: Sequence[str], candidate: Candidate) -> float:
        """Return the error of the steps from a candidate's own rows to the kernels that are asked for."""
        fits = self._store.device_fits(candidate.device, candidate.implementation)
        assert fits is not None
        errors, library = self._store.step_errors(), fits.file.library or candidate.implementation
        related = self._store.relation(self._device, candidate.device)
        transfer = errors.transfer(related, key)
        if not named or candidate.role == _NAMED:
            return transfer
        wanted = set(map(_library, named))
        stand_in = (
            errors.version(key) if library in wanted else min(errors.stand_in(one, library, key) for one in wanted)
        )
        return expected(transfer, stand_in)

    def _tell(self, key: str, named: Sequence[str], best: Candidate | None) -> None:
        """Note what substitutes for kernels that the framework names and the device has no fit of."""
        family, names = key.partition("/")[0], " or ".join(named)
        if best is not None and best.role == _NAMED:
            self._note(
                f"{key}: {self._device} has no fit of {names}; using {best.implementation}, measured on {best.device}"
            )
            return
        chain = [device for device, _ in self._chain]
        pairs = itertools.product(chain, named)
        is_known = any(self._store.device_fits(*pair) is not None for pair in pairs)
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
        candidate = transferred(found.considered[-1], key, has_form=True)
        if candidate.fit is not None and family in GRADIENTS:
            backward = self._store.backward(family, self._device)
            candidate = replace(candidate, fit=with_rivals_alike(candidate.fit, partial(as_backward, backward)))
        yield candidate

    def _candidate(self, fits: DeviceFits, key: str, role: str) -> Candidate:
        """Return a file's fit of the very variant, else of the family as a whole."""
        family, source = key.partition("/")[0], f"{CALIBRATIONS}/{fits.file.name}"
        place = fits.file.name.partition("/")
        for name in (key, family):
            fit = fits.fit(name, self._device)
            if fit is not None:
                fit = self._at_power(fit, fits.device)
                return Candidate(source, name, role, fit, device=fits.device, implementation=place[2] or fits.file.name)
        return Candidate(source, key, role, passed_over=f"has no fit of {key}")

    def _at_power(self, fit: FamilyFit, lender: str) -> FamilyFit:
        """Return the fit of another device of the same die with its clock under this one's power."""
        if lender == self._device or not isinstance(fit.form, GemmForm | TwoTileForm):
            return fit
        return replace(fit, form=fit.form.at_power(self._store.power_density(self._device, lender)))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


_NAMED = "named by the framework"
_MESSAGES = ("collective", "send_recv", "moe_")  # families of which the links say more than another device
TIE = 1.05  # chosen: expected errors are themselves known to a few per cent


def _library(implementation: str) -> str:
    """Return the library of an implementation by the name of its file: `deepgemm` of `deepgemm-sglang`."""
    return implementation.rpartition("/")[2].partition("-")[0]


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
